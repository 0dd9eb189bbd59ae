"""Answers to questions, found in contexts of any length by windows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.data.batch import pad
from bertvariants_jax.data.windows import Frame, cut
from bertvariants_jax.pipelines.base import Pipeline


@dataclass
class QuestionAnswering(Pipeline):
    """{"score", "start", "end", "answer"}: the best answer, or a list of the `top_k` best; start and end are characters
    of the context.

    Called with question= and context=, texts or lists of them (one context serves all questions), or with a mapping,
    a list or a generator of mappings of these two. The score is HF's: the probability of the start times that of the
    end within a window, added up over windows and spans that give the same text, whatever its case.
    max_length: of a window, 384 if not given. doc_stride: tokens that neighbouring windows share, 128 or half
    of a window if not given. max_answer_len: in
    tokens, before `align_to_words` lets an answer grow to whole words. max_question_len: more of a question is cut off.
    handle_impossible_answer: whether "" (at 0, 0) is among the answers, scored by the window that favours it least.
    """

    top_k: int = 1
    doc_stride: int | None = None
    max_answer_len: int = 15
    max_question_len: int = 64
    handle_impossible_answer: bool = False
    align_to_words: bool = True

    head = "span"

    def __post_init__(self):
        self.head = "beam" if "beam" in self.checkpoint.heads and "span" not in self.checkpoint.heads else "span"
        self.max_length = self.max_length or 384
        super().__post_init__()
        for name in ("top_k", "max_answer_len", "max_question_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self.shared = min(self.max_length // 2, 128) if self.doc_stride is None else self.doc_stride
        if not 0 <= self.shared < self.max_length:
            raise ValueError(f"doc_stride must lie between 0 and the window's {self.max_length} tokens, got {self.doc_stride}")
        self.frame = Frame(self.checkpoint.tokenizer)

    def __call__(self, inputs: Mapping[str, str] | Iterable[Mapping[str, str]] | None = None, *,
                 question: str | list[str] | None = None, context: str | list[str] | None = None, **options: Any) -> Any:
        """options: of the class, for this call. Raises ValueError for other arguments, or as many questions as there
        are not contexts."""
        if (inputs is None) != (question is not None and context is not None):
            raise ValueError("give question= and context=, or one or several mappings of them")
        if inputs is None and isinstance(question, str) and isinstance(context, str):
            inputs = {"question": question, "context": context}
        elif inputs is None:
            for name, value in (("question", question), ("context", context)):
                if not isinstance(value, str | list | tuple):
                    raise ValueError(f"{name} must be a text or a list of texts, not {value!r:.60}")
            questions = [question] * len(context) if isinstance(question, str) else list(question)
            contexts = [context] * len(questions) if isinstance(context, str) else list(context)
            if len(questions) != len(contexts):
                raise ValueError(f"there are {len(questions)} questions, but {len(contexts)} contexts")
            inputs = [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]
        return super().__call__(inputs, **options)

    def check(self, number, asked):
        for key in ("question", "context"):
            if not isinstance(asked, Mapping) or not isinstance(asked.get(key), str):
                raise ValueError(f"input {number} has no text {key!r}: {asked!r:.80}")

    def window(self, texts: list[Mapping[str, str]]) -> list[Any]:
        tokenizer, frame = self.checkpoint.tokenizer, self.frame
        known: dict[str, int] = {}
        which = [known.setdefault(asked["context"], len(known)) for asked in texts]
        contexts = tokenizer.encode_batch(list(known), specials=False)
        room = self.max_length - frame.specials
        questions = [ids[: min(self.max_question_len, room // 2)] for ids in tokenizer.ids([a["question"] for a in texts])]
        rows, places = [], []                     # places: of each row the question, the window's start, size and column
        for number, ids in enumerate(questions):
            free, pieces = room - len(ids), contexts[which[number]].ids
            shared = self.shared if self.shared < free else free // 2
            for start, size in cut(len(pieces), free, free - shared).tolist():
                row, column = frame.row(ids, pieces[start : start + size]), frame.column(len(ids))
                row["p_mask"] = np.ones(len(row["input_ids"]), np.int32)
                row["p_mask"][column : column + size] = 0
                row["p_mask"][frame.null(len(row["p_mask"]))] = 0
                rows.append(row)
                places.append((number, start, size, column))
        lengths = np.array([len(row["input_ids"]) for row in rows])
        whole = pad(rows, pad_token_id=tokenizer.pad_token_id, side=tokenizer.padding_side)
        outputs: list[Any] = [None] * len(rows)
        for row, out, begin in self.outputs(whole, lengths):
            outputs[row] = out, begin
        answers: list[dict[str, dict]] = [{} for _ in texts]
        nothing = np.full(len(texts), np.inf)
        for (number, start, size, column), (out, begin) in zip(places, outputs, strict=True):
            nothing[number] = min(nothing[number], out["null"])
            spans = np.stack([out["starts"], out["ends"]], axis=1) - begin - column
            inside = (spans >= 0).all(1) & (spans < size).all(1)
            pieces = contexts[which[number]]
            words, offsets = pieces.word_ids[start : start + size], pieces.offsets[start : start + size]
            for (first, last), score in zip(spans[inside].tolist(), out["scores"][inside].tolist(), strict=True):
                first, last = self.characters(words, offsets, first, last)
                text = texts[number]["context"][first:last]
                same = answers[number].setdefault(text.lower(), {"score": 0.0, "start": first, "end": last, "answer": text})
                same["score"] += score
        return [self.best(found, float(null)) for found, null in zip(answers, nothing, strict=True)]

    def forward(self, params, batch):
        """The best spans of each row: starts, ends, scores [B, K], and how likely there is none, null [B]."""
        length = batch["input_ids"].shape[1]
        null = length - 1 if self.frame.context_first else 0
        usable = (batch["p_mask"] == 0) & (batch["attention_mask"] > 0)                      # B L
        scores = self.checkpoint.network.scores(params, self.head, batch)
        if self.head == "beam":
            starts = jnp.repeat(scores.start_top_index, scores.end_top_index.shape[2], axis=1)
            ends = scores.end_top_index.reshape(starts.shape)                                # B S*E
            found = (scores.start_top_probs[:, :, None] * scores.end_top_probs).reshape(starts.shape)
            fits = (ends >= starts) & (ends - starts < self.max_answer_len)
            return {"starts": starts, "ends": jnp.where(fits, ends, -1), "scores": found,
                    "null": jax.nn.sigmoid(scores.cls_logits)}
        start, end = jnp.split(jax.nn.softmax(jnp.where(usable[..., None], scores, -1e4), axis=1), 2, axis=2)
        none = start[:, null, 0] * end[:, null, 0]
        start, end = start[..., 0].at[:, null].set(0.0), end[..., 0].at[:, null].set(0.0)    # B L
        reach = min(self.max_answer_len, length)
        later = jnp.pad(end, ((0, 0), (0, reach - 1)))
        found = start[:, :, None] * jnp.stack([later[:, i : i + length] for i in range(reach)], axis=2)   # B L A
        kept = self.top_k * 2 + 10 if self.align_to_words else self.top_k
        best, index = jax.lax.top_k(found.reshape(len(found), -1), min(kept, length * reach))
        return {"starts": index // reach, "ends": index // reach + index % reach, "scores": best, "null": none}

    def characters(self, words: list[int | None], offsets: list[tuple[int, int]], begin: int, end: int) -> tuple[int, int]:
        """Of a span of a window's tokens, grown to the whole of its words that lies in the window."""
        if self.align_to_words and words[begin] is not None and words[end] is not None:
            while begin > 0 and words[begin - 1] == words[begin]:
                begin -= 1
            while end + 1 < len(words) and words[end + 1] == words[end]:
                end += 1
        return offsets[begin][0], offsets[end][1]

    def best(self, found: dict[str, dict], null: float) -> dict | list[dict]:
        answers = list(found.values())
        nothing = {"score": null if self.handle_impossible_answer else 0.0, "start": 0, "end": 0, "answer": ""}
        if self.handle_impossible_answer or not answers:
            answers.append(nothing)
        answers = sorted(answers, key=lambda one: -one["score"])[: self.top_k]
        return answers[0] if self.top_k == 1 else answers
