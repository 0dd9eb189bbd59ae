"""Tagging: files of the shared tasks, labels on first pieces, sentences cut without loss, prediction files, bad files."""

import gzip
import json
import re

import numpy as np
import pytest

from bertvariants_jax.data.source import open_source
from bertvariants_jax.tasks.entities import entities
from bertvariants_jax.tasks.named import task
from bertvariants_jax.tasks.tagging import Tagging, ner
from bertvariants_jax.text import Tokenizer, train

# CoNLL-2003 as it is given out: IOB1, document lines, four columns between blanks
IOB1 = """-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O
. . O O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
York NNP I-NP I-LOC
Leeds NNP I-NP B-LOC

-DOCSTART- -X- -X- O

BRUSSELS NNP I-NP I-LOC
1996-08-22 CD I-NP O
"""
IOB2 = """EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O
. . O O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
York NNP B-NP B-LOC
Leeds NNP B-NP B-LOC

BRUSSELS NNP B-NP B-LOC
1996-08-22 CD I-NP O
"""
BIOES = IOB2.replace("B-ORG", "S-ORG").replace("B-MISC", "S-MISC").replace("B-LOC", "S-LOC").replace("I-PER", "E-PER")


@pytest.fixture(scope="module")
def tokenizer():
    text = [f"{word} " * 3 for word in "EU rejects German call . Peter York Leeds 1996-08-22 the a".split()] * 3
    return train(text, "wordpiece", 120, lowercase=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "eng.train").write_text(IOB1)
    (tmp_path / "eng.testa").write_text(IOB1)
    with gzip.open(tmp_path / "eng.testb.gz", "wt") as file:
        file.write(IOB1)
    return tmp_path


def test_three_schemes_are_one_data_set(tmp_path):
    read = {}
    for scheme, text in (("iob1", IOB1), ("iob2", IOB2), ("bioes", BIOES)):
        (tmp_path / scheme).write_text(text)
        for told in ("auto", scheme, "any"):
            task = Tagging(f"conll:{tmp_path / scheme}", f"conll:{tmp_path / scheme}", scheme=told)
            read[scheme, told] = [(s.words, s.tags) for s in task.sentences("train")]
    first = read["iob2", "iob2"]
    assert all(value == first for value in read.values())
    assert first[1][1] == ["B-PER", "I-PER", "B-LOC", "B-LOC"] and len(first) == 3
    bioes = Tagging(f"conll:{tmp_path / 'iob1'}", f"conll:{tmp_path / 'iob1'}", encoding="bioes")
    assert bioes.sentences("train")[1].tags == ["B-PER", "E-PER", "S-LOC", "S-LOC"]
    assert bioes.labels()[:5] == ("O", "B-LOC", "I-LOC", "E-LOC", "S-LOC") and len(bioes.labels()) == 17


def test_the_named_task_and_its_splits(folder):
    task = ner("conll2003", str(folder))
    assert task.labels() == ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
    assert [len(task.sentences(split)) for split in ("train", "validation", "test")] == [3, 3, 3]
    chunks = Tagging(f"conll:{folder / 'eng.train'}#2", held_out=0.5)            # the chunk column of the same file
    assert chunks.labels() == ("O", "B-NP", "I-NP", "B-VP", "I-VP")
    both = [len(chunks.sentences(split)) for split in ("train", "validation")]
    assert sum(both) == 3
    rows = open_source(f"conll:{folder / 'eng.train'}")
    assert rows[1]["line"] == 9 and rows[1]["tags"] == ["I-PER", "I-PER", "I-LOC", "B-LOC"]
    assert next(iter(rows.documents())).sentences


def test_your_own_sentences(folder, tmp_path):
    (tmp_path / "mine.tsv").write_text("text\ttags\n" + "He met Ann\tO O B-who\n" * 40)
    own = ner("conll2003", f"tsv:{tmp_path / 'mine.tsv'}", words="text", max_length=64)
    assert own.labels() == ("O", "B-who", "I-who") and own.max_length == 64
    assert len(own.sentences("train")) + len(own.sentences("validation")) == 40 and own.sentences("validation")
    one = ner("wnut17", f"conll:{next(folder.glob('*train*'))}")
    assert one.sentences("train")[0].words and not one.names


def test_labels_stand_on_first_pieces(folder, tokenizer):
    task = ner("conll2003", str(folder), max_length=64)
    examples = task.examples("train", tokenizer)
    batch = examples.rows(np.arange(3), np.zeros(3, int))
    assert batch["labels"].dtype == np.int32 and batch["labels"].shape == batch["input_ids"].shape
    for row, sentence in enumerate(examples.sentences):
        at = np.flatnonzero(batch["labels"][row] >= 0)
        assert [task.labels()[i] for i in batch["labels"][row][at]] == sentence.tags
        assert at.tolist() == examples.places[row].firsts.tolist()
        pieces = [tokenizer.id_to_token(i) for i in batch["input_ids"][row][at]]
        for piece, word in zip(pieces, sentence.words, strict=True):
            assert piece == "[UNK]" or (word.startswith(piece) and not piece.startswith("##"))
        assert batch["labels"][row, 0] == -100


def test_long_sentences_are_cut_and_no_word_is_lost(tmp_path, tokenizer):
    draw = np.random.default_rng(0)
    words = [[str(draw.choice(["EU", "York", "Leeds", "rejects", "Blackburnings" * 2])) for _ in range(n)]
             for n in (1, 5, 60, 13, 14, 15, 200)]
    words[3] = ["Leeds" * 40, "York", "\u200b", "EU"]          # longer than a row; a word of which nothing is left
    tags = [["B-LOC" if i % 3 == 0 else "I-LOC" if i % 3 == 1 else "O" for i in range(len(row))] for row in words]
    (tmp_path / "long").write_text("\n".join(
        "\n".join(f"{word}\t{tag}" for word, tag in zip(*row, strict=True)) + "\n" for row in zip(words, tags, strict=True)))
    task = Tagging(f"conll:{tmp_path / 'long'}", f"conll:{tmp_path / 'long'}", max_length=16)
    examples = task.examples("validation", tokenizer)
    assert len(examples) > len(examples.sentences) == 7 and examples.length == 16
    batch = examples.rows(np.arange(len(examples)), np.zeros(len(examples), int))
    assert (batch["labels"] >= 0).sum() == sum(map(len, words))
    perfect = np.eye(3)[np.maximum(batch["labels"], 0)]
    assert task.predicted(examples, {"logits": perfect}) == tags
    got = task.score(examples, {"logits": perfect})
    assert got["f1"] == got["accuracy"] == got["LOC/f1"] == 1
    assert task.baseline(examples) | {"accuracy": 0} == {name: 0.0 for name in got}
    (tmp_path / "out").mkdir()
    [path] = task.write(examples, {"logits": perfect}, tmp_path / "out")
    assert task.score_file(path)["f1"] == 1


def test_padding_on_the_left(folder):
    tokenizer = train([IOB2] * 3, "unigram", 60, lowercase=False)
    tokenizer.padding_side = "left"
    task = ner("conll2003", str(folder))
    examples = task.examples("train", tokenizer)
    batch = examples.rows(np.arange(3), np.zeros(3, int))
    assert batch["attention_mask"][0, 0] == 0
    assert task.score(examples, {"logits": np.eye(9)[np.maximum(batch["labels"], 0)]})["f1"] == 1


def test_other_fields_and_numbers(tmp_path):
    (tmp_path / "a.tsv").write_text("text_a\tlabel\n北 京 好\tB-LOC I-LOC O\n我\tO\n")
    task = Tagging(f"tsv:{tmp_path / 'a.tsv'}", f"tsv:{tmp_path / 'a.tsv'}", words="text_a", tags="label")
    assert task.sentences("train")[0][:2] == (["北", "京", "好"], ["B-LOC", "I-LOC", "O"])
    (tmp_path / "a.jsonl").write_text(json.dumps({"tokens": ["a", "b"], "ner": [0, 2]}) + "\n")
    numbered = Tagging(f"jsonl:{tmp_path / 'a.jsonl'}", f"jsonl:{tmp_path / 'a.jsonl'}", words="tokens", tags="ner",
                       names=("O", "B-X", "I-X"), scheme="any")
    assert numbered.sentences("train")[0].tags == ["O", "B-X"]


def test_an_order_of_the_model_is_taken(folder):
    task = ner("conll2003", str(folder))
    other = ("O", *(f"{p}-{t}" for t in ("MISC", "PER", "ORG", "LOC") for p in "BI"))
    assert task.fitted(other, None).labels() == other
    assert task.fitted(("LABEL_0", "LABEL_1"), None) is task
    bioes = (*(f"{p}-{t}" for t in ("MISC", "PER", "ORG", "LOC") for p in "SEIB"), "O")
    assert task.fitted(bioes, None).sentences("train")[0].tags[0] == "S-ORG"


def test_predictions_are_read_as_conlleval_reads_them(folder, tmp_path):
    path = tmp_path / "said.conll"
    lines = ["EU I-ORG B-ORG", "rejects O O", "German I-MISC I-MISC", "call O I-MISC", ". O O", "",
             "Peter I-PER B-PER", "Blackburn I-PER I-PER", "York I-LOC I-LOC", "Leeds B-LOC B-LOC", "",
             "BRUSSELS I-LOC O", "1996-08-22 O O"]
    path.write_text("\n".join(lines) + "\n")
    known = ner("conll2003", str(folder)).score_file(path, "validation")        # found 5, right 4, known 6
    assert known["precision"] == 4 / 5 and known["recall"] == 4 / 6 and known["MISC/f1"] == 0
    alone = Tagging().score_file(path)
    assert alone["f1"] == known["f1"] == pytest.approx(2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6))
    for change, message in (
            ((1, "refuses O O"), r"said\.conll, line 2: the word is 'refuses', but 'rejects' in .*eng\.testa, line 4"),
            ((4, ""), r"line 1: the sentence has 4 words, but 5"),
            ((2, "German I-MISC MISC"), r"line 3: 'MISC' is no tag"),
            ((3, "call O"), r"line 4: 2 columns, but 3")):
        changed = lines.copy()
        changed[change[0]] = change[1]
        path.write_text("\n".join(changed) + "\n")
        with pytest.raises(ValueError, match=message):
            ner("conll2003", str(folder)).score_file(path, "validation")
    path.write_text("\n".join(lines[:6]))
    with pytest.raises(ValueError, match="has 1 sentences, but the data 3"):
        ner("conll2003", str(folder)).score_file(path, "validation")


@pytest.mark.parametrize("text,message", [
    ("a O\nb B-X\nc\n", r"bad, line 3: 1 columns, but 2 in the lines before"),
    ("a O\n\nb B\n", r"bad, line 3: 'B' is no tag"),
    ("a O\nb B-X\n\nc I-X\nd B-X\n\ne B-X\nf I-X\n\ng B-X\n", r"bad, line 4: 'c' is tagged I-X at the beginning, which "
     r"breaks the scheme IOB2: mend the file, or take it as it is by --task\.scheme any"),
    ("a S-X\nb O\nc E-X\n\nd S-X\n\ne S-X\n", r"bad, line 3: 'c' is tagged E-X after O, which breaks the scheme BIOES"),
    ("a O\nb O\n", r"no word is tagged with an entity"),
])
def test_bad_files_are_named(tmp_path, tokenizer, text, message):
    (tmp_path / "bad").write_text(text)
    task = Tagging(f"conll:{tmp_path / 'bad'}", f"conll:{tmp_path / 'bad'}")
    with pytest.raises(ValueError, match=message):
        task.examples("train", tokenizer)


def test_bad_options_and_data_are_named(folder, tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"eng\.train, line 3: the tag 'B-ORG' is of no type that the task knows: PER"):
        ner("conll2003", str(folder), types=("PER",)).examples("train", tokenizer)
    with pytest.raises(ValueError, match=r"there is no column 7, the line has 4"):
        Tagging(f"conll:{folder / 'eng.train'}#7").sentences("train")
    with pytest.raises(ValueError, match="the column must be a number"):
        Tagging(f"conll:{folder / 'eng.train'}#ner").sentences("train")
    with pytest.raises(FileNotFoundError, match=r"none of wnut17train\.conll, train\.conll is there"):
        ner("wnut17", str(folder))
    with pytest.raises(ValueError, match="TFDS has no wnut17"):
        task("wnut17")
    with pytest.raises(ValueError, match="unknown task 'conll2004'"):
        ner("conll2004")
    with pytest.raises(ValueError, match="no test data"):
        Tagging("conll:x").source("test")
    (tmp_path / "a.jsonl").write_text(json.dumps({"words": ["a", "b"], "tags": ["O"]}) + "\n")
    with pytest.raises(ValueError, match="row 0 has 2 words, but 1 tags"):
        Tagging(f"jsonl:{tmp_path / 'a.jsonl'}").sentences("train")
    with pytest.raises(ValueError, match="row 0 has no field 'tokens'; it has: words, tags"):
        Tagging(f"jsonl:{tmp_path / 'a.jsonl'}", words="tokens").sentences("train")


def test_a_test_set_without_tags(folder, tmp_path, tokenizer):
    (folder / "eng.testb.gz").unlink()
    (folder / "eng.testb").write_text("EU\nrejects\n\nPeter\n")
    task = ner("conll2003", str(folder))
    examples = task.examples("test", tokenizer)
    batch = examples.rows(np.arange(2), np.zeros(2, int))
    assert "labels" not in batch
    logits = {"logits": np.zeros((*batch["input_ids"].shape, 9))}
    assert task.score(examples, logits) == {} == task.baseline(examples)
    [path] = task.write(examples, logits, tmp_path)
    assert path.read_text() == "EU O\nrejects O\n\nPeter O\n\n"
    with pytest.raises(ValueError, match="has no tags to score against"):
        task.score_file(path, "test")


def test_wnut17_and_msra_as_they_are(shared_data):
    """Counts of the data sets themselves (their papers and SOURCES.md)."""
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "bert-base-uncased")
    task = ner("wnut17", str(shared_data / "ner" / "wnut17"))
    for split, sentences, words, found in (("train", 3394, 62730, 1975), ("validation", 1009, 15733, 836)):
        read = task.sentences(split)
        assert len(read) == sentences and sum(len(s.words) for s in read) == words
        assert sum(len(entities(s.tags)) for s in read) == found
    dev = task.examples("validation", tokenizer)
    batch = dev.rows(np.arange(len(dev)), np.zeros(len(dev), int))
    assert (batch["labels"] >= 0).sum() == 15733
    chinese = Tagging(f"tsv:{shared_data / 'ner/msra_ner_zh/dev.tsv.gz'}", words="text_a", tags="label")
    assert chinese.labels() == ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")
    assert sum(len(chinese.sentences(split)) for split in ("train", "validation")) == 2318


IOE2 = BIOES.replace("S-", "E-").replace("B-", "I-")
BILOU = BIOES.replace("S-", "U-").replace("E-", "L-")
FORMS = {"iob1": IOB1, "iob2": IOB2, "bioes": BIOES, "ioe2": IOE2, "bilou": BILOU}


@pytest.mark.parametrize("gold", FORMS)
@pytest.mark.parametrize("said", FORMS)
def test_gold_against_itself_is_right_in_every_scheme(tmp_path, gold, said):
    (tmp_path / "gold").write_text(FORMS[gold])
    (tmp_path / "said").write_text(FORMS[said])
    scores = Tagging(f"conll:{tmp_path / 'gold'}", f"conll:{tmp_path / 'gold'}").score_file(tmp_path / "said")
    assert set(scores.values()) == {1.0}
    # one word of eleven is tagged where there is nothing
    wrong = {"iob1": "I-X", "iob2": "B-X", "bioes": "S-X", "ioe2": "E-X", "bilou": "U-X"}[said]
    (tmp_path / "said").write_text(re.sub(r"(rejects.*) O\n", rf"\1 {wrong}\n", FORMS[said]))
    scores = Tagging(f"conll:{tmp_path / 'gold'}", f"conll:{tmp_path / 'gold'}").score_file(tmp_path / "said")
    assert scores["accuracy"] == pytest.approx(10 / 11) and scores["precision"] == pytest.approx(6 / 7) and scores["recall"] == 1


def test_gold_and_predicted_columns_of_one_file_in_two_schemes(tmp_path):
    (tmp_path / "both").write_text("EU I-ORG S-ORG\nof O O\nA I-PER B-PER\nB I-PER E-PER\n")
    assert set(Tagging().score_file(tmp_path / "both").values()) == {1.0}


def test_one_file_is_for_evaluation(folder, tmp_path, tokenizer):
    for name in ("eng.train", "eng.testb.gz"):
        (folder / name).unlink()
    alone = ner("conll2003", str(folder / "eng.testa"))
    assert len(alone.examples("validation", tokenizer).sentences) == len(ner("conll2003", str(folder)).sentences("validation")) == 3
    with pytest.raises(FileNotFoundError, match=r"there is no file .*eng.train"):
        ner("conll2003", str(folder)).sentences("train")
    with pytest.raises(ValueError, match="there is no split 'dev'; there are: train, validation, test"):
        alone.sentences("dev")


def test_sentences_of_which_some_have_no_tags_are_not_scored(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text('{"words": "the a", "tags": "O B-X"}\n{"words": "the", "tags": null}\n')
    task = Tagging(f"jsonl:{tmp_path / 'a.jsonl'}", f"jsonl:{tmp_path / 'a.jsonl'}")
    with pytest.raises(ValueError, match=r"a.jsonl: row 1, word 0: 1 of 2 sentences have no tags to score against"):
        task.baseline(task.examples("validation", tokenizer))


@pytest.mark.parametrize("row,message", [
    ({"words": None, "tags": ["O"]}, "row 0 has None as 'words', expected a list of words"),
    ({"words": ["a", None], "tags": ["O", "O"]}, r"row 0 has \['a', None\] as 'words'"),
    ({"words": ["a"], "tags": 3}, "row 0 has 3 as 'tags', expected a list of tags"),
    ({"words": ["a"], "tags": [None]}, "row 0 has the tag None, expected a number"),
    ({"words": ["a"], "tags": [0.5]}, "row 0 has the tag 0.5, expected a whole number"),
    ({"words": ["a"], "tags": [7]}, "row 0 has the tag 7, but task.names has 2 entries"),
])
def test_words_and_tags_that_are_none_are_named(tmp_path, row, message):
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    task = Tagging(f"jsonl:{tmp_path / 'a.jsonl'}", f"jsonl:{tmp_path / 'a.jsonl'}", names=("O", "B-X"))
    with pytest.raises(ValueError, match=message):
        task.sentences("train")


@pytest.mark.parametrize("predicted", ["I-PER O I-LOC I-LOC", "I-PER I-PER I-PER I-PER", "B-PER I-LOC O I-LOC"])
@pytest.mark.parametrize("data", ["B-PER O B-LOC B-LOC", "I-PER O I-LOC B-LOC"])
def test_predictions_that_break_their_scheme_get_the_same_scores_from_their_file(tmp_path, data, predicted):
    words, known = "ann in rome oslo".split(), ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    (tmp_path / "a").write_text("\n".join(map(" ".join, zip(words, data.split(), strict=True))) + "\n")
    task = Tagging(f"conll:{tmp_path / 'a'}", f"conll:{tmp_path / 'a'}", types=("PER", "LOC"))
    examples = task.examples("validation", train([" ".join(words)] * 9, "wordpiece", 60))
    [places] = examples.places
    logits = np.zeros((1, examples.length, len(known)))
    logits[0, places.firsts, [known.index(tag) for tag in predicted.split()]] = 1
    [path] = task.write(examples, {"logits": logits}, tmp_path)
    assert task.score_file(path) == task.score(examples, {"logits": logits})
    assert task.score(examples, {"logits": logits})["accuracy"] < 1


def test_msra_with_control_characters_between_its_words(tmp_path):
    (tmp_path / "dev.tsv").write_text("text_a\tlabel\n海\x02钓\x02比\tB-LOC\x02I-LOC\x02O\n")
    [sentence] = ner("msra", str(tmp_path)).sentences("validation")
    assert sentence.words == ["海", "钓", "比"] and sentence.tags == ["B-LOC", "I-LOC", "O"]
