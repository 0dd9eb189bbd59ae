"""Pre-training by masked LM, alone or with pairs of segments: BERT, RoBERTa, ALBERT, DeBERTa v1 and v2, ModernBERT."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bertvariants_jax.data import corpus as corpora
from bertvariants_jax.data import corrupt as masks
from bertvariants_jax.data import ngrams
from bertvariants_jax.data.corrupt import Batch
from bertvariants_jax.data.pack import packed
from bertvariants_jax.data.pipeline import Examples
from bertvariants_jax.objectives.mlm import masked_lm
from bertvariants_jax.tasks.documents import Documents, check_rate, special
from bertvariants_jax.tasks.task import TRAIN


@dataclass(frozen=True)
class Pretrain(Documents):
    """Masked LM over documents.

    pairs: "nsp" adds BERT's next-sentence pairs, "sop" ALBERT's sentence order; "none" fills rows of one segment with
    whole sentences.
    cross_documents: whether such a row goes on in the next document (RoBERTa's FULL-SENTENCES) or ends with its own
    (DOC-SENTENCES). line_ends: whether every sentence ends with a separator, as in fairseq.
    joined: whether every row is full: all text is joined without separators and cut wherever a row ends (DeBERTa).
    pack: whether rows that are not full share one, each to itself (ModernBERT's greedy best fit).
    masking: "tokens" and "words" (whole ones) are BERT's, "fairseq" RoBERTa's, "ngrams" ALBERT's, "windows" DeBERTa's,
    "bernoulli" ModernBERT's.
    mask_rate: the share of tokens to predict. eval_mask_rate: the same in evaluation, 0 is mask_rate.
    longest: words of the longest run that "ngrams" and "windows" mask.
    max_predictions: places to predict in a row at most. 0 is what max_length can need, with "bernoulli" all but once
    in 10^11 rows; "fairseq" takes no less, and the last word of "windows" may exceed it.
    masks: "dynamic" draws new ones each epoch; "static" is as BERT's files are, where a text stands dupe_factor times,
    each time under another mask that stays.
    dupe_factor: passes over each document when pairs are cut. Rows of one segment are made once; static masks of theirs
    return after as many epochs.
    """

    pairs: Literal["nsp", "sop", "none"] = "nsp"
    cross_documents: bool = True
    line_ends: bool = False
    joined: bool = False
    pack: bool = False
    masking: Literal["tokens", "words", "fairseq", "ngrams", "windows", "bernoulli"] = "tokens"
    mask_rate: float = 0.15
    eval_mask_rate: float = 0.0
    longest: int = 3
    max_predictions: int = 0
    masks: Literal["dynamic", "static"] = "dynamic"
    dupe_factor: int = 5
    short_seq_prob: float = 0.1
    pair_seed: int = 12345

    def __post_init__(self):
        super().__post_init__()
        check_rate("mask_rate", self.mask_rate)
        if self.eval_mask_rate:
            check_rate("eval_mask_rate", self.eval_mask_rate)
        for name, least in (("longest", 1), ("max_predictions", 0), ("dupe_factor", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"task.{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.short_seq_prob <= 1:
            raise ValueError(f"task.short_seq_prob must lie between 0 and 1, got {self.short_seq_prob}")
        if self.pack and self.cross_documents:
            raise ValueError("task.pack puts documents side by side, each to itself: it needs cross_documents false "
                             "(--task.no-cross-documents)")
        for name in ("pack", "line_ends", "joined"):
            if self.pairs != "none" and getattr(self, name):
                raise ValueError(f"task.{name} is about rows of one segment: it needs pairs 'none', not {self.pairs!r}")
        if self.joined and (self.line_ends or not self.cross_documents):
            raise ValueError("task.joined joins all text without separators: it goes with neither line_ends nor "
                             "cross_documents false")
        if self.max_predictions > self.max_length:
            raise ValueError(f"task.max_predictions is {self.max_predictions}, more than the {self.max_length} tokens of "
                             "a row (max_length)")
        need = masks.fairseq_places(self.max_length, max(self.mask_rate, self.eval_mask_rate))
        if self.masking == "fairseq" and 0 < self.max_predictions < need:
            raise ValueError(f"task.max_predictions is {self.max_predictions}, but masking 'fairseq' chooses up to {need} "
                             f"of {self.max_length} tokens: give that, or 0")

    def unused(self, start: bool) -> dict[str, str]:
        unused = super().unused(start)
        if self.masking not in ("ngrams", "windows"):
            unused["longest"] = f"masking {self.masking!r} hides no runs"
        if self.pairs != "none":
            return unused | {"cross_documents": f"pairs {self.pairs!r} are cut in another way"}
        unused |= dict.fromkeys(("short_seq_prob", "pair_seed"), "there are no pairs")
        return unused | ({"dupe_factor": "there are no pairs, and masks are drawn anew in each epoch"}
                         if self.masks == "dynamic" else {})

    @property
    def heads(self) -> tuple[str, ...]:
        return ("mlm",) if self.pairs == "none" else ("mlm", "pair")

    def examples(self, split: str, tokenizer, cache: Path | None, batch_size: int = 1) -> Examples:
        corpus, ids, training = self.corpus(split, tokenizer, cache), special(tokenizer), split == TRAIN
        if self.joined:
            examples = corpora.joined_text(corpus, self.max_length, token_type_ids=tokenizer.type_ids, **ids)
        elif self.pairs == "none":
            examples = corpora.full_sentences(corpus, self.max_length, cross_documents=self.cross_documents,
                                              line_ends=self.line_ends, token_type_ids=tokenizer.type_ids, **ids)
            if self.pack:
                examples = packed(examples, self.max_length, pad_token_id=tokenizer.pad_token_id)
        else:
            cut = corpora.nsp_pairs if self.pairs == "nsp" else corpora.sop_pairs
            examples = cut(corpus, self.max_length, seed=self.pair_seed, short_seq_prob=self.short_seq_prob,
                           dupe_factor=self.dupe_factor if training else 1, **ids)
        return examples if training else HeldOut(examples)

    def corrupt(self, examples, tokenizer, seed: int):
        rate = (isinstance(examples, HeldOut) and self.eval_mask_rate) or self.mask_rate
        options = {"seed": seed, "mask_token_id": tokenizer.mask_token_id, "rate": rate,
                   "max_predictions": self.places(rate)}
        if tokenizer.mask_token_id is None:
            raise ValueError(f"{tokenizer} has no mask token: masked LM needs one")
        ends = (tokenizer.cls_token_id, tokenizer.sep_token_id)
        padding = tuple(t for t in (tokenizer.pad_token_id, tokenizer.unk_token_id) if t is not None)
        match self.masking:
            case "fairseq":
                words = np.setdiff1d(np.arange(tokenizer.vocab_size), (*ends, *padding))
                mask = functools.partial(masks.mask_like_fairseq, **options, words=words)
            case "bernoulli":
                mask = functools.partial(masks.mask_independently, **options, vocab_size=tokenizer.vocab_size)
            case "ngrams":
                mask = functools.partial(ngrams.mask_ngrams, **options, vocab_size=tokenizer.vocab_size, never=ends,
                                         starts_word=ngrams.albert_starts(tokenizer), longest=self.longest)
            case "windows":
                never = (tokenizer.mask_token_id, *ends, *padding)
                mask = functools.partial(ngrams.mask_windows, **options, vocab_size=tokenizer.vocab_size, never=never,
                                         starts_word=ngrams.deberta_starts(tokenizer), longest=self.longest,
                                         most=self.max_predictions or None)
            case _:
                starts = tokenizer.starts_word if self.masking == "words" else None
                mask = functools.partial(masks.mask_tokens, **options, vocab_size=tokenizer.vocab_size, never=ends,
                                         starts_word=starts)
        if self.masks == "dynamic":
            return mask
        return masks.Static(mask, self.dupe_factor if self.pairs == "none" else 1)

    def places(self, rate: float) -> int:
        """P: the places of a row that are predicted, at a mask rate."""
        match self.masking:
            case "fairseq":
                most = masks.fairseq_places(self.max_length, rate)
            case "bernoulli":
                most = masks.independent_places(self.max_length, rate)
            case "windows":  # max_predictions is a quota there, which the last word may exceed
                return ngrams.window_places(self.max_length, rate)
            case _:
                most = int(masks.quota(np.array([self.max_length]), rate, self.max_length)[0])
        return self.max_predictions or most

    def objective(self, network, **companions):
        if self.pack and not network.variant.packs(network.config):
            raise ValueError(f"task.pack needs a network that takes packed rows; {network.variant.name} does not")
        return masked_lm(network, pair=self.pairs != "none")


@dataclass(frozen=True)
class HeldOut:
    """Examples of an evaluation, by which `corrupt` knows them."""

    examples: Examples

    def __len__(self) -> int:
        return len(self.examples)

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> Batch:
        return self.examples.rows(indices, epoch)

