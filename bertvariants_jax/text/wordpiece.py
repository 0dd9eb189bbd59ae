"""WordPiece vocabularies: BERT's vocab.txt, one piece a line, and ERNIE's piece<TAB>id."""

from __future__ import annotations

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

LONGEST_WORD = 100  # characters; longer words are unknown
ORIGINAL_LONGEST_WORD = 200


def parse_vocab_txt(data: bytes) -> list[str | None]:
    """id -> piece, of BERT's one piece a line or ERNIE's `piece<TAB>id`.

    Lines end at "\\n" alone: BERT's Chinese vocabulary holds U+2028, at which `str.splitlines`
    would break and shift every later id.
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


def from_vocab_txt(data: bytes, options: dict, family: str | None) -> Vocabulary:
    """WordPiece of a vocab.txt."""
    rows = parse_vocab_txt(data)
    ids = {piece: index for index, piece in enumerate(rows) if piece is not None}
    return from_pieces(ids, options, FAMILIES[family or "bert"], "vocab.txt", rows)


def from_pieces(
    ids: dict[str, int],
    options: dict,
    chosen: Family,
    where: str,
    rows: list[str | None] | None = None,
) -> Vocabulary:
    """BERT's steps before a WordPiece vocabulary, by the settings of tokenizer_config.json."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    notes: list[str] = []
    tokenizer_ids = ids_in_force(options, chosen)
    special = special_pieces(chosen, options, ids, where)
    lower, accents = decide_case(options, ids, True, notes)
    departures = notes if not lower or accents is False else []
    longest = ORIGINAL_LONGEST_WORD if tokenizer_ids == "original" else LONGEST_WORD
    backend = tokenizers.Tokenizer(
        models.WordPiece(ids, unk_token=special["unk"], max_input_chars_per_word=longest)
    )
    settings = {
        "do_lower_case": lower,
        "strip_accents": None if accents is None else setting(options, "strip_accents", accents),
        "tokenize_chinese_chars": setting(options, "tokenize_chinese_chars", True),
    }
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings["tokenize_chinese_chars"],
        strip_accents=settings["strip_accents"],
        lowercase=lower,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    add_tokens(backend, chosen, special, options)
    lay_out(backend, chosen, special)
    return Vocabulary(
        backend,
        chosen,
        "wordpiece",
        special,
        tokenizer_ids,
        notes=notes,
        departures=departures,
        settings=settings,
        rows=rows,
    )
