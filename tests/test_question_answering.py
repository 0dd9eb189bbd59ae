"""The question-answering pipeline: HF's scores and offsets, windows, no answer, and every way to call it."""

import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.text import Tokenizer, train

CONTEXT = ("The tower was built in 1889 by the company of Gustave Eiffel. It is 330 metres tall, and the tallest building of "
           "Paris. Café owners near it don't like the lights; naïve visitors do. 😀 東京 has a copy of the tower. ")
QUESTIONS = ["Who built the tower?", "How tall is it?", "Which visitors like the lights?"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    train([CONTEXT, *QUESTIONS] * 3, "wordpiece", 120).save(folder)
    return folder


@pytest.fixture(scope="module")
def small(words):
    return bv.new("bert", heads=("span",), seed=3, tokenizer=words, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                  intermediate_size=40, max_position_embeddings=128, initializer_range=0.6,
                  vocab_size=Tokenizer.load(words).vocab_size)


def test_ways_to_ask(small):
    run = bv.pipeline("question-answering", small)
    one = run(question=QUESTIONS[0], context=CONTEXT)
    assert list(one) == ["score", "start", "end", "answer"]
    assert CONTEXT[one["start"] : one["end"]] == one["answer"] and 0 < one["score"] <= 1
    asked = [{"question": q, "context": CONTEXT} for q in QUESTIONS]
    many = run(asked)
    assert run(asked[0]) == pytest.approx(one) and len(many) == 3
    assert run(question=QUESTIONS, context=CONTEXT) == many and run(question=QUESTIONS, context=[CONTEXT] * 3) == many
    stream = run(one for one in asked)
    assert not isinstance(stream, list) and list(stream) == many
    top = bv.pipeline("question-answering", small, top_k=4)(asked[0])
    assert len(top) == 4 and [a["score"] for a in top] == sorted((a["score"] for a in top), reverse=True)
    assert top[0]["answer"] == one["answer"]


def test_what_cannot_be_asked(small):
    run = bv.pipeline("question-answering", small)
    for call, message in (
        (lambda: run(), "give question= and context="), (lambda: run(question="who?"), "give question= and context="),
        (lambda: run({"question": "who?"}), "input 0 has no text 'context'"), (lambda: run("who?"), "input 0 has no text"),
        (lambda: run([{"question": "who?", "context": "me"}, {"question": 3, "context": "x"}]), "input 1 has no text 'question'"),
        (lambda: run(question=["a", "b"], context=["c"] * 3), "2 questions, but 3 contexts"),
        (lambda: bv.pipeline("question-answering", small, doc_stride=900), "doc_stride must lie between 0 and"),
        (lambda: bv.pipeline("question-answering", small, top_k=0), "top_k must be at least 1"),
        (lambda: bv.pipeline("question-answering", small.with_heads()), "no 'span' head"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_window_given_for_a_call_has_its_own_stride(small):
    asked = {"question": "who?", "context": "the cat sat on the mat " * 30}
    run = bv.pipeline("question-answering", small)
    short = bv.pipeline("question-answering", small, max_length=40)
    assert run(asked, max_length=40) == short(asked) and short.having({"max_length": 64}).shared == 32


def test_hard_contexts(small):
    run = bv.pipeline("question-answering", small, max_length=64, handle_impossible_answer=True)
    contexts = ["", " ", "😀", "​", "مرحبا", "word " * 4000, "x" * 300]
    for context, found in zip(contexts, run(question="who? " * 50, context=contexts), strict=True):
        assert context[found["start"] : found["end"]] == found["answer"] and np.isfinite(found["score"])
    assert bv.pipeline("question-answering", small)(question="who?", context="") == {
        "score": 0.0, "start": 0, "end": 0, "answer": ""}
    assert len(run.shapes) <= 8


def test_no_answer_is_among_the_answers(small):
    run = bv.pipeline("question-answering", small, handle_impossible_answer=True, top_k=1000)
    found = run(question=QUESTIONS[0], context="tower")
    assert {"answer": "", "start": 0, "end": 0}.items() <= next(a for a in found if not a["answer"]).items()
    inputs = small.tokenizer(QUESTIONS[0], "tower")
    logits = np.asarray(small.logits("span", **inputs))[0].astype(np.float64)                # L 2
    open_ = np.zeros(len(logits), bool)
    open_[[0, -2]] = True                                                                    # [CLS] and "tower"
    shares = np.where(open_[:, None], np.exp(logits), 0)
    shares /= shares.sum(0)
    scores = {a["answer"]: a["score"] for a in found}
    assert scores[""] == pytest.approx(shares[0, 0] * shares[0, 1], rel=1e-4)
    assert scores["tower"] == pytest.approx(shares[-2, 0] * shares[-2, 1], rel=1e-4)


def test_a_window_is_as_good_as_a_short_context(small):
    """An answer in the second of several windows has its place in the whole context."""
    run = bv.pipeline("question-answering", small, max_length=48, doc_stride=10, top_k=500)
    for answer in run(question=QUESTIONS[0], context=CONTEXT * 4):
        assert (CONTEXT * 4)[answer["start"] : answer["end"]] == answer["answer"]


@pytest.mark.parametrize("variant,kind", [("xlnet", "xlnet"), ("albert", "albert"), ("electra", "bert")])
def test_beam_heads(variant, kind, tmp_path):
    train([CONTEXT, *QUESTIONS] * 3, kind, 120).save(tmp_path)
    sizes = {"xlnet": {"d_model": 24, "n_layer": 2, "n_head": 3, "d_inner": 40}}.get(variant, {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "embedding_size": 16})
    checkpoint = bv.new(variant, heads=("beam",), tokenizer=tmp_path, initializer_range=0.5,
                        vocab_size=Tokenizer.load(tmp_path).vocab_size, **sizes)
    run = bv.pipeline("question-answering", checkpoint, max_length=64, handle_impossible_answer=True, top_k=9999)
    for text in (CONTEXT * 3, "Paris"):
        found = run(question=QUESTIONS[1], context=text)
        assert "" in {a["answer"] for a in found} and len(found) > 1
        assert all(text[a["start"] : a["end"]] == a["answer"] for a in found)


def hf_answers(tokenizer, model, question, context, top_k=1, max_len=384, stride=128, impossible=False, longest=15, align=True):
    """What `transformers` 4's QuestionAnsweringPipeline computes, restated (version 5 has it no more), without blanks
    at the beginning of answers."""
    import torch

    encoded = tokenizer(question, context, truncation="only_second", max_length=max_len, stride=stride,
                        return_overflowing_tokens=True, return_offsets_mapping=True)
    answers, least = [], 1_000_000
    for i, ids in enumerate(encoded["input_ids"]):
        keys = [k for k in ("input_ids", "attention_mask", "token_type_ids") if k in encoded]
        with torch.no_grad():
            out = model(**{k: torch.tensor([encoded[k][i]]) for k in keys})
        usable = np.array([s == 1 or t == tokenizer.cls_token_id for s, t in zip(encoded.sequence_ids(i), ids, strict=True)])
        start, end = (np.where(usable, x.numpy()[0], -10000.0) for x in (out.start_logits, out.end_logits))
        start, end = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (start, end))
        if impossible:
            least = min(least, (start[0] * end[0]).item())
        start[0] = end[0] = 0.0
        table = np.tril(np.triu(np.outer(start, end)), longest - 1)
        flat, pre = table.flatten(), top_k * 2 + 10 if align else top_k
        best = np.argsort(-flat, kind="stable")[:pre]
        for s, e in zip(*np.unravel_index(best, table.shape), strict=True):
            if not (usable[s] and usable[e]):
                continue
            words = encoded.encodings[i]
            if align and words.token_to_word(int(s)) is not None:
                first = words.word_to_chars(words.token_to_word(int(s)), 1)[0]
                last = words.word_to_chars(words.token_to_word(int(e)), 1)[1]
            else:
                first, last = words.offsets[s][0], words.offsets[e][1]
            first += len(context[first:last]) - len(context[first:last].lstrip())    # some tokenizers' pieces begin with a blank
            text = context[first:last]
            same = next((a for a in answers if a["answer"].lower() == text.lower()), None)
            if same:
                same["score"] += table[s, e].item()
            else:
                answers.append({"score": table[s, e].item(), "start": first, "end": last, "answer": text})
    if impossible:
        answers.append({"score": least, "start": 0, "end": 0, "answer": ""})
    return sorted(answers, key=lambda a: a["score"], reverse=True)[:top_k]


OPTIONS = [{}, {"top_k": 5}, {"top_k": 3, "handle_impossible_answer": True}, {"top_k": 4, "align_to_words": False},
           {"max_answer_len": 2, "top_k": 3}, {"max_length": 64, "doc_stride": 16, "top_k": 5}]


@pytest.mark.peers
@pytest.mark.parametrize("variant,options", [("bert", OPTIONS), ("roberta", OPTIONS), ("modernbert", OPTIONS[-1:])])
def test_answers_are_those_of_transformers(variant, options, tmp_path):
    import transformers

    train([CONTEXT, *QUESTIONS] * 3, variant, 400).save(tmp_path / "words")
    words = Tokenizer.load(tmp_path / "words")
    checkpoint = bv.new(variant, heads=("span",), seed=3, tokenizer=tmp_path / "words", hidden_size=24, num_hidden_layers=2,
                        num_attention_heads=3, intermediate_size=40, initializer_range=0.5, vocab_size=words.vocab_size,
                        pad_token_id=words.pad_token_id)
    bv.save(checkpoint, tmp_path / "model")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    names = {"max_length": "max_len", "doc_stride": "stride", "handle_impossible_answer": "impossible",
             "max_answer_len": "longest", "align_to_words": "align"}
    for chosen in options:
        run = bv.pipeline("question-answering", checkpoint, **chosen)
        for context, questions in ((CONTEXT, QUESTIONS), (CONTEXT * 12, QUESTIONS[:1])):
            for question in questions:
                mine = run(question=question, context=context)
                theirs = hf_answers(tokenizer, model, question, context, **{names.get(k, k): v for k, v in chosen.items()})
                mine = [mine] if run.top_k == 1 else mine
                assert [a["score"] for a in mine] == pytest.approx([a["score"] for a in theirs], rel=2e-4), (chosen, question)
                for a, b in zip(mine, theirs, strict=True):
                    close = [x for x in theirs if abs(x["score"] - a["score"]) < 1e-6]       # equal scores in any order
                    assert any((a["start"], a["end"], a["answer"]) == (x["start"], x["end"], x["answer"]) for x in close), (a, b)
