"""The `docs:` source: English prose that every machine has, inside the installed Python and its
packages.

Taken: docstrings (found by `ast`, nothing is imported), Python's own language reference
(pydoc_data), .rst, .md and .txt files, and the long descriptions of installed distributions. Kept:
paragraphs that read as prose; left out: code, tables, licences, and every paragraph seen before.
Packages in alphabetical order, the standard library's modules first.
"""

import ast
import functools
import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator

from bertvariants_jax.data.documents import Document, sentences

_SKIPPED_FOLDERS = frozenset(
    "test tests testing idle_test __pycache__ _vendor vendor vendored third_party licenses "
    "license include node_modules site-packages dist-packages lib2to3 config locale data "
    "testdata".split()
)
_SKIPPED_FILES = re.compile(
    r"licen[cs]e|copying|copyright|notice|authors|contributors|requirements|top_level|entry_points"
    r"|sources|vocab|words",
    re.I,
)
_MOST_BYTES = 1_000_000  # larger files are generated


@functools.lru_cache(maxsize=1)  # a tokenizer's training and the corpus read it one after the other
def documents(target: str = "") -> tuple[Document, ...]:
    """One document per module or page with three sentences or more; group is the package. target:
    "" or "PACKAGE,...".

    The order and the text depend on what is installed and on nothing else. Raises ValueError for a
    package not there.
    """
    return tuple(_documents(target))


def _documents(target: str) -> Iterator[Document]:
    seen: set[bytes] = set()
    for package, kind, path, name in _files(target):
        for title, texts in _texts(path, kind):
            body: list[str] = []
            for paragraph in (p for text in texts for p in _paragraphs(text)):
                mark = hashlib.blake2b(paragraph.lower().encode(), digest_size=8).digest()
                if mark not in seen:
                    seen.add(mark)
                    body += sentences(paragraph)
            if len(body) >= 3:
                yield Document(body, f"{name}#{title}" if title else name, package)


def stamp(target: str = "") -> str:
    """Hex digest of the names and sizes of the files that `documents` reads."""
    digest = hashlib.blake2b(digest_size=16)
    for package, _, path, name in _files(target):
        digest.update(f"{package}/{name}/{os.path.getsize(path)}\n".encode())
    return digest.hexdigest()


def _files(target: str) -> list[tuple[str, str, str, str]]:
    """(package, kind, path, name inside the package's root) in a fixed order."""
    wanted = {p.strip() for p in target.split(",") if p.strip()}
    paths = sysconfig.get_paths()
    roots = dict.fromkeys(
        os.path.realpath(paths[k]) for k in ("stdlib", "platstdlib", "purelib", "platlib")
    )
    found, packages = [], set()
    for root in roots:
        for entry in sorted(os.listdir(root) if os.path.isdir(root) else ()):
            top = os.path.join(root, entry)
            distribution = re.fullmatch(r"(.+?)-[^-]+\.(dist|egg)-info", entry)
            package = distribution[1].lower() if distribution else entry.removesuffix(".py")
            if (
                not re.fullmatch(r"[\w.\-]+", package)
                or package.startswith("config-")
                or (wanted and package not in wanted)
            ):
                continue
            if distribution:
                meta = os.path.join(top, "METADATA")
                files = [meta] if os.path.isfile(meta) else []
            elif os.path.isdir(top):
                files = [] if entry in _SKIPPED_FOLDERS else _walk(top)
            else:
                files = [top] if entry.endswith(".py") else []
            for path in files:
                if os.path.getsize(path) <= _MOST_BYTES:
                    kind = (
                        "python" if path.endswith(".py") else "metadata" if distribution else "page"
                    )
                    found.append((package, kind, path, os.path.relpath(path, root)))
                    packages.add(package)
    if missing := sorted(wanted - packages):
        raise ValueError(
            f"docs:{target}: no package {missing[0]!r} with documentation is installed"
        )
    return found


def _walk(top: str) -> list[str]:
    out = []
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(
            f for f in folders if f not in _SKIPPED_FOLDERS and not f.endswith("-info")
        )
        for name in sorted(files):
            if name.endswith(".py") or (
                name.endswith((".rst", ".md", ".txt")) and not _SKIPPED_FILES.search(name)
            ):
                out.append(os.path.join(folder, name))
    return out


def _texts(path: str, kind: str) -> Iterator[tuple[str, list[str]]]:
    """(title, texts) of each document of a file; files that cannot be read as what they seem are
    passed over.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read()
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return
    if kind == "metadata":
        yield "", [text.partition("\n\n")[2]]
    elif kind == "page":
        yield "", [text]
    elif b'"""' in raw or b"'''" in raw or raw.startswith(b"# Autogenerated by Sphinx"):
        try:
            tree = ast.parse(raw)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return
        topics = _topics(tree) if path.endswith(os.path.join("pydoc_data", "topics.py")) else None
        if topics:
            yield from topics
        else:
            yield "", list(_docstrings(tree))


def _docstrings(node: ast.AST) -> Iterator[str]:
    body = node.body
    if (
        body
        and isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    ):
        yield body[0].value.value
    for child in body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child)


def _topics(tree: ast.Module) -> list[tuple[str, list[str]]]:
    """The pages of Python's language reference: a dict of strings."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return sorted(
                (k.value, [v.value])
                for k, v in pairs
                if isinstance(k, ast.Constant) and isinstance(v, ast.Constant)
            )
    return []


# ---- what reads as prose


_MARKUP = [
    (
        re.compile(r":[\w:+-]+:`~?(?:([^`<]*?)\s*<[^`]*>|(?:[\w.]*\.)?([^`]*))`"),
        r"\1\2",
    ),  # :class:`~a.b` -> b
    (re.compile(r"!?\[([^\]\[]*)\]\([^)]*\)"), r"\1"),  # [text](link) -> text
    (re.compile(r"`([^`<]*?)\s*<[^`>]*>`_{0,2}"), r"\1"),  # `text <link>`_ -> text
    (re.compile(r"`+([^`]*)`+_{0,2}"), r"\1"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])"), r"\1"),
    (re.compile(r" ?\[[\w#]*\]_"), ""),  # a footnote, [1]_
    (re.compile(r"\s+"), " "),
]
_BULLET = re.compile(r"([-*+•]|\d{1,2}[.)])\s+")
_NOT_PROSE = re.compile(
    r"(?:Args|Arguments|Returns?|Raises|Yields|Parameters|Params|Attributes|Examples?|Usage):"
    r"|.*?(?:>>>|::\s*$|://|[{}|\\<>=]|\.\. |[-=~^#_]{4,}|@|\$)"
)
_LICENCE = re.compile(
    r"licen[cs]e[ds]?\b|copyright|permission is hereby|all rights reserved|warrant(y|ies)"
    r"|redistribut|public domain|as is\b",
    re.I,
)
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")
_COMMON = frozenset(
    "the a an of to is are be in and or for that this with as it by on if not from which can "
    "will when has have".split()
)


def _paragraphs(text: str) -> Iterator[str]:
    lines = text.expandtabs().split("\n")
    block: list[str] = []
    for line in [*lines, ""]:
        stripped = line.strip()
        starts = bool(_BULLET.match(stripped))
        if block and (not stripped or starts):
            if prose := _prose(" ".join(block)):
                yield prose
            block = []
        if stripped:
            block.append(_BULLET.sub("", stripped, count=1) if starts else stripped)


def _prose(paragraph: str) -> str:
    """The paragraph without markup, or "" where it is not prose: too short, code, a table, a
    licence, not English.
    """
    if len(paragraph) < 40 or (not paragraph[0].isalpha() and paragraph[0] not in "`*\"'("):
        return ""
    for pattern, new in _MARKUP:
        paragraph = pattern.sub(new, paragraph)
    paragraph = paragraph.strip()
    if paragraph.endswith(":"):
        paragraph = paragraph.rstrip(":") + "."
    if (
        not paragraph
        or not paragraph[0].isupper()
        or paragraph[-1] not in ".!?)\"'"
        or _NOT_PROSE.match(paragraph)
    ):
        return ""
    words = _WORD.findall(paragraph)
    if len(words) < 8 or sum(map(len, words)) < 0.72 * len(paragraph):
        return ""
    common = sum(w.lower() in _COMMON for w in words)
    if common < 0.2 * len(words) or _LICENCE.search(paragraph):
        return ""
    return paragraph
