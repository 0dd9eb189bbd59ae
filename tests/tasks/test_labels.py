"""Labels: what is none is refused by its row; several labels a text are trained, scored, saved and read back as such."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from sklearn.metrics import f1_score

import bertvariants_jax as bv
from bertvariants_jax.data.pack import Packed
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.objectives.finetune import classification
from bertvariants_jax.recipe import Model, Optim, Recipe, Settings, evaluate, evaluation_data, model, run, task_of_run
from bertvariants_jax.tasks.classify import Classify
from bertvariants_jax.tasks.glue import glue
from bertvariants_jax.tasks.similar import Similar
from bertvariants_jax.text import train
from bertvariants_jax.training.checkpoints import compare

WORDS = "good bad film very it was not a the number and long".split()


@pytest.fixture(scope="module")
def tokenizer():
    return train([" ".join(WORDS)] * 9, "wordpiece", 60)


def jsonl(path, labels, **more):
    path.write_text("".join(json.dumps({"text": f"film {i}", "label": label, **more}) + "\n" for i, label in enumerate(labels)))
    return f"jsonl:{path}"


def tsv(path, labels):
    path.write_text("text\tlabel\n" + "".join(f"film {i}\t{label}\n" for i, label in enumerate(labels)))
    return f"tsv:{path}"


def labels_of(address, split="validation", **options):
    task = Classify(address, address, **options)
    return task.labels(), task.gold(task.picked(split), split).tolist()


@pytest.mark.parametrize("write,labels,options,message", [
    (tsv, ["pos", "", "neg"], {}, r"a: row 1 has an empty label"),
    (tsv, ["pos", "  ", "neg"], {}, r"a: row 1 has an empty label"),
    (tsv, ["pos", "pos"], {}, r"a: all 2 rows have the label 'pos': two classes or more"),
    (tsv, ["1", "0", "nan"], {}, r"a: row 2 has the label 'nan', which stands for no value"),
    (tsv, ["1", "-inf", "0"], {}, r"a: row 1 has the label '-inf'"),
    (tsv, ["1", "1.0", "0"], {}, r"a: row 1 has the label '1.0', but .*row 0 has '1': is it one class"),
    (tsv, ["['a', 'b']", "['a']"], {}, r"a: row 0 has the label .* looks like a list: .*task.separator"),
    (tsv, ["0", "1", "2"], {"names": ("no", "yes")}, r"a has 3 classes, 0, 1, 2, but task.names has 2 entries"),
    (tsv, ["3.5", "nan"], {"regression": True}, r"a: row 1 has the label 'nan', expected a number"),
    (tsv, ["3.5", "Infinity"], {"regression": True}, r"a: row 1 has the label 'Infinity', expected a number"),
    (tsv, ["3.5", "1e39"], {"regression": True}, r"a: row 1 has the label '1e39', which float32, up to 3.4e\+38, makes infinite"),
    (tsv, ["3.5", ""], {"regression": True}, r"a: row 1 has the label '', expected a number"),
    (jsonl, [1, float("nan"), 0], {}, r"a: row 1 has the label nan"),
    (jsonl, [1, None, 0], {}, r"a: row 1 has the label None|row 1 has null as 'label'"),
    (jsonl, [1.0, 0.5], {}, r"a: row 1 has the label 0.5, a fraction: --task.regression"),
    (jsonl, [True, 1, False], {}, r"a: row 1 has the label 1, but others are true and false"),
    (jsonl, [2.5, float("inf")], {"regression": True}, r"a: row 1 has the label inf, expected a number"),
    (jsonl, [2.5, True], {"regression": True}, r"a: row 1 has the label True, expected a number"),
    (jsonl, [["a"], "b"], {}, r"a: row 1 has the label 'b', but texts have several each"),
    (jsonl, ["b", ["a"]], {}, r"a: row 1 has the label \['a'\], expected text"),
    (jsonl, [["a"], ["b", None]], {}, r"a: row 1 has the label None, expected text"),
    (jsonl, [["a"], ["b", ""]], {}, r"a: row 1 has an empty label"),
    (jsonl, [[1, 0, 0], [0, 1, 0]], {}, r"a: row 0 has the label '0' twice: are these zeros and ones"),
    (jsonl, [["a"], ["a"]], {}, r"a: all 2 rows have the label 'a'"),
    (jsonl, [["a"], ["c"]], {"classes": ("a", "b")}, r"a: row 1 has the label 'c'; the classes are: a, b"),
    (jsonl, [[0], [2]], {"names": ("no", "yes"), "classes": ("0", "1")}, r"a: row 1 has the label 2; the classes are: 0, 1"),
    (tsv, ["a,b", "a,,b"], {"separator": ","}, r"a: row 1 has an empty label"),
])
def test_what_is_no_label_is_refused_by_its_row(tmp_path, write, labels, options, message):
    with pytest.raises(ValueError, match=message):
        labels_of(write(tmp_path / "a", labels), **options)


def test_other_rows_that_are_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"b: row 1 has the label 'sideways'; the classes are: down, up"):
        Classify(tsv(tmp_path / "a", ["up", "down"]), tsv(tmp_path / "b", ["up", "sideways"])).examples("validation", tokenizer)
    with pytest.raises(ValueError, match=r"a: all 3 rows have the number 2: there is nothing to learn"):
        Classify(tsv(tmp_path / "a", [2, 2, 2]), tsv(tmp_path / "b", [1, 2]), regression=True).examples("train", tokenizer)
    with pytest.raises(ValueError, match=r"a: row 0 has the label '5.2', beyond 5"):
        Similar(tsv(tmp_path / "a", ["5.2", "1"]), tsv(tmp_path / "b", ["1"]), pair="text").examples("train", tokenizer)
    for text, message in ((None, "row 0 has null as 'text'"), (7, "row 0 has 7 as 'text', expected text")):
        (tmp_path / "c").write_text(json.dumps({"text": text, "label": "x"}) + "\n")
        with pytest.raises(ValueError, match=message):
            Classify(f"jsonl:{tmp_path / 'c'}", f"jsonl:{tmp_path / 'c'}").picked("train")
    for options, message in (({"classes": ("a",)}, "task.classes holds one class, 'a'"),
                             ({"names": ("a", "b", "a")}, "task.names holds 'a' twice"),
                             ({"regression": True, "separator": ","}, "task.regression is for one number a text"),
                             ({"separator": ",", "metrics": ("matthews",), "classes": ("a", "b")}, "holds 'matthews', which")):
        with pytest.raises(ValueError, match=message):
            assert Classify(**options).best
    assert Classify(separator=",", classes=("a", "b")).best == "micro_f1"


def test_labels_that_are_one_class_however_they_are_written(tmp_path):
    assert labels_of(jsonl(tmp_path / "a", [1, 1.0, "1", " 1", 0])) == (("0", "1"), [1, 1, 1, 1, 0])
    assert labels_of(tsv(tmp_path / "a", ["pos ", "pos", "neg"])) == (("neg", "pos"), [1, 1, 0])
    assert labels_of(jsonl(tmp_path / "a", [True, False])) == (("False", "True"), [1, 0])
    assert labels_of(tsv(tmp_path / "a", ["nan", "yue"]), classes=("yue", "nan")) == (("yue", "nan"), [1, 0])
    numbers = [str(i) for i in range(12)]                                     # "10" comes after "9", as its name does
    assert labels_of(tsv(tmp_path / "a", numbers), names=tuple("abcdefghijkl")) == (tuple("abcdefghijkl"), list(range(12)))
    assert labels_of(tsv(tmp_path / "a", ["1", "0"]), names=("x", "y", "z")) == (("x", "y", "z"), [1, 0])


def test_several_labels_however_they_are_written(tmp_path, capsys):
    want = (("a", "b", "c"), [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert labels_of(jsonl(tmp_path / "x", [["c", "a"], [], ["b"]])) == want
    assert labels_of(tsv(tmp_path / "x", ["c; a", "", "b"]), separator=";") == want
    assert labels_of(jsonl(tmp_path / "x", [[2, 0], [], [1.0]]), names=("a", "b", "c")) == want
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    import pyarrow as pa

    pq.write_table(pa.table({"text": ["x"] * 3, "label": [["c", "a"], [], ["b"]]}), tmp_path / "x.parquet")
    assert labels_of(f"parquet:{tmp_path / 'x.parquet'}") == want


def test_scores_of_several_labels_are_scikit_learns(tmp_path, tokenizer):
    draw = np.random.default_rng(0)
    gold = draw.random((40, 3)) < (0.6, 0.3, 0.1)
    address = jsonl(tmp_path / "x", [[name for name, has in zip("abc", row, strict=True) if has] for row in gold])
    task = Classify(address, address, pack=False)
    examples = task.examples("validation", tokenizer)
    logits = draw.normal(size=(40, 3))
    scores = task.score(examples, {"logits": logits})
    assert scores == {"micro_f1": pytest.approx(f1_score(gold, logits > 0, average="micro")),
                      "macro_f1": pytest.approx(f1_score(gold, logits > 0, average="macro", zero_division=0)),
                      "accuracy": pytest.approx(np.mean((gold == (logits > 0)).all(1)))}
    one = Classify(address, address, classes=("a", "b", "c")).measure(np.array([[1., 1, 0], [0, 1, 0]]), np.array([[1., 0, 0], [1, 1, 0]]))
    assert one == {"micro_f1": pytest.approx(2 / 3), "macro_f1": pytest.approx((2 / 3 + 2 / 3 + 0) / 3), "accuracy": 0}
    often = 2 * gold[:, 0].sum() / (40 + gold.sum())                          # "a" alone for each text, by hand
    assert task.baseline(examples)["micro_f1"] >= often - 1e-12
    # what is written is read back to the digit, and the gold labels score 1
    (path,) = task.write(examples, {"logits": logits}, tmp_path)
    assert task.score_file(path, "validation") == scores
    (path,) = task.write(examples, {"logits": np.where(gold, 1, -1)}, tmp_path)
    assert set(task.score_file(path, "validation").values()) == {1.0}
    path.write_text(path.read_text().replace("0\t[", "0\t(", 1))
    with pytest.raises(ValueError, match=r"line 2: the prediction '\(.*' is no JSON list of a, b, c"):
        task.score_file(path, "validation")


@pytest.fixture(scope="module")
def many(tmp_path_factory, tokenizer):
    """A file of texts with the labels good and bad, as their words say; its tokenizer, and a run over it."""
    draw, folder = np.random.default_rng(0), tmp_path_factory.mktemp("many")
    texts = [" ".join(draw.choice(WORDS, draw.integers(1, 12))) for _ in range(160)]
    (folder / "rows.jsonl").write_text("".join(
        json.dumps({"text": text, "label": [name for name in ("good", "bad") if name in text.split()]}) + "\n" for text in texts))
    tokenizer.save(folder / "tokenizer")
    recipe = Recipe(Classify(f"jsonl:{folder / 'rows.jsonl'}", max_length=16, held_out=0.3),
                    model("bert", str(folder / "tokenizer"), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                          intermediate_size=32, max_position_embeddings=64),
                    Optim("adamw", rate=1e-2), Settings(steps=60, batch_size=32, log_every=30, eval_every=60, save_every=60))
    return folder, recipe, run(recipe, folder / "run")


def test_a_run_with_several_labels(many, capsys):
    folder, _, outcome = many
    kept = json.loads((folder / "run" / "scores.json").read_text())
    assert kept["metrics"]["micro_f1"] == outcome.metrics["best/micro_f1"] > kept["baseline"]["micro_f1"] > 0.3, kept
    said = json.loads((folder / "run" / "model" / "config.json").read_text())
    assert said["problem_type"] == "multi_label_classification" and said["id2label"] == {"0": "bad", "1": "good"}
    scores = evaluate(folder / "run" / "model", task_of_run(folder / "run"))
    assert scores["micro_f1"] == pytest.approx(outcome.metrics["best/micro_f1"])
    found = bv.pipeline("text-classification", str(folder / "run" / "model"), top_k=None)("good film bad")
    logits = bv.load(folder / "run" / "model").logits("classify", **bv.load(folder / "run" / "model").tokenizer(["good film bad"]))[0]
    assert {row["label"]: pytest.approx(row["score"], abs=1e-6) for row in found} == dict(
        zip(("bad", "good"), (1 / (1 + np.exp(-np.asarray(logits, np.float64)))).tolist(), strict=True))
    with pytest.raises(ValueError, match=r"gives a text any number of classes .* the data gives it one"):
        evaluate(folder / "run" / "model", Classify(tsv(folder / "one.tsv", ["good", "bad"] * 20), tsv(folder / "dev.tsv", ["good"])))


def test_the_loss_by_hand_and_packed(tmp_path, tokenizer):
    draw = np.random.default_rng(1)
    names = tuple(f"c{i:02}" for i in range(16))                # as many classes as a row has tokens
    rows = [[name for name in names if draw.random() < 0.4] for _ in range(12)]
    address = jsonl(tmp_path / "x", rows)
    variant = VARIANTS["bert"]
    network = variant.network(replace(variant.dummy, vocab_size=tokenizer.vocab_size, id2label=names,
                                      problem_type="multi_label_classification"), ("classify",))
    params, task = network.init(jax.random.key(0)), Classify(address, address, classes=names, max_length=32)
    results = []
    for pack in (False, True):
        examples, data = evaluation_data(replace(task, pack=pack), "validation", network, tokenizer, 12, 0)
        assert isinstance(data.maker.examples, Packed) == pack
        objective, batch = classification(network), data.batch(0)
        loss = jax.jit(lambda p, b, o=objective: o.loss(p, b, None, None))
        out = loss(params, batch)
        results.append([float(a / b) for a, b in ((out.sums["classify"], objective.weights(batch)["classify"]), *out.metrics.values())])
        if not pack:
            logits = np.asarray(jax.jit(objective.predict)(params, batch)["logits"], np.float64)[:12]    # without the batch's filling
            halves = [loss(params, {key: value[half] for key, value in batch.items()}) for half in (slice(6), slice(6, 12))]
            assert sum(half.sums["classify"] for half in halves) == pytest.approx(float(out.sums["classify"]), rel=1e-5)
            want = np.mean(np.log1p(np.exp(logits)) - logits * examples.labels)
    assert examples.length == 16
    assert results[0][0] == pytest.approx(want, rel=1e-5) and results[1] == pytest.approx(results[0], rel=1e-5)


def test_a_teacher_of_several_labels_is_refused(many):
    from bertvariants_jax.tasks.distill import distilled

    folder, recipe, _ = many
    taught = replace(recipe, task=distilled(recipe.task, str(folder / "run" / "model")), model=Model(start=str(folder / "run" / "model")))
    with pytest.raises(ValueError, match="several labels a text cannot be learned from a teacher"):
        run(taught, folder / "taught")


def test_glues_own_files_are_read_as_they_stand(tmp_path):
    (tmp_path / "dev.tsv").write_text('sentence\tlabel\n"all of it"\t1\n"so"\t0\n')
    assert [row["sentence"] for row in glue("sst2", str(tmp_path)).picked("validation")] == ['"all of it"', '"so"']
    own = Classify("", f"tsv:{tmp_path / 'dev.tsv'}", text="sentence")
    assert [row["sentence"] for row in own.picked("validation")] == ["all of it", "so"]
    assert [row["sentence"] for row in replace(own, quotes="raw").picked("validation")] == ['"all of it"', '"so"']


def test_of_several_files_the_one_is_named(tmp_path, tokenizer):
    for name, labels in (("a", ["x", "y"]), ("b", ["x", ""])):
        tsv(tmp_path / f"{name}.tsv", labels)
    with pytest.raises(ValueError, match=r"b\.tsv: row 1 has an empty label"):
        Classify(f"tsv:{tmp_path}/*.tsv").examples("train", tokenizer)


def test_fields_that_are_called_as_ours_are_the_users(tmp_path):
    (tmp_path / "a.tsv").write_text("row\tplace\nfirst\tx\nsecond\ty\n")
    picked = Classify("", f"tsv:{tmp_path / 'a.tsv'}", text="row", label="place").picked("validation")
    assert [(row["row"], row["place"]) for row in picked] == [("first", "x"), ("second", "y")]


@pytest.mark.parametrize("text,options,goes_on", [
    ("one\tx\ntwo\ty\n", {}, True), ('"one"\tx\ntwo\ty\n', {}, False), ('"one"\tx\ntwo\ty\n', {"quotes": "raw"}, True),
    ('"one"\tx\ntwo\ty\n', {"separator": ","}, False),
])
def test_a_run_of_an_older_version_goes_on_if_its_file_is_read_as_it_was(tmp_path, text, options, goes_on):
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + text)
    recipe = Recipe(Classify(f"tsv:{tmp_path / 'a.tsv'}", **options), Model(start="x"))
    now = {**recipe.as_json(), "started_in": "/here"}
    older = {**recipe.as_json(), "task": {k: v for k, v in now["task"].items() if k not in ("quotes", "multi_label", "separator")}}
    if goes_on:
        compare("RUN", older, now, defaults=recipe.defaults())
    else:
        with pytest.raises(ValueError, match=r"RUN holds another run: task\.(quotes|separator) is '(raw|)' there"):
            compare("RUN", older, now, defaults=recipe.defaults())


@pytest.mark.parametrize("options,said,learned", [
    ({}, ["Up", "Down", "Up"], ("down", "up")),                        # a model that writes its classes in small letters
    ({}, ["down", "up", "up"], ("up", "down")),                        # or has them in another order
    ({"names": ("down", "up")}, ["up", "down", "up"], ("down", "up")),     # names that stand in the data, or numbers there
    ({"names": ("down", "up")}, ["1", "0", "1"], ("up", "down")),
    ({"separator": ","}, ["Up,Down", "", "Up"], ("up", "down")),
])
def test_labels_are_the_same_ids_without_the_training_file(tmp_path, options, said, learned):
    task = Classify(tsv(tmp_path / "a", said), tsv(tmp_path / "b", said), **options)
    here = task.answered_by(learned).fitted(learned)
    gold = here.gold(here.picked("validation"), "validation")
    (tmp_path / "a").unlink()
    gone = task.answered_by(learned).fitted(learned)
    np.testing.assert_array_equal(gone.gold(gone.picked("validation"), "validation"), gold)
    logits = {"logits": np.where(np.eye(2)[gold] if gold.ndim == 1 else gold, 1.0, -1.0)}
    for one in (here, gone):
        assert one.labels() == learned and one.measure(gold, one.predicted(logits))["accuracy"] == 1
    [first], [second] = (one.write(None, logits, tmp_path / name) for one, name in ((here, "here"), (gone, "gone")))
    assert first.read_text() == second.read_text()
    assert task.answered_by(learned).score_file(first, "validation")["accuracy"] == 1


@pytest.mark.parametrize("options,message", [
    ({"optim": Optim(warmup=float("inf"))}, "optim.warmup must be a finite number, got inf"),
    ({"optim": Optim(b1=float("nan"))}, "optim.b1 must be a finite number, got nan"),
    ({"settings": Settings(epochs=float("inf"))}, "settings.epochs must be a finite number, got inf"),
    ({"model": Model("bert-tiny", changes={"layer_norm_eps": float("nan")})}, "model.changes.layer_norm_eps must be a finite number"),
])
def test_options_that_are_no_finite_numbers_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(Recipe(**{"task": Classify("tsv:nowhere"), "model": model("bert"), **options}), tmp_path / "run")
    for name in ("most", "temperature"):
        with pytest.raises(ValueError, match=rf"task.{name} must be above 0, got 0"):
            Similar("tsv:nowhere", "tsv:nowhere", **{name: 0.0})


def test_predicted_numbers_are_ranked_alike_in_their_file(tmp_path):
    """Rounded ones would tie."""
    address = tsv(tmp_path / "a", ["1", "2", "3", "4"])
    task = Classify(address, address, regression=True, metrics=("spearman", "pearson"))
    logits = {"logits": np.array([[2.00001], [2.00003], [2.00002], [2.5]], np.float32)}
    picked = task.picked("validation")
    [path] = task.write(None, logits, tmp_path)
    assert path.read_text().endswith("3\t2.500\n")
    assert task.score_file(path, "validation") == task.measure(task.gold(picked, "validation"), task.predicted(logits))
