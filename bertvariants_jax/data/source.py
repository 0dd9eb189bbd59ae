"""Data addresses: text, JSONL, TSV, CSV, Parquet, TFDS and the machine's own documentation, as
records or as documents.

  text:GLOB              lines; documents as data/documents.py reads them
  jsonl:GLOB[#field]     one JSON object a line
  tsv:GLOB[#field]       tab-separated; with quotes, as spreadsheets write them, if all quoted fields
                         are well-formed, else as it stands (GLUE's files are always read so)
  csv:GLOB[#field]       comma-separated, quoted by "
  labeled:GLOB[#field]   a label, a blank and a text a line (TREC, SST-5): label, coarse (what stands
                         before a colon in it), text
  parquet:GLOB[#field]   needs pyarrow
  conll:GLOB[#column]    a word a line with its tags (data/conll.py); the last column if not given
  tfds:NAME[/CONFIG][:SPLIT][#field]   TensorFlow Datasets, without TensorFlow
  docs:[PACKAGE,...]     English prose inside the installed Python and its packages (data/prose.py)

Files may be gzipped (seen by their first bytes) and lie where fsspec reaches (`gs://` needs gcsfs).
"""

import bisect
import csv
import glob
import gzip
import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal, get_args

from bertvariants_jax.data import conll, fingerprint, prose
from bertvariants_jax.data.documents import Document, read_documents, text_document

KINDS = ("text", "jsonl", "tsv", "csv", "labeled", "parquet", "conll", "tfds", "docs")
Quotes = Literal["auto", "raw", "quoted"]  # of tsv files, see `open_source`
_VERSION = 1  # of the reading rules: part of the fingerprint


def open_source(
    address: str,
    *,
    header: bool = True,
    columns: Sequence[str] | None = None,
    skip_bad_rows: bool = False,
    layout: str = "auto",
    data_dir: str | None = None,
    encoding: str = "utf-8",
    quotes: Quotes = "auto",
) -> "Source":
    """Open a data address. Nothing is read yet, but a file that is not there is said at once.

    header, columns: of tsv and csv. Without a header fields are named `columns`, or "0", "1" ...
    skip_bad_rows: leave out tsv and csv rows with a wrong number of fields (GLUE's QQP) and count
    them in `.skipped`.
    layout: of text, where its content should not decide (data/documents.py).
    data_dir: where TFDS keeps its data; None is its own default ($TFDS_DATA_DIR or
    ~/tensorflow_datasets).
    encoding: of tsv, csv and labeled files; one that keeps ASCII as it is ("latin-1", "gb18030").
    quotes: of tsv files. "auto" reads a file with quotes (RFC 4180: "" is a quote inside a quoted
    field) if all fields that begin with one are well-formed, else as it stands, with a warning;
    "raw" and "quoted" force either.
    Raises ValueError for an address that cannot be read, FileNotFoundError for one that names no
    file.
    """
    kind, colon, rest = address.partition(":")
    if not colon or kind not in KINDS:
        raise ValueError(
            f"{address!r} is no data address: it must begin with one of "
            f"{', '.join(k + ':' for k in KINDS)}"
        )
    field = None
    if kind not in ("text", "docs"):
        rest, _, field = rest.partition("#")
    if not rest and kind != "docs":
        raise ValueError(f"{address!r} names nothing after {kind}:")
    try:
        if "\n".encode(encoding) != b"\n":
            raise ValueError(f"the encoding {encoding!r} writes newlines otherwise than ASCII: convert the file to UTF-8")
    except LookupError:
        raise ValueError(f"Python knows no encoding {encoding!r}") from None
    if quotes not in get_args(Quotes):
        raise ValueError(f"quotes is {quotes!r}; known: {', '.join(get_args(Quotes))}")
    files = () if kind in ("tfds", "docs") else _files(rest)
    for file in files:
        fingerprint.note_file(file)
    if kind == "docs":
        fingerprint.note(address, lambda: prose.stamp(rest))
    return Source(
        address,
        kind,
        rest,
        field or None,
        files,
        header,
        tuple(columns or ()),
        skip_bad_rows,
        layout,
        data_dir,
        encoding,
        quotes,
    )


class Source(Sequence[dict]):
    """An open address. As a sequence: its rows as dicts, random access; `documents()`: its text for
    pre-training.

    fields: the names of the rows' fields. skipped: rows left out by `skip_bad_rows`. fingerprint:
    changes with the data.
    """

    def __init__(
        self, address, kind, target, field, files, header, columns, skip_bad_rows, layout, data_dir,
        encoding, quotes,
    ):
        self.address, self.kind, self.field, self.files = address, kind, field, files
        self.skipped = 0
        self._target, self._layout, self._data_dir = target, layout, data_dir
        self._header, self._columns, self._skip = header, columns, skip_bad_rows
        self._encoding, self._quotes = encoding, quotes
        self._loaded: Sequence[dict] | None = None
        self._starts: list[int] = []  # the first row of each file

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> dict:
        return self._rows[i]

    @property
    def is_quoted(self) -> bool:
        """Whether any of its tsv files is read with quotes."""
        return self.kind == "tsv" and any(
            _is_quoted(path, self._encoding, self._quotes) for path in self.files
        )

    def place(self, i: int) -> str:
        """Where row i stands, for errors: its file (the address, if that is one) and its number
        there, from 0.
        """
        if len(self.files) < 2 or not len(self):
            return f"{self.address}: row {i}"
        file = bisect.bisect_right(self._starts, i) - 1
        return f"{self.kind}:{self.files[file]}: row {i - self._starts[file]}"

    def first(self) -> dict:
        """The first row, read alone where the rest stands behind it in a file. Raises ValueError where there is none."""
        if self._loaded is None and self.files:
            for row in self._file_rows():
                return row
        return self[0]

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self._rows[0]) if len(self) else ()

    def column(self, field: str) -> list:
        """The values of one field. Raises ValueError where it is missing, with those that there
        are.
        """
        for i, row in enumerate(self):
            if field not in row:
                raise ValueError(
                    f"{self.place(i)} has no field {field!r}; it has: {', '.join(row)}"
                )
        return [row[field] for row in self]

    def documents(self) -> "Documents":
        """Its text as documents, read anew at each pass.

        text: by layout. docs: a module or a page each. Others: a row is a document; the field is
        the address's #field, or "text" where there is one, or the only one; a list of strings is
        taken as sentences.
        """
        return Documents(self)

    @property
    def fingerprint(self) -> str:
        """Hex; changes when files (name, size, time of writing), packages or the reading rules
        change.
        """
        if self.kind == "docs":
            stamp: object = prose.stamp(self._target)
        elif self.kind == "tfds":
            stamp = (os.path.expanduser(self._data_dir or ""), len(self))
        else:
            stamp = [(os.path.basename(f), *_stat(f)) for f in self.files]
        said = (
            _VERSION,
            self.kind,
            self.field,
            self._layout,
            self._header,
            self._columns,
            self._encoding,
            stamp,
            self._target if self.kind in ("docs", "tfds") else "",
            *((self._quotes,) if self.kind == "tsv" else ()),
        )
        return hashlib.blake2b(repr(said).encode(), digest_size=16).hexdigest()

    @property
    def _rows(self) -> Sequence[dict]:
        if self._loaded is None:
            if self.kind == "tfds":
                rows = _tfds_rows(self._target, self._data_dir)
                fingerprint.note(self.address, lambda: repr(rows.about))
            elif self.kind == "docs":
                rows = [
                    {"text": " ".join(d.sentences), "package": d.group, "name": d.name}
                    for d in prose.documents(self._target)
                ]
            else:
                rows = []
                for path in self.files:
                    self._starts.append(len(rows))
                    rows.extend(self._rows_of(path))
            if not len(rows):
                raise ValueError(f"{self.address}: there is no row in it")
            self._loaded = rows
        return self._loaded

    def _file_rows(self) -> Iterator[dict]:
        for path in self.files:
            yield from self._rows_of(path)

    def _rows_of(self, path: str) -> Iterator[dict]:
        if self.kind == "text":
            yield from ({"text": line} for _, line in read_lines(path) if line.strip())
        elif self.kind == "jsonl":
            yield from _json_rows(path)
        elif self.kind == "parquet":
            yield from _parquet_rows(path)
        elif self.kind == "conll":
            yield from conll.sentences(path, read_lines(path), self.field)
        elif self.kind == "labeled":
            yield from _labeled_rows(path, self._encoding)
        else:
            yield from self._table_rows(path)

    def _table_rows(self, path: str) -> Iterator[dict]:
        if self.kind == "tsv" and not _is_quoted(path, self._encoding, self._quotes):
            cells = _tsv_cells(path, self._encoding)
        else:
            cells = _csv_cells(path, self._encoding, "\t" if self.kind == "tsv" else ",")
        names = list(self._columns)
        if self._header:
            _, head = next(cells, (0, []))
            if not head:
                raise ValueError(f"{path}: the file is empty, not even a header line")
            names = names or head
            if len(set(names)) < len(names):
                raise ValueError(
                    f"{path}, line 1: the header names a field twice ({', '.join(names)}); "
                    f"is it a header?"
                )
        for number, row in cells:
            names = names or [str(i) for i in range(len(row))]
            if len(row) != len(names):
                if self._skip:
                    self.skipped += 1
                    continue
                raise ValueError(
                    f"{path}, line {number}: {len(row)} fields, "
                    f"expected {len(names)} ({', '.join(names)})"
                )
            yield dict(zip(names, row, strict=True))

    def _documents(self) -> Iterator[Document]:
        if self.kind == "docs":
            yield from prose.documents(self._target)
        elif self.kind == "text":
            for path in self.files:
                yield from read_documents(
                    (line for _, line in read_lines(path)), self._layout, _stem(path)
                )
        elif self.kind == "conll":
            yield from (text_document(" ".join(row["words"]), f"row {i}") for i, row in enumerate(self))
        else:
            rows = (
                self._file_rows()
                if self.kind in ("jsonl", "parquet") and self._loaded is None
                else self
            )
            nulls: list[int] = []
            for i, row in enumerate(rows):
                value = row[self._text_field(row, i)]
                if isinstance(value, str):
                    yield text_document(value, f"row {i}")
                elif isinstance(value, Sequence) and all(isinstance(v, str) for v in value):
                    yield Document([v.strip() for v in value if v.strip()], f"row {i}")
                elif value is None:
                    nulls.append(i)
                else:
                    raise ValueError(
                        f"{self.address}: row {i} holds {type(value).__name__}, "
                        f"not text: {value!r:.60}"
                    )
            if nulls:
                warnings.warn(
                    f"{self.address}: {len(nulls)} rows whose text is null are left out, "
                    f"the first is row {nulls[0]}",
                    stacklevel=2,
                )

    def _text_field(self, row: dict, i: int) -> str:
        field = self.field or (
            "text" if "text" in row else next(iter(row)) if len(row) == 1 else None
        )
        if field is None:
            raise ValueError(
                f"{self.address}: say which field is the text with #field; "
                f"there are: {', '.join(row)}"
            )
        if field not in row:
            raise ValueError(
                f"{self.address}: row {i} has no field {field!r}; it has: {', '.join(row)}"
            )
        return field


@dataclass(frozen=True)
class Documents:
    """The documents of a source: iterate as often as you like. Raises ValueError at the end where
    there was none.
    """

    source: Source

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def __iter__(self) -> Iterator[Document]:
        empty = True
        for document in self.source._documents():
            if document.sentences:
                empty = False
                yield document
        if empty:
            raise ValueError(f"{self.source.address}: there is no text in it")


def read_lines(path: str, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of a file, gzipped or not, split at newlines only (not at U+2028
    and its kind).

    Raises ValueError, naming file, line and byte, where it is not of that encoding; and where a
    gzip file is damaged or cut short.
    """
    marked = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    with _open(path) as file:
        number = offset = 0
        while True:
            try:
                raw = file.readline()
            except (EOFError, zlib.error, gzip.BadGzipFile) as e:
                raise ValueError(
                    f"{path}: the gzip file is damaged or cut short after line {number} ({e})"
                ) from None
            if not raw:
                return
            number += 1
            try:
                line = raw.decode(marked if number == 1 else encoding)
            except UnicodeDecodeError as e:
                byte = raw.index(e.object[e.start :]) + 1 if e.object != raw else e.start + 1
                raise ValueError(
                    f"{path}, line {number}, byte {byte} (byte {offset + byte} of the text): "
                    f"not {encoding.upper()} (0x{e.object[e.start]:02x}); convert the file to UTF-8, "
                    f"or say its encoding where that can be said (--task.encoding latin-1)"
                ) from None
            offset += len(raw)
            yield number, line.removesuffix("\n").removesuffix("\r")


def _files(pattern: str) -> tuple[str, ...]:
    if "://" in pattern:
        protocol = pattern.partition("://")[0]
        try:
            import fsspec

            found = [
                f"{protocol}://{f.removeprefix(protocol + '://')}"
                for f in fsspec.filesystem(protocol).glob(pattern)
            ]
        except Exception as e:  # each file system has errors of its own
            raise ValueError(
                f"{pattern}: cannot read {protocol}:// on this machine ({_first_line(e)})"
            ) from None
    else:
        pattern = os.path.expanduser(pattern)
        # A name that exists is taken as it stands, whatever [ or * it holds.
        found = (
            [pattern]
            if os.path.isfile(pattern)
            else [f for f in glob.glob(pattern, recursive=True) if os.path.isfile(f)]
        )
    if not found:
        if glob.has_magic(pattern):
            raise FileNotFoundError(f"no file matches {pattern}")
        if os.path.isdir(pattern):
            raise FileNotFoundError(
                f"{pattern} is a folder: name its files, for instance {os.path.join(pattern, '*')}"
            )
        raise FileNotFoundError(f"there is no file {pattern}")
    return tuple(sorted(found))


def _open(path: str) -> BinaryIO:
    fingerprint.note_file(path)
    if "://" in path:
        import fsspec

        file = fsspec.open(path, "rb").open()
    else:
        file = open(path, "rb")  # noqa: SIM115  the caller closes it
    magic = file.read(2)
    file.seek(0)
    return gzip.open(file, "rb") if magic == b"\x1f\x8b" else file


def _stat(path: str) -> tuple[int, int | str]:
    if "://" in path:
        import fsspec

        filesystem = fsspec.open(path).fs
        info = filesystem.info(path)
        return info["size"], fingerprint.checksum(info) or str(info.get("created", ""))
    s = os.stat(path)
    return s.st_size, s.st_mtime_ns


def _stem(path: str) -> str:
    return os.path.basename(path).removesuffix(".gz").rpartition(".")[0] or os.path.basename(path)


def _json_rows(path: str) -> Iterator[dict]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as e:
            raise ValueError(
                f"{path}, line {number}: not a whole JSON value ({e.msg}, column {e.colno})"
            ) from None
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: expected a JSON object, got {line.strip()[:40]!r}"
            )
        yield row


def _labeled_rows(path: str, encoding: str) -> Iterator[dict]:
    for number, line in read_lines(path, encoding):
        if not line.strip():
            continue
        label, _, text = line.strip().partition(" ")
        if not text:
            raise ValueError(
                f"{path}, line {number}: expected a label, a blank and a text, got {line[:40]!r}"
            )
        yield {"label": label, "coarse": label.partition(":")[0], "text": text.strip()}


def _tsv_cells(path: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split("\t")) for number, line in read_lines(path, encoding) if line)


def _csv_cells(path: str, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)
    lines = (line + "\n" for _, line in read_lines(path, encoding))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as e:
        kind = "CSV" if delimiter == "," else "TSV with quotes"
        raise ValueError(f"{path}, line {reader.line_num}: not {kind} ({e})") from None


def _is_quoted(path: str, encoding: str, quotes: Quotes) -> bool:
    """Whether a tsv file is to be read with quotes; warns of one whose quotes do not pair."""
    if quotes != "auto":
        return quotes == "quoted"
    # As it stands first: the line of the first field that begins with a quote, the numbers of fields.
    first, widths = 0, set()
    for number, cells in _tsv_cells(path, encoding):
        widths.add(len(cells))
        if not first and any(cell.startswith('"') for cell in cells):
            first = number
    if not first:
        return False
    try:
        rows = [row for _, row in _csv_cells(path, encoding, "\t")]
        fault = ""
    except ValueError as e:
        rows, fault = [], str(e).removeprefix(f"{path}, ").partition(":")[0]
    # Quotes that close on another line, or behind a tab, may be two that stand alone: they are taken
    # as a pair only if the file is no table without them and is one with them.
    is_table = len(widths) > 1 and len({len(row) for row in rows}) == 1
    if not is_table and any("\n" in cell or "\t" in cell for row in rows for cell in row):
        fault = "they pair over tabs or lines, though each line is complete without"
    if fault:
        warnings.warn(
            f"{path}: fields begin with a quote (line {first}), but not all are well-formed "
            f"({fault}): the file is read as it stands, quotes and all; --task.quotes raw, or "
            f"quoted, says what it is",
            stacklevel=1,  # the same for all who read the file: it is said once
        )
    return not fault


def _parquet_rows(path: str) -> Iterator[dict]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path}: reading Parquet needs pyarrow, which is not installed") from None
    with _open(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            for batch in table.iter_batches():
                yield from batch.to_pylist()
        except pyarrow.lib.ArrowInvalid as e:
            raise ValueError(f"{path}: not a Parquet file ({e})") from None


class _TfdsRows(Sequence[dict]):
    """Rows of a TFDS data source, text as str. about: what tells it from others."""

    def __init__(self, source, about: tuple):
        self._source = source
        self.about = (*about, len(source))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> dict:
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        return {k: _as_text(v) for k, v in self._source[i % len(self)].items()}


def _as_text(value):
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {k: _as_text(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_as_text(v) for v in value]
    if getattr(value, "dtype", None) is not None and value.dtype == object:
        return [_as_text(v) for v in value.tolist()]
    return value


def _tfds_rows(target: str, data_dir: str | None) -> Sequence[dict]:
    name, _, split = target.partition(":")
    try:
        import tensorflow_datasets as tfds
        import tensorflow_datasets.text
    except ImportError as e:
        raise ValueError(f"tfds:{target}: reading TFDS needs tensorflow-datasets ({e})") from None
    data_dir = os.path.expanduser(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    )
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (
        Exception
    ) as e:  # tfds has a class of its own for each fault, and raises others of its dependencies
        try:  # prepared data is read without the set's code, which for super_glue needs TensorFlow
            builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
        except Exception:
            raise ValueError(
                f"tfds:{target}: TFDS knows no such data set or cannot open it ({_first_line(e)})"
            ) from None
    where = f"tfds:{target} in {builder.data_dir}"
    if not builder.is_prepared():
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as e:
            raise ValueError(
                f"{where}: not prepared there, and preparing it failed ({_first_line(e)}); "
                f"without a network, copy a folder "
                f"prepared elsewhere with file_format='array_record'"
            ) from None
    splits = list(builder.info.splits)
    if not split:
        if len(splits) > 1 and "train" not in splits:
            raise ValueError(
                f"{where}: say which split, as in tfds:{name}:{splits[0]}; "
                f"there are: {', '.join(splits)}"
            )
        split = "train" if "train" in splits else splits[0]
    if split.partition("[")[0] not in splits and "+" not in split:
        raise ValueError(f"{where}: there is no split {split!r}; there are: {', '.join(splits)}")
    try:
        return _TfdsRows(builder.as_data_source(split=split), (builder.info.full_name, split))
    except Exception as e:
        raise ValueError(
            f"{where}: cannot read it at random ({_first_line(e)}); prepare it as array_record"
        ) from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
