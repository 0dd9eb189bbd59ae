"""Unigram vocabularies: SentencePiece models of ALBERT, XLNet, DeBERTa v2/v3 and XLM-R.

They run on the `tokenizers` library, which keeps offsets into the original text and caches words.
That costs the conversion of the model, and gives SentencePiece's own ids (tests/text compares).
"""

from __future__ import annotations

import sys
import unicodedata

from bertvariants_jax.text.families import FAMILIES
from bertvariants_jax.text.vocabulary import Vocabulary, finish, special_pieces

UNDERLINE = "\u2581"  # the mark of a word's beginning
CONTROL = 3  # piece type in the model file
FILES = ("spiece.model", "spm.model", "sentencepiece.bpe.model")


def sentencepiece_file(files: dict[str, bytes]) -> str | None:
    """Name of the SentencePiece model among `files`: a usual name, else the only `*.model`."""
    for name in FILES:
        if name in files:
            return name
    models = [name for name in files if name.endswith(".model")]
    return models[0] if len(models) == 1 else None


def from_sentencepiece(
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
                f"{name}: its special pieces ({', '.join(controls) or 'none'}) are those of no "
                "known family; tell `family`"
            )
    chosen = FAMILIES[family]
    unk = proto.trainer_spec.unk_id
    charsmap = proto.normalizer_spec.precompiled_charsmap
    precompiled = [normalizers.Precompiled(charsmap)] if charsmap else []
    words: list = [pre_tokenizers.WhitespaceSplit()]
    byte_fallback = False

    if family == "xlm-roberta":
        # fairseq puts its own four in front, drops SentencePiece's three, adds the mask.
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
        strip = normalizers.StripAccents()
        if original:
            steps = steps if family == "xlnet" else []  # ALBERT's code leaves the quotes
            # Python's idea of blanks and of combining characters is not quite the library's.
            steps.insert(0, normalizers.Replace(tokenizers.Regex(r"[\s\x1c-\x1f\x85]+"), " "))
            strip = normalizers.Replace(tokenizers.Regex(f"[{_combining()}]"), "")
        if not options.get("keep_accents", False):
            steps += [normalizers.NFKD(), strip]
        if options.get("do_lower_case", family == "albert"):
            steps.append(normalizers.Lowercase())
        steps += precompiled
        if not original:
            # The published tokenizer.json files make these pieces too dear to use, in place of
            # cutting them again.
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
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), backend.decoder])
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    if family == "deberta-v2":
        ids.setdefault(
            "[MASK]", len(pieces)
        )  # the model has none; it is added after the last piece
    special = special_pieces(chosen, options, ids, name)
    finish(backend, chosen, special, options, controls)
    vocabulary = Vocabulary(backend, chosen, "unigram", special)
    if original and family in ("albert", "xlnet"):
        vocabulary.resplit = _resplit_table(data, pieces)
    return vocabulary


def _combining() -> str:
    everything = map(chr, range(sys.maxunicode + 1))
    return "".join(char for char in everything if unicodedata.combining(char))


def _number_comma(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


def _resplit_table(data: bytes, pieces: list[tuple[str, float]]) -> dict[int, list[int]]:
    """id of "9," and its like -> ids of "9" and ",", as ALBERT's encode_pieces gives them."""
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
