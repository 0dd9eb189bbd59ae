"""Replaced-token detection as a task: rows and masks, sizes, stages, folders that others open, and refused options."""

import dataclasses
import importlib
import pathlib

import jax
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.cli import load_recipe
from bertvariants_jax.data.batch import check
from bertvariants_jax.hf.checkpoint import Checkpoint, Report
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.names import flatten
from bertvariants_jax.tasks.detect import Detect
from bertvariants_jax.text import train

WORDS = "the cat dog bird sat ran flew over under a mat tree house and then it was gone away home".split()
V3 = {"segments": "joined", "masking": "windows", "generator_width": 1.0, "generator_depth": 0.5, "sharing": "disentangled",
      "decoupled": True}
TABLE = "encoder/embeddings/word_embeddings/embedding"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("text") / "documents.txt"
    path.write_text("\n\n".join("\n".join(" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(rng.integers(4, 30)))
                                for _ in range(300)) + "\n")
    return path


@pytest.fixture(scope="module")
def tokenizer(text):
    return train(text.read_text().split("\n"), "bert", 60)


def network_of(name, heads=("rtd",), **fields):
    variant = VARIANTS[name]
    return variant.network(dataclasses.replace(variant.dummy, num_hidden_layers=1, **fields), heads)


def started(network, seed=0):
    return jax.jit(network.init)(jax.random.key(seed))


@pytest.mark.parametrize("options", [{}, {"segments": "one"}, V3], ids=["electra", "one segment", "deberta-v3"])
def test_rows_and_masks(options, text, tokenizer):
    task = Detect(data=(f"text:{text}",), held_out=0.3, max_length=32, **options)
    examples = task.examples("train", tokenizer, None)
    index = np.arange(len(examples))
    rows = examples.rows(index, 0 * index)
    batch = task.corrupt(examples, tokenizer, 0)(rows, index, 0 * index)
    check(batch, tokenizer.vocab_size, 2, 32)
    used, places = batch["masked_weights"] > 0, batch["masked_positions"]
    assert places.shape[1] == (5 if task.masking == "windows" else 4)    # round(.15 * 32) and int(.155 * 32)
    now = np.take_along_axis(batch["input_ids"], places, 1)[used]
    hidden = (now == tokenizer.mask_token_id).mean()
    assert hidden == 1 if task.masking == "windows" else 0.85 < hidden < 0.95
    assert ((now == tokenizer.mask_token_id) | (now == batch["masked_labels"][used])).all()
    assert not np.isin(batch["masked_labels"][used], tokenizer.special_ids).any()
    twice = (places[:, 1:] == places[:, :-1]) & used[:, 1:]
    assert twice.any() == (task.masking == "replacement")
    assert batch["token_type_ids"].any() == (task.segments == "two")


@pytest.mark.parametrize("name", ["deberta_base", "deberta_v3_base"])
@pytest.mark.parametrize("tiny", [False, True])
def test_rows_of_debertas_recipes_are_full_whatever_the_documents(name, tiny, text, tokenizer):
    recipe = load_recipe(pathlib.Path(__file__).parents[2] / "experiments" / f"{name}.py").recipe(tiny=tiny)
    task = dataclasses.replace(recipe.task, data=(f"text:{text}",), held_out=0.3, max_length=64)
    examples = task.examples("train", tokenizer, None)
    rows = examples.rows(np.arange(len(examples)), np.zeros(len(examples), int))
    assert rows["attention_mask"].mean() >= 0.99 and len(examples) > 100


def test_generators_have_the_papers_sizes():
    for size, width, generator in (("small", 1 / 4, "small-generator-paper"), ("base", 1 / 3, "base-generator"),
                                   ("large", 1 / 4, "large-generator")):
        electra = VARIANTS["electra"]
        made = Detect(generator_width=width).makes(electra.network(electra.sizes[f"electra-{size}-discriminator"]))
        assert made.config == electra.sizes[f"electra-{generator}"] and made.heads == ("mlm",)
    v3 = VARIANTS["deberta-v3"]
    made = Detect(**V3).makes(v3.network(v3.sizes["deberta-v3-base"])).config
    assert (made.hidden_size, made.num_hidden_layers, made.num_attention_heads) == (768, 6, 12)
    assert made.enhanced_mask_decoder


def test_two_stages():
    """The second starts from the first's encoder, keeps it apart and frozen, and says what does not fit."""
    assert Detect(train="generator").heads == ("mlm",)
    first = network_of("electra", ("mlm",))
    params = started(first)
    generator = Checkpoint(first, params, None, Report())
    task = Detect(train="discriminator", generator="somewhere", sharing="none")
    network = network_of("electra")
    objective = task.objective(network, generator=generator)
    assert objective.frozen == ("generator",) and set(objective.scales) == {"rtd"}
    begun = task.initial(network, None, generator=generator)
    assert set(begun["discriminator"]) == {"encoder", "rtd"}
    for path, value in flatten(params["encoder"]).items():
        np.testing.assert_array_equal(flatten(begun["discriminator"]["encoder"])[path], value)
        np.testing.assert_array_equal(flatten(begun["generator"]["encoder"])[path], value)
    assert jax.tree.map(np.shape, begun) == jax.tree.map(np.shape, jax.eval_shape(objective.init, jax.random.key(0)))
    with pytest.raises(ValueError, match="cannot start from the generator somewhere, which has another size"):
        task.initial(network_of("electra", hidden_size=36), None, generator=generator)
    with pytest.raises(ValueError, match="is no electra with a masked LM head"):
        other = network_of("electra", ("rtd",))
        task.objective(network, generator=Checkpoint(other, started(other), None, Report()))


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """name -> (the objective's parameters, RUN/model, RUN/generator), saved as a run does."""
    made = {}
    for name, options in (("electra", {"generator_width": 0.5}), ("deberta-v3", V3)):
        objective = Detect(**options).objective(network_of(name))
        rng = np.random.default_rng(3)
        params = jax.tree.map(lambda x, rng=rng: np.float32(x + 0.1 * rng.normal(size=x.shape)),
                              jax.jit(objective.init)(jax.random.key(0)))
        run = tmp_path_factory.mktemp(name)
        for folder, (network, values) in objective.exports(params).items():
            bv.save(Checkpoint(network, values, None, Report()), run / folder)
        made[name] = params, run / "model", run / "generator"
    return made


def test_a_run_leaves_two_folders(left):
    """ELECTRA's hold one embedding; DeBERTa-v3's discriminator has the sum of the generator's table and its deltas."""
    params, model, generator = left["electra"]
    one, two = (flatten(bv.load(folder).params) for folder in (model, generator))
    for path in (TABLE, "encoder/embeddings/position_embeddings/embedding", "encoder/embeddings/norm/scale"):
        np.testing.assert_array_equal(one[path], two[path])
        np.testing.assert_array_equal(one[path], flatten(params["generator"])[path])
    params, model, generator = left["deberta-v3"]
    one, two = (flatten(bv.load(folder).params) for folder in (model, generator))
    np.testing.assert_array_equal(two[TABLE], flatten(params["generator"])[TABLE])
    np.testing.assert_array_equal(one[TABLE], flatten(params["generator"])[TABLE] + flatten(params["discriminator"])[TABLE])
    assert np.abs(flatten(params["discriminator"])[TABLE]).max() > 0.1
    assert not bv.load(model, heads=("rtd",)).report.fresh


def test_going_on_from_both_folders(left):
    """The trained tree comes back, deltas and all."""
    for name, options in (("electra", {}), ("deberta-v3", V3)):
        params, model, generator = left[name]
        task, loaded = Detect(generator=str(generator), **options), bv.load(model, heads=("rtd",))
        assert task.companions() == {"generator": str(generator)}
        begun = task.initial(loaded.network, loaded.params, generator=bv.load(generator))
        again, whole = flatten(begun), flatten(params)
        assert set(again) == set(whole)
        for path, value in whole.items():
            np.testing.assert_allclose(again[path], value, atol=1e-6, err_msg=path)
    with pytest.raises(ValueError, match=r"lacks its generator: give task\.generator the folder"):
        Detect().initial(loaded.network, loaded.params)


@pytest.mark.peers
@pytest.mark.parametrize("name,folder,peer", [
    ("electra", 1, "ElectraForPreTraining"), ("electra", 2, "ElectraForMaskedLM"),
    ("deberta-v3", 1, "DebertaV2Model"), ("deberta-v3", 2, "DebertaV2ForMaskedLM")])
def test_transformers_opens_what_a_run_leaves(left, name, folder, peer):
    """Without a missing key, and without a foreign one but for what transformers has no class for."""
    torch, transformers = pytest.importorskip("torch"), importlib.import_module("transformers")
    path = left[name][folder]
    opened, said = getattr(transformers, peer).from_pretrained(path, output_loading_info=True)
    assert not said["missing_keys"] and not said["mismatched_keys"]
    foreign = {key for key in said["unexpected_keys"] if not key.startswith("mask_predictions.")
               and key != "deberta.embeddings.position_embeddings.weight"}
    assert not foreign
    ours, ids = bv.load(path), np.arange(5, 17, dtype=np.int32).reshape(2, 6)
    with torch.no_grad():
        theirs = opened.eval()(torch.tensor(ids, dtype=torch.long))
    if name == "electra":
        got = ours.logits("rtd" if folder == 1 else "mlm", input_ids=ids)
        np.testing.assert_allclose(got, theirs.logits.numpy(), atol=2e-5)
    elif folder == 1:
        np.testing.assert_allclose(ours(input_ids=ids).last_hidden_state, theirs.last_hidden_state.numpy(), atol=2e-5)


@pytest.mark.parametrize("options,message", [
    ({"mask_rate": 1.0}, r"task\.mask_rate must lie between 0 and 1, got 1\.0"),
    ({"mask_rate": 0.0}, r"task\.mask_rate must lie between 0 and 1"),
    ({"mask_share": 1.2}, r"task\.mask_share must lie above 0 and not above 1"),
    ({"generator_width": 1.5}, r"task\.generator_width must lie above 0 and not above 1, got 1\.5"),
    ({"generator_depth": 0.0}, r"task\.generator_depth must lie above 0"),
    ({"weight": -1.0}, r"task\.weight and task\.temperature must be positive"),
    ({"max_predictions": 500}, r"task\.max_predictions must lie between 0 and max_length 128"),
    ({"masking": "windows", "mask_rate": 0.7}, "hides one token of two at most"),
    ({"train": "discriminator", "sharing": "none"}, r"needs task\.generator, the folder"),
    ({"train": "discriminator", "generator": "x"}, "a frozen generator shares nothing"),
    ({"max_length": 3}, r"task\.max_length must be at least 5"),
])
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        Detect(**options)


def test_refused_models():
    with pytest.raises(ValueError, match=r"bert has no generator of its own kind: choose electra or deberta-v3"):
        Detect().objective(VARIANTS["bert"].network(VARIANTS["bert"].dummy))
    with pytest.raises(ValueError, match=r"word_embeddings is \[61, 12\] and narrower than the discriminator's, \[61, 24\]"):
        Detect(**{**V3, "generator_width": 0.5}).objective(network_of("deberta-v3", num_attention_heads=2))
    with pytest.raises(ValueError, match="trains one embedding by both losses"):
        Detect(decoupled=True).objective(network_of("electra"))

    class NoMask:
        mask_token_id = None

        def __repr__(self):
            return "this vocabulary"

    with pytest.raises(ValueError, match="this vocabulary has no mask token"):
        Detect().corrupt(None, NoMask(), 0)
