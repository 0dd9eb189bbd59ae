"""Replaced-token detection on the real networks: losses by hand, who gets which gradient, what is sampled and shared."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shapes import sizes_in

from bertvariants_jax.layers.dense import Compute
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.names import flatten
from bertvariants_jax.objectives.objective import row_keys
from bertvariants_jax.objectives.rtd import (
    TARGETS,
    copied,
    detection,
    draw,
    replaced_tokens,
    sampling_keys,
    share,
    towers,
    untied,
    written,
)
from bertvariants_jax.training.step import ROWS, init_state, make_update

B, L, P, V = 8, 11, 4, 61
WORDS = "encoder/embeddings/word_embeddings/embedding"
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@functools.cache
def pair(name, target="rtd", **fields):
    """(discriminator, generator) of the variant's dummy config, without dropout."""
    variant = VARIANTS[name]
    config = dataclasses.replace(variant.dummy, **QUIET, **{"num_hidden_layers": 1, **fields})
    width, depth = {"electra": (0.5, 1.0), "deberta-v3": (1.0, 0.5)}[name]
    return (variant.network(config, TARGETS[target], Compute()),
            variant.network(variant.generator(config, width, depth), ("mlm",), Compute()))


@functools.cache
def scored(network, head):
    """Jitted (params, batch) -> the head's scores of every place."""
    return jax.jit(lambda params, batch: network.scores(params, head, batch))


@functools.cache
def objective_of(name, sharing, target="rtd", **options):
    return replaced_tokens(*pair(name, target), sharing=sharing, target=target, **options)


@functools.cache
def params_of(name, sharing, target="rtd"):
    """Parameters away from their start: random deltas, and a generator that is no uniform one."""
    rng = np.random.default_rng(1)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.asarray((path[-1].key == "scale") + 0.15 * rng.normal(size=x.shape), jnp.float32),
        jax.eval_shape(objective_of(name, sharing, target).init, jax.random.key(0)))
    params["generator"]["mlm"]["bias"] = jnp.asarray(rng.normal(size=V), jnp.float32).at[9].set(7.0)
    return params


def batch_of(seed=0):
    """Rows of unlike length, one of weight 0; places drawn twice, unused slots, one place that kept its token; many a 9,
    which the generator likes to say."""
    rng = np.random.default_rng(seed)
    mask = np.ones((B, L), np.int32)
    mask[1::2, 8:] = 0
    positions = np.sort(rng.integers(1, 8, (B, P)), axis=1)
    positions[0] = (2, 5, 5, 6)
    weights = (np.arange(P) < 1 + (np.arange(B) % P)[:, None]).astype(np.float32)
    weights[0] = 1
    positions = (positions * (weights > 0)).astype(np.int32)
    original = (np.where(rng.random((B, L)) < 0.4, 9, rng.integers(5, V, (B, L))) * mask).astype(np.int32)
    ids = original.copy()
    for row in range(B):
        ids[row, positions[row][weights[row] > 0]] = 4
    ids[0, 2] = original[0, 2]
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": (np.arange(L) > 4).astype(np.int32)[None] * mask,
            "masked_positions": positions, "masked_weights": weights,
            "masked_labels": (np.take_along_axis(original, positions, 1) * (weights > 0)).astype(np.int32),
            "example_weight": (np.arange(B) != 3).astype(np.float32)}, original


BATCH, ORIGINAL = batch_of()
COUNTED = BATCH["attention_mask"] * BATCH["example_weight"][:, None]
SLOTS = BATCH["masked_weights"] * BATCH["example_weight"][:, None]


@functools.cache
def run(name, sharing, target="rtd", **options):
    """Jitted (params, batch, factors) -> (Loss, gradients of the factors' weighted sum of terms), without dropout."""
    objective = objective_of(name, sharing, target, **options)

    def total(params, batch, factors):
        out = objective.loss(params, batch, None)
        return sum(factors[key] * value for key, value in out.sums.items()), out

    return jax.jit(jax.grad(total, has_aux=True))


def gradients(name, sharing, batch=BATCH, target="rtd", **factors):
    grads, out = run(name, sharing, target)(params_of(name, sharing, target), batch, {"mlm": 0.0, "rtd": 0.0} | factors)
    return {key: np.asarray(value) for key, value in flatten(grads).items()}, out


def words_by_hand(params, network):
    """The generator's logits at the P places and the text with its samples, by Gumbel's maximum in numpy."""
    logits = np.asarray(scored(network, "mlm")(params, BATCH), np.float64)
    logits = np.take_along_axis(logits, BATCH["masked_positions"][..., None], 1)             # B P V
    noise = np.asarray(jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(sampling_keys(BATCH, None)), np.float64)
    drawn, fake = (logits + noise).argmax(-1), ORIGINAL.copy()
    for row in range(B):
        for slot in reversed(range(P)):                       # the first draw of a place is the one that stays
            if BATCH["masked_weights"][row, slot]:
                fake[row, BATCH["masked_positions"][row, slot]] = drawn[row, slot]
    return logits, drawn, fake


def softplus(x):
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


@pytest.mark.parametrize("name,sharing", [("electra", "tied"), ("deberta-v3", "disentangled")])
def test_losses_gradients_and_metrics_by_hand(name, sharing):
    """Both sums in float64 from the networks' scores, and two gradients by their formulas: of the generator's output
    bias and of the discriminator's."""
    discriminator, generator = pair(name)
    ways = share(sharing, generator, discriminator)
    first, second = towers(params_of(name, sharing), ways)
    logits, drawn, fake = words_by_hand(first, generator)
    hits = (drawn == BATCH["masked_labels"]) & (SLOTS > 0)
    assert 2 < hits.sum() < SLOTS.sum() - 2
    scores = np.asarray(scored(discriminator, "rtd")(second, {**BATCH, "input_ids": fake.astype(np.int32)}), np.float64)
    replaced = fake != ORIGINAL
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    picked = np.take_along_axis(probabilities, BATCH["masked_labels"][..., None], -1)[..., 0]

    grads, out = gradients(name, sharing, mlm=1.0, rtd=50.0)
    assert float(out.sums["mlm"]) == pytest.approx(-(np.log(picked) * SLOTS).sum(), rel=1e-5)
    losses = np.where(replaced, softplus(-scores), softplus(scores))
    assert float(out.sums["rtd"]) == pytest.approx((losses * COUNTED).sum(), rel=1e-5)
    objective = objective_of(name, sharing)
    assert {k: float(v) for k, v in objective.weights(BATCH).items()} == {"mlm": SLOTS.sum(), "rtd": COUNTED.sum()}
    assert objective.scales == {"mlm": 1.0, "rtd": 50.0}

    bias = probabilities * SLOTS[..., None]
    np.subtract.at(bias, (*np.indices((B, P)), BATCH["masked_labels"]), SLOTS)
    np.testing.assert_allclose(grads["generator/mlm/bias"], bias.sum((0, 1)), atol=1e-4)
    slope = (1 / (1 + np.exp(-scores)) - replaced) * COUNTED
    np.testing.assert_allclose(grads["discriminator/rtd/out/bias"], [50 * slope.sum()], rtol=1e-4)

    found = {key: float(a) / float(b) for key, (a, b) in out.metrics.items() if b}
    said = scores > 0
    rate = lambda good, over: (good * over).sum() / over.sum()
    assert found["mlm/accuracy"] == pytest.approx(rate(logits.argmax(-1) == BATCH["masked_labels"], SLOTS))
    assert found["mlm/sampled"] == pytest.approx(rate(drawn == BATCH["masked_labels"], SLOTS))
    assert found["rtd/accuracy"] == pytest.approx(rate(said == replaced, COUNTED))
    assert found["rtd/replaced"] == pytest.approx(rate(replaced, COUNTED))
    assert 0.1 < rate(said, COUNTED) < 0.9
    assert found["rtd/precision"] == pytest.approx(rate(replaced, said * COUNTED))
    assert found["rtd/recall"] == pytest.approx(rate(said, replaced * COUNTED))
    pairs = [(scores[r, i] > scores[r, j]) for r in range(B) for i in range(L) for j in range(L)
             if COUNTED[r, i] and COUNTED[r, j] and replaced[r, i] and not replaced[r, j]]
    assert found["rtd/auc"] == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("name,sharing", [("electra", "none"), ("electra", "tied"), ("deberta-v3", "disentangled")])
def test_who_gets_a_gradient(name, sharing):
    """Nothing flows back through the samples; from detection only tied tables learn, GDES's get exactly nothing."""
    detected, _ = gradients(name, sharing, rtd=1.0)
    spoken, _ = gradients(name, sharing, mlm=1.0)
    reached = {key for key, value in detected.items() if key.startswith("generator/") and np.any(value != 0.0)}
    tables = {key for key in detected if key.startswith("generator/encoder/embeddings/")}
    if sharing == "tied":
        assert reached == tables and f"generator/{WORDS}" in reached and len(tables) == 5
    else:
        assert not reached
        assert np.any(detected[f"discriminator/{WORDS}"])
    assert not any(np.any(value != 0.0) for key, value in spoken.items() if key.startswith("discriminator/"))
    assert np.any(spoken[f"generator/{WORDS}"])


def test_tied_tables_get_both_gradients():
    """The gradient of the one table is the sum of those of two separate equal ones."""
    both, _ = gradients("electra", "tied", mlm=1.0, rtd=50.0)
    ways = share("tied", *pair("electra")[::-1])
    apart = untied(*towers(params_of("electra", "tied"), ways), share("none", *pair("electra")[::-1]))
    each, _ = run("electra", "none")(apart, BATCH, {"mlm": 1.0, "rtd": 50.0})
    each = flatten(each)
    for part in ("word_embeddings/embedding", "position_embeddings/embedding", "norm/scale"):
        path = f"encoder/embeddings/{part}"
        np.testing.assert_allclose(both[f"generator/{path}"], each[f"generator/{path}"] + each[f"discriminator/{path}"],
                                   rtol=1e-4, atol=1e-4)


def test_labels_compare_with_the_original():
    """A generator that is always right leaves nothing to detect; one that always says word 9 writes it at every chosen
    place, at those that kept their token too, and only there."""
    objective, params = objective_of("electra", "none"), params_of("electra", "none")
    same = {**BATCH, "masked_labels": np.full((B, P), 7, np.int32), "input_ids": BATCH["input_ids"].copy()}
    same["input_ids"][0, 2] = 7                               # the place that kept its token
    say = lambda word: {**params, "generator": {**params["generator"], "mlm": {
        **params["generator"]["mlm"], "bias": jnp.zeros(V).at[word].set(1e4)}}}
    predict = jax.jit(objective.predict)
    assert not np.any(predict(say(7), same)["replaced"])
    assert float(run("electra", "none")(say(7), same, {"mlm": 0.0, "rtd": 0.0})[1].metrics["rtd/replaced"][0]) == 0
    wrong = np.asarray(predict(say(9), same)["replaced"])
    chosen = np.zeros((B, L), bool)
    for row in range(B):
        chosen[row, BATCH["masked_positions"][row][BATCH["masked_weights"][row] > 0]] = True
    np.testing.assert_array_equal(wrong, chosen)
    assert wrong[0, 2] and not wrong[:, 0].any()


def test_one_sample_of_a_place_drawn_twice():
    ids = np.arange(12, dtype=np.int32).reshape(2, 6)
    out = written(jnp.asarray(ids), jnp.array([[1, 3, 3, 3], [2, 0, 0, 0]]), jnp.array([[1, 1, 1, 1], [1, 0, 0, 0]]) > 0,
                  jnp.array([[50, 51, 52, 53], [54, 55, 56, 57]]))
    np.testing.assert_array_equal(out, [[0, 50, 2, 51, 4, 5], [6, 7, 54, 9, 10, 11]])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_samples_follow_the_softmax(temperature):
    """4000 draws of one place: counts within five sigma of softmax(logits / temperature)."""
    discriminator, generator = pair("electra")
    objective = replaced_tokens(discriminator, generator, sharing="none", temperature=temperature, decoupled=True)
    rows = 4000
    batch = {"input_ids": np.tile(np.int32([2, 4, 3]), (rows, 1)), "attention_mask": np.ones((rows, 3), np.int32),
             "masked_positions": np.ones((rows, 1), np.int32), "masked_labels": np.full((rows, 1), 7, np.int32),
             "masked_weights": np.ones((rows, 1), np.float32)}
    params = params_of("electra", "none")
    out = jax.jit(lambda p, rng: objective.phases[0].loss(p, batch, rng, None))(params, jax.random.key(3))
    drawn = np.asarray(out.handed["input_ids"])
    assert (drawn[:, [0, 2]] == [2, 3]).all() and (np.asarray(out.handed["original"]) == [2, 7, 3]).all()
    first = {key: value[:1] for key, value in batch.items()}
    logits = np.asarray(scored(generator, "mlm")(params["generator"], first))[0, 1]
    expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum() * rows
    counts = np.bincount(drawn[:, 1], minlength=V)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 3).all()
    assert counts.max() > 2 * np.median(counts)               # no uniform generator


def test_places_that_count():
    """All real tokens; for ELECTRA 15% the different hidden places; for Replace MLM the slots."""
    hidden = sum(len(set(BATCH["masked_positions"][row][BATCH["masked_weights"][row] > 0].tolist()))
                 for row in range(B) if BATCH["example_weight"][row])
    expected = {"rtd": COUNTED.sum(), "rtd_masked": hidden, "replace_mlm": SLOTS.sum(), "all_tokens_mlm": COUNTED.sum()}
    for target, count in expected.items():
        found = objective_of("electra", "none", target).weights(BATCH)
        assert float(found[target.removesuffix("_masked")]) == count, target


@pytest.mark.parametrize("target", ["rtd_masked", "replace_mlm", "all_tokens_mlm"])
def test_ablations_by_hand(target):
    """ELECTRA 15%, Replace MLM and All-Tokens MLM, each from its network's scores in float64."""
    discriminator, generator = pair("electra", target)
    params = params_of("electra", "none", target)
    _, _, fake = words_by_hand(params["generator"], generator)
    given = {**BATCH, "input_ids": fake.astype(np.int32)}
    score = lambda head: np.asarray(scored(discriminator, head)(params["discriminator"], given), np.float64)
    log = lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))
    replaced = fake != ORIGINAL
    if target == "rtd_masked":
        hidden = np.zeros((B, L))
        for row in range(B):
            hidden[row, BATCH["masked_positions"][row][BATCH["masked_weights"][row] > 0]] = 1
        scores = score("rtd")
        want = (np.where(replaced, softplus(-scores), softplus(scores)) * hidden * COUNTED).sum()
    elif target == "replace_mlm":
        places = np.take_along_axis(log(score("mlm")), BATCH["masked_positions"][..., None], 1)
        want = -(np.take_along_axis(places, BATCH["masked_labels"][..., None], -1)[..., 0] * SLOTS).sum()
    else:
        copy = 1 / (1 + np.exp(score("rtd")))
        p = (1 - copy)[..., None] * np.exp(log(score("mlm")))
        p[(*np.indices((B, L)), fake)] += copy
        np.testing.assert_allclose(p.sum(-1), 1)
        want = -(np.log(np.take_along_axis(p, ORIGINAL[..., None], -1)[..., 0]) * COUNTED).sum()
        right = ((p.argmax(-1) == ORIGINAL) * COUNTED).sum()
    out = jax.jit(lambda p: objective_of("electra", "none", target).loss(p, BATCH, None))(params)
    assert float(out.sums[target.removesuffix("_masked")]) == pytest.approx(want, rel=1e-5)
    if target == "all_tokens_mlm":
        assert float(out.metrics["all_tokens_mlm/accuracy"][0]) == right


def test_a_rows_words_are_its_own():
    """Rows of one text say different words and their own row's whatever stands beside them, with the temperature's odds;
    in evaluation a text says the same words in whatever batch, place and padding it stands."""
    same = {key: np.repeat(value[:1], 400, axis=0) for key, value in BATCH.items()}
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.1, 0.2, 0.7])), (400, P, 3))
    drawn = np.asarray(draw(sampling_keys(same, jax.random.key(3)), logits))
    assert np.bincount(drawn.ravel()) / drawn.size == pytest.approx([0.1, 0.2, 0.7], abs=0.04)
    assert len(np.unique(drawn, axis=0)) > 20
    other = np.asarray(draw(sampling_keys(same, jax.random.key(4)), logits))
    assert 0.3 < (drawn == other).mean() < 0.7                                   # 0.54 by chance
    few = {key: value[7:9] for key, value in (same | {"row_keys": sampling_keys(same, jax.random.key(3))}).items()}
    np.testing.assert_array_equal(draw(sampling_keys(few, jax.random.key(9)), logits[:2]), drawn[7:9])
    wide = {key: np.pad(value[::-1], ((0, 0), (0, 5))) if value.ndim == 2 else value[::-1] for key, value in BATCH.items()}
    keys = [jax.random.key_data(sampling_keys(batch, None)) for batch in (BATCH, wide)]
    np.testing.assert_array_equal(keys[0], keys[1][::-1])
    assert len(np.unique(keys[0], axis=0)) == B


def test_copying_is_a_distribution_with_finite_gradients():
    scores, logits = jnp.array([[-40.0, 40.0, 0.3]]), jnp.array(np.random.default_rng(0).normal(size=(1, 3, 5)))
    given, original = jnp.array([[1, 2, 3]]), jnp.array([[1, 2, 4]])
    losses, right = copied(logits, scores, given, original)
    assert losses[0, 0] == pytest.approx(0, abs=1e-6) and bool(right[0, 0])
    slope = jax.grad(lambda s, x: copied(x, s, given, original)[0].sum(), argnums=(0, 1))(scores, logits)
    assert all(np.isfinite(x).all() for x in slope)


def test_area_under_the_curve_within_rows():
    scores = jnp.array([[3.0, 1.0, 2.0, 9.0], [1.0, 1.0, 0.0, 0.0]])
    replaced = jnp.array([[1, 0, 0, 0], [1, 0, 0, 0]]) > 0
    counted = jnp.array([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    found = detection(scores, replaced, counted, pairs=True)["rtd/auc"]
    assert [float(x) for x in found] == [2.5, 3.0]            # two pairs in order, and one tie


@pytest.mark.parametrize("target", list(TARGETS))
def test_no_tensor_of_all_positions_by_the_vocabulary(target):
    """But where the paper asks for it: All-Tokens MLM."""
    objective = objective_of("electra", "tied", target)
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    found = sizes_in(jax.grad(lambda p: sum(objective.loss(p, BATCH, jax.random.key(0)).sums.values())), shapes)
    assert B * P * V in found and (B * L * V in found) == (target == "all_tokens_mlm")


@pytest.mark.parametrize("name,sharing", [("electra", "tied"), ("deberta-v3", "disentangled")])
def test_both_begin_with_the_same_tables(name, sharing):
    """Deltas are exactly 0, and what is tied stands in the generator alone."""
    ways = share(sharing, *pair(name)[::-1])
    params = jax.jit(objective_of(name, sharing).init)(jax.random.key(0))
    first, second = towers(params, ways)
    assert np.array_equal(flatten(first)[WORDS], flatten(second)[WORDS]) and np.std(flatten(first)[WORDS]) > 0.01
    own = {key for key in flatten(params["discriminator"]) if key.startswith("encoder/embeddings/")}
    assert not own if sharing == "tied" else not np.any(flatten(params["discriminator"])[WORDS])


@pytest.mark.parametrize("name,sharing,count", [("electra", "tied", 4), ("electra", "none", 0), ("electra", "tables", 2),
                                                ("deberta-v3", "disentangled", 1), ("deberta-v3", "tables", 1)])
def test_shared_trees(name, sharing, count):
    """Each tower has the whole tree of its network, `untied` undoes `towers`, and the generator's table feels the
    discriminator only where it is plainly shared."""
    discriminator, generator = pair(name)
    ways, params = share(sharing, generator, discriminator), params_of(name, sharing)
    assert len(ways.parts) == count
    first, second = towers(params, ways)
    assert jax.tree.map(np.shape, first) == jax.tree.map(np.shape, generator.shapes())
    assert jax.tree.map(np.shape, second) == jax.tree.map(np.shape, discriminator.shapes())
    again, whole = flatten(untied(first, second, ways)), flatten(params)
    assert set(again) == set(whole)
    for path, value in whole.items():
        np.testing.assert_allclose(again[path], value, atol=1e-6, err_msg=path)
    slope = jax.grad(lambda p: flatten(towers(p, ways)[1])[WORDS].sum())(params)
    assert (flatten(slope)[f"generator/{WORDS}"] == float(sharing in ("tied", "tables"))).all()


def test_disentangled_positions_too():
    """Where positions are added to the input their tables are a sum as well."""
    discriminator, generator = pair("deberta-v3", position_biased_input=True, enhanced_mask_decoder=False)
    assert share("disentangled", generator, discriminator).parts == ("word_embeddings", "position_embeddings")


def test_phases_are_the_loss_in_two():
    """At equal parameters the phases' sums are the loss's; the second reads the generator's newest table, and gives
    it no gradient."""
    objective = objective_of("deberta-v3", "disentangled", decoupled=True)
    params = params_of("deberta-v3", "disentangled")
    first, second = objective.phases
    assert (first.terms, first.trains, second.terms, second.trains) == (
        ("mlm",), ("generator",), ("rtd",), ("discriminator",))
    one = jax.jit(lambda p: first.loss(p, BATCH, None, None))(params)
    detect = jax.jit(jax.value_and_grad(lambda p, handed: second.loss(p, BATCH, None, handed).sums["rtd"]))
    value, slope = detect(params, one.handed)
    whole = gradients("deberta-v3", "disentangled", mlm=1.0)[1]
    assert float(one.sums["mlm"]) == pytest.approx(float(whole.sums["mlm"]), rel=1e-6)
    assert float(value) == pytest.approx(float(whole.sums["rtd"]), rel=1e-6)
    assert not any(np.any(x != 0.0) for x in jax.tree.leaves(slope["generator"]))
    moved = jax.tree.map(lambda x: x, params)
    moved["generator"]["encoder"]["embeddings"]["word_embeddings"]["embedding"] += 0.1 * np.random.default_rng(2).normal(
        size=(V, 24)).astype(np.float32)
    assert abs(float(detect(moved, one.handed)[0]) - float(value)) > 1e-4
    assert objective_of("deberta-v3", "disentangled").phases == ()


def test_a_decoupled_step_is_two_updates():
    """The training step against both updates by hand with plain gradient descent: the generator's by masked LM, then
    the discriminator's on the words drawn before, beside the generator's new table. (Adam's would hide a wrong scale.)"""
    objective, params = objective_of("deberta-v3", "disentangled", decoupled=True), params_of("deberta-v3", "disentangled")
    rate, rng, first, second = 0.5, jax.random.key(5), *objective.phases
    optimizer = optax.sgd(rate)
    state = init_state(objective, optimizer, rng, params=params)
    assert len(state["opt"]) == 2
    new, metrics = jax.jit(make_update(objective, optimizer))(state, BATCH, rng)
    weights = objective.weights(BATCH)

    @jax.jit
    def by_hand(params):
        batch = {**BATCH, "row_keys": row_keys(jax.random.fold_in(jax.random.fold_in(rng, 0), ROWS), jnp.arange(B))}
        made = lambda generator: first.loss({**params, "generator": generator}, batch, jax.random.fold_in(rng, 0), None)
        slope = jax.grad(lambda generator: made(generator).sums["mlm"])(params["generator"])
        generator = jax.tree.map(lambda x, g: x - rate * g / weights["mlm"], params["generator"], slope)
        handed, after = made(params["generator"]).handed, {**params, "generator": generator}
        detect = lambda tree: second.loss({**after, "discriminator": tree}, BATCH, rng, handed).sums["rtd"]
        slope = jax.grad(detect)(params["discriminator"])
        return {"generator": generator, "discriminator": jax.tree.map(
            lambda x, g: x - rate * 50 * g / weights["rtd"], params["discriminator"], slope)}

    for path, value in flatten(by_hand(params)).items():
        np.testing.assert_allclose(flatten(new["params"])[path], value, atol=2e-4, rtol=1e-4, err_msg=path)
    assert {"mlm/loss", "rtd/loss", "rtd/accuracy", "mlm/accuracy"} <= set(metrics)


def test_options_that_do_not_fit():
    electra, deberta = pair("electra"), pair("deberta-v3")
    wide = VARIANTS["deberta-v3"].network(dataclasses.replace(deberta[1].config, hidden_size=48), ("mlm",))
    for networks, options, message in (
            (electra, {"sharing": "some"}, "unknown sharing 'some'"),
            (electra, {"target": "nsp"}, "unknown target 'nsp'"),
            (electra, {"temperature": 0.0}, "temperature must be positive"),
            (electra, {"decoupled": True}, "trains one embedding by both losses"),
            (electra, {"frozen": True}, "trains one embedding by both losses"),
            (electra, {"frozen": True, "decoupled": True, "sharing": "none"}, "no updates to decouple"),
            ((deberta[0], wide), {"sharing": "disentangled"}, r"word_embeddings is \[61, 48\] and wider than"),
            ((electra[0], deberta[1]), {"sharing": "tied"}, r"\[61, 24\] and wider than the discriminator's, \[61, 16\]")):
        with pytest.raises(ValueError, match=message):
            replaced_tokens(*networks, **options)
    other = VARIANTS["electra"].network(dataclasses.replace(electra[1].config, vocab_size=70), ("mlm",))
    with pytest.raises(ValueError, match="vocabulary of 70, the discriminator of 61"):
        replaced_tokens(electra[0], other, sharing="none")
