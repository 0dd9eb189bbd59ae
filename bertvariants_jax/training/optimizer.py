"""Optimizers and schedules of the BERT family: optax, and the published rules that optax does not have.

BERT's Adam and LAMB without bias correction (google-research/bert optimization.py, google-research/albert
lamb_optimizer.py; arXiv:1904.00962), StableAdamW (AnswerDotAI/ModernBERT src/optimizer.py; arXiv:2304.13013),
layer-wise learning rates (google-research/electra model/optimization.py) and gradients (zihangdai/xlnet model_utils.py).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bertvariants_jax.training.paths import layer_axes, path_name

UNDECAYED = ("bias", "scale")  # leaf names; `r_w_bias` and its like are other names and are decayed
# leaves stacked by layers here that are one variable outside of all layers in XLNet's code
OUTSIDE_LAYERS = ("r_w_bias", "r_r_bias", "r_s_bias", "seg_embed")


@dataclass(frozen=True)
class Optim:
    """An optimizer and its schedule; the defaults are BERT's pre-training recipe.

    name: bert_adam (no bias correction), adamw, decoupled_adamw (its decay does not shrink with the peak), lamb,
        stable_adamw.
    rate: peak learning rate. schedule: see `schedule`.
    schedule_steps: updates that the schedule spans, 0 is all that the run's steps count; more where the run is the first of
    several phases of one schedule.
    warmup: steps if >= 1, else a fraction of all steps. cooldown: the same, for the end of "wsd".
    end: final learning rate as a part of the peak.
    weight_decay: times the learning rate, or for decoupled_adamw and stable_adamw times its part of the peak.
    decay: "weights" leaves out leaves named bias and scale, "all" decays everything (fairseq).
    clip: greatest global gradient norm, 0 is no clipping.
    layer_decay: multiplier per layer below the top, 1 is none. layer_decay_top: exponent of the top layer.
    layer_decay_by: what it multiplies: "rate" the learning rate, of what lies below the layers too (see
        `layer_exponents`), "gradient" the layers' clipped gradients, as XLNet's code does.
    """

    name: Literal["bert_adam", "adamw", "decoupled_adamw", "lamb", "stable_adamw"] = "bert_adam"
    rate: float = 1e-4
    schedule: Literal["bert", "shifted", "electra", "xlnet", "cosine", "wsd", "noam", "constant"] = "bert"
    schedule_steps: int = 0
    warmup: float = 0.01
    cooldown: float = 0.1
    end: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.01
    decay: Literal["weights", "all"] = "weights"
    clip: float = 1.0
    layer_decay: float = 1.0
    layer_decay_top: int = 2
    layer_decay_by: Literal["rate", "gradient"] = "rate"

    def __post_init__(self):
        for field in ("rate", "schedule_steps", "warmup", "cooldown", "weight_decay", "clip"):
            if not getattr(self, field) >= 0:
                raise ValueError(f"optim.{field} must not be negative, got {getattr(self, field)}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optim.layer_decay must be in (0, 1], got {self.layer_decay}")


def steps_of(amount: float, steps: int) -> int:
    """`amount` as a number of steps: itself if >= 1, else that part of `steps`."""
    return int(amount if amount >= 1 else amount * steps)


def schedule(optim: Optim, steps: int, rows_at: Callable[[int], int] | None = None) -> Callable[[Any], jax.Array]:
    """Learning rate by step t, counted from 0 as the originals do: the first update of a warm-up has rate 0.

    With warm-up W, all steps T, peak 1 and end e, after t < W: t / W,
      bert      e + (1-e)(1 - t/T), unshifted: falls to 1 - W/T at t = W
      shifted   e + (1-e)(1 - (t-W)/(T-W)); xlnet is the same line, its e is min_lr_ratio
      cosine    e + (1-e)(1 + cos(pi (t-W)/(T-W)))/2
      electra   (e + (1-e)(1 - t/T)) min(1, t/W), the product from the start
      wsd       1, then over the last `cooldown` steps e + (1-e)(1 - sqrt(part of them done))
      noam      sqrt(W/t), without end (arXiv:1706.03762)
      constant  1
    rows_at: rows of each step's batch, where they differ: a warm-up is then the share of its rows that was seen before t.
    """
    if 0 < optim.schedule_steps < steps:
        raise ValueError(f"optim.schedule_steps {optim.schedule_steps} ends before the last of {steps} steps")
    steps = optim.schedule_steps or steps
    warmup = steps_of(optim.warmup, steps)
    cooldown = max(min(steps_of(optim.cooldown, steps), steps - warmup), 1)

    seen = None if rows_at is None else np.cumsum([0, *map(rows_at, range(warmup))], dtype=np.float64)

    def falling(part):
        return optim.end + (1 - optim.end) * (1 - part)

    def rate(step):
        t = jnp.minimum(jnp.asarray(step, jnp.float32), steps)
        rising = t / warmup if warmup else jnp.ones_like(t)
        if warmup and seen is not None:
            rising = jnp.asarray(seen / seen[-1], jnp.float32)[jnp.minimum(t, warmup).astype(jnp.int32)]
        after = (t - warmup) / max(steps - warmup, 1)  # 0 at the end of the warm-up, 1 at the last step
        match optim.schedule:
            case "bert":
                level = falling(t / steps)
            case "shifted" | "xlnet":
                level = falling(after)
            case "cosine":
                level = falling((1 - jnp.cos(jnp.pi * after)) / 2)
            case "electra":
                return optim.rate * falling(t / steps) * jnp.minimum(1.0, rising)
            case "wsd":
                level = falling(jnp.sqrt(jnp.maximum(t - (steps - cooldown), 0) / cooldown))
            case "noam":
                level = jnp.sqrt(max(warmup, 1) / jnp.maximum(t, 1))
            case "constant":
                level = jnp.ones_like(t)
            case other:
                raise ValueError(f"unknown optim.schedule {other!r}")
        return optim.rate * jnp.where(t < warmup, rising, level)

    return rate


def build(optim: Optim, steps: int, rows_at: Callable[[int], int] | None = None) -> optax.GradientTransformation:
    """The optimizer as an optax transformation of the trainable parameters' gradients; rows_at: see `schedule`."""
    decayed = decay_mask(optim.decay)
    chain = [optax.clip_by_global_norm(optim.clip)] if optim.clip else []
    layered = optim.layer_decay != 1
    if layered and optim.layer_decay_by == "gradient":
        chain.append(scale_by_layers(optim.layer_decay, optim.layer_decay_top, gradient_exponents))
    # a decay that counts in parts of the peak rate, which the schedule multiplies once more
    of_peak = optim.weight_decay / optim.rate if optim.rate else 0.0
    match optim.name:
        case "bert_adam":
            chain += [scale_by_bert_adam(optim.b1, optim.b2, optim.eps),
                      optax.add_decayed_weights(optim.weight_decay, decayed)]
        case "adamw":
            chain += [optax.scale_by_adam(optim.b1, optim.b2, optim.eps),
                      optax.add_decayed_weights(optim.weight_decay, decayed)]
        case "decoupled_adamw":
            chain += [optax.scale_by_adam(optim.b1, optim.b2, optim.eps), optax.add_decayed_weights(of_peak, decayed)]
        case "lamb":
            chain += [scale_by_bert_adam(optim.b1, optim.b2, optim.eps),
                      optax.add_decayed_weights(optim.weight_decay, decayed),
                      scale_by_layer_trust_ratio(decayed)]
        case "stable_adamw":
            # its decay shares the update's damping
            chain += [scale_by_stable_adam(optim.b1, optim.b2, optim.eps, of_peak, decayed)]
        case other:
            raise ValueError(f"unknown optim.name {other!r}")
    if layered and optim.layer_decay_by == "rate":
        chain.append(scale_by_layers(optim.layer_decay, optim.layer_decay_top, layer_exponents))
    return optax.chain(*chain, optax.scale_by_learning_rate(schedule(optim, steps, rows_at)))


def decay_mask(decay: str) -> Callable[[Any], Any]:
    """params -> tree of bools: which leaves are decayed. By name and not by rank, as stacked biases are matrices."""
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: decay == "all" or path_name(path).split("/")[-1] not in UNDECAYED, params)


def over_layers(function: Callable, *trees):
    """Map `function(layer_axes, leaf, ...)` over trees of one structure."""
    axes = layer_axes(trees[0])
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(axes[path_name(path)], *leaves), *trees)


class Moments(NamedTuple):
    """First and second moment of the gradients."""

    mu: Any
    nu: Any


def zero_moments(params) -> Moments:
    return Moments(*(jax.tree.map(jnp.zeros_like, params) for _ in range(2)))


def scale_by_bert_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction m / (sqrt(v) + eps) without bias correction."""

    def update(grads, state, params=None):
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu), Moments(mu, nu)

    return optax.GradientTransformation(zero_moments, update)


def scale_by_layer_trust_ratio(adapted: Callable[[Any], Any]) -> optax.GradientTransformation:
    """LAMB's ratio |w| / |u| (1 where either is 0), one for each layer of a stacked leaf; not clamped.

    adapted: params -> tree of bools; elsewhere (LayerNorm, biases) the ratio is 1.
    """

    def ratio(axes, update, param, adapt):
        if not adapt:
            return update
        rest = tuple(range(axes, update.ndim))
        norm_w, norm_u = (jnp.sqrt(jnp.sum(jnp.square(x), rest, keepdims=True)) for x in (param, update))
        return update * jnp.where((norm_w == 0) | (norm_u == 0), 1.0, norm_w / jnp.where(norm_u == 0, 1.0, norm_u))

    def update(updates, state, params):
        return over_layers(ratio, updates, params, adapted(params)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class StableState(NamedTuple):
    """Step count and moments of StableAdamW."""

    count: jax.Array
    mu: Any
    nu: Any


def scale_by_stable_adam(b1: float, b2: float, eps: float, decay: float,
                         decayed: Callable[[Any], Any]) -> optax.GradientTransformation:
    """StableAdamW's direction (m / (sqrt(v) + eps) + decay w) / max(1, rms), one rms for each layer's tensor.

    The moments' factors (b^t - b) / (b^t - 1) correct the bias; rms = sqrt(mean(g^2 / max(v, eps^2))).
    """

    def update(grads, state, params):
        count = state.count + 1
        t = count.astype(jnp.float32)
        beta1, beta2 = ((b ** t - b) / (b ** t - 1) for b in (b1, b2))
        mu = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.nu, grads)

        def direction(axes, g, m, v, w, decays):
            rest = tuple(range(axes, g.ndim))
            rms = jnp.sqrt(jnp.mean(g * g / jnp.maximum(v, eps * eps), rest, keepdims=True))
            u = m / (jnp.sqrt(v) + eps)
            return (u + decay * w if decays else u) / jnp.maximum(1.0, rms)

        return over_layers(direction, grads, mu, nu, params, decayed(params)), StableState(count, mu, nu)

    return optax.GradientTransformation(
        lambda params: StableState(jnp.zeros((), jnp.int32), *zero_moments(params)), update)


def layer_exponents(params, top: int = 2):
    """Exponent of the layer decay for each leaf: an int, or for a stacked leaf an array along its layer axis.

    With L layers: task heads 0, layer i top + L-1 - i, and what lies under the layers (embeddings and
    their projection, or anything else of the encoder) top + L. What follows the last layer (a final
    norm) counts as a head. ELECTRA has top = 2.
    """
    axes = layer_axes(params)
    depth = max((leaf.shape[0] for path, leaf in jax.tree_util.tree_leaves_with_path(params)
                 if axes[path_name(path)]), default=1)

    def exponent(path, leaf):
        name = path_name(path)
        if axes[name]:
            layers = leaf.shape[0]
            values = top + layers - 1 - jnp.arange(layers)
            return values.reshape((layers,) + (1,) * (leaf.ndim - 1))
        if re.search(r"(^|/)layers/", name):  # shared by all layers
            return top
        if re.search(r"(^|/)encoder/(?!(final_)?norm/)", name):
            return top + depth
        return 0

    return jax.tree_util.tree_map_with_path(exponent, params)


def gradient_exponents(params, top: int = 0):
    """Exponent of XLNet's layer decay for each leaf: top + L-1 - i for layer i, and 0 for all that its code has outside
    of the layers: word table, mask embedding, the biases of relative attention, segments, heads.

    It acts on gradients before Adam, which divides by their size: but for its eps, nothing of it is left.
    """
    axes = layer_axes(params)

    def exponent(path, leaf):
        name = path_name(path)
        if not axes[name] or name.split("/")[-1] in OUTSIDE_LAYERS:
            return 0
        return (top + leaf.shape[0] - 1 - jnp.arange(leaf.shape[0])).reshape((-1,) + (1,) * (leaf.ndim - 1))

    return jax.tree_util.tree_map_with_path(exponent, params)


def scale_by_layers(decay: float, top: int, exponents: Callable[[Any, int], Any]) -> optax.GradientTransformation:
    """Multiply what comes in by decay ** exponents(params, top)."""

    def update(updates, state, params=None):
        return jax.tree.map(lambda u, e: u * decay ** jnp.asarray(e, u.dtype), updates, exponents(updates, top)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
