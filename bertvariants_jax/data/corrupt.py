"""Masking for pre-training: BERT's masked language model, whole words and not (Devlin et al. 2018,
arXiv:1810.04805; google-research/bert create_pretraining_data.py), RoBERTa's (facebookresearch/
fairseq mask_tokens_dataset.py) and ModernBERT's (AnswerDotAI/ModernBERT src/sequence_packer.py),
and the bricks that other schemes are built of (n-grams: data/ngrams.py).

A scheme is three steps, each a pure numpy function over the whole batch: choose the positions
(`quota`, `choose_tokens`, `choose_words`), lay them out in P slots (`slots`), replace what stands
there (`corrupted`; `replaced` is both). Randomness is keyed by (seed, epoch, example index,
position): see data/noise.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bertvariants_jax.data import noise

Batch = dict[str, np.ndarray]


def mask_tokens(
    batch: Batch,
    index: np.ndarray,
    epoch: np.ndarray,
    *,
    seed: int,
    vocab_size: int,
    mask_token_id: int,
    never: Sequence[int],
    max_predictions: int,
    rate: float = 0.15,
    starts_word: np.ndarray | None = None,
) -> Batch:
    """BERT's masking. Adds masked_positions, masked_labels, masked_weights [B, P] and replaces ids
    in input_ids.

    Candidates are all tokens that are neither padding nor in `never` ([CLS] and [SEP] for BERT:
    [UNK] may be chosen). n = min(P, max(1, round(rate * length))), the length counting special
    tokens and round() taking halves to the even number; n different candidates are chosen; each
    becomes [MASK] with probability 0.8, stays with 0.1, and with 0.1 becomes an id drawn from the
    whole vocabulary, special tokens included.

    index, epoch: int [B], the example's number and pass: what the noise depends on.
    max_predictions: P. Slots are ascending in position; unused ones hold 0 and weigh 0.
    starts_word: bool [V], whether a piece begins a word. Given, whole words are chosen in random
    order, and a word that
      would exceed n is passed over (so fewer than n may be chosen); each of its pieces draws its
      own replacement. As in BERT, a piece that continues a word joins the candidate before it,
      whatever stands between.
    """
    ids = batch["input_ids"]
    candidates = eligible(batch, never)
    n = quota(lengths(batch), rate, max_predictions)
    if starts_word is None:
        chosen = choose_tokens(candidates, n, seed, epoch, index)
    else:
        chosen = choose_words(candidates, starts_word[ids], n, seed, epoch, index)
    return replaced(
        batch, chosen, max_predictions, mask_token_id, np.arange(vocab_size), seed, epoch, index
    )


def mask_like_fairseq(
    batch: Batch,
    index: np.ndarray,
    epoch: np.ndarray,
    *,
    seed: int,
    mask_token_id: int,
    words: np.ndarray,
    max_predictions: int,
    rate: float = 0.15,
) -> Batch:
    """RoBERTa's masking. Adds and replaces as `mask_tokens` does.

    Every position but padding may be chosen, <s> and </s> too. Of a row of n tokens
    int(rate * n + u) are, with u uniform in [0, 1), so that rate * n is met on average and a short
    row may go without. Each becomes <mask> with probability 0.8, stays with 0.1, and with 0.1
    becomes one of `words`, int [W]: in fairseq all ids but <s>, <pad>, </s> and <unk>.
    max_predictions: P; `fairseq_places` is what a row can need.
    """
    candidates = batch["attention_mask"] > 0
    more = noise.uniform(seed, "mask/count", epoch, index, 1)[:, 0]
    n = (lengths(batch) * rate + more).astype(np.int64)
    chosen = choose_tokens(candidates, n, seed, epoch, index)
    return replaced(batch, chosen, max_predictions, mask_token_id, words, seed, epoch, index)


def fairseq_places(length: int, rate: float) -> int:
    """The most positions that `mask_like_fairseq` chooses in a row of `length` tokens."""
    return min(length, int(length * rate) + 1)


def mask_independently(
    batch: Batch,
    index: np.ndarray,
    epoch: np.ndarray,
    *,
    seed: int,
    vocab_size: int,
    mask_token_id: int,
    max_predictions: int,
    rate: float = 0.3,
) -> Batch:
    """ModernBERT's masking. Adds and replaces as `mask_tokens` does.

    Every position but padding is chosen with probability `rate`, [CLS] and [SEP] too, each by
    itself; it becomes [MASK] with probability 0.8, stays with 0.1, and with 0.1 becomes an id of
    the whole vocabulary (the original draws up to the highest id of its batch).
    max_predictions: P. The original has no limit; `independent_places` gives one that a row passes
    less than once in 10^11. In such a row the last of the chosen stay as they are, unpredicted.
    """
    draw = noise.uniform(seed, "mask/choice", epoch, index, batch["input_ids"].shape[1])
    chosen = (batch["attention_mask"] > 0) & (draw < rate)
    chosen &= np.cumsum(chosen, 1) <= max_predictions
    return replaced(
        batch, chosen, max_predictions, mask_token_id, np.arange(vocab_size), seed, epoch, index
    )


def independent_places(length: int, rate: float) -> int:
    """Mean plus seven standard deviations of a binomial count, `length` at most."""
    spread = (length * rate * (1 - rate)) ** 0.5
    return min(length, int(np.ceil(length * rate + 7 * spread)))


def lengths(batch: Batch) -> np.ndarray:
    """int64 [B]: tokens of each row, special ones included."""
    return (batch["attention_mask"] > 0).sum(1)


@dataclass(frozen=True)
class Static:
    """Static masks: those that `mask` draws in epoch e return in epoch e + copies."""

    mask: Callable[[Batch, np.ndarray, np.ndarray], Batch]
    copies: int

    def __call__(self, batch: Batch, index: np.ndarray, epoch: np.ndarray) -> Batch:
        return self.mask(batch, index, np.asarray(epoch) % self.copies)


def eligible(batch: Batch, never: Sequence[int]) -> np.ndarray:
    """bool [B, L]: not padding and not one of the ids `never`."""
    allowed = batch["attention_mask"] > 0
    for token in set(int(t) for t in never):
        allowed &= batch["input_ids"] != token
    return allowed


def quota(lengths: np.ndarray, rate: float, most: int) -> np.ndarray:
    """int64 [B]: how many to predict, min(most, max(1, round(rate * length))); 0 for an empty row.
    Halves go to even.
    """
    n = np.minimum(most, np.maximum(1, np.rint(lengths * rate))).astype(np.int64)
    return np.where(lengths > 0, n, 0)


def choose_tokens(candidates: np.ndarray, n: np.ndarray, seed: int, epoch, index) -> np.ndarray:
    """bool [B, L]: n of each row's candidates (all of them, where there are fewer), every subset
    equally likely.
    """
    order, count = shuffled(candidates, seed, epoch, index)
    chosen = np.zeros(candidates.shape, bool)
    taken = np.arange(order.shape[1]) < np.minimum(n, count)[:, None]
    row, slot = np.nonzero(taken)
    chosen[row, order[row, slot]] = True
    return chosen


def choose_words(
    candidates: np.ndarray, starts: np.ndarray, n: np.ndarray, seed: int, epoch, index
) -> np.ndarray:
    """bool [B, L]: whole words in random order, passing over a word that would bring the row above
    n pieces.

    starts: bool [B, L], the token begins a word; the first candidate of a row always does.
    """
    heads, word, sizes = words_of(candidates, starts)
    rows = np.arange(len(candidates))
    order, count = shuffled(heads, seed, epoch, index)
    taken = np.zeros(candidates.shape, bool)
    total = np.zeros(len(candidates), np.int64)
    for rank in range(int(count.max(initial=0))):
        active = (total < n) & (rank < count)
        if not active.any():
            break
        w = word[rows, order[:, rank]]
        size = sizes[rows, w]
        take = active & (total + size <= n)
        taken[rows[take], w[take]] = True
        total += np.where(take, size, 0)
    return candidates & np.take_along_axis(taken, word, 1)


def words_of(
    candidates: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The words that candidates make up: heads bool [B, L], where a word begins; word int64 [B, L],
    the number of the word that a candidate belongs to (any other token: of the word before it, or
    0); sizes int64 [B, L], the pieces of word 0, 1, ....

    starts: as in `choose_words`. A piece that continues a word joins the candidate before it.
    """
    first = candidates & (np.cumsum(candidates, 1) == 1)
    heads = candidates & (starts | first)
    word = np.maximum(np.cumsum(heads, 1) - 1, 0)
    row, col = np.nonzero(candidates)
    length = candidates.shape[1]
    sizes = np.bincount(row * length + word[row, col], minlength=candidates.size)
    return heads, word, sizes.reshape(candidates.shape)


def slots(chosen: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Chosen places as slots: positions int32 [B, P] ascending, and used bool [B, P]; unused slots
    hold position 0.

    Raises ValueError where a row chose more than P.
    """
    count = chosen.sum(1)
    if count.max(initial=0) > most:
        raise ValueError(
            f"row {count.argmax()} has {count.max()} chosen positions, "
            f"but there are {most} slots a row"
        )
    row, col = np.nonzero(chosen)
    slot = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    positions = np.zeros((len(chosen), most), np.int32)
    positions[row, slot] = col
    return positions, np.arange(most) < count[:, None]


def replaced(
    batch: Batch,
    chosen: np.ndarray,
    max_predictions: int,
    mask_token_id: int,
    words: np.ndarray,
    seed: int,
    epoch: np.ndarray,
    index: np.ndarray,
) -> Batch:
    """The batch with its chosen places (bool [B, L]) in P slots, where each by itself becomes the
    mask with probability 0.8, stays with 0.1, and with 0.1 becomes one of `words` (int [W]).

    Raises ValueError for a batch that is masked already.
    """
    if "masked_positions" in batch:
        raise ValueError("the batch is masked already: masked_positions is among its keys")
    positions, used = slots(chosen, max_predictions)
    fate = noise.uniform(seed, "mask/fate", epoch, index, positions)
    drawn = words[noise.integers(seed, "mask/word", epoch, index, positions, len(words))]
    return corrupted(
        batch, positions, used, mask_token_id, drawn, masks=fate < 0.8, draws=fate >= 0.9
    )


def corrupted(
    batch: Batch,
    positions: np.ndarray,
    used: np.ndarray,
    mask_token_id: int,
    drawn: np.ndarray,
    *,
    masks: np.ndarray,
    draws: np.ndarray,
) -> Batch:
    """The batch with the masked_* keys, and at the used slots the mask id, the drawn id, or the
    token as it was.

    positions, used, drawn, masks, draws: [B, P]. Where neither `masks` nor `draws` holds, the token
    stays.
    """
    ids = batch["input_ids"]
    labels = np.take_along_axis(ids, positions, axis=1)
    new = np.where(masks, mask_token_id, np.where(draws, drawn, labels))
    row, slot = np.nonzero(used)
    out = ids.copy()
    out[row, positions[row, slot]] = new[row, slot]
    return {
        **batch,
        "input_ids": out,
        "masked_positions": positions,
        "masked_labels": np.where(used, labels, 0).astype(np.int32),
        "masked_weights": used.astype(np.float32),
    }


def shuffled(among: np.ndarray, seed: int, epoch, index) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the true entries in random order [B, n], then any positions; and their count
    [B].

    Sorting random 64-bit numbers whose lowest bits are the position both shuffles and breaks ties.
    """
    length = among.shape[1]
    low = np.uint64((1 << max(1, (length - 1).bit_length())) - 1)
    keys = noise.bits(seed, "mask/order", epoch, index, length) & ~low | np.arange(
        length, dtype=np.uint64
    )
    count = among.sum(1)
    keys = np.sort(np.where(among, keys, np.uint64(2**64 - 1)), axis=1)[
        :, : int(count.max(initial=0))
    ]
    return np.minimum(keys & low, np.uint64(length - 1)).astype(np.int64), count
