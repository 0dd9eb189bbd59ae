"""Entities in texts, token by token or put together to words and spans as `transformers` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bertvariants_jax.data.batch import pad
from bertvariants_jax.data.windows import cut
from bertvariants_jax.pipelines.base import Pipeline

STRATEGIES = ("none", "simple", "first", "average", "max")


@dataclass
class TokenClassification(Pipeline):
    """A list a text: {"entity", "score", "index", "word", "start", "end"} a token, or with an aggregation strategy
    {"entity_group", "score", "word", "start", "end"} a span. start and end are characters of the text.

    aggregation_strategy: "none" gives every token; the others put neighbours of one type together (B- begins anew).
    "simple" takes tokens as they are; the others let all tokens of a word have the tag of its "first" one, of the one
    that is surest ("max"), or of their mean probabilities ("average").
    ignore_labels: labels and groups that are left out.
    stride: tokens that neighbouring windows share, so that long texts are read to their end; without it a text is cut
    at max_length. Of spans that overlap the longest is kept, then the surest.
    """

    aggregation_strategy: str = "none"
    ignore_labels: Sequence[str] = ("O",)
    stride: int | None = None

    head = "tag"
    compiled = ()

    def __post_init__(self):
        super().__post_init__()
        self.aggregation_strategy = str(self.aggregation_strategy).lower()
        if self.aggregation_strategy not in STRATEGIES:
            raise ValueError(f"aggregation_strategy must be {', '.join(STRATEGIES)}, got {self.aggregation_strategy!r}")
        tokenizer = self.checkpoint.tokenizer
        self.before = int(np.flatnonzero(tokenizer.build([-1])[0] == -1)[0])
        self.room = self.max_length - tokenizer.num_special_tokens()
        if self.room < 1:
            raise ValueError(f"max_length {self.max_length} leaves no room for a token beside the special ones")
        if self.stride is not None and not 0 <= self.stride < self.room:
            raise ValueError(f"stride must lie between 0 and the {self.room} tokens of a window, got {self.stride}")
        if self.stride is not None and self.aggregation_strategy == "none":
            raise ValueError("stride needs an aggregation_strategy: tokens in two windows would come twice")
        labels = set(self.checkpoint.config.id2label)
        self.ends = any(f"B-{label[2:]}" in labels for label in labels if label.startswith(("E-", "S-")))

    def window(self, texts):
        tokenizer = self.checkpoint.tokenizer
        pieces = tokenizer.encode_batch(texts, specials=False)
        places, rows = [], []                               # places: of each row the text and its first token
        for number, encoded in enumerate(pieces):
            windows = ([(0, min(len(encoded), self.room))] if self.stride is None
                       else cut(len(encoded), self.room, self.room - self.stride).tolist())
            for start, size in windows:
                ids, kinds = tokenizer.build(encoded.ids[start : start + size])
                rows.append({"input_ids": ids, **({"token_type_ids": kinds} if tokenizer.type_ids else {})})
                places.append((number, start, size))
        whole = pad(rows, pad_token_id=tokenizer.pad_token_id, side=tokenizer.padding_side)
        found: list[list[Any]] = [None] * len(rows)
        for row, out, column in self.outputs(whole, np.array([len(row["input_ids"]) for row in rows])):
            number, start, size = places[row]
            first = column + self.before
            found[row] = self.spans(self.tokens(texts[number], pieces[number], start, out["scores"][first : first + size]))
        results = [[] for _ in texts]
        windows = [0] * len(texts)
        for (number, _, _), spans in zip(places, found, strict=True):
            results[number] += spans
            windows[number] += 1
        return [apart(spans) if count > 1 else spans for spans, count in zip(results, windows, strict=True)]

    def forward(self, params, batch):
        return {"scores": jax.nn.softmax(self.checkpoint.network.scores(params, "tag", batch), axis=-1)}    # B L C

    def tokens(self, text: str, encoded, first: int, scores: np.ndarray) -> list[dict[str, Any]]:
        """A record a token, with its probabilities [C] and whether it goes on with a word."""
        tokenizer, found = self.checkpoint.tokenizer, []
        for i, probabilities in enumerate(scores):
            ids, (start, end) = encoded.ids[first + i], encoded.offsets[first + i]
            piece = tokenizer.id_to_token(ids) or ""
            if ids == tokenizer.unk_token_id:
                piece, inner = text[start:end], False
            elif tokenizer.kind == "wordpiece":
                inner = piece.startswith("##")
            else:                                           # pieces do not tell words: blanks in the text do
                inner = start > 0 and not any(map(str.isspace, text[start - 1 : start + 1]))
            found.append({"scores": probabilities, "index": self.before + i, "word": piece, "start": start, "end": end,
                          "inner": inner})
        return found

    def spans(self, tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
        names = self.checkpoint.config.id2label
        if self.aggregation_strategy not in ("none", "simple"):
            words: list[list[dict]] = []
            for token in tokens:
                if token["inner"] and words:
                    words[-1].append(token)
                else:
                    words.append([token])
            tokens = [self.word(word) for word in words]
        tagged = []
        for token in tokens:
            best = int(token["scores"].argmax())
            tagged.append({"entity": names[best], "score": float(token["scores"][best]), **{
                key: token[key] for key in ("index", "word", "start", "end") if key in token}})
        if self.aggregation_strategy == "none":
            return [token for token in tagged if token["entity"] not in self.ignore_labels]
        groups: list[list[dict]] = []
        for token in tagged:
            prefix, kind = self.split(token["entity"])
            last = self.split(groups[-1][-1]["entity"]) if groups else ("", None)
            if kind == last[1] and prefix not in ("B", "S") and last[0] not in ("E", "S"):
                groups[-1].append(token)
            else:
                groups.append([token])
        return [span for span in map(self.group, groups) if span["entity_group"] not in self.ignore_labels]

    def split(self, label: str) -> tuple[str, str]:
        """Prefix and type; a label without a prefix is its own type, and goes on."""
        known = ("B-", "I-", "E-", "S-") if self.ends else ("B-", "I-")
        return (label[0], label[2:]) if label.startswith(known) else ("I", label)

    def word(self, tokens: list[dict[str, Any]]) -> dict[str, Any]:
        if self.aggregation_strategy == "first":
            scores = tokens[0]["scores"]
        elif self.aggregation_strategy == "max":
            scores = max(tokens, key=lambda token: token["scores"].max())["scores"]
        else:
            scores = np.mean([token["scores"] for token in tokens], axis=0)
        return {"scores": scores, "word": self.checkpoint.tokenizer.join([token["word"] for token in tokens]),
                "start": tokens[0]["start"], "end": tokens[-1]["end"]}

    def group(self, tokens: list[dict[str, Any]]) -> dict[str, Any]:
        kind = tokens[0]["entity"].split("-", 1)[-1]
        return {"entity_group": kind, "score": float(np.mean([token["score"] for token in tokens])),
                "word": self.checkpoint.tokenizer.join([token["word"] for token in tokens]),
                "start": tokens[0]["start"], "end": tokens[-1]["end"]}


def apart(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spans of overlapping windows without those that overlap others."""
    kept: list[dict[str, Any]] = []
    for span in sorted(spans, key=lambda one: one["start"]):
        if not kept or not kept[-1]["start"] <= span["start"] < kept[-1]["end"]:
            kept.append(span)
        elif (span["end"] - span["start"], span["score"]) > (kept[-1]["end"] - kept[-1]["start"], kept[-1]["score"]):
            kept[-1] = span
    return kept
