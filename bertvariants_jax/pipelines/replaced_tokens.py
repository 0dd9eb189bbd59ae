"""Words that look replaced, by a discriminator's head (ELECTRA, DeBERTa-v3)."""

from dataclasses import dataclass

import jax

from bertvariants_jax.pipelines.base import Pipeline


@dataclass
class ReplacedTokens(Pipeline):
    """[{"word", "score", "start", "end"}] in the order of the text, the words whose score reaches `threshold`.

    score: the probability that one of the word's pieces was put in by a generator, the greatest of them. start, end:
    characters of the text. A threshold of 0 gives every word.
    """

    threshold: float = 0.5

    head = "rtd"

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {self.threshold}")

    def forward(self, params, batch):
        return {"scores": jax.nn.sigmoid(self.checkpoint.network.scores(params, "rtd", batch))}      # B L

    def decode(self, text, ids, out):
        pieces, found = self.checkpoint.tokenizer.encode(text, max_length=self.max_length), {}
        for (start, end), word, score in zip(pieces.offsets, pieces.word_ids, out["scores"][: len(ids)], strict=True):
            if word is not None:
                begun, _, most = found.get(word, (start, end, 0.0))
                found[word] = begun, end, max(most, float(score))
        return [{"word": text[start:end], "score": score, "start": start, "end": end}
                for start, end, score in found.values() if score >= self.threshold and text[start:end].strip()]
