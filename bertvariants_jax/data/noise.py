"""Counter-based noise: random numbers that are a pure function of (seed, stream, epoch, example
index, counter).

Nothing is drawn in sequence, so no number depends on workers, hosts, batch size or restarts. The
generator is splitmix64 (Steele, Lea, Flood 2014), a bijection of 64 bits, evaluated at any counter;
integers only, so it is equal on every machine.
"""

import functools
import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def key(seed: int, stream: str, epoch, index) -> np.ndarray:
    """uint64 [B]: one key for each (epoch, example index) of a named stream. `epoch` and `index`
    broadcast.
    """
    with np.errstate(over="ignore"):
        k = np.uint64(_stream(int(seed), stream))
        k = _mix(
            k
            + _GOLDEN
            * (np.atleast_1d(np.asarray(epoch)).astype(np.int64).astype(np.uint64) + np.uint64(1))
        )
        return _mix(
            k
            + _GOLDEN
            * (np.atleast_1d(np.asarray(index)).astype(np.int64).astype(np.uint64) + np.uint64(1))
        )


def bits(seed: int, stream: str, epoch, index, counters) -> np.ndarray:
    """uint64 [B, n]: 64 random bits for each counter of each example.

    counters: an int n (the counters 0..n-1 for every example) or an int array [B, n] (for instance
    token positions).
    """
    if np.ndim(counters) == 0:
        counters = np.arange(int(counters))[None]
    with np.errstate(over="ignore"):
        return _mix(
            key(seed, stream, epoch, index)[:, None]
            + _GOLDEN * (np.asarray(counters).astype(np.uint64) + np.uint64(1))
        )


def uniform(seed: int, stream: str, epoch, index, counters) -> np.ndarray:
    """float64 [B, n] in [0, 1), with all 53 bits of the mantissa random. Counters as in `bits`."""
    return (bits(seed, stream, epoch, index, counters) >> np.uint64(11)).astype(
        np.float64
    ) * 2.0**-53


def integers(seed: int, stream: str, epoch, index, counters, high) -> np.ndarray:
    """int64 [B, n] in [0, high); high < 2**32, an int or an array that broadcasts. Counters as in
    `bits`.

    Multiply and shift of the upper 32 bits: the bias is below high / 2**32.
    """
    upper = bits(seed, stream, epoch, index, counters) >> np.uint64(32)
    return ((upper * np.asarray(high).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def permute(position, n: int, *, seed: int, epoch) -> np.ndarray:
    """int64: the place of each position in a random permutation of range(n), without making the
    permutation.

    For a fixed (seed, epoch), `permute(arange(n), n, ...)` holds each of 0..n-1 once. `position` (0
    <= position < n) and `epoch` broadcast. A Feistel network on the smallest power of two that
    holds n (halves of unequal width, ten rounds), walked until the value falls below n: fewer than
    two turns on average, whatever n.
    """
    if n <= 0:
        raise ValueError(f"cannot permute {n} examples")
    position, epoch = np.broadcast_arrays(
        np.atleast_1d(np.asarray(position, np.int64)), np.asarray(epoch, np.int64)
    )
    if position.size and (position.min() < 0 or position.max() >= n):
        raise ValueError(f"a position lies outside 0..{n - 1}")
    width = max(4, int(n - 1).bit_length())
    low = width // 2
    low_mask, high_mask = np.uint64((1 << low) - 1), np.uint64((1 << (width - low)) - 1)
    keys = key(seed, "permute", epoch.ravel(), 0)
    x = position.ravel().astype(np.uint64)
    todo = np.arange(x.size)
    while todo.size:
        y, k = x[todo], keys[todo]
        a, b = y >> np.uint64(low), y & low_mask
        with np.errstate(over="ignore"):
            for turn in range(10):
                k = k + _GOLDEN
                if turn % 2:
                    a = (a ^ _mix(k + b)) & high_mask
                else:
                    b = (b ^ _mix(k + a)) & low_mask
        x[todo] = (a << np.uint64(low)) | b
        todo = todo[x[todo] >= n]
    return x.astype(np.int64).reshape(position.shape)


def _mix(z: np.ndarray) -> np.ndarray:
    z = z ^ (z >> np.uint64(30))
    z *= _MIX1
    z ^= z >> np.uint64(27)
    z *= _MIX2
    z ^= z >> np.uint64(31)
    return z


@functools.lru_cache(maxsize=256)
def _stream(seed: int, stream: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest(), "little"
    )
