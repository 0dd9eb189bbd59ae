"""Unigram vocabularies: SentencePiece models of ALBERT, XLNet, DeBERTa v2/v3, XLM-R and CamemBERT.

They run on the `tokenizers` library, which keeps offsets into the original text and caches words.
That costs the conversion of the model, and gives SentencePiece's own ids (tests/text compares).
"""

from __future__ import annotations

import base64
import sys
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bertvariants_jax.text.families import FAMILIES, Family
from bertvariants_jax.text.vocabulary import (
    Vocabulary,
    add_tokens,
    decide_case,
    ids_in_force,
    lay_out,
    setting,
    special_pieces,
)

if TYPE_CHECKING:
    import tokenizers

UNDERLINE = "\u2581"  # the mark of a word's beginning
CONTROL = 3  # piece type in the model file
FILES = ("spiece.model", "spm.model", "sentencepiece.bpe.model")
FAIRSEQ = ("xlm-roberta", "camembert")  # nothing is done to their text but by SentencePiece
BYTES = 256  # pieces <0x00> to <0xFF>, for characters that have none


def sentencepiece_file(files: dict[str, bytes]) -> str | None:
    """Name of the SentencePiece model among `files`: a usual name, else the only `*.model`."""
    for name in FILES:
        if name in files:
            return name
    models = [name for name in files if name.endswith(".model")]
    return models[0] if len(models) == 1 else None


def from_sentencepiece(data: bytes, name: str, options: dict, family: str | None) -> Vocabulary:
    """Unigram of a SentencePiece model; the family is told by its special pieces unless given."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:
        raise ValueError(f"{name} is not a SentencePiece model: {error}") from error
    if proto.trainer_spec.model_type != 1:
        raise ValueError(f"{name}: only Unigram SentencePiece models are used by this family")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    controls = [piece.piece for piece in proto.pieces if piece.type == CONTROL]
    chosen = FAMILIES[family or _family_of(pieces, controls, name)]
    tokenizer_ids = ids_in_force(options, chosen)
    resplit = {}
    if chosen.name == "xlm-roberta":
        # fairseq puts its own four in front, drops SentencePiece's three, adds the mask.
        head = ["<s>", "<pad>", "</s>", "<unk>"]
        pieces = [(piece, 0.0) for piece in head] + pieces[3:] + [("<mask>", 0.0)]
    elif chosen.name == "camembert":
        # Its dictionary was laid over a model that has <s> and </s> too: five in front, of which
        # the model's own take the places of two.
        head = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>"]
        head = [(piece, 0.0) for piece in head] + [("<unk>NOTUSED", -100.0)]
        pieces = [*head, *pieces[1:], ("<mask>", 0.0)]
    elif chosen.name in ("albert", "xlnet") and tokenizer_ids == "original":
        resplit = _resplit_table(data, pieces)
    elif chosen.name in ("albert", "xlnet"):
        # The published tokenizer.json files make these pieces too dear to use, in place of cutting
        # them again.
        pieces = [
            (piece, score - 100.0 if _number_comma(piece) else score) for piece, score in pieces
        ]
    charsmap = proto.normalizer_spec.precompiled_charsmap
    vocabulary = from_pieces(pieces, charsmap, options, chosen, name, controls)
    vocabulary.resplit = resplit
    return vocabulary


def _family_of(pieces: list[tuple[str, float]], controls: list[str], name: str) -> str:
    known = {piece for piece, _ in pieces[:64]}
    if {"<cls>", "<sep>"} <= known:
        return "xlnet"
    if "[CLS]" in known:
        return "albert" if "<pad>" in known else "deberta-v2"
    if [piece for piece, _ in pieces[:3]] == ["<unk>", "<s>", "</s>"]:
        return "xlm-roberta"
    raise ValueError(
        f"{name}: its special pieces ({', '.join(controls) or 'none'}) are those of no "
        "known family; tell `family`"
    )


def from_pieces(
    pieces: list[tuple[str, float]],
    charsmap: bytes,
    options: dict,
    chosen: Family,
    where: str,
    controls: Iterable[str] = (),
) -> Vocabulary:
    """The steps before a Unigram vocabulary, by the settings of tokenizer_config.json.

    Args:
      pieces: with their scores, in the order of ids.
      charsmap: the SentencePiece model's compiled normalization, empty for none.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    if options.get("vocab_type", "spm") != "spm":
        raise ValueError(f"vocab_type {options['vocab_type']!r} with {where}: expected 'spm'")
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    known = dict(ids)
    if chosen.name == "deberta-v2":
        known.setdefault("[MASK]", len(pieces))  # the model has none: it is added behind the last
    special = special_pieces(chosen, options, known, where)
    notes: list[str] = []
    is_original = ids_in_force(options, chosen) == "original"
    byte_fallback = is_original and all(f"<0x{byte:02X}>" in ids for byte in range(BYTES))

    backend = tokenizers.Tokenizer(models.Unigram(pieces, ids[special["unk"]], byte_fallback))
    steps, settings = _steps(charsmap, options, chosen, ids, notes)
    if steps:
        backend.normalizer = steps[0] if len(steps) == 1 else normalizers.Sequence(steps)
    keeps_blanks = chosen.name == "deberta-v2" or (is_original and chosen.name in FAIRSEQ)
    settings["add_prefix_space"] = chosen.name == "xlnet" or setting(
        options, "add_prefix_space", True
    )
    words: list = [] if keeps_blanks else [pre_tokenizers.WhitespaceSplit()]
    if chosen.name == "deberta-v2":
        settings["split_by_punct"] = setting(options, "split_by_punct", False)
    if settings.get("split_by_punct"):
        words.append(pre_tokenizers.Punctuation(behavior="isolated"))
    without = "first" if chosen.name == "deberta-v2" else "never"
    scheme = "always" if settings["add_prefix_space"] else without
    metaspace = {"replacement": UNDERLINE, "prepend_scheme": scheme}
    backend.pre_tokenizer = pre_tokenizers.Sequence([*words, pre_tokenizers.Metaspace(**metaspace)])
    backend.decoder = decoders.Metaspace(**metaspace)
    if byte_fallback:
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), backend.decoder])
    add_tokens(backend, chosen, special, options, controls)
    lay_out(backend, chosen, special)
    decided = settings.get("do_lower_case")
    departures = list(notes) if notes and decided != (chosen.name == "albert") else []
    if chosen.name == "deberta-v2":
        notes.append(
            "ids of the model's own SentencePiece (tokenizer_ids 'original'; 'hf' gives those of "
            "transformers 5, which leaves out its normalization and its bytes)"
            if is_original
            else "ids of transformers 5 (tokenizer_ids 'hf'), which leaves out the SentencePiece "
            "model's normalization and bytes"
        )
    style = "original" if is_original else "hf"
    return Vocabulary(
        backend,
        chosen,
        "unigram",
        special,
        style,
        notes=notes,
        departures=departures,
        settings=settings,
    )


def _steps(
    charsmap: bytes, options: dict, chosen: Family, ids: dict[str, int], notes: list[str]
) -> tuple[list[tokenizers.normalizers.Normalizer], dict[str, bool]]:
    """What is done to a text before it is cut into words, and the settings that it follows."""
    import tokenizers
    from tokenizers import normalizers

    is_original = ids_in_force(options, chosen) == "original"
    precompiled = [normalizers.Precompiled(charsmap)] if charsmap else []
    # SentencePiece's own: its charsmap by the longest match, one blank for several, none around.
    # `Precompiled` takes whole graphemes for matches and loses the rest of longer ones ("fi" with an
    # accent on the ligature); composed characters leave it none but single ones.
    whole_model = [
        *([normalizers.NFC(), *precompiled] if precompiled else []),
        normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        normalizers.Replace(tokenizers.Regex("^ | $"), ""),
    ]
    if chosen.name in FAIRSEQ:
        return whole_model if is_original else precompiled, {}

    lowers, _ = decide_case(options, ids, chosen.name == "albert", notes)
    lower = [normalizers.Lowercase()] if lowers else []
    settings = {"do_lower_case": lowers}
    if chosen.name == "deberta-v2" and is_original:
        return [*lower, *whole_model], settings
    if chosen.name == "deberta-v2":
        blanks = normalizers.Replace(tokenizers.Regex(r"\s{2,}|[\n\r\t]"), " ")
        strip = normalizers.Strip(left=False, right=True)
        return [*lower, blanks, normalizers.NFC(), strip], settings

    keeps_accents = setting(options, "keep_accents", False)
    if keeps_accents and chosen.name == "xlnet" and not is_original:
        keeps_accents = False
        notes.append(
            "keep_accents is stated but not obeyed, as by transformers 5; tokenizer_ids "
            "'original' obeys it"
        )
    quotes = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    accents = [normalizers.NFKD(), normalizers.StripAccents()]
    if is_original:
        # Python's idea of blanks and of combining characters is not quite the library's.
        blanks = normalizers.Replace(tokenizers.Regex(r"[\s\x1c-\x1f\x85]+"), " ")
        quotes = [blanks, *(quotes if chosen.name == "xlnet" else [])]  # ALBERT's code leaves them
        accents[1] = normalizers.Replace(tokenizers.Regex(f"[{_combining()}]"), "")
    settings["keep_accents"] = keeps_accents
    return [*quotes, *([] if keeps_accents else accents), *lower, *precompiled], settings


def stated_charsmap(normalizer: dict | None) -> bytes:
    """The compiled normalization that a tokenizer.json's normalizer holds, empty if none."""
    steps = (normalizer or {}).get("normalizers", [normalizer or {}])
    stated = [step["precompiled_charsmap"] for step in steps if step.get("precompiled_charsmap")]
    return base64.b64decode(stated[0]) if stated else b""


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
