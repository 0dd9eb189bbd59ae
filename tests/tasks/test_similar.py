"""Sentence embeddings: pooling, both objectives by hand, the task and STS-B."""

import json
from dataclasses import fields

import jax.numpy as jnp
import numpy as np
import pytest

from bertvariants_jax.hf.checkpoint import Checkpoint, Pooling, load, new, read_pooling, save
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.objectives.embeddings import contrastive, pooled, similarity
from bertvariants_jax.pipelines import pipeline
from bertvariants_jax.tasks.named import task
from bertvariants_jax.tasks.similar import Similar
from bertvariants_jax.text import train

HEADER = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
PAIRS = [("the cat sat", "a cat sat", 5.0), ("the cat sat", "dogs run", 0.5), ("dogs run", "dogs ran off", 4.0)]


@pytest.fixture(scope="module")
def tokenizer():
    return train([" ".join(pair[:2]) for pair in PAIRS] * 3, "wordpiece", 60)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("STS-B")
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text(HEADER + "".join(
            f"{i}\tg\tf\ty\t0\ts\ts\t{one}\t{two}\t{score:.3f}\n" for i, (one, two, score) in enumerate(PAIRS)))
    return folder


def test_pooling():
    hidden = jnp.asarray([[[1.0, -1], [3, 0], [9, 9]]])
    mask = jnp.asarray([[1, 1, 0]])
    assert pooled(hidden, mask, "mean").tolist() == [[2, -0.5]]
    assert pooled(hidden, mask, "max").tolist() == [[3, 0]]
    assert pooled(hidden, mask, "cls").tolist() == [[1, -1]]
    assert pooled(hidden, mask, "cls", last=True).tolist() == [[3, 0]]
    assert pooled(hidden, jnp.asarray([[0, 1, 1]]), "cls").tolist() == [[3, 0]]


@pytest.mark.parametrize("variant", ["bert", "xlnet", "modernbert"])
def test_objectives_by_hand(variant):
    checkpoint = new(variant, **{f.name: getattr(VARIANTS[variant].dummy, f.name) for f in fields(VARIANTS[variant].dummy)})
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 50, (3, 2, 6)).astype(np.int32)
    mask = np.ones_like(ids)
    left = checkpoint.network.variant.padding_side == "left"
    mask[0, 1, slice(0, 2) if left else slice(4, None)] = 0
    labels = np.array([1, 0.1, 0.8], np.float32)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    vectors = np.zeros((3, 2, checkpoint.config.hidden_size))
    for row in range(3):
        for side in range(2):
            hidden = np.asarray(checkpoint(input_ids=ids[row, side][None], attention_mask=mask[row, side][None]).last_hidden_state[0])
            vector = hidden[mask[row, side] > 0].mean(0)
            vectors[row, side] = vector / np.linalg.norm(vector)
    one, two = vectors[:, 0], vectors[:, 1]
    cosines = (one * two).sum(1)
    objective = similarity(checkpoint.network)
    np.testing.assert_allclose(objective.predict(checkpoint.params, batch)["similarity"], cosines, atol=1e-5)
    loss = objective.loss(checkpoint.params, batch, None)
    np.testing.assert_allclose(loss.sums["similarity"], np.sum((cosines - labels) ** 2), atol=1e-5)
    weighted = {**batch, "example_weight": np.array([1, 0, 1], np.float32)}
    kept = [0, 2]
    found = contrastive(checkpoint.network, temperature=0.1).loss(checkpoint.params, weighted, None)
    scores = one[kept] @ two[kept].T / 0.1
    want = np.sum(np.log(np.exp(scores).sum(1)) - np.diag(scores))
    np.testing.assert_allclose(found.sums["contrastive"], want, rtol=1e-4)


def test_equal_texts_are_no_wrong_answers():
    """Pairs that share a text with a row are left out of its candidates: three times one pair is no error at all, and
    of four pairs each finds its own beside the pairs that share nothing with it."""
    checkpoint = new("bert", **{f.name: getattr(VARIANTS["bert"].dummy, f.name) for f in fields(VARIANTS["bert"].dummy)})
    a, b, c, d, e = np.random.default_rng(0).integers(5, 50, (5, 6)).astype(np.int32)
    objective = contrastive(checkpoint.network, temperature=0.1)

    def batch_of(*pairs):
        ids = np.stack([np.stack(pair) for pair in pairs])
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    same = objective.loss(checkpoint.params, batch_of((a, b), (a, b), (a, b)), None)
    assert float(same.sums["contrastive"]) == pytest.approx(0, abs=1e-6) and float(same.metrics["contrastive/accuracy"][0]) == 3
    batch = batch_of((a, b), (a, c), (d, b), (e, a))
    cosines = np.asarray(objective.embed(checkpoint.params, batch, None)[0] @ objective.embed(checkpoint.params, batch, None)[1].T)
    wrong = {0: [], 1: [2], 2: [1, 3], 3: [0, 1, 2]}          # (e, a) has no text of the others' as its first
    wrong = {row: [j for j in others if j != row] for row, others in wrong.items()}
    want = sum(np.log(sum(np.exp(10 * (cosines[row, j] - cosines[row, row])) for j in (row, *others))) for row, others in wrong.items())
    found = objective.loss(checkpoint.params, batch, None).sums["contrastive"]
    np.testing.assert_allclose(found, want, rtol=1e-4)
    padded = batch_of((a, b), (c, d))
    padded["attention_mask"][0, 1, 4:] = 0                    # what stands under padding makes no text another
    twin = {key: np.concatenate([value, value[:1]]) for key, value in padded.items()}
    twin["input_ids"][2, 1, 4:] = 0
    for batch in (padded, twin):
        assert float(objective.loss(checkpoint.params, batch, None).sums["contrastive"]) > 0
    two, three = (objective.loss(checkpoint.params, batch, None).sums["contrastive"] for batch in (padded, twin))
    assert float(three) > float(two)


def test_the_task(data, tokenizer):
    chosen = task("stsb_embeddings", str(data), max_length=32)
    assert chosen.heads == () and chosen.labels() is None and chosen.best == "spearman"
    assert chosen.fitted(("LABEL_0",), "cls").pooling == "cls" and chosen.fitted((), None).pooling == "mean"
    examples = chosen.examples("train", tokenizer)
    batch = examples.rows(np.array([1, 2]), np.zeros(2, int))
    assert batch["input_ids"].shape == (2, 2, 16) and batch["labels"].tolist() == [pytest.approx(0.1), pytest.approx(0.8)]
    assert chosen.score(examples, {"similarity": np.array([0.9, 0.1, 0.5])})["spearman"] == pytest.approx(1)
    assert len(task("stsb_embeddings", str(data), loss="contrastive", least=4.0).examples("train", tokenizer)) == 2
    assert len(task("stsb_embeddings", str(data), loss="contrastive").examples("validation", tokenizer)) == 3
    assert isinstance(chosen, Similar)


def test_a_folder_says_how_it_pools(tmp_path, tokenizer):
    checkpoint = new("bert-tiny", tokenizer=tokenizer, num_hidden_layers=1, hidden_size=16, num_attention_heads=2,
                     intermediate_size=16)
    for pooling in (Pooling("cls", True), Pooling("mean")):
        folder = tmp_path / pooling.mode
        save(Checkpoint(checkpoint.network, checkpoint.params, tokenizer, pooling=pooling), folder)
        assert read_pooling(folder) == pooling == load(folder).pooling


def test_folders_of_sentence_transformers(tmp_path, tokenizer):
    checkpoint = new("bert-tiny", tokenizer=tokenizer, num_hidden_layers=1, hidden_size=16, num_attention_heads=2,
                     intermediate_size=16, max_position_embeddings=64)
    save(Checkpoint(checkpoint.network, checkpoint.params, tokenizer, pooling=Pooling("max", max_length=20)), tmp_path)
    assert load(tmp_path).pooling == Pooling("max", max_length=20)
    run, text = pipeline("embed", tmp_path), "good film " * 40
    assert run.max_length == 20 and pipeline("embed", tmp_path, max_length=30).max_length == 30
    np.testing.assert_allclose(run(text), pipeline("embed", tmp_path, max_length=20)(text))
    (tmp_path / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 16, "pooling_mode": "cls"}')   # since version 6
    assert load(tmp_path).pooling.mode == "cls"
    (tmp_path / "modules.json").write_text(json.dumps([*json.loads((tmp_path / "modules.json").read_text()),
                                                       {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]))
    dense = load(tmp_path)
    with pytest.raises(ValueError, match="this sentence encoder has Dense, which is not supported: give pooling="):
        pipeline("embed", dense)
    assert pipeline("embed", dense, pooling="mean")(text).shape == (16,)
    save(dense, tmp_path / "saved")
    assert load(tmp_path / "saved").pooling == dense.pooling                   # what is not done here is not forgotten either
    (tmp_path / "modules.json").write_text("{}")
    with pytest.raises(ValueError, match="should hold a list of objects"):
        load(tmp_path)


def test_real_stsb_is_read_whole(shared_data):
    chosen = task("stsb_embeddings", str(shared_data / "glue"))
    assert len(chosen.picked("validation")) == 1500
