"""ERNIE's tasks and recipes: examples of a real file, stages that go on from one another, folders that HF opens."""

import dataclasses
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.data.batch import check
from bertvariants_jax.data.paragraphs import TASKS
from bertvariants_jax.hf.checkpoint import Checkpoint, Report
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.models.ernie import DUMMY
from bertvariants_jax.recipe import prepare, task_of_run
from bertvariants_jax.tasks.knowledge import Continual, Knowledge
from bertvariants_jax.text import train

WORDS = "The old River ran past Berlin and Rome while some people of Paris looked at it".split()
ROOT = pathlib.Path(__file__).parents[2]


def recipe_of(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts of forty documents and dialogues, and a tokenizer of them."""
    folder, rng = tmp_path_factory.mktemp("knowledge"), np.random.default_rng(0)
    sentence = lambda: " ".join(rng.choice(WORDS, rng.integers(3, 9))) + " ."
    texts = [[sentence() for _ in range(rng.integers(4, 12))] for _ in range(40)]
    (folder / "text.txt").write_text("\n\n".join("\n".join(lines) for lines in texts) + "\n")
    (folder / "talks.jsonl").write_text("".join(json.dumps({"text": [f"Q: {a}", f"R: {b}", f"Q: {c}"]}) + "\n"
                                                for a, b, c, *_ in texts))
    train([line for lines in texts for line in lines], "wordpiece", 120).save(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return bv.hf.checkpoint.Tokenizer.load(folder / "tokenizer")


def batch_of(task, tokenizer, split="train", rows=64, seed=0):
    examples = task.examples(split, tokenizer, None)
    index = np.arange(rows) * 7 % len(examples)
    batch = task.corrupt(examples, tokenizer, seed)(examples.rows(index, 0 * index), index, 0 * index)
    check(batch, tokenizer.vocab_size, 4, 64)
    return batch


def test_batches(folder, tokenizer):
    text, talks = f"text:{folder / 'text.txt'}", f"jsonl:{folder / 'talks.jsonl'}"
    whole = Knowledge(data=(text,), dialogues=(talks,), max_length=32, held_out=0.2)
    pairs = dataclasses.replace(whole, dialogues=())
    both = {split: [len(task.examples(split, tokenizer, None)) for task in (whole, pairs)] for split in ("train", "validation")}
    assert both["train"][0] == both["train"][1] + 32 and both["validation"][0] == both["validation"][1] + 8
    batch = batch_of(whole, tokenizer)
    assert batch["masked_positions"].shape[0] == 64 and set(batch["next_sentence_label"].tolist()) == {0, 1}
    assert batch["masked_weights"].sum(1).max() < batch["masked_positions"].shape[1] <= 32
    assert "seg_labels" not in batch and batch["masked_weights"].sum() > 64
    basic = dataclasses.replace(pairs, units="", mask_word_prob=0.0, max_predictions=9)
    assert batch_of(basic, tokenizer, "validation")["masked_positions"].shape == (64, 9)
    names = dataclasses.replace(pairs, units="bertvariants_jax.data.units:capitalised")
    labels = names.examples("train", tokenizer, None).labels
    assert 0 < labels.mean() < 0.3
    questions = Continual(data=(text,), max_length=40)
    batch = batch_of(questions, tokenizer)
    assert set(batch["task_type_ids"][:, 0].tolist()) == set(range(5))
    assert {0, 1} == set(batch["capital_labels"][batch["capital_labels"] >= 0].tolist())


@pytest.mark.parametrize("kind, options, message", [
    (Knowledge, {"mask_rate": 1.0}, r"task\.mask_rate must lie between 0 and 1"),
    (Knowledge, {"mask_word_prob": 1.5}, r"task\.mask_word_prob must lie between 0 and 1"),
    (Knowledge, {"max_predictions": -1}, r"task\.max_predictions must not be negative"),
    (Knowledge, {"units": "field:units", "dialogues": ("jsonl:x",)}, r"task\.units is field:units, which dialogues have not"),
    (Continual, {"tasks": ("masking", "sop")}, r"task\.tasks holds 'sop'; known: masking, capital"),
    (Continual, {"tasks": ("capital",)}, r"task\.tasks must hold masking"),
])
def test_bad_options_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_what_does_not_fit_the_model_or_the_text_is_refused(folder, tokenizer):
    network = lambda **changes: VARIANTS["ernie"].network(dataclasses.replace(DUMMY, **changes), ())
    fits = {"task_type_vocab_size": 5, "type_vocab_size": 3}
    Continual().objective(network(**fits))
    Continual(tasks=TASKS[:3]).objective(network())
    Continual().objective(network(use_task_id=False, type_vocab_size=3))
    for changes, message in (({**fits, "task_type_vocab_size": 4}, "4 task types, the tasks need 5"),
                             ({**fits, "reorder_segments": 2}, "segments is 3, but the model orders up to 2"),
                             ({**fits, "type_vocab_size": 2}, "up to 3 segments, but the model 2 token types")):
        with pytest.raises(ValueError, match=message):
            Continual().objective(network(**changes))
    (folder / "flat.txt").write_text("Berlin .\n\nRome .\n\nParis .\n")
    flat = (f"text:{folder / 'flat.txt'}",)
    for task in (Knowledge(data=flat, evaluation=flat), Continual(data=flat, evaluation=flat)):
        with pytest.raises(ValueError, match="none of the 3 documents"):
            task.examples("train", tokenizer, None)
    with pytest.raises(ValueError, match="No module named 'nowhere_at_all'"):
        Knowledge(data=flat, evaluation=flat, units="nowhere_at_all:cut").examples("train", tokenizer, None)


def test_recipes():
    one, two = recipe_of("ernie_base_zh"), recipe_of("ernie2_base")
    for module in (one, two):
        assert "bertvariants train" in module.__doc__
        for tiny in (False, True):
            plain = module.recipe(tiny)
            assert plain.model.variant == "ernie" and plain.model.config.use_task_id == (module is two)
    assert [one.recipe(stage=stage).task.mask_word_prob for stage in ("basic", "phrase", "entity")] == [0.0, 1.0, 1.0]
    full = one.recipe()
    assert (full.optim.rate, full.optim.warmup, full.optim.schedule, full.model.config.hidden_act) == (1e-4, 5000, "bert", "relu")
    assert two.TASKS == TASKS and two.recipe(stage=3).task.tasks == TASKS[:3]
    full = two.recipe()
    assert full.settings.batch_size * full.task.max_length == 393_216 and full.optim.schedule == "noam" and full.optim.b2 == 0.98
    for module, wrong in ((one, "word"), (two, 6)):
        with pytest.raises(ValueError, match="stage must be"):
            module.recipe(stage=wrong)


SMALL = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}


def small(recipe, folder, **task):
    text = (f"text:{folder / 'text.txt'}",)
    sizes = {} if recipe.model.start else SMALL
    return dataclasses.replace(
        recipe, task=dataclasses.replace(recipe.task, data=text, evaluation=text, max_length=32, max_predictions=9, **task),
        model=dataclasses.replace(recipe.model, tokenizer=str(folder / "tokenizer"),
                                  config=dataclasses.replace(recipe.model.config, **sizes)),
        settings=dataclasses.replace(recipe.settings, batch_size=8))


def saved(work, folder):
    params = work.params or jax.jit(work.objective.init)(jax.random.key(0))
    bv.save(Checkpoint(work.network, params, work.tokenizer, Report()), folder)
    return params


@pytest.fixture(scope="module")
def stages(folder, tmp_path_factory):
    """Folders of ERNIE 1.0's first stage, ERNIE 2.0's second, and the last one that goes on from it; with its Work."""
    out = tmp_path_factory.mktemp("stages")
    cache = pytest.MonkeyPatch()
    cache.setenv("BERTVARIANTS_CACHE", str(out / "cache"))
    one, two = recipe_of("ernie_base_zh"), recipe_of("ernie2_base")
    saved(prepare(small(one.recipe(tiny=True), folder), out), out / "one")
    params = saved(prepare(small(two.recipe(tiny=True, stage=2), folder), out), out / "second")
    work = prepare(small(two.recipe(tiny=True, stage=5, start=str(out / "second")), folder), out)
    saved(work, out / "last")
    cache.undo()
    return out, params, work


def test_a_stage_goes_on_from_the_one_before(stages):
    out, params, work = stages
    assert work.network.heads == ("pooler", "mlm", *TASKS[1:]) or set(work.network.heads) == {"pooler", "mlm", *TASKS[1:]}
    for part in ("encoder", "mlm", "capital"):
        jax.tree.map(np.testing.assert_array_equal, params[part], work.params[part])
    loaded = bv.load(out / "last")
    assert set(loaded.heads) == set(work.network.heads) and not loaded.report.fresh and not loaded.report.ignored
    jax.tree.map(np.testing.assert_array_equal, dict(loaded.params), dict(work.params))
    assert json.loads((out / "last" / "config.json").read_text())["architectures"] == ["ErnieForMaskedLM"]


def test_a_run_says_its_task(tmp_path):
    recipe = recipe_of("ernie2_base").recipe(tiny=True, stage=2)
    (tmp_path / "config.json").write_text(json.dumps(recipe.as_json()))
    assert task_of_run(tmp_path) == recipe.task


@pytest.mark.peers
def test_hf_opens_the_folders(stages):
    import torch
    import transformers

    out = stages[0]
    ids = np.arange(5, 25).reshape(2, 10)
    for name, cls, extra in (("one", "ErnieForPreTraining", set()),
                             ("last", "ErnieForMaskedLM", {"ernie", *TASKS[1:]})):
        peer, info = getattr(transformers, cls).from_pretrained(out / name, output_loading_info=True)
        assert not info["missing_keys"] and not info["mismatched_keys"]
        assert {key.split(".")[0] for key in info["unexpected_keys"]} == extra
        assert all("pooler" in key for key in info["unexpected_keys"] if key.startswith("ernie"))
        ours = bv.load(out / name)
        with torch.no_grad():
            theirs = peer.eval()(torch.tensor(ids))
        scores = theirs.prediction_logits if extra == set() else theirs.logits
        np.testing.assert_allclose(ours.logits("mlm", input_ids=ids), scores.numpy(), atol=2e-5)
        if not extra:
            np.testing.assert_allclose(ours.logits("pair", input_ids=ids), theirs.seq_relationship_logits.numpy(), atol=2e-5)
        assert np.isfinite(scores.numpy()).all() and peer.config.model_type == "ernie"
