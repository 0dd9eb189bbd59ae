"""GLUE: the original files with their quirks, label orders, test sets, prediction files, averages, and the same from TFDS."""

import dataclasses
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from bertvariants_jax.tasks.glue import GLUE, average, glue
from bertvariants_jax.tasks.metrics import METRICS
from bertvariants_jax.tasks.named import NAMED, task
from bertvariants_jax.text import train

NLI_HEADER = "index\tpromptID\tpairID\tgenre\ts1_binary_parse\ts2_binary_parse\ts1_parse\ts2_parse\tsentence1\tsentence2\t"

# train, dev and test of each task as GLUE's own files have them, quotes and all
FILES = {
    "CoLA": {"train": 'gj04\t1\t\tHe said "no.\ngj04\t0\t*\tHe no said\n', "dev": 'gj04\t0\t*\t"Who left\n',
             "test": "index\tsentence\n0\tBill sang.\n1\tSang Bill\n"},
    "SST-2": {"train": "sentence\tlabel\nfine \t1\nbad \t0\n", "dev": "sentence\tlabel\nso \"so \t0\n",
              "test": "index\tsentence\n0\tgood\n"},
    "MRPC": {"train": '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe " said\tShe said "\n0\t7\t8\ta\tb\n',
             "dev": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tone\ttwo\n",
             "test": "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tone\ttwo\n"},
    "STS-B": {"train": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
                       "0\tg\tf\t2012\t1\tn\tn\tone\ttwo\t2.500\n1\tg\tf\t2012\t1\tn\tn\tone\tone\t5.000\n",
              "dev": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
                     "0\tg\tf\t2012\t1\tn\tn\tone\ttwo\t0.000\n",
              "test": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\n"
                      "0\tg\tf\t2012\t1\tn\tn\tone\ttwo\n"},
    "QQP": {"train": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tWhy?\tHow?\t0\n1\t3\t4\tbroken row\n"
                     "2\t5\t6\tWho?\tWho?\t1\n",
            "dev": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tWhy?\tHow?\t0\n",
            "test": "id\tquestion1\tquestion2\n0\tWhy?\tHow?\n"},
    "MNLI": {"train": NLI_HEADER + "label1\tgold_label\n0\ta\tb\tc\tp\tp\tp\tp\tOne.\tTwo.\tneutral\tneutral\n",
             "dev_matched": NLI_HEADER + "label1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
                            "0\ta\tb\tc\tp\tp\tp\tp\tOne.\tTwo.\tneutral\tneutral\tneutral\tneutral\tneutral\tcontradiction\n",
             "dev_mismatched": NLI_HEADER + "label1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
                               "0\ta\tb\tc\tp\tp\tp\tp\tOne.\tTwo.\tx\tx\tx\tx\tx\tentailment\n",
             "test_matched": NLI_HEADER.rstrip("\t") + "\n0\ta\tb\tc\tp\tp\tp\tp\tOne.\tTwo.\n",
             "test_mismatched": NLI_HEADER.rstrip("\t") + "\n0\ta\tb\tc\tp\tp\tp\tp\tOne.\tTwo.\n"},
    "QNLI": {"train": "index\tquestion\tsentence\tlabel\n0\tWhy?\tSo.\tnot_entailment\n", "dev":
             "index\tquestion\tsentence\tlabel\n0\tWhy?\tSo.\tentailment\n", "test": "index\tquestion\tsentence\n0\tWhy?\tSo.\n"},
    "RTE": {"train": "index\tsentence1\tsentence2\tlabel\n0\tone\ttwo\tentailment\n",
            "dev": "index\tsentence1\tsentence2\tlabel\n0\tone\ttwo\tnot_entailment\n1\tx\ty\tentailment\n2\ta\tb\tentailment\n",
            "test": "index\tsentence1\tsentence2\n0\tone\ttwo\n1\tx\ty\n"},
    "WNLI": {"train": "index\tsentence1\tsentence2\tlabel\n0\tone\ttwo\t1\n",
             "dev": "index\tsentence1\tsentence2\tlabel\n0\tone\ttwo\t0\n", "test": "index\tsentence1\tsentence2\n0\tone\ttwo\n"},
    "diagnostic": {"diagnostic": "index\tsentence1\tsentence2\n0\tone\ttwo\n"},
}

# what the first rows of train and dev become: texts, label ids in the order of HF's data sets, and numbers of rows
READ = {
    "cola": (('He said "no.', None, 1), ('"Who left', None, 0), 2), "sst2": (("fine ", None, 1), ('so "so ', None, 0), 2),
    "mrpc": (('He " said', 'She said "', 1), ("one", "two", 1), 2), "stsb": (("one", "two", 2.5), ("one", "two", 0.0), 2),
    "qqp": (("Why?", "How?", 0), ("Why?", "How?", 0), 2), "mnli": (("One.", "Two.", 1), ("One.", "Two.", 2), 1),
    "mnli_mm": (("One.", "Two.", 1), ("One.", "Two.", 0), 1), "qnli": (("Why?", "So.", 1), ("Why?", "So.", 0), 1),
    "rte": (("one", "two", 0), ("one", "two", 1), 1), "wnli": (("one", "two", 1), ("one", "two", 0), 1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("glue")
    for name, files in FILES.items():
        (root / name).mkdir()
        for stem, text in files.items():
            (root / name / f"{stem}.tsv").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def tokenizer():
    return train(["one two why how he said no"] * 3, "wordpiece", 60)


def test_every_task_of_the_table_is_named():
    assert set(GLUE) == {*READ, "ax"} and set(GLUE) <= set(NAMED)


@pytest.mark.parametrize("name", READ)
def test_the_original_files(folder, name, capsys):
    chosen = task(name, str(folder))
    first, dev, count = READ[name]
    for split, want in (("train", first), ("validation", dev)):
        rows = chosen.picked(split)
        labels = chosen.gold(rows, split)
        assert (rows[0][chosen.text], rows[0][chosen.pair] if chosen.pair else None, labels[0]) == want
        assert len(rows) == (count if split == "train" else max(1, 3 * (name == "rte")))
    assert ("1 rows have a wrong number of fields" in capsys.readouterr().err) == (name == "qqp")
    assert chosen.gold(chosen.picked("test"), "test") is None
    inside = task(name, str(folder / GLUE[name].folder))
    assert inside.data == chosen.data


@pytest.mark.parametrize("name,lines", [
    ("cola", ["0\t1", "1\t0"]), ("stsb", ["0\t1.250"]), ("mnli_mm", ["0\tcontradiction"]), ("rte", ["0\tnot_entailment",
                                                                                          "1\tentailment"])])
def test_prediction_files_of_the_leaderboard(folder, tokenizer, tmp_path, name, lines):
    chosen = task(name, str(folder))
    examples = chosen.examples("test", tokenizer)
    logits = {"cola": [[0, 1], [1, 0]], "stsb": [[1.25]], "mnli_mm": [[0, 1, 2]], "rte": [[0, 1], [1, 0]]}[name]
    assert "labels" not in examples.rows(np.arange(len(examples)), np.zeros(len(examples), int))
    assert chosen.score(examples, {"logits": np.array(logits)}) == {} == chosen.baseline(examples)
    (path,) = chosen.write(examples, {"logits": np.array(logits)}, tmp_path)
    assert path.name == f"{GLUE[name].official}.tsv"
    assert path.read_text().splitlines() == ["index\tprediction", *lines]


def test_the_diagnostic_set_with_and_without_labels(folder, tmp_path):
    assert task("ax", str(folder)).gold(task("ax", str(folder)).picked("test"), "test") is None
    with pytest.raises(ValueError, match="rows without labels are the split test"):
        task("ax", str(folder)).picked("validation")
    (tmp_path / "diagnostic-full.tsv").write_text("Lexical Semantics\tDomain\tPremise\tHypothesis\tLabel\n\tNews\tA\tB\tneutral\n")
    full = task("ax", str(tmp_path))
    assert full.gold(full.picked("validation"), "validation").tolist() == [1]
    assert full.metrics == ("matthews",)


def test_scoring_prediction_files(folder, tmp_path):
    chosen, path = task("rte", str(folder)), tmp_path / "RTE.tsv"
    path.write_text("index\tprediction\n0\tnot_entailment\n2\tnot_entailment\n1\tentailment\n")
    assert chosen.score_file(path, "validation") == {"accuracy": pytest.approx(2 / 3)}
    for lines, message in (
            ("0\tentailment\n1\tentailment\n", "no prediction for 1 of the 3 examples, the first is 2"),
            ("0\tentailment\n0\tentailment\n", "line 3: index 0 comes twice"),
            ("7\tentailment\n", "line 2: index 7 is beyond the 3 examples"),
            ("0\tyes\n", "line 2: the prediction 'yes' is none of entailment, not_entailment"),
            ("0 entailment\n", "line 2: expected index and prediction")):
        path.write_text("index\tprediction\n" + lines)
        with pytest.raises(ValueError, match=message):
            chosen.score_file(path, "validation")
    with pytest.raises(ValueError, match="no labels to score against"):
        chosen.score_file(path, "test")


def test_a_model_that_orders_and_spells_its_classes_otherwise_decides(folder, tokenizer, tmp_path):
    chosen = task("mnli", str(folder))
    model = chosen.fitted(("CONTRADICTION", "NEUTRAL", "ENTAILMENT"))         # roberta-large-mnli's
    assert model.labels() == ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
    assert model.gold(model.picked("validation"), "validation").tolist() == [0]
    (path,) = model.write(model.examples("test", tokenizer), {"logits": np.array([[0, 0, 1.0]])}, tmp_path)
    assert path.read_text().splitlines()[1] == "0\tentailment"
    assert chosen.fitted(("yes", "no")) is chosen                             # another task's: the caller names both
    # F1 goes on counting the same class
    turned = task("mrpc", str(folder)).fitted(("equivalent", "not_equivalent"))
    labels, said = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    assert turned.measure(labels, said)["f1"] == pytest.approx(2 / 3)
    assert task("stsb", str(folder)).fitted(("LABEL_0",)).labels() == ("LABEL_0",)


def test_the_baseline_does_not_look_at_the_text(folder, tokenizer):
    assert task("rte", str(folder)).baseline(task("rte", str(folder)).examples("validation", tokenizer)) == {
        "accuracy": pytest.approx(2 / 3)}
    assert task("stsb", str(folder)).baseline(task("stsb", str(folder)).examples("validation", tokenizer))["pearson"] == 0


def test_average():
    scores = {"cola": {"matthews": 0.5}, "mrpc": {"accuracy": 0.8, "f1": 0.9}, "mnli": {"accuracy": 0.8},
              "mnli_mm": {"accuracy": 0.82}, "stsb": {"pearson": 0.9, "spearman": 0.88}, "ax": {"matthews": 0.1}}
    mean, over = average(scores)
    assert over == ("cola", "mrpc", "stsb", "mnli") and mean == pytest.approx((0.5 + 0.85 + 0.89 + 0.81) / 4)
    assert average({}) == (0.0, ())


def test_bad_folders_and_labels_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no train\.tsv, dev\.tsv, test\.tsv there .* nor in QQP/"):
        glue("qqp", str(tmp_path))
    (tmp_path / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\tone\ttwo\tmaybe\n")
    only = glue("rte", str(tmp_path))
    with pytest.raises(ValueError, match=r"row 0 has the label 'maybe'; the classes are: entailment, not_entailment"):
        only.gold(only.picked("validation"), "validation")
    with pytest.raises(FileNotFoundError, match=r"train\.tsv"):
        only.picked("train")
    with pytest.raises(ValueError, match="there is no split 'dev'; there are: train, validation, test"):
        only.picked("dev")
    (tmp_path / "dev.tsv").write_text("index\tpremise\tsentence2\tlabel\n0\tone\ttwo\tentailment\n")
    with pytest.raises(ValueError, match="row 0 has no field 'sentence1'; it has: index, premise, sentence2, label"):
        only.picked("validation")


@pytest.mark.parametrize("name,counts", [("cola", (8551, 1043)), ("sst2", (67349, 872)), ("mrpc", (3668, 408)),
                                         ("stsb", (5749, 1500)), ("rte", (2490, 277)), ("wnli", (635, 71))])
def test_the_real_files(shared_data, name, counts):
    chosen = task(name, str(shared_data / "glue"))
    for split, count in zip(("train", "validation"), counts, strict=True):
        rows = chosen.picked(split)
        assert len(rows) == count and len(chosen.gold(rows, split)) == count


def test_metrics_are_the_definitions():
    rng = np.random.default_rng(0)
    for _ in range(20):
        gold, said = rng.integers(0, 3, 30), rng.integers(0, 3, 30)
        right, total = np.sum(gold == said), 30
        p, t = np.bincount(said, minlength=3), np.bincount(gold, minlength=3)
        want = (right * total - p @ t) / np.sqrt((total**2 - p @ p) * (total**2 - t @ t))
        assert METRICS["matthews"](gold, said) == pytest.approx(want)
        parts = [2 * np.sum((gold == c) & (said == c)) / (p[c] + t[c]) for c in range(3)]
        assert METRICS["macro_f1"](gold, said) == pytest.approx(np.mean(parts))
        assert METRICS["f1"](gold == 1, said == 1) == pytest.approx(parts[1])
    assert METRICS["matthews"](np.array([1, 1]), np.array([1, 1])) == 0


def test_the_same_from_tfds(tmp_path):
    """TFDS's own builders with rows of ours: its field names and orders of labels; -1 is no label."""
    pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")
    code = """
    import json, os, sys, types
    os.environ["TFDS_DATA_DIR"] = sys.argv[1]
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text
    from bertvariants_jax.tasks.named import task

    PAIR = {"sentence1": "one", "sentence2": "two", "idx": 0}
    NLI = {"premise": "one", "hypothesis": "two", "idx": 0}
    SETS = {
        "rte": {"train": {**PAIR, "label": "not_entailment"}, "validation": {**PAIR, "label": "entailment"},
                "test": {**PAIR, "label": -1}},
        "stsb": {"train": {**PAIR, "label": 2.5}, "validation": {**PAIR, "label": 5.0}, "test": {**PAIR, "label": -1.0}},
        "mnli": {"train": {**NLI, "label": "neutral"}, "validation_matched": {**NLI, "label": "contradiction"},
                 "validation_mismatched": {**NLI, "label": "entailment"}, "test_matched": {**NLI, "label": -1},
                 "test_mismatched": {**NLI, "label": -1}},
        "cola": {"train": {"sentence": "one", "idx": 0, "label": "acceptable"},
                 "validation": {"sentence": "one", "idx": 0, "label": "unacceptable"},
                 "test": {"sentence": "one", "idx": 0, "label": -1}},
    }
    for name, splits in SETS.items():
        builder = tfds.builder(f"glue/{name}")
        builder._make_download_manager = lambda **_: types.SimpleNamespace(downloaded_size=0)
        builder._split_generators = lambda *_, splits=splits, **__: {s: iter([(0, row)]) for s, row in splits.items()}
        builder.download_and_prepare(file_format="array_record")
    found = {}
    for name in (*SETS, "mnli_mm"):
        chosen = task(name)
        labels = [chosen.gold(chosen.picked(split), split) for split in ("train", "validation", "test")]
        row = chosen.picked("train")[0]
        found[name] = [None if ids is None else ids.tolist()[0] for ids in labels] + [row[chosen.text]]
    print("FOUND" + json.dumps(found))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True,
                          timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("FOUND")[1])
    assert found == {"rte": [1, 0, None, "one"], "stsb": [2.5, 5.0, None, "one"], "mnli": [1, 2, None, "one"],
                     "cola": [1, 0, None, "one"], "mnli_mm": [1, 0, None, "one"]}


def test_a_task_goes_through_json(folder):
    chosen = task("mrpc", str(folder))
    said = json.loads(json.dumps(dataclasses.asdict(chosen)))
    again = type(chosen)(**{key: tuple(value) if isinstance(value, list) else value for key, value in said.items()})
    assert again == chosen


@pytest.mark.parametrize("name", READ)
def test_gold_against_itself_is_right(folder, tmp_path, name):
    """Through the file that the leaderboard takes, in any order, with and without its header."""
    chosen, path = task(name, str(folder)), tmp_path / "gold.tsv"
    train = dataclasses.replace(chosen, evaluation=chosen.data)               # more rows than dev, for what correlates
    rows = [row[chosen.label] for row in train.picked("validation")]
    lines = [f"{i}\t{label}\n" for i, label in enumerate(rows)]
    constant = len(set(rows)) == 1                                            # for which a correlation is not defined, and 0
    for text in ("index\tprediction\n" + "".join(lines), "".join(lines[::-1]), "\ufeffindex\tprediction\r\n" + "".join(lines)):
        path.write_text(text, encoding="utf-8")
        scores = train.score_file(path, "validation")
        assert all(value == pytest.approx(1) for metric, value in scores.items() if not (
            constant and metric in ("matthews", "pearson", "spearman", "f1")))
    if name == "stsb":
        for number in ("nan", "inf", "-Infinity", "1_0", "x", ""):
            path.write_text(f"index\tprediction\n0\t2.5\n1\t{number}\n")
            with pytest.raises(ValueError, match=rf"gold.tsv, line 3 has the prediction '{number}', expected a number"):
                train.score_file(path, "validation")
