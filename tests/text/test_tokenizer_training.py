"""Vocabulary training: sizes, special tokens, the same result on every run, and use after it."""

import gzip
import itertools
import os
import subprocess
import sys

import pytest

from bertvariants_jax.text import Tokenizer, train

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Tokenizers split unbelievable words into believable pieces, splitting and splitting.",
    "She sold 1,234 shells - by the sea (or so she said) for £5.",
    "Crème brûlée is sold by the café; the cafés sell it cold.",
]


@pytest.fixture(scope="session")
def corpus(shared_data):
    path = shared_data / "pretrain" / "enwiki_featured_part1.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [line for line in itertools.islice(lines, 600) if line.strip()]


@pytest.mark.parametrize(
    ("kind", "family", "first"),
    [
        ("wordpiece", "bert", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]),
        ("bpe", "roberta", ["<s>", "<pad>", "</s>", "<unk>"]),
        ("unigram", "albert", ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]),
        ("xlnet", "xlnet", ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>"]),
        ("deberta", "deberta", ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]),
        ("deberta-v2", "deberta-v2", ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]),
        ("modernbert", "modernbert", ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]),
    ],
)
def test_trained_vocabularies(corpus, tmp_path, kind, family, first):
    tok = train(iter(corpus), kind, 1500)
    assert (tok.family, tok.vocab_size) == (family, 1500) and kind in (tok.kind, family)
    assert [tok.id_to_token(index) for index in range(len(first))] == first
    text = "The football club was founded in 1886 (or so)."
    ids = tok.encode(text).ids
    assert tok.unk_token_id not in ids and len(ids) < len(text) * 2 / 3
    flat = text if tok.kind == "bpe" else text.lower()
    assert tok.decode(ids).replace(" ", "") == flat.replace(" ", "")
    assert tok.starts_word.any() and not tok.starts_word.all()
    tok.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.family == family and again.mask_token_id == tok.mask_token_id is not None
    assert [row.tolist() for row in again.ids(corpus[:100])] == [
        row.tolist() for row in tok.ids(corpus[:100])
    ]


def test_wordpiece_learns_words_first(corpus):
    tok = train(corpus, "wordpiece", 1500)
    found = [tok.id_to_token(int(index)) for index in tok.ids(["the autism was first"])[0]]
    assert found == ["the", "autism", "was", "first"]


def test_case_is_kept_where_told():
    for kind in ("wordpiece", "unigram"):
        cased = train(SENTENCES * 20, kind, 150, lowercase=False)
        uncased = train(SENTENCES * 20, kind, 150, lowercase=True)
        decode = lambda tok, text: tok.decode(tok.ids([text])[0])
        assert decode(cased, "The dog").replace(" ", "") == "Thedog"
        assert decode(uncased, "The dog").replace(" ", "") == "thedog"
    cased = train(SENTENCES * 20, "wordpiece", 150, lowercase=False)
    assert "è" in cased.decode(cased.ids(["Crème"])[0])


def test_chinese_characters_get_no_continuation_piece():
    tok = train(["日本語の文 abc abd"] * 10, "wordpiece", 60)
    pieces = {tok.id_to_token(index) for index in range(tok.vocab_size)}
    assert "語" in pieces and "##語" not in pieces and "##b" in pieces


def test_same_vocabulary_on_every_run():
    """In processes with different hash seeds; the library's own WordPiece trainer fails this."""
    code = (
        "import sys, hashlib; sys.path.insert(0, 'tests/text')\n"
        "from hard_texts import hard_texts; from bertvariants_jax.text import train\n"
        "texts = hard_texts(400)\n"
        "for kind, size in (('wordpiece', 3000), ('bpe', 600), ('unigram', 1000)):\n"
        "    tok = train(texts, kind, size)\n"
        "    pieces = repr([tok.id_to_token(i) for i in range(len(tok))])\n"
        "    print(kind, hashlib.md5(pieces.encode()).hexdigest())"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": root},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(3)
    ]
    outputs = {run.communicate()[0] for run in runs}
    assert all(run.returncode == 0 for run in runs) and len(outputs) == 1, outputs


def test_long_lines_are_not_dropped():
    line = " ".join(f"word{index % 7}" for index in range(3000))
    tok = train([line, "strasse " * 2000], "unigram", 40)
    assert tok.unk_token_id not in tok.ids(["word3 strasse"])[0]


def test_wrong_arguments():
    with pytest.raises(
        ValueError, match="unknown tokenizer kind 'word': choose one of wordpiece, bpe, unigram"
    ):
        train(SENTENCES, "word")
    with pytest.raises(ValueError, match="too small"):
        train(SENTENCES, "wordpiece", 20)
    with pytest.raises(ValueError, match="too small"):
        train(SENTENCES, "bpe", 100)
    with pytest.raises(ValueError, match="could not train 10 pieces"):
        train(SENTENCES, "unigram", 10)
    with pytest.raises(ValueError, match="no text to train on"):
        train(["", " "], "wordpiece", 100)
    with pytest.raises(TypeError, match="iterable of strings, not one string"):
        train("text")
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string, not int"):
        train(["a", 1], "bpe", 300)
