"""Switching between variants is switching a name: one call shape for all, with the family's real tokenizers."""

import dataclasses

import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.text import Tokenizer

TOKENIZERS = {"bert": "bert-base-uncased", "roberta": "roberta-base", "xlm-roberta-xl": "roberta-base",
              "albert": "albert-base", "distilbert": "bert-base-uncased", "electra": "bert-base-uncased",
              "xlnet": "xlnet-base-cased", "deberta": "gpt2", "deberta-v2": "deberta-v3", "deberta-v3": "deberta-v3",
              "ernie": "ernie-1.0-zh", "spanbert": "bert-base-cased", "modernbert": "modernbert"}
TEXTS = ["Hello, my dog is cute", "你好，世界", "A rather longer sentence, whose length is not that of the others."]


def tokenizer_of(variant, shared_data, tmp_path):
    folder = shared_data / "tokenizers" / TOKENIZERS[variant]
    if variant == "modernbert":                                    # kept gzipped
        import gzip

        (tmp_path / "tokenizer.json").write_bytes(gzip.decompress((folder / "tokenizer.json.gz").read_bytes()))
        return Tokenizer.load(tmp_path)
    if variant == "deberta":
        folder = shared_data / "tokenizers" / "roberta-base"       # the same merges; v1's own vocabulary is not here
    return Tokenizer.load(folder)


@pytest.mark.parametrize("variant", VARIANTS)
def test_new_save_load_and_call(variant, shared_data, tmp_path):
    record = VARIANTS[variant]
    tokenizer = tokenizer_of(variant, shared_data, tmp_path)
    fields = {f.name for f in dataclasses.fields(record.dummy)} - {"vocab_size", "pad_token_id"}
    small = {name: getattr(record.dummy, name) for name in fields}
    checkpoint = bv.new(variant, heads=("mlm",) if variant != "spanbert" else ("mlm", "sbo"), tokenizer=tokenizer, **small)
    bv.save(checkpoint, tmp_path / "saved")
    again = bv.load(tmp_path / "saved")
    assert again.variant == variant and not again.report.fresh and not again.report.ignored
    inputs = again.tokenizer(TEXTS)
    out = again(**inputs, output_hidden_states=True)
    assert out.last_hidden_state.shape[:2] == inputs["input_ids"].shape
    assert np.isfinite(out.last_hidden_state).all()
    np.testing.assert_array_equal(out.last_hidden_state, checkpoint(**inputs).last_hidden_state)
    assert again.logits("mlm", **inputs).shape[-1] == again.config.vocab_size
    alone = again(**again.tokenizer(TEXTS[0])).last_hidden_state
    real = inputs["attention_mask"][0] > 0
    np.testing.assert_allclose(alone[0], out.last_hidden_state[0][real], atol=2e-5)
