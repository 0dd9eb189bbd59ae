"""A tokenised corpus and the pre-training instances cut from it: NSP and SOP pairs, full sentences.

`Corpus` holds all tokens in one flat array with the bounds of sentences and documents. The builders
turn it into examples: compact arrays of offsets, from which `rows` makes padded batches at random
access (the protocol of data/pipeline.py).

Pairs follow google-research/bert create_pretraining_data.py (Devlin et al. 2018, arXiv:1810.04805)
and, for SOP, its ALBERT form (Lan et al. 2019, arXiv:1909.11942); full sentences follow RoBERTa
(Liu et al. 2019, arXiv:1907.11692; facebookresearch/fairseq data/token_block_utils_fast.pyx).
"""

import hashlib
import json
import os
import random
import shutil
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.documents import Document

if TYPE_CHECKING:
    from bertvariants_jax.text.tokenizer import Tokenizer

Batch = dict[str, np.ndarray]
_VERSION = 1  # of the files in a cache folder
_FILES = {"sentences": "sentences.bin", "documents": "documents.bin", "tokens": "tokens.bin"}


@dataclass(frozen=True)
class Corpus:
    """tokens: uint16 or uint32 [T], without special tokens. Sentence s is tokens[sentences[s] :
    sentences[s + 1]]; document d is the sentences documents[d] to documents[d + 1]. Both int64; no
    sentence and no document is empty.
    folder: where the arrays are mapped from, or "" where they are in memory.
    """

    tokens: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray
    folder: str = ""

    @property
    def num_documents(self) -> int:
        return len(self.documents) - 1

    @property
    def num_sentences(self) -> int:
        return int(self.documents[-1] - self.documents[0])

    @property
    def num_tokens(self) -> int:
        return int(self.sentences[self.documents[-1]] - self.sentences[self.documents[0]])

    def split(self, held_out: float) -> tuple["Corpus", "Corpus"]:
        """(all but the last, the last) documents, the second holding the share `held_out` of them,
        one at least.

        Both are views. Raises ValueError where either would be empty.
        """
        cut = self.num_documents - max(1, round(self.num_documents * held_out))
        if not 0 < held_out < 1 or cut < 1:
            raise ValueError(
                f"cannot hold out {held_out} of {self.num_documents} documents "
                f"and keep one on each side"
            )
        return (
            replace(self, documents=self.documents[: cut + 1]),
            replace(self, documents=self.documents[cut:]),
        )

    def counts(self, vocab_size: int) -> np.ndarray:
        """int64 [vocab_size]: how often each id stands in these documents."""
        first, last = (int(self.sentences[self.documents[end]]) for end in (0, -1))
        step = 1 << 24  # a mapped corpus is larger than memory
        found = np.zeros(vocab_size, np.int64)
        for start in range(first, last, step):
            part = self.tokens[start : min(start + step, last)]
            found += np.bincount(part, minlength=vocab_size)
        return found

    @staticmethod
    def build(
        documents: Iterable[Document | list[str]],
        tokenizer: "Tokenizer",
        folder: str | os.PathLike | None = None,
        batch: int = 4096,
    ) -> "Corpus":
        """Tokenise documents, `batch` sentences at a time; sentences without a token and empty
        documents are left out.

        folder: a cache. The corpus of these documents under this tokenizer is written to a folder
        inside it, named by a
          fingerprint of both (for a source its files' names, sizes and times, for a list its text),
          and mapped from there when it is asked for again. Half-written ones are never taken for
          whole. None keeps the corpus in memory.
        Raises ValueError where there is no token at all.
        """
        if folder is None:
            tokens, sentences, bounds = bytearray(), array("q", [0]), array("q", [0])
            dtype = _tokenised(documents, tokenizer, batch, tokens.extend, sentences, bounds)
            return Corpus(
                np.frombuffer(tokens, dtype),
                np.frombuffer(sentences, np.int64),
                np.frombuffer(bounds, np.int64),
            )

        place = os.path.join(os.fspath(folder), _fingerprint(documents, tokenizer))
        if not os.path.isfile(os.path.join(place, "corpus.json")):
            os.makedirs(folder, exist_ok=True)
            work = tempfile.mkdtemp(dir=folder, prefix=".writing-")
            try:
                sentences, bounds = array("q", [0]), array("q", [0])
                with open(os.path.join(work, _FILES["tokens"]), "wb") as file:
                    dtype = _tokenised(documents, tokenizer, batch, file.write, sentences, bounds)
                for name, values in (("sentences", sentences), ("documents", bounds)):
                    np.frombuffer(values, np.int64).astype("<i8").tofile(
                        os.path.join(work, _FILES[name])
                    )
                about = {
                    "version": _VERSION,
                    "dtype": np.dtype(dtype).str,
                    "tokens": sentences[-1],
                    "sentences": len(sentences) - 1,
                    "documents": len(bounds) - 1,
                }
                with open(os.path.join(work, "corpus.json"), "w") as file:
                    json.dump(about, file, indent=1)
                try:
                    os.replace(work, place)
                except OSError:  # another process has just written the same corpus
                    if not os.path.isfile(os.path.join(place, "corpus.json")):
                        raise
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return Corpus.load(place)

    @staticmethod
    def load(folder: str | os.PathLike) -> "Corpus":
        """Map a corpus that `build` wrote. Raises FileNotFoundError or ValueError where it is not
        one or not whole.
        """
        folder = os.path.abspath(os.fspath(folder))
        try:
            with open(os.path.join(folder, "corpus.json")) as file:
                about = json.load(file)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{folder} holds no corpus: there is no corpus.json in it"
            ) from None
        except json.JSONDecodeError as e:
            raise ValueError(f"{folder}/corpus.json is damaged ({e}); delete the folder") from None
        if about.get("version") != _VERSION:
            raise ValueError(
                f"{folder} was written by another version ({about.get('version')}); "
                f"delete the folder"
            )
        arrays = {}
        for name, file in _FILES.items():
            dtype = np.dtype(about["dtype"] if name == "tokens" else "<i8")
            length = about[name] + (name != "tokens")
            path = os.path.join(folder, file)
            size = os.path.getsize(path) if os.path.exists(path) else 0
            if size != length * dtype.itemsize:
                raise ValueError(
                    f"{path} has {size} bytes, expected {length * dtype.itemsize}; "
                    f"delete the folder"
                )
            arrays[name] = np.memmap(path, dtype, "r", shape=(length,))
        return Corpus(arrays["tokens"], arrays["sentences"], arrays["documents"], folder)

    def __reduce__(self):  # workers map the files instead of getting a copy
        if self.folder:
            return _mapped, (self.folder, int(self.documents[0]), int(self.documents[-1]))
        return Corpus, (
            np.asarray(self.tokens),
            np.asarray(self.sentences),
            np.asarray(self.documents),
        )


@dataclass(frozen=True)
class Pairs:
    """Examples `[CLS] A [SEP] B [SEP]` by their places in the corpus; what `nsp_pairs` and
    `sop_pairs` give.

    first, second: int64 [n], where A and B begin in corpus.tokens. sizes: int32 [n, 2]. label: int8
    [n].
    """

    corpus: Corpus
    first: np.ndarray
    second: np.ndarray
    sizes: np.ndarray
    label: np.ndarray
    max_length: int
    cls_token_id: int
    sep_token_id: int
    pad_token_id: int

    def __len__(self) -> int:
        return len(self.label)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n]: tokens of each example, special ones included."""
        return self.sizes.sum(1, dtype=np.int64) + 3

    def rows(self, indices: np.ndarray, epoch: np.ndarray | None = None) -> Batch:
        """input_ids, attention_mask, token_type_ids [B, max_length] and next_sentence_label [B],
        all int32.
        """
        a, b = (self.sizes[indices, k].astype(np.int64)[:, None] for k in (0, 1))
        place = np.arange(self.max_length)[None]
        in_a = (place >= 1) & (place <= a)
        in_b = (place >= a + 2) & (place < a + b + 2)
        source = np.where(
            in_a,
            self.first[indices][:, None] + place - 1,
            self.second[indices][:, None] + place - a - 2,
        )
        ids = _gather(self.corpus.tokens, source, in_a | in_b, self.pad_token_id)
        rows = np.arange(len(ids))
        ids[:, 0] = self.cls_token_id
        ids[rows, a[:, 0] + 1] = self.sep_token_id
        ids[rows, (a + b)[:, 0] + 2] = self.sep_token_id
        return {
            "input_ids": ids,
            "attention_mask": (place < a + b + 3).astype(np.int32),
            "token_type_ids": ((place >= a + 2) & (place < a + b + 3)).astype(np.int32),
            "next_sentence_label": self.label[indices].astype(np.int32),
        }


@dataclass(frozen=True)
class Blocks:
    """Examples `[CLS] tokens [SEP]`, runs of the corpus; what `full_sentences` and `joined_text` give.

    start: int64 [n], in corpus.tokens. sizes: int32 [n], tokens of the corpus. borders: int64,
    ascending, the tokens before which a separator is put in where they stand inside a block: the
    first ones of documents, of sentences, or of both (then twice).
    """

    corpus: Corpus
    start: np.ndarray
    sizes: np.ndarray
    borders: np.ndarray
    max_length: int
    cls_token_id: int
    sep_token_id: int
    pad_token_id: int
    token_type_ids: bool

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n]: tokens of each example, special ones and separators included."""
        return self.sizes + 2 + np.subtract(*self._borders(self.start, self.sizes)[::-1])

    def _borders(self, start: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The borders strictly inside each block: from which to which of self.borders."""
        return np.searchsorted(self.borders, start, "right"), np.searchsorted(
            self.borders, start + sizes, "left"
        )

    def rows(self, indices: np.ndarray, epoch: np.ndarray | None = None) -> Batch:
        """input_ids, attention_mask and, if asked for, token_type_ids (zeros): int32 [B,
        max_length].
        """
        start, sizes = self.start[indices], self.sizes[indices].astype(np.int64)
        place = np.arange(self.max_length)[None]
        low, high = self._borders(start, sizes)
        separator = np.zeros((len(start), self.max_length), bool)
        row = np.repeat(np.arange(len(start)), high - low)
        number = np.arange(len(row)) - np.repeat(np.cumsum(high - low) - (high - low), high - low)
        separator[row, 1 + self.borders[low[row] + number] - start[row] + number] = True
        lengths = (sizes + high - low + 2)[:, None]
        inside = (place >= 1) & (place < lengths - 1) & ~separator
        ids = _gather(
            self.corpus.tokens,
            start[:, None] + place - 1 - np.cumsum(separator, 1),
            inside,
            self.pad_token_id,
        )
        ids[separator] = self.sep_token_id
        ids[:, 0] = self.cls_token_id
        ids[np.arange(len(ids)), lengths[:, 0] - 1] = self.sep_token_id
        batch = {"input_ids": ids, "attention_mask": (place < lengths).astype(np.int32)}
        if self.token_type_ids:
            batch["token_type_ids"] = np.zeros_like(ids)
        return batch


def nsp_pairs(
    corpus: Corpus,
    max_length: int,
    *,
    seed: int,
    cls_token_id: int,
    sep_token_id: int,
    pad_token_id: int,
    dupe_factor: int = 1,
    short_seq_prob: float = 0.1,
) -> Pairs:
    """BERT's next-sentence pairs; next_sentence_label 0 = B follows A, 1 = B is from another
    document.

    Each document is passed over `dupe_factor` times. A pass aims at max_length - 3 tokens, or, with
    probability short_seq_prob, at a length drawn once for the pass from 2..max_length - 3; a chunk
    of sentences that reaches it is cut at random into A and the rest. With probability one half
    (always, where the chunk is one sentence) B is instead taken from a random sentence of a random
    document on (up to ten tries for it to be another one), and the rest is put back. Pairs that are
    too long lose, one by one, the first or last token of the longer part (of B, where equal).

    The draws of a pass depend on (seed, pass, document) alone. Order: pass, document, place; the
    pipeline shuffles.
    Raises ValueError for max_length below 5, and where no document has two sentences, so that there
    is no next one.
    """
    return _pairs(
        corpus,
        max_length,
        seed,
        dupe_factor,
        short_seq_prob,
        False,
        cls_token_id,
        sep_token_id,
        pad_token_id,
    )


def sop_pairs(
    corpus: Corpus,
    max_length: int,
    *,
    seed: int,
    cls_token_id: int,
    sep_token_id: int,
    pad_token_id: int,
    dupe_factor: int = 1,
    short_seq_prob: float = 0.1,
) -> Pairs:
    """ALBERT's sentence-order pairs; next_sentence_label 0 = in order, 1 = A and B swapped
    (probability one half).

    As `nsp_pairs`; but only a chunk of one sentence takes B from a random document (label 1, as in
    the released code).
    """
    return _pairs(
        corpus,
        max_length,
        seed,
        dupe_factor,
        short_seq_prob,
        True,
        cls_token_id,
        sep_token_id,
        pad_token_id,
    )


def full_sentences(
    corpus: Corpus,
    max_length: int,
    *,
    cls_token_id: int,
    sep_token_id: int,
    pad_token_id: int,
    cross_documents: bool = True,
    token_type_ids: bool = True,
    drop_long: bool = False,
    line_ends: bool = False,
) -> Blocks:
    """Single segments packed with whole sentences up to max_length, special tokens included.

    cross_documents: RoBERTa's FULL-SENTENCES, where a block goes on in the next document with a
    separator between them;
      False is DOC-SENTENCES, where it ends there.
    line_ends: fairseq's form of both, where every sentence ends with a separator (and the one
      between documents is a second). A separator that would open a block is left out.
    A sentence that is longer than a block is cut into blocks of its own, or with drop_long left out
    (SpanBERT).
    Raises ValueError for max_length below 3 and where nothing is left.
    """
    room = max_length - 2
    if room < 1:
        raise ValueError(f"max_length {max_length} leaves no room between [CLS] and [SEP]")
    bounds = memoryview(np.ascontiguousarray(corpus.sentences))
    documents = memoryview(np.ascontiguousarray(corpus.documents))
    starts, sizes = array("q"), array("i")
    start = end = used = 0  # of the open block: its tokens, and its places with separators

    def close():
        nonlocal used
        if end > start:
            starts.append(start)
            sizes.append(end - start)
        used = 0

    for d in range(len(documents) - 1):
        if not cross_documents:
            close()
            start = end
        border = (
            1 if used else 0
        )  # the separator before this document, while its first sentence is not in
        for s in range(documents[d], documents[d + 1]):
            left, right = bounds[s], bounds[s + 1]
            size = right - left
            gap = border + (line_ends and used > 0)
            if used and used + gap + size > room:
                close()
                border = gap = 0
            if size > room:
                start = end = right
                if not drop_long:
                    for piece in range(left, right, room):
                        starts.append(piece)
                        sizes.append(min(room, right - piece))
                continue
            if not used:
                start, gap = left, 0
            end = right
            used += gap + size
            border = 0
    close()
    if not starts:
        raise ValueError(f"no sentence of the corpus fits into {room} tokens")
    borders = np.zeros(0, np.int64)
    if cross_documents:
        borders = np.asarray(corpus.sentences)[np.asarray(corpus.documents)[1:-1]]
    if line_ends:
        inner = corpus.sentences[corpus.documents[0] + 1 : corpus.documents[-1]]
        borders = np.sort(np.concatenate([borders, inner]))
    return Blocks(
        corpus,
        np.frombuffer(starts, np.int64),
        np.frombuffer(sizes, np.int32),
        borders,
        max_length,
        cls_token_id,
        sep_token_id,
        pad_token_id,
        token_type_ids,
    )


def joined_text(
    corpus: Corpus,
    max_length: int,
    *,
    cls_token_id: int,
    sep_token_id: int,
    pad_token_id: int,
    token_type_ids: bool = True,
) -> Blocks:
    """Single segments of exactly max_length tokens: all text joined without separators, and cut
    wherever a row is full, in the middle of a sentence or a document (microsoft/DeBERTa
    experiments/language_model/prepare_data.py). The last row holds what is left.

    Raises ValueError for max_length below 3.
    """
    room = max_length - 2
    if room < 1:
        raise ValueError(f"max_length {max_length} leaves no room between [CLS] and [SEP]")
    first, last = (int(corpus.sentences[corpus.documents[end]]) for end in (0, -1))
    starts = np.arange(first, last, room, dtype=np.int64)
    sizes = np.minimum(room, last - starts).astype(np.int32)
    return Blocks(
        corpus,
        starts,
        sizes,
        np.zeros(0, np.int64),
        max_length,
        cls_token_id,
        sep_token_id,
        pad_token_id,
        token_type_ids,
    )


def _pairs(
    corpus,
    max_length,
    seed,
    dupe_factor,
    short_seq_prob,
    swap,
    cls_token_id,
    sep_token_id,
    pad_token_id,
) -> Pairs:
    most = max_length - 3
    if most < 2:
        raise ValueError(f"max_length {max_length} leaves no room for a pair: it must be 5 or more")
    if dupe_factor < 1:
        raise ValueError(f"dupe_factor must be 1 or more, not {dupe_factor}")
    if corpus.num_sentences < 2 or np.diff(corpus.documents).max() < 2:
        kind = "sentence order" if swap else "next-sentence"
        raise ValueError(
            f"{kind} pairs cannot be made: none of the {corpus.num_documents} documents "
            f"({corpus.num_sentences} sentences in all) has two sentences; give one sentence a "
            f"line with blank lines between documents, or an objective without pairs"
        )
    bounds = memoryview(np.ascontiguousarray(corpus.sentences))
    documents = memoryview(np.ascontiguousarray(corpus.documents))
    out = (array("q"), array("q"), array("i"), array("b"))
    numbers = np.arange(corpus.num_documents)
    for copy in range(dupe_factor):
        seeds = noise.key(seed, "pairs", copy, numbers).tolist()
        for d, draws in enumerate(seeds):
            _document_pairs(
                bounds, documents, d, most, short_seq_prob, swap, random.Random(draws).random, out
            )
    first, second, sizes, label = out
    return Pairs(
        corpus,
        np.frombuffer(first, np.int64),
        np.frombuffer(second, np.int64),
        np.frombuffer(sizes, np.int32).reshape(-1, 2),
        np.frombuffer(label, np.int8),
        max_length,
        cls_token_id,
        sep_token_id,
        pad_token_id,
    )


def _document_pairs(bounds, documents, d, most, short_seq_prob, swap, draw, out) -> None:
    """One pass over document d. `draw` gives numbers in [0, 1); a whole number in low..high is low
    + int(draw() * count).
    """
    firsts, seconds, sizes, labels = out
    count = len(documents) - 1
    begin, finish = documents[d], documents[d + 1]
    target = most
    if draw() < short_seq_prob:
        target = 2 + int(draw() * (most - 1))
    chunk = i = begin  # the chunk is the sentences chunk..i
    while i < finish:
        if i < finish - 1 and bounds[i + 1] - bounds[chunk] < target:
            i += 1
            continue
        size = i + 1 - chunk
        cut = chunk + 1 if size < 2 else chunk + 1 + int(draw() * (size - 1))
        a0, a1 = bounds[chunk], bounds[cut]
        label = 0
        if size == 1 or (not swap and draw() < 0.5):
            label = 1
            for _ in range(10):
                other = int(draw() * count)
                if other != d:
                    break
            low, high = documents[other], documents[other + 1]
            start = low + int(draw() * (high - low))
            b0 = bounds[start]
            last = bisect_left(bounds, b0 + target - (a1 - a0), start + 1, high)
            b1 = bounds[last]
            i = cut - 1  # the unused sentences are put back
        else:
            b0, b1 = a1, bounds[i + 1]
            if swap and draw() < 0.5:
                a0, a1, b0, b1 = b0, b1, a0, a1
                label = 1
        for _ in range(a1 - a0 + b1 - b0 - most):
            front = draw() < 0.5
            if a1 - a0 > b1 - b0:
                if front:
                    a0 += 1
                else:
                    a1 -= 1
            elif front:
                b0 += 1
            else:
                b1 -= 1
        firsts.append(a0)
        seconds.append(b0)
        sizes.append(a1 - a0)
        sizes.append(b1 - b0)
        labels.append(label)
        i += 1
        chunk = i


def _mapped(folder: str, first: int, last: int) -> Corpus:
    whole = Corpus.load(folder)
    low, high = np.searchsorted(whole.documents, (first, last))
    return replace(whole, documents=whole.documents[low : high + 1])


def _gather(tokens: np.ndarray, source: np.ndarray, inside: np.ndarray, pad: int) -> np.ndarray:
    """int32: tokens[source] where `inside`, else `pad`; source may be anything elsewhere."""
    return np.where(inside, tokens[np.where(inside, source, 0)], pad).astype(np.int32)


def _tokenised(documents, tokenizer, batch, write, sentences: array, bounds: array) -> np.dtype:
    """Write the tokens' bytes and append to the bounds; the tokens' dtype."""
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    texts: list[str] = []
    owners: list[int] = []  # the document of each text
    owner = -1  # the document of the last sentence kept

    def flush() -> None:
        nonlocal owner
        pieces = tokenizer.ids(texts) if texts else []
        write(np.concatenate([np.zeros(0, np.int32), *pieces]).astype(dtype).tobytes())
        for piece, document in zip(pieces, owners, strict=True):
            if len(piece):
                if document != owner and owner >= 0:
                    bounds.append(len(sentences) - 1)
                owner = document
                sentences.append(sentences[-1] + len(piece))
        texts.clear()
        owners.clear()

    for number, document in enumerate(documents):
        for sentence in document.sentences if isinstance(document, Document) else document:
            texts.append(sentence)
            owners.append(number)
            if len(texts) >= batch:
                flush()
    flush()
    if owner < 0:
        raise ValueError("the corpus is empty: no document holds a token")
    bounds.append(len(sentences) - 1)
    return dtype


def _fingerprint(documents, tokenizer) -> str:
    """Hex digest of the documents, the vocabulary and how the tokenizer cuts a probe text."""
    digest = hashlib.blake2b(digest_size=12)
    said = getattr(documents, "fingerprint", None)
    if said is None:
        if iter(documents) is documents:
            raise ValueError(
                "documents are read twice when they are cached in a folder: "
                "give a list, not an iterator"
            )
        for document in documents:
            for sentence in document.sentences if isinstance(document, Document) else document:
                digest.update(sentence.encode() + b"\n")
            digest.update(b"\n")
    else:
        digest.update(said.encode())
    probe = [
        "Überraschung! The cat's 12,345.67 e-mails - \"don't\" 北京 naïve\tU.S.A. ﬁne <s> [MASK] X"
    ]
    digest.update(
        repr(
            (_VERSION, tokenizer.vocab_size, [ids.tolist() for ids in tokenizer.ids(probe)])
        ).encode()
    )
    for i in range(tokenizer.vocab_size):
        digest.update(f"{tokenizer.id_to_token(i)}\n".encode())
    if tokenizer.kind != "wordpiece":  # merges and scores, which the pieces do not tell
        digest.update(tokenizer.fingerprint.encode())
    return digest.hexdigest()
