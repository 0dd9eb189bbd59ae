"""SuperGLUE: the original JSONL read into examples, the leaderboard's files, and its scores on cases made by hand."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from bertvariants_jax.tasks.named import NAMED, task
from bertvariants_jax.tasks.superglue import AVERAGED, SUPERGLUE, average
from bertvariants_jax.text import train

MULTIRC = {"idx": 3, "passage": {"text": "<b>Sent 1: </b>It rained.<br><b>Sent 2: </b>He left.", "questions": [
    {"question": "Who left?", "idx": 5, "answers": [{"text": "He", "idx": 9, "label": 1}, {"text": "Rain", "idx": 10, "label": 0}]},
    {"question": "Why?", "idx": 6, "answers": [{"text": "Rain", "idx": 11, "label": 1}]}]}}
PASSAGE = "Bob met Ann.\n@highlight\nThe Ann of Rome\n@highlight\nBob left"
RECORD = {"idx": 0, "passage": {"text": PASSAGE, "entities": [
    {"start": 0, "end": 2}, {"start": 8, "end": 10}, {"start": 24, "end": 38}, {"start": 8, "end": 10}]},
    "qas": [{"query": "@placeholder left", "idx": 4, "answers": [{"start": 0, "end": 2, "text": "Bob"}]},
            {"query": "He met @placeholder", "idx": 5, "answers": [{"start": 8, "end": 10, "text": "Ann"},
                                                                   {"start": 24, "end": 38, "text": "The Ann of Rome"}]}]}
ROWS = {
    "boolq": {"question": "is it so", "passage": "It is.", "idx": 0, "label": True},
    "cb": {"premise": "A", "hypothesis": "B", "idx": 0, "label": "contradiction"},
    "multirc": MULTIRC,
    "record": RECORD,
    "superglue_rte": {"premise": "A", "hypothesis": "B", "idx": 0, "label": "not_entailment"},
    "wic": {"word": "place", "sentence1": "Do you want to come over to my place?", "sentence2": "A political system with no "
            "place for us.", "idx": 0, "label": False, "start1": 31, "start2": 27, "end1": 36, "end2": 32, "version": 1.1},
    "wsc": {"text": "Mark told Pete many lies. He should have been honest.", "idx": 0, "label": False,
            "target": {"span1_index": 0, "span1_text": "Mark", "span2_index": 5, "span2_text": "He"}},
}
READ = {
    "boolq": [("It is.", "is it so", "true", 0)],
    "cb": [("A", "B", "contradiction", 0)],
    "multirc": [("Sent 1: It rained. Sent 2: He left.", "Who left? He", "1", (3, 5, 9)),
                ("Sent 1: It rained. Sent 2: He left.", "Who left? Rain", "0", (3, 5, 10)),
                ("Sent 1: It rained. Sent 2: He left.", "Why? Rain", "1", (3, 6, 11))],
    "record": [("Bob met Ann. The Ann of Rome. Bob left", "Bob left", "1", 4), (None, "Ann left", "0", 4),
               (None, "The Ann of Rome left", "0", 4), (None, "He met Bob", "0", 5), (None, "He met Ann", "1", 5),
               (None, "He met The Ann of Rome", "1", 5)],
    "superglue_rte": [("A", "B", "not_entailment", 0)],
    "wic": [("Do you want to come over to my * place *?", "A political system with no * place * for us.", "false", 0)],
    "wsc": [("# Mark # told Pete many lies. * He * should have been honest.", None, "false", 0)],
}


def without_labels(row):
    """A row as test.jsonl has it."""
    if isinstance(row, dict):
        return {key: without_labels(value) for key, value in row.items() if key not in ("label", "answers") or (
            key == "answers" and "label" in str(value))}
    return [without_labels(value) for value in row] if isinstance(row, list) else row


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("superglue")
    for name, row in ROWS.items():
        place = root / SUPERGLUE[name].folder
        place.mkdir()
        for split in ("train", "val"):
            (place / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
        (place / "test.jsonl").write_text(json.dumps(without_labels(row)) + "\n")
    return root


@pytest.fixture(scope="module")
def tokenizer():
    return train(["one two why how he said no Bob met Ann"] * 3, "wordpiece", 60)


def test_the_table_is_named_and_copa_is_elsewhere():
    assert set(SUPERGLUE) == set(READ) and set(AVERAGED) == {*SUPERGLUE, "copa"} <= set(NAMED)


@pytest.mark.parametrize("name", READ)
def test_the_original_files(folder, name):
    chosen = task(name, str(folder))
    rows = chosen.picked("validation")
    found = [(row["text"], row.get("pair"), row["label"], row["key"]) for row in rows]
    want = [(text or READ[name][0][0], *rest) for text, *rest in READ[name]]
    assert found == want
    assert chosen.gold(rows, "validation").tolist() == [SUPERGLUE[name].names.index(label) for _, _, label, _ in want]
    unknown = chosen.picked("test")
    assert [row["key"] for row in unknown] == [key for *_, key in want] and chosen.gold(unknown, "test") is None


@pytest.mark.parametrize("name,lines", [
    ("boolq", [{"idx": 0, "label": "true"}]), ("cb", [{"idx": 0, "label": "contradiction"}]),
    ("multirc", [{"idx": 3, "passage": {"questions": [
        {"idx": 5, "answers": [{"idx": 9, "label": 0}, {"idx": 10, "label": 1}]},
        {"idx": 6, "answers": [{"idx": 11, "label": 0}]}]}}]),
    ("record", [{"idx": 4, "label": "Ann"}, {"idx": 5, "label": "The Ann of Rome"}]),
    ("wic", [{"idx": 0, "label": "true"}]), ("wsc", [{"idx": 0, "label": "True"}])])
def test_prediction_files_of_the_leaderboard_and_their_scores(folder, tokenizer, tmp_path, name, lines):
    chosen = task(name, str(folder), max_length=48)
    second = {"multirc": [0, 1, 0], "record": [0.1, 0.3, 0.2, -2, -1.5, -1]}.get(name, [1])
    logits = np.array([[0.0, value, *[-9.0] * (name == "cb")] for value in second])
    if name == "multirc":
        logits[:, 0] = 0.5
    examples = chosen.examples("test", tokenizer)
    assert chosen.score(examples, {"logits": logits}) == {}
    (path,) = chosen.write(examples, {"logits": logits}, tmp_path)
    assert path.name == f"{SUPERGLUE[name].folder}.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines
    # the file's score is the model's, and so it is for a model that orders its classes otherwise
    score = chosen.score(chosen.examples("validation", tokenizer), {"logits": logits})
    assert chosen.score_file(path, "validation") == score and tuple(score) == chosen.metrics
    turned = chosen.fitted(tuple(reversed(chosen.labels())))
    assert turned.score(turned.examples("validation", tokenizer), {"logits": logits[:, ::-1]}) == score
    assert set(chosen.baseline(chosen.examples("validation", tokenizer))) == set(chosen.metrics)


def test_scores_by_hand():
    records = [{"key": key, "label": label} for key, label in (
        ((0, 0, 0), "1"), ((0, 0, 1), "0"), ((0, 1, 2), "1"), ((1, 0, 0), "1"), ((1, 0, 1), "1"))]
    answers = {(0, 0, 0): "1", (0, 0, 1): "0", (0, 1, 2): "1", (1, 0, 0): "0", (1, 0, 1): "1"}
    assert SUPERGLUE["multirc"].score(records, answers) == {
        "f1a": pytest.approx(2 * 1 * (3 / 4) / (1 + 3 / 4)), "em": pytest.approx(2 / 3)}
    records = [{"key": 0, "golds": ("The Ann of Rome", "Ann")}, {"key": 1, "golds": ("Bob",)}, {"key": 2, "golds": ("A b c",)}]
    score = SUPERGLUE["record"].score(records, {0: "the  ann, of Rome!", 1: "Rob", 2: "b d"})
    assert score == {"f1": pytest.approx((1 + 0 + 0.5) / 3), "em": pytest.approx(1 / 3)}
    records = [{"key": i, "label": label} for i, label in enumerate(("neutral", "neutral", "entailment"))]
    score = SUPERGLUE["cb"].score(records, {0: "neutral", 1: "entailment", 2: "entailment"})
    assert score == {"accuracy": pytest.approx(2 / 3), "macro_f1": pytest.approx(2 / 3)}


def test_a_span_that_is_not_quite_the_text_is_marked_by_its_words(tmp_path):
    row = {"text": "Then the  big dogs barked at them.", "idx": 0, "label": True, "target": {
        "span1_index": 1, "span1_text": "The big dog", "span2_index": 6, "span2_text": "them."}}
    (tmp_path / "val.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = task("wsc", str(tmp_path)).picked("validation")
    assert found["text"] == "Then # the  big dogs # barked at * them. *"


def test_bad_files_are_named(folder, tmp_path):
    chosen, path = task("boolq", str(folder)), tmp_path / "BoolQ.jsonl"
    for text, message in (
            ('{"idx": 0, "label": "perhaps"}', r"line 1: not an answer to boolq .*'perhaps' is none of false, true"),
            ('{"idx": 0, "la', "line 1: not an answer to boolq"),
            ('{"idx": 0, "label": "true"}\n{"idx": 0, "label": "true"}', "line 2: 0 is answered twice"),
            ('{"idx": 7, "label": "true"}', "has no answer to 1 of 1, the first is 0")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            chosen.score_file(path, "validation")
    with pytest.raises(FileNotFoundError, match=r"no train\.jsonl, val\.jsonl, test\.jsonl there .* nor in CB/"):
        task("cb", str(tmp_path))
    (tmp_path / "val.jsonl").write_text('{"premise": "A", "idx": 0, "label": "neutral"}\n')
    with pytest.raises(ValueError, match=r"val\.jsonl: row 0 has no field 'hypothesis'; it has: premise, idx, label"):
        task("cb", str(tmp_path)).picked("validation")
    (tmp_path / "val.jsonl").write_text('{"premise": "A", "hypothesis": "B", "idx": 0, "label": "neu')
    with pytest.raises(ValueError, match=r"val\.jsonl, line 1: not a whole JSON value"):
        task("cb", str(tmp_path)).picked("validation")


def test_average():
    mean, over = average({"boolq": {"accuracy": 0.8}, "cb": {"accuracy": 0.9, "macro_f1": 0.7}, "copa": {"accuracy": 0.6}})
    assert over == ("boolq", "cb", "copa") and mean == pytest.approx((0.8 + 0.8 + 0.6) / 3)


def test_the_same_from_tfds(tmp_path):
    """Data sets with the fields of TFDS's super_glue, made here (its own builder needs TensorFlow)."""
    pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")
    code = """
    import json, os, sys
    os.environ["TFDS_DATA_DIR"] = sys.argv[1]
    import numpy as np
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered
    from bertvariants_jax.tasks.named import task

    text, number, many = tfds.features.Text(), np.int32, tfds.features.Sequence(tfds.features.Text())
    def ids(*names):
        return tfds.features.FeaturesDict({name: np.int32 for name in names})
    boolean = tfds.features.ClassLabel(names=["False", "True"])
    SETS = {
        "boolq": ({"question": text, "passage": text, "idx": number, "label": boolean},
                  {"question": "q", "passage": "p", "idx": 0, "label": 1}),
        "multirc": ({"paragraph": text, "question": text, "answer": text, "label": boolean,
                     "idx": ids("paragraph", "question", "answer")},
                    {"paragraph": "p", "question": "q", "answer": "a", "label": 1,
                     "idx": {"paragraph": 3, "question": 5, "answer": 9}}),
        "record": ({"passage": text, "query": text, "entities": many, "answers": many, "idx": ids("passage", "query")},
                   {"passage": "Bob. Ann", "query": "@placeholder left", "entities": ["Ann", "Bob"], "answers": ["Bob"],
                    "idx": {"passage": 0, "query": 4}}),
        "wsc.fixed": ({"text": text, "span1_index": number, "span2_index": number, "span1_text": text, "span2_text": text,
                       "idx": number, "label": boolean},
                      {"text": "Bob is he.", "span1_index": 0, "span2_index": 2, "span1_text": "Bob", "span2_text": "he",
                       "idx": 0, "label": 1}),
    }
    with registered.skip_registration():
        class SuperGlue(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.2")
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in SETS]
            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(SETS[self.builder_config.name][0]))
            def _split_generators(self, manager):
                make = self._generate_examples
                return {"train": make(), "validation": make(), "test": make(True)}
            def _generate_examples(self, bare=False):
                row = dict(SETS[self.builder_config.name][1])
                if bare:
                    row |= {"answers": []} if "answers" in row else {"label": -1}
                yield 0, row
    for name in SETS:
        SuperGlue(config=name, file_format="array_record").download_and_prepare()
    found = {}
    for name in ("boolq", "multirc", "record", "wsc"):
        chosen = task(name)
        rows = chosen.picked("validation")
        found[name] = [[r["text"], r.get("pair"), r["label"], r["key"]] for r in rows]
        assert chosen.gold(chosen.picked("test"), "test") is None, name
    print("FOUND" + json.dumps(found))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True,
                          timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.split("FOUND")[1]) == {
        "boolq": [["p", "q", "true", 0]], "multirc": [["p", "q a", "1", [3, 5, 9]]],
        "record": [["Bob. Ann", "Ann left", "0", 4], ["Bob. Ann", "Bob left", "1", 4]],
        "wsc": [["# Bob # is * he *.", None, "true", 0]]}


GOLD = {
    "boolq": [{"idx": 0, "label": "true"}], "cb": [{"idx": 0, "label": "contradiction"}],
    "multirc": [{"idx": 3, "passage": {"questions": [
        {"idx": 5, "answers": [{"idx": 9, "label": 1}, {"idx": 10, "label": 0}]}, {"idx": 6, "answers": [{"idx": 11, "label": 1}]}]}}],
    "record": [{"idx": 4, "label": "Bob"}, {"idx": 5, "label": "the Ann of Rome"}],
    "superglue_rte": [{"idx": 0, "label": "not_entailment"}], "wic": [{"idx": 0, "label": "false"}],
    "wsc": [{"idx": 0, "label": "False"}],
}


@pytest.mark.parametrize("name", GOLD)
def test_gold_against_itself_is_right(folder, tmp_path, name):
    path = tmp_path / "gold.jsonl"
    for lines in (GOLD[name], GOLD[name][::-1]):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert set(task(name, str(folder)).score_file(path, "validation").values()) == {1.0}
    path.write_text("".join(json.dumps(line) + "\n" for line in (*GOLD[name], GOLD[name][0])))
    with pytest.raises(ValueError, match="is answered twice"):
        task(name, str(folder)).score_file(path, "validation")
    if isinstance(GOLD[name][0].get("label"), str) and GOLD[name][0]["label"].lower() in ("true", "false"):      # JSON's own
        path.write_text(json.dumps({"idx": 0, "label": GOLD[name][0]["label"].lower() == "true"}) + "\n")
        assert set(task(name, str(folder)).score_file(path, "validation").values()) == {1.0}


@pytest.mark.parametrize("name,line,message", [
    ("multirc", {"idx": 3, "passage": {"questions": [{"idx": 5, "answers": [{"idx": 9, "label": -1}]}]}}, "label -1, expected 0 or 1"),
    ("multirc", {"idx": 3, "passage": {"questions": [{"idx": 5, "answers": [{"idx": 9, "label": 0.7}]}]}}, "expected a whole number"),
    ("multirc", {"idx": 3, "passage": {"questions": [{"idx": 5, "answers": [{"idx": 9, "label": 1}, {"idx": 9, "label": 1}]}]}},
     r"\(3, 5, 9\) is answered twice"),
    ("record", {"idx": 4, "label": None}, "the answer None is no text"), ("boolq", {"idx": 0.5, "label": "true"}, "idx 0.5, expected a whole"),
    ("cb", {"idx": 0, "label": float("nan")}, "'NaN' is none of entailment"),
])
def test_answers_that_are_none_are_named(folder, tmp_path, name, line, message):
    (tmp_path / "p.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=message):
        task(name, str(folder)).score_file(tmp_path / "p.jsonl", "validation")


@pytest.mark.parametrize("label", [3, 0.5, float("nan")])
def test_a_label_beyond_the_classes_is_refused(tmp_path, label):
    (tmp_path / "val.jsonl").write_text(json.dumps({**ROWS["boolq"], "label": label}) + "\n")
    with pytest.raises(ValueError, match=r"val.jsonl: row 0 is no row of boolq \(.*label"):
        task("boolq", str(tmp_path)).picked("validation")


@pytest.mark.parametrize("name,row,message", [
    ("record", {**RECORD, "qas": [{"query": None, "idx": 4, "answers": [{"text": "Bob"}]}]}, "row 0 is no row of record"),
    ("record", {**RECORD, "qas": [{"query": "q", "idx": 4, "answers": [{"text": None}]}]}, "an answer is no text"),
    ("multirc", {**MULTIRC, "passage": {**MULTIRC["passage"], "text": None}}, "row 0 is no row of multirc"),
    ("wsc", {**ROWS["wsc"], "target": {**ROWS["wsc"]["target"], "span1_text": None}}, "row 0 is no row of wsc"),
    ("boolq", {**ROWS["boolq"], "idx": 1.5}, "the row has the idx 1.5, expected a whole number"),
])
def test_values_of_another_kind_are_named(tmp_path, name, row, message):
    (tmp_path / "val.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=message):
        task(name, str(tmp_path)).picked("validation")


@pytest.mark.parametrize("name", ["boolq", "multirc", "record"])
def test_an_idx_that_comes_twice_is_named(tmp_path, name):
    """Answers are known by it: one of the two rows would be scored by the other's answer."""
    (tmp_path / "val.jsonl").write_text((json.dumps(ROWS[name]) + "\n") * 2)
    with pytest.raises(ValueError, match=r"row 1 has the idx .*, as .*row 0 has: answers are known by it"):
        task(name, str(tmp_path)).picked("validation")
