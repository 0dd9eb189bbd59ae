"""DistilBERT's masking: rare tokens more often, over several rows at a time (Sanh et al. 2019,
arXiv:1910.01108; the distillation research project of huggingface/transformers, distiller.py and
lm_seqs_dataset.py).
"""

from dataclasses import replace

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.corpus import Blocks
from bertvariants_jax.data.corrupt import Batch, corrupted, slots


def mask_rare(
    batch: Batch,
    index: np.ndarray,
    epoch: np.ndarray,
    *,
    seed: int,
    odds: np.ndarray,
    mask_token_id: int,
    max_predictions: int,
    rate: float = 0.15,
    together: int = 0,
) -> Batch:
    """Adds masked_positions, masked_labels, masked_weights [B, P] and replaces ids in input_ids.

    Rows are taken `together` at a time (0: all of the batch, as the original takes its 5), in order.
    Of the N tokens of such rows, special ones included, ceil(rate * N) are drawn without
    replacement, each time with the odds of the token. Each becomes [MASK] with probability 0.8,
    stays with 0.1, and with 0.1 becomes an id drawn from the whole vocabulary.

    So which of a row's tokens are chosen depends on the rows beside it, and on nothing else: the
    pipeline is told of `together` and hands over such rows whole, whichever a host wants.

    odds: float [V], see `rarity`; 0 is never drawn. max_predictions: P. A row that has P of them is
    drawn from no more; the others of its group take its share.
    Raises ValueError for a batch that is masked already.
    """
    if "masked_positions" in batch:
        raise ValueError("the batch is masked already: masked_positions is among its keys")
    ids, real = batch["input_ids"], batch["attention_mask"] > 0
    rows, length = ids.shape
    # Drawing without replacement is a race: each token ends after an exponential time of rate
    # `speed`, and the first ones win.
    speed = np.where(real, odds[ids], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        time = -np.log1p(-noise.uniform(seed, "rare/order", epoch, index, length)) / speed
    time[speed == 0] = np.inf  # also 0 / 0
    most = min(max_predictions, length)
    ahead = np.argpartition(time, most - 1, axis=1)[:, :most]  # a row's first P: no more can win

    size = min(together or rows, rows)
    groups = -(-rows // size)
    whole = np.full((groups * size, most), np.inf)
    whole[:rows] = np.take_along_axis(time, ahead, axis=1)
    tokens = np.zeros(groups * size, np.int64)
    tokens[:rows] = real.sum(1)
    n = np.ceil(tokens.reshape(groups, size).sum(1) * rate).astype(np.int64)
    whole = whole.reshape(groups, size * most)
    order = np.argsort(whole, axis=1)
    wins = np.arange(order.shape[1]) < n[:, None]
    won = np.zeros(whole.shape, bool)
    np.put_along_axis(won, order, wins, axis=1)
    won &= whole < np.inf
    chosen = np.zeros(ids.shape, bool)
    np.put_along_axis(chosen, ahead, won.reshape(-1, most)[:rows], axis=1)

    positions, used = slots(chosen, max_predictions)
    fate = noise.uniform(seed, "rare/fate", epoch, index, positions)
    drawn = noise.integers(seed, "rare/word", epoch, index, positions, len(odds))
    return corrupted(
        batch, positions, used, mask_token_id, drawn, masks=fate < 0.8, draws=fate >= 0.9
    )


def rarity(counts: np.ndarray, special: np.ndarray, smoothing: float = 0.7) -> np.ndarray:
    """float64 [V]: max(count, 1) ** -smoothing, and 0 for the special ids.

    counts: int [V], how often each id stands in the corpus.
    """
    odds = np.maximum(counts, 1).astype(np.float64) ** -smoothing
    odds[np.asarray(special, np.int64)] = 0.0
    return odds


def sound(blocks: Blocks, unk_token_id: int, shortest: int = 12, unknown: float = 0.5) -> Blocks:
    """The blocks of `shortest` tokens or more, special ones included, of which less than the share
    `unknown` is [UNK].

    Raises ValueError where none is left.
    """
    lengths = blocks.lengths
    tokens, step = blocks.corpus.tokens, 1 << 24  # a mapped corpus is larger than memory
    found = [
        np.flatnonzero(tokens[start : start + step] == unk_token_id) + start
        for start in range(0, len(tokens), step)
    ]
    places = np.concatenate(found) if found else np.zeros(0, np.int64)
    unknowns = np.searchsorted(places, blocks.start + blocks.sizes) - np.searchsorted(
        places, blocks.start
    )
    keep = (lengths >= shortest) & (unknowns < unknown * lengths)
    if not keep.any():
        raise ValueError(
            f"none of the {len(keep)} rows has {shortest} tokens or more "
            f"of which fewer than {unknown:.0%} are unknown: is it the right vocabulary?"
        )
    return replace(blocks, start=blocks.start[keep], sizes=blocks.sizes[keep])
