"""Replaced-token detection: a generator, a masked LM, fills the hidden places with its own words, and a discriminator
tells which words are not the original ones (ELECTRA, arXiv:2003.10555; DeBERTa-v3, arXiv:2111.09543).

Original code: google-research/electra `run_pretraining.py`, microsoft/DeBERTa `apps/tasks/rtd_task.py`. Parameters are
{"generator": ..., "discriminator": ...}; what the two share lives in the generator, and `towers` gives each its whole
tree. A place that was drawn twice gets one of its samples (ELECTRA's code writes the mean of their ids).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bertvariants_jax.objectives.losses import accuracy, cross_entropy, example_weights, weighted
from bertvariants_jax.objectives.objective import Batch, Loss, Objective, Params, Phase, row_keys

# What the discriminator learns, and the heads that this takes: which of all real tokens were replaced, or of the hidden
# ones only (ELECTRA 15%); the hidden tokens themselves, or all tokens (the paper's Replace MLM and All-Tokens MLM).
TARGETS = {"rtd": ("rtd",), "rtd_masked": ("rtd",), "replace_mlm": ("mlm",), "all_tokens_mlm": ("mlm", "rtd")}

TABLES = ("word_embeddings", "position_embeddings")
SHARED = {"none": (), "tied": (*TABLES, "token_type_embeddings", "norm"), "tables": TABLES, "disentangled": TABLES}


class Sharing(NamedTuple):
    """What two networks have in common of their embeddings.

    parts: its names. disentangled: the discriminator's are stop_gradient(generator's) + its own deltas, else they are
    the generator's.
    """

    parts: tuple[str, ...] = ()
    disentangled: bool = False


def share(kind: str, generator, discriminator) -> Sharing:
    """How two networks share: "none"; "tied", the whole embedding (ELECTRA); "tables", words and positions (DeBERTa's ES);
    "disentangled", the same with gradients apart (GDES).

    Raises ValueError for another kind and where the two embeddings have not one shape.
    """
    if kind not in SHARED:
        raise ValueError(f"unknown sharing {kind!r}; known: {', '.join(SHARED)}")
    if generator.config.vocab_size != discriminator.config.vocab_size:
        raise ValueError(f"the generator has a vocabulary of {generator.config.vocab_size}, the discriminator of "
                         f"{discriminator.config.vocab_size}: they must read the same ids")
    if not SHARED[kind]:
        return Sharing()
    theirs, mine = (network.shapes()["encoder"]["embeddings"] for network in (generator, discriminator))
    parts = tuple(name for name in SHARED[kind] if name in theirs and name in mine)
    for name in parts:
        a, b = (jax.tree.leaves(tree[name])[-1].shape for tree in (theirs, mine))
        if a != b:
            wider = "wider" if a[-1] > b[-1] else "narrower" if a[-1] < b[-1] else "of another length"
            raise ValueError(f"the generator's {name} is {list(a)} and {wider} than the discriminator's, {list(b)}, so "
                             f"that they cannot be shared as {kind!r}: give both one embedding_size, or sharing none")
    return Sharing(parts, kind == "disentangled")


def towers(params: Params, sharing: Sharing) -> tuple[Params, Params]:
    """The trained tree -> (generator's, discriminator's), each as its network has them. The inverse of `untied`."""
    generator, discriminator = params["generator"], params["discriminator"]
    theirs, mine = generator["encoder"]["embeddings"], discriminator["encoder"].get("embeddings", {})
    shared = {name: theirs[name] for name in sharing.parts}
    if sharing.disentangled:
        shared = jax.tree.map(lambda table, delta: jax.lax.stop_gradient(table) + delta,
                              shared, {name: mine[name] for name in sharing.parts})
    encoder = {**discriminator["encoder"], "embeddings": {**mine, **shared}}
    return generator, {**discriminator, "encoder": encoder}


def untied(generator: Params, discriminator: Params, sharing: Sharing) -> Params:
    """Two networks' parameters -> the trained tree; under tying the discriminator's own copy is dropped."""
    mine, theirs = discriminator["encoder"]["embeddings"], generator["encoder"]["embeddings"]
    own = {name: part for name, part in mine.items() if name not in sharing.parts}
    if sharing.disentangled:
        own |= {name: jax.tree.map(jnp.subtract, mine[name], theirs[name]) for name in sharing.parts}
    encoder = {name: part for name, part in discriminator["encoder"].items() if name != "embeddings"}
    return {"generator": generator,
            "discriminator": {**discriminator, "encoder": {**encoder, **({"embeddings": own} if own else {})}}}


def written(ids: jax.Array, positions: jax.Array, used: jax.Array, values: jax.Array) -> jax.Array:
    """ids [B, L] with values [B, P] at the used positions [B, P]; of neighbours at one position the first counts."""
    again = jnp.concatenate([jnp.zeros_like(used[:, :1]), positions[:, 1:] == positions[:, :-1]], axis=1)
    places = jnp.where(used & ~again, positions, ids.shape[1])                               # past the end: nowhere
    return jax.vmap(lambda row, at, new: row.at[at].set(new, mode="drop"))(ids, places, values.astype(ids.dtype))


def draw(keys: jax.Array, logits: jax.Array) -> jax.Array:
    """A word for each slot from softmax(logits [B, P, V]), each row with its own key [B] -> int32 [B, P]."""
    return jax.vmap(jax.random.categorical)(keys, logits)


def sampling_keys(batch: Batch, rng: jax.Array | None) -> jax.Array:
    """The keys [B] of the generator's words: those that a training step gives its rows. Without a step they follow
    `rng`, and in evaluation (rng None) the row's text, so that neither batch size nor devices change a score."""
    if rng is not None:
        rows = jnp.arange(batch["input_ids"].shape[0])
        return batch["row_keys"] if "row_keys" in batch else row_keys(jax.random.fold_in(rng, 1), rows)
    ids = jnp.where(batch["attention_mask"] > 0, batch["input_ids"], 0).astype(jnp.uint32)
    factors = jnp.uint32(2654435761) * (2 * jnp.arange(ids.shape[1], dtype=jnp.uint32) + 1)
    return row_keys(jax.random.key(0), jnp.sum(ids * factors, axis=1, dtype=jnp.uint32))


def replaced_tokens(discriminator, generator, *, sharing: str = "tied", target: str = "rtd", weight: float = 50.0,
                    temperature: float = 1.0, decoupled: bool = False, frozen: bool = False) -> Objective:
    """Masked LM of the generator plus `weight` times what the discriminator learns of its samples.

    The batch is masked (masked_* keys, slots ascending). At the P places one word is drawn from
    softmax(logits / temperature) with the row's own key (see `sampling_keys`), without a gradient; the discriminator reads
    the original text with these words, at the places that kept their token too, and a word that is drawn as it was counts
    as original.

    generator, discriminator: networks (models/variant.py) with the head "mlm" and those of TARGETS[target].
    sharing: see `share`. target: see TARGETS. decoupled: two updates, the generator's first, with the discriminator's on
    the words already drawn (DeBERTa-v3's code); frozen: the generator is not trained (ELECTRA's two-stage training).
    Metrics: mlm/accuracy and mlm/sampled (draws that hit); rtd/accuracy beside rtd/replaced, the share of replaced tokens
    (the majority's accuracy is 1 - that), rtd/precision, rtd/recall, and in evaluation rtd/auc within rows.
    Raises ValueError for options that do not go together.
    """
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}; known: {', '.join(TARGETS)}")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    ways = share(sharing, generator, discriminator)
    if (decoupled or frozen) and ways.parts and not ways.disentangled:
        raise ValueError(f"sharing {sharing!r} trains one embedding by both losses, which {'decoupled' if decoupled else 'frozen'} "
                         "updates cannot: choose disentangled or none")
    if decoupled and frozen:
        raise ValueError("a frozen generator has no updates to decouple")
    term = target.removesuffix("_masked")

    def init(rng):
        first, second = generator.init(jax.random.fold_in(rng, 0)), discriminator.init(jax.random.fold_in(rng, 1))
        begun = {**second["encoder"]["embeddings"], **{name: first["encoder"]["embeddings"][name] for name in ways.parts}}
        return untied(first, {**second, "encoder": {**second["encoder"], "embeddings": begun}}, ways)

    def real(batch):                                                                         # B L
        return (batch["attention_mask"] > 0) * example_weights(batch, "input_ids")[:, None]

    def slots(batch):                                                                        # B P
        return batch["masked_weights"] * example_weights(batch, "input_ids")[:, None]

    def hidden(batch):
        """bool [B, L]: the places that the generator writes."""
        ids = jnp.zeros_like(batch["input_ids"])
        used = batch["masked_weights"] > 0
        return written(ids, batch["masked_positions"], used, jnp.ones_like(batch["masked_positions"])) > 0

    def counted(batch):
        """float32: the places that the discriminator's loss counts, [B, L], or slots [B, P] for Replace MLM."""
        if target == "replace_mlm":
            return slots(batch)
        return real(batch) * hidden(batch) if target == "rtd_masked" else real(batch)

    def weights(batch):
        return ({} if frozen else {"mlm": jnp.sum(slots(batch))}) | {term: jnp.sum(counted(batch))}

    def generate(params, batch, rng) -> Loss:
        """The generator's loss; handed: the text with its words, and the original text, int32 [B, L] each."""
        places, labels, used = batch["masked_positions"], batch["masked_labels"], batch["masked_weights"] > 0
        dropped = None if rng is None or frozen else jax.random.fold_in(rng, 0)
        encoded = generator.encode(params, batch, dropped)
        logits = generator.logits(params, "mlm", encoded.at(places), dropped)                # B P V
        drawn = draw(sampling_keys(batch, rng), jax.lax.stop_gradient(logits) / temperature)   # B P
        metrics = {"mlm/accuracy": accuracy(logits, labels, slots(batch)),
                   "mlm/sampled": (weighted((drawn == labels) * 1.0, slots(batch)), jnp.sum(slots(batch)))}
        original = written(batch["input_ids"], places, used, labels)
        handed = {"input_ids": written(original, places, used, drawn), "original": original}
        sums = {} if frozen else {"mlm": weighted(cross_entropy(logits, labels), slots(batch))}
        return Loss(sums, metrics, handed=jax.lax.stop_gradient(handed))

    def detect(params, batch, rng, handed) -> Loss:
        """The discriminator's loss on the text that it is handed."""
        rng = None if rng is None else jax.random.fold_in(rng, 2)
        encoded = discriminator.encode(params, {**batch, "input_ids": handed["input_ids"]}, rng)
        if target == "replace_mlm":
            logits = discriminator.logits(params, "mlm", encoded.at(batch["masked_positions"]), rng)
            losses = cross_entropy(logits, batch["masked_labels"])
            return Loss({term: weighted(losses, counted(batch))},
                        {f"{term}/accuracy": accuracy(logits, batch["masked_labels"], counted(batch))})
        scores = discriminator.logits(params, "rtd", encoded, rng)                           # B L
        replaced = handed["input_ids"] != handed["original"]
        found = detection(scores, replaced, counted(batch), pairs=rng is None)
        if target == "all_tokens_mlm":
            logits = discriminator.logits(params, "mlm", encoded, rng)                       # B L V, as the paper has it
            losses, right = copied(logits, scores, handed["input_ids"], handed["original"])
            metrics = {f"{term}/accuracy": (weighted(right * 1.0, counted(batch)), jnp.sum(counted(batch)))}
            return Loss({term: weighted(losses, counted(batch))}, found | metrics)
        losses = jnp.where(replaced, jax.nn.softplus(-scores), jax.nn.softplus(scores))
        return Loss({term: weighted(losses, counted(batch))}, found)

    def loss(params, batch, rng, memory=None) -> Loss:
        first, second = towers(params, ways)
        made = generate(first, batch, rng)
        told = detect(second, batch, rng, made.handed)
        return Loss(made.sums | told.sums, made.metrics | told.metrics)

    def predict(params, batch):
        first, second = towers(params, ways)
        handed = generate(first, batch, None).handed
        encoded = discriminator.encode(second, {**batch, "input_ids": handed["input_ids"]})
        out = {"replaced": handed["input_ids"] != handed["original"]}
        if "rtd" in TARGETS[target]:
            out["logits"] = discriminator.logits(second, "rtd", encoded)
        if "mlm" in TARGETS[target]:
            logits = discriminator.logits(second, "mlm", encoded.at(batch["masked_positions"]))
            out["masked_predictions"] = jnp.argmax(logits, axis=-1)
        return out

    phases = (
        Phase(("mlm",), ("generator",), lambda params, batch, rng, handed: generate(params["generator"], batch, rng)),
        Phase((term,), ("discriminator",), lambda params, batch, rng, handed: detect(
            towers(params, ways)[1], batch, rng, handed)))

    def exports(params):
        first, second = towers(params, ways)
        return {"model": (discriminator, second), "generator": (generator, first)}

    return Objective(init, weights, loss, predict, ({} if frozen else {"mlm": 1.0}) | {term: weight},
                     frozen=("generator",) if frozen else (), phases=phases if decoupled else (), exports=exports)


def detection(scores: jax.Array, replaced: jax.Array, counted: jax.Array, pairs: bool) -> Mapping[str, Any]:
    """Metrics of scores float32 [B, L], positive where a token looks replaced, over the tokens of weight > 0.

    With `pairs` also the area under the ROC curve, as the share of pairs (replaced, original) in one row whose scores
    are in order; equal ones count half.
    """
    said, yes = scores > 0, replaced * counted
    hits = weighted(said * 1.0, yes)
    metrics = {"rtd/accuracy": (weighted((said == replaced) * 1.0, counted), jnp.sum(counted)),
               "rtd/replaced": (jnp.sum(yes), jnp.sum(counted)),
               "rtd/precision": (hits, weighted(said * 1.0, counted)), "rtd/recall": (hits, jnp.sum(yes))}
    if pairs:
        a, b, no = scores[:, :, None], scores[:, None, :], (1 - replaced) * counted
        both = yes[:, :, None] * no[:, None, :]                                              # B L L
        metrics["rtd/auc"] = weighted((a > b) + 0.5 * (a == b), both), jnp.sum(both)
    return metrics


def copied(logits: jax.Array, scores: jax.Array, given: jax.Array, original: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All-Tokens MLM: -log p(original), and whether p is greatest there, [B, L] each, of the copy mechanism

        p(word) = c [word = given] + (1 - c) softmax(logits)(word),    c = sigmoid(-scores).

    logits [B, L, V]; scores [B, L]; given, original: int32 [B, L].
    """
    copies, speaks = jax.nn.log_sigmoid(-scores), jax.nn.log_sigmoid(scores)
    said = lambda ids: speaks - cross_entropy(logits, ids)
    of_given = jnp.logaddexp(copies, said(given))
    losses = -jnp.where(given == original, of_given, said(original))
    best = jnp.argmax(logits, axis=-1)
    return losses, jnp.where(of_given >= said(best), given, best) == original
