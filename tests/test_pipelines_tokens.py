"""Entities, options, masks and classes: as `transformers`' pipelines where those exist, on hard texts too, compiled a
bounded number of times."""

import itertools
import warnings

import numpy as np
import pytest

import bertvariants_jax as bv

WORDS = ("[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat on mat good bad film was ##s ##tom ##ing . , ' - caf new york "
         "he ##llo is in 你 好 ##é cafe world").split()
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXTS = ["the cat sat on the mat .", "hello world", "new york cats, bad-film's", "The CAT\tsat\n on  the mats",
         "xyzzy the dogtoming 你好 café", "naïve 😀 \u200b مرحبا 你好，世界", "", "a " * 30]
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
         "initializer_range": 0.7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


@pytest.fixture(scope="module")
def small(folder):
    return bv.new("bert", heads=("mlm", "tag", "choice", "classify"), seed=4, tokenizer=folder, id2label=TAGS,
                  max_position_embeddings=64, **SMALL)


@pytest.fixture(scope="module")
def ner(small):
    return bv.pipeline("ner", small)


def same(mine, theirs, close=2e-5):
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        if isinstance(one, list):
            same(one, other, close)
            continue
        assert set(one) == set(other)
        for key, value in other.items():
            assert one[key] == (pytest.approx(float(value), abs=close) if key == "score" else value), (key, one, other)


def test_tokens_with_offsets(ner):
    text = "The  cats sat"
    found = ner(text, ignore_labels=())
    assert [token["word"] for token in found] == ["the", "cat", "##s", "sat"]
    assert [text[token["start"] : token["end"]] for token in found] == ["The", "cat", "s", "sat"]
    assert [token["index"] for token in found] == [1, 2, 3, 4]
    assert all(token["entity"] in TAGS and 0 < token["score"] <= 1 for token in found)
    assert ner([]) == [] and ner("") == []
    assert all(token["entity"] != "O" for token in ner(text))


def groups(small, rows, words, **options):
    """Aggregate rows of probabilities, one a token of the text."""
    run = bv.pipeline("ner", small, **options)            # nothing is run, nothing compiled
    encoded = small.tokenizer.encode(words, specials=False)
    scores = np.full((len(rows), len(TAGS)), 0.01)
    for i, (tag, score) in enumerate(rows):
        scores[i, TAGS.index(tag)] = score
    return [(one["entity_group"], words[one["start"] : one["end"]], round(one["score"], 6), one["word"])
            for one in run.spans(run.tokens(words, encoded, 0, scores))]


def test_aggregation_by_hand(small):
    rows = [("B-PER", 0.6), ("I-LOC", 0.9), ("I-LOC", 0.8), ("B-LOC", 0.5), ("O", 0.9)]
    text = "cattoming new york"           # cat ##tom ##ing new york
    assert groups(small, rows, text, aggregation_strategy="simple") == [
        ("PER", "cat", 0.6, "cat"), ("LOC", "toming", 0.85, "##toming"), ("LOC", "new", 0.5, "new")]
    assert groups(small, rows, text, aggregation_strategy="first") == [
        ("PER", "cattoming", 0.6, "cattoming"), ("LOC", "new", 0.5, "new")]
    assert groups(small, rows, text, aggregation_strategy="max") == [
        ("LOC", "cattoming", 0.9, "cattoming"), ("LOC", "new", 0.5, "new")]
    assert groups(small, rows, text, aggregation_strategy="AVERAGE")[0] == ("LOC", "cattoming", 0.57, "cattoming")
    kept = groups(small, rows, text, aggregation_strategy="first", ignore_labels=("PER",))
    assert [one[0] for one in kept] == ["LOC", "O"]


def test_bioes_tags_are_grouped_by_their_own_rules(small, folder):
    labels = ("O", "B-X", "I-X", "E-X", "S-X")
    checkpoint = bv.new("bert", heads=("tag",), tokenizer=folder, id2label=labels, max_position_embeddings=64, **SMALL)
    run = bv.pipeline("ner", checkpoint, aggregation_strategy="simple")
    text = "the cat sat on mat dog"
    scores = np.eye(5)[[labels.index(tag) for tag in ("S-X", "S-X", "B-X", "E-X", "I-X", "O")]]
    found = run.spans(run.tokens(text, checkpoint.tokenizer.encode(text, specials=False), 0, scores))
    assert [(one["entity_group"], one["word"]) for one in found] == [
        ("X", "the"), ("X", "cat"), ("X", "sat on"), ("X", "mat")]


def test_long_texts_by_windows(small, ner):
    """With a stride everything is read, and spans are those of the windows; without one the text is cut."""
    text = " ".join(f"{word} cat" for word in ("new", "york", "the", "dog") * 40)
    whole = ner(text, aggregation_strategy="first", stride=16, ignore_labels=())
    assert whole[-1]["end"] == len(text) and whole[0]["start"] == 0
    assert all(a["end"] <= b["start"] for a, b in itertools.pairwise(whole))
    cut = ner(text, aggregation_strategy="first", ignore_labels=())
    assert cut[-1]["end"] < len(text) / 3
    with pytest.raises(ValueError, match="stride needs an aggregation_strategy"):
        bv.pipeline("ner", small, stride=4)
    with pytest.raises(ValueError, match="stride must lie between 0 and the 62 tokens"):
        bv.pipeline("ner", small, stride=62, aggregation_strategy="max")
    with pytest.raises(ValueError, match="aggregation_strategy must be none, simple"):
        bv.pipeline("ner", small, aggregation_strategy="last")


def test_padding_on_the_left_gives_the_same_tokens(tmp_path):
    from bertvariants_jax.text import train

    train(["new york cat dog sat on the mat"] * 9, "xlnet", 40).save(tmp_path)
    checkpoint = bv.new("xlnet", heads=("tag", "choice"), seed=2, tokenizer=tmp_path, id2label=TAGS, d_model=24, n_layer=2,
                        n_head=3, d_inner=40, initializer_range=0.7)
    run = bv.pipeline("ner", checkpoint, ignore_labels=())
    texts = ["the cat sat", "the cat sat on the mat , new york dog " * 3]
    together, alone = run(texts), [run(text) for text in texts]
    for many, one in zip(together, alone, strict=True):
        same(many, one)
    ids = checkpoint.tokenizer(texts[0])
    logits = np.asarray(checkpoint.logits("tag", **ids))[0]
    assert [token["entity"] for token in together[0]] == [TAGS[i] for i in logits[: len(together[0])].argmax(-1)]
    covered = {i for token in together[0] for i in range(token["start"], token["end"])}
    assert covered == {i for i, letter in enumerate(texts[0]) if letter != " "}
    best = bv.pipeline("multiple-choice", checkpoint)(context="the cat sat", choices=["on the mat", "new york"])
    assert best["label"] in ("on the mat", "new york")


def test_multiple_choice(small):
    run = bv.pipeline("multiple-choice", small)
    asked = {"context": "the cat sat on the mat", "question": "the _ sat", "choices": ["cat", "dog", "film"]}
    one = run(**asked)
    assert set(one) == {"label", "index", "score", "scores"} and sum(one["scores"]) == pytest.approx(1)
    assert one["label"] == asked["choices"][one["index"]] and one["score"] == max(one["scores"])
    turned = run({**asked, "choices": asked["choices"][::-1]})
    np.testing.assert_allclose(turned["scores"][::-1], one["scores"], atol=1e-5)
    texts = [f"the {word} sat" for word in ("cat", "dog", "film")]
    batch = {key: value[None] for key, value in small.tokenizer([asked["context"]] * 3, texts).items()}
    logits = np.asarray(small.network.scores(small.params, "choice", batch))[0]
    np.testing.assert_allclose(one["scores"], np.exp(logits) / np.exp(logits).sum(), atol=1e-5)
    many = run([asked, {"context": "x", "choices": ["a", "b", "the", "film", "was"]}, {"context": "", "choices": ["a"]}])
    assert [len(row["scores"]) for row in many] == [3, 5, 1] and many[2]["score"] == 1
    for bad, message in ((["text"], "input 0 has no text 'context'"), ([asked, {"context": "x", "choices": "ab"}],
                         "input 1 has no list of texts 'choices'"), ([{"context": "x", "choices": []}], "input 0")):
        with pytest.raises(ValueError, match=message):
            run(bad)
    with pytest.raises(ValueError, match="give context= and choices="):
        run(context="x")


def test_classes_of_pairs_and_other_functions(small):
    run = bv.pipeline("text-classification", small, top_k=None)
    assert len(run("the cat")) == 5 and len(run("the cat", top_k=2)) == 2
    logits = {row["label"]: row["score"] for row in run("the cat", function_to_apply="none")}
    want = np.asarray(small.logits("classify", **small.tokenizer("the cat")))[0]
    np.testing.assert_allclose([logits[tag] for tag in TAGS], want, atol=1e-5)
    each = {row["label"]: row["score"] for row in run("the cat", function_to_apply="sigmoid")}
    np.testing.assert_allclose([each[tag] for tag in TAGS], 1 / (1 + np.exp(-want)), atol=1e-5)
    pair = {"text": "the cat", "text_pair": "sat on"}
    want = np.asarray(small.logits("classify", **small.tokenizer("the cat", "sat on")))[0]
    assert run(pair)[0]["label"] == TAGS[want.argmax()] and run([pair])[0] == run(pair)
    with pytest.raises(ValueError, match="'x' is no pair, but others are pairs"):
        run([pair, "x"])
    with pytest.raises(ValueError, match="function_to_apply must be softmax"):
        run("x", function_to_apply="exp")
    with pytest.raises(ValueError, match="TextClassification has no option 'top'; it has: batch_size, max_length, top_k"):
        run("x", top=3)


def test_many_masks_and_targets(small):
    run = bv.pipeline("fill-mask", small)
    many = run("[MASK] cat " * 20)                       # 20 masks: more than a row takes at once
    assert len(many) == 20 and all(len(row) == 5 for row in many)
    short = run("[MASK] cat " * 16)
    assert len(short) == 16
    both = run(["the [MASK] sat", "[MASK] cat " * 20])
    same(both[1], many)
    few = run("the [MASK] sat", targets=["cat", "dog", "cat"], top_k=3)
    assert {row["token_str"] for row in few} == {"cat", "dog"} and len(few) == 2
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert {row["token_str"] for row in run("the [MASK]", targets=["hello", "mat"])} == {"he", "mat"}
    assert "'hello' is no single piece of the vocabulary; 'he' is taken" in str(said[0].message)
    with pytest.raises(ValueError, match="targets holds no word"):
        run("the [MASK]", targets=[])
    with pytest.raises(ValueError, match=r"no \[MASK\] in the text 'a a .*up to its token 64"):
        run("a " * 80 + "[MASK]")


def test_vectors_of_tokens(small):
    vectors = bv.pipeline("feature-extraction", small, pooling="none")(["the cat", "the cat sat on the mat"])
    want = small(**small.tokenizer("the cat")).last_hidden_state[0]
    assert [v.shape for v in vectors] == [(4, 24), (8, 24)]
    np.testing.assert_allclose(vectors[0], want, atol=1e-5)


def test_hard_texts(small, ner):
    texts = [*TEXTS, " ", "\n\t", "\u200b\u200d\ufeff", "👩‍👩‍👧‍👦 🇫🇷", "שלום עולם", "\u202eabc\u202c", "中文" * 200, "x" * 100_000,
             "word " * 20_000, "\ud83d", "\x00", "[CLS] [SEP] [MASK]"]
    for options in ({"aggregation_strategy": "first"}, {"aggregation_strategy": "simple", "stride": 8, "ignore_labels": ()}):
        for text, spans in zip(texts, ner(texts, **options), strict=True):
            for span in spans:
                assert 0 <= span["start"] < span["end"] <= len(text) and np.isfinite(span["score"])
    for task, options in (("text-classification", {}), ("embed", {"pooling": "none"})):
        assert len(bv.pipeline(task, small, **options)(texts)) == len(texts)


def test_compilations_are_bounded_and_counted(small):
    draw = np.random.default_rng(0)
    texts = [" ".join(["the [MASK] cat"] * int(n)) for n in draw.integers(1, 30, 60)]
    for task, options in (("ner", {"aggregation_strategy": "max", "stride": 4}), ("fill-mask", {})):
        run = bv.pipeline(task, small, batch_size=16, max_length=40, **options)
        for size in (1, 3, 20, 36):
            run(texts[:size])
        assert run.run._cache_size() == len(run.shapes) <= run.most_shapes == 15      # 8, 16, 24, 32, 40 tokens; 1, 8, 16 rows
    many = bv.pipeline("ner", small)
    for strategy in ("first", "max", "average"):
        many("the cat", aggregation_strategy=strategy)
    assert many.run._cache_size() == len(many.shapes) == 1                            # options that need no new program
    unlimited = bv.new("xlnet", heads=("tag",), d_model=24, n_layer=1, n_head=3, d_inner=40)
    assert bv.pipeline("ner", bv.Checkpoint(unlimited.network, unlimited.params, small.tokenizer)).max_length == 8192


@pytest.fixture(scope="module")
def saved(small, folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("heads")
    for head in ("tag", "mlm", "classify"):
        bv.save(small.with_heads(head), place / head)
    return place


@pytest.fixture(scope="module")
def peer(saved):
    import transformers

    return transformers.pipeline("token-classification", str(saved / "tag"), device="cpu")


@pytest.mark.peers
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_are_those_of_transformers(ner, peer, strategy):
    for options in ({}, {"ignore_labels": ["I-PER", "PER"]}):
        for text in TEXTS:
            same(ner(text, aggregation_strategy=strategy, **options), peer(text, aggregation_strategy=strategy, **options))


@pytest.mark.peers
def test_windows_are_those_of_transformers(ner, peer):
    text = " ".join(f"{word} cat" for word in ("new", "york", "the", "dogs", "xyz") * 40)
    peer.tokenizer.model_max_length = 64
    options = {"stride": 10, "aggregation_strategy": "first"}
    same(ner(text, **options), peer(text, **options))


@pytest.mark.peers
def test_the_other_pipelines_are_those_of_transformers(saved):
    import transformers

    peer = transformers.pipeline("fill-mask", str(saved / "mlm"), device="cpu")
    mine = bv.pipeline("fill-mask", saved / "mlm")
    for text, options in (("the [MASK] sat", {"targets": ["cat", "dog", "sat"]}), ("the [MASK] sat", {"targets": "cat"}),
                          ("a [MASK] [MASK] .", {"targets": ["cat", "mat"], "top_k": 1}), ("[MASK] 你 [MASK] café", {"top_k": 7}),
                          ("the [MASK] sat", {"targets": ["hello", "mat"]})):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")              # of "hello", which is no single piece
            same(mine(text, **options), peer(text, **options))
    peer = transformers.pipeline("text-classification", str(saved / "classify"), device="cpu")
    mine = bv.pipeline("text-classification", saved / "classify")
    pair = {"text": "the cat", "text_pair": "sat on the mat"}
    for text in ("the cat", "", pair):
        for options in ({"top_k": None}, {"top_k": 2}, {"top_k": None, "function_to_apply": "none"},
                        {"top_k": 3, "function_to_apply": "sigmoid"}):
            said = peer(text, **options)
            same(mine(text, **options), said[0] if isinstance(said[0], list) else said)
    peer = transformers.pipeline("feature-extraction", str(saved / "tag"), device="cpu")
    vectors = bv.pipeline("feature-extraction", saved / "tag", pooling="none")("the cat sat")
    np.testing.assert_allclose(vectors, np.array(peer("the cat sat"))[0], atol=2e-5)


def test_the_command(small, tmp_path, capsys):
    import json

    from bertvariants_jax.cli import main

    bv.save(small.with_heads("tag"), tmp_path / "tag")
    assert main(["predict", str(tmp_path / "tag"), "the cats", "--options", '{"aggregation_strategy": "first"}']) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert all({"entity_group", "start", "end"} <= set(span) for span in json.loads(line))
    bv.save(small.with_heads("choice"), tmp_path / "choice")
    (tmp_path / "in.jsonl").write_text('{"context": "the cat", "choices": ["sat", "was"]}\n\n')
    assert main(["predict", str(tmp_path / "choice"), "--input", str(tmp_path / "in.jsonl")]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["label"] in ("sat", "was") and "programs compiled: 1, of at most 18" in said.err
    (tmp_path / "in.jsonl").write_text('{"context": "the cat"')
    assert main(["predict", str(tmp_path / "choice"), "--input", str(tmp_path / "in.jsonl")]) == 1
    assert "in.jsonl, line 1: not a whole JSON value" in capsys.readouterr().err
    out, lines = tmp_path / "out.jsonl", '{"context": "the cat", "choices": ["sat", "\\ud83d"]}\n'
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    command = ["predict", str(tmp_path / "choice"), "--input", str(tmp_path / "in.jsonl"), "--output", str(out)]
    assert main(command) == 0 and set(json.loads(out.read_text())) == {"label", "index", "score", "scores"}
    before = out.read_text()
    for wrong, message in (("3\n", "input 1 has no text 'context': 3"), ("[1]\n", "input 1 has no text"), ("null\n", "input 1")):
        (tmp_path / "in.jsonl").write_text(lines + wrong)
        assert main(command) == 1 and message in capsys.readouterr().err
        assert out.read_text() == before and (tmp_path / "out.jsonl.part").read_text() == before      # nothing is lost
    (tmp_path / "in.jsonl").write_bytes(lines.encode() + b"\xff\n")
    assert main(command) == 1 and "in.jsonl, behind line" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "tag"), "x", "--options", '{"strategy": 1}']) == 1
    assert "TokenClassification has no option 'strategy'" in capsys.readouterr().err


@pytest.mark.peers
@pytest.mark.parametrize("name,tokenizer,exact", [("roberta", "roberta-base", True), ("albert", "albert-base", True),
                                                  ("deberta-v3", "deberta-v3", False)])
def test_other_vocabularies_too(name, tokenizer, exact, tmp_path, shared_data):
    """Offsets are ours: without the blank that transformers counts to DeBERTa's pieces."""
    import transformers

    width = {"embedding_size": 16} if name == "albert" else {}
    checkpoint = bv.new(name, heads=("tag",), seed=3, tokenizer=shared_data / "tokenizers" / tokenizer, id2label=TAGS,
                        **{**SMALL, **width, "num_hidden_layers": 1})
    bv.save(checkpoint, tmp_path)
    peer = transformers.pipeline("token-classification", str(tmp_path), device="cpu")
    mine = bv.pipeline("ner", checkpoint)
    for text in ("Hello world, my name is Ann-Marie O'Neil.", "the cats sat on the mat", "naïve café 😀 \u200b مرحبا 你好，世界", ""):
        for strategy in ("none", "simple", "first", "average", "max"):
            ours, theirs = (run(text, aggregation_strategy=strategy) for run in (mine, peer))
            if not exact:
                for one in theirs:
                    one["start"] += text[one["start"] : one["end"]].startswith(" ")
            same(ours, theirs)
