"""Learning from a teacher: its soft targets, its hidden states, and the data's own labels (DistilBERT, arXiv:1910.01108).

Original code: HF's distillation research project (`distiller.py`, `run_squad_w_distillation.py`). The teacher's
parameters are params["teacher"], beside the student's: they get no gradient and no optimizer state, and the teacher
runs without dropout in the same step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bertvariants_jax.objectives.finetune import span_scores
from bertvariants_jax.objectives.losses import accuracy, cross_entropy, example_weights, sequence_weights, weighted
from bertvariants_jax.objectives.objective import Loss, Objective


def divergence(teacher: jax.Array, student: jax.Array, temperature: float) -> jax.Array:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) over the last axis; logits [..., V] -> float32 [...].

    T^2 keeps the gradient's size as T grows (Hinton et al. 2015, arXiv:1503.02531).
    """
    t, s = (jax.nn.log_softmax(x.astype(jnp.float32) / temperature, axis=-1) for x in (teacher, student))
    return temperature ** 2 * jnp.sum(jnp.exp(t) * (t - s), axis=-1)


def turned(a: jax.Array, b: jax.Array) -> jax.Array:
    """1 - the cosine of the angle between vectors [..., D] -> float32 [...]."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    norms = (jnp.sum(a * a, axis=-1) + 1e-12) * (jnp.sum(b * b, axis=-1) + 1e-12)
    return 1 - jnp.sum(a * b, axis=-1) * jax.lax.rsqrt(norms)


POSITIONS = "encoder/embeddings/position_embeddings"


def masked_lm(student, teacher, *, temperature: float = 2.0, alpha_ce: float = 5.0, alpha_mlm: float = 2.0,
              alpha_cos: float = 1.0, restrict_to_mask: bool = False, train_positions: bool = True) -> Objective:
    """DistilBERT's triple loss on masked text, each part a mean of its own:

      alpha_ce   T^2 KL of the teacher's and the student's masked-LM scores over all tokens (not padding), or with
                 `restrict_to_mask` over the masked ones
      alpha_mlm  cross-entropy of the masked tokens
      alpha_cos  1 - cosine of the last hidden states over all tokens

    student, teacher: networks with a head "mlm" over one vocabulary. Both see the same masked input. Soft targets over
    all tokens need the scores of both at all L places, [B, L, V], as nothing else here does; `restrict_to_mask` needs
    those at the P masked ones. A part of weight 0 is left out. Without `train_positions` the student's table of positions
    stays as it begins, as in the original, whose sinusoidal table, overwritten by the teacher's, takes no gradient.
    Metrics: mlm/accuracy, teacher/accuracy (the teacher's own), and agreement, the share of masked tokens at which both
    have one answer. Raises ValueError for another vocabulary, another width (with alpha_cos), and no part at all.
    """
    if student.config.vocab_size != teacher.config.vocab_size:
        raise ValueError(f"the teacher has a vocabulary of {teacher.config.vocab_size}, the student one of "
                         f"{student.config.vocab_size}: soft targets need the same")
    if alpha_cos and student.config.hidden_size != teacher.config.hidden_size:
        raise ValueError(f"the teacher's hidden states are {teacher.config.hidden_size} wide, the student's "
                         f"{student.config.hidden_size}: set alpha_cos to 0")
    scales = _parts({"kl": alpha_ce, "mlm": alpha_mlm, "cos": alpha_cos}, temperature)

    def counts(batch):
        examples = example_weights(batch, "input_ids")[:, None]
        masked, tokens = batch["masked_weights"] * examples, (batch["attention_mask"] > 0) * examples    # B P, B L
        return {"kl": masked if restrict_to_mask else tokens, "mlm": masked, "cos": tokens}

    def weights(batch):
        return {name: jnp.sum(counted) for name, counted in counts(batch).items() if name in scales}

    everywhere = "kl" in scales and not restrict_to_mask

    def seen(network, params, batch, rng=None):
        """Hidden states [B, L, D], scores where the soft targets are, and scores at the masked places [B, P, V]."""
        encoded, places = network.encode(params, batch, rng, pool=False), batch["masked_positions"]
        scores = network.logits(params, "mlm", encoded if everywhere else encoded.at(places), rng)       # B L|P V
        masked = jnp.take_along_axis(scores, places[..., None], axis=1) if everywhere else scores
        return encoded.last_hidden_state, scores, masked

    def loss(params, batch, rng, memory=None):
        hidden, scores, masked = seen(student, params, batch, rng)
        target = jax.lax.stop_gradient(seen(teacher, params["teacher"], batch))
        labels, counted = batch["masked_labels"], counts(batch)
        parts = {"kl": lambda: divergence(target[1], scores, temperature),
                 "mlm": lambda: cross_entropy(masked, labels), "cos": lambda: turned(target[0], hidden)}
        same = jnp.argmax(masked, axis=-1) == jnp.argmax(target[2], axis=-1)
        return Loss({name: weighted(parts[name](), counted[name]) for name in scales},
                    {"mlm/accuracy": accuracy(masked, labels, counted["mlm"]),
                     "teacher/accuracy": accuracy(target[2], labels, counted["mlm"]),
                     "agreement": (weighted(same.astype(jnp.float32), counted["mlm"]), jnp.sum(counted["mlm"]))})

    def predict(params, batch):
        encoded = student.encode(params, batch).at(batch["masked_positions"])
        return {"masked_predictions": jnp.argmax(student.logits(params, "mlm", encoded), axis=-1)}       # B P

    return _objective(student, teacher, weights, loss, predict, scales, () if train_positions else (POSITIONS,))


def classification(student, teacher, *, temperature: float = 2.0, alpha_ce: float = 0.5,
                   alpha_label: float = 0.5) -> Objective:
    """alpha_ce T^2 KL of a fine-tuned teacher's class scores and the student's + alpha_label cross-entropy of `labels`.

    student, teacher: networks with a head "classify" over the same classes. predict: the student's "logits" [B, classes].
    Raises ValueError for other numbers of classes, and for one alone, which has no distribution.
    """
    classes = student.config.num_labels
    if classes != teacher.config.num_labels:
        raise ValueError(f"the teacher knows {teacher.config.num_labels} classes, the task has {classes}")
    if classes < 2:
        raise ValueError("a regression has no soft targets: distillation needs two classes or more")
    scales = _parts({"kl": alpha_ce, "classify": alpha_label}, temperature)

    def weights(batch):
        count = jnp.sum(sequence_weights(batch, "input_ids"))
        return {name: count for name in scales}

    def loss(params, batch, rng, memory=None):
        scores, labels = student.scores(params, "classify", batch, rng), jnp.maximum(batch["labels"], 0)
        target = jax.lax.stop_gradient(teacher.scores(params["teacher"], "classify", batch))
        counted = sequence_weights(batch, "input_ids")
        parts = {"kl": divergence(target, scores, temperature), "classify": cross_entropy(scores, labels)}
        return Loss({name: weighted(parts[name], counted) for name in scales},
                    {"classify/accuracy": accuracy(scores, labels, counted),
                     "teacher/accuracy": accuracy(target, labels, counted)})

    def predict(params, batch):
        return {"logits": student.scores(params, "classify", batch)}

    return _objective(student, teacher, weights, loss, predict, scales)


def extraction(student, teacher, *, temperature: float = 2.0, alpha_ce: float = 0.5,
               alpha_label: float = 0.5) -> Objective:
    """SQuAD's: alpha_ce T^2 (KL of the starts + KL of the ends) / 2 + alpha_label (cross-entropies) / 2.

    student, teacher: networks with a head "span". Padding is no candidate, for either. predict: the student's
    "start_logits", "end_logits" [B, L].
    """
    scales = _parts({"kl": alpha_ce, "span": alpha_label}, temperature)

    def weights(batch):
        count = jnp.sum(example_weights(batch, "input_ids"))
        return {name: count for name in scales}

    def ends(network, params, batch, rng=None):                                              # B 2 L
        return jnp.swapaxes(span_scores(network, params, batch, rng), 1, 2)

    def loss(params, batch, rng, memory=None):
        scores, target = ends(student, params, batch, rng), jax.lax.stop_gradient(ends(teacher, params["teacher"], batch))
        gold, counted = jnp.stack([batch["start_positions"], batch["end_positions"]], axis=1), example_weights(batch, "input_ids")
        parts = {"kl": divergence(target, scores, temperature).mean(axis=1),
                 "span": cross_entropy(scores, gold).mean(axis=1)}
        right = {name: jnp.all(jnp.argmax(x, axis=-1) == gold, axis=1).astype(jnp.float32)
                 for name, x in (("span", scores), ("teacher", target))}
        return Loss({name: weighted(parts[name], counted) for name in scales},
                    {f"{name}/accuracy": (weighted(hit, counted), jnp.sum(counted)) for name, hit in right.items()})

    def predict(params, batch):
        start, end = jnp.moveaxis(ends(student, params, batch), 1, 0)
        return {"start_logits": start, "end_logits": end}

    return _objective(student, teacher, weights, loss, predict, scales)


def _parts(alphas: dict[str, float], temperature: float) -> dict[str, float]:
    """The parts that count."""
    if not temperature > 0 or min(alphas.values()) < 0 or not any(alphas.values()):
        raise ValueError(f"distillation needs a temperature above 0 and weights of which none is negative and one is "
                         f"positive, got {temperature} and {list(alphas.values())}")
    return {name: alpha for name, alpha in alphas.items() if alpha}


def _objective(student, teacher, weights: Callable, loss: Callable, predict: Callable, scales,
               frozen: tuple[str, ...] = ()) -> Objective:
    def init(rng):
        own, other = jax.random.split(rng)
        return {**student.init(own), "teacher": teacher.init(other)}

    def exports(params):
        return {"model": (student, {part: values for part, values in params.items() if part != "teacher"})}

    return Objective(init, weights, loss, predict, scales, frozen=("teacher", *frozen), exports=exports)
