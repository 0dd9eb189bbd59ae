"""Our masked-LM training step beside `transformers` (PyTorch eager), interleaved in one process group, as JSON lines.

    python tools/bench_train.py                         # BERT-base, 8 x 128, float32, 2 threads
    python tools/bench_train.py --size bert-large-uncased --batch 64 --length 512 --dtype bfloat16 --peer none

A step is forward, backward, clipping and AdamW over masked LM with 20 (15% of the length) predictions a row, dropout on.
The peer takes the same step, and like every `...ForMaskedLM` scores the vocabulary at every position. Each side runs in a
process of its own, in turns (A B A B ...); ratio is ours over the peer's, pair by pair.
MFU convention: matrix and attention products, a multiply-add is 2, a step is three forwards, the vocabulary counted at
the predicted positions only, nothing recomputed; over the device's dense bf16 peak (unknown on a CPU, then GFLOP/s).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time


def ours(options):
    import jax
    import numpy as np

    from bertvariants_jax.layers.dense import Compute
    from bertvariants_jax.models import find_size
    from bertvariants_jax.objectives.mlm import masked_lm
    from bertvariants_jax.training.flops import mfu
    from bertvariants_jax.training.optimizer import Optim, build, schedule
    from bertvariants_jax.training.sharding import make_mesh
    from bertvariants_jax.training.step import step_flops, under_jit

    variant, config = find_size(options.size)
    compute = Compute(options.dtype, unroll=options.unroll, remat=options.remat, attention=options.attention)
    objective = masked_lm(variant.network(config, ("mlm",), compute))
    optim = Optim("adamw", rate=1e-4, schedule="constant", warmup=0)
    program = under_jit(objective, build(optim, 1000), make_mesh(), batch_size=options.batch, rate=schedule(optim, 1000))
    rng, places = np.random.default_rng(0), round(0.15 * options.length)
    shape = (options.batch, options.length)
    batch = {"input_ids": rng.integers(5, config.vocab_size, shape), "attention_mask": np.ones(shape),
             "token_type_ids": np.zeros(shape),
             "masked_positions": np.tile(np.sort(rng.permutation(options.length)[:places]), (options.batch, 1)),
             "masked_labels": rng.integers(5, config.vocab_size, (options.batch, places))}
    batch = {key: value.astype(np.int32) for key, value in batch.items()}
    batch["masked_weights"] = np.ones((options.batch, places), np.float32)
    state = program.start(jax.random.key(0), None)
    rng = jax.device_put(jax.random.key(1), program.abstract["step"].sharding)
    flops = step_flops(masked_lm(variant.network(config, ("mlm",))), batch)
    print(json.dumps({"device": jax.devices()[0].device_kind, "tflop_per_step": round(flops / 1e12, 4)}), flush=True)

    def step():
        nonlocal state
        state, metrics = program.step(state, batch, rng)
        jax.block_until_ready(metrics)

    serve(step, lambda seconds: {"gflops": round(flops / seconds / 1e9, 1), "mfu": mfu(flops, seconds)})


def peer(options):
    import torch
    import transformers

    from bertvariants_jax.models import find_size

    _, config = find_size(options.size)
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = config.to_json()
    config_of = transformers.AutoConfig.for_model(data.pop("model_type"), **data)
    net = transformers.AutoModelForMaskedLM.from_config(config_of).to(device).train()
    if options.compile:
        net = torch.compile(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.01, fused=options.compile or device == "cuda")
    shape = (options.batch, options.length)
    ids = torch.randint(5, config.vocab_size, shape, device=device)
    labels = torch.full(shape, -100, device=device)
    places = torch.randperm(options.length, device=device)[: round(0.15 * options.length)]
    labels[:, places] = ids[:, places]

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            loss = net(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    print(json.dumps({"device": device}), flush=True)
    serve(step, lambda seconds: {})


def serve(step, extra):
    """Answer each line of standard input with the seconds of one step; the first two compile and warm up."""
    step(), step()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        step()
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, **extra(seconds)}), flush=True)


class Side:
    """One of the two: a process that steps when asked."""

    def __init__(self, name, arguments):
        self.name, self.seconds, self.last = name, [], {}
        self.process = subprocess.Popen([sys.executable, sys.argv[0], *arguments, "--side", name], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.about = json.loads(self.process.stdout.readline())
        if not json.loads(self.process.stdout.readline()).get("ready"):
            raise SystemExit(f"{name} did not start")

    def step(self):
        print(file=self.process.stdin, flush=True)
        self.last = json.loads(self.process.stdout.readline())
        self.seconds.append(self.last["seconds"])


def spread(values):
    return {"median": round(statistics.median(values), 4), "min": round(min(values), 4), "max": round(max(values), 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="bert-base-uncased")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--unroll", type=int, default=0, help="layers a turn; 0 is all")
    parser.add_argument("--remat", default="none", choices=("none", "full", "dots"))
    parser.add_argument("--attention", default="xla", choices=("xla", "cudnn"))
    parser.add_argument("--peer", default="eager", choices=("eager", "compile", "none"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.compile = options.peer == "compile"
    if options.side:
        return {"ours": ours, "peer": peer}[options.side](options)
    sides = [Side("ours", sys.argv[1:]), *([Side("peer", sys.argv[1:])] if options.peer != "none" else [])]
    for _ in range(options.runs):
        for side in sides:
            side.step()
    shape = {key: getattr(options, key) for key in ("size", "batch", "length", "dtype", "unroll", "remat", "peer")}
    for side in sides:
        rest = {key: value for key, value in side.last.items() if key != "seconds"}
        tokens = options.batch * options.length / statistics.median(side.seconds)
        print(json.dumps({"bench": "train", "side": side.name, **shape, **side.about, "seconds": spread(side.seconds),
                          "tokens_per_second": round(tokens), **rest}))
        side.process.stdin.close()
    if len(sides) == 2:
        ratios = [a / b for a, b in zip(sides[0].seconds, sides[1].seconds, strict=True)]
        print(json.dumps({"bench": "train", "ratio": spread(ratios), **shape}))


if __name__ == "__main__":
    main()
