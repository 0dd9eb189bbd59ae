"""Our forward beside `transformers` (PyTorch eager), interleaved in one process group, as JSON lines.

    python tools/bench_infer.py                     # BERT-base, 8 x 128 and 1 x 128, float32, 2 threads
    python tools/bench_infer.py --size bert-large-uncased --shapes 128x512 --dtype bfloat16
    python tools/bench_infer.py --all --shapes 8x128       # the first size of every variant, one line each
    python tools/bench_infer.py --real-lengths tsv:SST-2/train.tsv#sentence --model runs/sst2/model --runs 3
    python tools/bench_infer.py --real-lengths 'text:wiki/*.txt.gz' --texts 500 --model runs/sst2/model --runs 3

With --real-lengths whole texts are classified, text in and label out, beside `transformers`' pipeline at the best of its
batch sizes; a document of a text: address is one text, cut where the model ends. Otherwise both sides run the encoder, deterministic, on the same ids without padding. Each side runs in a process of its own, in
turns (A B A B ...); ratio is ours over the peer's, pair by pair. FLOPs: matrix and attention products, a multiply-add is 2.

Measured with all-MiniLM-L6-v2 as a classifier on 2 CPU cores: 2,000 phrases of SST-2, 396 texts/s beside 184, ratio 0.470
(0.463 to 0.474); 500 documents, cut at 512 tokens, 19.0 texts/s beside 10.9, ratio 0.575 (0.570 to 0.581).
"""

import argparse
import itertools
import json
import time

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


def real_texts(options):
    """The first --texts fields of a table, or documents, that --real-lengths names."""
    from bertvariants_jax.data.source import open_source

    address, _, field = options.real_lengths.partition("#")
    source = open_source(address)
    texts = (row[field] for row in source) if field else (" ".join(d.sentences) for d in source.documents())
    return list(itertools.islice(texts, options.texts))


def ours_pipeline(options):
    import bertvariants_jax as bv

    texts, run = real_texts(options), bv.pipeline("text-classification", options.model)
    print(json.dumps({"texts": len(texts), "characters": sum(map(len, texts))}), flush=True)
    serve(lambda: run(texts), lambda seconds: {"texts_per_s": round(len(texts) / seconds, 1), "programs": len(run.shapes)})


def peer_pipeline(options):
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    texts, took = real_texts(options), {}
    device = 0 if torch.cuda.is_available() else -1
    run = transformers.pipeline("text-classification", model=options.model, device=device, truncation=True)
    some = texts[:: max(1, len(texts) // 200)]
    for size in (1, 4, 8, 16, 32, 64):
        run(some[:size], batch_size=size)
        begin = time.perf_counter()
        run(some, batch_size=size)
        took[size] = time.perf_counter() - begin
    best = min(took, key=took.get)
    print(json.dumps({"texts": len(texts), "batch_size": best}), flush=True)
    serve(lambda: run(texts, batch_size=best), lambda seconds: {"texts_per_s": round(len(texts) / seconds, 1)})


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
    parser.add_argument("--real-lengths", default="", help="data address, with #FIELD for a table: classify its texts")
    parser.add_argument("--model", default="", help="folder of a classifier, with --real-lengths")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        sides = {"ours": ours_pipeline, "peer": peer_pipeline} if options.real_lengths else {"ours": ours, "peer": peer}
        return sides[options.side](options)
    if options.real_lengths:
        if not options.model:
            parser.error("--real-lengths needs --model, the folder of a classifier")
        return compare({"bench": "classify", "texts": options.real_lengths}, options.runs, [
            "--real-lengths", options.real_lengths, "--model", options.model, "--texts", str(options.texts),
            "--threads", str(options.threads)])
    for size, shape in itertools.product(first_sizes() if options.all else [options.size], options.shapes):
        compare({"bench": "infer", "size": size, "shape": shape, "dtype": options.dtype}, options.runs, [
            "--size", size, "--shapes", shape, "--dtype", options.dtype, "--unroll", str(options.unroll),
            "--attention", options.attention, "--threads", str(options.threads)])


def compare(about, runs, arguments):
    """Both sides in turns, as JSON lines."""
    sides = [Side(name, arguments) for name in ("ours", "peer")]
    for _ in range(runs):
        for side in sides:
            side.step()
    for side in sides:
        rest = {key: value for key, value in side.last.items() if key != "seconds"}
        print(json.dumps({**about, "side": side.name, **side.about, "seconds": spread(side.seconds), **rest}))
        side.process.stdin.close()
    ratios = [a / b for a, b in zip(sides[0].seconds, sides[1].seconds, strict=True)]
    print(json.dumps({**about, "ratio": spread(ratios)}))


if __name__ == "__main__":
    main()
