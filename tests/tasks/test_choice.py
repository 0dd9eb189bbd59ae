"""Multiple choice: every benchmark's own files, the layouts and cuts of the papers' code, scores by group, bad files."""

import gzip
import json

import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.tasks.choice import CHOICES, Choice, asked, choice
from bertvariants_jax.tasks.named import task
from bertvariants_jax.text import Tokenizer, train

ARTICLE = "the cat sat on the mat\n\nand   the dog ran"
WORDS = "the cat sat on mat and dog ran who what is it because of sun moon rose fell he she".split()


@pytest.fixture(scope="module")
def tokenizer():
    return train([" ".join(WORDS)] * 5, "wordpiece", 200)


@pytest.fixture
def race(tmp_path):
    for split, groups in (("train", ("middle", "high")), ("dev", ("middle", "high")), ("test", ("high",))):
        for k, group in enumerate(groups):
            place = tmp_path / split / group
            place.mkdir(parents=True)
            for number in (10, 9):
                (place / f"{number}.txt").write_text(json.dumps({
                    "article": ARTICLE, "id": f"{group}{number}.txt", "answers": ["B", "CD"[k]],
                    "questions": ["who sat ?", "the _ is on the _ ."],
                    "options": [["cat", "dog", "sun", "moon"], ["he", "she", "it", "mat"]]}))
    return tmp_path


def test_race_reads_its_folders(race):
    task = choice("race", str(race))
    questions = task.questions("validation")
    assert [q.name for q in questions[:5]] == ["high/high9.txt/0", "high/high9.txt/1", "high/high10.txt/0",
                                               "high/high10.txt/1", "middle/middle9.txt/0"]
    assert questions[0].context == "the cat sat on the mat and the dog ran" and questions[0].answer == 1
    assert questions[0].options[0] == "who sat ? cat" and questions[1].options[3] == "the mat is on the mat ."
    assert len(Choice("race", str(race), groups=("middle",)).questions("train")) == 4
    with pytest.raises(ValueError, match="no questions of the group 'low'"):
        Choice("race", str(race), groups=("low",)).questions("train")


def test_a_batch_and_its_scores(race, tokenizer):
    task = choice("race", str(race), max_length=48, question_length=8)
    examples = task.examples("validation", tokenizer)
    batch = examples.rows(np.array([0, 5, 1]), np.zeros(3, int))
    assert batch["input_ids"].shape == (3, 4, examples.length) and examples.length % 16 == 0
    assert batch["labels"].tolist() == [1, 2, 3] and batch["labels"].dtype == np.int32
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    text = tokenizer.decode(batch["input_ids"][0, 2], skip_special_tokens=False).replace(" [PAD]", "")
    assert text == "[CLS] the cat sat on the mat and the dog ran [SEP] who sat ? sun [SEP]".replace("?", "[UNK]")
    logits = np.eye(4)[[1, 3, 1, 3, 1, 0, 1, 2]]
    assert task.score(examples, {"logits": logits}) == {"accuracy": 7 / 8, "high/accuracy": 1.0, "middle/accuracy": 0.75}
    assert task.baseline(examples)["accuracy"] == 0.5
    assert task.best == "accuracy" and task.heads == ("choice",)


def test_prediction_files(race, tokenizer, tmp_path):
    task = choice("race", str(race))
    examples = task.examples("validation", tokenizer)
    logits = np.eye(4)[[1, 3, 1, 3, 1, 0, 1, 2]]
    [path] = task.write(examples, {"logits": logits}, tmp_path)
    lines = path.read_text().splitlines()
    assert json.loads(lines[1]) == {"id": "high/high9.txt/1", "label": "D"}
    assert task.score_file(path) == task.score(examples, {"logits": logits})
    path.write_text("\n".join(reversed(lines)))
    assert task.score_file(path)["accuracy"] == 7 / 8
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match=r"no answer to 1 questions, the first is 'high/high9\.txt/0'"):
        task.score_file(path)
    path.write_text("\n".join([*lines, '{"id": "x", "label": 0}']))
    with pytest.raises(ValueError, match="answers 'x', which is no question of the validation data"):
        task.score_file(path)
    path.write_text("\n".join([lines[0], '{"id": "x"}']))
    with pytest.raises(ValueError, match=r'predictions\.jsonl, line 2: expected \{"id"'):
        task.score_file(path)


def test_cuts_are_those_of_the_papers(tmp_path, tokenizer):
    """ALBERT's and XLNet's: the question keeps its last pieces and the context loses its end; RoBERTa's: both keep
    their first, the question stands first."""
    long = "cat " * 30 + "dog", "who sat " * 6
    (tmp_path / "dev.json").write_text(json.dumps([[[long[0]], [{"question": long[1], "choice": ["sun", "moon", "it"],
                                                               "answer": "moon"}], "7"]]))
    task = choice("dream", str(tmp_path), max_length=24, question_length=5)
    ids = lambda text: [tokenizer.token_to_id(word) for word in text.split()]
    row = task.examples("validation", tokenizer).row(0, 1)
    cls, sep = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    assert row["input_ids"].tolist() == cls + ids("cat " * 16) + sep + ids("who sat who sat moon") + sep
    assert row["token_type_ids"].tolist() == [0] * 18 + [1] * 6
    byte_level = train(["cat who sat dog moon"] * 3, "roberta", 300)
    assert byte_level.family == "roberta"
    row = task.examples("validation", byte_level).row(0, 1)
    first, second = byte_level.ids([long[1].strip() + " moon", long[0]])
    want, _ = byte_level.build(first[:5], second[: 24 - 4 - 5])
    assert row["input_ids"].tolist() == want.tolist() and len(want) == 24
    xlnet = train(["cat who sat dog moon"] * 9, "xlnet", 30)
    assert xlnet.family == "xlnet"
    row = task.examples("validation", xlnet).row(0, 1)["input_ids"].tolist()
    assert row[-1] == xlnet.cls_token_id and row.index(xlnet.sep_token_id) == 24 - 3 - 5


def test_the_other_files(tmp_path):
    (tmp_path / "train.csv").write_text(
        "video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
        '0,0,"The cat, he","The cat, sat",he,gold,ran,fell,rose,"is, it",3\n')
    [question] = choice("swag", str(tmp_path)).questions("train")
    assert question.context == "The cat, sat" and question.options[3] == "he is, it" and question.answer == 3
    (tmp_path / "test.csv").write_text("sent1,sent2,ending0,ending1,ending2,ending3\nThe cat,he,a,b,c,d\n")
    [question] = choice("swag", str(tmp_path)).questions("test")
    assert question.answer is None
    (tmp_path / "valid.jsonl").write_text(json.dumps({"id": "q", "context": "c", "question": "why ?", "label": "2", **{
        f"answer{i}": f"a{i}" for i in range(4)}}) + "\n")
    [question] = choice("cosmosqa", str(tmp_path)).questions("validation")
    assert question.options[1] == "why ? a1" and question.answer == 2 and question.name == "q"


def test_copa_in_both_of_its_formats(tmp_path, tokenizer):
    items = "".join(f'<item id="{i + 1}" asks-for="{"cause" if i % 2 else "effect"}" most-plausible-alternative="{1 + i % 2}">'
                    "<p>the sun rose</p><a1>the cat ran</a1><a2>the dog sat</a2></item>" for i in range(500))
    (tmp_path / "copa-dev.xml").write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE copa-corpus SYSTEM "copa.dtd">\n'
                                           f'<copa-corpus version="1.0">{items}</copa-corpus>')
    task = choice("copa", str(tmp_path))
    assert len(task.questions("train")) == 400 and len(task.questions("validation")) == 100
    examples = task.examples("validation", tokenizer)
    effect, cause = (tokenizer.decode(examples.row(i, 1)["input_ids"], skip_special_tokens=False) for i in (0, 1))
    assert effect == "[CLS] the sun rose [SEP] the dog sat [SEP]" and cause == "[CLS] the dog sat [SEP] the sun rose [SEP]"
    [path] = task.write(examples, {"logits": np.tile([0.0, 1.0], (100, 1))}, tmp_path)
    assert json.loads(path.read_text().splitlines()[0]) == {"idx": 401, "label": 1}
    assert task.score_file(path)["accuracy"] == 0.5
    (tmp_path / "COPA").mkdir()
    (tmp_path / "COPA" / "val.jsonl").write_text(json.dumps({
        "premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 1, "idx": 0}) + "\n")
    (tmp_path / "copa-dev.xml").unlink()
    [question] = task.questions("validation")
    assert question.flipped and question.answer == 1 and question.options == ("a", "b")


@pytest.mark.parametrize("name,file,text,message", [
    ("dream", "dev.json", '[[["a"], [{"question": "q", "choice": ["x", "y"], "answer": "z"}], "1"]]',
     r"dev\.json: dialogue 0, question 0: the answer is none of the 2 options"),
    ("dream", "dev.json", '[[["a"], [{"question": "q"', r"dev\.json: not whole JSON"),
    ("dream", "dev.json", '[[["a"], []]]', r"dialogue 0: expected \[turns, questions, id\]"),
    ("dream", "dev.json", '[[["a"], [{"choice": ["x"], "answer": "x"}], "1"]]', r"dialogue 0 has no 'question'; it has: choice"),
    ("dream", "dev.json", '[[["a"], [{"question": "q", "choice": ["x", "y"], "answer": "x"},'
     '{"question": "q", "choice": ["x"], "answer": "x"}], "1"]]', r"1/1 has 1 options, 1/0 has 2"),
    ("swag", "val.csv", "sent1,sent2,ending0,ending1,ending2,label\na,b,c,d,e,0\n", r"row 0 has no 'ending3'"),
    ("swag", "val.csv", "sent1,sent2,ending0,ending1,ending2,ending3,label\na,b,c,d,e,f,x\n",
     r"row 0 has the label 'x', expected a number"),
    ("cosmosqa", "valid.jsonl", '{"context": "c", "question": "q", "answer0": "a", "answer1": "a", "answer2": "a",'
     '"answer3": "a", "label": 4}', r"the answer is none of the 4 options"),
    ("dream", "dev.json", '[[["a", null], [{"question": "q", "choice": ["x", "y"], "answer": "x"}], "1"]]',
     r"dialogue 0 has the turn None, expected text"),
    ("dream", "dev.json", '[[["a"], null, "1"]]', r"dialogue 0 has None as 1, expected a list"),
    ("copa", "val.jsonl", '{"premise": 4, "choice1": "a", "choice2": "b", "question": "cause", "idx": 3}',
     r"item 3 has 4 as 'premise', expected text"),
    ("race", "dev/high/1.txt", '{"article": "a", "questions": ["q"], "options": [["x", "y"]], "answers": ["A", "B"]}',
     r"1.txt has 1 questions, 1 lists of options and 2 answers"),
    ("race", "dev/high/1.txt", '{"article": "a", "questions": ["q"], "options": [null], "answers": ["A"]}',
     r"1.txt: options has None as 0, expected a list"),
    ("copa", "val.jsonl", '{"premise": "p", "choice1": "a", "choice2": "b", "question": "why", "idx": 3}',
     r"item 3 asks for 'why', expected cause or effect"),
])
def test_bad_files_are_named(tmp_path, name, file, text, message):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        choice(name, str(tmp_path)).questions("validation")


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="none of dev is there"):
        choice("race", str(tmp_path)).questions("validation")
    (tmp_path / "dev").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no middle/\*\.txt or high/\*\.txt there"):
        choice("race", str(tmp_path)).questions("validation")
    with pytest.raises(ValueError, match="TFDS has no dream"):
        task("dream").questions("train")
    with pytest.raises(ValueError, match="unknown task 'arc'"):
        choice("arc")
    with pytest.raises(ValueError, match="there is no split 'dev'"):
        choice("swag", str(tmp_path)).questions("dev")
    with pytest.raises(ValueError, match="leaves no room for the context"):
        choice("race", question_length=512)
    assert asked("is _ or _ ?", "x") == "is x or x ?" and asked("why ?", " x\n y") == "why ? x y"


def test_choices_permute_with_their_logits(race, tokenizer):
    """The axes are (question, option): other orders of the options give the same scores in that order."""
    from bertvariants_jax.objectives.finetune import classification

    checkpoint = bv.new("bert", heads=("choice",), seed=1, vocab_size=tokenizer.vocab_size, hidden_size=24,
                        num_hidden_layers=1, num_attention_heads=3, intermediate_size=40, max_position_embeddings=64,
                        initializer_range=0.5)
    examples = choice("race", str(race), max_length=48, question_length=8).examples("train", tokenizer)
    batch = examples.rows(np.arange(3), np.zeros(3, int))
    predict = classification(checkpoint.network, "choice").predict
    logits = np.asarray(predict(checkpoint.params, batch)["logits"])
    order = np.array([2, 0, 3, 1])
    turned = {key: value[:, order] if value.ndim == 3 else value for key, value in batch.items()}
    assert logits.shape == (3, 4) and np.ptp(logits) > 1e-3
    np.testing.assert_allclose(np.asarray(predict(checkpoint.params, turned)["logits"]), logits[:, order], atol=1e-5)


def test_the_real_files(shared_data):
    """Numbers of questions as SOURCES.md counts them; gzipped files."""
    tokenizer, folder = Tokenizer.load(shared_data / "tokenizers" / "bert-base-uncased"), str(shared_data / "multichoice")
    for name, split, count, options in (("dream", "validation", 2040, 3), ("cosmosqa", "validation", 2300, 4),
                                        ("copa", "train", 400, 2), ("copa", "validation", 100, 2)):
        questions = choice(name, folder).questions(split)
        assert len(questions) == count and len(questions[0].options) == options, name
        assert len({q.name for q in questions}) == count
    dev = choice("copa", folder).examples("validation", tokenizer)
    assert dev.rows(np.arange(5), np.zeros(5, int))["input_ids"].shape == (5, 2, 32)
    with gzip.open(shared_data / "multichoice" / "dream_dev.json.gz") as file:
        first = json.load(file)[0]
    assert choice("dream", folder).questions("validation")[0].context == " ".join(first[0])
    assert set(CHOICES) == {"race", "swag", "dream", "cosmosqa", "copa"}


@pytest.mark.parametrize("label,message", [
    ("AB", "line 2 has the answer 'AB', expected a letter of ABCDEFGH"), ("", "line 2 has the answer ''"),
    (1.5, r"line 2 has the label 1.5, expected a whole number"), (True, "line 2 has the label True, expected a number"),
    (None, "line 2 has the label None"), (float("nan"), "line 2 has the label nan"),
    (4, "by option 4, of 4 that are counted from 0"), (-1, "by option -1, of 4"), ("F", "by option 5, of 4"),
])
def test_answers_that_are_no_option_are_named(race, tokenizer, tmp_path, label, message):
    task = choice("race", str(race))
    lines = [{"id": q.name, "label": "ABCDEFGH"[q.answer]} for q in task.questions("validation")]
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert set(task.score_file(path).values()) == {1.0}                       # the gold answers, by letter and by number
    path.write_text("".join(json.dumps({**line, "label": "ABCDEFGH".index(line["label"])}) + "\n" for line in lines))
    assert set(task.score_file(path).values()) == {1.0}
    lines[1]["label"] = label
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=message):
        task.score_file(path)
    path.write_text("".join(json.dumps(line) + "\n" for line in (lines[0], *lines)))
    with pytest.raises(ValueError, match=r"line 2: '.*' is answered twice"):
        task.score_file(path)


def test_questions_of_which_some_have_no_answer_are_refused(tmp_path):
    rows = [[["a"], [{"question": "q", "choice": ["x", "y"], "answer": answer}], str(i)] for i, answer in enumerate(("x", None))]
    (tmp_path / "dev.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="1 of 2 validation questions have no answer, the first is '1/0'"):
        choice("dream", str(tmp_path)).questions("validation")


def test_an_option_that_is_no_text_is_named(tmp_path):
    (tmp_path / "dev.json").write_text(json.dumps([[["a"], [{"question": "q", "choice": ["x", None], "answer": "x"}], "7"]]))
    with pytest.raises(ValueError, match=r"dev.json: dialogue 0 has the question 'q' with the option None, expected two texts"):
        choice("dream", str(tmp_path)).questions("validation")
