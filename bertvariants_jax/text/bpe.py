"""Byte-level BPE vocabularies: vocab.json with merges.txt, of RoBERTa and DeBERTa v1."""

from __future__ import annotations

import json

from bertvariants_jax.text.families import FAMILIES, Family
from bertvariants_jax.text.vocabulary import (
    Vocabulary,
    add_tokens,
    ids_in_force,
    lay_out,
    setting,
    special_pieces,
)

BYTE_SPACE = "\u0120"  # the mark of a word's beginning: byte-level BPE's blank


def from_merges(vocab: bytes, merges: bytes, options: dict, family: str | None) -> Vocabulary:
    """Byte-level BPE of a vocab.json and its merges.txt."""
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
    chosen = FAMILIES[family or ("roberta" if "<s>" in ids else "deberta")]
    return from_pairs(ids, pairs, options, chosen, "vocab.json")


def from_pairs(
    ids: dict[str, int],
    pairs: list[tuple[str, str]],
    options: dict,
    chosen: Family,
    where: str,
) -> Vocabulary:
    """The steps before byte-level BPE, by the settings of tokenizer_config.json."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    special = special_pieces(chosen, options, ids, where)
    prefix = setting(options, "add_prefix_space", False)
    trim = setting(options, "trim_offsets", True)
    backend = tokenizers.Tokenizer(
        models.BPE(ids, pairs, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    add_tokens(backend, chosen, special, options)
    if chosen.name == "roberta":  # the same layout as the template's, and offsets without the blank
        backend.post_processor = processors.RobertaProcessing(
            (special["sep"], ids[special["sep"]]),
            (special["cls"], ids[special["cls"]]),
            trim_offsets=trim,
            add_prefix_space=prefix,
        )
    else:
        lay_out(backend, chosen, special)
    settings = {"add_prefix_space": prefix, "trim_offsets": trim}
    tokenizer_ids = ids_in_force(options, chosen)
    return Vocabulary(backend, chosen, "bpe", special, tokenizer_ids, settings=settings)
