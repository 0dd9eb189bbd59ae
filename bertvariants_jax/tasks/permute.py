"""Permutation language modelling over contiguous text (XLNet, arXiv:1906.08237)."""

import functools
from dataclasses import dataclass
from pathlib import Path

from bertvariants_jax.data.permutation import permute_tokens, starts_span
from bertvariants_jax.data.streams import Streams, streams
from bertvariants_jax.objectives.plm import permutation_lm
from bertvariants_jax.tasks.documents import Documents


@dataclass(frozen=True)
class Permute(Documents):
    """XLNet's pre-training: rows `reused tokens, A <sep> B <sep> <cls>` that go on where the last batch's were.

    reuse_len: tokens by which a row moves on in each step, and that its memory then holds. mem_len: places of the
    memory, 0 for none; it is never reset, and evaluation goes without.
    perm_size: tokens that are permuted together; it divides reuse_len and the rest of the row, 0 is each of them as a
    whole (of any length).
    num_predict: targets of a row, in spans of 1 to `longest` tokens, one of `alpha` / `beta` + 1 tokens.
    bi_data: whether the second half of the rows are the first half's text read backwards.
    document_end: the piece that ends a document, "" for none.
    cut_seed: of where A ends and what B is, which an epoch changes.
    """

    max_length: int = 512
    reuse_len: int = 256
    mem_len: int = 384
    perm_size: int = 256
    num_predict: int = 85
    alpha: int = 6
    beta: int = 1
    longest: int = 5
    bi_data: bool = True
    document_end: str = "<eod>"
    cut_seed: int = 12345

    shuffle = False                       # a row is the text behind its memory

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.reuse_len <= self.max_length - 5:
            raise ValueError(f"task.reuse_len must lie between 1 and max_length - 5 = {self.max_length - 5}, so that "
                             f"A <sep> B <sep> <cls> fit behind it, got {self.reuse_len}")
        rest = self.max_length - self.reuse_len
        if self.perm_size < 0 or (self.perm_size and (self.reuse_len % self.perm_size or rest % self.perm_size)):
            raise ValueError(f"task.perm_size must divide reuse_len {self.reuse_len} and the {rest} tokens behind it, or "
                             f"be 0 for each of them as a whole, got {self.perm_size}")
        most = min(2 * (self.reuse_len - 1), 2 * rest - 1)      # one token of each part at least is seen by all
        if not 1 <= self.num_predict <= most:
            raise ValueError(f"task.num_predict must lie between 1 and {most}, half of it in each part of the row, got "
                             f"{self.num_predict}")
        if self.mem_len < 0:
            raise ValueError(f"task.mem_len must be 0 (no memory) or more, got {self.mem_len}")
        if not self.alpha >= self.beta >= 1:
            raise ValueError(f"task.alpha and task.beta must be whole numbers with alpha >= beta >= 1, got {self.alpha} "
                             f"and {self.beta}")
        if self.longest < 1:
            raise ValueError(f"task.longest must be at least 1, got {self.longest}")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("mlm",)

    def examples(self, split: str, tokenizer, cache: Path | None, batch_size: int = 1) -> Streams:
        end = tokenizer.token_to_id(self.document_end) if self.document_end else None
        if self.document_end and end is None:
            raise ValueError(f"the tokenizer has no piece {self.document_end!r} to end documents with: give "
                             "task.document_end another, or '' for none")
        return streams(self.corpus(split, tokenizer, cache), self.max_length, reuse_len=self.reuse_len,
                       batch_size=batch_size, seed=self.cut_seed, bi_data=self.bi_data, eod_token_id=end,
                       sep_token_id=tokenizer.sep_token_id, cls_token_id=tokenizer.cls_token_id)

    def corrupt(self, examples: Streams, tokenizer, seed: int):
        return functools.partial(
            permute_tokens, seed=seed, starts_word=starts_span(tokenizer), reuse_len=self.reuse_len,
            functional=(tokenizer.sep_token_id, tokenizer.cls_token_id), perm_size=self.perm_size,
            num_predict=self.num_predict, alpha=self.alpha, beta=self.beta, longest=self.longest)

    def objective(self, network, **companions):
        if "perm_mask" not in network.variant.inputs:
            raise ValueError(f"permutation language modelling needs a network with two streams (xlnet), not "
                             f"{network.variant.name}")
        return permutation_lm(network, self.mem_len, self.reuse_len)
