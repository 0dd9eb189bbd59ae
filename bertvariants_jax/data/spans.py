"""SpanBERT's masking: spans of whole words, replaced span by span (Joshi et al. 2019,
arXiv:1907.10529; facebookresearch/SpanBERT data/masking.py), and the targets of its span boundary
objective.
"""

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.corrupt import Batch, corrupted, slots

_AHEAD = 16  # spans drawn at a time for every row; a row of 512 needs about 20


def mask_spans(
    batch: Batch,
    index: np.ndarray,
    epoch: np.ndarray,
    *,
    seed: int,
    starts_word: np.ndarray,
    counts: np.ndarray,
    mask_token_id: int,
    max_predictions: int,
    rate: float = 0.15,
    stop: float = 0.2,
    longest: int = 10,
    max_targets: int = 15,
) -> Batch:
    """Adds masked_positions, masked_labels, masked_weights [B, P], span_boundaries [B, P, 2],
    span_offsets, span_weights [B, P], and replaces ids in input_ids.

    A row is one segment, `[CLS] block [SEP]` with padding on the right. Of a block of n tokens
    ceil(rate * n) are chosen, exactly: spans are drawn (`choose_spans`) until there are so many, the
    last one cut short. Spans that overlap or touch are one span. With probability 0.8 all of a
    span's tokens become [MASK], with 0.1 all stay, and with 0.1 each becomes a token drawn as often
    as it stands in the corpus.

    The span boundary objective tells each token of a span from the tokens beside the span:
    span_boundaries are their positions, span_offsets how far into the span the token stands (0 for
    its first), masked_labels the token. span_weights is 1 where both neighbours are tokens of the
    block, for the first `max_targets` of a span.

    index, epoch: int [B], what the noise depends on. starts_word: bool [V]. counts: int [V], how
    often each id stands in the corpus (`Corpus.counts`). max_predictions: P.
    stop, longest: lengths in words are geometric with the parameter `stop`, at most `longest`.
    Raises ValueError for a packed or masked batch, for counts that are all 0, and where P is too
    small.
    """
    if "masked_positions" in batch:
        raise ValueError("the batch is masked already: masked_positions is among its keys")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if mask.max(initial=0) > 1:
        raise ValueError("the batch is packed: span masking takes one segment a row")
    total = np.cumsum(counts, dtype=np.float64)
    if not total[-1] > 0:
        raise ValueError("no token of the corpus is counted: `counts` is 0 everywhere")
    sizes = np.maximum(mask.sum(1) - 2, 0)  # of the blocks, which begin at place 1
    budget = np.ceil(sizes * rate).astype(np.int64)
    chosen = choose_spans(
        starts_word[ids], sizes, budget, seed, epoch, index, stop=stop, longest=longest
    )
    positions, used = slots(chosen, max_predictions)
    first, last = _spans(positions, used)

    fate = noise.uniform(seed, "span/fate", epoch, index, first)  # one of a span: where it begins
    draws = used & (fate >= 0.9)
    drawn = np.zeros(positions.shape, np.int64)
    share = noise.uniform(seed, "span/word", epoch, index, positions)[draws]
    drawn[draws] = np.searchsorted(total, share * total[-1], side="right")
    out = corrupted(batch, positions, used, mask_token_id, drawn, masks=fate < 0.8, draws=draws)

    offsets = positions - first
    targets = used & (first > 1) & (last < sizes[:, None]) & (offsets < max_targets)
    beside = np.stack([first - 1, last + 1], axis=-1)
    return {
        **out,
        "span_boundaries": np.where(targets[..., None], beside, 0).astype(np.int32),
        "span_offsets": np.where(targets, offsets, 0).astype(np.int32),
        "span_weights": targets.astype(np.float32),
    }


def choose_spans(
    starts: np.ndarray,
    sizes: np.ndarray,
    budget: np.ndarray,
    seed: int,
    epoch,
    index,
    *,
    stop: float = 0.2,
    longest: int = 10,
) -> np.ndarray:
    """bool [B, L]: `budget` places of each block, in spans of whole words.

    starts: bool [B, L], the token begins a word; a block's first token always does. sizes: int [B],
    the block is the places 1..size. A span has its length in words drawn from `lengths`; a place of
    the block is drawn evenly, again where it is chosen already, and the span begins with the word
    that holds it and takes whole words on to the right, those chosen already among them. It ends
    with the block, or where the budget is reached, be it within a word.
    """
    rows, length = starts.shape
    place = np.arange(length)
    inside = (place >= 1) & (place <= sizes[:, None])
    heads = inside & (starts | (place == 1))
    word = np.cumsum(heads, 1) - 1  # the number of the word at a place
    begins = np.full((rows, length + 1), length)  # where each word begins; the end after the last
    row, col = np.nonzero(heads)
    begins[row, word[row, col]] = col
    begins = np.minimum(begins, sizes[:, None] + 1)
    words = np.append(np.cumsum(lengths(stop, longest))[:-1], 1.0)

    chosen = np.zeros((rows, length), bool)
    left = np.minimum(budget, sizes)
    keys = np.broadcast_to(np.asarray(epoch), rows), np.broadcast_to(np.asarray(index), rows)
    turn = 0
    while (active := np.nonzero(left > 0)[0]).size:
        counters = np.arange(turn, turn + _AHEAD)[None]
        e, i = keys[0][active], keys[1][active]
        long = 1 + np.searchsorted(words, noise.uniform(seed, "span/length", e, i, counters), "right")
        high = sizes[active][:, None]
        anchor = 1 + noise.integers(seed, "span/anchor", e, i, np.broadcast_to(counters, long.shape), high)
        for step in range(_AHEAD):
            go = (left[active] > 0) & ~chosen[active, anchor[:, step]]
            r = active[go]
            if not r.size:
                continue
            w = word[r, anchor[go, step]]
            start = begins[r, w]
            end = begins[r, np.minimum(w + long[go, step], length)]
            span = start[:, None] + np.arange((end - start).max())
            fresh = span < end[:, None]
            span = np.minimum(span, length - 1)
            fresh &= ~chosen[r[:, None], span]
            fresh &= np.cumsum(fresh, 1) <= left[r][:, None]
            at, to = np.nonzero(fresh)
            chosen[r[at], span[at, to]] = True
            left[r] -= fresh.sum(1)
        turn += _AHEAD
    return chosen


def lengths(stop: float = 0.2, longest: int = 10) -> np.ndarray:
    """float64 [longest]: the probability of 1, 2, ... words: geometric, cut off and renormalised."""
    if not 0 < stop < 1 or longest < 1:
        raise ValueError(f"spans need 0 < stop < 1 and longest >= 1, not {stop} and {longest}")
    p = stop * (1 - stop) ** np.arange(longest)
    return p / p.sum()


def _spans(positions: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each slot the first and the last place of its run of neighbouring places: int64 [B, P]."""
    slot = np.arange(positions.shape[1])
    joins = np.zeros(positions.shape, bool)  # the slot goes on where the one before it stands
    joins[:, 1:] = used[:, 1:] & (positions[:, 1:] == positions[:, :-1] + 1)
    head = np.maximum.accumulate(np.where(joins, 0, slot), axis=1)
    ends = np.ones(positions.shape, bool)
    ends[:, :-1] = ~joins[:, 1:]
    tail = np.minimum.accumulate(np.where(ends, slot, len(slot))[:, ::-1], axis=1)[:, ::-1]
    take = lambda slots: np.take_along_axis(positions, slots, axis=1).astype(np.int64)
    return take(head), take(tail)
