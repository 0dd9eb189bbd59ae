"""The one tokenizer face of the house, over the `tokenizers` library: ids, pairs, offsets, files.

What the families differ in stands in `families.py`, how their files are read in `files.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from bertvariants_jax.files import write_file
from bertvariants_jax.text.bpe import BYTE_SPACE
from bertvariants_jax.text.families import GENERIC, MODEL_FAMILIES, NAMES
from bertvariants_jax.text.files import FILES, read, read_options
from bertvariants_jax.text.unigram import UNDERLINE
from bertvariants_jax.text.vocabulary import ForeignTokenizer, Vocabulary, setting

PROBE = "Überraschung! The cat's 12,345.67 e-mails - \"don't\" 北京 naïve\tU.S.A. ﬁne ½… \xa0<s> [MASK] X"
NO_LIMIT = 10**9  # transformers writes 1e30 where it knows no limit

TOKEN_FIELDS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
# Options that are not tokenizer_config.json's: what other files state, and code of the folder's own.
INTERNAL = ("model_type", "added_tokens", "stated_tokens", "mapped_special_tokens", "auto_map")

Slot = tuple[int | None, int]  # (special id, or None for the next text; token type)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One text or pair with its special tokens; five lists of equal length.

    `offsets` are (start, end) characters of the original text that the token belongs to (the
    first or the second one, as `sequence_ids` says), blanks around it left out; (0, 0) for
    special tokens, whose `sequence_ids` and `word_ids` are None. Words are what the family's
    splitter makes, numbered from 0 in each text.
    """

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]]
    sequence_ids: list[int | None]
    word_ids: list[int | None]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of one text, without special ones."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    words: list[int | None]

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, kept: slice) -> Row:
        return Row(self.ids[kept], self.offsets[kept], self.words[kept])


class Tokenizer:
    """Text to ids for every vocabulary of the family; made by `Tokenizer.load` or `train`.

    `family` is a name of `families.FAMILIES`; `kind` is "wordpiece", "bpe" or "unigram". Special
    tokens are `pad_token`, `unk_token`, `cls_token`, `sep_token`, `mask_token`, `bos_token` and
    `eos_token` (the piece, or None), and the same with `_id`. `type_ids` says whether token types
    are given (it may be set), `model_max_length` is the model's limit, or None. `tokenizer_ids`
    is "hf" or "original", whose ids it gives; `notes` say what was decided where the files leave
    it open or state it twice, `departures` in which of it earlier versions gave other ids. A
    tokenizer can be pickled, and shared between threads.
    """

    def __init__(self, vocabulary: Vocabulary, files: dict[str, bytes], options: dict):
        self._vocabulary = vocabulary
        self._backend = vocabulary.backend
        self._files = files
        self._options = options
        family = vocabulary.family
        self.family = family.name
        self.kind = vocabulary.kind
        self.tokenizer_ids = vocabulary.tokenizer_ids
        self.notes: tuple[str, ...] = tuple(vocabulary.notes)
        self.departures: tuple[str, ...] = tuple(vocabulary.departures)
        for role in NAMES:
            piece = vocabulary.special.get(role)
            setattr(self, f"{role}_token", piece)
            setattr(self, f"{role}_token_id", None if piece is None else self.token_to_id(piece))
        self.padding_side: str = _side(options, "padding_side", family.padding_side)
        self.truncation_side: str = _side(options, "truncation_side", "right")
        if self.truncation_side == "left":
            self.departures += ("truncation_side is 'left'",)
        self.pad_token_type_id: int = family.pad_type
        limit = options.get("model_max_length") or options.get("max_len")
        self.model_max_length: int | None = int(limit) if limit and limit < NO_LIMIT else None
        self._splits_special = setting(options, "split_special_tokens", False)
        self._backend.encode_special_tokens = self._splits_special
        self._single = _layout(self._backend, pair=False)
        self._pair = _layout(self._backend, pair=True)
        self.type_ids: bool = self._gives_type_ids()

    def _gives_type_ids(self) -> bool:
        model_type = self._options.get("model_type")
        if model_type in MODEL_FAMILIES:
            return MODEL_FAMILIES[model_type][1]
        told = self._options.get("type_ids")
        if told is not None:
            return bool(told)
        if "DistilBert" in (self._options.get("tokenizer_class") or ""):
            return False
        return self._vocabulary.family.type_ids

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self._backend.encode_special_tokens = self._splits_special  # the library forgets it

    @classmethod
    def load(
        cls,
        folder: str | Path,
        family: str | None = None,
        *,
        original: bool = False,
        tokenizer_ids: str | None = None,
    ) -> Tokenizer:
        """The tokenizer in a checkpoint's folder.

        Read is the first found of tokenizer.json, spiece.model, spm.model, sentencepiece.bpe.model,
        vocab.txt (one piece a line, or ERNIE's piece<TAB>id) and vocab.json with merges.txt, of
        those that the family has; and tokenizer_config.json, special_tokens_map.json,
        added_tokens.json and config.json beside it. The family is told by `family`, else by the
        tokenizer class and the model type, else by the special pieces in the vocabulary. What
        tokenizer_config.json states overrules tokenizer.json, as in `transformers`; casing that
        no file states is decided by the vocabulary (`notes`).

        Args:
          tokenizer_ids: "hf" gives the ids that `transformers` gives for the published checkpoints,
            "original" those of the papers' own code and models (`original=True` is the same).
            Unless told, DeBERTa v2/v3 are "original" and all others "hf".

        What differs: DeBERTa v2/v3's SentencePiece model maps compatibility characters (NFKC) and
        falls back to bytes, where `transformers` 5 says [UNK]. ALBERT and XLNet cut a piece such as
        "9," again into "9" and "," (the published tokenizer.json files make it too dear to be used,
        which comes to the same but for a few numbers in XLNet; where there is only spiece.model,
        the same is made of it, though `transformers` 5 by itself cuts hyphenated words and
        abbreviations anew); ALBERT leaves `` and '' alone. XLM-R and CamemBERT compose no half-width
        kana with its mark in "hf". WordPiece cuts words of up to 200 characters, not 100. In both,
        DeBERTa v1's pairs are the paper's, with one [SEP] between (`transformers` 5 puts two), and
        RoBERTa's mask takes the blank before it unless a file states otherwise.

        Raises `FileNotFoundError` without folder or vocabulary, `ForeignTokenizer` for a tokenizer
        class that is not known here, `ValueError` where a file is not what it should be.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"no such folder: {folder}")
        names = {*FILES, *(path.name for path in folder.glob("*.model"))}
        files = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
        options = read_options(folder)
        try:
            return cls.from_files(
                files, options, family=family, original=original, tokenizer_ids=tokenizer_ids
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder}: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{folder}: a vocabulary file is not UTF-8: {error}") from error
        except ForeignTokenizer as error:
            raise ForeignTokenizer(f"{folder}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    @classmethod
    def from_files(
        cls,
        files: dict[str, bytes],
        options: dict | None = None,
        *,
        family: str | None = None,
        original: bool = False,
        tokenizer_ids: str | None = None,
    ) -> Tokenizer:
        """As `load`, from file contents (name -> bytes) and tokenizer_config.json's settings."""
        options = dict(options or {})
        if original and tokenizer_ids == "hf":
            raise ValueError("original=True and tokenizer_ids='hf' ask for different ids")
        asked = tokenizer_ids or ("original" if original else None)
        stated = "original" if options.pop("original", False) else options.get("tokenizer_ids")
        if stated is None and "type_ids" in options:
            stated = "hf"  # written by `save` before it said whose ids
        if asked and stated and asked != stated:  # its tokenizer.json holds the other's steps
            if len(files) == 1 and options.get("tokenizer_class") in GENERIC:
                raise ValueError(
                    f"tokenizer.json alone holds the ids of {stated!r}; for those of {asked!r} the "
                    "vocabulary file is needed"
                )
            files = {name: data for name, data in files.items() if name != "tokenizer.json"} or files
        if asked or stated:
            options["tokenizer_ids"] = asked or stated
        vocabulary = read(files, options, family)
        if vocabulary.is_rebuilt:
            files = {name: data for name, data in files.items() if name != "tokenizer.json"}
        return cls(vocabulary, files, options)

    def save(self, folder: str | Path) -> None:
        """Write files that `Tokenizer.load` and `transformers.AutoTokenizer` open to the same ids.

        The vocabulary files it was loaded from are written byte for byte, except that ERNIE's
        piece<TAB>id becomes one piece a line; tokenizer.json and tokenizer_config.json say what is
        in force. Where the family's class in `transformers` would make other steps (the "original"
        ids; DeBERTa v2/v3's class makes its own whatever the files say), the class written down is
        the generic one, which takes tokenizer.json as it stands. Of "original" ALBERT and XLNet
        `transformers` does not know the digit-comma rule.
        """
        folder = Path(folder)
        files = dict(self._files)
        rows = self._vocabulary.rows
        tab = b"\t" in files.get("vocab.txt", b"").split(b"\n", 1)[0]
        if tab and rows and None not in rows:
            files["vocab.txt"] = "".join(f"{piece}\n" for piece in rows).encode("utf-8")
        files.setdefault("tokenizer.json", self._backend.to_str(pretty=False).encode("utf-8"))
        config = json.dumps(self._config(), indent=2, ensure_ascii=False) + "\n"
        files["tokenizer_config.json"] = config.encode("utf-8")
        # tokenizer.json last: where it stands in a new folder, all of them do
        for name in sorted(files, key=lambda name: name == "tokenizer.json"):
            write_file(folder / name, files[name])

    def _config(self) -> dict:
        """tokenizer_config.json: the loaded one, with what both readers need for the same ids."""
        family, vocabulary = self._vocabulary.family, self._vocabulary
        config = {key: value for key, value in self._options.items() if key not in INTERNAL}
        config |= vocabulary.settings
        class_name = (config.get("tokenizer_class") or "").removesuffix("Fast")
        if not self._is_made_by_its_class():
            config["tokenizer_class"] = GENERIC[0]
        elif class_name not in family.classes:
            config["tokenizer_class"] = family.class_name
        config["tokenizer_ids"] = self.tokenizer_ids
        config["type_ids"] = self.type_ids
        config["padding_side"] = self.padding_side
        config["truncation_side"] = self.truncation_side
        config["pad_token_type_id"] = self.pad_token_type_id
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        config["model_input_names"] = inputs if self.type_ids else [inputs[0], inputs[2]]
        for role in NAMES:
            piece = getattr(self, f"{role}_token")
            if piece is not None:
                config[f"{role}_token"] = piece
        config["added_tokens_decoder"] = {
            str(index): {key: getattr(token, key) for key in TOKEN_FIELDS}
            for index, token in sorted(self._backend.get_added_tokens_decoder().items())
        }
        return config

    def _is_made_by_its_class(self) -> bool:
        """Whether the family's class in transformers 5, which takes from tokenizer.json the
        vocabulary alone, makes these steps from the settings; else tokenizer.json must stand."""
        same = ("bert", "roberta", "xlm-roberta", "camembert", "deberta-v2")
        rebuilt = self._vocabulary.is_rebuilt and self.family in same
        return rebuilt and self.tokenizer_ids == "hf"

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        max_length: int | None = None,
        padding: bool | str | int = True,
        truncation: bool | str | None = None,
        return_tensors: str | None = "np",
    ) -> dict[str, np.ndarray]:
        """Texts or text pairs to padded arrays: input_ids, attention_mask and, if `type_ids`,
        token_type_ids, all int32 [B, L].

        `max_length` (special tokens counted) cuts tokens of the longer text first, from its end (or
        its start, by `truncation_side`), as `transformers`' longest_first; without it nothing is
        cut, but with `truncation=True` at `model_max_length`; `truncation=False` cuts nothing.
        `padding` is True or "longest" (L is the longest row), "max_length" (L is max_length, else
        `model_max_length`) or an int L. `return_tensors` can be "np" alone.

        Raises `ValueError` if a row is longer than the L asked for, `TypeError` if a text is no
        string.
        """
        if return_tensors not in ("np", None):
            raise ValueError(
                f'return_tensors can be "np" alone (NumPy arrays, which JAX takes), not {return_tensors!r}'
            )
        first, second = self._texts(texts, pairs)
        layout = self._single if second is None else self._pair
        a = self._encode_ids(first)
        b = None if second is None else self._encode_ids(second)
        limit = self._limit(max_length, truncation)
        if limit is not None:
            a, b = self._truncate(a, b, self._room(layout, limit))

        gaps = _gaps(layout)  # the special ids before, between and behind the texts
        if b is None:
            rows = [gaps[0] + x + gaps[1] for x in a]
        else:
            rows = [gaps[0] + x + gaps[1] + y + gaps[2] for x, y in zip(a, b, strict=True)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        width = self._width(lengths, max_length, padding)
        columns = np.arange(width)
        if self.padding_side == "left":
            real = columns >= width - lengths[:, None]  # B L
        else:
            real = columns < lengths[:, None]
        ids = np.full((len(rows), width), self.pad_token_id, np.int32)
        ids[real] = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
        batch = {"input_ids": ids, "attention_mask": real.astype(np.int32)}
        if self.type_ids:
            counts = np.ones((len(rows), len(layout)), np.int64)
            slots = [i for i, (special, _) in enumerate(layout) if special is None]
            for slot, side in zip(slots, (a, b), strict=False):
                counts[:, slot] = [len(x) for x in side]
            kinds = np.tile(np.array([kind for _, kind in layout], np.int32), len(rows))
            types = np.full((len(rows), width), self.pad_token_type_id, np.int32)
            types[real] = np.repeat(kinds, counts.ravel())
            batch["token_type_ids"] = types
        return batch

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text without special tokens, int32; the fast road for corpora (all cores)."""
        if isinstance(texts, str):
            raise TypeError("ids() takes a list of texts, not one string")
        return [np.array(row, np.int32) for row in self._encode_ids(_checked(texts, "texts"))]

    def encode(
        self,
        text: str,
        pair: str | None = None,
        max_length: int | None = None,
        *,
        specials: bool = True,
    ) -> Encoding:
        """One text or pair with offsets into the original text, truncated as in `__call__`.

        `specials=False` leaves the special tokens out (for windows over long texts, with `build`).
        """
        pairs = None if pair is None else [pair]
        return self.encode_batch([text], pairs, max_length, specials=specials)[0]

    def encode_batch(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        max_length: int | None = None,
        *,
        specials: bool = True,
    ) -> list[Encoding]:
        """`encode` for many texts at once (all cores)."""
        first, second = self._texts(texts, pairs)
        layout = self._single if second is None else self._pair
        if not specials:
            layout = [(special, kind) for special, kind in layout if special is None]
        a = self._encode_rows(first)
        b = None if second is None else self._encode_rows(second)
        if max_length is not None:
            a, b = self._truncate(a, b, self._room(layout, max_length))
        sides = zip(a, strict=True) if b is None else zip(a, b, strict=True)
        return [_arrange(layout, rows) for rows in sides]

    def build(
        self, a_ids: Sequence[int], b_ids: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Put the special tokens around ids: (ids, type ids), int32, neither cut nor padded."""
        sides = iter((a_ids,) if b_ids is None else (a_ids, b_ids))
        layout = self._single if b_ids is None else self._pair
        parts = [
            np.asarray([special] if special is not None else next(sides), np.int32)
            for special, _ in layout
        ]
        kinds = np.array([kind for _, kind in layout], np.int32)
        return np.concatenate(parts), np.repeat(kinds, [len(part) for part in parts])

    def decode(self, ids: Sequence[int] | np.ndarray, skip_special_tokens: bool = True) -> str:
        """Text of ids, as near to the original as the vocabulary allows (WordPiece adds blanks)."""
        return self._backend.decode(
            np.asarray(ids, np.int64).tolist(), skip_special_tokens=skip_special_tokens
        )

    def join(self, pieces: Sequence[str]) -> str:
        """Text of pieces as `decode` gives it; a piece need not be in the vocabulary."""
        decoder = self._backend.decoder
        return " ".join(pieces) if decoder is None else decoder.decode(list(pieces))

    def num_special_tokens(self, pair: bool = False) -> int:
        """How many special tokens `__call__` and `build` add to one text, or to a pair."""
        return sum(special is not None for special, _ in (self._pair if pair else self._single))

    def _texts(self, texts, pairs) -> tuple[list[str], list[str] | None]:
        first = [texts] if isinstance(texts, str) else _checked(texts, "texts")
        if pairs is None:
            return first, None
        second = [pairs] if isinstance(pairs, str) else _checked(pairs, "pairs")
        if len(first) != len(second):
            raise ValueError(f"{len(first)} texts but {len(second)} pairs")
        return first, second

    def _room(self, layout: list[Slot], max_length: int) -> int:
        specials = sum(special is not None for special, _ in layout)
        if max_length < specials:
            raise ValueError(
                f"max_length {max_length} leaves no room for {specials} special tokens"
            )
        return max_length - specials

    def _truncate(self, a: list, b: list | None, room: int) -> tuple[list, list | None]:
        """Cut rows (ids, or `Row`s), or pairs of them, to `room` tokens."""
        if b is None:
            return [self._cut(row, room) for row in a], None
        kept_a, kept_b = [], []
        for x, y in zip(a, b, strict=True):
            n, m = _kept_lengths(len(x), len(y), room)
            kept_a.append(self._cut(x, n))
            kept_b.append(self._cut(y, m))
        return kept_a, kept_b

    def _cut(self, row: list[int] | Row, length: int) -> list[int] | Row:
        kept = slice(length)
        if self.truncation_side == "left":
            kept = slice(max(len(row) - length, 0), None)
        return row.cut(kept) if isinstance(row, Row) else row[kept]

    def _limit(self, max_length: int | None, truncation: bool | str | None) -> int | None:
        """Tokens of a row at most, None for any number."""
        if truncation in (False, "do_not_truncate"):
            return None
        if truncation not in (None, True, "longest_first"):
            raise ValueError(f'truncation must be True, False or "longest_first", not {truncation!r}')
        return self.model_max_length if truncation and max_length is None else max_length

    def _width(self, lengths: np.ndarray, max_length: int | None, padding: bool | str | int) -> int:
        longest = int(lengths.max(initial=0))
        if padding is True or padding == "longest":
            return longest
        if padding == "max_length":
            width = max_length if max_length is not None else self.model_max_length
            if width is None:
                raise ValueError(
                    'padding="max_length" needs max_length (this tokenizer names no limit)'
                )
        elif isinstance(padding, int | np.integer) and padding is not False:
            width = int(padding)
        else:
            raise ValueError(
                f'padding must be True, "longest", "max_length" or an int, not {padding!r}'
            )
        if longest > width:
            raise ValueError(
                f"row {int(lengths.argmax())} has {longest} tokens, more than the {width} to pad "
                f"to: give max_length={width} to cut it"
            )
        return width

    def _encode_ids(self, texts: list[str]) -> list[list[int]]:
        rows = [encoded.ids for encoded in self._run(self._backend.encode_batch_fast, texts)]
        table = self._vocabulary.resplit
        if table:
            rows = [
                row if table.keys().isdisjoint(row) else _flatten(table.get(i, (i,)) for i in row)
                for row in rows
            ]
        return rows

    def _encode_rows(self, texts: list[str]) -> list[Row]:
        encoded = self._run(self._backend.encode_batch, texts)
        rows = [
            Row(one.ids, _trim(text, one.offsets), one.word_ids)
            for text, one in zip(texts, encoded, strict=True)
        ]
        table = self._vocabulary.resplit
        return [self._resplit(row) if table else row for row in rows]

    def _run(self, encode, texts: list[str]) -> list:
        try:
            return encode(texts, add_special_tokens=False)
        except TypeError:
            # Half a surrogate pair cannot be encoded: it becomes U+FFFD, character for character.
            clean = [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in texts]
            return encode(clean, add_special_tokens=False)

    def _resplit(self, row: Row) -> Row:
        table = self._vocabulary.resplit
        ids, offsets, words = [], [], []
        for index, (start, end), word in zip(row.ids, row.offsets, row.words, strict=True):
            parts = table.get(index)
            if parts is None:
                parts, spans = [index], [(start, end)]
            else:
                sizes = [len(self._pieces[part].replace(UNDERLINE, "")) for part in parts]
                if sum(sizes) == end - start:
                    stops = (start + np.cumsum(sizes)).tolist()
                    spans = list(zip([start, *stops[:-1]], stops, strict=True))
                else:  # the text was changed on the way, and its parts cannot be told apart
                    spans = [(start, end)] * len(parts)
            ids += parts
            offsets += spans
            words += [word] * len(parts)
        return Row(ids, offsets, words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return self._backend.get_vocab(with_added_tokens=True)

    @cached_property
    def _pieces(self) -> list[str | None]:
        rows = self._vocabulary.rows or []
        pieces = rows + [None] * (max(self._ids.values()) + 1 - len(rows))
        for piece, index in self._ids.items():
            pieces[index] = piece
        return pieces

    @cached_property
    def vocab_size(self) -> int:
        """The highest id plus one, added tokens included; the model's table may have more rows."""
        return len(self._pieces)

    def __len__(self) -> int:
        return self.vocab_size

    def token_to_id(self, token: str) -> int | None:
        """Id of a piece, None where the vocabulary has no such piece."""
        return self._backend.token_to_id(token)

    def id_to_token(self, index: int) -> str | None:
        """Piece of an id, None for an id without one (tables are padded with unused rows)."""
        return self._pieces[index] if 0 <= index < len(self._pieces) else None

    def add_tokens(self, tokens: Sequence[str] | str) -> int:
        """Add whole tokens as `transformers`' add_tokens does, with ids behind the last; how many became such.

        A piece of the vocabulary keeps its id, and is a whole token wherever it stands from then
        on. The model needs a row for each id (`Checkpoint.with_heads(..., vocab_size=len(tokenizer))`).
        Raises ValueError for a token that
        is no text, and where the vocabulary leaves no free id behind its last.
        """
        tokens = [tokens] if isinstance(tokens, str) else list(tokens)
        for token in tokens:
            if not isinstance(token, str) or not token.strip():
                raise ValueError(f"a token to add must be a text, not {token!r}")
        size = self.vocab_size
        fresh = [token for token in dict.fromkeys(tokens) if self.token_to_id(token) is None]
        count = self._backend.add_tokens(list(dict.fromkeys(tokens)))
        for name in [key for key in self.__dict__ if isinstance(getattr(type(self), key, None), cached_property)]:
            del self.__dict__[name]
        ids = [self.token_to_id(token) for token in fresh]
        if ids != list(range(size, size + len(fresh))):
            raise ValueError(f"added tokens got the ids {ids}, not those from {size} on: the vocabulary has unused ids")
        if count and "tokenizer.json" in self._files:
            self._files = {**self._files, "tokenizer.json": self._backend.to_str(pretty=False).encode("utf-8")}
        entries = dict(self._options.get("added_tokens_decoder") or {})
        for index, token in sorted(self._backend.get_added_tokens_decoder().items()):
            fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
            entries.setdefault(str(index), {key: getattr(token, key) for key in fields})
        self._options = {**self._options, **({"added_tokens_decoder": entries} if count else {})}
        return count

    @cached_property
    def special_ids(self) -> np.ndarray:
        """Ids of all special tokens, the unknown one included: int32, ascending."""
        added = self._backend.get_added_tokens_decoder()
        found = {index for index, token in added.items() if token.special}
        named = {getattr(self, f"{role}_token_id") for role in NAMES} - {None}
        return np.array(sorted(found | named), np.int32)

    @cached_property
    def starts_word(self) -> np.ndarray:
        """Which pieces begin a word: bool [vocab_size].

        WordPiece: all without "##". Byte-level BPE: those that begin with a blank; the first word
        of a text has none, and counts as a continuation. SentencePiece: those that begin with
        "▁". Special tokens are True.
        """
        pieces = [piece or "" for piece in self._pieces]
        if self.kind == "wordpiece":
            starts = [not piece.startswith("##") for piece in pieces]
        else:
            mark = BYTE_SPACE if self.kind == "bpe" else UNDERLINE
            starts = [piece.startswith(mark) for piece in pieces]
        starts = np.array(starts, bool)
        starts[self.special_ids] = True
        return starts

    @cached_property
    def fingerprint(self) -> str:
        """Hex; changes with what the tokenizer makes of texts: its pieces and their ids, the merges
        or scores, normalisation (by a probe text), special tokens, types and the sides of padding and truncation."""
        model = json.loads(self._backend.to_str())["model"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or ()]
        scores = model.get("vocab") if self.kind == "unigram" else None
        probe = self([PROBE, f" {PROBE.upper()}"], [PROBE[::-1], PROBE.lower()])
        single = self.build([-1])[0].tolist()
        roles = [getattr(self, f"{role}_token_id") for role in NAMES]
        parts = (
            self._pieces, merges, scores, {key: rows.tolist() for key, rows in probe.items()}, single,
            roles, self.padding_side, self.truncation_side, self.type_ids,
        )  # fmt: skip
        return hashlib.blake2b(repr(parts).encode("utf-8", "replace"), digest_size=8).hexdigest()

    def __repr__(self) -> str:
        return f"Tokenizer({self.family!r}, kind={self.kind!r}, vocab_size={self.vocab_size})"


def _side(options: dict, key: str, default: str) -> str:
    side = options.get(key) or default
    if side not in ("left", "right"):
        raise ValueError(f"tokenizer_config.json: {key} should be 'left' or 'right', not {side!r}")
    return side


def _layout(backend, pair: bool) -> list[Slot]:
    """Where the backend puts special tokens and types, found by giving it one-token texts."""
    for text in ("a", ".", *backend.get_vocab()):
        if len(backend.encode(text, add_special_tokens=False)) > 0:
            break
    encoded = backend.encode(text, text) if pair else backend.encode(text)
    layout: list[Slot] = []
    seen: set[int] = set()
    for index, kind, side in zip(encoded.ids, encoded.type_ids, encoded.sequence_ids, strict=True):
        if side is None:
            layout.append((index, kind))
        elif side not in seen:
            if len(seen) != side:
                raise ValueError("layouts that put the second text first are not supported")
            seen.add(side)
            layout.append((None, kind))
    return layout


def _gaps(layout: list[Slot]) -> list[list[int]]:
    gaps: list[list[int]] = [[]]
    for special, _ in layout:
        if special is None:
            gaps.append([])
        else:
            gaps[-1].append(special)
    return gaps


def _kept_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens that two texts keep: the longer one what the shorter leaves, and both a half where
    even the shorter is too long (`transformers`' longest_first)."""
    if first + second <= room:
        return first, second
    short = min(first, second, room // 2)
    return (room - short, short) if first > second else (short, room - short)


def _arrange(layout: list[Slot], rows: tuple[Row, ...]) -> Encoding:
    found = Encoding([], [], [], [], [])
    side = 0
    for special, kind in layout:
        if special is not None:
            ids, offsets, words, origin = [special], [(0, 0)], [None], None
        else:
            ids, offsets, words = rows[side].ids, rows[side].offsets, rows[side].words
            origin = side
            side += 1
        found.ids.extend(ids)
        found.type_ids.extend([kind] * len(ids))
        found.offsets.extend(offsets)
        found.sequence_ids.extend([origin] * len(ids))
        found.word_ids.extend(words)
    return found


def _trim(text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets without the blanks that byte-level and SentencePiece tokens begin with."""
    trimmed = []
    for start, end in offsets:
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        trimmed.append((start, end))
    return trimmed


def _flatten(parts) -> list[int]:
    return list(chain.from_iterable(parts))


def _checked(texts, name: str) -> list[str]:
    try:
        texts = list(texts)
    except TypeError:
        raise TypeError(
            f"{name} must be a string or a list of strings, not {_kind(texts)}"
        ) from None
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{index}] must be a string, not {_kind(text)}: {text!r:.60}")
    return texts


def _kind(value) -> str:
    return type(value).__name__
