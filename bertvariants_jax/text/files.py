"""Which of a folder's files hold its tokenizer, and tokenizer.json, which may hold any kind."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from bertvariants_jax.text import unigram
from bertvariants_jax.text.bpe import from_merges
from bertvariants_jax.text.families import FAMILIES
from bertvariants_jax.text.unigram import from_sentencepiece, sentencepiece_file
from bertvariants_jax.text.vocabulary import Vocabulary, finish, fits, special_pieces, told_family
from bertvariants_jax.text.wordpiece import ORIGINAL_LONGEST_WORD, from_vocab_txt

if TYPE_CHECKING:
    import tokenizers

FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", *unigram.FILES)
SIDECARS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def read(files: dict[str, bytes], options: dict, family: str | None, original: bool) -> Vocabulary:
    """The vocabulary in `files` (file name -> bytes); `options` as `read_options` makes them.

    Raises `FileNotFoundError` where no vocabulary is among them, `ValueError` where one is not
    what it should be.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(
            f"unknown tokenizer family {family!r}: choose one of {', '.join(FAMILIES)}"
        )
    model = sentencepiece_file(files)
    if model and (original or "tokenizer.json" not in files):
        return from_sentencepiece(files[model], model, options, family, original)
    if "tokenizer.json" in files:
        found = _from_json(files["tokenizer.json"], options, family)
    elif "vocab.txt" in files:
        found = from_vocab_txt(files["vocab.txt"], options, family)
    elif "vocab.json" in files and "merges.txt" in files:
        found = from_merges(files["vocab.json"], files["merges.txt"], options, family)
    else:
        raise FileNotFoundError(
            "no vocabulary found: expected tokenizer.json, vocab.txt, vocab.json with merges.txt, "
            f"or one of {', '.join(unigram.FILES)}"
        )
    if original and found.kind == "unigram":
        raise ValueError(
            "original=True needs the SentencePiece model; there is only tokenizer.json"
        )
    if original and found.kind == "wordpiece":
        found.backend.model.max_input_chars_per_word = ORIGINAL_LONGEST_WORD
    return found


def read_options(folder: Path) -> dict:
    """tokenizer_config.json, completed by its sidecars and by config.json's model_type."""

    def read(name: str) -> dict:
        path = folder / name
        if not path.is_file():
            return {}
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}: expected an object, found {type(value).__name__}")
        return value

    settings, named, added = (read(name) for name in SIDECARS)
    config = read("config.json")
    options = {**named, **settings}
    if added:
        options["added_tokens"] = added
        pieces = chain.from_iterable(v if isinstance(v, list) else [v] for v in named.values())
        options["special_pieces"] = [p.get("content") if isinstance(p, dict) else p for p in pieces]
    for key in ("model_type", "tokenizer_class"):
        if config.get(key) and key not in settings:
            options[key] = config[key]
    return options


def _from_json(data: bytes, options: dict, family: str | None) -> Vocabulary:
    import tokenizers

    try:
        backend = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:
        raise ValueError(f"tokenizer.json cannot be read: {error}") from error
    backend.no_padding()
    backend.no_truncation()
    ids = backend.get_vocab(with_added_tokens=True)
    kind = type(backend.model).__name__.lower()
    if kind not in ("wordpiece", "bpe", "unigram"):
        raise ValueError(f"tokenizer.json: model {kind!r} is not one of WordPiece, BPE, Unigram")
    if family is None:
        told = told_family(options, tuple(FAMILIES))
        family = told if told and fits(FAMILIES[told], options, ids) else _guess(kind, ids, backend)
    chosen = FAMILIES[family]
    special = special_pieces(chosen, options, ids, "tokenizer.json")
    if backend.post_processor is None or not backend.num_special_tokens_to_add(False):
        finish(backend, chosen, special, options)
    else:
        missing = [piece for piece in special.values() if not _is_added(backend, piece)]
        backend.add_special_tokens(missing)
    return Vocabulary(backend, chosen, kind, special)


def _is_added(backend: tokenizers.Tokenizer, piece: str) -> bool:
    return backend.token_to_id(piece) in backend.get_added_tokens_decoder()


def _guess(kind: str, ids: dict[str, int], backend: tokenizers.Tokenizer) -> str:
    """Family of a tokenizer.json that nobody named, from its special pieces."""
    if {"<cls>", "<sep>"} <= ids.keys():
        return "xlnet"
    if "[CLS]" in ids:
        if kind == "wordpiece":
            return "bert"
        if kind == "unigram":
            return "albert" if "<pad>" in ids else "deberta-v2"
        pair = backend.encode("a", "a")
        return "deberta" if any(pair.type_ids) else "modernbert"
    if "<s>" in ids and kind != "wordpiece":
        return "roberta" if kind == "bpe" else "xlm-roberta"
    raise ValueError(
        "tokenizer.json: its special pieces are those of no known family; tell `family`"
    )
