"""The masked LM family's task: rows, masks and places of each procedure, held-out masks, and refused options."""

import jax
import numpy as np
import pytest

from bertvariants_jax.data.batch import check
from bertvariants_jax.data.corpus import nsp_pairs, sop_pairs
from bertvariants_jax.hf.checkpoint import Checkpoint, Report, save
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.recipe import Model, Recipe, prepare, replace
from bertvariants_jax.tasks.documents import special
from bertvariants_jax.tasks.pretrain import Pretrain
from bertvariants_jax.text import train

WORDS = "the cat dog bird sat ran flew over under a mat tree house and then it was gone away home".split()
CASES = {
    "bert": {},
    "words": {"masking": "words"},
    "roberta": {"pairs": "none", "masking": "fairseq", "line_ends": True},
    "doc-sentences": {"pairs": "none", "masking": "fairseq", "cross_documents": False},
    "albert": {"pairs": "sop", "masking": "ngrams"},
    "deberta": {"pairs": "none", "masking": "windows", "joined": True},
    "modernbert": {"pairs": "none", "masking": "bernoulli", "mask_rate": 0.3, "eval_mask_rate": 0.15, "pack": True,
                   "cross_documents": False},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("text") / "documents.txt"
    path.write_text("\n\n".join("\n".join(" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(rng.integers(2, 9)))
                                for _ in range(300)) + "\n")
    return path


@pytest.fixture(scope="module")
def tokenizers(text):
    families = {"bert": "bert", "words": "bert", "roberta": "roberta", "doc-sentences": "roberta", "albert": "albert",
                "deberta": "deberta", "modernbert": "modernbert"}
    made = {}
    for family, size in (("bert", 120), ("roberta", 320), ("albert", 90), ("deberta", 320), ("modernbert", 320)):
        made[family] = train(text.read_text().split("\n"), VARIANTS[family].tokenizer, size)
    return {case: made[family] for case, family in families.items()}


def masked(task, tokenizer, split="train", epoch=0, seed=0):
    examples = task.examples(split, tokenizer, None)
    index = np.arange(len(examples))
    rows = examples.rows(index, 0 * index)
    return rows, task.corrupt(examples, tokenizer, seed)(rows, index, np.full(len(index), epoch))


@pytest.mark.parametrize("case", CASES)
def test_rows_and_masks_of_each_procedure(case, text, tokenizers):
    task, tokenizer = Pretrain(data=(f"text:{text}",), held_out=0.3, max_length=32, **CASES[case]), tokenizers[case]
    rows, batch = masked(task, tokenizer)
    check(batch, tokenizer.vocab_size, 2, 32)
    assert batch["masked_positions"].shape == (len(batch["input_ids"]), task.places(task.mask_rate))
    real = rows["attention_mask"] > 0
    share = batch["masked_weights"].sum() / real.sum()
    assert share == pytest.approx(task.mask_rate, rel=0.1)
    used = batch["masked_weights"] > 0
    now = np.take_along_axis(batch["input_ids"], batch["masked_positions"], 1)[used]
    assert (now == tokenizer.mask_token_id).mean() == pytest.approx(0.8, abs=0.04)
    ends = np.isin(batch["masked_labels"][used], (tokenizer.cls_token_id, tokenizer.sep_token_id)).mean()
    assert (ends > 0.05) == (task.masking in ("fairseq", "bernoulli"))
    assert ("next_sentence_label" in batch) == (task.pairs != "none") == ("pair" in task.heads)
    separators = ((rows["input_ids"] == tokenizer.sep_token_id) & real).sum(1)
    if case == "roberta":
        assert separators.mean() > 3
    if case == "doc-sentences":
        assert (separators == 1).all()
    if case == "modernbert":
        packed = rows["attention_mask"]
        assert packed.max() > 2 and (separators == packed.max(1)).all()
        starts = (rows["input_ids"] == tokenizer.cls_token_id) & real
        begins = np.diff(packed, axis=1, prepend=0) > 0
        assert (begins & real == starts).all() and starts.sum() == separators.sum()
        assert real.mean() > 0.9
    again = masked(task, tokenizer, epoch=1)[1]
    other = masked(task, tokenizer, seed=1)[1]
    for different in (again, other):
        assert (different["masked_positions"] != batch["masked_positions"]).any(1).mean() > 0.9
    same = masked(task, tokenizer)[1]
    assert all((same[key] == batch[key]).all() for key in batch)


def test_held_out_rows_have_their_own_rate(text, tokenizers):
    task = Pretrain(data=(f"text:{text}",), held_out=0.4, max_length=32, **CASES["modernbert"])
    rows, batch = masked(task, tokenizers["modernbert"], "validation")
    share = batch["masked_weights"].sum() / (rows["attention_mask"] > 0).sum()
    assert share == pytest.approx(0.15, abs=0.02)
    assert batch["masked_positions"].shape[1] == task.places(0.15) < task.places(0.3)


def test_static_masks_stay(text, tokenizers):
    """BERT's files hold each text dupe_factor times, so that every row has one mask for good."""
    options = {"data": (f"text:{text}",), "max_length": 32, "masks": "static", "dupe_factor": 3}
    pairs, tokenizer = Pretrain(**options), tokenizers["bert"]
    first, later = (masked(pairs, tokenizer, epoch=e)[1]["masked_positions"] for e in (0, 5))
    assert (first == later).all()
    once = len(Pretrain(**{**options, "dupe_factor": 1}).examples("train", tokenizer, None))
    assert len(first) == pytest.approx(3 * once, rel=0.1)
    rows = Pretrain(**options, pairs="none")
    epochs = [masked(rows, tokenizer, epoch=e)[1]["masked_positions"] for e in range(4)]
    assert (epochs[0] == epochs[3]).all() and (epochs[0] != epochs[1]).any(1).mean() > 0.9


def test_pairs_are_those_of_the_paper(text, tokenizers):
    made = {}
    for kind, builder in (("nsp", nsp_pairs), ("sop", sop_pairs)):
        task, tokenizer = Pretrain(data=(f"text:{text}",), max_length=32, pairs=kind), tokenizers["albert"]
        corpus = task.corpus("train", tokenizer, None)
        same = builder(corpus, 32, seed=task.pair_seed, dupe_factor=task.dupe_factor, **special(tokenizer))
        made[kind] = task.examples("train", tokenizer, None)
        assert (made[kind].first == same.first).all() and (made[kind].label == same.label).all()
    assert len(made["nsp"]) != len(made["sop"])


def test_roberta_draws_no_special_token_but_the_mask(text, tokenizers):
    tokenizer = tokenizers["roberta"]
    mask = Pretrain(data=(f"text:{text}",), pairs="none", masking="fairseq").corrupt(None, tokenizer, 0)
    missing = set(range(tokenizer.vocab_size)) - set(mask.keywords["words"].tolist())
    assert missing == {tokenizer.token_to_id(piece) for piece in ("<s>", "<pad>", "</s>", "<unk>")}


@pytest.mark.parametrize("content,options,works", [
    ("one sentence of one document is all there is", {"pairs": "none"}, True),
    ("one sentence of one document is all there is", {"pairs": "nsp"}, False),
    ("one sentence\n\nanother document\n\nand a third", {"pairs": "sop"}, False),
    ("\n\n\n\nthe cat sat\n\n\n\n\n\nit was gone\n\n", {"pairs": "none"}, True),
    (" ".join(["cat"] * 200), {"pairs": "none", "masking": "ngrams"}, True),
    ("\n\n \n", {"pairs": "none"}, False),
])
def test_small_and_empty_corpora(tmp_path, tokenizers, content, options, works):
    path = tmp_path / "text.txt"
    path.write_text(content)
    task = Pretrain(data=(f"text:{path}",), evaluation=(f"text:{path}",), max_length=16, **options)
    if works:
        batch = masked(task, tokenizers["bert"])[1]
        check(batch, tokenizers["bert"].vocab_size)
        assert (batch["masked_weights"].sum(1) >= 1).all()
    else:
        with pytest.raises(ValueError, match=r"pairs cannot be made|empty"):
            task.examples("train", tokenizers["bert"], None)


@pytest.mark.parametrize("options,message", [
    ({"mask_rate": 0.0}, r"task\.mask_rate must lie between 0 and 1, got 0\.0"),
    ({"mask_rate": 1.5}, r"task\.mask_rate must lie between 0 and 1"),
    ({"eval_mask_rate": -0.1}, r"task\.eval_mask_rate"),
    ({"pack": True, "pairs": "none"}, r"needs cross_documents false"),
    ({"pack": True, "cross_documents": False}, r"task\.pack .* needs pairs 'none', not 'nsp'"),
    ({"line_ends": True, "pairs": "sop"}, r"task\.line_ends .* needs pairs 'none', not 'sop'"),
    ({"max_predictions": 200}, r"task\.max_predictions is 200, more than the 128 tokens"),
    ({"max_predictions": 19, "masking": "fairseq", "pairs": "none"}, r"chooses up to 20 of 128 tokens"),
    ({"longest": 0}, r"task\.longest must be at least 1"),
    ({"dupe_factor": 0}, r"task\.dupe_factor must be at least 1"),
    ({"short_seq_prob": 1.2}, r"task\.short_seq_prob"),
])
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Pretrain(**options)


def test_a_vocabulary_without_a_mask_is_refused(text, tokenizers):
    class Maskless:
        mask_token_id = None

        def __getattr__(self, name):
            return getattr(tokenizers["bert"], name)

    with pytest.raises(ValueError, match="has no mask token"):
        Pretrain(data=(f"text:{text}",)).corrupt(None, Maskless(), 0)


def test_places_are_those_that_can_be_needed():
    assert [Pretrain(max_length=n).places(0.15) for n in (128, 512)] == [19, 77]
    assert Pretrain(max_length=128, max_predictions=20).places(0.15) == 20
    assert Pretrain(max_length=512, pairs="none", masking="fairseq").places(0.15) == 77
    assert Pretrain(max_length=512, pairs="none", masking="windows").places(0.15) == 77 + 15
    assert Pretrain(max_length=1024, pairs="none", masking="bernoulli").places(0.3) == 410


def test_a_later_phase_changes_numbers_of_its_start(text, tokenizers, tmp_path):
    """ModernBERT's second phase: longer rows, and another theta in the layers that see all of them."""
    tokenizer, variant = tokenizers["modernbert"], VARIANTS["modernbert"]
    config = replace(variant.dummy, vocab_size=tokenizer.vocab_size, num_hidden_layers=2, global_rope_theta=1e4,
                     pad_token_id=tokenizer.pad_token_id, max_position_embeddings=64)
    network = variant.network(config, ("mlm",))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), network.shapes())
    save(Checkpoint(network, params, tokenizer, Report()), tmp_path / "one")
    task = Pretrain(data=(f"text:{text}",), max_length=64, **CASES["modernbert"])
    two = Recipe(task, Model(start=str(tmp_path / "one"), changes={"global_rope_theta": 1.6e5}))
    work = prepare(two, tmp_path / "two")
    assert (work.network.config.global_rope_theta, work.network.config.local_rope_theta) == (1.6e5, 1e4)
    assert work.train.batch(0)["input_ids"].shape == (32, 64)
    with pytest.raises(ValueError, match=r"model\.changes: ModernBertConfig has no field 'theta'"):
        prepare(replace(two, model=replace(two.model, changes={"theta": 1.0})), tmp_path / "two")
