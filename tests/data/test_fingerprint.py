"""What is read leaves a fingerprint that changes with the content, whatever the kind of data, and with nothing else."""

import gzip
import json
import os
import types

import numpy as np
import pytest

from bertvariants_jax.data import fingerprint
from bertvariants_jax.data.corpus import Corpus, nsp_pairs
from bertvariants_jax.data.fingerprint import noted
from bertvariants_jax.data.pipeline import pipeline
from bertvariants_jax.recipe import Classify, Continual, Knowledge, Pretrain, Squad, Tagging, task
from bertvariants_jax.text import Tokenizer, train

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] good bad film a b c d who is where yes no".split()
TEXT = "".join(f"a good film\na bad {word}\n\n" for word in "abcd" * 3)
ARTICLES = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "a good film", "qas": [
    {"id": "1", "question": "who", "answers": [{"text": "good", "answer_start": 2}]}]}]}]}
RACE = {"article": "a good film", "questions": ["who _"], "options": [["a", "b", "c", "d"]], "answers": ["A"], "id": "1"}
BOOLQ = [{"question": "who is a", "passage": "a good film", "label": True, "idx": 0}]
UNITS = {"text": ["a good film", "a bad film"], "units": [[[2, 6]], [[2, 5]]]}


TABLE = "text\tlabel\na\t0\nb\t1\nc\t0\n"


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# kind -> (file, content, (before, after) of a change, task of its folder)
KINDS = {
    "tsv": ("t.tsv", TABLE, ("a\t0", "a\t1"), lambda f: Classify(f"tsv:{f}/t.tsv", f"tsv:{f}/t.tsv")),
    "csv": ("t.csv", "text,label\na,0\nb,1\nc,0\n", ("a,0", "a,1"), lambda f: Classify(f"csv:{f}/t.csv", f"csv:{f}/t.csv")),
    "jsonl": ("t.jsonl", lines([{"text": text, "label": i % 2} for i, text in enumerate("abc")]), ('"label": 0', '"label": 1'),
              lambda f: Classify(f"jsonl:{f}/t.jsonl", f"jsonl:{f}/t.jsonl")),
    "labeled": ("t.txt", "X a\nY b\nX c\n", ("X a", "Y a"), lambda f: Classify(f"labeled:{f}/t.txt", f"labeled:{f}/t.txt")),
    "conll": ("t.conll", "a B-X\nb O\n\nb B-X\n", ("b B-X", "b B-Y"), lambda f: Tagging(f"conll:{f}/t.conll", f"conll:{f}/t.conll")),
    "glue": ("train.tsv", "sentence\tlabel\na\t0\nb\t1\n", ("a\t0", "a\t1"), lambda f: task("sst2", str(f))),
    "squad": ("train.json", json.dumps(ARTICLES), ('"text": "good", "answer_start": 2', '"text": "film", "answer_start": 7'),
              lambda f: Squad(f"{f}/train.json", f"{f}/train.json")),
    "superglue": ("train.jsonl", lines(BOOLQ), ("true", "false"), lambda f: task("boolq", str(f))),
    "choice": ("train/high/1.txt", json.dumps(RACE), ('["A"]', '["B"]'), lambda f: task("race", str(f))),
    "text": ("t.txt", TEXT, ("bad c", "bad d"), lambda f: Pretrain((f"text:{f}/*.txt",), (f"text:{f}/*.txt",), max_length=16)),
    "units": ("u.jsonl", lines([UNITS] * 4), ("[[2, 6]]", "[[0, 6]]"), lambda f: Continual(
        (f"jsonl:{f}/u.jsonl",), (f"jsonl:{f}/u.jsonl",), units="field:units", tasks=("masking",), max_length=16)),
    "dialogues": ("d.txt", "who is a\na is b\n\nwho is b\nb is c\n\n" * 4, ("is c", "is d"), lambda f: Knowledge(
        (f"text:{f}/d.txt",), (f"text:{f}/d.txt",), dialogues=(f"text:{f}/d.txt",), max_length=16)),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return Tokenizer.load(folder)


def read(made, tokenizer, cache) -> dict[str, str]:
    with noted(cache / "fingerprints") as found:
        made.examples("train", tokenizer, cache / "corpora")
    return found


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_has_a_fingerprint_of_its_content(kind, packed, tmp_path, tokenizer, monkeypatch):
    if packed and kind not in ("tsv", "squad", "text"):
        pytest.skip("files are unpacked at three doors")
    monkeypatch.setattr(fingerprint, "LARGE", 0)           # as of large files, whose fingerprints are kept
    name, content, (old, new), made = KINDS[kind]
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)

    def write(text):
        path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())

    write(content)
    folder = tmp_path / "data"
    before = read(made(folder), tokenizer, tmp_path)
    assert before == read(made(folder), tokenizer, tmp_path)
    assert any(name.split("/")[-1].split(".")[0] in key for key in before)
    os.utime(path, (1, 1))
    assert before == read(made(folder), tokenizer, tmp_path)
    assert old in content and content.replace(old, new, 1) != content
    write(content.replace(old, new, 1))
    after = read(made(folder), tokenizer, tmp_path)
    assert before.keys() == after.keys() and before != after


def test_parquet(tmp_path, tokenizer):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(labels):
        parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": labels}), tmp_path / "t.parquet")

    made = Classify(f"parquet:{tmp_path}/t.parquet", f"parquet:{tmp_path}/t.parquet")
    write(["0", "1"])
    before = read(made, tokenizer, tmp_path)
    write(["1", "0"])
    assert len(before) == 1 and before != read(made, tokenizer, tmp_path)


def test_a_folder_of_many_files_is_one_entry(tmp_path, tokenizer):
    for i in range(30):
        (tmp_path / f"{i}.txt").write_text(TEXT)
    made = Pretrain((f"text:{tmp_path}/*.txt",), max_length=16)
    before = read(made, tokenizer, tmp_path / "cache")
    assert list(before) == [f"{tmp_path}/*"]
    (tmp_path / "7.txt").write_text(TEXT.replace("bad c", "bad d"))
    assert before != read(made, tokenizer, tmp_path / "cache")


def test_documentation_is_known_by_its_packages(tokenizer, tmp_path):
    with noted() as found:
        Pretrain(("docs:tokenizers",)).texts().__next__()
    assert list(found) == ["docs:tokenizers"]


class Examples:
    """Rows of a user's own task, which reads what it likes."""

    def __init__(self, labels):
        self.labels = np.array(labels, np.int32)

    def __len__(self):
        return len(self.labels)

    def rows(self, indices, epoch):
        ids = np.tile(np.arange(4, dtype=np.int32), (len(indices), 1))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": self.labels[indices]}


def test_a_stream_goes_on_with_the_rows_that_it_had_alone():
    state = json.loads(json.dumps(iter(pipeline(Examples([0, 1, 0, 1]), batch_size=2)).get_state()))
    iter(pipeline(Examples([0, 1, 0, 1]), batch_size=2)).set_state(state)
    with pytest.raises(ValueError, match="rows are not what they were"):
        iter(pipeline(Examples([1, 0, 0, 1]), batch_size=2)).set_state(state)
    iter(pipeline(Examples([1, 0, 0]), batch_size=3)).set_state(state, data_changed=True)
    with pytest.raises(ValueError, match="seed"):
        iter(pipeline(Examples([1, 0, 0]), batch_size=3, seed=1)).set_state(state, data_changed=True)
    del state["rows"]                                      # as of a run from before
    iter(pipeline(Examples([0, 1, 1, 1]), batch_size=2)).set_state(state)


def test_another_dictionary_of_units_makes_other_rows(tokenizer, tmp_path, monkeypatch):
    """A function that cuts words is no file that is read: its work shows in the rows."""
    (tmp_path / "d.txt").write_text(TEXT)
    cutter = types.ModuleType("cutter")
    monkeypatch.setitem(__import__("sys").modules, "cutter", cutter)
    made = Continual((f"text:{tmp_path}/d.txt",), (f"text:{tmp_path}/d.txt",), units="cutter:cut", tasks=("masking",),
                     max_length=16)
    found = []
    for words in (lambda text: text.split(), lambda text: [text]):
        cutter.cut = words
        found.append(fingerprint.rows_fingerprint(made.examples("train", tokenizer, None)))
    assert found[0] != found[1]


def test_packed_rows_and_their_order_are_told_apart(tokenizer):
    corpus = Corpus.build([["a good film", "a bad film"]] * 20, tokenizer)
    ids = {"cls_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    found = {fingerprint.rows_fingerprint(nsp_pairs(corpus, 16, seed=seed, **ids)) for seed in (0, 0, 1)}
    assert len(found) == 2


def test_other_merges_of_the_same_pieces_are_another_tokenizer(tmp_path):
    """A corpus that is kept is not taken for theirs."""
    documents = [["xqxqxq vkvk xqvk", "vkxq"]] * 20
    train([text for document in documents for text in document], "bpe", 300).save(tmp_path / "a")
    content = json.loads((tmp_path / "a/tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a").iterdir():
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "b/tokenizer.json").write_text(json.dumps(content))
    one, other = (Tokenizer.load(tmp_path / name) for name in "ab")
    assert one.vocab_size == other.vocab_size and one.fingerprint != other.fingerprint
    Corpus.build(documents, one, tmp_path / "cache")
    kept = Corpus.build(documents, other, tmp_path / "cache")
    np.testing.assert_array_equal(kept.tokens, Corpus.build(documents, other).tokens)
    assert len(kept.tokens) > len(Corpus.build(documents, one).tokens)
