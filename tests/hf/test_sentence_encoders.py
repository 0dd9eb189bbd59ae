"""Side files of sentence encoders are obeyed and written again, or refused by name where vectors are asked for."""

import json
import shutil

import jax
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.hf.pooling import read_pooling
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.recipe import Similar, embedding, learned_pooling

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] Hello hello dog my query : find the and so on".split()
TYPES = "sentence_transformers.models."
PLAIN = ("Transformer", "Pooling")


def write(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def network_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    network = VARIANTS["bert"].network(VARIANTS["bert"].dummy.replaced(vocab_size=len(WORDS)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), network.shapes())
    bv.save(bv.Checkpoint(network, params), folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    write(folder / "tokenizer_config.json", {"do_lower_case": False, "tokenizer_class": "BertTokenizer"})
    return folder


@pytest.fixture
def encoder(network_files, tmp_path):
    """(kinds, pooling, reading, words, inner) -> the folder of a sentence encoder of these settings."""
    def made(kinds=PLAIN, pooling=None, reading=None, words=None, inner=""):
        folder = tmp_path / f"encoder-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(network_files, folder / inner if inner else folder)
        write(folder / "modules.json", [{"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else inner, "type": TYPES + kind}
                                        for i, kind in enumerate(kinds)])
        for step in {"1_Pooling", *(f"{i}_{kind}" for i, kind in enumerate(kinds) if kind == "Pooling")}:
            write(folder / step / "config.json", {"word_embedding_dimension": 24} | (pooling or {}))
        if reading:
            write(folder / inner / "sentence_bert_config.json", reading)
        if words:
            write(folder / "config_sentence_transformers.json", words)
        return folder
    return made


def mean(checkpoint, text, first=0):
    """The mean of a text's hidden states from a token on."""
    return np.asarray(checkpoint(**checkpoint.tokenizer(text)).last_hidden_state)[0, first:].mean(0)


def vectors_agree(folder, text, read_as, first=0, **options):
    """Whether the folder, and what is saved of it, make the vector of `read_as` of a text."""
    loaded = bv.load(folder)
    again = bv.save(loaded, folder.parent / f"{folder.name}-again")
    assert bv.load(again).pooling == loaded.pooling
    for place in (folder, again):
        vector = bv.pipeline("embed", bv.load(place), **options)(text)
        np.testing.assert_allclose(vector, mean(loaded, read_as, first), atol=1e-5)
    return again


def test_lower_case_and_further_settings_are_obeyed_and_saved(encoder):
    reading = {"max_seq_length": 12, "do_lower_case": True, "of_a_later_version": 1}
    again = vectors_agree(encoder(reading=reading), "Hello dog", "hello dog")
    assert json.loads((again / "sentence_bert_config.json").read_text()) == reading


def test_prompts_are_put_before_texts(encoder):
    words = {"prompts": {"query": "query: ", "passage": ""}, "default_prompt_name": "query", "similarity_fn_name": "dot",
             "__version__": {"pytorch": "2"}}
    folder = encoder(words=words)
    again = vectors_agree(folder, "my dog", "query: my dog")
    assert json.loads((again / "config_sentence_transformers.json").read_text()) == words
    run = bv.pipeline("embed", bv.load(folder))
    for options, read_as in (({"prompt_name": "passage"}, "my dog"), ({"prompt": ""}, "my dog"),
                             ({"prompt": "find the "}, "find the my dog")):
        np.testing.assert_allclose(run("my dog", **options), mean(run.checkpoint, read_as), atol=1e-5)
    with pytest.raises(ValueError, match="no prompt 'title'; there are: query, passage"):
        run("my dog", prompt_name="title")
    write(folder / "config_sentence_transformers.json", {"prompts": {"query": "q"}, "default_prompt_name": "passage"})
    with pytest.raises(ValueError, match="default_prompt_name is 'passage', which is not among prompts"):
        bv.load(folder)


def test_a_prompt_that_is_not_pooled(encoder):
    folder = encoder(pooling={"include_prompt": False}, words={"prompts": {"query": "query: "}, "default_prompt_name": "query"})
    vectors_agree(folder, "my dog", "query: my dog", first=3)                   # [CLS] query :
    np.testing.assert_allclose(bv.pipeline("embed", bv.load(folder), prompt="")("my dog"), mean(bv.load(folder), "my dog"), atol=1e-5)


def test_the_old_layout(encoder):
    folder = encoder(inner="0_Transformer", reading={"do_lower_case": True})
    (folder / "config.json").write_text('{"__version__": "0.2.0"}')              # what the oldest wrote there
    vectors_agree(folder, "Hello dog", "hello dog")


@pytest.mark.parametrize(("kinds", "pooling", "named"), [
    (("MLMTransformer", "SpladePooling"), None, "SpladePooling"),
    (("Transformer", "Pooling", "Dense"), None, "Dense"),
    (("Transformer", "WeightedLayerPooling", "Pooling"), None, "WeightedLayerPooling"),
    (("Transformer", "Pooling", "LayerNorm", "Normalize"), None, "LayerNorm"),
    (("Transformer",), None, "no Pooling"),
    (PLAIN, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "several poolings"),
    (PLAIN, {"pooling_mode_mean_tokens": False}, "no kind of pooling"),
    (PLAIN, {"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "pooling by pooling_mode_lasttoken"),
    (PLAIN, {"pooling_mode": "weightedmean"}, "pooling by weightedmean"),
    (("Transformer", "Normalize", "Pooling"), None, "the steps Transformer, Normalize, Pooling in this order"),
    (("Transformer", "Pooling", "Pooling"), None, "the steps Transformer, Pooling, Pooling in this order"),
])
def test_what_is_not_done_is_named_and_kept_by_saving(encoder, kinds, pooling, named):
    folder = encoder(kinds, pooling)
    if "Dense" in kinds:
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"weights")
    loaded = bv.load(folder)
    again = bv.save(loaded, folder.parent / "again")
    for place in (folder, again):
        with pytest.raises(ValueError, match=named):
            bv.pipeline("embed", bv.load(place))
        with pytest.raises(ValueError, match=named):
            embedding(Similar(), read_pooling(place))
    assert bv.pipeline("embed", loaded, pooling="mean").pooling == "mean"
    if "Dense" in kinds:
        assert (again / "2_Dense" / "pytorch_model.bin").read_bytes() == b"weights"


def test_a_task_of_vectors_reads_texts_as_the_folder_says(encoder):
    words = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    task = embedding(Similar(max_length=64), read_pooling(encoder(reading={"do_lower_case": True, "max_seq_length": 16}, words=words)))
    assert task.read("Hello") == "query: hello" and task.max_length == 16
    assert embedding(Similar(max_length=64), None) == Similar(max_length=64)


def test_an_encoder_is_written_to_read_texts_as_it_learned_them(encoder):
    for start in (None, read_pooling(encoder(words={"prompts": {"query": "query: "}}))):
        asked = Similar(lowercase=True, prompt="find the ", pooling="cls")
        pooling = learned_pooling(asked, start)
        assert (pooling.mode, pooling.lowercase, pooling.prompt()) == ("cls", True, "find the ")
        assert dict(pooling.prompts).items() >= dict(start.prompts if start else ()).items()
        later = embedding(Similar(), pooling).fitted((), pooling.mode)
        assert (later.pooling, later.read("Dog")) == ("cls", asked.read("Dog"))


def test_a_step_of_the_folders_own_code_is_none_of_theirs(encoder):
    folder = encoder()
    modules = json.loads((folder / "modules.json").read_text())
    write(folder / "modules.json", [{**modules[0], "type": "custom_st.Transformer"}, modules[1]])
    with pytest.raises(ValueError, match=r"has custom_st\.Transformer, which is not supported"):
        bv.pipeline("embed", bv.load(folder))


@pytest.mark.parametrize(("reading", "said"), [
    ({"max_seq_length": "12"}, "max_seq_length should be a whole number of at least 1, not '12'"),
    ({"max_seq_length": 0}, "max_seq_length should be a whole number of at least 1, not 0"),
    ({"do_lower_case": "false"}, "do_lower_case should be true or false, not 'false'"),
])
def test_settings_that_are_none_are_named_with_their_file(encoder, reading, said):
    with pytest.raises(ValueError, match=rf"sentence_bert_config\.json: {said}"):
        read_pooling(encoder(reading=reading))


def test_settings_in_other_notations(encoder):
    pooling = read_pooling(encoder(reading={"max_seq_length": 12.0}, pooling={"pooling_mode": "CLS"}))
    assert (pooling.max_length, pooling.mode, pooling.unsupported) == (12, "cls", ())
