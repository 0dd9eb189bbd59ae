"""Vocabulary files -> a `tokenizers.Tokenizer`: WordPiece, byte-level BPE and SentencePiece Unigram, per family.

The pipelines are those of `transformers` for the published checkpoints; where the papers' own code cuts differently,
`original=True` follows the paper (see `Tokenizer.load`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bertvariants_jax.text.families import FAMILIES, REQUIRED, Family

if TYPE_CHECKING:
    import tokenizers

UNDERLINE = "\u2581"  # SentencePiece's mark of a word's beginning
BYTE_SPACE = "\u0120"  # byte-level BPE's
CONTROL = 3  # SentencePiece piece type
SENTENCEPIECE_FILES = ("spiece.model", "spm.model", "sentencepiece.bpe.model")


@dataclass
class Vocabulary:
    """A vocabulary ready for use: the backend, its family, and what `tokens` lists beyond the backend's own map.

    `resplit` maps the id of a piece that ends in a digit and a comma to the ids it is cut into again (ALBERT's and
    XLNet's own code; empty unless `original`). `files` are the bytes that `save` writes out again.
    """

    backend: tokenizers.Tokenizer
    family: Family
    kind: str  # wordpiece | bpe | unigram
    special: dict[str, str]  # role -> piece
    resplit: dict[int, list[int]] = field(default_factory=dict)
    rows: list[str] | None = None  # id -> piece, where the file lists a piece twice


def read(files: dict[str, bytes], options: dict, family: str | None, original: bool) -> Vocabulary:
    """The vocabulary in `files` (file name -> bytes). `options` is tokenizer_config.json with its relatives merged in.

    Raises `FileNotFoundError` where no vocabulary is among them, `ValueError` where it is not what it should be.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"unknown tokenizer family {family!r}: choose one of {', '.join(FAMILIES)}")
    model = sentencepiece_file(files)
    if "tokenizer.json" in files and not (original and model):
        found = _from_json(files["tokenizer.json"], options, family)
        if original and found.kind == "unigram":
            raise ValueError("original=True needs the SentencePiece model; there is only tokenizer.json")
        return found
    if model:
        return _from_sentencepiece(files[model], model, options, family, original)
    if "vocab.txt" in files:
        return _from_vocab_txt(files["vocab.txt"], options, family)
    if "vocab.json" in files and "merges.txt" in files:
        return _from_merges(files["vocab.json"], files["merges.txt"], options, family)
    raise FileNotFoundError(
        "no vocabulary found: expected tokenizer.json, vocab.txt, vocab.json with merges.txt, or one of "
        f"{', '.join(SENTENCEPIECE_FILES)}"
    )


def sentencepiece_file(files: dict[str, bytes]) -> str | None:
    """Name of the SentencePiece model among `files`: a usual name, else the only `*.model`."""
    for name in SENTENCEPIECE_FILES:
        if name in files:
            return name
    models = [name for name in files if name.endswith(".model")]
    return models[0] if len(models) == 1 else None


# ------------------------------------------------------------------------------------------------ WordPiece


def parse_vocab_txt(data: bytes) -> list[str | None]:
    """id -> piece, of BERT's one piece a line or ERNIE's `piece<TAB>id`.

    Lines end at "\\n" alone: BERT's Chinese vocabulary holds U+2028, at which `str.splitlines` would break and shift
    every later id.
    """
    lines = data.decode("utf-8-sig").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    lines = [line.removesuffix("\r") for line in lines]
    if not lines:
        raise ValueError("vocab.txt is empty")
    if "\t" not in lines[0]:
        # A piece is stripped as BERT's reader does, unless nothing else would be left of it.
        return [line.strip() if line.strip().removeprefix("##") else line for line in lines]
    pieces: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        piece, tab, index = line.rpartition("\t")
        if not tab or not index.strip().isdigit():
            raise ValueError(f"vocab.txt line {number}: expected piece<TAB>id, found {line!r}")
        pieces[int(index)] = piece
    return [pieces.get(index) for index in range(max(pieces) + 1)]


def _from_vocab_txt(data: bytes, options: dict, family: str | None) -> Vocabulary:
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    rows = parse_vocab_txt(data)
    ids = {piece: index for index, piece in enumerate(rows) if piece is not None}
    chosen = FAMILIES[family or "bert"]
    special = _special(chosen, options, ids, "vocab.txt")
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=special["unk"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=options.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    _finish(backend, chosen, special, options)
    return Vocabulary(backend, chosen, "wordpiece", special, rows=rows)


# ------------------------------------------------------------------------------------------------ byte-level BPE


def _from_merges(vocab: bytes, merges: bytes, options: dict, family: str | None) -> Vocabulary:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    ids = json.loads(vocab)
    pairs = []
    for number, line in enumerate(merges.decode("utf-8").split("\n"), 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2:
            raise ValueError(f"merges.txt line {number}: expected two pieces, found {line!r}")
        pairs.append((parts[0], parts[1]))
    name = family or _told(options, ("roberta", "deberta", "modernbert"))
    if name is None:
        name = "roberta" if "<s>" in ids else "deberta"
    chosen = FAMILIES[name]
    special = _special(chosen, options, ids, "vocab.json")
    prefix = options.get("add_prefix_space", False)
    backend = tokenizers.Tokenizer(
        models.BPE(
            ids, pairs, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False
        )
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    _finish(backend, chosen, special, options)
    if name == "roberta":  # the same layout as the template's, and offsets without the blank
        backend.post_processor = processors.RobertaProcessing(
            (special["sep"], ids[special["sep"]]),
            (special["cls"], ids[special["cls"]]),
            trim_offsets=options.get("trim_offsets", True),
            add_prefix_space=prefix,
        )
    return Vocabulary(backend, chosen, "bpe", special)


# ------------------------------------------------------------------------------------------------ SentencePiece


def _from_sentencepiece(
    data: bytes, name: str, options: dict, family: str | None, original: bool
) -> Vocabulary:
    import tokenizers
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:
        raise ValueError(f"{name} is not a SentencePiece model: {error}") from error
    if proto.trainer_spec.model_type != 1:
        raise ValueError(f"{name}: only Unigram SentencePiece models are used by this family")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    controls = [piece.piece for piece in proto.pieces if piece.type == CONTROL]
    known = {piece for piece, _ in pieces[:64]}
    if family is None:
        if {"<cls>", "<sep>"} <= known:
            family = "xlnet"
        elif "[CLS]" in known:
            family = "albert" if "<pad>" in known else "deberta-v2"
        elif [piece for piece, _ in pieces[:3]] == ["<unk>", "<s>", "</s>"]:
            family = "xlm-roberta"
        else:
            raise ValueError(
                f"{name}: its special pieces are those of no known family "
                f"({', '.join(sorted(known & set('<s> </s> <unk> <pad> [PAD]'.split())))}); tell `family`"
            )
    chosen = FAMILIES[family]
    unk = proto.trainer_spec.unk_id
    charsmap = proto.normalizer_spec.precompiled_charsmap
    precompiled = [normalizers.Precompiled(charsmap)] if charsmap else []
    words: list = [pre_tokenizers.WhitespaceSplit()]
    byte_fallback = False

    if family == "xlm-roberta":
        # fairseq puts its own four in front, drops SentencePiece's three, and adds the mask at the end.
        head = ["<s>", "<pad>", "</s>", "<unk>"]
        pieces = [(piece, 0.0) for piece in head] + pieces[3:] + [("<mask>", 0.0)]
        unk, steps = 3, precompiled
    elif family == "deberta-v2":
        blanks = tokenizers.Regex(r"\s{2,}|[\n\r\t]")
        lower = [normalizers.Lowercase()] if options.get("do_lower_case", False) else []
        if original:
            # SentencePiece's own clean-up, and bytes for characters without a piece.
            collapse = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
            steps = [*lower, *precompiled, collapse, normalizers.Strip()]
            byte_fallback = proto.trainer_spec.byte_fallback
        else:
            steps = [
                *lower,
                normalizers.Replace(blanks, " "),
                normalizers.NFC(),
                normalizers.Strip(left=False, right=True),
            ]
        words = []
        if options.get("split_by_punct", False):
            words.append(pre_tokenizers.Punctuation(behavior="isolated"))
        if options.get("vocab_type", "spm") != "spm":
            raise ValueError(f"vocab_type {options['vocab_type']!r} with {name}: expected 'spm'")
    else:
        steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if original and family == "albert":
            steps = []  # ALBERT's code leaves the quotes; XLNet's turns them
        if not options.get("keep_accents", False):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if options.get("do_lower_case", family == "albert"):
            steps.append(normalizers.Lowercase())
        steps += precompiled
        if not original:
            # The published tokenizer.json files make these pieces too dear to use, in place of cutting them again.
            pieces = [
                (piece, score - 100.0 if _number_comma(piece) else score) for piece, score in pieces
            ]

    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk, byte_fallback))
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    metaspace = {"replacement": UNDERLINE, "prepend_scheme": "always"}
    backend.pre_tokenizer = pre_tokenizers.Sequence([*words, pre_tokenizers.Metaspace(**metaspace)])
    backend.decoder = decoders.Metaspace(**metaspace)
    if byte_fallback:
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(**metaspace)])
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    if family == "deberta-v2":
        ids.setdefault("[MASK]", len(pieces))  # the model has none; it is added after the last piece
    special = _special(chosen, options, ids, name)
    _finish(backend, chosen, special, options, controls)
    vocabulary = Vocabulary(backend, chosen, "unigram", special)
    if original and family in ("albert", "xlnet"):
        vocabulary.resplit = _resplit_table(data, pieces)
    return vocabulary


def _number_comma(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


def _resplit_table(data: bytes, pieces: list[tuple[str, float]]) -> dict[int, list[int]]:
    """id of "9," and its like -> ids of "9" and "," (ALBERT's tokenization.py, XLNet's prepro_utils.py)."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    table = {}
    for index, (piece, _) in enumerate(pieces):
        if not _number_comma(piece):
            continue
        parts = processor.encode(piece[:-1].replace(UNDERLINE, ""), out_type=str)
        if piece[0] != UNDERLINE and parts[0][0] == UNDERLINE:
            parts = parts[1:] if len(parts[0]) == 1 else [parts[0][1:], *parts[1:]]
        table[index] = [processor.piece_to_id(part) for part in [*parts, ","]]
    return table


# ------------------------------------------------------------------------------------------------ tokenizer.json


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
        told = _told(options, tuple(FAMILIES))
        family = told if told and _fits(FAMILIES[told], options, ids) else _guess(kind, ids, backend)
    chosen = FAMILIES[family]
    special = _special(chosen, options, ids, "tokenizer.json")
    if backend.post_processor is None or not backend.num_special_tokens_to_add(False):
        _finish(backend, chosen, special, options)
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
    if "<s>" in ids:
        return "roberta" if kind == "bpe" else "xlm-roberta"
    raise ValueError(
        "tokenizer.json: neither [CLS] nor <s> is in its vocabulary, so its family is unknown; tell `family`"
    )


# ------------------------------------------------------------------------------------------------ shared steps


def _told(options: dict, among: tuple[str, ...]) -> str | None:
    """The family that tokenizer_config.json's class or config.json's model type names, if it is one of `among`."""
    class_name = (options.get("tokenizer_class") or "").removesuffix("Fast")
    for name in among:
        if FAMILIES[name].class_name == class_name and name != "modernbert":
            return name
    model_type = options.get("model_type")
    model_type = "bert" if model_type in ("electra", "ernie", "distilbert", "mobilebert") else model_type
    return model_type if model_type in among else None


def _named(chosen: Family, options: dict) -> dict[str, str]:
    """Role -> piece: the family's, or what the folder's own files say."""
    named = dict(chosen.tokens)
    for role in named:
        value = options.get(f"{role}_token")
        value = value.get("content") if isinstance(value, dict) else value
        if value:
            named[role] = value
    return named


def _fits(chosen: Family, options: dict, ids: dict[str, int]) -> bool:
    named = _named(chosen, options)
    return all(named[role] in ids for role in REQUIRED)


def _special(chosen: Family, options: dict, ids: dict[str, int], where: str) -> dict[str, str]:
    named = _named(chosen, options)
    missing = [named[role] for role in REQUIRED if named[role] not in ids]
    if missing:
        raise ValueError(
            f"{where}: {', '.join(missing)} not in the vocabulary, but a {chosen.name} tokenizer needs it; "
            "if this is another family, tell `family`"
        )
    added = {entry["content"] for entry in added_tokens(options).values()}
    return {role: piece for role, piece in named.items() if piece in ids or piece in added}


def added_tokens(options: dict) -> dict[int, dict]:
    """id -> AddedToken fields, from `added_tokens_decoder` (tokenizer_config.json) and added_tokens.json."""
    found = {
        int(index): {"content": piece, "special": piece in options.get("special_pieces", ())}
        for piece, index in options.get("added_tokens", {}).items()
    }
    for index, entry in (options.get("added_tokens_decoder") or {}).items():
        found[int(index)] = entry
    return dict(sorted(found.items()))


def _finish(
    backend: tokenizers.Tokenizer,
    chosen: Family,
    special: dict[str, str],
    options: dict,
    controls: list[str] = (),
) -> None:
    """Make the special pieces whole tokens wherever they stand in a text, and put the layout on."""
    from tokenizers import AddedToken, processors

    def token(piece: str, **fields) -> AddedToken:
        return AddedToken(piece, normalized=False, special=True, **fields)

    mask = special.get("mask")
    pieces = dict.fromkeys([*controls, *special.values(), *chosen.extra])
    size = backend.get_vocab_size()
    for piece in sorted(pieces, key=lambda piece: _position(backend, piece, size)):
        if piece in chosen.extra and backend.token_to_id(piece) is None:
            continue
        if piece in controls and backend.token_to_id(piece) is None:
            continue
        backend.add_special_tokens([token(piece, lstrip=piece == mask and chosen.mask_eats_space)])
    for index, entry in added_tokens(options).items():
        piece = entry["content"]
        fields = {name: entry[name] for name in ("lstrip", "rstrip", "single_word") if name in entry}
        normalized = entry.get("normalized", False)
        if piece not in pieces or fields:
            whole = bool(entry.get("special", False)) or piece in pieces
            kept = AddedToken(piece, normalized=normalized, special=whole, **fields)
            (backend.add_special_tokens if whole else backend.add_tokens)([kept])
        if backend.token_to_id(piece) != index:
            raise ValueError(
                f"added token {piece!r} is said to have id {index}, but gets {backend.token_to_id(piece)}: "
                "the vocabulary file and the added tokens do not belong together"
            )
    names = {"cls": special["cls"], "sep": special["sep"]}
    single, pair = (template.format(**names) for template in chosen.layout)
    backend.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(piece, backend.token_to_id(piece)) for piece in sorted(set(names.values()))],
    )


def _position(backend: tokenizers.Tokenizer, piece: str, size: int) -> int:
    index = backend.token_to_id(piece)
    return size if index is None else index
