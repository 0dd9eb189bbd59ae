"""Words for the masks of a text."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.pipelines.base import Pipeline


@dataclass
class FillMask(Pipeline):
    """The `top_k` best words at each mask: {"score", "token", "token_str", "sequence"}, one list a mask.

    With one mask the list itself is the result. targets: only these words are considered, scores are still of all.
    """

    top_k: int = 5
    targets: tuple[str, ...] | str | None = None

    head = "mlm"

    def __post_init__(self):
        super().__post_init__()
        if self.checkpoint.tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token")
        targets = (self.targets,) if isinstance(self.targets, str) else self.targets
        self.allowed = None
        if targets:
            self.allowed = [self.checkpoint.tokenizer.token_to_id(word) for word in targets]
            if None in self.allowed:
                raise ValueError(f"the target {targets[self.allowed.index(None)]!r} is no single piece of the vocabulary")

    def forward(self, params, batch):
        network = self.checkpoint.network
        hidden = network.encode(params, batch, pool=False)
        masks = batch["input_ids"] == self.checkpoint.tokenizer.mask_token_id
        places = jnp.argsort(~masks, axis=1, stable=True)[:, : self.most]                    # B M, masks first
        probs = jax.nn.softmax(network.logits(params, "mlm", hidden.at(places)), axis=-1)
        if self.allowed is not None:
            kept = jnp.zeros(probs.shape[-1], bool).at[jnp.asarray(self.allowed)].set(True)
            probs = jnp.where(kept, probs, -1.0)
        scores, tokens = jax.lax.top_k(probs, min(self.top_k, len(self.allowed or ()) or self.top_k))
        return {"scores": scores, "tokens": tokens}

    most = 16          # masks of a text

    def decode(self, text, ids, out):
        tokenizer = self.checkpoint.tokenizer
        places = np.flatnonzero(ids == tokenizer.mask_token_id)
        if not len(places):
            raise ValueError(f"no {tokenizer.mask_token} in the text {text[:80]!r}")
        if len(places) > self.most:
            raise ValueError(f"{len(places)} masks in the text {text[:80]!r}; at most {self.most} are filled at once")
        found = []
        for mask, place in enumerate(places):
            row = []
            for score, token in zip(out["scores"][mask], out["tokens"][mask], strict=True):
                filled = ids.copy()
                filled[place] = token
                shown = tokenizer.decode(filled, skip_special_tokens=len(places) == 1)
                row.append({"score": float(score), "token": int(token), "sequence": shown,
                            "token_str": tokenizer.decode([int(token)], skip_special_tokens=False)})
            found.append(row)
        return found[0] if len(found) == 1 else found
