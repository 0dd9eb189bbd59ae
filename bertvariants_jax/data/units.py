"""ERNIE 1.0's knowledge masking: words, phrases and entities hidden as units (Sun et al. 2019, arXiv:1904.09223;
PaddlePaddle/ERNIE batching.py), the units' labels, and its pairs.

A token's label is -1 for a special one (and padding), 0 for the first of a unit, 1 for one that continues it.
Labels of a corpus are a flat array beside its tokens; a batch holds them under "seg_labels" until it is masked.
"""

import hashlib
import importlib
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.corpus import Corpus, Pairs
from bertvariants_jax.data.corrupt import Batch, corrupted, eligible, slots

Find = Callable[[str], Sequence]
"""A text -> its units: (start, end) character spans, or words in the order of the text."""


def mask_units(batch: Batch, index: np.ndarray, epoch: np.ndarray, *, seed: int, vocab_size: int, mask_token_id: int,
               never: Sequence[int], max_predictions: int, rate: float = 0.15, mask_word_prob: float = 1.0) -> Batch:
    """ERNIE's masking. Adds masked_positions, masked_labels, masked_weights [B, P], replaces ids in input_ids and takes
    seg_labels [B, L] out.

    A row is masked by units with probability mask_word_prob, else by tokens. u is a uniform number of each place.
      tokens: those with u <= rate, without padding and the ids `never`; u in (.2 rate, rate] becomes [MASK], in
        (.1 rate, .2 rate] a random id of [1, V), and up to that the token stays.
      units: a unit is chosen where u of its first token is <= rate, and all its tokens are predicted; the first by the
        same u and the bounds above, each other one by its own u and the bounds with 1 for the rate. A continuation
        that no first token precedes belongs to no unit.
    max_predictions: P. Where a row would choose more, units (tokens) drawn at random are left out until it fits.
    """
    if "masked_positions" in batch:
        raise ValueError("the batch is masked already: masked_positions is among its keys")
    batch = dict(batch)
    labels = batch.pop("seg_labels")
    length = labels.shape[1]
    u = noise.uniform(seed, "units/u", epoch, index, length)
    by_unit = noise.uniform(seed, "units/level", epoch, index, 1) < mask_word_prob           # B 1
    place = np.arange(length)
    anchor = np.maximum.accumulate(np.where(labels != 1, place, 0), axis=1)                  # where its unit begins
    in_unit = (labels >= 0) & (np.take_along_axis(labels, anchor, 1) == 0)
    head = np.where(by_unit, anchor, place)
    chosen = np.where(by_unit, in_unit, eligible(batch, never)) & (np.take_along_axis(u, head, 1) <= rate)
    for row in np.nonzero(chosen.sum(1) > max_predictions)[0]:
        chosen[row] = _thinned(chosen[row], head[row], max_predictions, seed, epoch[row], index[row])
    base = np.where(by_unit & (labels == 1), 1.0, rate)
    positions, used = slots(chosen, max_predictions)
    drawn = 1 + noise.integers(seed, "units/word", epoch, index, positions, vocab_size - 1)
    u, base = (np.take_along_axis(x, positions, 1) for x in (u, base))
    return corrupted(batch, positions, used, mask_token_id, drawn, masks=u > 0.2 * base,
                     draws=(u > 0.1 * base) & (u <= 0.2 * base))


def unit_places(labels: Sequence[np.ndarray], length: int, rate: float, odds: float = 1e-7) -> int:
    """P for rows of `length` tokens: more are chosen with a chance below `odds`.

    The number chosen adds up sizes k of units that are chosen independently, so that its variance is rate * length *
    E[k^2] / E[k]; its tail is bounded by its moments (Chernoff's bound) at the sizes that units have.
    labels: int8 [T] each, the units of tokens; of a long one, 2^24 tokens speak for the rest.
    """
    counts = np.zeros(1, np.int64)
    for part in (np.asarray(part[: 1 << 24]) for part in labels):
        sizes = np.bincount(np.diff(np.append(np.flatnonzero(part == 0), len(part))), minlength=len(counts))
        counts = sizes + np.pad(counts, (0, len(sizes) - len(counts)))
    sizes = np.flatnonzero(counts)
    sizes, shares = np.minimum(sizes, length), counts[sizes] / (counts[sizes] * sizes).sum()          # units a token
    slopes = np.geomspace(1e-3, 5, 200)[:, None] / sizes.max()
    grown = rate * length * (shares * np.expm1(slopes * sizes)).sum(1)
    return min(length, math.ceil(((grown - math.log(odds)) / slopes[:, 0]).min()))


def _thinned(chosen: np.ndarray, head: np.ndarray, most: int, seed: int, epoch, index) -> np.ndarray:
    """One row with whole units left out, in random order, until at most `most` tokens are chosen."""
    heads, sizes = np.unique(head[chosen], return_counts=True)
    order = np.argsort(noise.bits(seed, "units/spare", epoch, index, len(chosen))[0][heads])
    out = order[: 1 + int(np.argmax(sizes.sum() - np.cumsum(sizes[order]) <= most))]
    return chosen & ~np.isin(head, heads[out])


def word_units(corpus: Corpus, starts_word: np.ndarray) -> np.ndarray:
    """int8 [T]: whole words of word pieces as units; starts_word: bool [V], whether a piece begins a word."""
    labels = np.empty(len(corpus.tokens), np.int8)
    for low in range(0, len(labels), 1 << 22):
        labels[low: low + (1 << 22)] = ~starts_word[corpus.tokens[low: low + (1 << 22)]]
    labels[np.asarray(corpus.sentences)[:-1]] = 0
    return labels


def found_units(corpus: Corpus, sentences: Iterable[str], tokenizer, find: Find, name: str) -> np.ndarray:
    """int8 [T]: the units that `find` sees in each sentence; a token outside all of them is a unit of its own.

    sentences: the corpus's text. A unit's border inside a token falls behind it. Kept beside a cached corpus under
    `name` and what `find` makes of a probe.
    Raises ValueError where the sentences are not the corpus's, or `find` gives no spans and no words of its text.
    """
    probe = "ERNIE 1.0 是百度在2019年提出的模型。 The Eiffel Tower in Paris is tall."
    stamp = hashlib.blake2b(f"{name}\n{spans(probe, find(probe), name)}".encode(), digest_size=6).hexdigest()

    def label(text: str, offsets: np.ndarray) -> np.ndarray:
        return labels_of(spans(text, find(text), f"{name} on {text[:40]!r}"), offsets)

    return annotated(corpus, sentences, tokenizer, label, f"units-{stamp}")


def given_units(corpus: Corpus, sentences: Iterable[str], units: Iterable[tuple[str, Sequence]], tokenizer) -> np.ndarray:
    """int8 [T]: units that come with the data; (where, units) for each sentence, as character spans, words, or a label
    (0, 1) for each token.

    Raises ValueError, saying where, for units that do not fit the tokens.
    """
    source = iter(units)

    def label(text: str, offsets: np.ndarray) -> np.ndarray:
        where, said = next(source, (None, None))
        if where is None:
            raise ValueError(f"there are no units for the sentence {text[:40]!r}")
        if len(said) and all(isinstance(x, int | np.integer) for x in said):
            return _checked_labels(np.asarray(said), len(offsets), where)
        found = spans(text, said, where)
        return labels_of(found, offsets, where)

    return annotated(corpus, sentences, tokenizer, label, "")


def _checked_labels(labels: np.ndarray, tokens: int, where: str) -> np.ndarray:
    if len(labels) != tokens:
        raise ValueError(f"{where}: {len(labels)} unit labels for {tokens} tokens: label what this tokenizer makes, or "
                         f"give spans of characters")
    if tokens and (labels[0] != 0 or not np.isin(labels, (0, 1)).all()):
        raise ValueError(f"{where}: unit labels must be 0 (begins a unit) or 1 (continues it) and begin with 0, got "
                         f"{labels[:8].tolist()}")
    return labels


def spans(text: str, units: Sequence, where: str) -> list[tuple[int, int]]:
    """Units as ascending (start, end) characters of the text, blanks around words left out.

    Raises ValueError, saying where, for a word that is not next in the text and spans that overlap or lie outside.
    """
    out, end = [], 0
    for unit in units:
        if isinstance(unit, str):
            word = unit.strip()
            if not word:
                continue
            start = text.find(word, end)
            if start < 0 or text[end:start].strip():
                raise ValueError(f"{where}: the unit {word!r} does not stand at character {end} of its text")
            stop = start + len(word)
        else:
            start, stop = (int(x) for x in unit)
        if not end <= start < stop <= len(text):
            raise ValueError(f"{where}: the unit ({start}, {stop}) overlaps another one, is empty or lies outside of its "
                             f"text of {len(text)} characters")
        out.append((start, stop))
        end = stop
    return out


def labels_of(units: Sequence[tuple[int, int]], offsets: np.ndarray, where: str = "") -> np.ndarray:
    """int8 [n]: 1 for a token that begins inside the unit in which the token before it does, else 0.

    offsets: int [n, 2], characters of each token. With `where`, raises ValueError for units that do not fit: a border
    inside a token, a unit without a token.
    """
    bounds = np.asarray(units, np.int64).reshape(-1, 2)
    number, inside = within(bounds, offsets[:, 0])
    if where:
        last, inside_too = within(bounds, np.maximum(offsets[:, 1], offsets[:, 0] + 1) - 1)
        cut = (number != last) | (inside != inside_too)
        if cut.any():
            token = tuple(offsets[int(np.argmax(cut))].tolist())
            raise ValueError(f"{where}: a unit's border lies inside the token at characters {token}")
        if missing := sorted(set(range(len(bounds))) - set(number[inside].tolist())):
            raise ValueError(f"{where}: no token begins in the unit {tuple(bounds[missing[0]].tolist())}")
    labels = np.zeros(len(offsets), np.int8)
    if not len(labels):
        return labels
    labels[1:] = inside[1:] & inside[:-1] & (number[1:] == number[:-1])
    return labels


def within(bounds: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last of the ascending spans int [m, 2] that begins at or before each place (-1: none), and whether it is in it."""
    number = np.searchsorted(bounds[:, 0], place, "right") - 1
    return number, (number >= 0) & (place < np.append(bounds[:, 1], 0)[number])


def headed(labels: np.ndarray) -> np.ndarray:
    """Labels int [B, L] in which what stands first after a special token begins a unit, though a cut took its head."""
    labels = labels.copy()
    labels[:, 1:][(labels[:, 1:] == 1) & (labels[:, :-1] < 0)] = 0
    return labels


def annotated(corpus: Corpus, sentences: Iterable[str], tokenizer, label: Callable[[str, np.ndarray], np.ndarray],
              name: str, batch: int = 4096) -> np.ndarray:
    """int8 [T]: label(sentence, offsets of its tokens [n, 2]) -> [n], for every token of the corpus.

    name: the file beside a cached corpus that keeps them; "" keeps none.
    Raises ValueError where the sentences are not those that the corpus was made of.
    """
    path = os.path.join(corpus.folder, f"{name}.bin") if corpus.folder and name else ""
    size = len(corpus.tokens)
    if path and os.path.isfile(path) and os.path.getsize(path) == size:
        return np.memmap(path, np.int8, "r")
    parts, count = [], 0
    for texts in _batches(sentences, batch):
        for text, encoding in zip(texts, tokenizer.encode_batch(texts, specials=False), strict=True):
            parts.append(label(text, np.asarray(encoding.offsets, np.int64).reshape(-1, 2)).astype(np.int8))
            count += len(encoding)
            if count > size or (len(encoding) and encoding.ids[-1] != corpus.tokens[count - 1]):
                raise ValueError(f"the sentence {text[:40]!r} is not what the corpus has there: has the data changed?")
    if count != size:
        raise ValueError(f"the sentences have {count} tokens, the corpus {size}: has the data changed?")
    labels = np.concatenate(parts)
    if path:
        handle, whole = tempfile.mkstemp(dir=corpus.folder, prefix=f".{name}-")
        with os.fdopen(handle, "wb") as file:
            labels.tofile(file)
        os.replace(whole, path)
    return labels


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    some: list[str] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


def finder(name: str) -> Find:
    """The function that "module:function" names; ValueError where there is none."""
    module, colon, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function) if colon and function else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"units {name!r}: {error}") from None
    if not callable(found):
        raise ValueError(f"units {name!r} names no function: write module:function, for instance jieba:lcut")
    return found


def capitalised(text: str) -> list[tuple[int, int]]:
    """Names of English text, roughly: runs of capitalised words, with "of" and the like inside; not a lone first word."""
    found = (match.span() for match in _NAME.finditer(text))
    return [(start, end) for start, end in found if start or " " in text[start:end]]


_NAME = re.compile(r"\b[A-Z][\w'’-]*(?:(?: (?:of|the|and|de|von|van))* [A-Z][\w'’-]*)*")


def words(text: str) -> list[tuple[int, int]]:
    """Runs of letters and digits."""
    return [match.span() for match in re.finditer(r"\w+", text)]


def chinese_entities(text: str) -> list[tuple[int, int]]:
    """People, places, organisations and other names that jieba tags (nr, ns, nt, nz), neighbours of one kind joined."""
    import jieba.posseg

    out, kinds, end = [], [], 0
    for word in jieba.posseg.cut(text):
        start, end = end, end + len(word.word)
        if word.flag[:2] in ("nr", "ns", "nt", "nz"):
            if out and out[-1][1] == start and kinds[-1] == word.flag[:2]:
                out[-1] = (out[-1][0], end)
            else:
                out.append((start, end))
                kinds.append(word.flag[:2])
    return out


@dataclass(frozen=True)
class UnitPairs:
    """Next-sentence pairs with unit labels (int8 [T], beside the corpus's tokens) and ERNIE's polarity:
    next_sentence_label 1 = B follows A, 0 = random."""

    pairs: Pairs
    labels: np.ndarray

    @property
    def unit_labels(self) -> tuple[np.ndarray, ...]:
        return (self.labels,)

    def __len__(self) -> int:
        return len(self.pairs)

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> Batch:
        """As Pairs, and seg_labels int32 [B, max_length]: -1, 0, 1. What a cut has put first begins a unit."""
        batch = self.pairs.rows(indices, epoch)
        beside = replace(self.pairs, corpus=replace(self.pairs.corpus, tokens=self.labels, folder=""),
                         cls_token_id=-1, sep_token_id=-1, pad_token_id=-1)
        labels = headed(beside.rows(indices, epoch)["input_ids"])
        return {**batch, "seg_labels": labels, "next_sentence_label": 1 - batch["next_sentence_label"]}
