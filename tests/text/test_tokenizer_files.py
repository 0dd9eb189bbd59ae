"""Which files a tokenizer is read from, what `save` writes, what is said of bad ones."""

import json
import subprocess
import sys

import pytest
from hard_texts import hard_texts
from tokenizer_cases import FAMILY

from bertvariants_jax.text import Tokenizer

VOCAB = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "dog",
    "##s",
    "créme",
    "creme",
    "Dog",
    ".",
]


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def vocab_txt(pieces=VOCAB):
    return "".join(f"{piece}\n" for piece in pieces)


def words(tok, text):
    return [tok.id_to_token(index) for index in tok.encode(text, specials=False).ids]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, ["creme", "dog", "##s"]),
        ({"do_lower_case": True}, ["creme", "dog", "##s"]),
        ({"do_lower_case": True, "strip_accents": False}, ["créme", "dog", "##s"]),
        ({"do_lower_case": False}, ["[UNK]", "Dog", "##s"]),
    ],
)
def test_case_and_accents_follow_tokenizer_config(tmp_path, settings, expected):
    write(tmp_path, vocab__txt=vocab_txt())
    if settings is not None:
        write(tmp_path, tokenizer_config__json=json.dumps(settings))
    assert words(Tokenizer.load(tmp_path), "Créme Dogs") == expected


def test_chinese_characters_follow_tokenizer_config(tmp_path):
    write(tmp_path, vocab__txt=vocab_txt([*VOCAB, "日", "本", "日本"]))
    assert words(Tokenizer.load(tmp_path), "日本") == ["日", "本"]
    write(tmp_path, tokenizer_config__json='{"tokenize_chinese_chars": false}')
    assert words(Tokenizer.load(tmp_path), "日本") == ["日本"]


@pytest.mark.parametrize(
    ("model_type", "types"),
    [("bert", True), ("electra", True), ("ernie", True), ("distilbert", False)],
)
def test_model_type_decides_on_token_types(tmp_path, model_type, types):
    write(tmp_path, vocab__txt=vocab_txt(), config__json=json.dumps({"model_type": model_type}))
    tok = Tokenizer.load(tmp_path)
    assert tok.type_ids is types and ("token_type_ids" in tok("the dog")) is types
    tok.save(tmp_path / "saved")  # remembered without config.json
    assert Tokenizer.load(tmp_path / "saved").type_ids is types


def test_ernie_numbers_and_carriage_returns(tmp_path):
    rows = [f"{piece}\t{index}" for index, piece in enumerate(VOCAB)]
    tab = Tokenizer.load(write(tmp_path / "tab", vocab__txt="\r\n".join([*reversed(rows), ""])))
    plain = Tokenizer.load(write(tmp_path / "plain", vocab__txt=vocab_txt()))
    assert tab.encode("the dogs.").ids == plain.encode("the dogs.").ids == [2, 5, 6, 7, 11, 3]
    tab.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "vocab.txt").read_text(encoding="utf-8") == vocab_txt()


def test_added_tokens_are_whole_and_keep_their_ids(tmp_path):
    write(
        tmp_path,
        vocab__txt=vocab_txt(),
        added_tokens__json=json.dumps({"<ent>": len(VOCAB), "@x": len(VOCAB) + 1}),
    )
    write(tmp_path, special_tokens_map__json=json.dumps({"additional_special_tokens": ["<ent>"]}))
    tok = Tokenizer.load(tmp_path)
    assert tok.vocab_size == len(VOCAB) + 2
    assert words(tok, "the <ent>dog @x") == ["the", "<ent>", "dog", "@x"]
    write(tmp_path, added_tokens__json=json.dumps({"<ent>": 40}))
    with pytest.raises(ValueError, match="'<ent>' is said to have id 40, but gets 12"):
        Tokenizer.load(tmp_path)


def test_other_names_for_special_tokens(tmp_path):
    pieces = ["<none>" if piece == "[UNK]" else piece for piece in VOCAB]
    write(
        tmp_path,
        vocab__txt=vocab_txt(pieces),
        special_tokens_map__json='{"unk_token": {"content": "<none>"}}',
    )
    tok = Tokenizer.load(tmp_path)
    assert tok.unk_token == "<none>" and tok.ids(["zebra"])[0].tolist() == [1]


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({}, FileNotFoundError, "no vocabulary found"),
        ({"vocab__json": "{}"}, FileNotFoundError, "merges.txt"),
        ({"vocab__txt": ""}, ValueError, "vocab.txt is empty"),
        (
            {"vocab__txt": "a\nb\n"},
            ValueError,
            r"\[PAD\], \[UNK\], \[CLS\], \[SEP\] not in the vocabulary",
        ),
        ({"vocab__txt": "[PAD]\t0\nbroken\n"}, ValueError, "vocab.txt line 2"),
        ({"vocab__json": "{}", "merges__txt": "a b c\n"}, ValueError, "merges.txt line 1"),
        ({"vocab__json": "{", "merges__txt": "a b\n"}, ValueError, "vocab.json: not JSON"),
        ({"tokenizer__json": "{}"}, ValueError, "tokenizer.json cannot be read"),
        ({"spiece__model": "no model"}, ValueError, "not a SentencePiece model"),
        (
            {"vocab__txt": vocab_txt(), "tokenizer_config__json": "{"},
            ValueError,
            "tokenizer_config.json: not JSON",
        ),
        (
            {"vocab__txt": vocab_txt(), "config__json": "[]"},
            ValueError,
            "config.json: expected an object",
        ),
    ],
)
def test_bad_folders(tmp_path, files, error, message):
    with pytest.raises(error, match=message) as raised:
        Tokenizer.load(write(tmp_path / "here", **files))
    assert str(tmp_path / "here") in str(raised.value)


def test_other_encodings(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("[PAD]\ncafé\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        Tokenizer.load(tmp_path)


def test_no_folder_and_no_family(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="unknown tokenizer family 'bort': choose one of bert"):
        Tokenizer.load(write(tmp_path, vocab__txt=vocab_txt()), family="bort")


def test_gpt2_files_are_not_a_bert(shared_data):
    with pytest.raises(ValueError, match="needs it; if this is another family, tell `family`"):
        Tokenizer.load(shared_data / "tokenizers" / "gpt2")


@pytest.mark.parametrize("name", [*FAMILY, "deberta-v1"])
def test_save_and_load_again(tokenizer, checkpoint_folder, tmp_path, name):
    """Same ids and same attributes, from vocabulary files and from tokenizer.json."""
    tok = tokenizer(name)
    tok.save(tmp_path)
    source = checkpoint_folder(name)
    for path in source.iterdir():
        kept = "config" not in path.name and not name.startswith("ernie")
        if kept and path.name not in ("added_tokens.json", "special_tokens_map.json"):
            assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    again = Tokenizer.load(tmp_path)
    texts = hard_texts(200)
    for field in (
        "family",
        "kind",
        "type_ids",
        "padding_side",
        "pad_token_type_id",
        "vocab_size",
        "model_max_length",
    ):
        assert getattr(again, field) == getattr(tok, field), field
    assert again.family == FAMILY.get(name, ("deberta",))[0]
    assert again.special_ids.tolist() == tok.special_ids.tolist()
    for one, two in zip(
        tok.encode_batch(texts, texts[::-1]), again.encode_batch(texts, texts[::-1]), strict=True
    ):
        assert one == two
    if name in ("roberta-base", "albert-base", "ernie-1.0-zh", "deberta-v1"):
        (tmp_path / "tokenizer.json").unlink()  # the vocabulary files alone
        plain = Tokenizer.load(tmp_path)
        assert [row.tolist() for row in plain.ids(texts)] == [
            row.tolist() for row in tok.ids(texts)
        ]


def test_saved_original_stays_original(tokenizer, tmp_path):
    tok = tokenizer("xlnet-base-cased", True)
    tok.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert [row.tolist() for row in again.ids(hard_texts(100))] == [
        row.tolist() for row in tok.ids(hard_texts(100))
    ]
    (tmp_path / "spiece.model").unlink()
    with pytest.raises(ValueError, match="needs the SentencePiece model"):
        Tokenizer.load(tmp_path)


def test_baked_in_truncation_and_padding_are_switched_off(tokenizer, checkpoint_folder, tmp_path):
    data = json.loads(
        (checkpoint_folder("modernbert") / "tokenizer.json").read_text(encoding="utf-8")
    )
    data["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    data["padding"] = {
        "strategy": {"Fixed": 16},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 50283,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    write(tmp_path, tokenizer__json=json.dumps(data))
    text = "a text of some more than four words"
    assert Tokenizer.load(tmp_path).encode(text).ids == tokenizer("modernbert").encode(text).ids


def test_import_is_cheap():
    code = (
        "import sys; import bertvariants_jax.text; "
        "heavy = {'jax', 'torch', 'transformers', 'tensorflow', 'tokenizers', 'sentencepiece'}; "
        "bad = heavy & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
