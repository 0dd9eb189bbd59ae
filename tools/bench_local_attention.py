"""What ModernBERT's local layers save: forward in blocks beside the same with dense masks, a JSON line for each length.

    python tools/bench_local_attention.py [--lengths 1024 4096] [--layers 11] [--hidden 768] [--rounds 5] [--clock cpu]

Both are jitted, run in one process and take turns (A B A B); "ratio" is the median of the blocks' times over the
median of the dense ones, "ratios" the extremes over the rounds. Layers alternate as published: global, local, local.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np

from bertvariants_jax.layers.dense import Compute
from bertvariants_jax.models.modernbert import ModernBert, ModernBertConfig

TARGET = {4096: 0.6}  # ratio


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds(clock, function, *arguments):
    start = clock()
    jax.block_until_ready(function(*arguments))
    return clock() - start


def summary(times):
    return {"median": round(1e3 * statistics.median(times), 1), "min": round(1e3 * min(times), 1),
            "max": round(1e3 * max(times), 1)}


def measure(cfg, compute, batch, length, rounds, clock):
    """Times in seconds of both ways, one pair a round, after one warm-up each."""
    ids = np.random.default_rng(0).integers(5, cfg.vocab_size, (batch, length)).astype(np.int32)
    mask = np.ones_like(ids)        # an argument: XLA would fold a constant one away, in global layers alone
    params = jax.jit(ModernBert(cfg, compute).init)(jax.random.key(0), ids[:, :8])
    ways = {name: jax.jit(ModernBert(cfg, compute, banded=banded).apply).lower(params, ids, mask).compile()
            for name, banded in (("blocks", True), ("dense", False))}
    for way in ways.values():
        seconds(clock, way, params, ids, mask)
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(clock, way, params, ids, mask))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--layers", type=int, default=11, help="7 of 11 are local, as 14 of the 22 of ModernBERT-base")
    parser.add_argument("--hidden", type=int, default=768, help="width, a multiple of 64")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="cpu: of this process, on a shared machine")
    args = parser.parse_args()
    cfg = ModernBertConfig(vocab_size=1024, hidden_size=args.hidden, num_hidden_layers=args.layers, pad_token_id=0,
                           num_attention_heads=args.hidden // 64, intermediate_size=args.hidden * 3 // 2)
    for length in args.lengths:
        times = measure(cfg, Compute(args.dtype), args.batch, length, args.rounds, CLOCKS[args.clock])
        ratios = [a / b for a, b in zip(times["blocks"], times["dense"], strict=True)]
        line = {"length": length, "batch": args.batch, "layers": args.layers,
                "local": cfg.kinds.count("sliding_attention"), "hidden": args.hidden, "dtype": args.dtype,
                "device": jax.devices()[0].device_kind, "rounds": args.rounds, "clock": args.clock,
                **{f"{name}_ms": summary(each) for name, each in times.items()},
                "ratio": round(statistics.median(times["blocks"]) / statistics.median(times["dense"]), 3),
                "ratios": [round(min(ratios), 3), round(max(ratios), 3)]}
        print(json.dumps(line | ({"target": TARGET[length]} if length in TARGET else {})), flush=True)


if __name__ == "__main__":
    main()
