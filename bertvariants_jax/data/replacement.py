"""Masking for a generator of replacements: ELECTRA's places drawn with replacement (Clark et al.
2020, arXiv:2003.10555; google-research/electra pretrain/pretrain_helpers.py `mask`), and
DeBERTa-v3's (He et al. 2021, arXiv:2111.09543).
"""

from collections.abc import Sequence

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.corrupt import Batch, corrupted, eligible, lengths, quota, slots
from bertvariants_jax.data.ngrams import choose_windows


def most_predictions(rate: float, length: int) -> int:
    """ELECTRA's number of slots P for rows of `length` tokens: 19 at 128, 79 at 512 and rate 0.15."""
    return max(1, int((rate + 0.005) * length))


def mask_with_replacement(
    batch: Batch,
    index: np.ndarray,
    epoch: np.ndarray,
    *,
    seed: int,
    mask_token_id: int,
    never: Sequence[int],
    max_predictions: int,
    rate: float = 0.15,
    masked: float = 0.85,
) -> Batch:
    """Adds masked_positions, masked_labels, masked_weights [B, P] and puts [MASK] into input_ids.

    n = min(P, max(1, round(rate * length))) draws, each of any token that is neither padding nor in
    `never` ([CLS], [SEP], [MASK]), so that a place may be drawn more than once: it then fills two
    slots next to each other, and counts twice in the loss of the masked LM. Each draw puts [MASK]
    there with probability `masked` and else leaves the token (that another draw of the same place
    may still mask); no token is replaced by another here, which is the generator's part.

    index, epoch: int [B], the example's number and pass: what the noise depends on. Slots are
    ascending in position; unused ones hold 0 and weigh 0. A row of nothing but special tokens has
    none.
    """
    if "masked_positions" in batch:
        raise ValueError("the batch is masked already: masked_positions is among its keys")
    ids, most = batch["input_ids"], max_predictions
    candidates = eligible(batch, never)
    count = candidates.sum(1)
    n = quota(lengths(batch), rate, most) * (count > 0)
    used = np.arange(most) < n[:, None]
    which = noise.integers(seed, "replacement/place", epoch, index, most, count[:, None])
    place = np.append(np.nonzero(candidates)[1], 0)  # of each candidate of the batch, in order
    first = (np.cumsum(count) - count)[:, None]
    positions = np.where(used, place[np.minimum(first + which, len(place) - 1)], ids.shape[1])
    positions = np.where(used, np.sort(positions, axis=1), 0).astype(np.int32)
    labels = np.where(used, np.take_along_axis(ids, positions, axis=1), 0).astype(np.int32)
    hides = used & (noise.uniform(seed, "replacement/fate", epoch, index, most) < masked)
    out = ids.copy()
    row, slot = np.nonzero(hides)
    out[row, positions[row, slot]] = mask_token_id
    return {
        **batch,
        "input_ids": out,
        "masked_positions": positions,
        "masked_labels": labels,
        "masked_weights": used.astype(np.float32),
    }


def mask_one_in_window(
    batch: Batch,
    index: np.ndarray,
    epoch: np.ndarray,
    *,
    seed: int,
    mask_token_id: int,
    never: Sequence[int],
    max_predictions: int,
    rate: float = 0.15,
) -> Batch:
    """DeBERTa-v3's masking: every chosen token becomes [MASK]. Adds keys as `mask_with_replacement`.

    One token is drawn in each window of int(1 / rate) candidates, and of these the first min(P,
    max(1, round(rate * length))) are taken (microsoft/DeBERTa apps/tasks/rtd_task.py: the masking
    of DeBERTa with n-grams of 1, mask_prob 1 and keep_prob 0).
    """
    candidates = eligible(batch, never)
    n = quota(lengths(batch), rate, max_predictions)
    chosen = choose_windows(
        candidates, candidates, n, max_predictions, 1, int(1 / rate), seed, epoch, index
    )
    positions, used = slots(chosen, max_predictions)
    return corrupted(batch, positions, used, mask_token_id, positions, masks=used, draws=~used)
