"""Masked LM of spans with the span boundary objective (SpanBERT, arXiv:1907.10529)."""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

from bertvariants_jax.data.corpus import Blocks, full_sentences
from bertvariants_jax.data.spans import lengths, mask_spans
from bertvariants_jax.objectives.sbo import span_lm
from bertvariants_jax.tasks.documents import Documents, check_rate, special


@dataclass(frozen=True)
class Spans(Documents):
    """SpanBERT: whole sentences of one document as one segment, spans masked, each told from its boundary too.

    stop, longest: a span's length in words is geometric with the parameter `stop`, at most `longest`.
    max_targets: tokens of a span that the boundary objective tells, from its start.
    """

    mask_rate: float = 0.15
    stop: float = 0.2
    longest: int = 10
    max_targets: int = 15

    def __post_init__(self):
        super().__post_init__()
        check_rate("mask_rate", self.mask_rate)
        lengths(self.stop, self.longest)
        if self.max_targets < 1:
            raise ValueError(f"task.max_targets must be at least 1, got {self.max_targets}")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("mlm", "sbo")

    def examples(self, split: str, tokenizer, cache: Path | None, batch_size: int = 1) -> Blocks:
        return full_sentences(self.corpus(split, tokenizer, cache), self.max_length, cross_documents=False,
                              drop_long=True, token_type_ids=tokenizer.type_ids, **special(tokenizer))

    def corrupt(self, examples: Blocks, tokenizer, seed: int):
        return functools.partial(
            mask_spans, seed=seed, starts_word=tokenizer.starts_word, counts=examples.corpus.counts(tokenizer.vocab_size),
            mask_token_id=tokenizer.mask_token_id, max_predictions=math.ceil(self.mask_rate * (self.max_length - 2)),
            rate=self.mask_rate, stop=self.stop, longest=self.longest, max_targets=self.max_targets)

    def objective(self, network, **companions):
        if self.max_targets > network.config.max_span_targets:
            raise ValueError(f"task.max_targets is {self.max_targets}, but the model's boundary head knows "
                             f"{network.config.max_span_targets} offsets (max_span_targets)")
        return span_lm(network)
