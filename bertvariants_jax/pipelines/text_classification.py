"""Classes of texts, with their probabilities."""

from dataclasses import dataclass

import jax
import numpy as np

from bertvariants_jax.pipelines.base import Pipeline


@dataclass
class TextClassification(Pipeline):
    """[{"label", "score"}]: the best class, or the `top_k` best; scores are softmax (sigmoid for one class)."""

    top_k: int = 1

    head = "classify"

    def forward(self, params, batch):
        scores = self.checkpoint.network.scores(params, "classify", batch)
        one = scores.shape[-1] == 1
        return {"scores": jax.nn.sigmoid(scores) if one else jax.nn.softmax(scores, axis=-1)}

    def decode(self, text, ids, out):
        labels, scores = self.checkpoint.config.id2label, out["scores"]
        best = np.argsort(-scores, kind="stable")[: self.top_k or None]
        found = [{"label": labels[i], "score": float(scores[i])} for i in best]
        return found[0] if self.top_k == 1 else found
