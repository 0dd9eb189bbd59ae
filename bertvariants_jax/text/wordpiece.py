"""WordPiece vocabularies: BERT's vocab.txt, one piece a line, and ERNIE's piece<TAB>id."""

from __future__ import annotations

from bertvariants_jax.text.families import FAMILIES
from bertvariants_jax.text.vocabulary import Vocabulary, finish, special_pieces

ORIGINAL_LONGEST_WORD = 200  # characters; longer words are unknown. transformers: 100


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
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    rows = parse_vocab_txt(data)
    ids = {piece: index for index, piece in enumerate(rows) if piece is not None}
    chosen = FAMILIES[family or "bert"]
    special = special_pieces(chosen, options, ids, "vocab.txt")
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=special["unk"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=options.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    finish(backend, chosen, special, options)
    return Vocabulary(backend, chosen, "wordpiece", special, rows=rows)
