"""Masking for pre-training: BERT's masked language model, whole words and not (Devlin et al. 2018,
arXiv:1810.04805; google-research/bert create_pretraining_data.py), and the bricks that other
schemes are built of.

A scheme is three steps, each a pure numpy function over the whole batch: choose the positions
(`quota`, `choose_tokens`, `choose_words`), lay them out in P slots (`slots`), replace what stands
there (`corrupted`). Randomness is keyed by (seed, epoch, example index, position): see
data/noise.py.
"""

from collections.abc import Sequence

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
    copies: int | None = None,
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
    copies: None masks anew in every epoch (dynamic); k repeats the masks of epoch e in e + k
    (static, BERT's dupe_factor).
    """
    if "masked_positions" in batch:
        raise ValueError("the batch is masked already: masked_positions is among its keys")
    ids = batch["input_ids"]
    if copies is not None:
        epoch = np.asarray(epoch) % copies
    candidates = eligible(batch, never)
    n = quota((batch["attention_mask"] > 0).sum(1), rate, max_predictions)
    if starts_word is None:
        chosen = choose_tokens(candidates, n, seed, epoch, index)
    else:
        chosen = choose_words(candidates, starts_word[ids], n, seed, epoch, index)
    positions, used = slots(chosen, max_predictions)
    fate = noise.uniform(seed, "mask/fate", epoch, index, positions)
    drawn = noise.integers(seed, "mask/word", epoch, index, positions, vocab_size)
    return corrupted(
        batch, positions, used, mask_token_id, drawn, masks=fate < 0.8, draws=fate >= 0.9
    )


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
    order, count = _shuffled(candidates, seed, epoch, index)
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
    first = candidates & (np.cumsum(candidates, 1) == 1)
    heads = candidates & (starts | first)
    word = np.cumsum(heads, 1) - 1  # the number of the word that a candidate belongs to
    rows = np.arange(len(candidates))
    row, col = np.nonzero(candidates)
    sizes = np.zeros(candidates.shape, np.int64)  # pieces of each word
    np.add.at(sizes, (row, word[row, col]), 1)
    order, count = _shuffled(heads, seed, epoch, index)
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
    chosen = np.zeros(candidates.shape, bool)
    chosen[row, col] = taken[row, word[row, col]]
    return chosen


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


def _shuffled(among: np.ndarray, seed: int, epoch, index) -> tuple[np.ndarray, np.ndarray]:
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
