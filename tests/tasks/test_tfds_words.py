"""CoNLL-2003 and Cosmos QA as TFDS has them: its own builders with rows of ours; RACE, whose nested lists TFDS writes
with TensorFlow alone, from rows of its form."""

import json
import subprocess
import sys
import textwrap

import pytest

from bertvariants_jax.tasks import choice
from bertvariants_jax.tasks.named import task


def test_the_same_from_tfds(tmp_path):
    pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")
    code = """
    import json, os, sys, types
    os.environ["TFDS_DATA_DIR"] = sys.argv[1]
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text
    from bertvariants_jax.tasks.named import task

    def words(tags):
        n = len(tags)
        return {"tokens": ["Ann", "of", "Rome"][:n], "ner": tags, "chunks": ["O"] * n, "pos": ["NN"] * n}

    COSMOS = {"id": "q", "context": "c", "question": "why ?", **{f"answer{i}": f"a{i}" for i in range(4)}}
    SETS = {
        "conll2003/conll2003": {"train": [words(["B-PER", "O", "B-LOC"]), words(["O", "O"])], "dev": [words(["B-MISC", "I-MISC"])],
                                "test": [words(["O"])]},
        "cosmos_qa": {"train": [{**COSMOS, "label": 3}], "validation": [{**COSMOS, "label": 1}], "test": [{**COSMOS, "label": -1}]},
    }
    for name, splits in SETS.items():
        builder = tfds.builder(name)
        builder._make_download_manager = lambda **_: types.SimpleNamespace(downloaded_size=0)
        builder._split_generators = lambda *_, splits=splits, **__: {s: iter(enumerate(rows)) for s, rows in splits.items()}
        builder.download_and_prepare(file_format="array_record")
    ner = task("conll2003")
    found = {"ner": sorted([s.words, s.tags] for split in ("train", "validation") for s in ner.sentences(split))}
    found["cosmosqa"] = [[q.name, q.options[3], q.answer, q.context] for split in ("train", "validation", "test")
                         for q in task("cosmosqa").questions(split)]
    print("FOUND" + json.dumps(found))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True,
                          timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("FOUND")[1])
    assert found["ner"] == [[["Ann", "of"], ["B-MISC", "I-MISC"]], [["Ann", "of"], ["O", "O"]],
                            [["Ann", "of", "Rome"], ["B-PER", "O", "B-LOC"]]]
    assert found["cosmosqa"] == [["q", "why ? a3", 3, "c"], ["q", "why ? a3", 1, "c"], ["q", "why ? a3", None, "c"]]


def test_race_as_tfds_gives_its_rows(monkeypatch):
    def opened(address):
        group = address.split("/")[1].split(":")[0]
        answers = ["A", "D"] if group == "high" else ["B"]
        return [{"article": "a  b", "example_id": f"{group}7.txt", "questions": ["who ?", "is _ ?"][: len(answers)],
                 "options": [["w", "x", "y", "z"]] * len(answers), "answers": answers}]

    monkeypatch.setattr(choice, "open_source", opened)
    found = [[q.name, q.options[3], q.answer, q.context] for q in task("race").questions("validation")]
    assert found == [["high/high7.txt/0", "who ? z", 0, "a b"], ["high/high7.txt/1", "is z ?", 3, "a b"],
                     ["middle/middle7.txt/0", "who ? z", 1, "a b"]]
