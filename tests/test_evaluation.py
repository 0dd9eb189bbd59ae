"""Evaluation: each example once and the same digits, whatever the batch, the packing and the devices."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.data.pack import Packed
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.recipe import Recipe, Settings, answers, evaluate, evaluation_data, model, run
from bertvariants_jax.tasks.classify import Classify
from bertvariants_jax.tasks.task import VALIDATION
from bertvariants_jax.text import train
from bertvariants_jax.training.sharding import Mesh, make_mesh

WORDS = "good bad film very it was not a the number and long".split()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    draw, path = np.random.default_rng(0), tmp_path_factory.mktemp("table") / "mine.tsv"
    rows = [(" ".join(draw.choice(WORDS, draw.integers(1, 12))), ("up", "down", "so")[draw.integers(3)]) for _ in range(83)]
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return f"tsv:{path}", train([text for text, _ in rows] * 3, "wordpiece", 60)


@pytest.mark.parametrize("name", ["bert", "modernbert", "xlnet"])
def test_the_same_digits(table, name, tmp_path):
    address, tokenizer = table
    variant = VARIANTS[name]
    network = variant.network(replace(variant.dummy, vocab_size=tokenizer.vocab_size, id2label=("down", "so", "up")), ("classify",))
    params = network.init(jax.random.key(1))
    task, found = Classify(address, address, metrics=("accuracy", "macro_f1"), max_length=40), []
    for size, pack, shape in ((1, False, None), (8, True, None), (5, True, Mesh(2, 4)), (32, True, Mesh(8)), (7, False, Mesh(4, 1, 2))):
        mesh, chosen = shape and make_mesh(shape, jax.devices()[:8]), replace(task, pack=pack)
        examples, data = evaluation_data(chosen, VALIDATION, network, tokenizer, size, 0)
        assert isinstance(data.maker.examples, Packed) == pack and len(examples) == 83
        outputs = answers(chosen.objective(network), params, data, mesh or make_mesh(Mesh(), jax.devices()[:1]))
        assert outputs["logits"].shape == (83, 3)
        found.append((outputs["logits"], chosen.score(examples, outputs)))
    for logits, scores in found[1:]:
        np.testing.assert_allclose(logits, found[0][0], atol=2e-5)
        assert scores == found[0][1]
    if name == "xlnet":                               # whose mean counts padding, as HF's does
        counting = variant.network(replace(network.config, summary_type="mean"), ("classify",))
        assert not isinstance(evaluation_data(task, VALIDATION, counting, tokenizer, 8, 0)[1].maker.examples, Packed)
    bv.save(bv.Checkpoint(network, params, tokenizer), tmp_path)
    assert evaluate(tmp_path, task) == found[0][1] and evaluate(tmp_path, task, batch_size=4) == found[0][1]


def test_a_fault_in_evaluation_data_costs_no_step(table, tmp_path):
    address, tokenizer = table
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "dev.tsv").write_text("text\tlabel\ngood\tup\nbad\tsideways\n")
    tiny = model("bert", str(tmp_path / "tokenizer"), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                 intermediate_size=16, max_position_embeddings=64)
    recipe = Recipe(Classify(address, f"tsv:{tmp_path / 'dev.tsv'}", max_length=32), tiny, settings=Settings(steps=2, batch_size=8))
    with pytest.raises(ValueError, match=r"dev.tsv: row 1 has the label 'sideways'; the classes are: down, so, up"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    few = replace(recipe, task=Classify(f"tsv:{tmp_path / 'dev.tsv'}", max_length=32))
    with pytest.raises(ValueError, match=r"none of its 2 rows is left for validation with task.held_out 0.1"):
        run(few, tmp_path / "few")
