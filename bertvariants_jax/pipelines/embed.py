"""Texts as vectors."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from bertvariants_jax.hf.pooling import Pooling
from bertvariants_jax.pipelines.base import Pipeline


@dataclass
class Embed(Pipeline):
    """One float32 vector [D] a text (a list gives them in a list).

    pooling: "mean", "max" over the real tokens, or "cls"; what the folder says if not given, else mean. "none" gives
    the vectors of all tokens [L, D], special ones included, as transformers' feature-extraction does.
    normalize: to length 1; what the folder says if not given. max_length: what the folder says, if not given.
    prompt_name: of a prompt that the folder names, put before each text; its default one if not given. prompt: the
    prompt itself, "" for none.
    """

    pooling: str | None = None
    normalize: bool | None = None
    prompt_name: str | None = None
    prompt: str | None = None

    compiled = ("pooling", "normalize")

    def __post_init__(self):
        said = self.checkpoint.pooling or Pooling()
        if said.unsupported and self.pooling is None:
            raise ValueError(f"this sentence encoder has {', '.join(said.unsupported)}, which is not supported: give pooling= "
                             "for vectors of its hidden states")
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("give prompt= or prompt_name=, not both")
        self.prefix = said.prompt(self.prompt_name) if self.prompt is None else self.prompt
        self.max_length = said.max_length if self.max_length is None else self.max_length
        super().__post_init__()
        if self.prefix and not said.include_prompt:     # its first tokens are not pooled; the end's special one is no part of it
            ids = self.tokenized([""])["input_ids"][0]
            count = len(ids) - int(ids[-1] in self.checkpoint.tokenizer.special_ids)
            self.given = {"prompt_length": np.array([count], np.int32)}
        self.pooling = said.mode if self.pooling is None else self.pooling
        self.normalize = said.normalize if self.normalize is None else self.normalize
        if self.pooling not in ("mean", "max", "cls", "none"):
            raise ValueError(f"pooling must be mean, max, cls or none, got {self.pooling!r}")

    def tokenized(self, texts):
        said = self.checkpoint.pooling
        if said is not None:                            # as sentence-transformers reads them
            texts = [f"{self.prefix}{text}".strip() for text in texts]
            texts = [text.lower() for text in texts] if said.lowercase else texts
        elif self.prefix:
            texts = [f"{self.prefix}{text}" for text in texts]
        return super().tokenized(texts)

    def forward(self, params, batch):
        encoded = self.checkpoint.network.encode(params, batch, pool=False)
        hidden = encoded.last_hidden_state.astype(jnp.float32)
        real = batch["attention_mask"][..., None] > 0                                        # B L 1
        if "prompt_length" in batch:
            real = real & (jnp.cumsum(real, axis=1) > batch["prompt_length"])
        if self.pooling == "none":
            vector = hidden
        elif self.pooling == "cls":
            at = self.checkpoint.tokenizer.cls_token_id
            first = jnp.argmax(batch["input_ids"] == at, axis=1)
            vector = jnp.take_along_axis(hidden, first[:, None, None], axis=1)[:, 0]
        elif self.pooling == "max":
            vector = jnp.max(jnp.where(real, hidden, -jnp.inf), axis=1)
        else:
            vector = jnp.sum(jnp.where(real, hidden, 0.0), axis=1) / jnp.maximum(real.sum(1), 1)
        if self.normalize:
            vector = vector / jnp.maximum(jnp.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)
        return {"vector": vector}

    def decode(self, text, ids, out):
        if self.pooling != "none":
            return out["vector"]
        left = self.checkpoint.tokenizer.padding_side == "left"
        return out["vector"][-len(ids) :] if left else out["vector"][: len(ids)]
