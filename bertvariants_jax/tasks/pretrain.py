"""Pre-training on documents: masked LM, alone or with next-sentence prediction (BERT, arXiv:1810.04805)."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bertvariants_jax.data import corpus as corpora
from bertvariants_jax.data.corrupt import mask_tokens
from bertvariants_jax.objectives.mlm import masked_lm
from bertvariants_jax.tasks.documents import Documents, check_rate, special
from bertvariants_jax.tasks.task import TRAIN


@dataclass(frozen=True)
class Pretrain(Documents):
    """Masked LM over documents.

    pairs: "nsp" adds BERT's next-sentence pairs; "none" packs full sentences of one segment.
    masks: "dynamic" draws new ones each epoch; "static" repeats `dupe_factor` of them, as BERT's files do.
    dupe_factor: passes over each document when pairs are cut.
    """

    pairs: Literal["nsp", "none"] = "nsp"
    mask_rate: float = 0.15
    max_predictions: int = 20
    whole_word: bool = False
    masks: Literal["dynamic", "static"] = "dynamic"
    dupe_factor: int = 5
    short_seq_prob: float = 0.1
    pair_seed: int = 12345

    def __post_init__(self):
        super().__post_init__()
        check_rate("mask_rate", self.mask_rate)

    @property
    def heads(self) -> tuple[str, ...]:
        return ("mlm", "pair") if self.pairs == "nsp" else ("mlm",)

    def examples(self, split: str, tokenizer, cache: Path | None, batch_size: int = 1) -> corpora.Pairs | corpora.Blocks:
        corpus, ids = self.corpus(split, tokenizer, cache), special(tokenizer)
        if self.pairs == "none":
            return corpora.full_sentences(corpus, self.max_length, token_type_ids=tokenizer.type_ids, **ids)
        return corpora.nsp_pairs(corpus, self.max_length, seed=self.pair_seed, short_seq_prob=self.short_seq_prob,
                                 dupe_factor=self.dupe_factor if split == TRAIN else 1, **ids)

    def corrupt(self, examples, tokenizer, seed: int):
        return functools.partial(
            mask_tokens, seed=seed, vocab_size=tokenizer.vocab_size, mask_token_id=tokenizer.mask_token_id,
            never=(tokenizer.cls_token_id, tokenizer.sep_token_id), max_predictions=self.max_predictions,
            rate=self.mask_rate, starts_word=tokenizer.starts_word if self.whole_word else None,
            copies=self.dupe_factor if self.masks == "static" else None)

    def objective(self, network, **companions):
        return masked_lm(network, pair=self.pairs == "nsp")
