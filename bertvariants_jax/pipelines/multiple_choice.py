"""The best of several options for a context and a question."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bertvariants_jax.data.batch import pad
from bertvariants_jax.pipelines.base import Pipeline
from bertvariants_jax.tasks.choice import asked, one_line, row


@dataclass
class MultipleChoice(Pipeline):
    """{"label", "index", "score", "scores"}: the best option, its number, its probability, and those of all options.

    Called with context=, choices= and question=, or with a mapping, a list or a generator of mappings of these three
    ("question" may be missing). "_" in the question is the place of the option, else the option follows it.
    question_length: tokens of question and option together at most (tasks/choice.py says what is cut).
    """

    question_length: int = 128

    head = "choice"
    compiled = ()

    def __post_init__(self):
        super().__post_init__()
        if self.question_length < 1:
            raise ValueError(f"question_length must be at least 1, got {self.question_length}")

    def __call__(self, inputs: Mapping[str, Any] | Iterable[Mapping[str, Any]] | None = None, *,
                 context: str | None = None, choices: Iterable[str] | None = None, question: str = "", **options: Any) -> Any:
        """options: of the class, for this call. Raises ValueError for other arguments, or a question without a list of
        options."""
        if (inputs is None) != (context is not None and choices is not None):
            raise ValueError("give context= and choices=, or one or several mappings of them")
        if inputs is None:
            choices = list(choices) if isinstance(choices, Iterable) and not isinstance(choices, str) else choices
            inputs = {"context": context, "choices": choices, "question": question}
        return super().__call__(inputs, **options)

    def check(self, number, one):
        if not isinstance(one, Mapping) or not isinstance(one.get("context"), str):
            raise ValueError(f"input {number} has no text 'context': {one!r:.80}")
        choices = one.get("choices")
        if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices or not all(
                isinstance(choice, str) for choice in choices):
            raise ValueError(f"input {number} has no list of texts 'choices': {choices!r:.80}")
        if not isinstance(one.get("question"), str | None):
            raise ValueError(f"input {number}: 'question' is no text: {one['question']!r:.80}")

    def window(self, texts):
        tokenizer, options = self.checkpoint.tokenizer, [list(one["choices"]) for one in texts]
        contexts = tokenizer.ids([one_line(one["context"]) for one in texts])
        said = iter(tokenizer.ids([asked(one.get("question") or "", choice)
                                   for one, choices in zip(texts, options, strict=True) for choice in choices]))
        room = self.max_length - tokenizer.num_special_tokens(pair=True)
        most = min(self.question_length, room)
        rows = [row(tokenizer, context, next(said), room, most)
                for context, choices in zip(contexts, options, strict=True) for _ in choices]
        whole = pad(rows, pad_token_id=tokenizer.pad_token_id, side=tokenizer.padding_side)
        scores = np.empty(len(rows))
        for number, out, _ in self.outputs(whole, np.array([len(one["input_ids"]) for one in rows])):
            scores[number] = out["scores"]
        ends = np.cumsum([len(choices) for choices in options])
        return [self.best(choices, part) for choices, part in zip(options, np.split(scores, ends[:-1]), strict=True)]

    def forward(self, params, batch):
        single = {key: value[:, None] for key, value in batch.items()}                       # B 1 L
        return {"scores": self.checkpoint.network.scores(params, "choice", single)[:, 0]}

    def best(self, choices: list[str], scores: np.ndarray) -> dict[str, Any]:
        chances = np.asarray(jax.nn.softmax(scores))
        best = int(chances.argmax())
        return {"label": choices[best], "index": best, "score": float(chances[best]), "scores": chances.tolist()}
