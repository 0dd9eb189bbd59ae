"""The command line end to end on small real text: train, resume, fine-tune, evaluate, predict, convert, report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bertvariants_jax.cli import COMMANDS, main

REPOSITORY = Path(__file__).parents[1]
ADDRESS = "docs:optax"
TINY = ["--model.config.num-hidden-layers", "1", "--model.config.hidden-size", "16", "--model.config.num-attention-heads", "2",
        "--model.config.intermediate-size", "32", "--model.vocab-size", "400", "--task.max-length", "32",
        "--task.max-predictions", "5", "--batch-size", "16", "--log-every", "5", "--save-every", "10"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    before = os.environ.get("BERTVARIANTS_CACHE")
    os.environ["BERTVARIANTS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("BERTVARIANTS_CACHE")
    if before is not None:
        os.environ["BERTVARIANTS_CACHE"] = before


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, cache):
    run = tmp_path_factory.mktemp("runs") / "pretrain"
    assert main(["train", str(REPOSITORY / "experiments/quickstart.py"), "--task.data", ADDRESS, "--out", str(run),
                 "--steps", "20", *TINY]) == 0
    return run


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_it_promises(pretrained):
    for name in ("config.json", "metrics.jsonl", "tensorboard", "checkpoints", "model/config.json", "model/model.safetensors",
                 "model/tokenizer.json", "generator/config.json", "generator/model.safetensors", "report.html"):
        assert (pretrained / name).exists(), name
    logged = lines(pretrained)
    assert [line["step"] for line in logged if "loss" in line] == [5, 10, 15, 20]
    assert {"loss", "mlm/accuracy", "rtd/accuracy", "learning_rate"} <= set(logged[0])
    assert any("eval/mlm/accuracy" in line for line in logged)
    assert "data:image/png" in (pretrained / "report.html").read_text()


def test_the_same_command_goes_on_and_another_config_is_refused(pretrained, capsys):
    again = ["train", str(REPOSITORY / "experiments/quickstart.py"), "--task.data", ADDRESS, "--out", str(pretrained)]
    before = (pretrained / "metrics.jsonl").read_text()
    assert main([*again, "--steps", "20", *TINY]) == 0
    assert (pretrained / "metrics.jsonl").read_text() == before
    capsys.readouterr()
    assert main([*again, "--steps", "20", *TINY, "--optim.rate", "0.5"]) == 1
    said = capsys.readouterr().err
    assert "rate" in said and "0.5" in said and said.count("\n") == 1


def test_finetune_evaluate_predict_convert_report(pretrained, tmp_path, capsys):
    rows = "review\tstars\n" + "".join(f"{'return the array' if i % 2 else 'learning rate'} {i}\t{'up' if i % 2 else 'down'}\n"
                                       for i in range(120))
    (tmp_path / "mine.tsv").write_text(rows)
    run = tmp_path / "classify"
    recipe = tmp_path / "classify.py"
    recipe.write_text('"""Stars of reviews."""\nfrom bertvariants_jax.recipe import Classify, Model, Optim, Recipe, Settings\n\n'
                      'def recipe(start: str) -> Recipe:\n'
                      '    return Recipe(Classify(text="review", label="stars", max_length=16), Model(start=start),\n'
                      '                  Optim("adamw", rate=3e-3), Settings(steps=30, batch_size=16, log_every=10, eval_every=15))\n')
    assert main(["train", str(recipe), "--start", str(pretrained / "model"), "--task.data", f"tsv:{tmp_path / 'mine.tsv'}",
                 "--out", str(run)]) == 0
    assert any("eval/accuracy" in line for line in lines(run))
    capsys.readouterr()
    assert main(["evaluate", str(run / "model"), "--task", str(run)]) == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
    best = max(line["eval/accuracy"] for line in lines(run) if "eval/accuracy" in line)
    assert metrics["accuracy"] == pytest.approx(best)
    assert main(["predict", str(run / "model"), "return the array", "learning rate"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 2 and found[0]["label"] in ("up", "down")
    (tmp_path / "in.txt").write_text("return the [MASK]\nthe [MASK] rate\n")
    assert main(["predict", str(pretrained / "model"), "return the array"]) == 0
    words = json.loads(capsys.readouterr().out)
    assert all(set(row) == {"word", "score", "start", "end"} for row in words)
    assert main(["predict", str(pretrained / "generator"), "--task", "fill-mask", "--input", str(tmp_path / "in.txt"),
                 "--output", str(tmp_path / "out.jsonl")]) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    assert main(["convert", str(run / "model"), str(tmp_path / "copy")]) == 0
    assert "tensors used" in capsys.readouterr().out
    assert (tmp_path / "copy/model.safetensors").read_bytes() == (run / "model/model.safetensors").read_bytes()
    assert main(["report", str(pretrained), str(run), "--out", str(tmp_path / "both.html")]) == 0
    assert (tmp_path / "both.html").stat().st_size > 10_000


@pytest.mark.peers
def test_convert_check(pretrained, tmp_path, capsys):
    for folder in ("model", "generator"):
        assert main(["convert", str(pretrained / folder), str(tmp_path / folder), "--check"]) == 0
        assert "largest difference to transformers" in capsys.readouterr().out


def test_every_experiment_builds_its_recipe():
    for path in sorted((REPOSITORY / "experiments").glob("*.py")):
        from bertvariants_jax.cli import load_recipe
        from bertvariants_jax.recipe import Recipe

        recipe = load_recipe(path).recipe()
        assert isinstance(recipe, Recipe) and json.dumps(recipe.as_json()), path
        assert "bertvariants train" in path.read_text(), f"{path}: the docstring holds no command"
        assert main(["train", str(path), "--help"]) == 0, path


def test_the_flags_of_a_recipe_are_its_fields(capsys):
    assert main(["train", str(REPOSITORY / "experiments/glue.py"), "--help"]) == 0
    said = capsys.readouterr().out
    for flag in ("--steps", "--optim.rate", "--mesh.data", "--parallel", "--task.max-length", "--start", "--compute.dtype"):
        assert f"{flag} " in said, flag


@pytest.mark.parametrize("arguments,code,said", [
    (["trian"], 2, "did you mean train?"),
    (["train", "experiments/quickstart.py", "--out", "x", "--optim.rte", "1"], 2, "--optim.rate"),
    (["train", "experiments/quickstart.py", "--out", "x", "--steps", "many"], 2, "--steps"),
    (["train", "experiments/quickstart.py"], 2, "--out"),
    (["train", "nowhere.py", "--out", "x"], 1, "there is no recipe nowhere.py"),
    (["train", "experiments/quickstart.py", "--out", "x", "--task.mask-rate", "2"], 2, "between 0 and 1"),
    (["evaluate", "no/such/folder", "--task", "sst2"], 1, "no/such/folder"),
    (["evaluate", ".", "--task", "sst9"], 1, "unknown task 'sst9'"),
    (["predict", "folder"], 2, "give texts, or --input"),
    (["predict", "folder", "x", "--options", "null"], 2, "--options should be a JSON object"),
    (["predict", "folder", "--input", "README.md", "--output", "README.md"], 2, "--output README.md is the input"),
    (["predict", "folder", "--input", "no/such/file"], 1, "there is no file no/such/file"),
    (["evaluate", "--task", "sst2"], 2, "give a model folder, or --predictions"),
    (["report"], 2, "name one run or several"),
    (["variants", "bert-tyni"], 1, "did you mean bert-tiny"),
])
def test_bad_usage_gets_one_clear_message(arguments, code, said, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert said in captured.err + captured.out
    assert "Traceback" not in captured.err


def test_help_of_every_command_has_an_example(capsys):
    assert main(["--help"]) == 0
    listing = capsys.readouterr().out
    for name in COMMANDS:
        assert name in listing
        assert main([name, "--help"]) == 0
        assert "Example: bertvariants" in capsys.readouterr().out


def test_variants_lists_the_family(capsys):
    assert main(["variants", "bert-tiny"]) == 0
    out = capsys.readouterr().out
    assert "encoder/embeddings/word_embeddings/embedding" in out and "4,369,408" in out


def test_module_is_a_program():
    done = subprocess.run([sys.executable, "-m", "bertvariants_jax", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2 and "no command 'nothing'" in done.stderr
