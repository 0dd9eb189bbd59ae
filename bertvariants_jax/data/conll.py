"""The column format of the CoNLL shared tasks: a word a line with its tags, sentences between blank lines."""

import re
from collections.abc import Iterable, Iterator

BREAK = "-DOCSTART-"   # the word of lines that begin a document (CoNLL-2003): no words themselves
BLANKS = re.compile(r"[ \t]+")   # not every white space: words hold no-break spaces (WNUT 2017)


def sentences(path: str, lines: Iterable[tuple[int, str]], column: str | None = None) -> Iterator[dict]:
    """Sentences as {"words", "tags" (lists of str), "file", "line" (of the first word)}.

    lines: (number, line) of the file; columns stand between tabs where the line has one, else between blanks. The
    first one is the word.
    column: number of the tags' column, from 0, or from the end (-1); the last one if not given. A file of words
    alone gives no "tags".
    Raises ValueError, naming file and line, for a line with another number of columns than those before it and for a
    column that is not there.
    """
    try:
        number = -1 if column is None else int(column)
    except ValueError:
        raise ValueError(f"{path}#{column}: the column must be a number, 0 is the words") from None
    width, words, tags, start = 0, [], [], 0

    def sentence() -> dict:
        return {"words": words, **({"tags": tags} if width > 1 else {}), "file": path, "line": start}

    for where, line in lines:
        cells = [cell for cell in (line.split("\t") if "\t" in line else BLANKS.split(line.strip(" "))) if cell]
        if not cells or cells[0] == BREAK:
            if words:
                yield sentence()
                words, tags = [], []
            continue
        width = width or len(cells)
        if len(cells) != width:
            raise ValueError(f"{path}, line {where}: {len(cells)} columns, but {width} in the lines before ({line[:60]!r})")
        if not -width <= number < width:
            raise ValueError(f"{path}, line {where}: there is no column {number}, the line has {width}")
        start = start if words else where
        words.append(cells[0])
        tags.append(cells[number])
    if words:
        yield sentence()
