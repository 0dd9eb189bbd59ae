"""Whatever a recipe asks for is obeyed, refused, or said not to be done, once and before the first step."""

import dataclasses
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax import recipe as recipes
from bertvariants_jax.recipe import (
    Classify,
    Compute,
    Detect,
    Mesh,
    Model,
    Optim,
    Pretrain,
    Recipe,
    Settings,
    distilled,
    model,
)

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] good bad film a the is very not plot".split()
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
         "max_position_embeddings": 32}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (folder / "train.tsv").write_text("text\tlabel\n" + "a good film\tpos\na bad plot\tneg\n" * 32)
    (folder / "text.txt").write_text("a good film\na bad plot\nthe film is good\n\n" * 8)
    bv.save(bv.new("bert", seed=1, tokenizer=folder, **SMALL), folder / "bare")
    bv.save(bv.new("bert", ("classify",), seed=1, tokenizer=folder, id2label=("low", "high"), **SMALL), folder / "rated")
    bv.save(bv.new("bert", ("classify",), seed=1, tokenizer=folder, id2label=("neg", "pos"), **SMALL), folder / "judge")
    for name, seed in (("model", 1), ("generator", 2)):
        heads = ("rtd",) if name == "model" else ("mlm",)
        bv.save(bv.new("electra", heads, seed=seed, tokenizer=folder, embedding_size=16, **SMALL), folder / name)
    return folder


class Begun(Exception):
    pass


WORK = {}


@pytest.fixture
def told(place, tmp_path, capsys, monkeypatch):
    """What a recipe says until its first step. Models and data that have been made are not made again."""
    monkeypatch.setenv("BERTVARIANTS_CACHE", str(tmp_path / "cache"))
    prepare = recipes.prepare

    def once(recipe, out):
        key = repr((recipe.task, recipe.model, recipe.settings.data_rows))
        if key not in WORK:
            work = prepare(recipe, out)
            WORK[key] = work, capsys.readouterr().err
        work, lines = WORK[key]
        sys.stderr.write(lines)
        return work

    monkeypatch.setattr(recipes, "prepare", once)
    monkeypatch.setattr(recipes, "step_flops", lambda *_, **__: 0.0)

    def stop(*_, **__):
        raise Begun

    monkeypatch.setattr(recipes.loop, "train", stop)

    def tell(recipe: Recipe) -> str:
        capsys.readouterr()
        with pytest.raises(Begun):
            recipes.run(recipe, tmp_path / "run")
        return capsys.readouterr().err

    return tell


def classify(place, start="bare", **changes) -> Recipe:
    """A recipe in which everything goes together; changes: of its task, model, settings, optim and compute, by name."""
    parts = {
        "task": Classify(f"tsv:{place}/train.tsv", f"tsv:{place}/train.tsv", pack=False, max_length=16),
        "model": Model(start=str(place / start)),
        "settings": Settings(steps=8, batch_size=8, parallel="pmap"),
        "optim": Optim("adamw", rate=1e-3, warmup=2),
    }
    return Recipe(**{name: dataclasses.replace(part, **changes.pop(name, {})) for name, part in parts.items()},
                  compute=Compute(**changes.pop("compute", {})))


def test_nothing_is_said_where_everything_goes_together(place, told):
    assert told(classify(place, "judge")) == ""


@pytest.mark.parametrize("settings,said", [
    ({"steps": 60, "epochs": 1.0}, "the run ends after 8 steps: --epochs 1 is fewer than --steps 60"),
    ({"steps": 5, "epochs": 1.0}, "the run ends after 5 steps: --steps 5 is fewer than --epochs 1, 8 steps"),
    ({"steps": 0, "epochs": 1.0}, ""),
    ({"steps": 8, "epochs": 1.0}, ""),
    ({"batch_warmup_from": 8, "batch_size": 16}, "batches do not grow"),
    ({"batch_warmup": 0.5}, "batches do not grow"),
    ({"batch_warmup_from": 8, "batch_size": 16, "batch_warmup": 20.0}, "batches never reach 16 rows"),
    ({"keep_best": "loss"}, "the greatest loss"),
    ({"keep_best": "loss", "best_mode": "min"}, ""),
    ({"best_mode": "min"}, "--best-mode min keeps the checkpoint with the least accuracy"),
    ({"batch_warmup_by": 4}, "--batch-warmup-by is not used: --batch-warmup-from is 0"),
    ({"mesh": Mesh(model=2)}, "--mesh is not used"),
])
def test_settings(settings, said, place, told):
    found = told(classify(place, "judge", settings=settings))
    assert said in found if said else found == ""
    assert found.count("\n") == bool(said)


@pytest.mark.parametrize("optim,said", [
    ({"warmup": 100}, "never reaches its peak"),
    ({"cooldown": 0.5}, "--optim.cooldown is not used"),
    ({"schedule": "wsd", "cooldown": 0.5}, ""),
    ({"schedule": "wsd", "cooldown": 7}, "cut to the 6 steps"),
    ({"schedule": "constant", "end": 0.1}, "--optim.end is not used"),
    ({"schedule_steps": 40}, ""),
    ({"layer_decay_top": 0}, "--optim.layer-decay-top is not used"),
])
def test_optim(optim, said, place, told):
    found = told(classify(place, "judge", optim=optim))
    assert said in found if said else found == ""
    assert found.count("\n") == bool(said)


@pytest.mark.parametrize("name,rate,dtype,lost", [
    ("adamw", 2e-5, "bfloat16", True), ("adamw", 2e-5, "float32", False), ("adamw", 1e-3, "bfloat16", False),
    ("adamw", 1e-6, "float16", True), ("lamb", 1e-3, "bfloat16", True), ("lamb", 1e-2, "bfloat16", False),
])
def test_updates_below_a_weights_last_bit_are_warned_of(name, rate, dtype, lost, place, told):
    found = told(classify(place, "judge", optim={"name": name, "rate": rate}, compute={"param_dtype": dtype}))
    assert ("loses" in found) == lost


@pytest.mark.parametrize("compute,said", [
    ({"remat": "full", "unroll": 0}, "--compute.remat full saves no memory on a CPU"),
    ({"dtype": "float16"}, "no scaling of the loss"),
    ({"unroll": 0}, ""),
    ({"dtype": "bfloat16"}, ""),
])
def test_compute(compute, said, place, told):
    found = told(classify(place, "judge", compute=compute))
    assert said in found if said else found == ""
    assert found.count("\n") == bool(said)


@pytest.mark.parametrize("settings,said", [
    ({"batch_size": 64}, "examples are packed: a batch is 8 rows of 32 tokens"),
    ({"batch_size": 16}, "examples are not packed: 16 of them are fewer rows"),
    ({"batch_size": 16, "batch_warmup_from": 8, "batch_warmup": 0.5}, "examples are not packed: batches grow")])
def test_packing(settings, said, place, told):
    """How many rows a batch becomes, or why texts are not packed."""
    found = told(classify(place, "judge", task={"pack": True, "max_length": 32}, settings=settings))
    assert said in found and found.count("\n") == 1


def test_the_warning_is_true_of_weights():
    """At 2e-5 few weights of the usual spread move in bfloat16; where no warning is given most do."""
    weights = jax.random.normal(jax.random.key(0), (4000,)).astype(jnp.bfloat16) * jnp.bfloat16(0.02)
    moved = {rate: float(np.mean(np.asarray(weights + jnp.bfloat16(rate) != weights))) for rate in (2e-5, 1e-3)}
    assert moved[2e-5] < 0.5 and moved[1e-3] > 0.9


def test_a_head_for_other_classes_is_named(place, told):
    assert "its classify head for low, high goes on as that for neg, pos" in told(classify(place, "rated"))
    (place / "three.tsv").write_text("text\tlabel\n" + "a good film\tpos\na bad plot\tneg\nthe plot\tso\n" * 8)
    found = told(classify(place, "rated", task={"data": f"tsv:{place}/three.tsv", "evaluation": f"tsv:{place}/three.tsv"}))
    assert "its classify head for low, high is left out, and drawn anew for neg, pos, so" in found


def test_model_flags_beside_a_start(place, told):
    config = model("bert-tiny", **{**SMALL, "hidden_dropout_prob": 0.3}).config
    found = told(classify(place, "judge", model={"config": config, "vocab_size": 99, "lowercase": False}))
    assert "hidden_dropout_prob 0.1 (not 0.3)" in found and "hidden_size" not in found
    assert "--model.vocab-size 99 is not used" in found and "--model.no-lowercase is not used" in found
    assert "--model.variant albert is not used" in told(classify(place, "judge", model={"variant": "albert"}))
    assert "is no bert's" in told(classify(place, "judge", model={"config": model("albert-base-v2").config}))


def test_model_flags_without_a_start_are_refused(place, tmp_path):
    for name, value in (("revision", "main"), ("changes", {"hidden_dropout_prob": 0.3})):
        fresh = dataclasses.replace(model("bert-tiny", str(place), **SMALL), **{name: value})
        with pytest.raises(ValueError, match=f"model.{name} is about model.start"):
            recipes.run(dataclasses.replace(classify(place), model=fresh), tmp_path / "run")


def test_a_tokenizer_that_gives_a_starts_rows_to_other_pieces(place, told, tmp_path):
    def said(name, words, **options):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, **options}))
        return told(classify(place, "judge", model={"tokenizer": str(folder)}))

    words = [*WORDS]
    words[5], words[6] = words[6], words[5]
    found = said("swapped", words)
    assert "2 of 14 ids are other pieces" in found and "id 5 is 'bad', there 'good'" in found
    assert said("shorter", WORDS[:-1]) == ""
    assert "makes other ids of a text" in said("cased", WORDS, do_lower_case=False)


def named(lines: str) -> list[str]:
    """The task's options that are said not to be used."""
    return re.findall(r"--task\.(\S+) is not used", lines)


def test_options_of_tasks_that_have_no_effect(place, told):
    text = {"data": (f"text:{place}/text.txt",), "evaluation": (f"text:{place}/text.txt",), "max_length": 16}
    fresh = {"model": model("bert-tiny", str(place), **SMALL, vocab_size=14), "optim": Optim(warmup=2),
             "settings": Settings(steps=8, batch_size=8, parallel="pmap")}
    assert told(Recipe(task=Pretrain(**text), **fresh)) == ""
    found = told(Recipe(task=Pretrain(**text, held_out=0.3, longest=2, cross_documents=False), **fresh))
    assert sorted(named(found)) == ["cross-documents", "held-out", "longest"]
    found = told(Recipe(task=Pretrain(**text, pairs="none", short_seq_prob=0.3, dupe_factor=2), **fresh))
    assert sorted(named(found)) == ["dupe-factor", "short-seq-prob"]
    student = classify(place, "judge", task={"held_out": 0.3, "columns": ("x", "y"), "positive": "pos"})
    task = distilled(student.task, str(place / "judge"), layers=(0,))
    assert sorted(named(told(dataclasses.replace(student, task=task)))) == ["columns", "held-out", "layers", "positive"]


def test_a_vocabulary_that_is_not_of_the_size_asked_for(place, told, tmp_path):
    fresh = dataclasses.replace(classify(place), model=model("bert-tiny", str(place), **SMALL))
    assert "--model.vocab-size 30522 is not used" in told(fresh)
    trained = dataclasses.replace(classify(place), model=dataclasses.replace(model("bert-tiny", **SMALL), vocab_size=5000))
    assert re.search(r"the text gives \d+ pieces, fewer than --model.vocab-size 5000", told(trained))


@pytest.mark.parametrize("sharing,said", [("tied", True), ("disentangled", False)])
def test_two_folders_with_other_word_tables(sharing, said, place, told):
    task = Detect(data=(f"text:{place}/text.txt",), evaluation=(f"text:{place}/text.txt",), max_length=16,
                  generator=str(place / "generator"), sharing=sharing, generator_width=0.5)
    found = told(dataclasses.replace(classify(place, "model"), task=task))
    assert ("word_embeddings of the model's start and of the generator" in found) == said
    assert named(found) == ["generator-width"]
