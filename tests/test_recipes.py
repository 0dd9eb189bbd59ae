"""Every pre-training recipe's tiny form, smaller still: over eight devices, with accumulation, killed and resumed."""

import dataclasses
import inspect
import os
import random
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import bertvariants_jax as bv
from bertvariants_jax import recipe as recipes
from bertvariants_jax.cli import load_recipe
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.recipe import Recipe, replace
from bertvariants_jax.tasks.documents import Documents
from bertvariants_jax.text import train
from bertvariants_jax.training import report
from bertvariants_jax.training.checkpoints import Checkpoints
from bertvariants_jax.training.log import read_metrics
from bertvariants_jax.training.sharding import Mesh

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
STEPS, ROWS = 4, 16

# what makes a task small, where it has the field
SMALL = {"max_length": 32, "dupe_factor": 1, "held_out": 0.2, "num_predict": 6, "reuse_len": 16, "perm_size": 8, "mem_len": 12, "max_targets": 5}


def tiny_recipes():
    """file:knobs of every recipe that has a tiny form and pre-trains on documents."""
    for path in sorted(EXPERIMENTS.glob("*.py")):
        knobs = inspect.signature(load_recipe(path).recipe).parameters
        if "tiny" in knobs:
            made = load_recipe(path).recipe(tiny=True)
            if isinstance(made.task, Documents):
                yield path.name


RECIPES = list(tiny_recipes())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with made-up documents, and the cache of corpora in it."""
    folder = tmp_path_factory.mktemp("recipes")
    before = os.environ.get("BERTVARIANTS_CACHE")
    os.environ["BERTVARIANTS_CACHE"] = str(folder / "cache")
    rng = random.Random(0)
    words = [f"{a}{b}{c}" for a in "btkm" for b in ("a", "ira", "o") for c in ("n", "sel", "", "tum")]

    def sentence():
        some = [rng.choice(words) for _ in range(rng.randint(3, 12))]
        return " ".join([some[0].capitalize(), *some[1:]]) + "."

    documents = ("\n".join(sentence() for _ in range(rng.randint(4, 14))) for _ in range(80))
    (folder / "text.txt").write_text("\n\n".join(documents) + "\n")
    yield folder
    os.environ.pop("BERTVARIANTS_CACHE")
    if before is not None:
        os.environ["BERTVARIANTS_CACHE"] = before


def small(name: str, place: Path, **settings) -> Recipe:
    """A recipe's tiny form at its variant's dummy size, on the made-up text."""
    build, knobs = load_recipe(EXPERIMENTS / name).recipe, {}
    if "teacher" in inspect.signature(build).parameters:
        knobs["teacher"] = str(teacher(place))
    made = build(tiny=True, **knobs)
    variant = VARIANTS[made.model.variant]
    fields = {field.name for field in dataclasses.fields(made.task)}
    task = replace(made.task, data=(f"text:{place / 'text.txt'}",), evaluation=(),
                   **{key: value for key, value in SMALL.items() if key in fields})
    config = variant.dummy
    if knobs:
        config = replace(config, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    return replace(made, task=task, model=replace(made.model, config=config, vocab_size=400), compute=recipes.Compute(),
                   settings=replace(made.settings, **{"steps": STEPS, "batch_size": ROWS, "accumulate": 2, "log_every": 1,
                                                      "eval_every": 0, "save_every": STEPS // 2, "batch_warmup_from": 0,
                                                      "mesh": Mesh(data=4, fsdp=2), **settings}))


def teacher(place: Path) -> Path:
    """A BERT of four layers with a vocabulary of the made-up text."""
    folder = place / "teacher"
    if not folder.exists():
        tokenizer = train((place / "text.txt").read_text().splitlines(), "wordpiece", 400)
        bv.save(bv.new("bert-tiny", ("mlm",), tokenizer=tokenizer, num_hidden_layers=4, hidden_size=16, num_attention_heads=2,
                       intermediate_size=32, max_position_embeddings=40), folder)
    return folder


def run(recipe: Recipe, out: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", lambda folders, path: None)      # the drawing takes longer than the steps
        return recipes.run(recipe, out)


def state(out: Path) -> dict[str, bytes]:
    """All arrays of the last checkpoint, by file: the parameters, the optimizer's and what else the state holds."""
    with Checkpoints(out / "checkpoints") as checkpoints:
        folder = checkpoints.folder / str(checkpoints.latest)
    restored = [ocp.PyTreeCheckpointer().restore(folder / part) for part in ("params", "rest")]
    restored[1]["rng"] = jax.random.key_data(restored[1]["rng"])
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
            for path, leaf in jax.tree_util.tree_leaves_with_path(restored)}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_stops_and_goes_on_bit_for_bit(name, place, tmp_path):
    recipe = small(name, place)
    outcome = run(recipe, tmp_path / "whole")
    assert (outcome.step, outcome.stopped_by) == (STEPS, "steps")
    losses = [line["loss"] for line in read_metrics(tmp_path / "whole/metrics.jsonl") if "loss" in line]
    assert len(losses) == STEPS and np.isfinite(losses).all() and np.isfinite(outcome.metrics["eval/loss"])
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts/checkpoints" / str(STEPS))        # as if it had been killed before its last checkpoint
    with Checkpoints(tmp_path / "parts/checkpoints") as checkpoints:
        assert checkpoints.latest == STEPS // 2                       # else it would start anew and agree all the same
    assert run(recipe, tmp_path / "parts").step == STEPS
    resumed = [line["loss"] for line in read_metrics(tmp_path / "parts/metrics.jsonl") if "loss" in line]
    assert resumed == losses
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert whole.keys() == parts.keys() and not [key for key in whole if whole[key] != parts[key]]
    saved = bv.load(tmp_path / "whole/model")
    assert saved.tokenizer is not None and not saved.report.fresh
    for folder in (path for path in (tmp_path / "whole").iterdir() if (path / "model.safetensors").exists()):
        assert np.isfinite(bv.load(folder)(**saved.tokenizer(["Ban tum kira."])).last_hidden_state).all()


def test_a_tokenizer_that_a_kill_left_in_part_is_trained_again(place, tmp_path):
    recipe = small("electra_small.py", place)
    recipes.fresh_tokenizer(recipe, tmp_path / "whole")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole/tokenizer").iterdir()}
    for name in sorted(whole.keys() - {"tokenizer.json"}):       # which is written last
        (tmp_path / name / "tokenizer").mkdir(parents=True)
        (tmp_path / name / "tokenizer" / name).write_bytes(whole[name][:20])
        recipes.fresh_tokenizer(recipe, tmp_path / name)
        assert {path.name: path.read_bytes() for path in (tmp_path / name / "tokenizer").iterdir()} == whole
        assert os.listdir(tmp_path / name) == ["tokenizer"]
    shutil.copytree(tmp_path / "whole", tmp_path / "begun")
    (tmp_path / "begun/checkpoints/5").mkdir(parents=True)       # of an earlier version: no copy of the tokenizer
    (tmp_path / "begun/checkpoints/5/_CHECKPOINT_METADATA").write_text('{"custom_metadata": {"data": {}, "config": {}}}')
    for part in ("params", "rest"):
        (tmp_path / "begun/checkpoints/5" / part).mkdir()
        (tmp_path / "begun/checkpoints/5" / part / "_METADATA").write_text("{}")
    (tmp_path / "begun/tokenizer/tokenizer.json").write_bytes(whole["tokenizer.json"][:100])
    with pytest.raises(ValueError, match=r"begun/tokenizer cannot be read .* keep no copy, or begin in another folder"):
        recipes.fresh_tokenizer(recipe, tmp_path / "begun")


def test_a_runs_utilisation_counts_the_work_to_be_done(place, tmp_path, monkeypatch):
    """A teacher's forward counts once, and what `remat` does again not at all, whatever batches grow from."""
    recipe, given = small("distilbert_base.py", place, batch_warmup_from=8, batch_warmup=0.5), {}
    recipe = replace(recipe, compute=recipes.Compute(remat="full"))

    def train(objective, data, settings, *_, **arguments):
        given.update(arguments, rows=settings.batch_size, shapes={key: x.shape for key, x in data.batch(0).items()})
        return recipes.Outcome(0, {}, "SIGTERM")

    monkeypatch.setattr(recipes.loop, "train", train)
    recipes.run(recipe, tmp_path)
    length, vocab = given["shapes"]["input_ids"][1], given["params"]["encoder"]["embeddings"]["word_embeddings"]["embedding"].shape[0]
    layer = 2 * (length * (4 * 16 ** 2 + 2 * 16 * 32) + 2 * length ** 2 * 16)
    head = 2 * length * (16 * 16 + 16 * vocab)                # soft targets are of every token
    assert given["flops_per_step"] == given["rows"] * (3 * (2 * layer + head) + 4 * layer + head)


def test_there_is_a_recipe_for_every_paper():
    made = {load_recipe(EXPERIMENTS / name).recipe(tiny=True).model.variant for name in RECIPES}
    assert set(VARIANTS) - made <= {"xlm-roberta-xl", "deberta-v2"}    # RoBERTa's and DeBERTa's recipes at other sizes
