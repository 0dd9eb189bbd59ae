"""Throughput of the data path on one core, a JSON line for each stage: tokens/s of padded rows
(corpus tokens for building).

    python tools/bench_data.py [--length 128] [--batch 256] [--text ADDRESS --tokenizer FOLDER]

Without --text the corpus is made up: sentence and document lengths as in English Wikipedia, random
ids. With it, reading and tokenising are measured too, which use as many cores as the tokenizers
library takes (RAYON_NUM_THREADS=1 for one).
"""

import argparse
import functools
import json
import math
import time

import numpy as np

from bertvariants_jax.data.corpus import Corpus, full_sentences, nsp_pairs, sop_pairs
from bertvariants_jax.data.corrupt import (
    fairseq_places,
    independent_places,
    mask_independently,
    mask_like_fairseq,
    mask_tokens,
)
from bertvariants_jax.data.frequency import mask_rare, rarity
from bertvariants_jax.data.ngrams import mask_ngrams, mask_windows, window_places
from bertvariants_jax.data.pack import packed
from bertvariants_jax.data.paragraphs import TASKS, paragraphs
from bertvariants_jax.data.permutation import permute_tokens
from bertvariants_jax.data.pipeline import pipeline
from bertvariants_jax.data.replacement import (
    mask_one_in_window,
    mask_with_replacement,
    most_predictions,
)
from bertvariants_jax.data.source import open_source
from bertvariants_jax.data.spans import mask_spans
from bertvariants_jax.data.streams import streams
from bertvariants_jax.data.two_segments import two_segments
from bertvariants_jax.data.units import UnitPairs, mask_units, word_units

TARGET = 1_000_000  # tokens/s a core
RUNS = 200_000  # of procedures that choose runs of words or tokens
CLS, SEP, MASK, PAD = 101, 102, 103, 0


def made_up_corpus(tokens, vocab_size):
    rng = np.random.default_rng(0)
    sizes = np.maximum(1, rng.gamma(4, 7, tokens // 28)).astype(np.int64)
    documents = np.unique(
        np.concatenate([[0], np.cumsum(rng.geometric(1 / 60, len(sizes) // 60)), [len(sizes)]])
    )
    sentences = np.concatenate([[0], np.cumsum(sizes)])
    ids = rng.integers(1000, vocab_size, sentences[-1]).astype(np.uint16)
    return Corpus(ids, sentences, documents[documents <= len(sizes)])


def report(stage, tokens, seconds, target=TARGET, **more):
    rate = float(tokens / seconds)
    print(
        json.dumps(
            {
                "stage": stage,
                "tokens_per_s": round(rate),
                "tokens": int(tokens),
                "seconds": round(seconds, 6),
                "meets_target": rate >= target,
                **more,
            }
        ),
        flush=True,
    )


def timed(function, least=1.0):
    """The result and the seconds of one call: the best of the calls that fit into `least` seconds,
    after a first one.
    """
    function()
    best, total = float("inf"), 0.0
    while total < least:
        start = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - start
        best, total = min(best, seconds), total + seconds
    return result, best


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=5_000_000, help="size of the made-up corpus")
    parser.add_argument("--text", help="a data address, for instance docs:email or text:*.txt")
    parser.add_argument("--tokenizer", help="folder of the tokenizer, with --text")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1])
    args = parser.parse_args()
    if bool(args.text) != bool(args.tokenizer):
        parser.error("--text and --tokenizer go together")

    vocab_size, starts = 30522, np.random.default_rng(1).random(30522) < 0.8
    special = {"cls_token_id": CLS, "sep_token_id": SEP, "pad_token_id": PAD}
    if args.text:
        from bertvariants_jax.text.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(args.tokenizer)
        start = time.perf_counter()
        documents = list(open_source(args.text).documents())
        read = time.perf_counter() - start
        start = time.perf_counter()
        corpus = Corpus.build(documents, tokenizer)
        cut = time.perf_counter() - start
        report("read documents", corpus.num_tokens, read, documents=corpus.num_documents)
        report("tokenise", corpus.num_tokens, cut)
        vocab_size, starts = tokenizer.vocab_size, tokenizer.starts_word
        special = {name: getattr(tokenizer, name) for name in special}
        mask_id = tokenizer.mask_token_id
    else:
        corpus, mask_id = made_up_corpus(args.tokens, vocab_size), MASK

    never = (special["cls_token_id"], special["sep_token_id"])
    length, size = args.length, args.batch
    for builder in (nsp_pairs, sop_pairs, two_segments, full_sentences):
        options = special if builder is full_sentences else {**special, "seed": 0}
        examples, seconds = timed(functools.partial(builder, corpus, length, **options))
        report(f"build {builder.__name__}", corpus.num_tokens, seconds, examples=len(examples))
        rows = np.random.default_rng(2).integers(0, len(examples), size)
        batch, seconds = timed(functools.partial(examples.rows, rows, np.zeros(size, np.int64)))
        report(f"rows {builder.__name__}", batch["input_ids"].size, seconds)

    pairs = nsp_pairs(corpus, length, seed=0, **special)
    index = np.arange(size) % len(pairs)
    batch = pairs.rows(index)
    mask = functools.partial(
        mask_tokens,
        seed=0,
        vocab_size=vocab_size,
        mask_token_id=mask_id,
        never=never,
        max_predictions=max(1, round(0.15 * length) + 1),
    )
    own = {"seed": 0, "mask_token_id": mask_id}
    whole = {**own, "vocab_size": vocab_size}
    words = {**whole, "never": never, "starts_word": starts}
    ids = np.setdiff1d(np.arange(vocab_size), never)
    counts = corpus.counts(vocab_size)
    stages = {
        "tokens": (mask, {}, TARGET),
        "whole words": (mask, {"starts_word": starts}, TARGET),
        "fairseq": (
            mask_like_fairseq,
            {**own, "words": ids, "max_predictions": fairseq_places(length, 0.15)},
            TARGET,
        ),
        "bernoulli": (
            mask_independently,
            {**whole, "max_predictions": independent_places(length, 0.3)},
            TARGET,
        ),
        "rare tokens": (
            mask_rare,
            {
                **own,
                "odds": rarity(counts, list(special.values())),
                "max_predictions": math.ceil(0.3 * length),
                "together": 8,
            },
            TARGET,
        ),
        "spans": (
            mask_spans,
            {
                **own,
                "starts_word": starts,
                "counts": counts,
                "max_predictions": math.ceil(0.15 * (length - 2)),
            },
            RUNS,
        ),
        "n-grams": (mask_ngrams, {**words, "max_predictions": round(0.15 * length)}, RUNS),
        "windows": (mask_windows, {**words, "max_predictions": window_places(length, 0.15)}, RUNS),
        "with replacement": (
            mask_with_replacement,
            {**own, "never": never, "max_predictions": most_predictions(0.15, length)},
            TARGET,
        ),
        "one in a window": (
            mask_one_in_window,
            {**own, "never": never, "max_predictions": round(0.15 * length)},
            RUNS,
        ),
    }
    for name, (procedure, options, target) in stages.items():
        _, seconds = timed(functools.partial(procedure, batch, index, 0 * index, **options))
        report(f"mask {name}", batch["input_ids"].size, seconds, target)

    units = word_units(corpus, starts)
    questions, seconds = timed(
        functools.partial(
            paragraphs, corpus, length, tasks=TASKS, units=units, capitals=units, seed=0, **special
        )
    )
    report("build paragraphs", corpus.num_tokens, seconds, examples=len(questions))
    hide = {**whole, "never": never, "max_predictions": math.ceil(0.25 * length)}
    for name, examples in (("unit pairs", UnitPairs(pairs, units)), ("paragraphs", questions)):
        labelled, seconds = timed(functools.partial(examples.rows, index, 0 * index))
        report(f"rows {name}", labelled["input_ids"].size, seconds)
        _, seconds = timed(functools.partial(mask_units, labelled, index, 0 * index, **hide))
        report(f"mask units of {name}", labelled["input_ids"].size, seconds, RUNS)

    reuse = length // 2
    segments = streams(
        corpus,
        length,
        reuse_len=reuse,
        batch_size=size,
        seed=0,
        sep_token_id=never[1],
        cls_token_id=never[0],
        eod_token_id=never[1],
        bi_data=True,
    )
    some = np.arange(size) % len(segments)
    batch, seconds = timed(functools.partial(segments.rows, some, 0 * some))
    report("rows streams", batch["input_ids"].size, seconds, RUNS)
    permute = functools.partial(
        permute_tokens,
        seed=0,
        starts_word=starts,
        functional=never,
        reuse_len=reuse,
        perm_size=reuse,
        num_predict=length // 6,
    )
    _, seconds = timed(functools.partial(permute, batch, some, 0 * some))
    report("mask permutations", batch["input_ids"].size, seconds, RUNS)
    _, seconds = timed(lambda: permute(segments.rows(some, 0 * some), some, 0 * some))
    report("rows and mask permutations", batch["input_ids"].size, seconds, RUNS)

    row, seconds = timed(functools.partial(packed, pairs, 4 * length))
    report("plan packing", pairs.lengths.sum(), seconds, fill=round(row.fill, 4))
    some = np.arange(size // 4) % len(row)
    batch, seconds = timed(functools.partial(row.rows, some, 0 * some))
    report("rows packed", batch["input_ids"].size, seconds)

    for workers in args.workers:
        with iter(pipeline(pairs, batch_size=size, corrupt=mask, workers=workers)) as batches:
            for _ in range(5):
                next(batches)
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < 2:
                count += next(batches)["input_ids"].size
            report(
                "whole pipeline",
                count,
                time.perf_counter() - start,
                workers=workers,
                length=length,
                batch=size,
            )


if __name__ == "__main__":
    main()
