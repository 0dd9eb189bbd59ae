"""A vocabulary ready for use, and the steps that all kinds of vocabulary file share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bertvariants_jax.text.families import (
    FAMILIES,
    GENERIC,
    MODEL_FAMILIES,
    NAMES,
    REQUIRED,
    Family,
)

if TYPE_CHECKING:
    import tokenizers

# A share of pieces, and never a single one, that shows that a vocabulary tells capitals (or
# accented letters) apart: BERT's cased ones have 23 to 32% with capitals, uncased ones below 1%.
TELLING_SHARE = 0.05
MARKUP = re.compile(r"\[.*\]|<.*>")  # [CLS], [unused1], <s>: no evidence of casing


class ForeignTokenizer(ValueError):
    """A folder's tokenizer is of a class that is not known here."""


@dataclass
class Vocabulary:
    """What a vocabulary file becomes.

    `tokenizer_ids` says whose ids it gives (`families.IDS`); `is_rebuilt` that the steps are those
    of the folder's tokenizer class and settings, which tokenizer.json need not state; `notes` say
    what was decided that the files do not state or state twice; `settings` are those in force, by
    their names in tokenizer_config.json (none where tokenizer.json stands); `departures` are those
    notes of which earlier versions of this library knew nothing, and gave other ids. `resplit` maps the id of a piece
    that ends in a digit and a comma to the ids that ALBERT's and XLNet's own code cuts it into
    again (empty unless "original").
    """

    backend: tokenizers.Tokenizer
    family: Family
    kind: str  # wordpiece | bpe | unigram
    special: dict[str, str]  # role -> piece
    tokenizer_ids: str = "hf"
    is_rebuilt: bool = True
    notes: list[str] = field(default_factory=list)
    departures: list[str] = field(default_factory=list)
    settings: dict[str, bool | None] = field(default_factory=dict)
    resplit: dict[int, list[int]] = field(default_factory=dict)
    rows: list[str] | None = None  # id -> piece, where the file lists a piece twice


def stated_family(options: dict) -> tuple[str | None, bool]:
    """The family that a folder's tokenizer class or model type names, and whether that class makes
    the steps anew (else tokenizer.json stands), as `transformers` decides it.

    Raises `ForeignTokenizer` for a class, or code of the folder's own, that is not known here.
    """
    code = options.get("auto_map")
    code = code.get("AutoTokenizer") if isinstance(code, dict) else code
    if code:
        name = next(part for part in (code if isinstance(code, list | tuple) else [code]) if part)
        raise ForeignTokenizer(
            f"its tokenizer is code of its own, {name}, which is not run here; {_REMEDY}"
        )
    class_name, model_type = options.get("tokenizer_class") or "", options.get("model_type")
    if not isinstance(class_name, str):
        raise ValueError(f"tokenizer_class should be a name, not {class_name!r}")
    model_family = MODEL_FAMILIES.get(model_type, (None,))[0]
    if not class_name or class_name in GENERIC:
        stands = class_name in GENERIC or model_type in ("modernbert", "xlm-roberta-xl")
        return model_family, model_family is not None and not stands
    for family in FAMILIES.values():
        if class_name.removesuffix("Fast") in family.classes:
            return family.name, model_type != "modernbert"
    raise ForeignTokenizer(f"tokenizer class {class_name} is not known here; {_REMEDY}")


_REMEDY = (
    "load the weights with tokenizer=False, or with tokenizer=FOLDER (or a Tokenizer, such as "
    "Tokenizer.load(FOLDER, family=NAME)) that gives the same ids"
)


def refuse_unknown_model(options: dict) -> None:
    """Raise `ForeignTokenizer` where only a model type says what vocabulary files are of, and is
    not known: the name of a file is none of a tokenizer."""
    model_type = options.get("model_type")
    if model_type and model_type not in MODEL_FAMILIES:
        raise ForeignTokenizer(
            f"model_type {model_type!r} names no tokenizer that is known here; {_REMEDY}"
        )


def source_of(options: dict) -> str:
    """What the family was told by, for messages."""
    class_name = options.get("tokenizer_class")
    if class_name and class_name not in GENERIC:
        return f"tokenizer class {class_name}"
    return f"model_type {options.get('model_type')!r}"


def misfit(options: dict, family: Family, vocabulary: str) -> ForeignTokenizer:
    """The error for a folder whose class or model type wants other vocabulary files."""
    needs = {
        "wordpiece": "vocab.txt",
        "bpe": "vocab.json with merges.txt",
        "unigram": "a SentencePiece model",
    }
    return ForeignTokenizer(
        f"{source_of(options)} reads {needs[family.kind]} (or tokenizer.json), but there is only "
        f"{vocabulary}, which may be of another tokenizer; name its class in "
        f"tokenizer_config.json, or tell `family`, or {_REMEDY}"
    )


def setting(options: dict, key: str, default: bool) -> bool:
    """A setting of tokenizer_config.json that is true or false; null is as if it were not there."""
    value = options.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ValueError(f"tokenizer_config.json: {key} should be true or false, not {value!r}")
    return value


def ids_in_force(options: dict, family: Family) -> str:
    """Whose ids are asked for (`families.IDS`), the family's where nothing is."""
    return options.get("tokenizer_ids") or family.tokenizer_ids


def tells_case(pieces: Iterable[str]) -> bool | None:
    """Whether a vocabulary keeps capitals apart; None if it has no letters that know case."""
    cased = [p for p in pieces if p.lower() != p.upper() and not MARKUP.fullmatch(p)]
    return _tells(cased, lambda piece: piece != piece.lower()) if cased else None


def tells_accents(pieces: Iterable[str]) -> bool:
    """Whether a vocabulary keeps accented letters (all that BERT strips: category Mn) apart."""
    worded = [p for p in pieces if any(map(str.isalpha, p)) and not MARKUP.fullmatch(p)]
    return _tells(
        worded,
        lambda piece: any(
            unicodedata.category(char) == "Mn" for char in unicodedata.normalize("NFD", piece)
        ),
    )


def _tells(pieces: list[str], is_telling) -> bool:
    count = sum(map(is_telling, pieces))
    return count > 1 and count >= TELLING_SHARE * len(pieces)


def decide_case(
    options: dict, pieces: Iterable[str], default: bool, notes: list[str]
) -> tuple[bool, bool | None]:
    """Whether to lower-case, and to strip accents, where a folder does not state it.

    Its vocabulary decides: words in lower case would miss the pieces of a cased one. `default` is
    what `transformers` does, which holds for a vocabulary without letters.

    Returns:
      lower-case or not, and strip accents or not (None: if lower-cased).
    """
    accents = options.get("strip_accents")
    if options.get("do_lower_case") is not None:
        return setting(options, "do_lower_case", default), accents
    pieces = list(pieces)
    is_cased = tells_case(pieces)
    lower = default if is_cased is None else not is_cased
    if lower and accents is None and tells_accents(pieces):
        accents = False
    kind = {None: "has no letters that know case", True: "is cased", False: "is uncased"}[is_cased]
    done = "text is lower-cased" if lower else "text keeps its case"
    done += " and its accents" if lower and accents is False else ""
    notes.append(f"no file states do_lower_case: the vocabulary {kind}, so {done}")
    return lower, accents


def special_pieces(
    chosen: Family, options: dict, ids: dict[str, int], where: str
) -> dict[str, str]:
    """Role -> piece, of those that the vocabulary or the added tokens have."""
    named = _named(chosen, options)
    missing = [named[role] for role in REQUIRED if named[role] not in ids]
    if missing:
        raise ValueError(
            f"{where}: {', '.join(missing)} not in the vocabulary, but a {chosen.name} tokenizer "
            "needs it; if this is another family, tell `family`"
        )
    added = {token.content for token in added_tokens(options).values()}
    return {role: piece for role, piece in named.items() if piece in ids or piece in added}


def fits(chosen: Family, options: dict, ids: dict[str, int]) -> bool:
    """Whether a vocabulary has the special pieces of a family."""
    named = _named(chosen, options)
    return all(named[role] in ids for role in REQUIRED)


def _named(chosen: Family, options: dict) -> dict[str, str]:
    """Role -> piece: the family's, or what the folder's own files say."""
    stated = {role: _content(options.get(f"{role}_token")) for role in chosen.tokens}
    return {role: stated[role] or piece for role, piece in chosen.tokens.items()}


def _content(value) -> str | None:
    return value.get("content") if isinstance(value, dict) else value


def added_tokens(options: dict) -> dict[int, tokenizers.AddedToken]:
    """id -> added token, ids ascending, from the files that `transformers` takes them from:
    tokenizer_config.json's `added_tokens_decoder` alone, if it is there; else added_tokens.json,
    and over it tokenizer.json's."""
    from tokenizers import AddedToken

    if options.get("added_tokens_decoder") is not None:
        entries = options["added_tokens_decoder"]
        if not isinstance(entries, dict):
            raise ValueError(f"added_tokens_decoder should be an object, not {entries!r:.60}")
        tokens = {_id(index, entry): _token(entry) for index, entry in entries.items()}
    else:
        roles = {_content(options.get(f"{role}_token")) for role in NAMES}
        special = roles | {_content(token) for token in extra_tokens(options)}
        mapped = {_content(token) for token in options.get("mapped_special_tokens") or ()}
        own = {_content(token) for token in own_roles(options)}
        raw = special - mapped - own  # transformers matches the others in normalized text
        tokens = {
            _id(index, piece): AddedToken(piece, normalized=piece not in raw, special=piece in special)
            for piece, index in options.get("added_tokens", {}).items()
        }
        stated = options.get("stated_tokens", ())
        tokens |= {entry["id"]: _token(entry) for entry in stated}
    return dict(sorted(tokens.items()))


def _id(index, entry) -> int:
    try:
        return int(index)
    except (TypeError, ValueError):
        raise ValueError(f"added token {_content(entry)!r} has the id {index!r}: no number") from None


def extra_tokens(options: dict) -> list:
    """Special tokens without a role: strings, or records with the fields of an added token."""
    keys = ("extra_special_tokens", "additional_special_tokens", "mapped_special_tokens")
    extra = next((options[key] for key in keys if options.get(key)), [])
    return [*([] if isinstance(extra, dict) else extra), *own_roles(options)]


def own_roles(options: dict) -> list:
    """Those of `extra_tokens` that have a role of the folder's own, such as "ent_token"."""
    extra = options.get("extra_special_tokens")
    roles = {f"{role}_token" for role in NAMES}
    return [*(extra.values() if isinstance(extra, dict) else ())] + [
        value
        for key, value in options.items()
        if key.endswith("_token") and key not in roles and isinstance(value, str)
    ]


def _token(entry: dict | str, **defaults) -> tokenizers.AddedToken:
    from tokenizers import AddedToken

    if isinstance(entry, str):
        return AddedToken(entry, **defaults)
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        raise ValueError(f"an added token should be a text or have a `content`: {entry!r:.80}")
    known = ("lstrip", "rstrip", "single_word", "normalized", "special")
    fields = {key: entry[key] for key in known if isinstance(entry.get(key), bool)}
    return AddedToken(entry["content"], **{**defaults, **fields})


def add_tokens(
    backend: tokenizers.Tokenizer,
    chosen: Family,
    special: dict[str, str],
    options: dict,
    controls: Iterable[str] = (),
) -> None:
    """Make added and special tokens whole wherever they stand in a text.

    How a token is matched (`normalized`, `lstrip`, ...) is as the files say; what they do not say
    is as the published vocabularies have it.
    """
    for index, token in added_tokens(options).items():
        if token.content in special.values():
            token.special = True
        backend.add_tokens([token])
        if backend.token_to_id(token.content) != index:
            raise ValueError(
                f"added token {token.content!r} is said to have id {index}, but gets "
                f"{backend.token_to_id(token.content)}: vocabulary and added tokens do not belong "
                "together"
            )
    # Records of special tokens: those by role overrule tokenizer.json's.
    stated = {entry["content"]: entry for entry in options.get("stated_tokens", ())}
    by_role = {piece: options.get(f"{role}_token") for role, piece in special.items()}
    stated |= {piece: entry for piece, entry in by_role.items() if isinstance(entry, dict)}
    mask, size = special.get("mask"), backend.get_vocab_size()
    pieces = dict.fromkeys([*controls, *special.values(), *chosen.extra])
    for piece in sorted(pieces, key=lambda piece: _position(backend, piece, size)):
        if backend.token_to_id(piece) is None and piece not in special.values():
            continue
        strips = piece == mask and chosen.mask_eats_space and piece not in stated
        _add(backend, _token(stated.get(piece, piece), normalized=False, lstrip=strips))
    for token in extra_tokens(options):
        _add(backend, _token(token, normalized=False))


def _add(backend: tokenizers.Tokenizer, token: tokenizers.AddedToken) -> None:
    """Add a special token unless it is one already."""
    if backend.token_to_id(token.content) not in backend.get_added_tokens_decoder():
        token.special = True
        backend.add_special_tokens([token])


def lay_out(backend: tokenizers.Tokenizer, chosen: Family, special: dict[str, str]) -> None:
    """Put the family's layout of special tokens around one text or a pair."""
    from tokenizers import processors

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
