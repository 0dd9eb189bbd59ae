"""What the recipes come to, beside numbers typed from papers, scripts and the originals' code: rates by step, updates of the
optimizer, batches, lengths, dropout, masks and losses. Nothing here is read off the package's own tables.

Sources stand beside the rows: [P] is a paper, a path is a file of the authors' repository. Schedules by their shape at step
t of T with W steps of warm-up: "bert" t/W, then 1 - t/T (google-research/bert optimization.py; PaddlePaddle/ERNIE and
microsoft/DeBERTa have the same); "shifted" t/W, then 1 - (t-W)/(T-W) (fairseq polynomial_decay, transformers
get_linear_schedule_with_warmup); "electra" the product (1 - t/T) min(1, t/W).
"""

import dataclasses
import functools
import itertools
import json
import math
import random
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertvariants_jax.cli import load_recipe
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.recipe import Optim, Settings, distilled, finetune, replace
from bertvariants_jax.recipe import task as named_task
from bertvariants_jax.text import train
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
        for name in ("encoder/layers/attention/query/kernel", "encoder/layers/attention/r_w_bias"):
            step[name][:, 0] *= 4e-6
        step["encoder/embeddings/word_embeddings/embedding"][0] *= 4e-6
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
    found, wanted = schedule(optim, steps)(np.array(times)), [peak * part(t) for t in times]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6 * peak, err_msg=f"{where}, at steps {times}")


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
                   {size: ROBERTA for size in ("roberta-base", "roberta-large", "xlm-roberta-base", "xlm-roberta-xl")}),
    "roberta, squad": Way("shifted", Rule("adam", 0.9, 0.98, 1e-6, 0.01, "all", 0.0), {"roberta-large": ROBERTA_SQUAD}),
    "roberta, race": Way("constant", Rule("adam", 0.9, 0.98, 1e-6, 0.01, "all", 0.0),
                         {"roberta-large": {"race": (1e-5, 16, 4, 0, 512, 0.0)}}),
    "albert": Way("bert", ADAM, {
        "albert-base-v2": ALBERT, "albert-xxlarge-v2": ALBERT,
        "albert-xxlarge-v1": {**ALBERT, "race": (2e-5, 32, "12000", 1000, 512, None)}}, field="classifier_dropout_prob"),
    "electra": Way("electra", ADAM, {
        "electra-small-discriminator": each(ELECTRA, rate=3e-4), "electra-base-discriminator": each(ELECTRA, rate=1e-4),
        "electra-large-discriminator": each(ELECTRA, rate=5e-5)}),
    "xlnet": Way("shifted", ADAM._replace(decay=0.0), {"xlnet-large-cased": {  # zihangdai/xlnet scripts and README; [P] A.4
        "mnli": (2e-5, 128, "10000", 1000, 128, None), "stsb": (5e-5, 32, "1200", 120, 128, None),
        "race": (2e-5, 32, "12000", 1000, 512, None), "squad": (3e-5, 48, "8000", 1000, 512, None),
        "squad2": (3e-5, 48, "8000", 1000, 512, None)},
        "xlnet-base-cased": each({"squad": {}, "squad2": {}}, rate=2e-5, batch=24, epochs="12000", warmup=1000, length=512)}),
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



# rate, rows of a batch, epochs where a paper has no row for the task
GENERAL = {"bert-base-uncased": (3e-5, 32, 3), "distilbert-base-uncased": (3e-5, 32, 3), "roberta-base": (1e-5, 32, 10),
           "albert-base-v2": (2e-5, 32, 3), "electra-small-discriminator": (3e-4, 32, 3), "xlnet-base-cased": (2e-5, 32, 3),
           "deberta-base": (2e-5, 32, 6), "deberta-large": (1e-5, 32, 6), "deberta-xlarge": (7e-6, 32, 6),
           "deberta-v2-xlarge": (4e-6, 32, 6), "deberta-v2-xxlarge": (3e-6, 32, 6), "deberta-v3-base": (2e-5, 32, 6),
           "deberta-v3-large": (7e-6, 32, 6), "ernie-2.0-base-en": (3e-5, 32, 3), "spanbert-base-cased": (2e-5, 32, 10),
           "ModernBERT-base": (5e-5, 32, 3)}


@pytest.mark.parametrize("size", GENERAL)
def test_other_tasks_take_the_papers_usual_numbers(size):
    made = recipe_of("classify", start=f"somebody/{size}")
    assert (made.optim.rate, made.settings.batch_size, made.settings.epochs) == GENERAL[size]
    assert made.optim.warmup == (0.06 if size in ("roberta-base", "ModernBERT-base") else 0.1)
    assert made.task.max_length == 128


@pytest.mark.parametrize("way", WAYS)
def test_fine_tuning_is_the_papers(way):
    what, held = WAYS[way], set()
    for size, rows in what.rows.items():
        for task, row in rows.items():
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
            if (rule := replace(optim, rate=1.0, warmup=0)) not in held:       # an update depends on nothing else
                held.add(rule)
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


# ---- pre-training ----------------------------------------------------------------------------------------------------------

class Run(NamedTuple):
    """A paper's pre-training: schedule and update rule, peak, warm-up and all steps, rows and tokens of a batch.

    places: predicted in a row at most, of a full one. shares: of the predicted places that become [MASK] and that stay.
    chosen: mean share of a full row's tokens. scales: the weight of each term of the loss. network: layers, width, heads,
    feed-forward width, vocabulary, dropout of hidden states and of attention. task: what else the procedure is made of.
    config: what else the network is.
    """

    recipe: str
    knobs: dict
    kind: str
    rule: Rule
    peak: float
    warmup: int
    steps: int
    batch: int
    length: int
    places: int
    chosen: float
    shares: tuple[float, float]
    scales: dict
    network: tuple
    task: dict
    end: float = 0.0
    config: dict | None = None


BASE = (12, 768, 12, 3072)
LAMB = BERT_ADAM._replace(rule="lamb")
FAIRSEQ = Rule("adam", 0.9, 0.98, 1e-6, 0.01, "all", 0.0)
STABLE = Rule("stable", 0.9, 0.98, 1e-6, 1e-5, "weights", 0.0)
XADAM = BERT_ADAM._replace(b2=0.98)

RUNS = {
    # ALBERT: google-research/albert README, lamb_optimizer.py, create_pretraining_data.py; 0.15 of 512 [P] 4.1
    "albert": Run("albert_base", {}, "bert", LAMB, 1.76e-3, 3125, 125_000, 4096, 512, 77, 0.15, (0.8, 0.1),
                  {"mlm": 1, "pair": 1}, (*BASE, 30000, 0.0, 0.0),
                  {"pairs": "sop", "masking": "ngrams", "longest": 3, "dupe_factor": 40, "masks": "static",
                   "short_seq_prob": 0.1}),
    "albert v1": Run("albert_base", {"size": "albert-xxlarge-v1"}, "bert", LAMB, 1.76e-3, 3125, 125_000, 4096, 512, 77, 0.15,
                     (0.8, 0.1), {"mlm": 1, "pair": 1}, (12, 4096, 64, 16384, 30000, 0.0, 0.0), {}),
    # RoBERTa: [P] table 9; fairseq mask_tokens_dataset.py: int(0.15 n + u), so 77 of 512 at most
    "roberta": Run("roberta_base", {}, "shifted", FAIRSEQ, 6e-4, 24_000, 500_000, 8192, 512, 77, 0.15, (0.8, 0.1), {"mlm": 1},
                   (*BASE, 50265, 0.1, 0.1),
                   {"pairs": "none", "masking": "fairseq", "line_ends": True, "cross_documents": True, "masks": "dynamic"}),
    # ELECTRA: google-research/electra configure_pretraining.py, pretrain_helpers.py (most: int(0.155 n)); steps [P] table 6
    "electra small": Run("electra_small", {}, "electra", BERT_ADAM, 5e-4, 10_000, 1_000_000, 128, 128, 19, 0.15, (0.85, 0.15),
                         {"mlm": 1, "rtd": 50}, (12, 256, 4, 1024, 30522, 0.1, 0.1),
                         {"segments": "two", "temperature": 1.0, "sharing": "tied", "decoupled": False}),
    "electra base": Run("electra_small", {"size": "base"}, "electra", BERT_ADAM, 2e-4, 10_000, 766_000, 256, 512, 79, 0.15,
                        (0.85, 0.15), {"mlm": 1, "rtd": 50}, (*BASE, 30522, 0.1, 0.1), {}),
    "electra large": Run("electra_small", {"size": "large"}, "electra", BERT_ADAM, 2e-4, 10_000, 400_000, 2048, 512, 130, 0.25,
                         (0.85, 0.15), {"mlm": 1, "rtd": 50}, (24, 1024, 16, 4096, 30522, 0.1, 0.1), {"mask_rate": 0.25}),
    # XLNet: zihangdai/xlnet README and train.py (min_lr_ratio 0.001), [P] A.4 for the large one's batch
    "xlnet": Run("xlnet_base", {}, "linear to end", BERT_ADAM, 4e-4, 40_000, 500_000, 2048, 512, 85, 85 / 512, (0.0, 1.0),
                 {"plm": 1}, (*BASE, 32000, 0.1, 0.1),
                 {"reuse_len": 256, "mem_len": 384, "perm_size": 256, "alpha": 6, "beta": 1, "longest": 5, "bi_data": True},
                 end=0.001, config={"ff_activation": "gelu_new"}),
    "xlnet large": Run("xlnet_base", {"size": "large"}, "linear to end", BERT_ADAM, 4e-4, 40_000, 500_000, 8192, 512, 85,
                       85 / 512, (0.0, 1.0), {"plm": 1}, (24, 1024, 16, 4096, 32000, 0.1, 0.1), {}, end=0.001),
    # DeBERTa: [P] table 8 (1.5e-4 for the 1.5B model alone); apps/tasks/mlm_task.py (windows of 6, n-grams of 3; 92 is the
    # quota 77 and a word of 16 pieces), apps/models/masked_language_model.py
    "deberta": Run("deberta_base", {}, "bert", BERT_ADAM, 2e-4, 10_000, 1_000_000, 2048, 512, 92, 0.15, (0.8, 0.1), {"mlm": 1},
                   (*BASE, 50265, 0.1, 0.1), {"pairs": "none", "joined": True, "masking": "windows", "longest": 3},
                   config={"enhanced_mask_decoder": True}),
    "deberta 0.9B": Run("deberta_base", {"size": "deberta-v2-xlarge"}, "bert", BERT_ADAM, 2e-4, 10_000, 1_000_000, 2048,
                        512, 92, 0.15, (0.8, 0.1), {"mlm": 1}, (24, 1536, 24, 6144, 128100, 0.1, 0.1), {}),
    "deberta 1.5B": Run("deberta_base", {"size": "deberta-v2-xxlarge"}, "bert", BERT_ADAM, 1.5e-4, 10_000, 1_000_000, 2048,
                        512, 92, 0.15, (0.8, 0.1), {"mlm": 1}, (48, 1536, 24, 6144, 128100, 0.1, 0.1), {}),
    # DeBERTa-v3: [P] table 9 and section 3; apps/tasks/rtd_task.py (one token in each window of 6, always [MASK])
    "deberta v3": Run("deberta_v3_base", {}, "bert", XADAM, 6e-4, 10_000, 500_000, 8192, 512, 77, 0.15, (1.0, 0.0),
                      {"mlm": 1, "rtd": 50}, (*BASE, 128100, 0.1, 0.1),
                      {"segments": "joined", "masking": "windows", "temperature": 1.0, "sharing": "disentangled",
                       "decoupled": True}),
    "deberta v3 large": Run("deberta_v3_base", {"size": "deberta-v3-large"}, "bert", XADAM, 3e-4, 10_000, 500_000, 8192, 512,
                            77, 0.15, (1.0, 0.0), {"mlm": 1, "rtd": 50}, (24, 1024, 16, 4096, 128100, 0.1, 0.1), {}),
    # SpanBERT: pretraining/README.md (32 x 4,096 tokens); trainer.py divides once more by a worker's 614 masked tokens
    "spanbert": Run("spanbert_base", {}, "shifted", Rule("adam", 0.9, 0.999, 6e-6, 0.01, "all", 0.0), 1e-4, 10_000, 2_400_000,
                    256, 512, 77, 77 / 512, (0.8, 0.1), {"mlm": 1, "sbo": 1}, (*BASE, 28996, 0.1, 0.1),
                    {"stop": 0.2, "longest": 10, "max_targets": 15}),
    # ERNIE 1.0: PaddlePaddle/ERNIE pretrain_args.py, script/zh_task/pretrain.sh, batching.py
    "ernie": Run("ernie_base_zh", {}, "bert", Rule("adam", 0.9, 0.999, 1e-8, 0.01, "weights", 1.0), 1e-4, 5000, 333_000, 256,
                 512, 0, 0.15, (0.8, 0.1), {"mlm": 1, "pair": 1}, (*BASE, 18000, 0.1, 0.1), {"mask_word_prob": 0.0}),
    # ERNIE 2.0: [P] section 4.2: 393,216 tokens, 5e-5, 4,000 steps, betas 0.9 and 0.98
    "ernie 2": Run("ernie2_base", {}, "inverse square root", Rule("adam", 0.9, 0.98, 1e-8, 0.01, "weights", 1.0), 5e-5, 4000,
                   100_000, 768, 512, 0, 0.15, (0.8, 0.1),
                   {"mlm": 1, "capital": 1, "relation": 1, "reorder": 1, "distance": 1}, (*BASE, 30522, 0.1, 0.1),
                   {"mask_word_prob": 1.0, "segments": 3}),
}


@pytest.mark.parametrize("name", RUNS)
def test_pre_training_is_the_papers(name):
    run = RUNS[name]
    made = recipe_of(run.recipe, **run.knobs)
    assert (made.settings.steps, made.settings.batch_size) == (run.steps, run.batch)
    assert made.task.max_length == run.length
    config = made.model.config
    attention = getattr(config, "attention_probs_dropout_prob", getattr(config, "dropout", None))
    hidden = getattr(config, "hidden_dropout_prob", getattr(config, "dropout", None))
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads,
            getattr(config, "intermediate_size", getattr(config, "d_inner", None)), config.vocab_size, hidden,
            attention) == run.network
    assert {key: getattr(made.task, key) for key in run.task} == run.task
    assert all(getattr(config, key) == value for key, value in (run.config or {}).items())
    # DeBERTa, SpanBERT and XLNet are cased (bytes of RoBERTa's are as they are)
    assert made.model.lowercase == (run.recipe not in ("deberta_base", "deberta_v3_base", "spanbert_base", "xlnet_base"))
    assert getattr(made.task, "mask_rate", run.chosen) == pytest.approx(run.chosen, rel=0.01)

    def part(t):
        return rate_at(run.kind, t, run.warmup, run.steps, run.end)

    hold_rates(made.optim, run.steps, run.peak, part,
               (1, run.warmup // 2, run.warmup, (run.warmup + run.steps) // 2, run.steps))
    hold_updates(made.optim, run.steps, run.rule, [run.peak * part(t) for t in range(3)], run.peak)


# ---- procedures: what becomes of text --------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A file of documents of made-up words, each long enough for several full rows."""
    rng = random.Random(0)
    words = [f"{a}{b}{c}{d}" for a in "btkm" for b in ("a", "ira", "o") for c in ("n", "sel", "tum") for d in ("", "s", "eli")]
    path = tmp_path_factory.mktemp("papers") / "text.txt"
    documents = ("\n".join(" ".join(rng.choices(words, k=rng.randint(6, 20))).capitalize() + "." for _ in range(100))
                 for _ in range(60))
    path.write_text("\n\n".join(documents) + "\n")
    return path


@functools.cache
def tokenizer_of(kind: str, path: Path):
    return train(path.read_text().splitlines()[:400], kind, 300)


def procedure(run: Run, path: Path, rows: int = 96, split: str = "train", **options):
    """(the task, its network at the size of its tests, a tokenizer, a batch as it comes from text, and masked)."""
    made = recipe_of(run.recipe, **run.knobs)
    variant = VARIANTS[made.model.variant]
    task = replace(made.task, data=(f"text:{path}",), evaluation=(f"text:{path}",), **options)
    tokenizer = tokenizer_of(variant.tokenizer, path)
    examples = task.examples(split, tokenizer, None, 8)
    index = np.linspace(0, len(examples) - 1, min(rows, len(examples))).astype(int)    # of all documents
    epoch = 0 * index
    plain = examples.rows(index, epoch)
    masked = task.corrupt(examples, tokenizer, 0)(plain, index, epoch)
    config = replace(variant.dummy, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_token_id)
    return task, variant.network(config, task.heads), tokenizer, plain, masked


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run.task])
def test_masks_and_losses_are_the_papers(name, text):
    task, network, tokenizer, plain, batch = procedure(RUNS[name], text)
    hold_masks(RUNS[name], tokenizer, plain, batch)
    hold_losses(RUNS[name], task, network, batch)


def hold_masks(run: Run, tokenizer, plain, batch) -> None:
    """How many places are predicted, what becomes of them, and that nothing else changes."""
    used, places = batch["masked_weights"] > 0, batch["masked_positions"]
    lengths = (plain["attention_mask"] > 0).sum(1)
    if "pair" in run.scales:          # one half of the pairs is random (NSP, ERNIE) or swapped (SOP)
        assert abs(batch["next_sentence_label"].mean() - 0.5) < 0.05 + 1.5 / len(used) ** 0.5
    full = lengths >= 0.9 * run.length
    assert full.sum() >= 10 and (places.shape[1] == run.places or not run.places)
    share = used.sum(1)[full].sum() / lengths[full].sum()
    np.testing.assert_allclose(share, run.chosen, rtol=0.03 if run.places else 0.08)
    rows = np.arange(len(used))[:, None]
    again = np.zeros_like(used)       # ELECTRA draws places with replacement; what is drawn twice is masked more often
    again[:, 1:] = places[:, 1:] == places[:, :-1]
    again[:, :-1] |= again[:, 1:]
    once = used & ~again
    original, now = plain["input_ids"][rows, places][once], batch["input_ids"][rows, places][once]
    if "plm" in run.scales:
        assert (original == now).all()
        return
    hidden = (now == tokenizer.mask_token_id).mean()
    kept = ((now == original) & (now != tokenizer.mask_token_id)).mean()
    random_hits = (1 - run.shares[0] - run.shares[1]) / 60        # a random word may be the one that was there
    np.testing.assert_allclose([hidden, kept - random_hits], run.shares, atol=0.022)
    outside = np.ones_like(plain["input_ids"], bool)
    outside[np.broadcast_to(rows, used.shape)[used], places[used]] = False
    assert (plain["input_ids"] == batch["input_ids"])[outside].all()


def hold_losses(run: Run, task, network, batch) -> None:
    """The terms of the loss, how each is weighted, and what each is the mean over."""
    if "capital" in run.scales:
        network = network.variant.network(replace(network.config, task_type_vocab_size=5), task.heads)
    if "sbo" in run.scales:
        network = network.variant.network(replace(network.config, max_span_targets=15), task.heads)
    objective = task.objective(network)
    assert dict(objective.scales) == run.scales
    weights = objective.weights({key: jnp.asarray(value) for key, value in batch.items()})
    masked, tokens = batch["masked_weights"].sum(), (batch["attention_mask"] > 0).sum()
    counts = {"mlm": masked, "plm": masked, "pair": len(batch["input_ids"]), "rtd": tokens}
    if "sbo" in run.scales:
        counts["sbo"] = batch["span_weights"].sum() + 1                     # criterions/spanbert_loss.py npairs
    counts |= {key: (batch[field] >= 0).sum() for key in run.scales
               for field in (f"{key}_labels", f"{key}_label") if field in batch}
    assert {key: float(value) for key, value in weights.items()} == {key: float(counts[key]) for key in run.scales}


# width, layers, heads, feed-forward width, width of the embeddings. [P] ELECTRA table 6, google-research/electra
# run_pretraining.py get_generator_config; [P] DeBERTa-v3 section 4.1: of the same width and half the depth
GENERATORS = {"electra small": (64, 12, 1, 256, 128), "electra base": (256, 12, 4, 1024, 768),
              "electra large": (256, 24, 4, 1024, 1024), "deberta v3": (768, 6, 12, 3072, 768),
              "deberta v3 large": (1024, 12, 16, 4096, 1024)}


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_are_the_papers(name):
    made = recipe_of(RUNS[name].recipe, **RUNS[name].knobs)
    network = VARIANTS[made.model.variant].network(made.model.config, made.task.heads)
    generator = made.task.makes(network).config
    assert (generator.hidden_size, generator.num_hidden_layers, generator.num_attention_heads, generator.intermediate_size,
            getattr(generator, "embedding_size", None) or generator.hidden_size) == GENERATORS[name]


def filled(shapes):
    """Parameters of these shapes, all different."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize("name, apart", [("electra small", False), ("deberta v3", True)])
def test_embeddings_are_shared_as_in_the_paper(name, apart):
    """ELECTRA's are one, trained by both losses; DeBERTa-v3's are the generator's plus a difference, in two updates (GDES)."""
    made = recipe_of(RUNS[name].recipe)
    variant = VARIANTS[made.model.variant]
    objective = made.task.objective(variant.network(variant.dummy, made.task.heads))
    params = filled(jax.eval_shape(objective.init, jax.random.key(0)))
    models = {folder: values for folder, (_, values) in objective.exports(params).items()}
    table, base = (models[folder]["encoder"]["embeddings"]["word_embeddings"]["embedding"] for folder in ("model", "generator"))
    own = params["discriminator"]["encoder"].get("embeddings", {}).get("word_embeddings", {}).get("embedding")
    assert (own is not None) == apart
    np.testing.assert_allclose(table, base + own if apart else base, rtol=1e-6)
    assert [phase.trains for phase in objective.phases] == ([("generator",), ("discriminator",)] if apart else [])

    def entry(params):
        table = objective.exports(params)["model"][1]["encoder"]["embeddings"]["word_embeddings"]["embedding"]
        return table[2, 1]

    if apart:
        slopes = jax.grad(entry)(params)["generator"]["encoder"]["embeddings"]["word_embeddings"]["embedding"]
        assert not np.asarray(slopes).any()


def test_later_stages_start_from_the_earlier():
    """ELECTRA's [P] section 3.4: a generator, whose weights start a discriminator while it stays; ERNIE's stages."""
    first, second = (recipe_of("electra_small", stage=stage, **options).task for stage, options in (
        ("generator", {}), ("discriminator", {"generator": "runs/1/model"})))
    assert [(task.train, task.generator, task.sharing) for task in (first, second)] == [
        ("generator", "", "none"), ("discriminator", "runs/1/model", "none")]
    for stage, units, share in (("basic", "", 0), ("phrase", "jieba:lcut", 1),
                                ("entity", "bertvariants_jax.data.units:chinese_entities", 1)):
        made = recipe_of("ernie_base_zh", stage=stage, start="runs/1/model")
        assert (made.task.units, made.task.mask_word_prob, made.model.start) == (units, share, "runs/1/model")
    for stage in (1, 2, 5):
        made = recipe_of("ernie2_base", stage=stage, start="runs/1/model")
        assert made.task.tasks == ("masking", "capital", "relation", "reorder", "distance")[:stage]
        assert made.model.start == "runs/1/model"


def phrases(sentence: str) -> list[tuple[int, int]]:
    """Units of one to twelve words."""
    words = [match.span() for match in re.finditer(r"\w+", sentence)]
    ends = np.minimum(np.cumsum([1 + len(sentence) * i % 12 for i in range(len(words))]), len(words))
    return [(words[a][0], words[b - 1][1]) for a, b in itertools.pairwise([0, *ends.tolist()]) if b > a]


def test_no_row_of_ernie_is_thinned(text):
    """The original has no limit of predictions; units of many words spread their number wide."""
    task, _, tokenizer, plain, masked = procedure(RUNS["ernie"], text, 300, units=f"{__name__}:phrases", mask_word_prob=1.0)
    places, index = masked["masked_weights"].shape[1], np.arange(len(plain["input_ids"]))
    chosen = [replace(task, max_predictions=most).corrupt(None, tokenizer, 0)(plain, index, 0 * index)["masked_weights"].sum(1)
              for most in (places, task.max_length)]
    assert places < 300 and chosen[1].max() > 112 and (chosen[0] == chosen[1]).all()


# ---- DistilBERT ------------------------------------------------------------------------------------------------------------

class Teacher(NamedTuple):
    """What a task needs of its teacher's checkpoint."""

    network: object
    params: dict
    config: object
    tokenizer: object


def test_distillation_is_the_papers(text):
    """examples/research_projects/distillation train.py, README (--alpha_ce 5 --alpha_mlm 2 --alpha_cos 1), distiller.py,
    scripts/extract_distilbert.py; batches of up to 4k rows [P] section 3."""
    made = recipe_of("distilbert_base", teacher="somebody/bert")
    assert (made.settings.epochs, made.settings.steps, made.task.max_length, made.task.teacher) == (3, 0, 512, "somebody/bert")
    plain = recipe_of("distilbert_base", plain=True).task                  # what train.py takes where nothing is said
    assert (plain.alpha_ce, plain.alpha_mlm, plain.alpha_cos) == (0.5, 0.5, 0.0)
    assert made.settings.batch_size == pytest.approx(4000, rel=0.03)
    config = made.model.config
    assert (config.n_layers, config.dim, config.n_heads, config.hidden_dim, config.dropout, config.attention_dropout) == (
        6, 768, 12, 3072, 0.1, 0.1)
    steps, rule = 10_000, Rule("adam", 0.9, 0.98, 1e-6, 0.0, "weights", 5.0)

    def part(t):
        return rate_at("shifted", t, 500, steps)                           # --warmup_prop 0.05

    hold_rates(made.optim, steps, 5e-4, part, (1, 250, 500, 5250, steps))
    hold_updates(made.optim, steps, rule, [5e-4 * part(t) for t in range(3)], 5e-4)
    # rows of text, masked: 15% of a batch, rarer tokens more often
    tokenizer = tokenizer_of("bert", text)
    task = replace(made.task, data=(f"text:{text}",), evaluation=(f"text:{text}",))
    examples = task.examples("train", tokenizer, None)
    index = np.arange(48)
    plain = examples.rows(index, 0 * index)
    batch = task.corrupt(examples, tokenizer, 0)(plain, index, 0 * index)
    tokens, masked = (plain["attention_mask"] > 0).sum(), batch["masked_weights"] > 0
    assert masked.sum() == pytest.approx(0.15 * tokens, rel=0.01)
    now = np.take_along_axis(batch["input_ids"], batch["masked_positions"], 1)[masked]
    assert (now == tokenizer.mask_token_id).mean() == pytest.approx(0.8, abs=0.02)
    counts = np.bincount(plain["input_ids"][plain["attention_mask"] > 0], minlength=tokenizer.vocab_size)
    hits = np.bincount(batch["masked_labels"][masked], minlength=tokenizer.vocab_size)
    often = np.argsort(counts)[-60:]
    assert not hits[[tokenizer.cls_token_id, tokenizer.sep_token_id]].any()
    # odds in proportion to count ** -0.7: hits a token fall so with its count
    common = [token for token in often if token not in (tokenizer.cls_token_id, tokenizer.sep_token_id)]
    slope = np.polyfit(np.log(counts[common]), np.log(np.maximum(hits[common], 0.5) / counts[common]), 1)[0]
    assert -1.0 < slope < -0.4
    # the loss: 5 T^2 KL + 2 cross-entropy + cosine, T = 2, each a mean of its own, by the networks' own outputs
    sizes = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 512}
    teacher = VARIANTS["bert"].network(replace(VARIANTS["bert"].dummy, num_hidden_layers=12, **sizes), ("mlm",))
    student = VARIANTS["distilbert"].network(replace(VARIANTS["distilbert"].dummy, n_layers=6, **sizes), ("mlm",))
    params = filled(teacher.shapes())            # large scores: T^2 KL of small ones is the same at every T
    companion = Teacher(teacher, params, teacher.config, tokenizer)
    start = task.initial(student, None, teacher=companion)
    mine, theirs = (tree["encoder"]["layers"]["ffn"]["up"]["kernel"] for tree in (start, params))
    np.testing.assert_array_equal(mine, np.asarray(theirs)[[0, 2, 4, 7, 9, 11]])
    for name in ("word_embeddings", "position_embeddings"):
        np.testing.assert_array_equal(*(tree["encoder"]["embeddings"][name]["embedding"] for tree in (start, params)))
    objective = task.objective(student, teacher=companion)
    assert dict(objective.scales) == {"kl": 5, "mlm": 2, "cos": 1} and task.temperature == 2
    assert set(objective.frozen) == {"teacher", "encoder/embeddings/position_embeddings"}
    some = {key: jnp.asarray(value[:2]) for key, value in batch.items()}
    sums = objective.loss(start, some, None).sums
    soft = []
    for network, tree in ((student, start), (teacher, start["teacher"])):
        scores = network.logits(tree, "mlm", network.encode(tree, some, pool=False))
        soft.append(jax.nn.log_softmax(np.asarray(scores, np.float32) / 2, axis=-1))
    kl = 4 * (np.exp(soft[1]) * (soft[1] - soft[0])).sum(-1)
    np.testing.assert_allclose(sums["kl"], (kl * (np.asarray(some["attention_mask"]) > 0)).sum(), rtol=1e-3)
    assert {key: float(value) for key, value in objective.weights(some).items()} == {
        "kl": float((some["attention_mask"] > 0).sum()), "mlm": float(some["masked_weights"].sum()),
        "cos": float((some["attention_mask"] > 0).sum())}


# ---- phases: one schedule over all of them ---------------------------------------------------------------------------------

def test_bert_is_the_papers(text):
    """google-research/bert run_pretraining.py (one schedule over all steps), create_pretraining_data.py; [P] A.2: 1M steps of
    256 rows, the last tenth of them at 512."""
    for phase, (knobs, steps, length, places) in {1: ({}, 900_000, 128, 20), 2: ({"start": "runs/1"}, 1_000_000, 512, 77)}.items():
        made = recipe_of("bert_base", phase=phase, **knobs)
        assert (made.settings.steps, made.settings.batch_size, made.task.max_length) == (steps, 256, length)
        assert (made.task.pairs, made.task.masking, made.task.masks, made.task.dupe_factor, made.task.short_seq_prob) == (
            "nsp", "tokens", "static", 10, 0.1)
        assert (made.settings.continue_from, made.model.start) == (("runs/1", "runs/1/model") if knobs else ("", ""))

        def part(t):
            return rate_at("bert", t, 10_000, 1_000_000)

        hold_rates(made.optim, steps, 1e-4, part, (1, 5000, 10_000, 900_000, steps))
        hold_updates(made.optim, steps, BERT_ADAM, [1e-4 * part(t) for t in range(3)], 1e-4)
        run = Run("bert_base", {"phase": phase, **knobs}, *[None] * 6, length, places, 0.15, (0.8, 0.1), {"mlm": 1, "pair": 1},
                  (), {})
        task, network, *found = procedure(run, text, 400 if phase == 1 else 96)
        hold_masks(run, *found)
        hold_losses(run, task, network, found[-1])
    config = recipe_of("bert_base").model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size,
            config.vocab_size, config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (*BASE, 30522, 0.1, 0.1)


def test_modernbert_is_the_papers(text):
    """AnswerDotAI/ModernBERT yamls/modernbert/modernbert-base-*.yaml, src/sequence_packer.py, src/scheduler.py; [P] table 3."""
    made = recipe_of("modernbert_base")
    rows = np.array([made.settings.rows_at(step) for step in range(20_000)])
    tokens = np.cumsum(rows) * 1024.0
    assert (rows[0], rows[-1], made.settings.batch_size) == (768, 4608, 4608)
    assert set(np.diff(np.unique(rows))) == {8}                             # one row for each of eight GPUs
    assert tokens[np.argmax(rows == 4608) - 1] == pytest.approx(50e9, rel=1e-3)
    assert tokens[-1] + (made.settings.steps - 20_000) * 4608 * 1024 == pytest.approx(1.719e12, rel=1e-3)
    rates = schedule(made.optim, made.settings.steps, made.settings.rows_at)
    for billions in (0.5, 1.5, 2.5, 3.0, 40, 60):
        step = int(np.searchsorted(tokens, billions * 1e9))
        assert float(rates(step)) == pytest.approx(8e-4 * min(billions / 3, 1), rel=2e-3), billions
    assert float(rates(made.settings.steps)) == pytest.approx(8e-4)
    hold_updates(replace(made.optim, warmup=0), 100, STABLE, [8e-4] * 3, 8e-4)
    config = made.model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size, config.vocab_size,
            config.attention_dropout, config.mlp_dropout, config.global_rope_theta, config.local_rope_theta,
            config.local_attention, config.global_attn_every_n_layers) == (
                22, 768, 12, 1152, 50368, 0.1, 0.0, 1e4, 1e4, 128, 3)
    run = Run("modernbert_base", {}, *[None] * 6, 1024, 410, 0.3, (0.8, 0.1), {"mlm": 1}, (), {})
    task, network, *found = procedure(run, text, 48)
    assert task.pack and not task.cross_documents                            # greedy best fit
    hold_masks(run, *found)
    hold_losses(run, task, network, found[-1])
    _, _, _, plain, batch = procedure(run, text, 24, "validation")
    assert batch["masked_weights"].sum() / (plain["attention_mask"] > 0).sum() == pytest.approx(0.15, rel=0.05)
    # phases 2 and 3: 250B and 50B tokens of 8,192 at 3e-4, the last falling as eta (.001 + .999 (1 - sqrt(t / T)))
    middle, last = (recipe_of("modernbert_base", phase=phase, start="runs/1") for phase in (2, 3))
    for phase, before, billions in ((middle, made, 250), (last, middle, 50)):
        assert (phase.task.max_length, phase.settings.batch_size, phase.model.changes) == (8192, 576, {"global_rope_theta": 1.6e5})
        assert (phase.settings.continue_from, phase.model.start) == ("runs/1", "runs/1/model")
        assert (phase.settings.steps - before.settings.steps) * 576 * 8192 == pytest.approx(billions * 1e9, rel=3e-3)
    assert float(schedule(middle.optim, middle.settings.steps)(middle.settings.steps - 1)) == pytest.approx(3e-4)
    falling, begin, end = schedule(last.optim, last.settings.steps), middle.settings.steps, last.settings.steps
    for share in (0, 0.25, 0.64, 1):
        assert float(falling(begin + round(share * (end - begin)))) == pytest.approx(
            3e-4 * (0.001 + 0.999 * (1 - share ** 0.5)), rel=1e-2), share


# ---- what fine-tuning is made of besides -------------------------------------------------------------------------------------

# glue.md's table of SQuAD: head, tokens of a row, stride, of a question, of an answer, best starts and ends, threshold.
# google-research/bert run_squad.py; zihangdai/xlnet run_squad.py and scripts; google-research/electra configure_finetuning.py
# and qa_tasks.py (answerable above -2.75); google-research/albert run_squad_v2.py; READMEs of the others
SQUAD = {"bert-base-uncased": ("span", 384, 128, 64, 30, 20, 0.0), "xlnet-large-cased": ("beam", 512, 128, 64, 64, 5, 0.0),
         "electra-base-discriminator": ("beam", 512, 128, 64, 30, 20, -2.75), "albert-base-v2": ("beam", 384, 128, 64, 30, 20, 0.0),
         "roberta-base": ("span", 512, 128, 64, 30, 20, 0.0), "spanbert-base-cased": ("span", 512, 128, 64, 30, 20, 0.0),
         "deberta-base": ("span", 512, 128, 64, 30, 20, 0.0), "deberta-v2-xlarge": ("span", 512, 128, 64, 30, 20, 0.0),
         "deberta-v3-base": ("span", 512, 128, 64, 30, 20, 0.0), "ModernBERT-base": ("span", 512, 128, 64, 30, 20, 0.0)}


@pytest.mark.parametrize("size", SQUAD)
def test_questions_are_asked_as_in_the_paper(size):
    task = recipe_of("squad", task="squad2", start=f"somebody/{size}").task
    assert (task.head, task.max_length, task.stride, task.max_question, task.max_answer, task.n_best,
            task.null_threshold) == SQUAD[size]
    assert recipe_of("squad", start="somebody/albert-base-v2").task.head == "span"


def test_the_class_of_unanswerable_questions_weighs_a_half():
    variant = VARIANTS["xlnet"]                                   # zihangdai/xlnet function_builder.py; electra qa_tasks.py
    task = recipe_of("squad", task="squad2", start="somebody/xlnet-base-cased").task
    assert dict(task.objective(variant.network(variant.dummy, task.heads)).scales) == {"span": 1, "impossible": 0.5}


@pytest.mark.parametrize("task, terms", [("sst2", {"kl": 0.5, "classify": 0.5}), ("squad", {"kl": 0.5, "span": 0.5})])
def test_a_fine_tuned_teacher_teaches_as_in_the_paper(task, terms):
    """run_squad_w_distillation.py: half T^2 KL at T = 2, half the labels, for SQuAD; so for a classifier here."""
    made = distilled(named_task(task), "somebody/teacher")
    variant = VARIANTS["distilbert"]
    network = variant.network(variant.dummy, made.heads)
    objective = made.objective(network, teacher=Teacher(network, {}, network.config, None))
    assert dict(objective.scales) == terms and made.temperature == 2
    if task == "sst2":
        recipe = recipe_of("distil_sst2", teacher="somebody/teacher")
        assert (recipe.settings.steps, recipe.settings.batch_size) == (6315, 32)       # three epochs of 67,349 sentences
        hold_rates(recipe.optim, 6315, 3e-5, lambda t: rate_at("shifted", t, 631, 6315), (1, 300, 631, 3000, 6315))
        assert (recipe.task.alpha_ce, recipe.task.alpha_label, recipe.task.temperature) == (0.5, 0.5, 2)


def test_every_number_of_a_table_is_a_field_of_something():
    """A name that is misspelt in a table of fine-tuning would be left out without a word."""
    fields = {f.name for kind in (Optim, Settings) for f in dataclasses.fields(kind)} | {"max_length"}
    for variant in VARIANTS.values():
        known = fields | {f.name for f in dataclasses.fields(variant.config)}
        for key, row in variant.finetune.items():
            assert set(row) <= known, (variant.name, key)
            size = key.split("/")[0]
            assert key in ("", *ROWS, "mrpc") or size in variant.sizes, (variant.name, key)


def test_the_papers_dropout_reaches_the_network(tmp_path):
    """cls_dropout is what classifiers of rows and of tokens drop, and is asked for only of a model that has it."""
    start = tmp_path / "model"
    start.mkdir()
    (start / "config.json").write_text(json.dumps(VARIANTS["deberta"].sizes["deberta-base"].to_json()))
    paper = finetune(str(start), "rte")
    assert paper.changes == {"cls_dropout": 0.2} and paper.options == {"max_length": 320}
    assert paper.model(str(start)).changes == {"cls_dropout": 0.2}
    (start / "config.json").write_text(json.dumps(VARIANTS["bert"].dummy.to_json()))
    assert paper.model(str(start)).changes == {}
    optim, settings = paper
    assert (optim.rate, settings.batch_size) == (2e-5, 32)
    (start / "config.json").write_text(json.dumps(VARIANTS["electra"].dummy.to_json()))     # of no published size
    optim, _ = finetune(str(start), "rte")
    assert (optim.rate, optim.layer_decay) == (1e-4, 0.8)                                   # configure_finetuning.py
    assert finetune("roberta-base", "rte").max_length == 512
    assert finetune("deberta-large", "mnli_mm") == finetune("deberta-large", "mnli")    # one training set
    network = VARIANTS["deberta"].network(replace(VARIANTS["deberta"].dummy, cls_dropout=1.0), ("classify", "tag"))
    params = filled(network.shapes())
    encoded = network.encoded(params, jnp.ones((2, 5, network.config.hidden_size)), jnp.ones((2, 5), jnp.int32))
    for head, layer in (("classify", "out"), ("tag", "dense")):             # all is dropped but the last bias
        logits = network.logits(params, head, encoded, jax.random.key(0))
        np.testing.assert_array_equal(logits, jnp.broadcast_to(params[head][layer]["bias"], logits.shape))
