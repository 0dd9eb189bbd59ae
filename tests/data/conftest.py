"""Real text that every Python has, vocabularies trained on it, and a toy tokenizer."""

import os
import sys
import sysconfig

import pytest
from corpora import TAO_TE_CHING, Words

from bertvariants_jax.data.corpus import Corpus
from bertvariants_jax.data.documents import Document
from bertvariants_jax.data.source import open_source
from bertvariants_jax.text import Tokenizer, train

BERT_ROWS = 30_522


@pytest.fixture(scope="session")
def words():
    return Words()


@pytest.fixture(scope="session")
def manual():
    """The documentation of Python's own modules, NumPy and SciPy: 700 documents, 350 thousand words."""
    modules = []
    for entry in sorted(os.listdir(sysconfig.get_path("stdlib"))):
        name = entry.removesuffix(".py")
        if name in sys.stdlib_module_names and not name.startswith("_"):
            modules.append(name)
    documents = []
    for name in (*modules, "pydoc_data", "numpy", "scipy"):
        try:
            documents += open_source(f"docs:{name}").documents()
        except ValueError:  # a module that has no documentation
            continue
    return documents


@pytest.fixture(scope="session")
def sentences(manual):
    return [sentence for document in manual for sentence in document.sentences]


@pytest.fixture(scope="session")
def bert(sentences, tmp_path_factory):
    """8,000 WordPieces of that text, in the layout of bert-base-uncased: the same special ids,
    [unused] rows and number of rows.
    """
    trained = train(sentences, "wordpiece", 8000)
    pieces = [trained.id_to_token(i) for i in range(trained.vocab_size)]
    pieces = [piece for piece in pieces if not piece.startswith("[")]
    rows = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rows += [f"[unused{i}]" for i in range(99, 994)] + pieces
    rows += [f"[unused{i}]" for i in range(994, 994 + BERT_ROWS - len(rows))]
    return load_vocabulary(rows, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def ernie(tmp_path_factory):
    """The characters of `TAO_TE_CHING` in the layout and the number of rows of ERNIE 1.0."""
    characters = sorted(set("".join(TAO_TE_CHING)) | set("北京大学在数很难。"))
    latin = ["math", "##ematic", "##ian", "b"]
    rows = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "，", *characters, *latin]
    rows = list(dict.fromkeys(rows))
    rows += [f"[unused{i}]" for i in range(17_963 - len(rows))] + ["[UNK]"]
    return load_vocabulary(rows, tmp_path_factory.mktemp("ernie"))


def load_vocabulary(rows, folder):
    (folder / "vocab.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}'
    )
    return Tokenizer.load(folder)


@pytest.fixture(scope="session")
def books(manual, bert):
    """That text as a corpus: about 500 thousand tokens."""
    return Corpus.build(manual, bert)


@pytest.fixture(scope="session")
def tao():
    """Ten chapters in Chinese, a document each."""
    return [Document(chapter.splitlines()) for chapter in TAO_TE_CHING]
