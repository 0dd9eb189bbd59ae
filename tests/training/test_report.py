"""The log's lines, the work that a step counts, and the report that is made of them."""

import json
import re

import pytest

from bertvariants_jax.training import report
from bertvariants_jax.training.log import Log, brief, read_metrics


def test_lines_past_the_resumed_step_are_dropped(tmp_path):
    with Log(tmp_path, 10) as log:
        for step in (2, 4, 6):
            log(step, {"loss": 1.0 / step, "bad": float("nan")})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    with Log(tmp_path, 10, step=4) as log:
        log(6, {"loss": 7.0})
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6] and lines[-1]["loss"] == 7.0 and lines[0]["bad"] is None
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_plain_lines_tell_loss_speed_and_time_left(tmp_path, capsys):
    with Log(tmp_path, 10) as log:
        log(2, {"loss": 1.25, "mlm/accuracy": 0.5, "tokens_per_second": 12345.0, "mfu": 0.41})
        log(2, {"eval/accuracy": 0.75})
    assert re.search(r"step 2/10  loss 1\.2500  mlm acc 0\.500  12\.3k tokens/s  MFU 41\.0%  \d:\d\d left\n"
                     r"step 2/10  eval/accuracy 0\.75", capsys.readouterr().err)
    with Log(tmp_path / "other", 10, active=False) as log:
        log(2, {"loss": 1.0})
    assert not (tmp_path / "other").exists()
    assert [brief(x) for x in (3.14159, 1500, 2.5e6)] == ["3.14", "1.5k", "2.5M"]


def make_run(folder, rate):
    folder.mkdir()
    lines = [{"step": s, "time": 1e9 + s, "loss": 5 / s, "mlm/loss": 4 / s, "pair/loss": 1 / s,
              "mlm/accuracy": 1 - 1 / s, "learning_rate": rate, "tokens_per_second": 1e4, "grad_norm": 1.0}
             for s in range(1, 200)]
    lines.append({"step": 199, "time": 1e9 + 199, "eval/accuracy": 0.75, "eval/<b>": 0.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text(json.dumps({"optim": {"rate": rate, "name": "lamb"}}))
    return folder


def test_report_of_one_and_of_two_runs(tmp_path):
    runs = [make_run(tmp_path / name, rate) for name, rate in (("first", 1e-3), ("second", 1e-4))]
    for count in (1, 2):
        path = report.write_report(runs[:count], tmp_path / f"{count}.html")
        text = path.read_text()
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert "data:image/png;base64," in text and not re.search(r'(src|href)="(http|//)', text)
        assert "mlm/accuracy" in text and "optim.rate" in text and "eval/&lt;b&gt;" in text and "eval/<b>" not in text
        assert ("class=differs" in text) == (count == 2)
    titles = [title for title, _ in report.panels([report.read_run(runs[0])])]
    assert titles == ["Loss", "Accuracy", "eval/<b>", "Learning rate", "Tokens per second", "Gradient norm"]
    with pytest.raises(FileNotFoundError, match="is not a run"):
        report.read_run(tmp_path)


def test_smoothing_keeps_a_constant_and_short_curves():
    assert report.smoothed([1.0, 2.0]) == [1.0, 2.0]
    assert report.smoothed([3.0] * 1000) == pytest.approx([3.0] * 1000)
