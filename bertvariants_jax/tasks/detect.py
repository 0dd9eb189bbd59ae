"""Pre-training by replaced-token detection: ELECTRA with the ablations of its paper, and DeBERTa-v3."""

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from bertvariants_jax.data.corpus import full_sentences, joined_text
from bertvariants_jax.data.corrupt import quota
from bertvariants_jax.data.pipeline import Examples
from bertvariants_jax.data.replacement import mask_one_in_window, mask_with_replacement, most_predictions
from bertvariants_jax.data.two_segments import two_segments
from bertvariants_jax.names import flatten
from bertvariants_jax.objectives.mlm import masked_lm
from bertvariants_jax.objectives.rtd import TARGETS, Sharing, replaced_tokens, share, untied
from bertvariants_jax.tasks.documents import Documents, check_rate, special


@dataclass(frozen=True)
class Detect(Documents):
    """A generator fills hidden places of documents, and the recipe's model learns from its words.

    segments: "two" packs sentences as ELECTRA's files do; "one" fills rows of one segment with a document's sentences;
    "joined" fills every row: all text is joined and cut wherever a row is full, as DeBERTa's files are.
    masking: "replacement" draws places as ELECTRA does, and `mask_share` of the draws become [MASK]; "windows" hides one
    token in each window of 1 / mask_rate, as DeBERTa-v3 does.
    max_predictions: places of a row at most, 0 is what the originals take.
    target: what the model learns: "rtd" which tokens are replaced, "rtd_masked" the same at the hidden places alone
    (ELECTRA 15%), "replace_mlm" the tokens of the hidden places, "all_tokens_mlm" all tokens, by a copy mechanism.
    weight: of that loss beside the generator's; the paper's 50 is for "rtd".
    generator_width, generator_depth: the generator's size beside the model's.
    sharing: "tied" the whole embedding, "tables" words and positions, "disentangled" these with gradients apart (GDES).
    decoupled: the generator's update first and the model's after it, each with its own optimizer state.
    train: "both"; or in two stages "generator", the model as a masked LM alone, and then "discriminator", which starts
    from that and leaves it frozen.
    generator: folder of a generator, to go on with ("both", beside the model's own start), or that of the first stage.
    """

    segments: Literal["two", "one", "joined"] = "two"
    masking: Literal["replacement", "windows"] = "replacement"
    mask_rate: float = 0.15
    mask_share: float = 0.85
    max_predictions: int = 0
    target: Literal["rtd", "rtd_masked", "replace_mlm", "all_tokens_mlm"] = "rtd"
    weight: float = 50.0
    generator_width: float = 0.25
    generator_depth: float = 1.0
    sharing: Literal["none", "tied", "tables", "disentangled"] = "tied"
    decoupled: bool = False
    temperature: float = 1.0
    train: Literal["both", "generator", "discriminator"] = "both"
    generator: str = ""
    segment_seed: int = 12345

    def __post_init__(self):
        super().__post_init__()
        check_rate("mask_rate", self.mask_rate)
        if not 0 < self.mask_share <= 1:
            raise ValueError(f"task.mask_share must lie above 0 and not above 1, got {self.mask_share}")
        for name in ("generator_width", "generator_depth"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"task.{name} must lie above 0 and not above 1, got {getattr(self, name)}: the generator "
                                 "is at most as large as the model that learns from it")
        if self.weight <= 0 or self.temperature <= 0:
            raise ValueError(f"task.weight and task.temperature must be positive, got {self.weight} and {self.temperature}")
        if not 0 <= self.max_predictions <= self.max_length:
            raise ValueError(f"task.max_predictions must lie between 0 and max_length {self.max_length}, got "
                             f"{self.max_predictions}")
        if self.masking == "windows" and self.mask_rate > 0.5:
            raise ValueError(f"task.masking 'windows' hides one token of two at most: a mask_rate of {self.mask_rate} is "
                             "out of its reach")
        if self.train == "discriminator" and not self.generator:
            raise ValueError("task.train 'discriminator' needs task.generator, the folder that stage 'generator' has left")
        if self.train == "discriminator" and self.sharing != "none":
            raise ValueError(f"a frozen generator shares nothing: task.train 'discriminator' needs sharing 'none', not "
                             f"{self.sharing!r}")

    def unused(self, start: bool) -> dict[str, str]:
        sizes = ("generator_width", "generator_depth") if self.generator else ()
        return super().unused(start) | dict.fromkeys(sizes, f"the generator {self.generator} has its own size") | (
            {"mask_share": "masking 'windows' hides all places"} if self.masking == "windows" else {}) | (
            {"segment_seed": "segments 'one' draws nothing"} if self.segments == "one" else {})

    @property
    def heads(self) -> tuple[str, ...]:
        return ("mlm",) if self.train == "generator" else TARGETS[self.target]

    def examples(self, split: str, tokenizer, cache: Path | None, batch_size: int = 1) -> Examples:
        corpus, ids = self.corpus(split, tokenizer, cache), special(tokenizer)
        if self.segments == "two":
            return two_segments(corpus, self.max_length, seed=self.segment_seed, **ids)
        if self.segments == "joined":
            return joined_text(corpus, self.max_length, token_type_ids=tokenizer.type_ids, **ids)
        return full_sentences(corpus, self.max_length, cross_documents=False, token_type_ids=tokenizer.type_ids, **ids)

    def corrupt(self, examples, tokenizer, seed: int):
        if tokenizer.mask_token_id is None:
            raise ValueError(f"{tokenizer} has no mask token: the generator is a masked LM and needs one")
        roles = ("cls", "sep", "mask") if self.masking == "replacement" else ("cls", "sep", "mask", "pad", "unk")
        never = tuple(i for i in (getattr(tokenizer, f"{role}_token_id") for role in roles) if i is not None)
        options = {"seed": seed, "mask_token_id": tokenizer.mask_token_id, "never": never, "rate": self.mask_rate}
        if self.masking == "replacement":
            most = self.max_predictions or most_predictions(self.mask_rate, self.max_length)
            return functools.partial(mask_with_replacement, **options, max_predictions=most, masked=self.mask_share)
        most = self.max_predictions or int(quota(np.array([self.max_length]), self.mask_rate, self.max_length)[0])
        return functools.partial(mask_one_in_window, **options, max_predictions=most)

    def companions(self) -> dict[str, str]:
        return {"generator": self.generator} if self.generator else {}

    def makes(self, network, generator=None):
        """The generator's network beside the model's; generator: its checkpoint, where there is one."""
        variant = network.variant
        if variant.generator is None:
            raise ValueError(f"{variant.name} has no generator of its own kind: choose electra or deberta-v3")
        config = variant.generator(network.config, self.generator_width, self.generator_depth)
        if generator is not None:
            if generator.network.variant is not variant or "mlm" not in generator.network.heads:
                raise ValueError(f"task.generator {self.generator} is no {variant.name} with a masked LM head")
            config = generator.config
        return variant.network(config, ("mlm",), network.compute)

    def objective(self, network, generator=None):
        if self.train == "generator":
            return masked_lm(network)
        return replaced_tokens(network, self.makes(network, generator), sharing=self.sharing, target=self.target,
                               weight=self.weight, temperature=self.temperature, decoupled=self.decoupled,
                               frozen=self.train == "discriminator")

    def initial(self, network, start: dict[str, Any] | None, generator=None) -> dict[str, Any] | None:
        if self.train == "generator" or (start is None and generator is None):
            return start
        if generator is None:
            raise ValueError("the model's start lacks its generator: give task.generator the folder beside it")
        made, begun = self.makes(network, generator), {part: generator.params[part] for part in ("encoder", "mlm")}
        if start is None:
            start = jax.jit(network.init)(jax.random.key(0))
            if jax.tree.map(np.shape, start["encoder"]) != jax.tree.map(np.shape, begun["encoder"]):
                raise ValueError(f"the model cannot start from the generator {self.generator}, which has another size: "
                                 "give the model its config, or weights of its own (--model.start)")
            start = {**start, "encoder": begun["encoder"]}
        sharing = share(self.sharing, made, network)
        if jax.process_index() == 0:
            for line in dropped(begun, start, sharing, self.generator):
                print(line, file=sys.stderr)
        return jax.device_get(untied(begun, start, sharing))


def dropped(generator: Mapping[str, Any], model: Mapping[str, Any], sharing: Sharing, folder: str) -> list[str]:
    """What sharing one embedding takes from a model that has values of its own, a line for each part."""
    lines = []
    for name in () if sharing.disentangled else sharing.parts:
        theirs, own = (flatten(params["encoder"]["embeddings"][name]) for params in (generator, model))
        worst = max(float(np.abs(np.asarray(own[leaf], np.float32) - np.asarray(theirs[leaf], np.float32)).max())
                    for leaf in own)
        if worst:
            lines.append(f"{name} of the model's start and of the generator {folder} differ by up to {worst:.2g}: both get "
                         "the generator's (--task.sharing none keeps both, disentangled goes on from both)")
    return lines
