"""Lines of text to documents, each a list of sentences: the layouts that corpora come in, told
apart by their content.

Layouts (`detect` says how each is recognised):
  sentences      BERT's own: one sentence a line, blank lines between documents. Lines are never
                 cut or joined.
  wikiextractor  `<doc id=... title=...>` ... `</doc>`, one paragraph a line. A document is an
                 article; the title line, headings and list items (lines under 40 characters, 15
                 with CJK) are dropped, HTML entities resolved.
  wikitext       ` = Title = ` begins a document, ` = = Section = = ` is dropped, other lines are
                 paragraphs; its `@-@` becomes `-`.
  book           hard-wrapped lines, blank lines between paragraphs (Project Gutenberg: what lies
                 outside its START and END lines is dropped). A document is a chapter where there
                 are two chapter headings or more, else the file.
  paragraphs     one paragraph a line, no boundaries of documents: the file is one document.
Where lines are paragraphs they are cut into sentences by `sentences`. No document goes on in the
next file.
"""

import html
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LAYOUTS = ("sentences", "wikiextractor", "wikitext", "book", "paragraphs")


@dataclass(frozen=True, slots=True)
class Document:
    """sentences in reading order; name: title or file; group: what it belongs to (for `docs:` the
    package).
    """

    sentences: list[str]
    name: str = ""
    group: str = ""


def read_documents(
    lines: Iterable[str], layout: str = "auto", name: str = ""
) -> Iterator[Document]:
    """Documents of one file, in order; empty ones are left out. `lines` without line ends."""
    lines = iter(lines)
    if layout == "auto":
        head = list(itertools.islice(lines, 4000))
        layout, lines = detect(head), itertools.chain(head, lines)
    if layout not in _READERS:
        raise ValueError(f"unknown layout {layout!r}: it is 'auto' or one of {', '.join(LAYOUTS)}")
    return (d for d in _READERS[layout](lines, name) if d.sentences)


def text_document(text: str, name: str = "", group: str = "") -> Document:
    """A text that is one document (a field of a record): its lines are paragraphs, or parts of
    hard-wrapped ones.
    """
    lines = text.split("\n")
    paragraphs = _unwrapped(lines) if _is_wrapped(lines) else (line.strip() for line in lines)
    return Document([s for p in paragraphs for s in sentences(p)], name, group)


def detect(head: list[str]) -> str:
    """The layout of a file from its first lines (4000 are plenty).

    wikiextractor: the first line that is not blank opens a `<doc id=`. book: a Gutenberg START
    line, its header, or prose that is hard-wrapped (most lines that are followed by another fill 45
    to 100 characters and end inside a sentence).
    wikitext: the first line is ` = Title = `. paragraphs: at least five lines of two sentences or
    more each as a rule, and nearly all of them with blank lines around. Everything else is BERT's
    one sentence a line.
    """
    first = next((line for line in head if line.strip()), "")
    if re.match(r"\s*<doc\b[^>]*\bid=", first):
        return "wikiextractor"
    if any(_START.match(line) for line in head) or any(
        "Project Gutenberg" in line for line in head[:40]
    ):
        return "book"
    if (heading := _WIKITEXT.fullmatch(first)) and len(heading[1].split()) == 1:
        return "wikitext"
    if _is_wrapped(head):
        return "book"
    blocks = list(_blocks(head))
    alone = [block[0] for block in blocks if len(block) == 1]
    if len(alone) >= 5 and len(alone) >= 0.9 * len(blocks):
        counts = sorted(len(sentences(line)) for line in alone[:500])
        if counts[len(counts) // 2] >= 2:
            return "paragraphs"
    return "sentences"


def sentences(paragraph: str) -> list[str]:
    """Cut a paragraph into sentences; no character but white space is lost.

    A sentence ends at . ! ? or an ellipsis with any closing quotes and brackets, where white space
    follows and then a letter or digit that is not lower-case; not after a lone "." that closes an
    initial (`J.`), a dotted short form (`U.S.`) or a known abbreviation (`Mr.`, `e.g.`). The CJK
    marks end one without white space. No model, no list of names: it errs a little, both ways.
    """
    paragraph = paragraph.strip()
    out, start = [], 0
    for match in _END.finditer(paragraph):
        end = match.end()
        if end == len(paragraph):
            break
        if match["western"]:
            after = paragraph[end : end + 4].lstrip("\"'“‘«([_—- ")[:1]
            if not after.isalnum() or after.islower():
                continue
            if match["western"] == ".":
                word = _LAST_WORD.search(paragraph, max(start, match.start() - 20), match.start())
                word = word[0] if word else ""
                if (
                    (len(word) == 1 and word.isalpha())
                    or "." in word
                    or word.lower() in _ABBREVIATIONS
                ):
                    continue
        out.append(paragraph[start:end].rstrip())
        start = end
    if start < len(paragraph):
        out.append(paragraph[start:])
    return out


_START = re.compile(r"\s*\*\*\* ?START OF (THE|THIS) PROJECT GUTENBERG", re.I)
_STOP = re.compile(
    r"\s*\*\*\* ?END OF (THE|THIS) PROJECT GUTENBERG|\s*End of (the )?Project Gutenberg", re.I
)
_WIKITEXT = re.compile(r"\s*((?:= )+)(\S.*?)((?: =)+)\s*")
_DOC = re.compile(r'\s*<doc\b[^>]*?(?:\btitle="(?P<title>.*)")?[^>"]*>\s*$')
_CHAPTER = re.compile(
    r"(chapter|book|part|volume|letter|act|scene|canto|stave|adventure|(first|second) epilogue"
    r"|epilogue|prologue|preface|introduction)\b[\s.:]*([ivxlcdm]+\b|\d+|the \w+|one|two|three|four"
    r"|five|six|seven|eight|nine|ten|eleven|twelve|$)"
    r"|(?-i:[IVXLC]+\. [A-Z][^.!?]*$)",
    re.I,
)
_END = re.compile(r"(?P<western>[.!?…]+)[\"'”’»)\]]*\s+|[。！？]+[”’」』）]*\s*")
_LAST_WORD = re.compile(r"[\w.]+$")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof rev gen col capt lt sgt maj hon sr jr st mt ft messrs mme mlle vs etc "
    "al cf ca approx no nos vol pp fig figs eq eqs sec ch ed eds inc ltd co corp dept univ "
    "jan feb mar apr jun jul aug sep sept oct nov dec".split()
)


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Runs of lines between blank lines, stripped."""
    block: list[str] = []
    for line in lines:
        if line := line.strip():
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _is_wrapped(lines: list[str]) -> bool:
    # Only lines that another one follows: the last of a paragraph ends where it likes.
    inner = [line for block in _blocks(lines) for line in block[:-1]]
    if len(inner) < 3:
        return False
    full = sum(45 <= len(line) <= 100 for line in inner)
    closed = sum(line[-1] in '.!?。！？"”’' for line in inner)
    return full >= 0.7 * len(inner) and closed <= 0.35 * len(inner)


def _unwrapped(lines: Iterable[str]) -> Iterator[str]:
    return (" ".join(block) for block in _blocks(lines))


def _sentence_lines(lines: Iterable[str], name: str) -> Iterator[Document]:
    return (Document(block, name) for block in _blocks(lines))


def _paragraph_lines(lines: Iterable[str], name: str) -> Iterator[Document]:
    yield Document([s for line in lines for s in sentences(line)], name)


def _wikiextractor(lines: Iterable[str], name: str) -> Iterator[Document]:
    title, body = name, []
    for line in lines:
        line = line.strip()
        if line.startswith("<doc") and (opening := _DOC.match(line)):
            if body:  # an article that was not closed
                yield Document(body, title)
            title, body = html.unescape(opening["title"] or name), []
        elif line == "</doc>":
            yield Document(body, title)
            body = []
        elif len(line) >= 15 and line != title and (len(line) >= 40 or _CJK.search(line)):
            body.extend(sentences(html.unescape(line)))
    yield Document(body, title)


def _wikitext(lines: Iterable[str], name: str) -> Iterator[Document]:
    title, body = name, []
    for line in lines:
        if heading := _WIKITEXT.fullmatch(line):
            if len(heading[1].split()) == len(heading[3].split()) == 1:
                yield Document(body, title)
                title, body = heading[2], []
        else:
            body.extend(sentences(re.sub(r" @([-.,])@ ", r"\1", line)))
    yield Document(body, title)


def _book(lines: Iterable[str], name: str) -> Iterator[Document]:
    lines = list(lines)
    first = next((i + 1 for i, line in enumerate(lines) if _START.match(line)), 0)
    last = next((i for i in range(first, len(lines)) if _STOP.match(lines[i])), len(lines))
    chapters: list[Document] = [Document([], name)]
    for block in _blocks(lines[first:last]):
        headings = sum(bool(_CHAPTER.match(line)) for line in block)
        text = " ".join(block)
        if headings and len(block) <= 3 and len(text) < 100:
            chapters.append(Document([], f"{name}, {text}" if name else text))
        elif 2 * headings < len(block) and not text.startswith(("Produced by", "[Illustration")):
            # (else it is a table of contents)
            chapters[-1].sentences.extend(sentences(re.sub(r"\b_|_\b", "", text)))
    # A title page is no chapter, nor is a line of the contents.
    real = [
        chapter for i, chapter in enumerate(chapters) if len(chapter.sentences) >= (5 if i else 20)
    ]
    if len(real) >= 2:
        yield from real
    else:
        yield Document([s for chapter in chapters for s in chapter.sentences], name)


_READERS = {
    "sentences": _sentence_lines,
    "wikiextractor": _wikiextractor,
    "wikitext": _wikitext,
    "book": _book,
    "paragraphs": _paragraph_lines,
}
