"""Frozen configs whose fields are named as in HF's config.json, read and written with every fault named."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_args

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
    Values are taken as JSON or plain Python has them (dict, list, NumPy scalar) and become the field's own type;
    ValueError for one that cannot.
    """

    id2label: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    pad_token_id: int = 0
    problem_type: str | None = None

    model_type: ClassVar[str] = ""
    required: ClassVar[tuple[str, ...]] = ("vocab_size", "hidden_size", "num_hidden_layers",
                                           "num_attention_heads", "intermediate_size")
    renamed: ClassVar[dict[str, str]] = {}     # other names of a field in files, e.g. older ones

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, value_of(field, getattr(self, field.name)))
        for name in self.required:
            value = getattr(self, name, None)
            if isinstance(value, int) and value < 1 and name != "type_vocab_size":
                raise ValueError(f"{name} is {value}, expected 1 or more")
        if self.problem_type not in (None, *PROBLEMS):
            raise ValueError(f"problem_type is {self.problem_type!r}; known: {', '.join(PROBLEMS)}")

    @property
    def num_labels(self) -> int:
        return len(self.id2label)

    def replaced(self, **changes: Any) -> Self:
        """A copy with other values; HF's other names of a field, and `num_labels`, are taken too.

        Raises ValueError for an unknown field, or a value that does not fit one.
        """
        changes = {self.renamed.get(name, name): value for name, value in changes.items()}
        count = changes.pop("num_labels", None)
        if unknown := set(changes) - {field.name for field in dataclasses.fields(self)}:
            raise ValueError(f"{type(self).__name__} has no field {sorted(unknown)[0]!r}")
        if count is not None and "id2label" not in changes and count != self.num_labels:
            changes["id2label"] = numbered_labels(count)
        config = dataclasses.replace(self, **changes)
        if "id2label" in changes and not config.id2label:
            raise ValueError("id2label names no class; a regression has one")
        if count not in (None, config.num_labels):
            raise ValueError(f"num_labels is {count!r}, but id2label names {config.num_labels} labels")
        return config

    def kept(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes, completed so that weights of this config keep what they mean."""
        return dict(changes)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> tuple[Self, list[str]]:
        """config.json's content -> config and the names of fields that mean nothing to it.

        Raises ValueError naming every missing field, wrong type, and unsupported option at once.
        """
        data = {cls.renamed.get(key, key): value for key, value in data.items()}
        fields = {f.name: f for f in dataclasses.fields(cls)}
        faults = [f"{name} is missing" for name in cls.required if data.get(name) is None]
        faults += cls.unsupported(data)
        values = {k: v for k, v in data.items() if k in fields and k != "id2label"}
        try:
            if data.get("id2label"):
                values["id2label"] = label_names(data["id2label"])
            elif data.get("num_labels") is not None:
                values["id2label"] = numbered_labels(data["num_labels"])
        except ValueError as error:
            faults.append(str(error))
        for name, value in values.items():
            try:
                values[name] = value_of(fields[name], value)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError(f"config.json of {cls.model_type!r}: " + "; ".join(faults))
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


def value_of(field: dataclasses.Field, value: Any) -> Any:
    """A value as the field holds it, hashable. Raises ValueError for one of another kind; None always passes."""
    if field.name == "id2label":
        return label_names(value)
    kinds = get_args(field.type) if type(None) in get_args(field.type) else (field.type,)
    kind = next(kind for kind in kinds if kind is not type(None))
    plain = value.tolist() if hasattr(value, "tolist") else value                # NumPy's and JAX's arrays and scalars
    if plain is None:
        return None
    if get_args(kind):                                                           # tuple[str, ...]
        if isinstance(plain, list | tuple) and all(isinstance(item, str) for item in plain):
            return tuple(plain)
    elif isinstance(plain, bool) or kind is bool:
        if isinstance(plain, bool) and kind is bool:
            return plain
    elif kind is int and isinstance(plain, float) and plain.is_integer():
        return int(plain)
    elif isinstance(plain, (int, float) if kind is float else kind):
        return plain
    name = "a list of texts" if get_args(kind) else kind.__name__
    example = "" if field.default is None else f" such as {field.default!r}"
    raise ValueError(f"{field.name} is {value!r}, expected {name}{example}")


def label_names(labels: Any) -> tuple[str, ...]:
    """Class names by index, from a list or from HF's dict of whole numbers or their texts."""
    plain = labels.tolist() if hasattr(labels, "tolist") else labels
    if isinstance(plain, Mapping):
        try:
            by_id = {int(key): label for key, label in plain.items()}
            if any(isinstance(key, float) and not key.is_integer() for key in plain):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"id2label has keys that are no whole numbers: {plain!r:.200}") from None
        if sorted(by_id) != list(range(len(plain))):
            raise ValueError(f"id2label has the keys {', '.join(map(str, plain))}, expected each of 0 to {len(plain) - 1}")
        plain = [by_id[i] for i in range(len(by_id))]
    if isinstance(plain, str) or not isinstance(plain, Iterable):
        raise ValueError(f"id2label is {labels!r:.200}, expected a dict from ids to names, or a list of names")
    named = tuple(plain)
    if wrong := [label for label in named if not isinstance(label, str | int | float)]:
        raise ValueError(f"id2label holds {wrong[0]!r:.80}, expected the name of a class")
    return tuple(map(str, named))


def numbered_labels(count: Any) -> tuple[str, ...]:
    """LABEL_0, LABEL_1, ..., as HF calls classes without names."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ValueError(f"num_labels is {count!r}, expected a whole number")
    return tuple(f"LABEL_{i}" for i in range(count))
