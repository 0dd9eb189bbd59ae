"""Tagging of words with entities or chunks: CoNLL-2003, CoNLL-2000, WNUT 2017, MSRA, or any file of words with tags.

As BERT does it (arXiv:1810.04805, section 5.3): the first piece of a word bears its tag, nothing ties neighbouring
tags together, and whole entities are scored, as conlleval does.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from bertvariants_jax.data import conll, noise
from bertvariants_jax.data.batch import IGNORED, pad
from bertvariants_jax.data.source import KINDS, Quotes, Source, open_source, read_lines
from bertvariants_jax.files import write_file
from bertvariants_jax.objectives.finetune import tagging
from bertvariants_jax.tasks import entities
from bertvariants_jax.tasks.labels import whole
from bertvariants_jax.tasks.task import TEST, TRAIN, VALIDATION, Task


class Sentence(NamedTuple):
    """Words with their tags in the task's own encoding (None where the data has none), and where they stand."""

    words: list[str]
    tags: list[str] | None
    place: str
    line: int | None

    def at(self, word: int) -> str:
        return f"{self.place}, line {self.line + word}" if self.line is not None else f"{self.place}, word {word}"


@dataclass(frozen=True)
class Tagging(Task):
    """Words with tags.

    data: address of the training sentences: conll:FILE, conll:FILE#COLUMN, or one whose rows have the fields `words`
    and `tags`, lists or texts with blanks in between. evaluation, test: of the other splits; without the first the
    share `held_out` of the sentences, drawn by their number, is kept aside.
    names: the tags by their numbers, where the data has numbers (TFDS).
    types: of the entities, in the order of their ids; () takes those of the training data, sorted.
    order: the tags in the order of their ids, where it is another one than O and each type's B-, I- (E-, S-).
    scheme: of the data; "auto" tells it by the tags, "any" takes whatever stands there as conlleval does.
    quotes: of tsv files, "raw" or "quoted" (a spreadsheet's) where their content should not decide.
    encoding: of the model's tags.
    max_length: tokens of a row. A longer sentence is cut between words into several rows, and no word is lost.
    """

    data: str = ""
    evaluation: str = ""
    test: str = ""
    words: str = "words"
    tags: str = "tags"
    names: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    scheme: Literal["auto", "iob1", "iob2", "bioes", "ioe1", "ioe2", "any"] = "auto"
    encoding: Literal["iob2", "bioes"] = "iob2"
    max_length: int = 128
    held_out: float = 0.1
    rows: int = 0
    quotes: Quotes = "auto"

    best = "f1"

    def __post_init__(self):
        if not self.evaluation and not 0 < self.held_out < 1:
            raise ValueError(f"task.held_out must lie between 0 and 1, got {self.held_out}")
        if self.max_length < 8:
            raise ValueError(f"task.max_length must be at least 8, got {self.max_length}")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("tag",)

    @cached_property
    def _types(self) -> tuple[str, ...]:
        found = self.types or tuple(sorted({
            entity.type for sentence in self.sentences(TRAIN) for entity in entities.entities(sentence.tags or ())}))
        if not found:
            raise ValueError(f"{self.data}: no word is tagged with an entity")
        return found

    def labels(self) -> tuple[str, ...]:
        return self.order or entities.labels(self._types, self.encoding)

    def answered_by(self, labels: tuple[str, ...]) -> "Tagging":
        if self.types or self.order:
            return self
        with contextlib.suppress(FileNotFoundError):
            if self.data and self.source(TRAIN).files:
                return self
        tags = [entities.split(label) for label in labels if not label.startswith("LABEL_")]
        types = tuple(dict.fromkeys(kind for _, kind in tags if kind))
        return replace(self, types=types) if types else self

    def fitted(self, labels: tuple[str, ...], pooling: str | None) -> "Tagging":
        """With the model's order of tags, and its encoding, where it knows the same types."""
        same = next((name for name in ("iob2", "bioes") if set(labels) == set(entities.labels(self._types, name))), "")
        return replace(self, order=tuple(labels), encoding=same) if same else self

    def source(self, split: str) -> Source:
        known = {TRAIN: self.data, VALIDATION: self.evaluation or self.data, TEST: self.test}
        if split not in known:
            raise ValueError(f"there is no split {split!r}; there are: {', '.join(known)}")
        if not (address := known[split]):
            raise ValueError(f"the task has no {split} data: give --task.data an address such as conll:FILE"
                             if split == TRAIN else f"the task has no {split} data")
        return open_source(address, quotes=self.quotes)

    def texts(self) -> Iterator[str]:
        return (" ".join(sentence.words) for sentence in self.sentences(TRAIN))

    def sentences(self, split: str) -> list[Sentence]:
        """The sentences of a split.

        Raises ValueError, naming file and line (or row and word), for a tag that is none, a sequence that breaks the
        scheme, and a sentence with other numbers of words and tags.
        """
        return [s if s.tags is None else s._replace(tags=entities.tagged(entities.entities(s.tags), len(s.tags), self.encoding))
                for s in self.as_they_stand(split)]

    def as_they_stand(self, split: str) -> list[Sentence]:
        """The sentences of a split with the data's own tags."""
        rows = self.source(split)
        found = [self.read(rows[i], rows.place(i)) for i in range(len(rows))]
        self.check(found)
        if not self.evaluation and split in (TRAIN, VALIDATION):
            aside = noise.uniform(0, "tagging/held out", 0, np.arange(len(found)), 1)[:, 0] < self.held_out
            kept = [s for s, apart in zip(found, aside, strict=True) if apart == (split == VALIDATION)]
            if not kept:
                raise ValueError(f"{rows.address}: none of its {len(found)} sentences is left for {split} with task.held_out "
                                 f"{self.held_out}; task.evaluation names sentences to evaluate on")
            found = kept
        return found[: self.rows] if split == TRAIN and self.rows else found

    def read(self, row: Mapping, place: str) -> Sentence:
        """A row as a sentence, its tags as they stand in the data. place: of the row, where it does not say itself."""
        place, line = (row["file"], row["line"]) if "line" in row and "file" in row else (place, None)
        if self.words not in row:
            raise ValueError(f"{place} has no field {self.words!r}; it has: {', '.join(row)}")
        words, tags = row[self.words], row.get(self.tags)
        words = listed(words) if isinstance(words, str) else words
        if not isinstance(words, list | tuple | np.ndarray) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{place} has {words!r:.60} as {self.words!r}, expected a list of words, or a text")
        words = list(words)
        if tags is None:
            return Sentence(words, None, place, line)
        if not isinstance(tags, str | list | tuple | np.ndarray):
            raise ValueError(f"{place} has {tags!r:.60} as {self.tags!r}, expected a list of tags, or a text")
        tags = listed(tags) if isinstance(tags, str) else [self.named(tag, place) for tag in tags]
        if len(words) != len(tags):
            raise ValueError(f"{place} has {len(words)} words, but {len(tags)} tags")
        sentence = Sentence(words, tags, place, line)
        for i, tag in enumerate(tags):
            try:
                entities.split(tag)
            except ValueError as error:
                raise ValueError(f"{sentence.at(i)}: {error}") from None
        return sentence

    def named(self, tag, place: str) -> str:
        if isinstance(tag, str):
            return tag
        if not 0 <= (number := whole(tag, place, "tag")) < len(self.names):
            raise ValueError(f"{place} has the tag {tag}, but task.names has {len(self.names)} entries")
        return self.names[number]

    def check(self, found: Sequence[Sentence]) -> None:
        told = [s for s in found if s.tags is not None]
        if self.scheme == "any" or not told:
            return
        scheme, wrong = entities.scheme_of([s.tags for s in told]) if self.scheme == "auto" else (self.scheme, next(
            ((i, at) for i, s in enumerate(told) if (at := entities.fits(s.tags, self.scheme)) is not None), None))
        if wrong:
            sentence, at = told[wrong[0]], wrong[1]
            before = f"after {sentence.tags[at - 1]}" if at else "at the beginning"
            raise ValueError(f"{sentence.at(at)}: {sentence.words[at]!r} is tagged {sentence.tags[at]} {before}, which "
                             f"breaks the scheme {scheme.upper()}: mend the file, or take it as it is by --task.scheme any")

    def examples(self, split: str, tokenizer, cache: Path | None = None, batch_size: int = 1) -> "Tagged":
        """Raises ValueError for a type that is none of the task's, naming file and line."""
        found, known = self.sentences(split), self.labels()
        for sentence in found:
            for i, tag in enumerate(sentence.tags or ()):
                if tag not in known:
                    raise ValueError(f"{sentence.at(i)}: the tag {tag!r} is of no type that the task knows: "
                                     f"{', '.join(self._types)}")
        return Tagged(found, known, tokenizer, self.max_length)

    def objective(self, network, **companions):
        return tagging(network)

    def score(self, examples: "Tagged", outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """f1, precision and recall of whole entities, accuracy of tags, and the same by type (tasks/entities.py)."""
        gold = self.gold(examples.sentences)
        return {} if gold is None else entities.scores(gold, self.predicted(examples, outputs))

    def gold(self, sentences: Sequence[Sentence]) -> list[list[str]] | None:
        """Their tags, None where no sentence has any. Raises ValueError, naming the first, where a part of them has none."""
        untold = [sentence for sentence in sentences if sentence.tags is None]
        if untold and len(untold) < len(sentences):
            raise ValueError(f"{untold[0].at(0)}: {len(untold)} of {len(sentences)} sentences have no tags to score against")
        return None if untold else [sentence.tags for sentence in sentences]

    def baseline(self, examples: "Tagged") -> dict[str, float]:
        """All words outside of entities."""
        gold = self.gold(examples.sentences)
        return {} if gold is None else entities.scores(gold, [[entities.OUTSIDE] * len(tags) for tags in gold])

    def predicted(self, examples: "Tagged", outputs: Mapping[str, np.ndarray]) -> list[list[str]]:
        """The best tag of each word of each sentence."""
        known, tags = self.labels(), [[] for _ in examples.sentences]
        best = np.asarray(outputs["logits"]).argmax(-1)                                      # rows L
        for row, places in zip(best, examples.places, strict=True):
            tags[places.sentence].extend(known[i] for i in row[places.firsts])
        return tags

    def write(self, examples: "Tagged", outputs: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
        """predictions.conll: word, true tag (where known) and predicted tag, blanks between, as conlleval reads it."""
        lines = []
        for sentence, said in zip(examples.sentences, self.predicted(examples, outputs), strict=True):
            words = [plain(word) for word in sentence.words]
            columns = [words, sentence.tags, said] if sentence.tags is not None else [words, said]
            lines += [" ".join(cells) for cells in zip(*columns, strict=True)] + [""]
        path = Path(folder) / "predictions.conll"
        write_file(path, "\n".join(lines) + "\n")
        return [path]

    def score_file(self, path: str | Path, split: str = VALIDATION) -> dict[str, float]:
        """Scores of a column file whose last column is the prediction; the truth is the task's data, or without any
        the column before it.

        Raises ValueError, naming the line, where its words are not those of the data or a tag is none.
        """
        path, reader = str(path), Tagging(scheme="any")
        said = [reader.read(row, path) for row in conll.sentences(path, read_lines(path))]
        if not said:
            raise ValueError(f"{path}: there is no sentence in it")
        if said[0].tags is None:
            raise ValueError(f"{path}, line {said[0].line}: there is one column, and no prediction")
        if not (self.data or self.evaluation or self.test):
            rows = conll.sentences(path, read_lines(path), "-2")
            truth = [reader.read(row, path) for row in rows]
        else:
            truth = self.as_they_stand(split)
        for one, other in zip(said, truth, strict=False):
            for i, (word, true) in enumerate(zip(one.words, other.words, strict=False)):
                if plain(word) != plain(true):
                    raise ValueError(f"{one.at(i)}: the word is {word!r}, but {true!r} in {other.at(i)}")
            if len(one.words) != len(other.words):
                raise ValueError(f"{one.at(0)}: the sentence has {len(one.words)} words, but {len(other.words)} in "
                                 f"{other.at(0)}")
        if len(said) != len(truth):
            raise ValueError(f"{path} has {len(said)} sentences, but the data {len(truth)}")
        if missing := [s for s in truth if s.tags is None]:
            raise ValueError(f"{missing[0].place} has no tags to score against")
        predicted = [s.tags for s in said]
        beside = [row["tags"] for row in conll.sentences(path, read_lines(path), "-2")]
        return entities.scores(beside_or_alike([s.tags for s in truth], beside, predicted), predicted)


def beside_or_alike(gold: Sequence[list[str]], beside: Sequence[list[str]], predicted: Sequence[list[str]]
                    ) -> Sequence[Sequence[str]]:
    """The true tags to compare predicted ones with, tag by tag.

    beside: the file's column before the predictions. Where `Tagging.write` has made it, it holds the true tags in the
    model's encoding, which the predictions may break (I- after O) so that they look like those of another scheme.
    """
    prefixes = {entities.split(tag)[0] for tags in predicted for tag in tags}
    for encoding in ("iob2", "bioes"):
        if prefixes <= {entities.split(tag)[0] for tag in entities.labels(("X",), encoding)} and beside == [
                entities.tagged(entities.entities(tags), len(tags), encoding) for tags in gold]:
            return beside
    return entities.alike(gold, predicted)


def listed(text: str) -> list[str]:
    """Words or tags between blanks, or as MSRA's files have it between control characters (U+0002)."""
    return text.replace("\x02", " ").split()


def plain(word: str) -> str:
    """A word as it stands in a column file, where blanks divide columns."""
    return conll.BLANKS.sub("_", word) or "_"


class Places(NamedTuple):
    """Of which sentence a row is, and where in it the first pieces of its words stand."""

    sentence: int
    firsts: np.ndarray


class Tagged:
    """Tokenised sentences in rows of one length: the longest row's, at most `max_length`."""

    def __init__(self, sentences: list[Sentence], labels: Sequence[str], tokenizer, max_length: int):
        if not sentences:
            raise ValueError("there are no sentences")
        self.sentences, self.tokenizer = sentences, tokenizer
        ids, rows = {label: i for i, label in enumerate(labels)}, []
        room = max_length - tokenizer.num_special_tokens()
        before = int(np.flatnonzero(tokenizer.build([-1])[0] == -1)[0])
        for number, (sentence, words) in enumerate(zip(sentences, pieces([s.words for s in sentences], tokenizer),
                                                       strict=True)):
            for first, last in cuts([min(len(word), room) for word in words], room):
                kept = [word[:room] for word in words[first:last]]
                starts = before + np.cumsum([0, *map(len, kept)])[:-1]
                row, kinds = tokenizer.build(np.concatenate(kept))
                encoded = {"input_ids": row, **({"token_type_ids": kinds} if tokenizer.type_ids else {})}
                if sentence.tags is not None:
                    encoded["labels"] = np.full(len(row), IGNORED, np.int32)
                    encoded["labels"][starts] = [ids[tag] for tag in sentence.tags[first:last]]
                rows.append((encoded, number, starts))
        longest = max(len(row["input_ids"]) for row, _, _ in rows)
        self.length = min(-(-longest // 16) * 16, max_length)
        left = tokenizer.padding_side == "left"
        self.encoded = [row for row, _, _ in rows]
        self.places = [Places(number, starts + (self.length - len(row["input_ids"]) if left else 0))
                       for row, number, starts in rows]

    def __len__(self) -> int:
        return len(self.encoded)

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> dict[str, np.ndarray]:
        return pad([self.encoded[i] for i in indices], self.length, pad_token_id=self.tokenizer.pad_token_id,
                   side=self.tokenizer.padding_side)


def pieces(sentences: Sequence[Sequence[str]], tokenizer) -> list[list[np.ndarray]]:
    """The ids of each word of each sentence, at least one a word (the unknown piece, where nothing is left of it).

    Byte-level vocabularies see a blank before each word but the first, as in running text.
    """
    blank = " " if tokenizer.kind == "bpe" else ""
    texts = [[word if i == 0 else blank + word for i, word in enumerate(words)] for words in sentences]
    unique = list(dict.fromkeys(text for words in texts for text in words))
    nothing = np.array([tokenizer.unk_token_id], np.int32)
    known = {text: ids if len(ids) else nothing for text, ids in zip(unique, tokenizer.ids(unique), strict=True)}
    return [[known[text] for text in words] for words in texts]


def cuts(sizes: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Words first .. last (left out) of each row, as many as there is room for."""
    found, first, used = [], 0, 0
    for i, size in enumerate(sizes):
        if used + size > room:
            found.append((first, i))
            first, used = i, 0
        used += size
    return [*found, (first, len(sizes))]


@dataclass(frozen=True)
class Row:
    """train, validation, test: names that the files go by. kind: of data address, "#" and column. tfds: its name."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    types: tuple[str, ...]
    kind: str = "conll"
    column: str = ""
    tfds: str = ""
    fields: tuple[str, str] = ("words", "tags")
    tfds_fields: tuple[str, str] = ("tokens", "ner")


TAGGING = {
    "conll2003": Row(("eng.train", "train.txt", "train.conll"), ("eng.testa", "valid.txt", "dev.txt", "dev.conll"),
                     ("eng.testb", "test.txt", "test.conll"), ("PER", "ORG", "LOC", "MISC"), tfds="conll2003/conll2003"),
    "conll2000": Row(("train.txt", "train.conll"), ("test.txt", "test.conll"), ("test.txt", "test.conll"),
                     ("NP", "VP", "PP", "ADVP", "SBAR", "ADJP", "PRT", "CONJP", "INTJ", "LST", "UCP")),
    "wnut17": Row(("wnut17train.conll", "train.conll"), ("emerging.dev.conll", "dev.conll"),
                  ("emerging.test.annotated", "emerging.test.conll", "test.conll"),
                  ("corporation", "creative-work", "group", "location", "person", "product")),
    "msra": Row(("train.tsv",), ("dev.tsv", "test.tsv"), ("test.tsv",), ("PER", "ORG", "LOC"), kind="tsv",
                fields=("text_a", "label")),
}


def ner(task: str = "conll2003", data: str = "", **options) -> Tagging:
    """A task of TAGGING from the files of the folder `data` (gzipped or not), or from TFDS where it has the task; or with
    a data address (conll:FILE) your own sentences, whatever `task` says.

    A file alone is for evaluation. CoNLL-2000 has no validation data: its test data is both, as in the papers.
    Raises ValueError for an unknown task, FileNotFoundError where there is none of the task's files.
    """
    if task not in TAGGING:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(TAGGING)}")
    if data.partition(":")[0] in KINDS:
        return Tagging(data, **options)
    row = TAGGING[task]
    if not data:
        if not row.tfds:
            raise ValueError(f"TFDS has no {task}: give --data the folder of its files ({row.train[0]}, ...)")
        words, tags = row.tfds_fields
        return Tagging(*(f"tfds:{row.tfds}:{split}" for split in ("train", "dev", "test")), **{
            "words": words, "tags": tags, "types": row.types, "names": entities.labels(row.types), **options})
    words, tags = row.fields
    wanted = {"data": row.train, "evaluation": row.validation, "test": row.test}
    if Path(data).is_file():
        places: dict[str, Path | None] = {"evaluation": Path(data)}
    else:
        places = {key: _file(Path(data), names) for key, names in wanted.items()}
        if not any(places.values()):
            raise FileNotFoundError(f"{data}: none of {', '.join(row.train)} is there (.gz neither), nor those of other splits")
        # One that is not there goes by the name that it should have, so that what needs it names it.
        places = {key: path or (Path(data) / wanted[key][0] if key != "test" else None) for key, path in places.items()}
    addresses = {key: f"{row.kind}:{path}{row.column}" if path else "" for key, path in places.items()}
    own = {"quotes": "raw"} if row.kind == "tsv" else {}
    return Tagging(**{**addresses, "words": words, "tags": tags, "types": row.types, **own, **options})


def _file(folder: Path, names: Sequence[str]) -> Path | None:
    return next((path for name in names for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
