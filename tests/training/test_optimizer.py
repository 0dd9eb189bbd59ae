"""Optimizers beside the published rules: first steps, per-layer norms, decay by name, schedules at their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from bertvariants_jax.training import optimizer
from bertvariants_jax.training.optimizer import Optim, build, schedule

PLAIN = {"rate": 1.0, "schedule": "constant", "warmup": 0, "weight_decay": 0.0, "clip": 0.0}


def moved(optim, params, grads, steps=1):
    """params after `steps` equal gradients."""
    transform = build(optim, 100)
    state = transform.init(params)
    for _ in range(steps):
        updates, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name, eps, first", [("bert_adam", 1e-6, 0.1 / (np.sqrt(1e-3) + 1e-6)), ("adamw", 1e-6, 1.0),
                                              ("stable_adamw", 1e-6, 1.0)])
def test_first_step(name, eps, first):
    after = moved(Optim(name, eps=eps, **PLAIN), {"w": jnp.zeros(())}, {"w": jnp.ones(())})
    np.testing.assert_allclose(-after["w"], first, rtol=1e-5)


def test_bert_adam_is_the_published_rule_over_many_steps():
    optim = Optim(rate=0.1, schedule="shifted", warmup=3, weight_decay=0.01, clip=1.0)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 3))
    params, transform = {"kernel": jnp.asarray(w, jnp.float32)}, build(optim, 10)
    state, m, v = transform.init(params), 0.0, 0.0
    for t in range(10):
        g = rng.normal(size=(4, 3))
        updates, state = transform.update({"kernel": jnp.asarray(g, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        g = g / max(1.0, np.sqrt((g * g).sum()))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        rate = 0.1 * (t / 3 if t < 3 else 1 - (t - 3) / 7)
        w = w - rate * (m / (np.sqrt(v) + 1e-6) + 0.01 * w)
    np.testing.assert_allclose(params["kernel"], w, rtol=2e-5, atol=1e-6)


def stacked_and_apart(seed=0):
    """The same tensors stacked under `layers`, and each on its own."""
    rng = np.random.default_rng(seed)
    kernel, scale = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 8, 4), (3, 8)))
    kernel *= np.array([1, 10, 0.1], np.float32)[:, None, None]
    together = {"layers": {"kernel": kernel, "scale": scale}, "head": {"kernel": kernel[0, :4], "bias": scale[0]}}
    apart = {**{f"layer_{i}": {"kernel": kernel[i], "scale": scale[i]} for i in range(3)},
             "head": together["head"]}
    return jax.tree.map(jnp.asarray, together), jax.tree.map(jnp.asarray, apart)


def apart_of(tree):
    return {**{f"layer_{i}": jax.tree.map(lambda x, i=i: x[i], tree["layers"]) for i in range(3)}, "head": tree["head"]}


@pytest.mark.parametrize("name", ["lamb", "stable_adamw", "bert_adam"])
def test_stacked_layers_move_as_if_each_were_its_own_tensor(name):
    optim = Optim(name, **{**PLAIN, "rate": 0.01, "weight_decay": 0.1})
    (params, apart), (grads, grads_apart) = stacked_and_apart(), stacked_and_apart(1)
    together = apart_of(moved(optim, params, grads, steps=4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), together,
                 moved(optim, apart, grads_apart, steps=4))


def test_lamb_is_optax_lamb_without_bias_correction_and_leaves_norms_and_biases_alone():
    (params, _), (grads, _) = stacked_and_apart(), stacked_and_apart(1)
    after = moved(Optim("lamb", **{**PLAIN, "rate": 0.01, "weight_decay": 0.1}), params, grads)
    for i in range(3):
        w, g = params["layers"]["kernel"][i], grads["layers"]["kernel"][i]
        reference = optax.chain(optimizer.scale_by_bert_adam(0.9, 0.999, 1e-6), optax.add_decayed_weights(0.1),
                                optax.scale_by_trust_ratio(), optax.scale(-0.01))
        expected = optax.apply_updates(w, reference.update(g, reference.init(w), w)[0])
        np.testing.assert_allclose(after["layers"]["kernel"][i], expected, rtol=1e-5, atol=1e-6)
    u = (after["layers"]["scale"] - params["layers"]["scale"]) / -0.01
    g = grads["layers"]["scale"]
    np.testing.assert_allclose(u, 0.1 * g / (np.sqrt(1e-3) * np.abs(g) + 1e-6), rtol=2e-3)
    zero = moved(Optim("lamb", **PLAIN), {"kernel": jnp.zeros((2, 2))}, {"kernel": jnp.ones((2, 2))})
    np.testing.assert_allclose(-zero["kernel"], 3.1622, rtol=1e-3)  # no norm: ratio 1


def test_stable_adamw_is_the_published_rule():
    optim = Optim("stable_adamw", rate=0.1, schedule="shifted", warmup=2, b1=0.9, b2=0.98, weight_decay=1e-2, clip=0.0)
    rng, decay = np.random.default_rng(0), 1e-2
    w, m, v = rng.normal(size=(4, 3)), 0.0, 0.0
    params, transform = {"kernel": jnp.asarray(w, jnp.float32)}, build(optim, 8)
    state = transform.init(params)
    for t in range(8):
        g = rng.normal(size=(4, 3)) * (10 if t == 5 else 1)  # a burst, which is what the rms damps
        updates, state = transform.update({"kernel": jnp.asarray(g, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        b1, b2 = ((b ** (t + 1) - b) / (b ** (t + 1) - 1) for b in (0.9, 0.98))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        rms = np.sqrt((g * g / np.maximum(v, 1e-12)).mean())
        rate = 0.1 * (t / 2 if t < 2 else 1 - (t - 2) / 6) / max(1, rms)
        w = w * (1 - rate / 0.1 * decay) - rate * m / (np.sqrt(v) + 1e-6)
    np.testing.assert_allclose(params["kernel"], w, rtol=2e-5, atol=1e-6)


TREE = {"encoder": {"embeddings": {"word_embeddings": {"embedding": 0}, "norm": {"scale": 0, "bias": 0}},
                    "layers": {"attention": {"query": {"kernel": 0, "bias": 0}, "r_w_bias": 0, "r_r_bias": 0,
                                             "r_s_bias": 0},
                               "norm": {"scale": 0, "bias": 0}}},
        "mlm": {"bias": 0}}


def test_decay_goes_by_name():
    mask = optimizer.decay_mask("weights")(TREE)
    decayed = {jax.tree_util.keystr(path, simple=True, separator="/").split("/")[-1]
               for path, yes in jax.tree_util.tree_leaves_with_path(mask) if yes}
    assert decayed == {"embedding", "kernel", "r_w_bias", "r_r_bias", "r_s_bias"}
    assert all(jax.tree.leaves(optimizer.decay_mask("all")(TREE)))


@pytest.mark.parametrize("name, factor", [("bert_adam", 0.5 * 0.1), ("adamw", 0.5 * 0.1), ("stable_adamw", 0.1)])
def test_decay_alone(name, factor):
    """Without a gradient w -> w (1 - rate * decay); StableAdamW's decay is a part of the weight, not of the rate."""
    optim = Optim(name, **{**PLAIN, "rate": 0.5, "weight_decay": 0.1})
    params = {"layers": {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones((2, 3))}}
    after = moved(optim, params, jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_allclose(after["layers"]["kernel"], 1 - factor, rtol=1e-6)
    np.testing.assert_array_equal(after["layers"]["bias"], 1.0)


def test_clipping_is_by_the_global_norm():
    grads = {"a": jnp.full((2,), 30.0), "b": jnp.full((2,), 40.0)}
    clipped = optax.clip_by_global_norm(1.0).update(grads, optax.EmptyState())[0]
    ours = build(Optim(**{**PLAIN, "clip": 1.0}), 10)
    state = ours.update(grads, ours.init(grads), grads)[1]
    moments = next(part for part in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optimizer.Moments))
                   if isinstance(part, optimizer.Moments))
    jax.tree.map(lambda m, g: np.testing.assert_allclose(m, 0.1 * g, rtol=1e-6), moments.mu, clipped)


W, T = 10, 100
EDGES = {  # at 0, 1, W-1, W, (W+T)/2, T
    "bert": [0, 0.1, 0.9, 0.9, 0.45, 0], "shifted": [0, 0.1, 0.9, 1, 0.5, 0], "xlnet": [0, 0.1, 0.9, 1, 0.5, 0],
    "cosine": [0, 0.1, 0.9, 1, 0.5, 0], "electra": [0, 0.099, 0.819, 0.9, 0.45, 0],
    "wsd": [0, 0.1, 0.9, 1, 1, 0], "constant": [0, 0.1, 0.9, 1, 1, 1],
    "noam": [0, 0.1, 0.9, 1, (10 / 55) ** 0.5, 0.1 ** 0.5],
}


@pytest.mark.parametrize("kind", EDGES)
def test_schedule_at_its_edges(kind):
    rate = schedule(Optim(rate=2.0, schedule=kind, warmup=W, cooldown=20), T)
    found = [float(rate(t)) / 2 for t in (0, 1, W - 1, W, (W + T) // 2, T)]
    np.testing.assert_allclose(found, EDGES[kind], atol=1e-6)
    by_part = schedule(Optim(rate=2.0, schedule=kind, warmup=W / T, cooldown=0.2), T)
    assert [float(by_part(t)) / 2 for t in (0, 1, W - 1, W, (W + T) // 2, T)] == found
    assert float(rate(T + 50)) == float(rate(T))


def test_schedule_ends_and_cooldown():
    end = schedule(Optim(rate=1.0, schedule="xlnet", warmup=W, end=0.1), T)
    np.testing.assert_allclose([end(55), end(T)], [0.55, 0.1], rtol=1e-6)
    wsd = schedule(Optim(rate=1.0, schedule="wsd", warmup=W, cooldown=20, end=0.001), T)
    np.testing.assert_allclose([wsd(80), wsd(85), wsd(T)], [1, 0.001 + 0.999 * 0.5, 0.001], rtol=1e-6)
    assert float(schedule(Optim(rate=1.0, warmup=0), T)(0)) == 1.0


def test_the_first_update_of_a_warm_up_moves_nothing():
    params = {"kernel": jnp.ones((2, 2))}
    after = moved(Optim(rate=1.0, warmup=5), params, params)
    np.testing.assert_array_equal(after["kernel"], params["kernel"])


def test_layer_decay_multiplies_as_electra_does():
    params = toy.objective().init(jax.random.key(0))
    params["encoder"]["embeddings_project"] = {"kernel": jnp.zeros((2, 2))}
    params["encoder"]["final_norm"] = {"scale": jnp.ones(2)}
    exponents = optimizer.layer_exponents(params)
    assert exponents["encoder"]["final_norm"]["scale"] == 0
    assert np.ravel(exponents["encoder"]["layers"]["norm"]["bias"]).tolist() == [4, 3, 2]
    assert exponents["encoder"]["embeddings"]["word_embeddings"]["embedding"] == 5
    assert exponents["encoder"]["embeddings_project"]["kernel"] == 5
    assert exponents["pair"]["kernel"] == 0
    twelve = {"encoder": {"layers": {"scale": jnp.zeros((12, 4))}, "embeddings": {"embedding": jnp.zeros((4, 4))}}}
    found = optimizer.layer_exponents(twelve)["encoder"]
    assert np.ravel(found["layers"]["scale"]).tolist() == list(range(13, 1, -1))
    assert found["embeddings"]["embedding"] == 14
    ones = jax.tree.map(jnp.ones_like, params)
    plain, slow = (moved(Optim(**PLAIN, layer_decay=decay), params, ones) for decay in (1.0, 0.8))
    jax.tree.map(lambda w, a, b, e: np.testing.assert_allclose(b - w, (a - w) * 0.8 ** e, rtol=1e-3, atol=1e-5),
                 params, plain, slow, exponents)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"optim\.rate must not be negative"):
        Optim(rate=-1.0)
    with pytest.raises(ValueError, match=r"optim\.layer_decay"):
        Optim(layer_decay=0.0)
