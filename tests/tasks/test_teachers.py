"""Tasks with a teacher: what a student starts from, teachers that do not fit, and the folder that is left."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax import names
from bertvariants_jax.data.batch import check
from bertvariants_jax.data.pipeline import pipeline
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.recipe import Compute, Optim, Recipe, Settings, model, prepare
from bertvariants_jax.tasks.classify import Classify
from bertvariants_jax.tasks.distill import Distil, DistilClassify, DistilSquad, distilled
from bertvariants_jax.tasks.squad import Squad
from bertvariants_jax.text import train

TEXT = "\n\n".join("\n".join(f"the {a} {b} of number {i} was {a} again and it is {b}." for i in range(3))
                   for a in ("red", "old", "warm", "long") for b in ("house", "river", "song"))
SMALL = {"num_hidden_layers": 3, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40,
         "max_position_embeddings": 40}
STUDENT = {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40, "max_position_embeddings": 40}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    (folder / "text.txt").write_text(TEXT + "\n")
    rows = "".join(f"the {'good' if i % 3 else 'bad'} film {i}\t{i % 3 > 0:d}\n" for i in range(40))
    (folder / "rows.tsv").write_text("text\tlabel\n" + rows)
    tokenizer = train([TEXT, rows], "wordpiece", 150)
    bv.save(bv.new("bert", ("mlm", "pair"), tokenizer=tokenizer, **SMALL), folder / "teacher")
    bv.save(bv.new("bert", ("classify",), tokenizer=tokenizer, **SMALL, id2label=("bad", "good")), folder / "judge")
    bv.save(bv.new("bert", ("mlm",), tokenizer=train([TEXT.upper()], "wordpiece", 90), **SMALL), folder / "stranger")
    return folder


def recipe_of(place, teacher="teacher", **options):
    task = Distil(data=(f"text:{place / 'text.txt'}",), held_out=0.2, max_length=32, teacher=str(place / teacher), **options)
    return Recipe(task, model("distilbert", **STUDENT), Optim(), Settings(steps=2, batch_size=4), Compute())


def test_the_student_takes_its_teachers_vocabulary_and_layers(place, tmp_path, monkeypatch):
    monkeypatch.setenv("BERTVARIANTS_CACHE", str(tmp_path))
    work, teacher = prepare(recipe_of(place), tmp_path), bv.load(place / "teacher")
    assert work.tokenizer.vocab_size == teacher.config.vocab_size == work.network.config.vocab_size
    shapes = jax.eval_shape(work.objective.init, jax.random.key(0))
    assert jax.tree.map(np.shape, work.params) == jax.tree.map(np.shape, shapes)
    assert set(work.params) == {"encoder", "mlm", "teacher"} and set(work.params["teacher"]) == {"encoder", "mlm"}
    mine, theirs = (names.flatten(tree["encoder"]["layers"]) for tree in (work.params, teacher.params))
    for path, leaf in mine.items():
        np.testing.assert_array_equal(leaf, theirs[path][np.array([0, 2])], err_msg=path)
    some = prepare(recipe_of(place, layers=(1, 0)), tmp_path).params["encoder"]["layers"]["ffn_norm"]["scale"]
    np.testing.assert_array_equal(some, teacher.params["encoder"]["layers"]["ffn_norm"]["scale"][np.array([1, 0])])
    batch = work.train.batch(0)
    check(batch, work.tokenizer.vocab_size, None, 40)
    assert batch["masked_positions"].shape == (4, 10)         # twice 0.15 of 32
    n = (batch["attention_mask"] > 0).sum()
    assert batch["masked_weights"].sum() == np.ceil(0.15 * n)


def test_what_is_left_is_the_student_alone(place, tmp_path, monkeypatch):
    monkeypatch.setenv("BERTVARIANTS_CACHE", str(tmp_path))
    work = prepare(recipe_of(place), tmp_path)
    (network, params), = work.objective.exports(work.params).values()
    bv.save(replace(bv.load(place / "teacher"), network=network, params=params), tmp_path / "model")
    loaded = bv.load(tmp_path / "model")
    assert loaded.variant == "distilbert" and not loaded.report.fresh and not loaded.report.ignored
    for path, leaf in names.flatten(loaded.params).items():
        np.testing.assert_array_equal(leaf, names.flatten(params)[path], err_msg=path)


@pytest.mark.peers
def test_the_students_folder_opens_in_hf(place, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("BERTVARIANTS_CACHE", str(tmp_path))
    work = prepare(recipe_of(place), tmp_path)
    (network, params), = work.objective.exports(work.params).values()
    bv.save(replace(bv.load(place / "teacher"), network=network, params=params), tmp_path / "model")
    peer, info = transformers.DistilBertForMaskedLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    ids = np.arange(5, 20)[None]
    np.testing.assert_allclose(peer.eval()(torch.tensor(ids)).logits.detach().numpy(),
                               network.scores(params, "mlm", {"input_ids": ids.astype(np.int32)}), atol=2e-5)


@pytest.mark.parametrize("change, message", [
    ({"teacher": ""}, "no teacher: give --task.teacher"),
    ({"teacher": "judge"}, "the teacher has no 'mlm' head; it has: pooler, classify"),
    ({"tokenizer": "stranger"}, "another vocabulary than the model"),
    ({"dim": 12}, "24 wide, the student's 12: set alpha_cos to 0"),
    ({"n_layers": 4}, "a student of 4 layers cannot start from a teacher of 3"),
    ({"layers": (0, 3)}, "not all among the teacher's 3")])
def test_teachers_that_do_not_fit_are_named_before_training(place, tmp_path, monkeypatch, change, message):
    monkeypatch.setenv("BERTVARIANTS_CACHE", str(tmp_path))
    recipe = recipe_of(place, change.get("teacher", "teacher"), **{k: v for k, v in change.items() if k == "layers"})
    config = replace(recipe.model.config, **{k: v for k, v in change.items() if k in STUDENT})
    recipe = replace(recipe, model=replace(recipe.model, config=config))
    if "tokenizer" in change:
        recipe = replace(recipe, model=replace(recipe.model, tokenizer=str(place / change["tokenizer"])))
    if not change.get("teacher", "teacher"):
        recipe = replace(recipe, task=replace(recipe.task, teacher=""))
    with pytest.raises(ValueError, match=message):
        prepare(recipe, tmp_path)


@pytest.mark.parametrize("options, message", [
    ({"mask_rate": 1.0}, r"task\.mask_rate must lie between 0 and 1"),
    ({"smoothing": -0.1}, r"task\.smoothing must not be negative"),
    ({"together": -1}, r"task\.together must not be negative")])
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Distil(**options)


def test_rows_are_drawn_over_together_and_by_rarity(place):
    task, tokenizer = Distil(data=(f"text:{place / 'text.txt'}",), max_length=32), bv.load(place / "teacher").tokenizer
    examples = task.examples("train", tokenizer, None)
    assert (examples.lengths >= 12).all()
    corrupt = task.corrupt(examples, tokenizer, 3)
    assert corrupt.keywords["together"] == 8 and corrupt.keywords["max_predictions"] == 10
    odds, counts = corrupt.keywords["odds"], examples.corpus.counts(tokenizer.vocab_size)
    assert not odds[tokenizer.special_ids].any()
    common, rare = counts.argmax(), np.where(counts > 0, counts, 10**9).argmin()
    assert odds[common] == pytest.approx(counts.max() ** -0.7) and odds[rare] > odds[common]
    batch = pipeline(examples, batch_size=8, corrupt=corrupt).batch(0)
    assert batch["masked_weights"].sum() == np.ceil(0.15 * (batch["attention_mask"] > 0).sum())


def judged(place, variant="distilbert", **config):
    base = Classify(f"tsv:{place / 'rows.tsv'}", classes=("0", "1"), names=("bad", "good"), held_out=0.2, max_length=32)
    task = distilled(base, str(place / "judge"), alpha_ce=0.8)
    return Recipe(task, model(variant, **(config or STUDENT)), Optim(), Settings(steps=2, batch_size=4), Compute())


def test_a_judges_task(place, tmp_path):
    work, judge = prepare(judged(place), tmp_path), bv.load(place / "judge")
    assert isinstance(judged(place).task, DistilClassify) and judged(place).task.temperature == 2.0
    assert work.objective.scales == {"kl": 0.8, "classify": 0.5} and work.objective.frozen == ("teacher",)
    assert set(work.params) == {"encoder", "classify", "teacher"}
    assert set(work.params["teacher"]) == {"encoder", "pooler", "classify"}
    shapes = jax.eval_shape(work.objective.init, jax.random.key(0))
    assert jax.tree.map(np.shape, work.params) == jax.tree.map(np.shape, shapes)
    np.testing.assert_array_equal(work.params["encoder"]["embeddings"]["word_embeddings"]["embedding"],
                                  judge.params["encoder"]["embeddings"]["word_embeddings"]["embedding"])
    same = prepare(judged(place, "bert", **{**SMALL, "num_hidden_layers": 1}), tmp_path).params
    np.testing.assert_array_equal(same["classify"]["dense"]["kernel"], judge.params["classify"]["dense"]["kernel"])
    other = replace(judged(place), task=replace(judged(place).task, names=("no", "yes")))
    with pytest.raises(ValueError, match="knows the classes bad, good, the task has no, yes"):
        prepare(other, tmp_path)
    assert VARIANTS["distilbert"] is work.network.variant


def test_a_task_of_questions(place, tmp_path):
    """The teacher's answers and the gold ones, half and half; a step of it learns."""
    words = ["the red house", "the old river", "a long song"]
    said = [{"id": str(i), "question": "which one?", "answers": [{"text": words[i % 3], "answer_start": 3}]} for i in range(12)]
    document = {"data": [{"paragraphs": [{"context": f"it {q['answers'][0]['text']} is.", "qas": [q]} for q in said]}]}
    (tmp_path / "squad.json").write_text(json.dumps(document))
    tokenizer = bv.load(place / "teacher").tokenizer
    bv.save(bv.new("bert", ("span",), tokenizer=tokenizer, **SMALL), tmp_path / "reader")
    squad = Squad(data=str(tmp_path / "squad.json"), evaluation=str(tmp_path / "squad.json"), max_length=24, max_question=8)
    task = distilled(squad, str(tmp_path / "reader"))
    assert isinstance(task, DistilSquad) and (task.alpha_ce, task.alpha_label, task.temperature) == (0.5, 0.5, 2.0)
    recipe = Recipe(task, model("distilbert", **STUDENT), Optim("adamw", rate=1e-2, schedule="constant", warmup=0.0),
                    Settings(steps=2, batch_size=4), Compute())
    work = prepare(recipe, tmp_path)
    assert work.objective.scales == {"kl": 0.5, "span": 0.5} and set(work.params["teacher"]) == {"encoder", "span"}
    batch = work.train.batch(0)
    total = lambda p: sum(work.objective.loss(p, batch, None).sums.values())
    before, slope = jax.jit(jax.value_and_grad(total))(work.params)
    after = jax.tree.map(lambda p, g: p - 1e-2 * g, work.params, slope)
    assert float(total(after)) < float(before)
    with pytest.raises(ValueError, match="head beam has no soft targets"):
        replace(task, head="beam")
    with pytest.raises(ValueError, match="Distil cannot be learned from a teacher"):
        distilled(recipe_of(place).task, "teacher")
