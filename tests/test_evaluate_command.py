"""The command evaluate: what it is asked to score is what it scores, from wherever, and what it cannot do it refuses."""

import json
import os
import shutil
import warnings

import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.cli import main
from bertvariants_jax.recipe import Classify, Optim, Recipe, Settings, model, run, task_of_run
from bertvariants_jax.tasks.tagging import Tagging
from bertvariants_jax.text import train

WORDS = "good bad film very it was not a the number and long".split()


def table(path, count, seed, flipped=False):
    draw = np.random.default_rng(seed)
    rows = [" ".join(draw.choice(WORDS, 6)) for _ in range(count)]
    path.write_text("text\tlabel\n" + "".join(
        f"{row}\t{('down', 'up')[('good' in row) != flipped]}\n" for row in rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with train.tsv, dev.tsv, and other.tsv, whose labels are the other way round; and a run begun in it, with
    relative addresses."""
    folder, before = tmp_path_factory.mktemp("place"), os.getcwd()
    for name, count, flipped in (("train", 80, False), ("dev", 40, False), ("other", 30, True)):
        table(folder / f"{name}.tsv", count, len(name), flipped)
    train([" ".join(WORDS)] * 9, "wordpiece", 60).save(folder / "tokenizer")
    os.chdir(folder)
    try:
        run(Recipe(Classify("tsv:train.tsv", "tsv:dev.tsv", max_length=16, pack=False),
                   model("bert", "tokenizer", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                         max_position_embeddings=16, hidden_dropout_prob=0.0),
                   Optim("adamw", rate=3e-2), Settings(steps=30, batch_size=16, log_every=30, eval_every=30, save_every=30)), "run")
    finally:
        os.chdir(before)
    return folder


def evaluated(capsys, *arguments):
    capsys.readouterr()
    code = main(["evaluate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return json.loads(out.splitlines()[-1]) if code == 0 else (code, err)


def test_a_run_is_scored_on_what_is_asked_for_from_wherever(place, capsys, tmp_path):
    own = evaluated(capsys, place / "run/model", "--task", place / "run")                    # from another folder
    assert own["accuracy"] == json.loads((place / "run/scores.json").read_text())["metrics"]["accuracy"] > 0.8
    for data in (f"tsv:{place / 'other.tsv'}", place / "other.tsv"):
        other = evaluated(capsys, place / "run/model", "--task", place / "run", "--data", data)
        assert other["accuracy"] < 0.3
    code, err = evaluated(capsys, place / "run/model", "--task", place / "run", "--max-length", 17)
    assert code == 1 and "max_length is 17, but" in err and "16 positions" in err
    short = evaluated(capsys, place / "run/model", "--task", place / "run", "--max-length", 3)
    assert short["accuracy"] < own["accuracy"]                                               # a word of each text is left
    # --data of a test set, whose predictions go with its labels; and without its training file
    shutil.copytree(place, tmp_path / "moved")
    (tmp_path / "moved/train.tsv").unlink()
    config = json.loads((tmp_path / "moved/run/config.json").read_text())
    (tmp_path / "moved/run/config.json").write_text(json.dumps({**config, "started_in": str(tmp_path / "moved")}))
    alone = ["--task", tmp_path / "moved/run"]
    assert evaluated(capsys, tmp_path / "moved/run/model", *alone, "--output", tmp_path) == own
    assert evaluated(capsys, "--predictions", tmp_path / "predictions.tsv", *alone) == own
    code, err = evaluated(capsys, tmp_path / "moved/run/model", *alone, "--split", "train")
    assert code == 1 and "train.tsv" in err


def test_where_a_run_was_started_is_no_part_of_it(place, monkeypatch):
    task = task_of_run(place / "run")
    assert task.data == f"tsv:{place / 'train.tsv'}" and task.evaluation == f"tsv:{place / 'dev.tsv'}"
    monkeypatch.chdir(place)
    assert task_of_run("run").data == "tsv:train.tsv"
    from bertvariants_jax.training.checkpoints import compare

    here = json.loads((place / "run/config.json").read_text())
    compare(place, here, {**here, "started_in": "/elsewhere"})
    before = {key: value for key, value in here.items() if key != "started_in"}              # a run of an older version
    compare(place, before, here)
    (place / "old").mkdir(exist_ok=True)
    (place / "old/config.json").write_text(json.dumps({**before, "task": {k: v for k, v in before["task"].items() if k != "quotes"}}))
    assert task_of_run("old").data == "tsv:train.tsv" and task_of_run("old").quotes == "raw"


@pytest.mark.parametrize("flags", [["--output", "x"], ["--labels", "a", "b"], ["--batch-size", "32"], ["--max-length", "128"]])
def test_flags_of_a_model_are_refused_beside_a_prediction_file(tmp_path, capsys, flags):
    (tmp_path / "p.tsv").write_text("index\tprediction\n")
    assert evaluated(capsys, "--predictions", tmp_path / "p.tsv", "--task", "rte", "--data", tmp_path, *flags) == (
        2, f"bertvariants evaluate: {flags[0]} is for a model, which --predictions does without\n")


@pytest.mark.parametrize("arguments,code,message", [
    (["evaluate", "m", "--task", "sst2", "--split", "dev"], 2, "--split"),
    (["evaluate", "m", "--task", "sst2", "--batch-size", "0"], 2, "--batch-size must be at least 1"),
    (["evaluate", "m", "--task", "squad", "--labels", "a", "b"], 2, "--labels says what classes are"),
    (["evaluate", "m", "--task", "{run}", "--data", "nowhere"], 1, "no file or folder nowhere"),
    (["evaluate", "m", "--task", "{run}", "--data", "{place}"], 1, "is a folder: give the address of its file"),
    (["evaluate", "m", "--task", "dream", "--data", "{place}/dev.tsv"], 1, "dream is read from the folder of its files"),
    (["evaluate", "{place}/run/model", "--task", "{run}", "--labels", "up", "up"], 1, "--labels names 'up' twice"),
    (["evaluate", "m", "--task", "{place}"], 1, "is no folder of a training run, for it has no config.json"),
    (["evaluate", "--predictions", "nowhere.tsv", "--task", "{run}"], 1, "there is no file nowhere.tsv"),
    (["convert", "m", "dest", "--length", "64"], 2, "--length is of a program: give --to"),
    (["train", "experiments/quickstart.py", "--out", "x", "--seeds", "0"], 2, "--seeds must be at least 1"),
])
def test_flags_that_would_be_dropped_are_refused(place, capsys, arguments, code, message):
    assert main([word.format(place=place, run=place / "run") for word in arguments]) == code
    out, err = capsys.readouterr()
    assert message in out + err


def test_numbers_that_json_does_not_have_are_an_error(place, tmp_path, capsys):
    broken = bv.load(place / "run/model")
    broken.params["classify"] = {key: {k: np.full_like(v, np.nan) for k, v in value.items()} for key, value in
                                 broken.params["classify"].items()}
    bv.save(broken, tmp_path / "broken")
    code, err = evaluated(capsys, tmp_path / "broken", "--task", place / "run")
    assert code == 1 and "answers with logits that are no finite numbers" in err
    assert main(["predict", str(tmp_path / "broken"), "good film"]) == 1
    out, err = capsys.readouterr()
    assert not out and "NaN" in err and err.count("\n") == 1
    from bertvariants_jax.cli import strict_json

    for value in ({"loss": float("nan")}, [{"score": np.array([np.inf])}]):
        with pytest.raises(ValueError, match="a number that is not finite, which JSON cannot say"):
            strict_json(value, "the results")


def test_one_file_of_tagged_words_is_scored_whole(tmp_path, capsys):
    (tmp_path / "a.conll").write_text("\n".join(f"{word} {'B-X' if word == 'good' else 'O'}\n" for word in WORDS * 2))
    small = bv.new("bert", heads=("tag",), tokenizer=train([" ".join(WORDS)] * 9, "wordpiece", 60), vocab_size=60, hidden_size=16,
                   num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=16,
                   id2label=("O", "B-X", "I-X"))
    bv.save(small, tmp_path / "model")
    for data in (f"conll:{tmp_path / 'a.conll'}", f"conll:{tmp_path / 'a.conll'}#1"):
        found = evaluated(capsys, tmp_path / "model", "--task", "conll2003", "--data", data, "--output", tmp_path / "out")
        rows = (tmp_path / "out/predictions.conll").read_text().split()
        assert len(rows) == 3 * len(WORDS) * 2
        assert found["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(rows[1::3], rows[2::3], strict=True)]))
    assert found == {**found, **Tagging().score_file(tmp_path / "out/predictions.conll")}
    assert set(evaluated(capsys, "--predictions", tmp_path / "a.conll", "--task", "conll2003", "--data",
                         f"conll:{tmp_path / 'a.conll'}").values()) == {1.0}
    code, err = evaluated(capsys, tmp_path / "model", "--task", "conll2003", "--data", tmp_path / "a.conll")
    assert code == 1 and "knows 3 classes, O, B-X, I-X; the task has 9" in err               # CoNLL-2003's own types


def test_what_is_said_of_data_is_one_line():
    from bertvariants_jax import cli
    from bertvariants_jax.data import source

    form = cli.one_line(warnings.formatwarning)
    assert form("a.tsv: row 3 is odd", UserWarning, source.__file__, 7) == "a.tsv: row 3 is odd\n"
    assert form("old", UserWarning, "/elsewhere/x.py", 7) == warnings.formatwarning("old", UserWarning, "/elsewhere/x.py", 7)
