"""Which of a folder's files hold its tokenizer, and tokenizer.json, which may hold any kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bertvariants_jax.text import bpe, unigram, wordpiece
from bertvariants_jax.text.families import FAMILIES, IDS, Family
from bertvariants_jax.text.unigram import sentencepiece_file, stated_charsmap
from bertvariants_jax.text.vocabulary import (
    ForeignTokenizer,
    Vocabulary,
    add_tokens,
    fits,
    ids_in_force,
    lay_out,
    misfit,
    refuse_unknown_model,
    source_of,
    special_pieces,
    stated_family,
)

if TYPE_CHECKING:
    import tokenizers

FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", *unigram.FILES)
NEEDS_MODEL = (
    "tokenizer_ids 'original' needs the SentencePiece model; there is only tokenizer.json"
)
SIDECARS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def read(files: dict[str, bytes], options: dict, family: str | None) -> Vocabulary:
    """The vocabulary in `files` (file name -> bytes); `options` as `read_options` makes them, and
    completed here by what tokenizer.json states.

    What tokenizer_config.json states overrules tokenizer.json where the tokenizer's class makes its
    steps anew, as in `transformers`; a generic class takes tokenizer.json as it stands.

    Raises `FileNotFoundError` where no vocabulary is among them, `ForeignTokenizer` for a class
    that is not known, `ValueError` where a file is not what it should be.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(
            f"unknown tokenizer family {family!r}: choose one of {', '.join(FAMILIES)}"
        )
    asked = options.get("tokenizer_ids")
    if asked not in (None, *IDS):
        raise ValueError(f"tokenizer_ids is {asked!r}; it is one of {', '.join(IDS)}")
    name, is_rebuilt = _family_in_force(options, family)
    chosen = FAMILIES[name] if name else None
    model = sentencepiece_file(files)
    if chosen is None and "tokenizer.json" not in files:
        refuse_unknown_model(options)
    if "tokenizer.json" in files:
        stated = _parse(files["tokenizer.json"])
        _fill(options, stated)
        wants_model = asked == "original" or (
            is_rebuilt and chosen.tokenizer_ids == "original" and asked is None
        )
        if not (model and wants_model and (chosen is None or chosen.kind == "unigram")):
            return _from_json(files["tokenizer.json"], stated, options, chosen, is_rebuilt, family)
    elif "vocab.txt" in files and (chosen is None or chosen.kind == "wordpiece"):
        return wordpiece.from_vocab_txt(files["vocab.txt"], options, name)
    elif {"vocab.json", "merges.txt"} <= files.keys() and (chosen is None or chosen.kind == "bpe"):
        return bpe.from_merges(files["vocab.json"], files["merges.txt"], options, name)
    if model and (chosen is None or chosen.kind == "unigram"):
        return unigram.from_sentencepiece(files[model], model, options, name)
    there = [key for key in ("vocab.txt", "vocab.json", model) if key in files]
    if chosen is not None and family is None and there and there != ["vocab.json"]:
        raise misfit(options, chosen, " and ".join(there))
    raise FileNotFoundError(
        "no vocabulary found: expected tokenizer.json, vocab.txt, vocab.json with merges.txt, "
        f"or one of {', '.join(unigram.FILES)}"
    )


def _family_in_force(options: dict, family: str | None) -> tuple[str | None, bool]:
    """`stated_family`, unless `family` is told: what a folder states of another one does not count."""
    if family is None:
        return stated_family(options)
    try:
        stated, is_rebuilt = stated_family(options)
    except ForeignTokenizer:
        return family, False
    return family, is_rebuilt and stated == family


def read_options(folder: Path) -> dict:
    """tokenizer_config.json, completed by its sidecars and by config.json's model_type.

    As in `transformers`, special_tokens_map.json overrules tokenizer_config.json, but where the
    latter has an `added_tokens_decoder`, it and added_tokens.json count no more.
    """

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
    options = dict(settings)
    if settings.get("added_tokens_decoder") is None:
        named["mapped_special_tokens"] = named.pop("additional_special_tokens", None)
        options |= named
        options |= {"added_tokens": added} if added else {}
    if not settings.get("tokenizer_class"):
        for key in ("tokenizer_class", "auto_map"):
            if config.get(key):
                options.setdefault(key, config[key])
    if config.get("model_type"):
        options.setdefault("model_type", config["model_type"])
    return options


def _parse(data: bytes) -> dict:
    """A tokenizer.json as JSON."""
    try:
        stated = json.loads(data)
    except ValueError as error:
        raise ValueError(f"tokenizer.json cannot be read: {error}") from error
    if not isinstance(stated, dict) or not isinstance(stated.get("model"), dict):
        raise ValueError("tokenizer.json cannot be read: it has no model")
    return stated


def _backend(data: bytes) -> tokenizers.Tokenizer:
    """A tokenizer.json as the library reads it, without its truncation and padding."""
    import tokenizers

    try:
        backend = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:
        raise ValueError(f"tokenizer.json cannot be read: {error}") from error
    backend.no_padding()
    backend.no_truncation()
    return backend


def _fill(options: dict, stated: dict) -> None:
    """Complete the options by what a tokenizer.json states and tokenizer_config.json does not."""
    options["stated_tokens"] = stated.get("added_tokens") or []
    padding, truncation = stated.get("padding") or {}, stated.get("truncation") or {}
    filled = {
        "padding_side": (padding.get("direction") or "").lower(),
        "pad_token": padding.get("pad_token"),
        "truncation_side": (truncation.get("direction") or "").lower(),
    }
    for key, value in filled.items():
        if value and not options.get(key):
            options[key] = value


def _statements(stated: dict, kind: str) -> dict:
    """The settings of tokenizer_config.json that a tokenizer.json's steps amount to."""
    normalizer, words = stated.get("normalizer") or {}, stated.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    splits = words.get("pretokenizers", [words])
    types = [step.get("type") for step in steps]
    settings = {}
    if kind == "wordpiece" and "BertNormalizer" in types:
        step = steps[types.index("BertNormalizer")]
        settings = {
            "do_lower_case": step.get("lowercase"),
            "strip_accents": step.get("strip_accents"),
            "tokenize_chinese_chars": step.get("handle_chinese_chars"),
        }
    elif kind == "unigram":
        settings = {
            "do_lower_case": "Lowercase" in types,
            "keep_accents": "StripAccents" not in types,
            "split_by_punct": any(step.get("type") == "Punctuation" for step in splits),
        }
    for step in splits:
        if step.get("type") == "ByteLevel":
            settings["add_prefix_space"] = step.get("add_prefix_space")
        elif step.get("type") == "Metaspace":
            scheme = step.get("prepend_scheme", "always")
            settings["add_prefix_space"] = (
                scheme == "always" and step.get("add_prefix_space") is not False
            )
    return settings


def _from_json(
    data: bytes,
    stated: dict,
    options: dict,
    chosen: Family | None,
    is_rebuilt: bool,
    family: str | None,
) -> Vocabulary:
    """The vocabulary of a tokenizer.json, its steps as they stand or made anew by its class."""
    backend = _backend(data)
    ids = backend.get_vocab(with_added_tokens=True)
    kind = type(backend.model).__name__.lower()
    if kind not in ("wordpiece", "bpe", "unigram"):
        raise ValueError(f"tokenizer.json: model {kind!r} is not one of WordPiece, BPE, Unigram")
    if is_rebuilt and chosen.kind == kind and fits(chosen, options, ids):
        return _rebuild(stated, backend, options, chosen)
    if options.get("tokenizer_ids") == "original" and kind == "unigram":
        raise ValueError(NEEDS_MODEL)
    notes = []
    if is_rebuilt:
        notes.append(
            f"{source_of(options)} does not fit the {kind} vocabulary of tokenizer.json, which is "
            "taken as it stands"
        )
    if family is None and (chosen is None or not fits(chosen, options, ids)):
        chosen = FAMILIES[_guess(kind, ids, backend)]
    special = special_pieces(chosen, options, ids, "tokenizer.json")
    before = repr(backend.get_added_tokens_decoder())
    lacks_layout = backend.post_processor is None or not backend.num_special_tokens_to_add(False)
    add_tokens(backend, chosen, special, options)
    if lacks_layout:
        lay_out(backend, chosen, special)
    if options.get("tokenizer_ids") == "original" and kind == "wordpiece":
        backend.model.max_input_chars_per_word = wordpiece.ORIGINAL_LONGEST_WORD
        lacks_layout = True
    if chosen.name == "deberta-v2":
        notes.append("ids of tokenizer.json as it stands")
    style = options.get("tokenizer_ids") or "hf"
    changed = lacks_layout or before != repr(backend.get_added_tokens_decoder())
    return Vocabulary(backend, chosen, kind, special, style, changed, notes)


def _rebuild(
    stated: dict, backend: tokenizers.Tokenizer, options: dict, chosen: Family
) -> Vocabulary:
    """The steps of a family's class, before the vocabulary that a tokenizer.json holds."""
    statements = _statements(stated, chosen.kind)
    settings = {**statements, **{k: v for k, v in options.items() if v is not None}}
    if "strip_accents" in options:  # here null is a statement: as lower-casing is
        settings["strip_accents"] = options["strip_accents"]
    notes = [
        f"tokenizer_config.json overrules tokenizer.json: {key} is {options[key]!r}, not {value!r}"
        for key, value in statements.items()
        if options.get(key, value) != value and options.get(key) is not None
    ]
    model = stated["model"]
    if chosen.kind == "wordpiece":
        vocabulary = wordpiece.from_pieces(model["vocab"], settings, chosen, "tokenizer.json")
    elif chosen.kind == "bpe":
        pairs = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
        vocabulary = bpe.from_pairs(model["vocab"], pairs, settings, chosen, "tokenizer.json")
    else:
        charsmap = stated_charsmap(stated.get("normalizer"))
        lacks_model = chosen.name in ("albert", "xlnet") or not charsmap
        if lacks_model and ids_in_force(settings, chosen) == "original":
            if settings.get("tokenizer_ids") == "original":
                raise ValueError(NEEDS_MODEL)
            settings["tokenizer_ids"] = "hf"
            notes.append("there is no SentencePiece model, and tokenizer.json lacks its normalization")
        pieces = [(piece, score) for piece, score in model["vocab"]]
        vocabulary = unigram.from_pieces(pieces, charsmap, settings, chosen, "tokenizer.json")
    steps = [_steps_of(one) for one in (backend, vocabulary.backend)]
    if not notes and steps[0] != steps[1] and vocabulary.tokenizer_ids == "hf":
        notes.append(
            f"{source_of(options)} makes other steps than tokenizer.json states, and decides, as "
            "in transformers 5; tokenizer_class PreTrainedTokenizerFast takes tokenizer.json as it "
            "stands"
        )
    vocabulary.departures = notes + vocabulary.departures
    vocabulary.notes = notes + vocabulary.notes
    return vocabulary


def _steps_of(backend: tokenizers.Tokenizer) -> tuple[bytes | None, ...]:
    parts = (backend.normalizer, backend.pre_tokenizer)
    return tuple(None if part is None else part.__getstate__() for part in parts)


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
