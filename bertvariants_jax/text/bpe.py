"""Byte-level BPE vocabularies: vocab.json with merges.txt, of RoBERTa and DeBERTa v1."""

from __future__ import annotations

import json

from bertvariants_jax.text.families import FAMILIES
from bertvariants_jax.text.vocabulary import Vocabulary, finish, special_pieces, told_family

BYTE_SPACE = "\u0120"  # the mark of a word's beginning: byte-level BPE's blank


def from_merges(vocab: bytes, merges: bytes, options: dict, family: str | None) -> Vocabulary:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    try:
        ids = json.loads(vocab)
    except ValueError as error:
        raise ValueError(f"vocab.json: not JSON: {error}") from error
    pairs = []
    for number, line in enumerate(merges.decode("utf-8").split("\n"), 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2:
            raise ValueError(f"merges.txt line {number}: expected two pieces, found {line!r}")
        pairs.append((parts[0], parts[1]))
    name = family or told_family(options, ("roberta", "deberta", "modernbert"))
    if name is None:
        name = "roberta" if "<s>" in ids else "deberta"
    chosen = FAMILIES[name]
    special = special_pieces(chosen, options, ids, "vocab.json")
    prefix = options.get("add_prefix_space", False)
    backend = tokenizers.Tokenizer(
        models.BPE(ids, pairs, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    finish(backend, chosen, special, options)
    if name == "roberta":  # the same layout as the template's, and offsets without the blank
        backend.post_processor = processors.RobertaProcessing(
            (special["sep"], ids[special["sep"]]),
            (special["cls"], ids[special["cls"]]),
            trim_offsets=options.get("trim_offsets", True),
            add_prefix_space=prefix,
        )
    return Vocabulary(backend, chosen, "bpe", special)
