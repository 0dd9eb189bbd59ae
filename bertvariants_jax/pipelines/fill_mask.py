"""Words for the masks of a text."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.pipelines.base import Pipeline

AT_ONCE = 16          # masks of a row; a text with more takes several rows


@dataclass
class FillMask(Pipeline):
    """The `top_k` best words at each mask: {"score", "token", "token_str", "sequence"}, one list a mask.

    With one mask the list itself is the result. targets: only these words are considered, scores are still of all; of
    a word that is no piece of the vocabulary its first piece is taken, with a warning.
    """

    top_k: int = 5
    targets: Sequence[str] | str | None = None

    head = "mlm"
    compiled = ("top_k",)

    def __post_init__(self):
        super().__post_init__()
        if self.checkpoint.tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token")
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        targets = (self.targets,) if isinstance(self.targets, str) else self.targets
        if targets is not None:
            allowed = list(dict.fromkeys(self.piece(word) for word in targets))
            if not allowed:
                raise ValueError("targets holds no word")
            rows = self.checkpoint.config.vocab_size
            if beyond := [word for word in targets if self.piece(word) >= rows]:
                raise ValueError(f"the target {beyond[0]!r} has id {self.piece(beyond[0])}, but this "
                                 f"{self.checkpoint.variant} has {rows} rows")
            # an input of the program, at the next power of two, so that other words need no other program
            self.given = {"targets": np.pad(np.array(allowed, np.int32), (0, (1 << (len(allowed) - 1).bit_length()) - len(allowed)),
                                            constant_values=-1)}

    def piece(self, word: str) -> int:
        """Raises ValueError where the vocabulary has nothing for it."""
        tokenizer = self.checkpoint.tokenizer
        known = tokenizer.token_to_id(word)
        if known is not None:
            return known
        pieces = tokenizer.ids([word])[0]
        if not len(pieces) or pieces[0] == tokenizer.unk_token_id:
            raise ValueError(f"the target {word!r} is no single piece of the vocabulary, nor does one begin it")
        warnings.warn(f"the target {word!r} is no single piece of the vocabulary; "
                      f"{tokenizer.id_to_token(int(pieces[0]))!r} is taken", stacklevel=4)
        return int(pieces[0])

    def window(self, texts):
        tokenizer, whole = self.checkpoint.tokenizer, self.tokenized(texts)
        masks = whole["input_ids"] == tokenizer.mask_token_id                                # B L
        counts = masks.sum(1)
        for text in (texts[i] for i in np.flatnonzero(counts == 0)):
            cut = f" up to its token {self.max_length}" if tokenizer.mask_token in text else ""
            raise ValueError(f"no {tokenizer.mask_token} in the text {text[:80]!r}{cut}")
        turns = -(-counts // AT_ONCE)
        owner = np.repeat(np.arange(len(texts)), turns)
        turn = np.concatenate([np.arange(n) for n in turns])
        rank = np.cumsum(masks, axis=1) - 1
        rows = {key: value[owner] for key, value in whole.items()}
        rows["masks"] = (masks[owner] & (rank[owner] // AT_ONCE == turn[:, None])).astype(np.int32)
        outputs: list[dict] = [{}] * len(owner)
        for row, out, _ in self.outputs(rows, (rows["attention_mask"] > 0).sum(1)):
            outputs[row] = out
        first, results = 0, []
        for text, count, ids, real in zip(texts, turns, whole["input_ids"], whole["attention_mask"] > 0, strict=True):
            parts = outputs[first : first + count]
            results.append(self.decode(text, ids[real], {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}))
            first += count
        return results

    def forward(self, params, batch):
        """The best pieces of up to AT_ONCE places of each row, in order: scores, tokens [B, M, K]."""
        network = self.checkpoint.network
        hidden = network.encode(params, batch, pool=False)
        places = jnp.argsort(batch["masks"] == 0, axis=1, stable=True)[:, :AT_ONCE]          # B M
        probs = jax.nn.softmax(network.logits(params, "mlm", hidden.at(places)), axis=-1)
        targets = batch.get("targets", jnp.arange(probs.shape[-1]))
        probs = jnp.where(targets >= 0, probs[..., targets], -1.0) if "targets" in batch else probs
        scores, best = jax.lax.top_k(probs, min(self.top_k, probs.shape[-1]))
        return {"scores": scores, "tokens": targets[best]}

    def decode(self, text, ids, out):
        tokenizer = self.checkpoint.tokenizer
        places = np.flatnonzero(ids == tokenizer.mask_token_id)
        found = []
        for mask, place in enumerate(places):
            row = []
            for score, token in zip(out["scores"][mask], out["tokens"][mask], strict=True):
                if token < 0:                              # fills up the targets
                    break
                filled = ids.copy()
                filled[place] = token
                shown = tokenizer.decode(filled, skip_special_tokens=len(places) == 1)
                row.append({"score": float(score), "token": int(token), "sequence": shown,
                            "token_str": tokenizer.decode([int(token)], skip_special_tokens=False)})
            found.append(row)
        return found[0] if len(found) == 1 else found
