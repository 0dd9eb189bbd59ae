"""What the recipes come to, beside numbers typed from papers, scripts and the originals' code: rates by step, updates of the
optimizer, batches, lengths, dropout, masks and losses. Nothing here is read off the package's own tables.

Sources stand beside the rows: [P] is a paper, a path is a file of the authors' repository. Schedules by their shape at step
t of T with W steps of warm-up: "bert" t/W, then 1 - t/T (google-research/bert optimization.py; PaddlePaddle/ERNIE and
microsoft/DeBERTa have the same); "shifted" t/W, then 1 - (t-W)/(T-W) (fairseq polynomial_decay, transformers
get_linear_schedule_with_warmup); "electra" the product (1 - t/T) min(1, t/W).
"""

import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertvariants_jax.cli import load_recipe
from bertvariants_jax.training.optimizer import build, schedule

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


# ---- schedules and update rules, as the originals have them ----------------------------------------------------------------

def rate_at(kind: str, t: float, warmup: float, total: float, end: float = 0.0) -> float:
    """The rate at step t as a part of its peak."""
    if kind == "electra":
        return (1 - t / total) * min(1.0, t / warmup)
    if t < warmup:
        return t / warmup
    return {"bert": 1 - t / total, "shifted": 1 - (t - warmup) / max(total - warmup, 1), "constant": 1.0,
            "linear to end": end + (1 - end) * (1 - (t - warmup) / (total - warmup)),
            "inverse square root": math.sqrt(warmup / max(t, 1))}[kind]


class Rule(NamedTuple):
    """An optimizer: its update rule, and the numbers in it. decayed: "weights" is all but biases and norms."""

    rule: str
    b1: float
    b2: float
    eps: float
    decay: float
    decayed: str
    clip: float


BERT_ADAM = Rule("no bias correction", 0.9, 0.999, 1e-6, 0.01, "weights", 1.0)     # bert/optimization.py
# Adam corrects its bias where BERT's, ALBERT's, ELECTRA's and DeBERTa's fine-tuning does not (arXiv:2006.04884)
ADAM = BERT_ADAM._replace(rule="adam")


def gradients() -> list[dict]:
    """Three steps' gradients of a tree with stacked layers: some large (clipping shows), some tiny (eps shows)."""
    rng = np.random.default_rng(0)
    shapes = {"encoder/embeddings/word_embeddings/embedding": (4, 3), "encoder/layers/attention/query/kernel": (2, 3, 3),
              "encoder/layers/attention/query/bias": (2, 3), "encoder/layers/attention/r_w_bias": (2, 3),
              "encoder/layers/norm/scale": (2, 3), "head/kernel": (3, 2), "head/bias": (2,)}
    steps = []
    for _ in range(3):
        step = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        step["encoder/layers/attention/query/kernel"][:, 0] *= 4e-6
        steps.append(step)
    return steps


def nested(flat: dict) -> dict:
    tree: dict = {}
    for path, leaf in flat.items():
        node = tree
        for part in path.split("/")[:-1]:
            node = node.setdefault(part, {})
        node[path.split("/")[-1]] = jnp.asarray(leaf, jnp.float32)
    return tree


def updates_of(optim, steps: int) -> list[dict]:
    """What the optimizer adds to the parameters in the first three steps."""
    rng = np.random.default_rng(1)
    params = nested({name: rng.normal(size=leaf.shape) for name, leaf in gradients()[0].items()})
    transform = build(optim, steps)
    state, out = transform.init(params), []
    for grads in gradients():
        updates, state = transform.update(nested(grads), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        out.append({jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, np.float64)
                    for path, leaf in jax.tree_util.tree_leaves_with_path(updates)})
    return out


def expected_updates(rule: Rule, rates: list[float], peak: float, of_updates=None, of_gradients=None) -> list[dict]:
    """The same by hand, in float64. of_updates, of_gradients: name -> what multiplies them, a number or one a layer."""
    rng = np.random.default_rng(1)
    params = {name: rng.normal(size=leaf.shape) for name, leaf in gradients()[0].items()}
    m, v = ({name: np.zeros_like(leaf) for name, leaf in params.items()} for _ in range(2))
    out = []
    for t, (grads, rate) in enumerate(zip(gradients(), rates, strict=True), start=1):
        norm = math.sqrt(sum((g * g).sum() for g in grads.values()))
        updates = {}
        for name, g in grads.items():
            g = g * min(1.0, rule.clip / norm) if rule.clip else g
            g = g * by_layer(of_gradients, name, g.ndim)
            b1, b2 = rule.b1, rule.b2
            if rule.rule == "stable":
                b1, b2 = ((b ** t - b) / (b ** t - 1) for b in (b1, b2))
            m[name], v[name] = b1 * m[name] + (1 - b1) * g, b2 * v[name] + (1 - b2) * g * g
            first, second = m[name], v[name]
            if rule.rule in ("adam", "decoupled"):
                first, second = first / (1 - b1 ** t), second / (1 - b2 ** t)
            u = first / (np.sqrt(second) + rule.eps)
            decays = rule.decayed == "all" or not name.endswith(("/bias", "/scale"))
            if decays:
                u = u + rule.decay / (peak if rule.rule in ("stable", "decoupled") else 1) * params[name]
            tensors = slice(1, None) if "layers" in name else slice(None)
            axes = tuple(range(g.ndim))[tensors]
            if rule.rule == "lamb" and decays:
                u = u * np.sqrt((params[name] ** 2).sum(axes, keepdims=True) / (u ** 2).sum(axes, keepdims=True))
            if rule.rule == "stable":
                u = u / np.maximum(1, np.sqrt((g * g / np.maximum(second, rule.eps ** 2)).mean(axes, keepdims=True)))
            updates[name] = -rate * u * by_layer(of_updates, name, g.ndim)
            params[name] = params[name] + updates[name]
        out.append(updates)
    return out


def by_layer(multiplier, name: str, rank: int):
    """multiplier(name), a number or one a layer, to be broadcast over a leaf; None is 1."""
    factor = np.asarray(1.0 if multiplier is None else multiplier(name), float)
    return factor.reshape(factor.shape + (1,) * (rank - factor.ndim))


def recipe_of(name: str, **knobs):
    return load_recipe(EXPERIMENTS / f"{name}.py").recipe(**knobs)


def hold_rates(optim, steps: int, peak: float, part, times, where: str = "") -> None:
    """The schedule at these steps is the peak times part(step)."""
    rates = schedule(optim, steps)
    for t in times:
        np.testing.assert_allclose(float(rates(t)), peak * part(t), rtol=1e-4, atol=1e-6 * peak, err_msg=f"{where}, step {t}")


def hold_updates(optim, steps: int, rule: Rule, rates: list[float], peak: float, where: str = "", of_updates=None,
                 of_gradients=None) -> None:
    """The first updates are those of the rule at these rates."""
    wanted = expected_updates(rule, rates, peak, of_updates, of_gradients)
    for number, (found, expected) in enumerate(zip(updates_of(optim, steps), wanted, strict=True)):
        for name, update in expected.items():
            np.testing.assert_allclose(found[name], update, rtol=1e-3, atol=2e-6 * max(rates),
                                       err_msg=f"{where}, {name}, update {number}")


# ---- fine-tuning -----------------------------------------------------------------------------------------------------------

# rows of the training sets (Wang et al. 2019, arXiv:1804.07461; Rajpurkar et al. 2016 and 2018; Lai et al. 2017)
ROWS = {"cola": 8551, "sst2": 67349, "mrpc": 3668, "stsb": 5749, "qqp": 363846, "mnli": 392702, "qnli": 104743, "rte": 2490,
        "wnli": 635, "squad": 87599, "squad2": 130319, "race": 87866, "swag": 73546, "ner": 14041, "record": 100730,
        "copa": 400}
RECIPES = {"squad": "squad", "squad2": "squad", "race": "race", "swag": "race", "ner": "ner", "record": "superglue",
           "copa": "superglue"}


class Way(NamedTuple):
    """A paper's way of fine-tuning: the schedule's shape, the update rule, and what its rows say.

    rows: size -> task -> (rate, batch, epochs; "steps N" is a string, warm-up in steps or as a part, tokens of a row,
    dropout before the classifier; None is what the pre-trained model has).
    """

    kind: str
    rule: Rule
    rows: dict
    field: str = "classifier_dropout"


def each(rows: dict, *, rate=None, batch=32, epochs=3, warmup=0.1, length=128, dropout=None) -> dict:
    """Rows from only those columns in which tasks differ: task -> {column: value}."""
    base = {"rate": rate, "batch": batch, "epochs": epochs, "warmup": warmup, "length": length, "dropout": dropout}
    return {task: tuple({**base, **row}.values()) for task, row in rows.items()}


GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")

# microsoft/DeBERTa experiments/glue/*.sh, superglue/*.sh, ner/ner.sh: rate, batch, epochs, warm-up, length, dropout
DEBERTA = {
    "deberta-base": {
        "mnli": (3e-5, 64, 3, 1000, 256, 0.1), "cola": (2e-5, 32, 6, 100, 64, 0.15), "sst2": (2e-5, 32, 6, 500, 128, 0.15),
        "qnli": (2e-5, 32, 4, 500, 512, 0.15), "qqp": (2e-5, 64, 8, 500, 320, 0.15), "rte": (2e-5, 32, 6, 100, 320, 0.2),
        "mrpc": (2e-5, 32, 6, 50, 128, 0.15), "stsb": (2e-5, 32, 6, 100, 128, 0.15),
        "ner": (2e-5, 16, 15, 0.1, 512, 0.0), "record": (2e-5, 64, 3, 1000, 512, 0.3), "copa": (1e-5, 32, 3, 50, 136, 0.1)},
    "deberta-large": {
        "mnli": (1e-5, 64, 3, 1000, 256, 0.2), "cola": (7e-6, 32, 6, 100, 64, 0.15), "sst2": (1e-5, 32, 6, 500, 128, 0.15),
        "qnli": (1e-5, 32, 4, 500, 512, 0.15), "qqp": (1e-5, 64, 8, 500, 320, 0.15), "rte": (1e-5, 32, 6, 50, 320, 0.2),
        "mrpc": (1e-5, 32, 6, 50, 128, 0.15), "stsb": (7e-6, 32, 4, 100, 128, 0.15),
        "ner": (1e-5, 16, 15, 0.1, 512, 0.0), "record": (1e-5, 64, 3, 1000, 512, 0.3), "copa": (5e-6, 16, 4, 30, 136, 0.1)},
    "deberta-xlarge": {
        "mnli": (5e-6, 64, 3, 1000, 256, 0.3), "cola": (5e-6, 32, 8, 100, 64, 0.2), "sst2": (3e-6, 32, 6, 500, 128, 0.2),
        "qnli": (7e-6, 32, 4, 500, 512, 0.2), "qqp": (7e-6, 64, 8, 500, 320, 0.2), "rte": (5e-6, 48, 6, 50, 320, 0.2),
        "mrpc": (7e-6, 32, 8, 50, 128, 0.3), "stsb": (7e-6, 32, 4, 100, 128, 0.2),
        "ner": (7e-6, 16, 15, 0.1, 512, 0.0), "record": (7e-6, 64, 3, 1000, 512, 0.3), "copa": (3e-6, 24, 4, 30, 136, 0.1)},
    "deberta-v2-xlarge": {
        "mnli": (4e-6, 64, 3, 1000, 256, 0.25), "cola": (3e-6, 32, 8, 100, 64, 0.2), "sst2": (4e-6, 32, 4, 500, 128, 0.2),
        "qnli": (4e-6, 64, 4, 500, 512, 0.2), "qqp": (4e-6, 64, 10, 1000, 320, 0.2), "rte": (4e-6, 48, 6, 50, 320, 0.2),
        "mrpc": (3.5e-6, 32, 6, 50, 128, 0.2), "stsb": (4e-6, 32, 4, 100, 128, 0.2),
        "ner": (4e-6, 16, 15, 0.1, 512, 0.0), "record": (5e-6, 64, 3, 1000, 512, 0.15), "copa": (2e-6, 24, 4, 30, 136, 0.1)},
    "deberta-v2-xxlarge": {
        "mnli": (3e-6, 64, 3, 1000, 256, 0.3), "cola": (2.5e-6, 32, 10, 100, 64, 0.2), "sst2": (3e-6, 32, 4, 500, 128, 0.2),
        "qnli": (3e-6, 64, 4, 500, 512, 0.2), "qqp": (3e-6, 64, 10, 1000, 320, 0.2), "rte": (3e-6, 48, 6, 50, 320, 0.2),
        "mrpc": (2e-6, 32, 6, 50, 128, 0.2), "stsb": (3e-6, 32, 4, 100, 128, 0.2),
        "ner": (2.5e-6, 16, 15, 0.1, 512, 0.0), "record": (3e-6, 64, 3, 1000, 512, 0.15),
        "copa": (1e-6, 24, 8, 30, 136, 0.1)},
    "deberta-v3-xsmall": {"mnli": (4.5e-5, 64, 3, 1000, 256, 0.1)},
    "deberta-v3-small": {"mnli": (4.5e-5, 64, 3, 1500, 256, 0.2)},
    "deberta-v3-base": {"mnli": (1.5e-5, 64, 3, 1000, 256, 0.1)},
    "deberta-v3-large": {
        "mnli": (7e-6, 64, 2, 500, 256, 0.3), "cola": (5.5e-6, 32, 10, 50, 64, 0.1), "sst2": (6e-6, 32, 8, 500, 128, 0.1),
        "qnli": (7e-6, 64, 6, 200, 512, 0.2), "qqp": (1e-5, 64, 6, 1000, 320, 0.2), "rte": (1e-5, 32, 6, 50, 320, 0.3),
        "mrpc": (6e-6, 32, 6, 50, 128, 0.2), "stsb": (7e-6, 32, 4, 50, 128, 0.1),
        "ner": (9e-6, 16, 10, 10, 512, 0.0), "record": (7e-6, 64, 3, 500, 512, 0.1)}}

ERNIE_BASE = {  # PaddlePaddle/ERNIE script/en_glue/ernie_base/*/task.sh
    "cola": (3e-5, 64, 3, 0.1, 128, None), "mnli": (3e-5, 64, 3, 0.1, 128, None), "mrpc": (3e-5, 16, 4, 0.1, 128, None),
    "qnli": (2e-5, 32, 4, 0.1, 128, None), "qqp": (3e-5, 32, 3, 0.1, 128, None), "rte": (2e-5, 4, 4, 0.1, 128, None),
    "sst2": (2e-5, 32, 4, 0.1, 128, None), "stsb": (5e-5, 16, 3, 0.1, 128, None), "wnli": (2e-5, 8, 4, 0.1, 512, None)}
ERNIE_LARGE = {  # the same, ernie_large
    "cola": (3e-5, 32, 5, 0.1, 128, None), "mnli": (3e-5, 32, 3, 0.1, 128, None), "mrpc": (3e-5, 8, 4, 0.1, 128, None),
    "qnli": (2e-5, 32, 4, 0.1, 128, None), "qqp": (5e-5, 32, 3, 0.1, 128, None), "rte": (3e-5, 16, 5, 0.1, 128, None),
    "sst2": (2e-5, 8, 4, 0.1, 128, None), "stsb": (5e-5, 16, 3, 0.1, 128, None), "wnli": (2e-5, 8, 4, 0.1, 512, None)}

ALBERT = {  # google-research/albert run_glue.sh; WNLI, SQuAD and RACE [P] table 14 and README
    "sst2": (1e-5, 32, "20935", 1256, 512, None), "mnli": (3e-5, 128, "10000", 1000, 512, None),
    "cola": (1e-5, 16, "5336", 320, 512, None), "qnli": (1e-5, 32, "33112", 1986, 512, None),
    "qqp": (5e-5, 128, "14000", 1000, 512, None), "rte": (3e-5, 32, "800", 200, 512, None),
    "stsb": (2e-5, 16, "3598", 214, 512, None), "mrpc": (2e-5, 32, "800", 200, 512, None),
    "wnli": (2e-5, 16, "2000", 250, 512, None), "squad": (5e-5, 48, "3649", 365, 384, None),
    "squad2": (3e-5, 48, "8144", 814, 384, None), "race": (1e-5, 32, "12000", 1000, 512, None)}

# facebookresearch/fairseq examples/roberta/config/finetuning/*.yaml (all of 10 epochs); READMEs of SQuAD and RACE
ROBERTA = {**each({"cola": {}, "mrpc": {}}, rate=1e-5, batch=16, epochs=10, warmup=0.06, length=512, dropout=0.0),
           **each({"rte": {}, "stsb": {}}, rate=2e-5, batch=16, epochs=10, warmup=0.06, length=512, dropout=0.0),
           **each({"mnli": {}, "qnli": {}, "sst2": {}, "qqp": {"warmup": 28318 / 113272}}, rate=1e-5, epochs=10, warmup=0.06,
                  length=512, dropout=0.0)}
ROBERTA_SQUAD = each({"squad": {}, "squad2": {}}, rate=1.5e-5, batch=48, epochs=2, warmup=0.06, length=512, dropout=0.0)

ELECTRA = {"rte": {"epochs": 10}, "stsb": {"epochs": 10}, **{task: {} for task in ("cola", "sst2", "mrpc", "qqp", "mnli", "qnli")},
           "squad": {"epochs": 2, "length": 512}, "squad2": {"epochs": 2, "length": 512}}     # configure_finetuning.py

WAYS = {
    # [P] section A.3 and 4; google-research/bert README
    "bert": Way("bert", ADAM, {size: {
        **each({task: {} for task in GLUE if task != "mrpc"}, rate=3e-5), **each({"mrpc": {}}, rate=2e-5),
        "squad": (5e-5, 32, 3, 0.1, 384, None), "squad2": (5e-5, 48, 2, 0.1, 384, None), "swag": (2e-5, 16, 3, 0.1, 128, None)}
        for size in ("bert-base-uncased", "bert-large-uncased")}),
    "wwm": Way("bert", ADAM, {"bert-large-uncased-whole-word-masking": {"squad": (3e-5, 24, 2, 0.1, 384, None)}}),
    "distilbert": Way("bert", ADAM, {"distilbert-base-uncased": each({task: {} for task in GLUE}, rate=3e-5)}),
    "roberta": Way("shifted", Rule("adam", 0.9, 0.98, 1e-6, 0.1, "all", 0.0),
                   {"roberta-base": ROBERTA, "roberta-large": ROBERTA}),
    "roberta, squad": Way("shifted", Rule("adam", 0.9, 0.98, 1e-6, 0.01, "all", 0.0), {"roberta-large": ROBERTA_SQUAD}),
    "roberta, race": Way("constant", Rule("adam", 0.9, 0.98, 1e-6, 0.01, "all", 0.0),
                         {"roberta-large": {"race": (1e-5, 16, 4, 0, 512, 0.0)}}),
    "albert": Way("bert", ADAM, {"albert-base-v2": ALBERT, "albert-xxlarge-v2": ALBERT}, field="classifier_dropout_prob"),
    "electra": Way("electra", ADAM, {
        "electra-small-discriminator": each(ELECTRA, rate=3e-4), "electra-base-discriminator": each(ELECTRA, rate=1e-4),
        "electra-large-discriminator": each(ELECTRA, rate=5e-5)}),
    "xlnet": Way("shifted", ADAM._replace(decay=0.0), {"xlnet-large-cased": {  # zihangdai/xlnet scripts and README; [P] A.4
        "mnli": (2e-5, 128, "10000", 1000, 128, None), "stsb": (5e-5, 32, "1200", 120, 128, None),
        "race": (2e-5, 32, "12000", 1000, 512, None), "squad": (3e-5, 48, "8000", 1000, 512, None),
        "squad2": (3e-5, 48, "8000", 1000, 512, None)},
        "xlnet-base-cased": {"squad": (2e-5, 24, "12000", 1000, 512, None)}}),
    "deberta": Way("bert", ADAM, DEBERTA, field="cls_dropout"),
    "ernie": Way("bert", ADAM._replace(decay=0.0, eps=1e-8),
                 {"ernie-2.0-base-en": ERNIE_BASE, "ernie-2.0-large-en": ERNIE_LARGE}),
    # facebookresearch/SpanBERT README; code/pytorch_pretrained_bert/optimization.py warmup_linear
    "spanbert": Way("shifted", ADAM, {"spanbert-base-cased": {
        **each({task: {} for task in GLUE}, rate=2e-5, epochs=10),
        **each({"squad": {}, "squad2": {}}, rate=2e-5, epochs=4, length=512)}}),
}
# AnswerDotAI/ModernBERT src/evals/glue_jobs.py: rate, decay, batch, epochs, tokens
for task, (rate, decay, batch, epochs) in {
        "mnli": (5e-5, 1e-6, 64, 2), "rte": (1e-5, 1e-5, 16, 3), "qqp": (3e-5, 3e-6, 16, 5), "cola": (5e-5, 5e-6, 32, 10),
        "mrpc": (8e-5, 8e-6, 32, 10), "qnli": (1e-5, 1e-6, 16, 10), "sst2": (3e-5, 3e-6, 16, 3),
        "stsb": (3e-5, 3e-6, 32, 10)}.items():
    WAYS[f"modernbert, {task}"] = Way("shifted", Rule("decoupled", 0.9, 0.98, 1e-6, decay, "all", 0.0), {
        "ModernBERT-base": {task: (rate, batch, epochs, 0.06, 256, None)}})



@pytest.mark.parametrize("way", WAYS)
def test_fine_tuning_is_the_papers(way):
    what = WAYS[way]
    for size, rows in what.rows.items():
        for number, (task, row) in enumerate(rows.items()):
            rate, batch, length_of_run, warmup, length, dropout = row
            where = f"{size}, {task}"
            named = "conll2003" if task == "ner" else task
            made = recipe_of(RECIPES.get(task, "glue"), task=named, start=f"somebody/{size}")
            optim, settings = made.optim, made.settings
            assert (settings.batch_size, made.task.max_length) == (batch, length), where
            assert made.model.start == f"somebody/{size}" and made.model.changes.get(what.field) == dropout, where
            if isinstance(length_of_run, str):
                assert (settings.steps, settings.epochs) == (int(length_of_run), 0), where
            else:
                assert (settings.steps, settings.epochs) == (0, length_of_run), where
            steps = settings.steps or math.ceil(settings.epochs * ROWS[task] / batch)
            warm = warmup if warmup >= 1 else int(warmup * steps)
            hold_rates(optim, steps, rate, lambda t, steps=steps, warm=warm: rate_at(what.kind, t, warm, steps),
                       [min(t, steps - 1) for t in (1, warm // 2, warm, (warm + steps) // 2, steps)], where)
            if number == 0 or task == "squad":
                peaks = [rate * rate_at(what.kind, t, warm, steps) for t in range(3)]
                hold_updates(optim, steps, what.rule, peaks, rate, where, *multipliers(size, task))


def multipliers(size: str, task: str):
    """What multiplies updates, and what gradients, by name and layer (of two); None is nothing."""
    if "electra" in size:     # configure_finetuning.py layerwise_lr_decay, model/optimization.py _get_layer_lrs
        decay = 0.9 if "large" in size else 0.8
        depth = {"encoder/layers": np.array([3, 2]), "encoder/embeddings": 4, "head": 0}
        return lambda name: decay ** depth["/".join(name.split("/")[:2]) if "encoder" in name else "head"], None
    if "xlnet" in size and task.startswith("squad"):     # scripts/*squad*.sh lr_layer_decay_rate; model_utils.py get_train_op
        return None, lambda name: 0.75 ** np.array([1, 0]) if "layers" in name and "r_w_bias" not in name else 1
    return None, None
