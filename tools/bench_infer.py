"""Our forward beside `transformers` (PyTorch eager), interleaved in one process group, as JSON lines.

    python tools/bench_infer.py                     # BERT-base, 8 x 128 and 1 x 128, float32, 2 threads
    python tools/bench_infer.py --size bert-large-uncased --shapes 128x512 --dtype bfloat16
    python tools/bench_infer.py --all --shapes 8x128       # the first size of every variant, one line each

Both sides run the encoder, deterministic, on the same ids without padding. Each side runs in a process of its own, in
turns (A B A B ...); ratio is ours over the peer's, pair by pair. FLOPs: matrix and attention products, a multiply-add is 2.
"""

import argparse
import itertools
import json

from bench_train import Side, serve, spread


def shape_of(text):
    batch, length = text.split("x")
    return int(batch), int(length)


def ours(options):
    import jax
    import numpy as np

    from bertvariants_jax.layers.dense import Compute
    from bertvariants_jax.models import find_size
    from bertvariants_jax.training.flops import count_flops

    variant, config = find_size(options.size)
    network = variant.network(config, (), Compute(options.dtype, options.dtype, unroll=options.unroll,
                                                  attention=options.attention))
    params = jax.jit(network.init)(jax.random.key(0))
    batch, length = shape_of(options.shapes[0])
    ids = np.random.default_rng(0).integers(5, config.vocab_size, (batch, length)).astype(np.int32)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    run = jax.jit(lambda p, b: network.encode(p, b).last_hidden_state)
    flops = count_flops(lambda p, b: network.encode(p, b).last_hidden_state, network.shapes(), inputs)
    print(json.dumps({"device": jax.devices()[0].device_kind, "gflop": round(flops / 1e9, 2)}), flush=True)
    serve(lambda: jax.block_until_ready(run(params, inputs)), lambda seconds: {"gflops": round(flops / seconds / 1e9, 1)})


def peer(options):
    import torch
    import transformers

    from bertvariants_jax.models import find_size

    _, config = find_size(options.size)
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = config.to_json()
    kind = data.pop("model_type")
    net = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **data)).to(device).eval()
    batch, length = shape_of(options.shapes[0])
    ids = torch.randint(5, config.vocab_size, (batch, length), device=device)
    mask = torch.ones_like(ids)
    print(json.dumps({"device": device}), flush=True)

    def forward():
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            net(input_ids=ids, attention_mask=mask)[0].sum().item()

    serve(forward, lambda seconds: {})


def first_sizes():
    from bertvariants_jax.models import VARIANTS
    from bertvariants_jax.models.variant import count

    for variant in VARIANTS.values():
        size, config = next(iter(variant.sizes.items()))
        if count(variant.network(config).shapes()) <= 300e6 and variant.name != "spanbert":      # BERT's network
            yield size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="bert-base-uncased")
    parser.add_argument("--all", action="store_true", help="every variant's first size of at most 300M parameters")
    parser.add_argument("--shapes", nargs="+", default=["8x128", "1x128"], help="batch x length")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--unroll", type=int, default=0, help="layers a turn; 0 is all")
    parser.add_argument("--attention", default="xla", choices=("xla", "cudnn"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return {"ours": ours, "peer": peer}[options.side](options)
    for size, shape in itertools.product(first_sizes() if options.all else [options.size], options.shapes):
        arguments = ["--size", size, "--shapes", shape, "--dtype", options.dtype, "--unroll", str(options.unroll),
                     "--attention", options.attention, "--threads", str(options.threads)]
        sides = [Side(name, arguments) for name in ("ours", "peer")]
        for _ in range(options.runs):
            for side in sides:
                side.step()
        about = {"bench": "infer", "size": size, "shape": shape, "dtype": options.dtype}
        for side in sides:
            rest = {key: value for key, value in side.last.items() if key != "seconds"}
            print(json.dumps({**about, "side": side.name, **side.about, "seconds": spread(side.seconds), **rest}))
            side.process.stdin.close()
        ratios = [a / b for a, b in zip(sides[0].seconds, sides[1].seconds, strict=True)]
        print(json.dumps({**about, "ratio": spread(ratios)}))


if __name__ == "__main__":
    main()
