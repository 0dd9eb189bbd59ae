"""The tokenizers under test, loaded once each from the shared real vocabularies."""

import functools
import gzip
import json

import pytest
from tokenizer_cases import FAMILY

from bertvariants_jax.text import Tokenizer


@pytest.fixture(scope="session")
def checkpoint_folder(shared_data, tmp_path_factory):
    """name -> a folder as a checkpoint has it: usual file names, and config.json."""

    @functools.cache
    def folder(name):
        made = tmp_path_factory.mktemp("tokenizers") / name
        made.mkdir()
        if (
            name == "deberta-v1"
        ):  # GPT-2's pieces, DeBERTa's special ones: laid out as the published vocab.json
            source = shared_data / "tokenizers" / "roberta-base"
            vocab = json.loads((source / "vocab.json").read_bytes())
            renamed = {
                "<s>": "[CLS]",
                "<pad>": "[PAD]",
                "</s>": "[SEP]",
                "<unk>": "[UNK]",
                "<mask>": "[MASK]",
            }
            order = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3}
            vocab = {renamed.get(piece, piece): index for piece, index in vocab.items()} | order
            (made / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
            (made / "merges.txt").write_bytes((source / "merges.txt").read_bytes())
            (made / "config.json").write_text('{"model_type": "deberta"}')
            return made
        for path in (shared_data / "tokenizers" / name).iterdir():
            if path.suffix == ".zip":
                continue
            data = path.read_bytes()
            target = path.name.replace(".rebuilt", "")
            if path.suffix == ".gz":
                data, target = gzip.decompress(data), target.removesuffix(".gz")
            (made / target).write_bytes(data)
        (made / "config.json").write_text(json.dumps({"model_type": FAMILY[name][1]}))
        if name in ("bert-base-cased", "bert-base-multilingual-cased"):
            (made / "tokenizer_config.json").write_text(
                '{"do_lower_case": false, "model_max_length": 512}'
            )
        return made

    return folder


@pytest.fixture(scope="session")
def tokenizer(checkpoint_folder):
    """name -> its `Tokenizer`."""
    return functools.cache(
        lambda name, original=False: Tokenizer.load(checkpoint_folder(name), original=original)
    )
