"""DistilBERT's own parts: the sinusoidal table, the start from a teacher, ignored segments, dropout's places."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax import names
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.models.bert import DUMMY as TEACHER
from bertvariants_jax.models.distilbert import DUMMY, DistilBertConfig
from bertvariants_jax.tasks.distill import chosen_layers, from_teacher

SMALL = {"vocab_size": 61, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40, "max_position_embeddings": 40}


def test_chosen_layers():
    assert chosen_layers(12, 6) == [0, 2, 4, 7, 9, 11]
    assert chosen_layers(24, 12) == [0, 2, 4, 6, 8, 10, 13, 15, 17, 19, 21, 23]
    assert chosen_layers(12, 12) == list(range(12)) and chosen_layers(12, 1) == [0] and chosen_layers(12, 2) == [0, 11]
    for teacher, student in ((12, 3), (12, 4), (24, 6), (7, 5)):
        layers = chosen_layers(teacher, student)
        assert layers[0] == 0 and layers[-1] == teacher - 1 and layers == sorted(set(layers)) and len(layers) == student
    for student in (0, 13):
        with pytest.raises(ValueError, match="cannot start"):
            chosen_layers(12, student)


def teacher_of(**config):
    network = VARIANTS["bert"].network(replace(TEACHER, num_hidden_layers=12, **config), ("mlm", "pair"))
    return network, network.init(jax.random.key(0))


def test_student_starts_from_every_other_layer():
    _, teacher = teacher_of()
    student = VARIANTS["distilbert"].network(replace(DUMMY, n_layers=6), ("mlm",))
    params = from_teacher(student, teacher)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, student.shapes())
    for path, leaf in names.flatten(params["encoder"]["layers"]).items():
        theirs = names.flatten(teacher["encoder"]["layers"])[path]
        np.testing.assert_array_equal(leaf, theirs[np.array([0, 2, 4, 7, 9, 11])], err_msg=path)
    for part in ("mlm", "encoder/embeddings"):
        mine, theirs = names.flatten(params), names.flatten(teacher)
        for path in (path for path in mine if path.startswith(part)):
            np.testing.assert_array_equal(mine[path], theirs[path], err_msg=path)
    assert "token_type_embeddings" not in params["encoder"]["embeddings"]
    chosen = from_teacher(student, teacher, layers=[0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(chosen["encoder"]["layers"]["ffn"]["up"]["kernel"],
                                  teacher["encoder"]["layers"]["ffn"]["up"]["kernel"][:6])


def test_a_student_as_deep_as_a_teacher_without_segments_is_the_teacher():
    network, teacher = teacher_of()
    table = teacher["encoder"]["embeddings"]["token_type_embeddings"]
    table["embedding"] = np.zeros_like(table["embedding"])
    student = VARIANTS["distilbert"].network(replace(DUMMY, n_layers=12), ("mlm",))
    batch = {"input_ids": np.arange(5, 14, dtype=np.int32)[None]}
    np.testing.assert_allclose(student.scores(from_teacher(student, teacher), "mlm", batch),
                               network.scores(teacher, "mlm", batch), atol=1e-5)


def test_a_shallow_roberta_starts_from_a_deep_one():
    record = VARIANTS["roberta"]
    deep = record.network(replace(record.dummy, num_hidden_layers=4), ("mlm",)).init(jax.random.key(0))
    student = record.network(replace(record.dummy, num_hidden_layers=2), ("mlm",))
    params = from_teacher(student, deep)
    np.testing.assert_array_equal(params["encoder"]["layers"]["ffn_norm"]["scale"],
                                  deep["encoder"]["layers"]["ffn_norm"]["scale"][np.array([0, 3])])


def test_a_teacher_that_does_not_fit_is_refused():
    _, teacher = teacher_of(intermediate_size=48)
    student = VARIANTS["distilbert"].network(replace(DUMMY, n_layers=6), ("mlm", "classify"))
    with pytest.raises(ValueError, match=r"classify/dense/kernel is missing.*ffn/up/kernel is"):
        from_teacher(student, teacher)
    with pytest.raises(ValueError, match="not all among the teacher's 12"):
        from_teacher(student, teacher, layers=[0, 1, 2, 3, 4, 12])


def test_sinusoidal_table_and_its_lack_of_a_gradient():
    checkpoint = bv.new("distilbert", sinusoidal_pos_embds=True, **SMALL)
    table = checkpoint.params["encoder"]["embeddings"]["position_embeddings"]["embedding"]
    for place, column in ((0, 0), (0, 1), (7, 0), (7, 1), (39, 22), (39, 23)):
        angle = place / 10000 ** (2 * (column // 2) / 24)
        assert table[place, column] == pytest.approx(np.cos(angle) if column % 2 else np.sin(angle), abs=1e-6)
    ids = np.arange(5, 14, dtype=np.int32)[None]
    gradients = jax.grad(lambda p: (checkpoint.network.encode(p, {"input_ids": ids}).last_hidden_state ** 3).sum())(
        checkpoint.params)["encoder"]["embeddings"]
    assert not gradients["position_embeddings"]["embedding"].any() and gradients["word_embeddings"]["embedding"].any()


@pytest.mark.peers
def test_sinusoidal_network_as_in_hf(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    peer = transformers.DistilBertModel(transformers.DistilBertConfig(**SMALL, sinusoidal_pos_embds=True)).eval()
    peer.save_pretrained(tmp_path)
    checkpoint = bv.load(tmp_path)
    fresh = bv.new("distilbert", sinusoidal_pos_embds=True, **SMALL)
    np.testing.assert_allclose(*(c.params["encoder"]["embeddings"]["position_embeddings"]["embedding"]
                                 for c in (checkpoint, fresh)), atol=1e-6)
    ids = np.random.default_rng(0).integers(5, 61, (3, 17))
    np.testing.assert_allclose(checkpoint(input_ids=ids).last_hidden_state,
                               peer(torch.tensor(ids)).last_hidden_state.detach().numpy(), atol=2e-5)


def test_segments_are_ignored():
    checkpoint = bv.new("distilbert", **SMALL)
    ids = np.arange(5, 14)[None]
    np.testing.assert_array_equal(checkpoint(input_ids=ids, token_type_ids=np.ones_like(ids)).last_hidden_state,
                                  checkpoint(input_ids=ids).last_hidden_state)


def test_config_reads_berts_names_and_old_fields():
    config, unknown = DistilBertConfig.from_json({
        "model_type": "distilbert", "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "n_heads": 3,
        "hidden_dim": 40, "tie_weights_": True})
    assert (config.dim, config.n_layers, config.hidden_size, config.num_hidden_layers, unknown) == (24, 2, 24, 2, [])
    with pytest.raises(ValueError, match=r"dim is missing.*n_layers is missing"):
        DistilBertConfig.from_json({"vocab_size": 61, "n_heads": 3, "hidden_dim": 40})


def test_only_the_inner_sentence_layer_is_dropped_out_in_the_classifier():
    """Rate ~1 at the classifier's dropout leaves its bias alone; the same rate elsewhere would change nothing here."""
    checkpoint = bv.new("distilbert", heads=("classify", "tag"), **SMALL, dropout=0.0, attention_dropout=0.0,
                        seq_classif_dropout=1 - 1e-6)
    batch = {"input_ids": np.arange(5, 14, dtype=np.int32)[None]}
    network, params = checkpoint.network, checkpoint.params
    np.testing.assert_array_equal(network.scores(params, "classify", batch, jax.random.key(0)),
                                  params["classify"]["out"]["bias"][None])
    np.testing.assert_allclose(network.scores(params, "tag", batch, jax.random.key(0)),
                               network.scores(params, "tag", batch), atol=1e-6)
