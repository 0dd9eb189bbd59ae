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
    function_to_apply: "softmax", "sigmoid" or "none" over the scores; sigmoid for one class if not given, else softmax.
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
        paired = [isinstance(text, Mapping) for text in texts]
        if not any(paired):
            return super().tokenized(texts)
        for number, text in enumerate(texts):
            if not isinstance(text, Mapping) or set(text) != {"text", "text_pair"}:
                raise ValueError(f"input {number} is {text!r:.60}, but others are pairs: give all as "
                                 '{"text": ..., "text_pair": ...}')
        return self.checkpoint.tokenizer([text["text"] for text in texts], [text["text_pair"] for text in texts],
                                         max_length=self.max_length, padding=True)

    def forward(self, params, batch):
        scores = self.checkpoint.network.scores(params, "classify", batch)
        name = self.function_to_apply or ("sigmoid" if scores.shape[-1] == 1 else "softmax")
        return {"scores": FUNCTIONS[name](scores)}

    def decode(self, text, ids, out):
        labels, scores = self.checkpoint.config.id2label, out["scores"]
        best = np.argsort(-scores, kind="stable")[: self.top_k or None]
        found = [{"label": labels[i], "score": float(scores[i])} for i in best]
        return found[0] if self.top_k == 1 else found
