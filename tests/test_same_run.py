"""A command that is repeated goes on with the run that is there only if everything that it learned from is still the same."""

import json
import os
import shutil
from pathlib import Path

import pytest

import bertvariants_jax as bv
from bertvariants_jax.cli import main

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] good bad film a the is very not plot".split()
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
         "max_position_embeddings": 32}
FLAGS = ["--epochs", "0", "--steps", "4", "--batch-size", "8", "--log-every", "1", "--save-every", "2",
         "--task.no-pack", "--optim.warmup", "0", "--task.max-length", "16"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BERTVARIANTS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("bertvariants_jax.training.report.write_report", lambda folders, path: None)
    monkeypatch.setattr("bertvariants_jax.recipe.step_flops", lambda *_, **__: 0.0)


def rows(names=("pos", "neg"), count=24, swapped=()):
    """Lines of a table of texts and labels; those of the numbers `swapped` have the other label."""
    lines = ["text\tlabel"]
    for i in range(count):
        lines.append(f"a {'very ' * (i % 3)}{('good', 'bad')[i % 2]} film\t{names[(i % 2) ^ (i in swapped)]}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with data, a start and a run of four steps, whose newest checkpoint but one is of step 2."""
    os.environ["BERTVARIANTS_CACHE"] = str(tmp_path_factory.mktemp("first"))
    place = tmp_path_factory.mktemp("begun")
    (place / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    bv.save(bv.new("bert", seed=1, tokenizer=place, **SMALL), place / "start")
    (place / "train.tsv").write_text(rows())
    (place / "dev.tsv").write_text(rows(count=8))
    assert main(command(place)) == 0
    return place


def command(place: Path, *more: str) -> list[str]:
    return ["train", str(EXPERIMENTS / "classify.py"), "--data", f"tsv:{place}/train.tsv", "--evaluation",
            f"tsv:{place}/dev.tsv", "--start", str(place / "start"), *FLAGS, "--out", str(place / "run"), *more]


@pytest.fixture
def place(begun, monkeypatch):
    """The same to change, at the same path: another run of the folder is put back afterwards."""
    kept = begun.with_name("kept")
    shutil.copytree(begun, kept)
    yield begun
    shutil.rmtree(begun)
    kept.rename(begun)


def stopped(place: Path) -> None:
    """As if the run had been killed after its checkpoint of step 2."""
    shutil.rmtree(place / "run/checkpoints/4")


def refused(place: Path, capsys, *named: str, more=()) -> None:
    before = {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(command(place, *more)) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    for name in named:
        assert name in said, said
    assert before == {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()}


@pytest.mark.parametrize("changed", ["train.tsv", "dev.tsv"])
def test_two_swapped_labels_are_other_data(changed, place, capsys):
    stopped(place)
    count = 24 if changed == "train.tsv" else 8
    (place / changed).write_text(rows(count=count, swapped=(2, 5)))
    refused(place, capsys, changed, "--data-changed")


def test_data_that_has_changed_is_taken_if_asked_and_known_from_then_on(place, capsys):
    stopped(place)
    (place / "train.tsv").write_text(rows(count=26))
    assert main(command(place, "--data-changed")) == 0
    assert "resumed from step 2" in capsys.readouterr().err
    (place / "train.tsv").write_text(rows())
    refused(place, capsys, "train.tsv")


def test_a_run_at_its_end_learns_nothing_from_other_data(place, capsys):
    (place / "train.tsv").write_text(rows(swapped=(2, 5)))
    refused(place, capsys, "train.tsv", more=["--data-changed"])


def test_the_same_content_is_the_same_data(place, capsys):
    stopped(place)
    text = (place / "train.tsv").read_text()
    (place / "train.tsv").unlink()
    (place / "train.tsv").write_text(text)
    os.utime(place / "train.tsv", (1, 1))
    shutil.rmtree(os.environ["BERTVARIANTS_CACHE"])
    assert main(command(place)) == 0
    assert "resumed from step 2" in capsys.readouterr().err


@pytest.mark.parametrize("finished", [False, True])
def test_a_renamed_class_is_refused_and_the_model_keeps_its_names(finished, place, capsys):
    if not finished:
        stopped(place)
        shutil.rmtree(place / "run/model")                 # as a run that was stopped has none
    for name, count in (("train.tsv", 24), ("dev.tsv", 8)):
        (place / name).write_text(rows(("pos", "awful"), count))
    refused(place, capsys, "awful", "neg", more=[] if finished else ["--data-changed"])
    if finished:
        assert json.loads((place / "run/model/config.json").read_text())["id2label"] == {"0": "neg", "1": "pos"}


def test_two_swapped_lines_of_the_starts_vocabulary_are_another_tokenizer(place, capsys):
    words = [*WORDS]
    words[5], words[6] = words[6], words[5]
    (place / "vocab.txt").write_text("\n".join(words) + "\n")
    bv.save(bv.new("bert", seed=1, tokenizer=place, **SMALL), place / "start")
    refused(place, capsys, "tokenizer", more=["--data-changed"])


def test_another_case_or_another_config_of_the_start_is_refused(place, capsys):
    stopped(place)
    path = place / "start/config.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), "hidden_dropout_prob": 0.5}))
    refused(place, capsys, "hidden_dropout_prob", "0.5")
    path.write_text(before)
    for old in (place / "start").glob("*token*"):
        old.unlink()
    (place / "start/vocab.txt").write_text("\n".join(WORDS) + "\n")
    (place / "start/tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    refused(place, capsys, "tokenizer")


def test_a_damaged_export_or_scores_of_a_finished_run_are_written_again(place, capsys):
    kept = {name: (place / "run" / name).read_bytes() for name in ("model/config.json", "scores.json")}
    for name, content in kept.items():
        (place / "run" / name).write_bytes(content[: len(content) // 2])
    assert main(["report", str(place / "run")]) == 1
    assert "scores.json is damaged" in capsys.readouterr().err
    assert main(command(place)) == 0
    assert kept == {name: (place / "run" / name).read_bytes() for name in kept}


def test_scores_of_one_run_and_of_several_seeds_do_not_replace_each_other(place, capsys):
    scores = (place / "run/scores.json").read_bytes()
    refused(place, capsys, "run holds a run of its own", more=["--seeds", "2"])
    assert (place / "run/scores.json").read_bytes() == scores
    (place / "seeds/seed-0").mkdir(parents=True)
    (place / "seeds/seed-0/config.json").write_text("{}")
    assert main(command(place, "--out", str(place / "seeds"))) == 1
    assert "seeds holds runs of several seeds" in capsys.readouterr().err


def test_other_weights_of_the_start_change_nothing_of_a_run_that_has_begun(place, capsys):
    stopped(place)
    model = (place / "run/model/model.safetensors").read_bytes()
    bv.save(bv.new("bert", seed=2, tokenizer=place, **SMALL), place / "start")
    assert main(command(place)) == 0
    assert (place / "run/model/model.safetensors").read_bytes() == model


def test_a_run_from_before_fingerprints_goes_on_and_has_them_then(place, capsys):
    stopped(place)
    path = place / "run/config.json"
    config = json.loads(path.read_text())
    del config["origin"], config["optim"]["layer_decay"], config["task"]["skip_bad_rows"]      # as if they were new
    path.write_text(json.dumps(config))
    assert main(command(place)) == 0
    assert capsys.readouterr().err.count("no fingerprints") == 1
    (place / "train.tsv").write_text(rows(swapped=(2, 5)))
    refused(place, capsys, "train.tsv")


def test_a_run_from_before_fingerprints_is_said_to_be_so_once_where_it_is_refused(place, capsys):
    for path in (place / "run/config.json", place / "run/checkpoints/4/_CHECKPOINT_METADATA"):
        content = json.loads(path.read_text())
        del content.get("custom_metadata", {"config": content})["config"]["origin"]
        path.write_text(json.dumps(content))
    (place / "run/checkpoints/4/seal.json").unlink()
    assert main(command(place, "--optim.rate", "0.5")) == 1
    told = capsys.readouterr().err
    assert told.count("no fingerprints") == 1 and "optim.rate is" in told.splitlines()[-1]


def test_a_finished_run_from_before_fingerprints_keeps_the_names_of_its_classes(place, capsys):
    path = place / "run/config.json"
    config = json.loads(path.read_text())
    del config["origin"]
    path.write_text(json.dumps(config))
    for name, count in (("train.tsv", 24), ("dev.tsv", 8)):
        (place / name).write_text(rows(("pos", "awful"), count))
    refused(place, capsys, "awful", "neg")


def test_a_renamed_tag_is_refused(place, tmp_path, capsys):
    def write(name):
        for file in ("eng.train", "eng.testa"):
            (tmp_path / file).write_text(f"good B-{name}\nfilm O\n\nbad O\nplot B-{name}\n\n" * 4)

    train = ["train", str(EXPERIMENTS / "ner.py"), "--data", f"conll:{tmp_path}/eng.train", "--task.evaluation",
             f"conll:{tmp_path}/eng.testa", "--start", str(place / "start"), *FLAGS, "--out", str(tmp_path / "run")]
    train.remove("--task.no-pack")
    write("PER")
    assert main(train) == 0
    write("ORG")
    capsys.readouterr()
    assert main([*train, "--data-changed"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "B-PER" in said and "B-ORG" in said
    assert "B-PER" in bv.load(tmp_path / "run/model").config.id2label
