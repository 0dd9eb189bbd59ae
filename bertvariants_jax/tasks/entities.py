"""Entities in tag sequences: the schemes IOB1, IOB2, IOE1, IOE2 and BIOES, and entity-level scores as `conlleval` counts them.

Any sequence is read by the rules of conlleval (Tjong Kim Sang 2000; for S- and E- as its successors and seqeval's
default mode), which take what fits no scheme too: an I- after O begins an entity. Strict scores, where such an
entity is none, are not what papers report.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
SAME = {"B": "B", "I": "I", "E": "E", "S": "S", "O": "O", "M": "I", "L": "E", "U": "S"}   # BMES and BILOU besides
SCHEMES = ("iob2", "iob1", "bioes", "ioe2", "ioe1")       # of those that fit the first one is taken


class Entity(NamedTuple):
    """Words start .. end (end left out) of one sentence are a `type`."""

    type: str
    start: int
    end: int


def split(tag: str) -> tuple[str, str]:
    """ "B-PER" -> ("B", "PER"); types may hold hyphens. Raises ValueError for what is no tag."""
    prefix, _, kind = tag.partition("-")
    if prefix not in SAME or bool(kind) == (prefix == OUTSIDE):
        raise ValueError(f"{tag!r} is no tag: it must be O, or B-, I-, E- or S- with a type")
    return SAME[prefix], kind


def entities(tags: Iterable[str]) -> list[Entity]:
    """The entities of a sentence's tags, in order."""
    found, start, before = [], 0, (OUTSIDE, "")
    for i, now in enumerate([*map(split, tags), (OUTSIDE, "")]):
        if before[0] != OUTSIDE and borders(before, now):
            found.append(Entity(before[1], start, i))
        if now[0] != OUTSIDE and borders(before, now):
            start = i
        before = now
    return found


def borders(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Whether an entity ends or begins between two words."""
    return before[1] != now[1] or before[0] in "ESO" or now[0] in "BSO"


def tagged(found: Iterable[Entity], length: int, scheme: str = "iob2") -> list[str]:
    """Tags of `length` words with these entities, in one of SCHEMES."""
    tags, listed = [OUTSIDE] * length, list(found)
    for number, (kind, start, end) in enumerate(listed):
        after_same = number > 0 and (kind, start) == (listed[number - 1].type, listed[number - 1].end)
        before_same = number + 1 < len(listed) and (kind, end) == listed[number + 1][:2]
        first, last = {"iob2": ("B", "I"), "iob1": ("B" if after_same else "I", "I"), "bioes": ("B", "E"), "ioe2": ("I", "E"),
                       "ioe1": ("I", "E" if before_same else "I")}[scheme]
        prefixes = [first, *"I" * (end - start - 2), last]
        if end - start == 1:
            prefixes = ["S" if scheme == "bioes" else first if scheme in ("iob1", "iob2") else last]
        tags[start:end] = [f"{prefix}-{kind}" for prefix in prefixes]
    return tags


def labels(types: Iterable[str], scheme: str = "iob2") -> tuple[str, ...]:
    """All tags of a scheme, O first; the types as given."""
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in ("BIES" if scheme == "bioes" else "BI")))


def fits(tags: Sequence[str], scheme: str) -> int | None:
    """None where the tags are of the scheme, else the number of the first word whose tag is not."""
    read = [split(tag) for tag in tags]
    wanted = [split(tag) for tag in tagged(entities(tags), len(tags), scheme)]
    return next((i for i, (one, other) in enumerate(zip(read, wanted, strict=True)) if one != other), None)


def scheme_of(sentences: Sequence[Sequence[str]]) -> tuple[str, tuple[int, int] | None]:
    """The scheme of tag sequences, and where they break it: (sentence, word), None where they do not.

    Of schemes that all fit it is the first of SCHEMES, IOB2; where none fits, the one with the fewest broken sentences.
    """
    best, broken = "", []
    for scheme in SCHEMES:
        faults = [(i, at) for i, tags in enumerate(sentences) if (at := fits(tags, scheme)) is not None]
        if not best or len(faults) < len(broken):
            best, broken = scheme, faults
        if not faults:
            break
    return best, broken[0] if broken else None


def alike(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    """The gold tags in the scheme of the predicted ones, so that tags can be compared; as they stand where they fit none."""
    if (own := scheme_of(gold))[1] is not None or own[0] == (scheme := scheme_of(predicted)[0]):
        return gold
    return [tagged(entities(tags), len(tags), scheme) for tags in gold]


def scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """f1, precision, recall over all entities, accuracy of the tags; <type>/f1 and so on for each type (0 to 1). Tags of
    two schemes must be made `alike` before.

    An entity is right where type, start and end are. What is divided by 0 is 0.
    Raises ValueError for sentences of unlike length.
    """
    known, found, right, same, words = Counter(), Counter(), Counter(), 0, 0
    if len(gold) != len(predicted):
        raise ValueError(f"{len(predicted)} tagged sentences, but {len(gold)} in the data")
    for number, (true, said) in enumerate(zip(gold, predicted, strict=True)):
        if len(true) != len(said):
            raise ValueError(f"sentence {number} has {len(true)} words, but {len(said)} tags are predicted")
        one, other = set(entities(true)), set(entities(said))
        known.update(e.type for e in one)
        found.update(e.type for e in other)
        right.update(e.type for e in one & other)
        same += sum(split(a) == split(b) for a, b in zip(true, said, strict=True))
        words += len(true)
    result = {**_rates(right.total(), found.total(), known.total()), "accuracy": same / words if words else 0.0}
    for kind in sorted(known | found):
        result |= {f"{kind}/{name}": value for name, value in _rates(right[kind], found[kind], known[kind]).items()}
    return result


def _rates(right: int, found: int, known: int) -> dict[str, float]:
    precision, recall = right / found if found else 0.0, right / known if known else 0.0
    return {"f1": 2 * precision * recall / (precision + recall) if right else 0.0,
            "precision": precision, "recall": recall}
