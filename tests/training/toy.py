"""A small masked-token objective with two terms, dropout, stacked layers and optionally a memory or a frozen part."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.objectives.objective import Loss, Objective
from bertvariants_jax.training import loop, optimizer

VOCAB, LAYERS, LENGTH = 32, 3, 8


def objective(dropout=0.1, width=16, vocab=VOCAB, frozen=(), memory=False, nan_at=None) -> Objective:
    """nan_at: the loss is NaN where a batch holds this id."""

    def init(rng):
        keys = iter(jax.random.split(rng, 8))

        def normal(*shape):
            return 0.1 * jax.random.normal(next(keys), shape)

        params = {
            "encoder": {
                "embeddings": {"word_embeddings": {"embedding": normal(vocab, width)}},
                "layers": {"ffn": {"up": {"kernel": normal(LAYERS, width, 2 * width),
                                          "bias": jnp.zeros((LAYERS, 2 * width))},
                                   "down": {"kernel": normal(LAYERS, 2 * width, width)}},
                           "norm": {"scale": jnp.ones((LAYERS, width)), "bias": jnp.zeros((LAYERS, width))}},
            },
            "pair": {"kernel": normal(width, 2), "bias": jnp.zeros(2)},
        }
        if "teacher" in frozen:
            params["teacher"] = {"kernel": normal(width, vocab)}
        return params

    def weights(batch):
        return {"mlm": batch["masked_weights"].sum(), "pair": row_weight(batch).sum()}

    def row_weight(batch):
        return batch.get("example_weight", jnp.ones(batch["input_ids"].shape[0]))

    def hidden(params, batch, rng, carried=None):
        table = params["encoder"]["embeddings"]["word_embeddings"]["embedding"]
        x = table[batch["input_ids"]] * batch["attention_mask"][..., None]
        x = x + x.mean(1, keepdims=True)
        if carried is not None:
            x = x + 0.1 * carried[:, None]
        keys = jnp.zeros((LAYERS,)) if rng is None else jax.random.split(rng, LAYERS)

        def layer(x, xs):
            p, key = xs
            y = jax.nn.gelu(x @ p["ffn"]["up"]["kernel"] + p["ffn"]["up"]["bias"]) @ p["ffn"]["down"]["kernel"]
            if rng is not None and dropout:
                y = y * jax.random.bernoulli(key, 1 - dropout, y.shape) / (1 - dropout)
            x = x + y
            return (x - x.mean(-1, keepdims=True)) * p["norm"]["scale"] + p["norm"]["bias"], None

        return jax.lax.scan(layer, x, (params["encoder"]["layers"], keys))[0]

    def loss(params, batch, rng, memory=None):
        x = hidden(params, batch, rng, memory)
        picked = jnp.take_along_axis(x, batch["masked_positions"][..., None], 1)
        logits = picked @ params["encoder"]["embeddings"]["word_embeddings"]["embedding"].T
        if "teacher" in params:
            logits = logits + picked @ params["teacher"]["kernel"]
        w = batch["masked_weights"]
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["masked_labels"][..., None], 2)[..., 0]
        hits = (logits.argmax(-1) == batch["masked_labels"]) * w
        pair = jax.nn.log_softmax(x[:, 0] @ params["pair"]["kernel"] + params["pair"]["bias"])
        pair = -jnp.take_along_axis(pair, batch["labels"][:, None], 1)[:, 0] * row_weight(batch)
        mlm = (nll * w).sum()
        if nan_at is not None:
            mlm = mlm + jnp.where((batch["input_ids"] == nan_at).any(), jnp.nan, 0.0)
        return Loss({"mlm": mlm, "pair": pair.sum()}, {"mlm/accuracy": (hits.sum(), w.sum())},
                    None if memory is None else jax.lax.stop_gradient(x[:, -1]))

    def predict(params, batch):
        x = hidden(params, batch, None)
        return {"logits": x[:, 0] @ params["pair"]["kernel"] + params["pair"]["bias"]}

    return Objective(init, weights, loss, predict, {"mlm": 1.0, "pair": 0.5}, frozen,
                     (lambda rows: jnp.zeros((rows, width))) if memory else None)


def rows(count, seed=0, vocab=VOCAB) -> dict[str, np.ndarray]:
    """A batch whose rows differ much in how many places they predict."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, vocab, (count, LENGTH)).astype(np.int32)
    used = rng.integers(0, 4, count)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids),
            "masked_positions": rng.integers(0, LENGTH, (count, 3)).astype(np.int32),
            "masked_labels": ((ids[:, :3] + 1) % vocab).astype(np.int32),
            "masked_weights": (np.arange(3) < used[:, None]).astype(np.float32),
            "labels": (ids[:, 0] % 2).astype(np.int32),
            "example_id": np.arange(count, dtype=np.int32)}


class Data:
    """An endless stream of `rows` whose iterator can be saved; `spoil` puts id 1 into that batch."""

    def __init__(self, batch_size, seed=0, spoil=None, length=None):
        self.batch_size, self.seed, self.spoil, self.length = batch_size, seed, spoil, length

    def __iter__(self):
        return Position(self)


class Position:
    """Where an iteration over `Data` is."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.data.length is not None and self.at >= self.data.length:
            raise StopIteration
        batch = rows(self.data.batch_size, seed=[self.data.seed, self.at])
        if self.at == self.data.spoil:
            batch["input_ids"][0, 0] = 1
        self.at += 1
        return batch

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


@contextlib.contextmanager
def one_program(objective, optim, steps):
    """All runs inside share one compiled step: they differ in nothing that it knows."""
    original, places = loop.step.under_jit, loop.make_mesh()
    build = functools.cache(lambda **options: original(
        objective, optimizer.build(optim, steps), places, rate=optimizer.schedule(optim, steps), **options))
    loop.step.under_jit = lambda objective, optim, mesh, *, rate, **options: build(**options)
    try:
        yield
    finally:
        loop.step.under_jit = original
