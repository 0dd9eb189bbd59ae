"""Classes of texts and of text pairs, with their probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from bertvariants_jax.pipelines.base import Pipeline

FUNCTIONS = {"softmax": lambda scores: jax.nn.softmax(scores, axis=-1), "sigmoid": jax.nn.sigmoid,
             "none": lambda scores: scores}


@dataclass
class TextClassification(Pipeline):
    """{"label", "score"}: the best class, or a list of the `top_k` best (None: of all).

    Called with texts, or with mappings {"text", "text_pair"}.
    function_to_apply: "softmax", "sigmoid" or "none" over the scores; if not given what the config's problem_type says
    ("none" for a regression, sigmoid for several labels at once), else sigmoid for one class and softmax for more.
    """

    top_k: int | None = 1
    function_to_apply: str | None = None

    head = "classify"
    compiled = ("function_to_apply",)

    def __post_init__(self):
        super().__post_init__()
        if self.function_to_apply is not None and self.function_to_apply not in FUNCTIONS:
            raise ValueError(f"function_to_apply must be {', '.join(FUNCTIONS)}, got {self.function_to_apply!r}")

    def tokenized(self, texts):
        both = [(text["text"], text.get("text_pair")) if isinstance(text, Mapping) else (text, None) for text in texts]
        paired = np.array([pair is not None for _, pair in both])
        if not paired.any():
            return super().tokenized([text for text, _ in both])
        if not paired.all():
            raise ValueError(f"{both[int(paired.argmin())][0]!r:.60} is no pair, but others are pairs: give all as "
                             '{"text": ..., "text_pair": ...}')
        return self.checkpoint.tokenizer([text for text, _ in both], [pair for _, pair in both],
                                         max_length=self.max_length, padding=True)

    def check(self, number, text):
        if isinstance(text, Mapping):
            fits = (set(text) <= {"text", "text_pair"} and isinstance(text.get("text"), str)
                    and isinstance(text.get("text_pair"), str | None))
            if not fits:
                raise ValueError(f'input {number} is {text!r:.60}, expected {{"text": ..., "text_pair": ...}}')
        else:
            super().check(number, text)

    def forward(self, params, batch):
        scores = self.checkpoint.network.scores(params, "classify", batch)
        said = {"regression": "none", "multi_label_classification": "sigmoid"}.get(self.checkpoint.config.problem_type)
        name = self.function_to_apply or said or ("sigmoid" if scores.shape[-1] == 1 else "softmax")
        return {"scores": FUNCTIONS[name](scores)}

    def decode(self, text, ids, out):
        labels, scores = self.checkpoint.config.id2label, out["scores"]
        best = np.argsort(-scores, kind="stable")[: self.top_k or None]
        found = [{"label": labels[i], "score": float(scores[i])} for i in best]
        return found[0] if self.top_k == 1 else found
