"""Distillation's losses in float64 by hand, what a student that is its teacher loses, and the teacher that nothing reaches."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shapes import sizes_in

from bertvariants_jax.models import VARIANTS
from bertvariants_jax.names import flatten
from bertvariants_jax.objectives import distill
from bertvariants_jax.training.optimizer import Optim, build
from bertvariants_jax.training.step import init_state, make_update

B, L, P, V, T = 4, 9, 3, 61, 2.0
ALPHAS = {"kl": 5.0, "mlm": 2.0, "cos": 1.0}


def network(variant="distilbert", heads=("mlm",), layers=1, rate=0.0, **fields):
    record = VARIANTS[variant]
    names = (("n_layers", "dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout") if variant == "distilbert" else
             ("num_hidden_layers", "hidden_dropout_prob", "attention_probs_dropout_prob"))
    return record.network(replace(record.dummy, **dict(zip(names, (layers, *[rate] * 4), strict=False)), **fields), heads)


def draw(objective, seed=0, size=0.3):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) * size).astype(np.float32), shapes)


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    lengths = np.array([9, 6, 9, 7])
    batch = {"input_ids": rng.integers(5, V, (B, L)).astype(np.int32),
             "attention_mask": (np.arange(L) < lengths[:, None]).astype(np.int32),
             "masked_positions": np.tile(np.array([1, 3, 5], np.int32), (B, 1)),
             "masked_labels": rng.integers(5, V, (B, P)).astype(np.int32),
             "masked_weights": np.ones((B, P), np.float32), "labels": rng.integers(0, 3, B).astype(np.int32),
             "start_positions": rng.integers(1, 3, B).astype(np.int32), "end_positions": rng.integers(3, 6, B).astype(np.int32)}
    batch["masked_weights"][1, 2] = 0
    return batch


def log_softmax(x, axis=-1):
    x = np.asarray(x, np.float64)
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def kl(teacher, student):
    """T^2 KL(teacher || student) in float64."""
    t, s = log_softmax(np.asarray(teacher, np.float64) / T), log_softmax(np.asarray(student, np.float64) / T)
    return T * T * (np.exp(t) * (t - s)).sum(-1)


STUDENT, TEACHER = network(), network("bert", layers=2)
OBJECTIVE = {masked: distill.masked_lm(STUDENT, TEACHER, restrict_to_mask=masked) for masked in (False, True)}


@pytest.fixture(scope="module")
def params():
    return draw(OBJECTIVE[False])


@pytest.fixture(scope="module")
def seen(params):
    """Hidden states [B, L, D] and scores [B, L, V] of student and teacher."""
    out = []
    for net, own in ((STUDENT, params), (TEACHER, params["teacher"])):
        encoded = net.encode(own, batch_of())
        out.append((np.asarray(encoded.last_hidden_state, np.float64), np.asarray(net.logits(own, "mlm", encoded), np.float64)))
    return out


@pytest.fixture(scope="module")
def gradients(params):
    """What the loss gives, and the gradient of each of its sums, of both forms of the objective."""

    def run(objective, p):
        def sums(q):
            out = objective.loss(q, batch_of(), None)
            return out.sums, out

        return jax.jit(jax.jacrev(sums, has_aux=True))(p)

    return {masked: run(objective, params) for masked, objective in OBJECTIVE.items()}


@pytest.mark.parametrize("masked", [False, True])
def test_parts_and_gradients_by_hand(params, seen, gradients, masked):
    batch = batch_of()
    (hidden, scores), (hidden_t, scores_t) = seen
    tokens, rows = batch["attention_mask"].astype(float), np.arange(B)[:, None]
    at = np.zeros((B, L))
    at[rows, batch["masked_positions"]] = batch["masked_weights"]
    targets = at if masked else tokens
    (slopes, out), weights = gradients[masked], OBJECTIVE[masked].weights(batch)

    assert float(out.sums["kl"]) == pytest.approx((kl(scores_t, scores) * targets).sum(), rel=1e-5)
    right = np.eye(V)[batch["masked_labels"]]
    log, places = log_softmax(scores), (rows, batch["masked_positions"])
    assert float(out.sums["mlm"]) == pytest.approx(-(log[places] * right * batch["masked_weights"][..., None]).sum(), rel=1e-5)
    norm = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    assert float(out.sums["cos"]) == pytest.approx(((1 - (norm(hidden) * norm(hidden_t)).sum(-1)) * tokens).sum(), rel=1e-5)
    assert {name: float(w) for name, w in weights.items()} == {"kl": targets.sum(), "mlm": 11, "cos": tokens.sum()}
    assert OBJECTIVE[masked].scales == ALPHAS

    # of the scores' bias: T (softmax(s / T) - softmax(t / T)), and softmax(s) - one-hot
    soft = T * (np.exp(log_softmax(scores / T)) - np.exp(log_softmax(scores_t / T))) * targets[..., None]
    np.testing.assert_allclose(slopes["kl"]["mlm"]["bias"], soft.sum((0, 1)), atol=2e-5)
    hard = (np.exp(log)[places] - right) * batch["masked_weights"][..., None]
    np.testing.assert_allclose(slopes["mlm"]["mlm"]["bias"], hard.sum((0, 1)), atol=2e-5)
    assert not np.asarray(slopes["cos"]["mlm"]["bias"]).any()

    best, best_t, used = scores[places].argmax(-1), scores_t[places].argmax(-1), batch["masked_weights"]
    for name, hits in (("mlm/accuracy", best == batch["masked_labels"]), ("teacher/accuracy", best_t == batch["masked_labels"]),
                       ("agreement", best == best_t)):
        assert [float(x) for x in out.metrics[name]] == [(hits * used).sum(), 11], name


def test_no_gradient_into_the_teacher_and_one_step_leaves_it(params, gradients):
    for slopes, out in gradients.values():
        for name, tree in slopes.items():
            assert out.sums[name] > 0
            assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(tree["teacher"]))
            assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(tree["encoder"]))
    objective, optimizer = OBJECTIVE[True], optax.adam(1e-2)
    state = init_state(objective, optimizer, jax.random.key(0), B, params)
    assert not any("teacher" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state["opt"]))
    new, metrics = jax.jit(make_update(objective, optimizer))(state, batch_of(), jax.random.key(1))
    for old, now in zip(jax.tree.leaves(params["teacher"]), jax.tree.leaves(new["params"]["teacher"]), strict=True):
        np.testing.assert_array_equal(old, now)
    assert (new["params"]["mlm"]["bias"] != params["mlm"]["bias"]).all()
    total = sum(alpha * gradients[True][1].sums[name] / float(objective.weights(batch_of())[name]) for name, alpha in ALPHAS.items())
    assert float(metrics["loss"][0]) == pytest.approx(float(total), rel=1e-5)


def test_a_student_that_is_its_teacher_loses_nothing():
    """Though the teacher has dropout in its config: it runs without."""
    student, teacher = network("bert", layers=2), network("bert", layers=2, rate=0.5)
    objective = distill.masked_lm(student, teacher)
    own = student.init(jax.random.key(0))
    run = jax.jit(lambda p, b: objective.loss(p, b, jax.random.key(3)))
    once = run({**own, "teacher": own}, batch_of())
    assert abs(float(once.sums["kl"])) < 1e-4 and abs(float(once.sums["cos"])) < 1e-4 and float(once.sums["mlm"]) > 1
    assert float(once.metrics["agreement"][0]) == 11


def test_doubling_the_batch_keeps_the_loss(params):
    """Each part is a mean over its own tokens, not over rows."""
    run = jax.jit(lambda p, b: (OBJECTIVE[False].loss(p, b, None).sums, OBJECTIVE[False].weights(b)))
    batch = batch_of()
    (sums, weights), (twice, doubled) = run(params, batch), run(params, {k: np.concatenate([v, v]) for k, v in batch.items()})
    for name in ALPHAS:
        assert float(twice[name] / doubled[name]) == pytest.approx(float(sums[name] / weights[name]), rel=1e-5)
    padded = {**batch, "input_ids": np.where(batch["attention_mask"] > 0, batch["input_ids"], 7).astype(np.int32)}
    for name, value in run(params, padded)[0].items():
        assert float(value) == pytest.approx(float(sums[name]), rel=1e-6)


def test_only_soft_targets_over_all_tokens_need_the_vocabulary_everywhere():
    batch = batch_of()
    sizes = {masked: sizes_in(jax.grad(lambda p: sum(objective.loss(p, batch, jax.random.key(0)).sums.values())),
                              jax.eval_shape(objective.init, jax.random.key(0)))
             for masked, objective in OBJECTIVE.items()}
    assert B * L * V in sizes[False] and B * L * V not in sizes[True] and B * P * V in sizes[True]
    without = distill.masked_lm(STUDENT, TEACHER, alpha_ce=0)
    assert B * L * V not in sizes_in(jax.grad(lambda p: sum(without.loss(p, batch, None).sums.values())),
                                     jax.eval_shape(without.init, jax.random.key(0)))


def test_parts_of_weight_0_are_left_out(params):
    plain = distill.masked_lm(STUDENT, TEACHER, alpha_ce=0.5, alpha_mlm=0.5, alpha_cos=0)
    assert plain.scales == {"kl": 0.5, "mlm": 0.5} and plain.weights(batch_of()).keys() == plain.scales.keys()
    narrow = network("bert", layers=2, hidden_size=12)
    assert set(distill.masked_lm(STUDENT, narrow, alpha_cos=0).scales) == {"kl", "mlm"}


@pytest.mark.parametrize("options, message", [
    ({"teacher": network("bert", vocab_size=62)}, "the teacher has a vocabulary of 62, the student one of 61"),
    ({"teacher": network("bert", hidden_size=12)}, "12 wide, the student's 24: set alpha_cos to 0"),
    ({"temperature": 0.0}, "a temperature above 0"),
    ({"alpha_mlm": -1.0}, "none is negative"),
    ({"alpha_ce": 0.0, "alpha_mlm": 0.0, "alpha_cos": 0.0}, "one is positive")])
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        distill.masked_lm(STUDENT, **{"teacher": TEACHER, **options})


def test_it_leaves_the_student_alone(params):
    (name, (net, own)), = OBJECTIVE[False].exports(params).items()
    assert name == "model" and net is STUDENT and set(own) == {"encoder", "mlm"}
    out = OBJECTIVE[False].predict(params, batch_of())["masked_predictions"]
    encoded = STUDENT.encode(params, batch_of()).at(batch_of()["masked_positions"])
    np.testing.assert_array_equal(out, jnp.argmax(STUDENT.logits(params, "mlm", encoded), -1))


def test_classes_by_hand():
    student = network(heads=("classify",), id2label=("a", "b", "c"))
    teacher = network("bert", ("classify",), 2, id2label=("a", "b", "c"))
    objective = distill.classification(student, teacher, alpha_ce=0.7, alpha_label=0.3)
    params, batch = draw(objective, 0, 1.0), {**batch_of(), "example_weight": np.array([1, 1, 0, 1], np.float32)}
    out, grads = jax.jit(lambda p: (objective.loss(p, batch, None), jax.grad(
        lambda q: objective.loss(q, batch, None).sums["kl"])(p)))(params)
    scores, target = student.scores(params, "classify", batch), teacher.scores(params["teacher"], "classify", batch)
    used = batch["example_weight"]
    assert float(out.sums["kl"]) == pytest.approx((kl(target, scores) * used).sum(), rel=1e-5)
    hard = -log_softmax(scores)[np.arange(B), batch["labels"]]
    assert float(out.sums["classify"]) == pytest.approx((hard * used).sum(), rel=1e-5)
    assert {k: float(v) for k, v in objective.weights(batch).items()} == {"kl": 3, "classify": 3}
    soft = T * (np.exp(log_softmax(np.asarray(scores) / T)) - np.exp(log_softmax(np.asarray(target) / T)))
    np.testing.assert_allclose(grads["classify"]["out"]["bias"], (soft * used[:, None]).sum(0), atol=1e-5)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["teacher"]))
    assert objective.scales == {"kl": 0.7, "classify": 0.3}
    with pytest.raises(ValueError, match="the teacher knows 2 classes, the task has 3"):
        distill.classification(student, network("bert", ("classify",)))
    one = {"heads": ("classify",), "id2label": ("score",)}
    with pytest.raises(ValueError, match="a regression has no soft targets"):
        distill.classification(network(**one), network("bert", **one))


def test_answers_by_hand():
    """SQuAD's: .5 T^2 (KL of starts + KL of ends) / 2 + .5 CE, padding no candidate even where T is below 1."""
    temperature = 0.5
    student, teacher = network(heads=("span",)), network("bert", ("span",), 2)
    objective = distill.extraction(student, teacher, temperature=temperature)
    params, batch = draw(objective, 1, 1.0), batch_of()
    out, grads = jax.jit(lambda p: (objective.loss(p, batch, None), jax.grad(
        lambda q: sum(objective.loss(q, batch, None).sums.values()))(p)))(params)
    want = {"kl": 0.0, "span": 0.0}
    scores, target = (np.asarray(net.scores(own, "span", batch), np.float64)
                      for net, own in ((student, params), (teacher, params["teacher"])))
    for row, length in enumerate(batch["attention_mask"].sum(1)):
        for side, key in enumerate(("start_positions", "end_positions")):
            s, t = scores[row, :length, side], target[row, :length, side]
            p, q = log_softmax(t / temperature), log_softmax(s / temperature)
            want["kl"] += temperature ** 2 * (np.exp(p) * (p - q)).sum() / 2
            want["span"] -= log_softmax(s)[batch[key][row]] / 2
    for name, value in want.items():
        assert float(out.sums[name]) == pytest.approx(value, rel=1e-5), name
    assert objective.scales == {"kl": 0.5, "span": 0.5}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["teacher"]))
    assert objective.predict(params, batch)["start_logits"].shape == (B, L)


def test_the_positions_stay_the_teachers_and_weigh_nothing(params):
    """Neither gradients, which the network has at every place, nor decay move them; they have no moments."""
    frozen = distill.masked_lm(STUDENT, TEACHER, restrict_to_mask=True, train_positions=False)
    optimizer = build(Optim("adamw", rate=0.1, schedule="constant", warmup=0, weight_decay=0.5), 10)
    state = init_state(frozen, optimizer, jax.random.key(0), B, params)
    moments = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state["opt"])]
    assert not any("position_embeddings" in name for name in moments) and any("word_embeddings" in name for name in moments)
    new, _ = jax.jit(make_update(frozen, optimizer, accumulate=2))(state, batch_of(), jax.random.key(1))
    old, now = (flatten(tree) for tree in (params, new["params"]))
    assert old.keys() == now.keys()
    still = {path for path in old if (np.asarray(old[path]) == np.asarray(now[path])).all()}
    assert {path for path in still if not path.startswith("teacher/")} == {"encoder/embeddings/position_embeddings/embedding"}
