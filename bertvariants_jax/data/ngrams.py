"""Masking of runs of whole words: ALBERT's n-grams (Lan et al. 2019, arXiv:1909.11942;
google-research/albert create_pretraining_data.py) and DeBERTa's n-grams in windows (He et al. 2020,
arXiv:2006.03654; microsoft/DeBERTa apps/tasks/mlm_task.py), with the two papers' rules of which
pieces begin a word.

In both a run has n words with a probability in proportion to 1 / n: .545, .273 and .182 for n up
to 3.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.corrupt import (
    Batch,
    eligible,
    lengths,
    quota,
    replaced,
    shuffled,
    words_of,
)


def mask_ngrams(
    batch: Batch,
    index: np.ndarray,
    epoch: np.ndarray,
    *,
    seed: int,
    vocab_size: int,
    mask_token_id: int,
    never: Sequence[int],
    max_predictions: int,
    starts_word: np.ndarray,
    rate: float = 0.15,
    longest: int = 3,
) -> Batch:
    """ALBERT's masking. Candidates, quota and what chosen tokens become are those of `mask_tokens`.

    Words are gone through in random order; from each on a run of n words is taken, as many as there
    are before the row ends. A run that would exceed the quota is tried with n - 1, n - 2, ...
    words; one that still does, or that touches a run taken before, is passed over.
    starts_word: bool [V], see `albert_starts`. longest: the most words of a run.
    """
    candidates = eligible(batch, never)
    n = quota(lengths(batch), rate, max_predictions)
    starts = starts_word[batch["input_ids"]]
    chosen = choose_ngrams(candidates, starts, n, longest, seed, epoch, index)
    return replaced(
        batch, chosen, max_predictions, mask_token_id, np.arange(vocab_size), seed, epoch, index
    )


def choose_ngrams(
    candidates: np.ndarray,
    starts: np.ndarray,
    n: np.ndarray,
    longest: int,
    seed: int,
    epoch: np.ndarray,
    index: np.ndarray,
) -> np.ndarray:
    """bool [B, L]: n pieces of each row at most, in runs of whole words; see `mask_ngrams`."""
    heads, word, sizes = words_of(candidates, starts)
    before = np.concatenate([np.zeros((len(sizes), 1), np.int64), np.cumsum(sizes, 1)], 1)
    order, count = shuffled(heads, seed, epoch, index)
    runs = _run_lengths(noise.uniform(seed, "mask/ngram", epoch, index, heads.shape[1]), longest)
    taken = np.zeros((len(heads), heads.shape[1] + longest), bool)
    total = np.zeros(len(heads), np.int64)
    rows = np.arange(len(heads))
    for rank in range(int(count.max(initial=0))):
        rows = rows[(total[rows] < n[rows]) & (rank < count[rows])]
        if not rows.size:
            break
        col = order[rows, rank]
        first = word[rows, col]
        run = np.minimum(runs[rows, col], count[rows] - first)
        most = n[rows] - total[rows] + before[rows, first]
        for _ in range(longest - 1):
            run -= (run > 1) & (before[rows, first + run] > most)
        free = before[rows, first + run] <= most
        for step in range(longest):
            free &= (step >= run) | ~taken[rows, first + step]
        for step in range(longest):
            inside = free & (step < run)
            taken[rows[inside], first[inside] + step] = True
        total[rows] += np.where(free, before[rows, first + run] - before[rows, first], 0)
    return candidates & np.take_along_axis(taken, word, 1)


def mask_windows(
    batch: Batch,
    index: np.ndarray,
    epoch: np.ndarray,
    *,
    seed: int,
    vocab_size: int,
    mask_token_id: int,
    never: Sequence[int],
    max_predictions: int,
    starts_word: np.ndarray,
    rate: float = 0.15,
    longest: int = 3,
    most: int | None = None,
) -> Batch:
    """DeBERTa's masking. What chosen tokens become is that of `mask_tokens`.

    From left to right a run of n words is put at random into the next int(1 / rate) * n words (or
    those that are left), and the next window begins behind both. Of these runs the words are taken
    from the left until the quota min(most, max(1, round(rate * length))) is met, so that the last
    word may exceed it and the right end of a row is masked a little less.
    never: ids that are no candidates: mask, [CLS], [SEP], padding and unknown in DeBERTa.
    starts_word: bool [V], see `deberta_starts`. longest: the most words of a run; 1 makes every
    token a word, as in the original.
    max_predictions: P. The original has no limit of its own: it takes the whole of the word that
    meets the quota. Here such a word is left out where the slots do not hold it; `window_places`
    has room for words of 16 pieces.
    """
    candidates = eligible(batch, never)
    n = quota(lengths(batch), rate, max_predictions if most is None else most)
    starts = starts_word[batch["input_ids"]] if longest > 1 else candidates
    chosen = choose_windows(
        candidates, starts, n, max_predictions, longest, int(1 / rate), seed, epoch, index
    )
    return replaced(
        batch, chosen, max_predictions, mask_token_id, np.arange(vocab_size), seed, epoch, index
    )


def window_places(length: int, rate: float) -> int:
    """The quota of `length` tokens, and room for 16 pieces of its last word."""
    return min(length, int(quota(np.array([length]), rate, length)[0]) + 15)


def choose_windows(
    candidates: np.ndarray,
    starts: np.ndarray,
    n: np.ndarray,
    most: int,
    longest: int,
    window: int,
    seed: int,
    epoch: np.ndarray,
    index: np.ndarray,
) -> np.ndarray:
    """bool [B, L]: whole words from the left until a row has n pieces, `most` at most; see
    `mask_windows`.

    window: how many words there are to one that is chosen.
    """
    heads, word, sizes = words_of(candidates, starts)
    count = heads.sum(1)
    turns = -(-int(count.max(initial=0)) // window)
    draws = noise.uniform(seed, "mask/window", epoch, index, 2 * turns)
    runs, places = _run_lengths(draws[:, 0::2], longest), draws[:, 1::2]
    taken = np.zeros((len(heads), heads.shape[1] + longest), bool)
    offset = np.zeros(len(heads), np.int64)
    rows = np.arange(len(heads))
    for turn in range(turns):
        rows = rows[offset[rows] < count[rows]]
        left = count[rows] - offset[rows]
        run = runs[rows, turn]
        width = np.minimum(run * window, left)
        place = (places[rows, turn] * width).astype(np.int64)
        run = np.minimum(run, left - place)
        for step in range(longest):
            inside = step < run
            taken[rows[inside], (offset[rows] + place)[inside] + step] = True
        offset[rows] += np.maximum(width, place + run)
    pieces = np.where(taken[:, : sizes.shape[1]], sizes, 0)
    total = np.cumsum(pieces, 1)
    kept = (pieces > 0) & (total - pieces < n[:, None]) & (total <= most)
    return candidates & np.take_along_axis(kept, word, 1)


def albert_starts(tokenizer) -> np.ndarray:
    """bool [vocab_size]: which pieces begin a word for ALBERT.

    SentencePiece: those that begin with "▁" or "<", those that are one of its symbols, and those
    with a character that is neither a letter a-z nor one of the symbols (a digit, an apostrophe,
    any foreign letter). Other tokenizers: `Tokenizer.starts_word`.
    """
    if tokenizer.kind != "unigram":
        return tokenizer.starts_word

    def starts(piece: str) -> bool:
        return piece.startswith(("▁", "<")) or piece in _SYMBOLS or not _KNOWN.issuperset(piece)

    return np.array([starts(piece) for piece in _pieces(tokenizer)], bool)


def deberta_starts(tokenizer) -> np.ndarray:
    """bool [vocab_size]: which pieces begin a word for DeBERTa.

    SentencePiece and byte-level BPE: those that begin with a blank, and those that are one
    character of white space, control or punctuation. WordPiece: `Tokenizer.starts_word`.
    """
    starts = tokenizer.starts_word.copy()
    if tokenizer.kind == "wordpiece":
        return starts
    for i, piece in enumerate(_pieces(tokenizer)):
        if starts[i] or not piece or len(piece) > 4:  # a character is four bytes at most
            continue
        text = tokenizer.decode([i]) if tokenizer.kind == "bpe" else piece
        starts[i] = len(text) == 1 and _separates(text)
    return starts


# the list of the original has no "'", "<", "=" and ">", and its "€" and "£" count as foreign
_SYMBOLS = frozenset('!"#$%&()*+,-./:;?@[\\]^_`{|}~')
_KNOWN = _SYMBOLS | frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _pieces(tokenizer) -> list[str]:
    return [tokenizer.id_to_token(i) or "" for i in range(tokenizer.vocab_size)]


def _separates(character: str) -> bool:
    """White space, control or punctuation as in BERT's tokenizer, ASCII symbols included."""
    ascii_symbol = character.isascii() and character.isprintable() and not character.isalnum()
    return ascii_symbol or unicodedata.category(character)[0] in "ZCP"


def _run_lengths(draws: np.ndarray, longest: int) -> np.ndarray:
    """int64: 1 to `longest` with a probability in proportion to 1 / n, from uniform numbers."""
    chances = np.cumsum(1 / np.arange(1, longest + 1))
    return 1 + np.searchsorted(chances[:-1] / chances[-1], draws, "right")
