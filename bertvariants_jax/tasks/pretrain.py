"""Pre-training on documents: masked LM, alone or with next-sentence prediction (BERT, arXiv:1810.04805)."""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bertvariants_jax.data import corpus as corpora
from bertvariants_jax.data.corrupt import mask_tokens
from bertvariants_jax.data.source import open_source
from bertvariants_jax.objectives.mlm import masked_lm
from bertvariants_jax.tasks.task import TRAIN


@dataclass(frozen=True)
class Pretrain:
    """Masked LM over documents.

    data: addresses of the training text ("text:GLOB", "docs:", ...). evaluation: addresses to evaluate on; without
    them the share `held_out` of the documents is kept aside.
    pairs: "nsp" adds BERT's next-sentence pairs; "none" packs full sentences of one segment.
    masks: "dynamic" draws new ones each epoch; "static" repeats `dupe_factor` of them, as BERT's files do.
    dupe_factor: passes over each document when pairs are cut.
    """

    data: tuple[str, ...] = ("docs:",)
    evaluation: tuple[str, ...] = ()
    held_out: float = 0.02
    pairs: Literal["nsp", "none"] = "nsp"
    max_length: int = 128
    mask_rate: float = 0.15
    max_predictions: int = 20
    whole_word: bool = False
    masks: Literal["dynamic", "static"] = "dynamic"
    dupe_factor: int = 5
    short_seq_prob: float = 0.1
    pair_seed: int = 12345

    def __post_init__(self):
        if not 0 < self.mask_rate < 1:
            raise ValueError(f"task.mask_rate must lie between 0 and 1, got {self.mask_rate}")
        if not self.evaluation and not 0 < self.held_out < 1:
            raise ValueError(f"task.held_out must lie between 0 and 1, got {self.held_out}")
        if not self.data:
            raise ValueError("task.data names no address")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("mlm", "pair") if self.pairs == "nsp" else ("mlm",)

    @property
    def best(self) -> str:
        return ""

    def labels(self) -> None:
        return None

    def texts(self) -> Iterator[str]:
        return (sentence for document in Addresses(self.data) for sentence in document.sentences)

    def examples(self, split: str, tokenizer, cache: Path) -> corpora.Pairs | corpora.Blocks:
        if self.evaluation:
            addresses = self.data if split == TRAIN else self.evaluation
            corpus = corpora.Corpus.build(Addresses(addresses), tokenizer, cache)
        else:
            whole = corpora.Corpus.build(Addresses(self.data), tokenizer, cache)
            corpus = whole.split(self.held_out)[0 if split == TRAIN else 1]
        ids = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id,
               "pad_token_id": tokenizer.pad_token_id}
        if self.pairs == "none":
            return corpora.full_sentences(corpus, self.max_length, token_type_ids=tokenizer.type_ids, **ids)
        return corpora.nsp_pairs(corpus, self.max_length, seed=self.pair_seed, short_seq_prob=self.short_seq_prob,
                                 dupe_factor=self.dupe_factor if split == TRAIN else 1, **ids)

    def corrupt(self, tokenizer, seed: int):
        return functools.partial(
            mask_tokens, seed=seed, vocab_size=tokenizer.vocab_size, mask_token_id=tokenizer.mask_token_id,
            never=(tokenizer.cls_token_id, tokenizer.sep_token_id), max_predictions=self.max_predictions,
            rate=self.mask_rate, starts_word=tokenizer.starts_word if self.whole_word else None,
            copies=self.dupe_factor if self.masks == "static" else None)

    def objective(self, network):
        return masked_lm(network, pair=self.pairs == "nsp")

    def score(self, examples, outputs) -> None:
        return None


@dataclass(frozen=True)
class Addresses:
    """The documents of several addresses, one after the other; its fingerprint is all of theirs."""

    addresses: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        said = [open_source(address).documents().fingerprint for address in self.addresses]
        return hashlib.blake2b(repr(said).encode(), digest_size=16).hexdigest()

    def __iter__(self):
        for address in self.addresses:
            yield from open_source(address).documents()
