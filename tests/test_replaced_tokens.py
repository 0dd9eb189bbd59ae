"""The pipeline of words that look replaced: which words, where, and what is refused."""

import numpy as np
import pytest

import bertvariants_jax as bv

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat on mat good bad film was ##s .".split()


@pytest.fixture(scope="module")
def discriminator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return bv.new("electra", heads=("rtd",), seed=5, tokenizer=folder, hidden_size=24, num_hidden_layers=2, embedding_size=16,
                  num_attention_heads=3, intermediate_size=40, max_position_embeddings=32, initializer_range=0.7)


def test_every_word_with_its_score_and_place(discriminator):
    run, text = bv.pipeline("replaced-tokens", discriminator, threshold=0.0), "The cats sat  on the mat."
    found = run(text)
    assert [row["word"] for row in found] == ["The", "cats", "sat", "on", "the", "mat", "."]
    assert all(set(row) == {"word", "score", "start", "end"} for row in found)
    assert all(text[row["start"] : row["end"]] == row["word"] for row in found)
    logits = np.asarray(discriminator.logits("rtd", **discriminator.tokenizer([text])))[0]
    scores = 1 / (1 + np.exp(-logits[1:-1]))                  # [CLS] the cat ##s sat on the mat . [SEP]
    want = [scores[0], max(scores[1], scores[2]), *scores[3:]]
    np.testing.assert_allclose([row["score"] for row in found], want, rtol=1e-5)


def test_only_words_above_the_threshold_in_a_list_of_texts(discriminator):
    texts = ["the dog sat", "", "a good film was bad . " * 20]
    every, some = (bv.pipeline("replaced-tokens", discriminator, threshold=t)(texts) for t in (0.0, 0.5))
    assert every[1] == [] and len(every[0]) == 3 and len(every[2]) == 30     # cut at 32 tokens
    for rows, kept in zip(every, some, strict=True):
        want = [row for row in rows if row["score"] >= 0.5]
        assert [row["word"] for row in kept] == [row["word"] for row in want]
    assert 0 < len(some[2]) < 30


def test_refusals(discriminator):
    with pytest.raises(ValueError, match="threshold must lie between 0 and 1"):
        bv.pipeline("replaced-tokens", discriminator, threshold=1.5)
    with pytest.raises(ValueError, match="has no 'rtd' head"):
        bv.pipeline("replaced-tokens", discriminator.with_heads("mlm"))
