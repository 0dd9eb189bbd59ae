"""Frozen configs whose fields are named as in HF's config.json, read and written with every fault named."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

# Fields of config.json that say nothing about the network's numbers and are not written back.
IGNORABLE = frozenset("""
    architectures auto_map _name_or_path _attn_implementation transformers_version torch_dtype dtype
    model_type is_decoder add_cross_attention use_cache gradient_checkpointing position_embedding_type
    directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head
    pooler_type label2id num_labels finetuning_task output_past tie_word_embeddings
    bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id
    cross_attention_hidden_size chunk_size_feed_forward output_attentions output_hidden_states return_dict
    torchscript pruned_heads tie_encoder_decoder is_encoder_decoder use_bfloat16 language model_max_length
    task_specific_params prefix use_mems_eval use_mems_train tokenizer_class tie_weights_
""".split())


PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


@dataclass(frozen=True)
class Config:
    """What every variant's config has; subclasses add the network's sizes under HF's names.

    id2label: class names by index (HF's dict, as a tuple). num_labels is its length; one label is a
    regression. problem_type: one of PROBLEMS, where the file says what the classes' scores are.
    """

    id2label: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    pad_token_id: int = 0
    problem_type: str | None = None

    model_type: ClassVar[str] = ""
    required: ClassVar[tuple[str, ...]] = ("vocab_size", "hidden_size", "num_hidden_layers",
                                           "num_attention_heads", "intermediate_size")
    renamed: ClassVar[dict[str, str]] = {}     # other names of a field in files, e.g. older ones

    @property
    def num_labels(self) -> int:
        return len(self.id2label)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> tuple[Self, list[str]]:
        """config.json's content -> config and the names of fields that mean nothing to it.

        Raises ValueError naming every missing field, wrong type, and unsupported option at once.
        """
        data = {cls.renamed.get(key, key): value for key, value in data.items()}
        fields = {f.name: f for f in dataclasses.fields(cls)}
        faults = [f"{name} is missing" for name in cls.required if name not in data]
        faults += cls.unsupported(data)
        values = {k: v for k, v in data.items() if k in fields and k != "id2label"}
        for name, value in values.items():
            default = fields[name].default
            if isinstance(default, tuple) and isinstance(value, list):
                values[name] = tuple(value)
            elif default is not None and value is not None and not _fits(value, default):
                faults.append(f"{name} is {value!r}, expected {type(default).__name__} such as {default!r}")
        if faults:
            raise ValueError(f"config.json of {cls.model_type!r}: " + "; ".join(faults))
        if labels := data.get("id2label"):
            values["id2label"] = tuple(labels[key] for key in sorted(labels, key=int))
        elif "num_labels" in data:
            values["id2label"] = tuple(f"LABEL_{i}" for i in range(data["num_labels"]))
        unknown = sorted(set(data) - set(fields) - IGNORABLE)
        return cls(**values), unknown

    @classmethod
    def unsupported(cls, data: dict[str, Any]) -> list[str]:
        """Options of config.json that this network has not, as sentences; subclasses add theirs."""
        faults = []
        if data.get("position_embedding_type", "absolute") != "absolute":
            faults.append(f"position_embedding_type {data['position_embedding_type']!r} is not supported "
                          "(only 'absolute')")
        for flag in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
            if data.get(flag):
                faults.append(f"{flag} is true: decoders are not supported")
        if data.get("problem_type") not in (None, *PROBLEMS):
            faults.append(f"problem_type is {data['problem_type']!r}; known: {', '.join(PROBLEMS)}")
        if data.get("tie_word_embeddings") is False:
            faults.append("tie_word_embeddings is false: an untied decoder is not supported")
        return faults

    def to_json(self) -> dict[str, Any]:
        """The content of config.json, HF's label dicts included."""
        data = {"model_type": self.model_type, **dataclasses.asdict(self)}
        data["id2label"] = {str(i): label for i, label in enumerate(self.id2label)}
        data["label2id"] = {label: i for i, label in enumerate(self.id2label)}
        if self.problem_type is None:
            del data["problem_type"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))
