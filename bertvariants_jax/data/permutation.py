"""Permutation language modelling: which tokens are predicted, and in which order all are factorised
(XLNet, arXiv:1906.08237; zihangdai/xlnet data_utils.py `_sample_mask`, `_local_perm`).

An order is one number a token: a token sees what does not come later than itself, and a token that
is predicted what comes before it. So [B, L] numbers say what a mask [B, L, L] says.
"""

from collections.abc import Sequence

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.corrupt import slots

Batch = dict[str, np.ndarray]
PUNCTUATION = frozenset("!\"#$%&()*+,-./:;?@[\\]^_`{|}~")


def permute_tokens(
    batch: Batch,
    index: np.ndarray,
    epoch: np.ndarray,
    *,
    seed: int,
    starts_word: np.ndarray,
    functional: Sequence[int],
    reuse_len: int,
    perm_size: int,
    num_predict: int,
    alpha: int = 6,
    beta: int = 1,
    longest: int = 5,
) -> Batch:
    """Adds masked_positions, masked_labels, masked_weights [B, P] and perm_order [B, L].

    A row is two parts, its first reuse_len tokens and the rest; of P = num_predict the first part
    gets the larger half. Each part's targets are spans (`span_targets`), in rows with `backwards`
    found from right to left. `functional` ids (<sep>, <cls>) are never predicted: a span that holds
    one leaves a slot unused.

    The order of a part: all other tokens first, at once; then targets and functional tokens by a
    random permutation of perm_size, the same in each run of perm_size tokens, one run after the
    other (0: the part is one run). All of the first part comes before the second.
    """
    if "masked_positions" in batch:
        raise ValueError("the batch is masked already: masked_positions is among its keys")
    ids = batch["input_ids"]
    fixed = np.isin(ids, list(functional))
    backwards = batch["backwards"] > 0 if "backwards" in batch else np.zeros(len(ids), bool)
    chosen, order, before = np.zeros(ids.shape, bool), np.zeros(ids.shape, np.int32), 0
    parts = (("first", 0, reuse_len, -(-num_predict // 2)),
             ("second", reuse_len, ids.shape[1], num_predict // 2))  # fmt: skip
    for name, begin, end, goal in parts:
        some = {"seed": seed, "epoch": epoch, "index": index}
        turned = starts_word[ids[:, begin:end]]
        turned[backwards] = turned[backwards, ::-1]
        found = span_targets(
            turned, goal, alpha=alpha, beta=beta, longest=longest, stream=f"plm/{name}", **some
        )
        found[backwards] = found[backwards, ::-1]
        chosen[:, begin:end] = found & ~fixed[:, begin:end]
        rank = ranks(end - begin, perm_size, stream=f"plm/{name} order", **some)
        hidden = found | fixed[:, begin:end]
        order[:, begin:end] = before + np.where(hidden, 1 + rank, 0)
        before += 1 + end - begin + perm_size  # above every rank
    positions, used = slots(chosen, num_predict)
    labels = np.take_along_axis(ids, positions, axis=1)
    return {
        **batch,
        "perm_order": order,
        "masked_positions": positions,
        "masked_labels": np.where(used, labels, 0).astype(np.int32),
        "masked_weights": used.astype(np.float32),
    }


def span_targets(
    starts: np.ndarray,
    goal: int,
    *,
    alpha: int,
    beta: int,
    longest: int,
    seed: int,
    stream: str,
    epoch: np.ndarray,
    index: np.ndarray,
) -> np.ndarray:
    """bool [B, n], `goal` true in each row: spans of 1 to `longest` tokens, k with probability
    proportional to 1/k, each within a context of k * alpha / beta further tokens.

    starts: bool [B, n], the token begins a word. From left to right: a uniform share of the context
    is skipped, then what is left of a word; k tokens are taken (tokens, not words, as in the
    released code), and the rest of the context is skipped. The last span is cut to the goal; one
    that would touch the row's end ends the search. What is then missing is single tokens drawn from
    all others.
    """
    rows, length = starts.shape
    if goal > length:
        raise ValueError(f"{goal} targets do not fit into {length} tokens")
    place = np.arange(length + 1)
    next_start = np.full((rows, length + 1), length)
    next_start[:, :-1] = np.where(starts, place[:-1], length)
    next_start = np.minimum.accumulate(next_start[:, ::-1], axis=1)[:, ::-1]
    share = np.cumsum(1 / np.arange(1, longest + 1))
    share /= share[-1]
    turns = length // (1 + alpha // beta) + 1  # each moves on by a token and its context at least
    draws = noise.uniform(seed, stream, epoch, index, 2 * turns)
    sizes = np.minimum(np.searchsorted(share, draws[:, :turns], "right"), longest - 1) + 1

    edges = np.zeros((rows, length + 1), np.int8)
    everyone = np.arange(rows)
    count, at = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    going = np.full(rows, goal > 0)
    for turn in range(turns):
        size = np.minimum(sizes[:, turn], goal - count)
        context = size * alpha // beta
        left = (draws[:, turns + turn] * context).astype(np.int64)
        begin = next_start[everyone, np.minimum(at + left, length)]
        end = begin + size
        going &= end < length
        if not going.any():
            break
        row, begin, stop = everyone[going], begin[going], end[going]
        edges[row, begin] += 1
        edges[row, stop] -= 1
        count += np.where(going, size, 0)
        at = np.where(going, end + context - left, at)
        going &= (count < goal) & (at < length)
    chosen = np.cumsum(edges[:, :-1], axis=1, dtype=np.int8) > 0
    if short := np.flatnonzero(count < goal).tolist():
        keys = _keys(seed, f"{stream} single", np.asarray(epoch)[short], np.asarray(index)[short], length)
        keys[chosen[short]] = np.uint64(2**64 - 1)
        last = np.sort(keys, axis=1)[np.arange(len(short)), goal - count[short] - 1]
        chosen[short] |= keys <= last[:, None]
    return chosen


def ranks(
    length: int, perm_size: int, *, seed: int, stream: str, epoch: np.ndarray, index: np.ndarray
) -> np.ndarray:
    """int64 [B, length]: c * perm_size + pi[k] for token k of run c, pi a random permutation of
    perm_size a row.
    """
    size = perm_size or length
    keys = np.sort(_keys(seed, stream, epoch, index, size), axis=1)
    pi = (keys & np.uint64(_low(size))).astype(np.int64)
    place = np.arange(length)
    return place // size * size + pi[:, place % size]


def _keys(seed: int, stream: str, epoch, index, length: int) -> np.ndarray:
    """uint64 [B, length]: random numbers, none twice in a row; their lowest bits are the place."""
    low = np.uint64(_low(length))
    return noise.bits(seed, stream, epoch, index, length) & ~low | np.arange(length, dtype=np.uint64)


def _low(length: int) -> int:
    return (1 << max(1, (length - 1).bit_length())) - 1


def starts_span(tokenizer) -> np.ndarray:
    """bool [V]: at which pieces a span may begin: those that begin a word, lone punctuation, and
    what begins with "<", as in the original (where "'", "=" and ">" are none).
    """
    pieces = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.vocab_size)]
    return tokenizer.starts_word | np.array([p in PUNCTUATION or p[:1] == "<" for p in pieces])
