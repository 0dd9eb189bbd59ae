"""A vocabulary ready for use, and the steps that all kinds of vocabulary file share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bertvariants_jax.text.families import FAMILIES, REQUIRED, Family

if TYPE_CHECKING:
    import tokenizers


@dataclass
class Vocabulary:
    """What a vocabulary file becomes.

    `resplit` maps the id of a piece that ends in a digit and a comma to the ids that ALBERT's and
    XLNet's own code cuts it into again (empty unless `original`).
    """

    backend: tokenizers.Tokenizer
    family: Family
    kind: str  # wordpiece | bpe | unigram
    special: dict[str, str]  # role -> piece
    resplit: dict[int, list[int]] = field(default_factory=dict)
    rows: list[str] | None = None  # id -> piece, where the file lists a piece twice


def told_family(options: dict, among: tuple[str, ...]) -> str | None:
    """The family that the folder's tokenizer class or model type names, if it is one of `among`."""
    class_name = (options.get("tokenizer_class") or "").removesuffix("Fast")
    for name in among:
        if FAMILIES[name].class_name == class_name and name != "modernbert":
            return name
    model_type = options.get("model_type")
    if model_type in ("electra", "ernie", "distilbert", "mobilebert"):
        model_type = "bert"
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


def fits(chosen: Family, options: dict, ids: dict[str, int]) -> bool:
    named = _named(chosen, options)
    return all(named[role] in ids for role in REQUIRED)


def special_pieces(
    chosen: Family, options: dict, ids: dict[str, int], where: str
) -> dict[str, str]:
    named = _named(chosen, options)
    missing = [named[role] for role in REQUIRED if named[role] not in ids]
    if missing:
        raise ValueError(
            f"{where}: {', '.join(missing)} not in the vocabulary, but a {chosen.name} tokenizer "
            "needs it; if this is another family, tell `family`"
        )
    added = {entry["content"] for entry in added_tokens(options).values()}
    return {role: piece for role, piece in named.items() if piece in ids or piece in added}


def added_tokens(options: dict) -> dict[int, dict]:
    """id -> AddedToken fields, from tokenizer_config.json and added_tokens.json, ids ascending."""
    found = {
        int(index): {"content": piece, "special": piece in options.get("special_pieces", ())}
        for piece, index in options.get("added_tokens", {}).items()
    }
    for index, entry in (options.get("added_tokens_decoder") or {}).items():
        found[int(index)] = entry
    return dict(sorted(found.items()))


def finish(
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
        if backend.token_to_id(piece) is None and piece not in special.values():
            continue
        backend.add_special_tokens([token(piece, lstrip=piece == mask and chosen.mask_eats_space)])
    for index, entry in added_tokens(options).items():
        piece = entry["content"]
        fields = {key: entry[key] for key in ("lstrip", "rstrip", "single_word") if key in entry}
        normalized = entry.get("normalized", False)
        if piece not in pieces or fields:
            whole = bool(entry.get("special", False)) or piece in pieces
            kept = AddedToken(piece, normalized=normalized, special=whole, **fields)
            (backend.add_special_tokens if whole else backend.add_tokens)([kept])
        if backend.token_to_id(piece) != index:
            raise ValueError(
                f"added token {piece!r} is said to have id {index}, but gets "
                f"{backend.token_to_id(piece)}: vocabulary and added tokens do not belong together"
            )
    names = {"cls": special["cls"], "sep": special["sep"]}
    single, pair = (template.format(**names) for template in chosen.layout)
    backend.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[
            (piece, backend.token_to_id(piece)) for piece in dict.fromkeys(names.values())
        ],
    )


def _position(backend: tokenizers.Tokenizer, piece: str, size: int) -> int:
    index = backend.token_to_id(piece)
    return size if index is None else index
