"""Nothing of a run is written in place: a kill or a full disk inside any write leaves a run that goes on."""

import errno
import json
import os
import resource
import shutil
import sys

import jax
import numpy as np
import pytest
import toy

from bertvariants_jax.hf.checkpoint import Checkpoint, Report, save
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.text import Tokenizer, train
from bertvariants_jax.training import loop, optimizer, report
from bertvariants_jax.training.checkpoints import CheckpointError
from bertvariants_jax.training.log import read_metrics

OBJECTIVE, OPTIM = toy.objective(), optimizer.Optim(rate=1e-2, warmup=2)
WRITES = os.O_WRONLY | os.O_RDWR
HOOKS = []


@pytest.fixture(scope="module", autouse=True)
def hooked():
    """An audit hook stays for good, so there is one, which asks whom it is told to."""
    sys.addaudithook(lambda event, arguments: [hook(event, arguments) for hook in HOOKS])
    with toy.one_program(OBJECTIVE, OPTIM, 6):
        yield
    HOOKS.clear()


@pytest.fixture(scope="module")
def tokenizer():
    return train(["a few words of text, again and again a few words"] * 4, "wordpiece", 60)


def run(out, tokenizer, stop=None, steps=6, **fields):
    """A run with all that it writes: evaluation, best checkpoint, model, tokenizer, report."""
    config = VARIANTS["bert"].config(vocab_size=60, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                     intermediate_size=8, max_position_embeddings=8)
    network = VARIANTS["bert"].network(config)

    def export(params, folder):
        params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), network.shapes())
        save(Checkpoint(network, params, tokenizer, Report()), folder)

    if not (out / "tokenizer").exists():
        tokenizer.save(out / "tokenizer")
    return loop.train(OBJECTIVE, toy.Data(16, length=stop), loop.Settings(**{
        "steps": steps, "batch_size": 16, "log_every": 2, "eval_every": 2, "save_every": 2, "keep_last": 1,
        "keep_best": "accuracy", **fields}), OPTIM, out,
        evaluate=lambda params, step: {"accuracy": -abs(step - 4.0)}, export=export)


def contents(out):
    return {path.relative_to(out).as_posix(): (path.stat().st_ino, path.read_bytes()) for path in sorted(out.rglob("*"))
            if path.is_file()}


def test_no_file_that_is_there_is_opened_to_be_overwritten(tokenizer, tmp_path):
    out, faults, written = tmp_path / "run", [], set()

    def watch(event, arguments):
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, mode, flags = os.fsdecode(arguments[0]), arguments[1], arguments[2]
            writes = flags & WRITES if mode is None else any(letter in mode for letter in "wx+a")
            if writes and path.startswith(str(out)) and "orbax-checkpoint-tmp" not in path:
                written.add(os.path.basename(path))
                appends = flags & os.O_APPEND if mode is None else "a" in mode
                fresh = flags & os.O_EXCL if mode is None else "x" in mode
                if os.path.exists(path) and not appends and not fresh and flags & os.O_TRUNC:
                    faults.append(path)

    HOOKS.append(watch)
    try:
        run(out, tokenizer, stop=3)
        first = contents(out)
        run(out, tokenizer, log_every=1)        # a changed config, a report and a model that stand there already
        second = contents(out)
    finally:
        HOOKS.remove(watch)
    assert not faults and "metrics.jsonl" in written and any(name.endswith("-config.json") for name in written)
    # and what is written below Python (weights, tokenizers) may change no file either: another content is another file
    changed = {name for name in first.keys() & second.keys() if first[name][1] != second[name][1]}
    assert {"config.json", "metrics.jsonl", "report.html"} <= changed
    assert [name for name in changed if first[name][0] == second[name][0] and not second[name][1].startswith(first[name][1])] == []
    same = {"tokenizer/tokenizer.json", "model/config.json", "model/tokenizer.json"}
    assert same <= first.keys() & second.keys() - changed and all(first[name][0] == second[name][0] for name in same)


@pytest.fixture(scope="module")
def begun(tokenizer, tmp_path_factory):
    """A run that was stopped after 3 of 6 steps, and what an uninterrupted one ends with."""
    out = tmp_path_factory.mktemp("begun") / "run"
    run(out, tokenizer, stop=3)
    return out


def ends(out):
    return [{key: line[key] for key in line if key in ("step", "loss", "eval/accuracy")} for line in read_metrics(out / "metrics.jsonl")]


class Killed(BaseException):
    """Ends a run as a kill does, but for what stands in `finally`."""


@pytest.mark.parametrize("fault", [Killed(), OSError(errno.ENOSPC, "No space left on device")], ids=["kill", "full disk"])
def test_a_run_goes_on_whatever_write_was_its_last(fault, begun, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "curves", lambda runs: b"drawn")
    whole = shutil.copytree(begun, tmp_path / "whole")
    moments = []
    collect = lambda event, arguments: moments.append(arguments) if is_write(event, arguments, str(whole)) else None
    HOOKS.append(collect)
    run(whole, tokenizer)
    HOOKS.remove(collect)
    assert len(moments) > 12
    for moment in (0, 2, 5, len(moments) // 2, len(moments) - 4):
        out, left = shutil.copytree(begun, tmp_path / f"run-{moment}"), [moment]

        def strike(event, arguments, out=out, left=left):
            if is_write(event, arguments, str(out)):
                left[0] -= 1
                if left[0] == -1:
                    raise fault

        HOOKS.append(strike)
        try:
            run(out, tokenizer)
        except (Killed, OSError, CheckpointError):
            pass
        finally:
            HOOKS.remove(strike)
        assert json.loads((out / "config.json").read_text())["settings"]["steps"] == 6
        assert run(out, tokenizer).step == 6
        assert ends(out) == ends(whole), moment
        assert contents(out / "model").keys() == contents(whole / "model").keys()


def is_write(event, arguments, out):
    """Whether Python writes, renames or removes something of a run's own files."""
    if event in ("os.rename", "os.link", "os.remove"):
        return str(arguments[0]).startswith(out) and "orbax" not in str(arguments)
    return (event == "open" and str(arguments[0]).startswith(out) and bool(arguments[2] & WRITES)
            and "orbax" not in str(arguments[0]) and "/checkpoints/" not in str(arguments[0]))


def test_a_damaged_config_and_tokenizer_are_taken_from_the_checkpoint(begun, tokenizer, tmp_path, capfd):
    out = shutil.copytree(begun, tmp_path / "run")
    texts = ["a few words", "again"]
    ids = tokenizer(texts)["input_ids"].tolist()
    (out / "config.json").write_text('{"settings": {"st')
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = (out / "tokenizer" / name).read_bytes()
        (out / "tokenizer" / name).write_bytes(content[:len(content) // 2])
    assert run(out, tokenizer).step == 6
    assert Tokenizer.load(out / "tokenizer")(texts)["input_ids"].tolist() == ids
    assert json.loads((out / "config.json").read_text()) == json.loads((begun / "config.json").read_text())
    assert capfd.readouterr().err.count("was lost or changed: taken from the checkpoint of step 3") == 3


def test_a_full_disk_at_the_start_is_said_and_loses_nothing(begun, tokenizer, tmp_path):
    out, limits = shutil.copytree(begun, tmp_path / "run"), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
        with pytest.raises(CheckpointError, match=r"cannot write to .*run: "):
            run(out, tokenizer, log_every=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run(out, tokenizer).step == 6


def test_a_disk_that_is_full_for_the_report_costs_the_report_alone(begun, tokenizer, tmp_path, monkeypatch, capfd):
    def curves(runs):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = shutil.copytree(begun, tmp_path / "run")
    monkeypatch.setattr(report, "curves", curves)
    assert run(out, tokenizer).step == 6 and (out / "model/config.json").exists()
    assert "report.html is not written: No space left on device" in capfd.readouterr().err
