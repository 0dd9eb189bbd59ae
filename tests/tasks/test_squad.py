"""SQuAD as a task: reading, labels, what windows say put together as BERT's and XLNet's scripts do, files and faults."""

import gzip
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from bertvariants_jax import cli
from bertvariants_jax.recipe import Optim, Recipe, Settings, evaluate, model, run, task_of_run
from bertvariants_jax.tasks.named import task
from bertvariants_jax.tasks.squad import Squad, Windows, read_questions
from bertvariants_jax.text import Tokenizer, train

CONTEXT = "The tower was built in 1889 by Gustave Eiffel, a naïve man. It is 330 metres tall; Paris likes it."
OTHER = "Cats sleep all day. Dogs don't, and the birds sing at 5 a.m. in the tall trees of Paris."


def asked(id, question, context, *answers, **more):
    places = [{"text": text, "answer_start": context.find(text)} for text in answers]
    return {"id": id, "question": question, "answers": places, **more}


def squad_file(path, *paragraphs, **more):
    article = {"title": "t", "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs]}
    path.write_text(json.dumps({"version": "x", "data": [article], **more}))
    return str(path)


@pytest.fixture
def files(tmp_path):
    first = [asked("who", "Who built it?", CONTEXT, "Gustave Eiffel", "Eiffel"), asked("tall", "How tall?", CONTEXT, "330 metres")]
    second = [asked("birds", "When do birds sing?", OTHER, "5 a.m.", "at 5 a.m."),
              asked("none", "Who is the king?", OTHER, is_impossible=True)]
    squad_file(tmp_path / "train-v2.0.json", (CONTEXT, first), (OTHER, second))
    squad_file(tmp_path / "dev-v2.0.json", (CONTEXT, first), (OTHER, second))
    return tmp_path


@pytest.fixture(scope="module")
def tokenizers():
    texts = [CONTEXT, OTHER, "Who built it? How tall? When do birds sing? Who is the king?"] * 3
    return {kind: train(texts, kind, 330 if kind == "roberta" else 130) for kind in ("bert", "roberta", "xlnet")}


def test_reading(files):
    questions = task("squad2", str(files)).questions("train")
    assert [q.id for q in questions] == ["who", "tall", "birds", "none"]
    assert questions[0].answers[0] == ("Gustave Eiffel", 31, 45) and questions[0].span == (31, 45)
    assert questions[3].answers == () and questions[3].span is None


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlnet"])
@pytest.mark.parametrize("head", ["span", "beam"])
def test_rows(files, tokenizers, kind, head):
    """The labelled pieces hold the answer, in every window that has all of it; the others point at [CLS]."""
    tokenizer = tokenizers[kind]
    examples = task("squad2", str(files), head=head, max_length=40, stride=8).examples("train", tokenizer)
    batch = examples.rows(np.arange(len(examples)), np.zeros(len(examples), int))
    assert len(examples) > 8 and set(examples.number) == {0, 1, 2, 3} and batch["input_ids"].shape[1] == 40
    cls, seen = tokenizer.cls_token_id, set()
    for i, number in enumerate(examples.number):
        ids, (first, last) = batch["input_ids"][i], (batch["start_positions"][i], batch["end_positions"][i])
        window = examples.pieces[examples.context[number]][examples.start[i] : examples.start[i] + examples.size[i]]
        answered = ids[first] != cls
        if answered:
            seen.add(number)
            begin, end = examples.tokens(number, examples.questions[number].span)
            assert ids[first : last + 1].tolist() == examples.pieces[examples.context[number]][begin : end + 1].tolist()
            offsets = examples.offsets[examples.context[number]]
            text = examples.questions[number].context[offsets[begin, 0] : offsets[end, 1]]
            assert examples.questions[number].answers[0].text in text
        else:
            assert first == last
        if head == "beam":
            open_ = np.flatnonzero(batch["p_mask"][i] == 0)
            assert ids[open_].tolist() in ([cls, *window], [*window, cls]) and batch["is_impossible"][i] == (not answered)
    assert seen == {0, 1, 2}


def restated(task, examples, outputs):
    """BERT's write_predictions, plainly: {id: (n-best [(text, start, end)], null odds)}."""
    result = {}
    for number, question in enumerate(examples.questions):
        rows = [i for i in range(len(examples)) if examples.number[i] == number]
        candidates, null = [], (1e6, None, None)
        for i in rows:
            length = int(examples.lengths[i])
            shift = examples.length - length if examples.tokenizer.padding_side == "left" else 0
            start, end = (outputs[key][i][shift : shift + length].astype(float) for key in ("start_logits", "end_logits"))
            cls = examples.frame.null(length)
            if start[cls] + end[cls] < null[0]:
                null = (start[cls] + end[cls], start[cls], end[cls])
            column = examples.frame.column(len(examples.asked[number]))
            ranked = [sorted(range(length), key=lambda k, x=x: -x[k])[: task.n_best] for x in (start, end)]
            for s in ranked[0]:
                for e in ranked[1]:
                    a, b = s - column + examples.start[i], e - column + examples.start[i]
                    inside = all(examples.start[i] <= t < examples.start[i] + examples.size[i] for t in (a, b))
                    if not inside or b < a or b - a + 1 > task.max_answer:
                        continue
                    best = max(rows, key=lambda r, a=a: (min(a - examples.start[r], examples.start[r] + examples.size[r] - 1 - a)
                               + 0.01 * examples.size[r] if examples.start[r] <= a < examples.start[r] + examples.size[r] else -1, -r))
                    if best == i:
                        candidates.append((start[s], end[e], a, b))
        if task.unanswerable:
            candidates.append((null[1], null[2], None, None))
        nbest, seen, offsets = [], set(), examples.offsets[examples.context[number]]
        for s, e, a, b in sorted(candidates, key=lambda c: c[0] + c[1], reverse=True):
            text = "" if a is None else question.context[offsets[a][0] : offsets[b][1]]
            if len(nbest) < task.n_best and text not in seen:
                seen.add(text)
                nbest.append((text, s, e))
        if task.unanswerable and "" not in seen:
            nbest.append(("", null[1], null[2]))
        spoken = next(entry for entry in nbest if entry[0])
        result[question.id] = nbest, null[0] - spoken[1] - spoken[2], spoken[0]
    return result


@pytest.mark.parametrize("kind", ["bert", "xlnet"])
@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_answers_are_those_of_the_original(files, tokenizers, kind, version, tmp_path):
    data = json.loads((files / "dev-v2.0.json").read_text())
    for paragraph in (paragraph for article in data["data"] for paragraph in article["paragraphs"] if version == "1.1"):
        paragraph["qas"] = [question for question in paragraph["qas"] if question["answers"]]
    (tmp_path / "dev.json").write_text(json.dumps(data))
    chosen = Squad(evaluation=str(tmp_path / "dev.json"), version=version, max_length=36, stride=7, n_best=6, max_answer=5)
    examples, draw = chosen.examples("validation", tokenizers[kind]), np.random.default_rng(3)
    for trial in range(6):
        logits = draw.normal(size=(2, len(examples), examples.length)).astype(np.float32)
        logits = np.round(logits, 1) if trial % 2 else logits                                # with ties
        outputs = {"start_logits": logits[0], "end_logits": logits[1]}
        for id, (nbest, odds, text) in restated(chosen, examples, outputs).items():
            found = chosen.found(examples, outputs)[id]
            assert [tuple(one) for one in found.listed] == nbest and found.text == text
            assert found.odds == (pytest.approx(odds, abs=1e-12) if version == "2.0" else None)


def test_beam_answers(files, tokenizers):
    """Log probabilities of start and end, nothing outside the context, and the least class logit of the windows."""
    chosen = task("squad2", str(files), head="beam", max_length=36, stride=7)
    examples, draw = chosen.examples("validation", tokenizers["xlnet"]), np.random.default_rng(5)
    rows, width = len(examples), examples.length
    outputs = {"start_top_probs": draw.random((rows, 3)).astype(np.float32), "start_top_index": draw.integers(0, width, (rows, 3)),
               "end_top_probs": draw.random((rows, 3, 4)).astype(np.float32), "end_top_index": draw.integers(0, width, (rows, 3, 4)),
               "cls_logits": draw.normal(size=rows).astype(np.float32)}
    found = chosen.found(examples, outputs)
    for number, question in enumerate(examples.questions):
        mine, want = found[question.id], {}
        for i in np.flatnonzero(examples.number == number):
            for s in range(3):
                for e in range(4):
                    places = outputs["start_top_index"][i, s] + examples.shift(i), outputs["end_top_index"][i, s, e] + examples.shift(i)
                    low, high = examples.start[i], examples.start[i] + examples.size[i]
                    if not (low <= places[0] <= places[1] < high and examples.best(number)[places[0]] == i):
                        continue
                    offsets = examples.offsets[examples.context[number]]
                    text = question.context[offsets[places[0], 0] : offsets[places[1], 1]]
                    score = np.log(float(outputs["start_top_probs"][i, s])) + np.log(float(outputs["end_top_probs"][i, s, e]))
                    want[text] = max(score, want.get(text, -np.inf))
        assert mine.odds == outputs["cls_logits"][examples.number == number].min()
        if want:
            assert {one.text: pytest.approx(one.start + one.end) for one in mine.listed} == want
            assert mine.text == max(want, key=want.get)
        else:
            assert mine.text == "" and mine.listed == [("", -1e6, -1e6)]


def final_text(predicted, words):
    """run_squad.py's get_final_text, with a basic tokenizer that splits punctuation, lowers and strips accents."""
    import unicodedata

    def basic(text):
        text = unicodedata.normalize("NFD", text.lower())
        text = "".join(c for c in text if unicodedata.category(c) != "Mn")
        spaced = "".join(f" {c} " if unicodedata.category(c)[0] == "P" or c in "$+<=>^`|~" else c for c in text)
        return " ".join(spaced.split())

    def bare(text):
        places = [i for i, c in enumerate(text) if c != " "]
        return "".join(text[i] for i in places), places

    split = basic(words)
    at = split.find(predicted)
    (plain, places), (joined, back) = bare(words), bare(split)
    if at < 0 or len(plain) != len(joined):
        return words
    return words[places[back.index(at)] : places[back.index(at + len(predicted) - 1)] + 1]


def test_text_is_recovered_as_get_final_text_does(shared_data):
    """1,500 spans of real contexts; where the original cannot align the strings it gives the whole words."""
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "bert-base-uncased")
    chosen = task("squad", str(shared_data / "squad"))
    questions = list({q.context: q for q in chosen.questions("validation")}.values())[:300]
    examples, draw, same, whole = Windows(questions, tokenizer, chosen), np.random.default_rng(0), 0, 0
    for number, question in enumerate(questions):
        pieces, offsets, context = examples.pieces[number], examples.offsets[number], question.context
        for _ in range(5):
            first = int(draw.integers(len(pieces)))
            last = min(first + int(draw.integers(6)), len(pieces) - 1)
            mine = context[offsets[first, 0] : offsets[last, 1]]
            begin, end = int(offsets[first, 0]), int(offsets[last, 1])
            while begin and context[begin - 1] not in " \t\r\n\u202f":
                begin -= 1
            while end < len(context) and context[end] not in " \t\r\n\u202f":
                end += 1
            words = " ".join(context[begin:end].split())
            shown = " ".join(tokenizer.id_to_token(int(i)) for i in pieces[first : last + 1]).replace(" ##", "").replace("##", "")
            theirs = final_text(shown, words)
            same += theirs == " ".join(mine.split())
            whole += theirs == words != " ".join(mine.split())
    assert same >= 1480 and same + whole >= 1495, (same, whole)


def test_real_files(shared_data):
    folder, tokenizer = str(shared_data / "squad"), Tokenizer.load(shared_data / "tokenizers" / "bert-base-uncased")
    two = task("squad2", folder)
    dev = two.examples("validation", tokenizer)
    assert len(dev.questions) == 4498 and sum(not q.answers for q in dev.questions) == 2255
    assert len(two.questions("train")) == 4719 and len(task("squad", folder).questions("validation")) == 6853
    batch = dev.rows(np.arange(len(dev)), np.zeros(len(dev), int))
    outputs = {key: np.eye(dev.length, dtype=np.float32)[batch[f"{key[:-7]}_positions"]] * 20
               for key in ("start_logits", "end_logits")}
    scores = two.score(dev, outputs)                                                         # as good as labels can be
    assert scores["total"] == 4498 and scores["exact"] > 99.9 and scores["best_f1"] > 99.9 and scores["NoAns_f1"] == 100
    assert two.baseline(dev)["f1"] == 100 * 2255 / 4498
    with pytest.warns(UserWarning, match="5 answers are not at their answer_start and were moved"):
        chinese = task("cmrc2018", f"{folder}/cmrc2018_trial.json.gz").questions("validation")
    assert len(chinese) == 1002 and all(q.span for q in chinese)


def test_answers_out_of_place(tmp_path, tokenizers):
    qas = [asked("ok", "?", CONTEXT, "Eiffel"), asked("gone", "?", CONTEXT, "London"),
           {"id": "off", "question": "?", "answers": [{"text": "it", "answer_start": 40}]},
           {"id": "case", "question": "?", "answers": [{"text": "gustave  EIFFEL", "answer_start": 0}]},
           {"id": "open", "question": "?", "answers": [{"text": "Paris"}]}]
    path = squad_file(tmp_path / "f.json", (CONTEXT, qas))
    with pytest.warns(UserWarning) as said:
        questions = {q.id: q for q in read_questions(path)}
    said = [str(one.message) for one in said]
    assert any("2 answers are not at their answer_start and were moved to where they are: of off, case" in one for one in said)
    assert any("1 answers are nowhere in their context and cannot be learnt: of gone" in one for one in said)
    spans = {id: q.span and CONTEXT[slice(*q.span)] for id, q in questions.items()}
    assert spans == {"ok": "Eiffel", "gone": None, "off": "it", "case": "Gustave Eiffel", "open": "Paris"}
    with pytest.warns(UserWarning, match="1 of 5 questions are left out of training"):
        assert len(Squad(data=path).examples("train", tokenizers["bert"]).questions) == 4
    path = squad_file(tmp_path / "g.json", (CONTEXT, [asked("gone", "?", CONTEXT, "London")]))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of the 1 questions has an answer in its context"):
        Squad(data=path, version="2.0").examples("train", tokenizers["bert"])


@pytest.mark.parametrize("content,message", [
    ('{"data": [{"paragraphs": [{"context": "a', r"f\.json, line 1, column 39: no whole JSON value .* half-written"),
    ("[1]", r"should be an object, not \[1\]"), ("{}", r"f\.json has no 'data'; it has: nothing"),
    ('{"data": []}', "holds no question"), ('{"data": 3}', "data should be a list, not 3"),
    ('{"data": [{"title": "x"}]}', r"data\[0\] has no 'paragraphs'; it has: title"),
    ('{"data": [{"paragraphs": [{"qas": []}]}]}', r"data\[0\]\.paragraphs\[0\] has no 'context'"),
    ('{"data": [{"paragraphs": [{"context": "x", "qas": [7]}]}]}', r"qas\[0\] should be an object, not 7"),
    ('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "a"}]}]}]}', r"qas\[0\] has no 'question'; it has: id, context"),
    ('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 5, "question": "q"}]}]}]}', "id should be a str, not 5"),
    ('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "a", "question": "q", "answers": [{}]}]}]}]}',
     r"qas\[0\]\.answers\[0\] has no 'text'"),
    ('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "a", "question": "q", "is_impossible": true, '
     '"answers": [{"text": "x", "answer_start": 0}]}]}]}]}', "is_impossible is true, yet there are 1 answers"),
    ('{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "a", "question": "q"}, {"id": "a", "question": "r"}]}]}]}',
     "the id 'a' stands there a second time"),
])
def test_faults_are_named(tmp_path, content, message):
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_questions(str(tmp_path / "f.json"))


def test_further_faults(files, tmp_path, tokenizers):
    (tmp_path / "h.json.gz").write_bytes(gzip.compress(b"{}" * 999)[:-12])
    with pytest.raises(ValueError, match="not a whole gzip file"):
        read_questions(str(tmp_path / "h.json.gz"))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_questions(str(tmp_path / "nowhere.json"))
    with pytest.raises(FileNotFoundError, match="no SQuAD JSON file, and no folder"):
        task("squad", str(tmp_path / "nowhere"))
    squad_file(files / "train-v2.0-more.json", (CONTEXT, []))
    with pytest.raises(ValueError, match="could all be the train file"):
        task("squad2", str(files))
    with pytest.raises(ValueError, match=r"no train data: give --task\.data"):
        task("squad2", str(files / "dev-v2.0.json")).examples("train", tokenizers["bert"])
    with pytest.raises(ValueError, match="max_length 8 leaves no room for a context"):
        task("squad2", str(files / "dev-v2.0.json"), max_length=8).examples("validation", tokenizers["bert"])
    for options, message in (({"stride": 0}, "task.stride must be at least 1"),
                             ({"scorer": "cmrc", "version": "2.0"}, "cmrc knows no unanswerable")):
        with pytest.raises(ValueError, match=message):
            Squad(**options)


def test_flat_rows(tmp_path, files):
    """Rows as HF's data sets and TFDS have them give the same questions."""
    questions = read_questions(str(files / "dev-v2.0.json"))
    rows = [{"id": q.id, "question": q.text, "context": q.context, "answers": {
        "text": [a.text for a in q.answers], "answer_start": [a.start for a in q.answers]}} for q in questions]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_questions(f"jsonl:{tmp_path / 'rows.jsonl'}") == questions


@pytest.mark.parametrize("start", [31, 31.0, "31", " 31.0 "])
@pytest.mark.parametrize("impossible", [False, "false", 0, 0.0, None, "False"])
def test_places_and_flags_however_they_are_written(tmp_path, start, impossible):
    (tmp_path / "f.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": [
        {"id": "a", "question": "?", "is_impossible": impossible, "answers": [{"text": "Gustave Eiffel", "answer_start": start}]},
        {"id": "b", "question": "?", "answers": {"text": ["Eiffel", "Gustave"], "answer_start": [39, start]}},
        *({"id": repr(flag), "question": "?", "is_impossible": flag, "answers": []} for flag in (True, "true", 1, "True")),
        {"id": "c", "question": "?", "is_impossible": 1}]}]}]}))
    questions = read_questions(str(tmp_path / "f.json"))
    assert questions[0].answers == (("Gustave Eiffel", 31, 45),) and questions[1].answers[1] == ("Gustave", 31, 38)
    assert all(question.answers == () for question in questions[2:]) and len(questions) == 7


@pytest.mark.parametrize("changes,message", [
    ({"answer_start": 13.5}, r"qas\[0\]\.answers\[0\] has the answer_start 13.5, expected a whole number"),
    ({"answer_start": "x"}, r"answers\[0\] has the answer_start 'x', expected a number"),
    ({"answer_start": None}, r"answers\[0\] has the answer_start None, expected a number"),
    ({"answer_start": True}, r"answers\[0\] has the answer_start True, expected a number"),
    ({"answer_start": float("nan")}, r"answers\[0\] has the answer_start nan, expected a number"),
    ({"text": None}, r"answers\[0\] has no 'text'"),
    ({"is_impossible": "maybe"}, r"qas\[0\] has the is_impossible 'maybe', expected true or false"),
    ({"answers": {"text": "Eiffel", "answer_start": 39}}, r"qas\[0\]: text and answer_start of its answers should be lists"),
    ({"answers": {"text": ["Eiffel", "it"], "answer_start": [39]}}, r"qas\[0\] has 2 texts of answers, but 1 of their"),
    ({"answers": "Eiffel"}, r"qas\[0\]: answers should be a list, not 'Eiffel'"),
])
def test_places_that_are_none_are_named(tmp_path, changes, message):
    answer = {"text": "Eiffel", "answer_start": 39} | {k: v for k, v in changes.items() if k in ("answer_start", "text")}
    row = {"id": "a", "question": "?", "answers": [answer]} | {k: v for k, v in changes.items() if k not in answer}
    squad_file(tmp_path / "f.json", (CONTEXT, [row]))
    with pytest.raises(ValueError, match=message):
        read_questions(str(tmp_path / "f.json"))


@pytest.mark.parametrize("start", [-1, 5000, 40])
def test_places_that_hold_something_else_are_counted(tmp_path, start):
    squad_file(tmp_path / "f.json", (CONTEXT, [{"id": "a", "question": "?", "answers": [{"text": "Eiffel", "answer_start": start}]}]))
    with pytest.warns(UserWarning, match="1 answers are not at their answer_start and were moved to where they are: of a"):
        (question,) = read_questions(str(tmp_path / "f.json"))
    assert CONTEXT[slice(*question.span)] == "Eiffel"


def test_the_other_version_is_refused_and_foreign_predictions_are_said(files, tmp_path, tokenizers):
    one, two, path = task("squad", str(files)), task("squad2", str(files)), tmp_path / "p.json"
    path.write_text(json.dumps({"who": "Eiffel", "tall": "330 metres", "birds": "5 a.m.", "none": ""}))
    assert {key: value for key, value in two.score_file(path, "validation").items() if key in ("exact", "f1")} == {"exact": 100, "f1": 100}
    for call in (lambda: one.score_file(path, "validation"), lambda: one.examples("validation", tokenizers["bert"])):
        with pytest.raises(ValueError, match=r"dev-v2.0.json: 1 of 4 questions are without answer, the first is 'none': .*squad2"):
            call()
    squad_file(tmp_path / "dev.json", (CONTEXT, [asked("who", "?", CONTEXT, "Eiffel"), asked("tall", "?", CONTEXT, "330 metres")]))
    v1 = task("squad", str(tmp_path / "dev.json"))
    with pytest.warns(UserWarning, match="2 of 4 predictions are of questions that are not in .*dev.json and count for nothing"):
        assert v1.score_file(path, "validation") == {"exact_match": 100, "f1": 100}
    path.write_text('{"who": "Eiffel"}')
    with pytest.warns(UserWarning, match="1 questions have no prediction: they score 0"):
        assert v1.score_file(path, "validation") == {"exact_match": 50, "f1": 50}
    for text, message in (('{"x": "Eiffel"}', "p.json answers none of the 2 questions of .*dev.json"),
                          ("{}", "p.json answers none of the 2"), ('{"who": "a", "who": "b"}', "p.json: 'who' stands there twice"),
                          ('{"who": null}', "the value of 'who' should be a text")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            v1.score_file(path, "validation")
    path.write_text('{"who": "Eiffel"}')
    (tmp_path / "null_odds.json").write_text('{"who": NaN}')
    with pytest.raises(ValueError, match=r"null_odds.json: 'who' has the value nan"):
        two.score_file(path, "validation")
    # answers of some questions alone, and of none at all
    squad_file(tmp_path / "some.json", (CONTEXT, [asked("who", "?", CONTEXT, "Eiffel"), {"id": "q", "question": "?"}]))
    with pytest.raises(ValueError, match=r"some.json: 1 of 2 questions have no answers .*the first is 'q'"):
        task("squad", str(tmp_path / "some.json")).score_file(path, "validation")
    squad_file(tmp_path / "hidden.json", (CONTEXT, [{"id": "q", "question": "?", "answers": []}]))
    assert len(task("squad", str(tmp_path / "hidden.json")).examples("validation", tokenizers["bert"]).questions) == 1
    squad_file(tmp_path / "bare.json", (CONTEXT, [{"id": "q", "question": "?", "answers": [], "is_impossible": False}]))
    with pytest.warns(UserWarning, match="1 questions have no answer, though is_impossible is false; .*: q"):
        read_questions(str(tmp_path / "bare.json"))


def test_train_evaluate_write_and_score(files, tmp_path, monkeypatch, capsys):
    """Through the recipe on eight devices: the same digits whatever the batch, and from the written files."""
    monkeypatch.setenv("BERTVARIANTS_CACHE", str(tmp_path / "cache"))
    chosen = task("squad2", str(files), max_length=40, stride=8)
    small = model("bert-tiny", hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                  max_position_embeddings=40, vocab_size=130)
    recipe = Recipe(chosen, small, Optim(rate=1e-2), Settings(steps=6, batch_size=8, log_every=3))
    outcome = run(recipe, tmp_path / "run")
    folder = tmp_path / "run" / "model"
    assert "eval/best_f1" in outcome.metrics and task_of_run(tmp_path / "run") == chosen
    scores = [evaluate(folder, chosen, batch_size=size, output=tmp_path / f"out{size}") for size in (8, 24)]
    counted = [{key: value for key, value in one.items() if "thresh" not in key} for one in scores]
    assert counted[0] == counted[1] and scores[0] == pytest.approx(scores[1], rel=1e-5) and scores[0]["total"] == 4
    said = json.loads((tmp_path / "out8" / "predictions.json").read_text())
    assert set(said) == {"who", "tall", "birds", "none"}
    nbest = json.loads((tmp_path / "out8" / "nbest_predictions.json").read_text())
    assert set(nbest["who"][0]) == {"text", "probability", "start_logit", "end_logit"}
    assert sum(one["probability"] for one in nbest["who"]) == pytest.approx(1)
    odds = json.loads((tmp_path / "out8" / "null_odds.json").read_text())
    assert all((said[id] == "") == (odds[id] > 0) for id in said)
    for path in (tmp_path / "out8" / "predictions.json", tmp_path / "out24" / "predictions.json"):
        assert cli.main(["evaluate", "--predictions", str(path), "--task", "squad2", "--data", str(files)]) == 0
        shown = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert {key: shown[key] for key in ("exact", "f1", "HasAns_f1", "NoAns_f1")} == {
            key: scores[0][key] for key in ("exact", "f1", "HasAns_f1", "NoAns_f1")}
    (tmp_path / "half.json").write_text('{"who": "Eiff')
    assert cli.main(["evaluate", "--predictions", str(tmp_path / "half.json"), "--task", "squad2", "--data", str(files)]) == 1
    assert "half.json, line 1" in capsys.readouterr().err


def test_tfds(tmp_path):
    """A data set made here with the features of TFDS's SQuAD, in a process of its own."""
    pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")
    code = """
    import numpy as np, tensorflow_datasets as tfds
    from bertvariants_jax.tasks.squad import read_questions

    class ToySquad(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        def _info(self):
            text = tfds.features.Text()
            answers = tfds.features.Sequence({"text": text, "answer_start": np.int32})
            features = {"id": np.str_, "title": text, "context": text, "question": text, "answers": answers}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))
        def _split_generators(self, manager):
            return {"train": self._generate_examples()}
        def _generate_examples(self):
            for i, answers in enumerate(({"text": ["Café", "a"], "answer_start": [2, 0]}, {"text": [], "answer_start": []})):
                yield i, {"id": f"q{i}", "title": "t", "context": "a Café", "question": "what?", "answers": answers}

    ToySquad(file_format="array_record").download_and_prepare()
    found = sorted(read_questions("tfds:toy_squad:train"))
    assert [(q.id, q.text, q.context) for q in found] == [("q0", "what?", "a Café"), ("q1", "what?", "a Café")], found
    assert found[0].answers == (("Café", 2, 6), ("a", 0, 1)) and found[1].answers == (), found
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300,
                          env={**__import__("os").environ, "TFDS_DATA_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-3000:]
