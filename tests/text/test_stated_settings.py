"""What a folder states twice, leaves open, or states of a tokenizer that is not known here."""

import json
import shutil

import pytest

import bertvariants_jax as bv
from bertvariants_jax.cli import main
from bertvariants_jax.text import Tokenizer, train

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*MARKS, "the", "dog", "##s", "café", "cafe", "Paris", "paris", "東", "京", "東京", "covid"]


def write(folder, pieces=WORDS, **files):
    folder.mkdir(parents=True, exist_ok=True)
    if pieces:
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def saved(folder, model_type="bert", **settings):
    """A folder whose tokenizer.json lower-cases, and a tokenizer_config.json that says `settings`."""
    write(folder / "plain", tokenizer_config__json={"do_lower_case": True})
    Tokenizer.load(folder / "plain").save(folder)
    (folder / "vocab.txt").unlink()
    write(folder, None, config__json={"model_type": model_type}, tokenizer_config__json=settings)
    return folder


def words(tok, text):
    return [tok.id_to_token(index) for index in tok.encode(text, specials=False).ids]


# --- stated twice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({}, "Paris Café 東京", ["paris", "cafe", "東", "京"]),
        ({"do_lower_case": False}, "Paris Café", ["Paris", "[UNK]"]),
        ({"strip_accents": False}, "Paris Café", ["paris", "café"]),
        ({"tokenize_chinese_chars": False}, "東京", ["東京"]),
        ({"do_lower_case": False, "strip_accents": True}, "Paris café", ["Paris", "cafe"]),
        # the generic class takes tokenizer.json as it stands
        ({"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}, "Paris", ["paris"]),
    ],
)
def test_tokenizer_config_overrules_tokenizer_json(tmp_path, settings, text, expected):
    tok = Tokenizer.load(saved(tmp_path, **settings))
    assert words(tok, text) == expected
    tok.save(tmp_path / "again")
    again = Tokenizer.load(tmp_path / "again")
    assert words(again, text) == expected
    overruled = bool(settings) and "tokenizer_class" not in settings
    assert any("overrules" in note for note in tok.notes) == overruled


def test_settings_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="do_lower_case should be true or false, not 'no'"):
        Tokenizer.load(saved(tmp_path, do_lower_case="no"))
    with pytest.raises(ValueError, match="truncation_side should be 'left' or 'right', not 'middle'"):
        Tokenizer.load(saved(tmp_path, truncation_side="middle"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokenizer_class": ["BertTokenizer"]}, "tokenizer_class should be a name"),
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder should be an object"),
        ({"added_tokens_decoder": {"x": "a"}}, "'a' has the id 'x': no number"),
        ({"added_tokens_decoder": {"14": {"lstrip": True}}}, "should be a text or have a `content`"),
        ({"extra_special_tokens": [3]}, "should be a text or have a `content`"),
    ],
)
def test_misshapen_settings(tmp_path, settings, said):
    folder = write(tmp_path, tokenizer_config__json={"do_lower_case": True, **settings})
    with pytest.raises(ValueError, match=said):
        Tokenizer.load(folder)


def test_truncation_from_the_left(tmp_path):
    tok = Tokenizer.load(saved(tmp_path, truncation_side="left"))
    text, pair = "the dog dogs paris", "paris cafe"
    assert words_of(tok, tok(text, max_length=4)) == ["[CLS]", "##s", "paris", "[SEP]"]
    both = ["[CLS]", "##s", "paris", "[SEP]", "paris", "cafe", "[SEP]"]
    assert words_of(tok, tok(text, pair, max_length=7)) == both
    cut = tok.encode(text, pair, max_length=7)
    assert [tok.id_to_token(i) for i in cut.ids] == both and cut.offsets[2] == (13, 18)
    tok.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").truncation_side == "left"


def words_of(tok, batch):
    return [tok.id_to_token(int(index)) for index in batch["input_ids"][0]]


def test_added_tokens_are_matched_as_stated(tmp_path):
    write(tmp_path, tokenizer_config__json={"do_lower_case": True})
    write(tmp_path, None, added_tokens__json={"covid19": len(WORDS)})
    assert words(Tokenizer.load(tmp_path), "COVID19 covid19") == ["covid19"] * 2
    entry = {"content": "covid19", "normalized": False, "lstrip": False, "rstrip": False}
    stated = {"do_lower_case": True, "added_tokens_decoder": {str(len(WORDS)): entry}}
    tok = Tokenizer.load(write(tmp_path, None, tokenizer_config__json=stated))
    assert words(tok, "COVID19 covid19") == ["[UNK]", "covid19"]
    tok.save(tmp_path / "again")
    assert words(Tokenizer.load(tmp_path / "again"), "COVID19 covid19") == ["[UNK]", "covid19"]
    roles = ({"extra_special_tokens": {"ent_token": "covid19"}}, {"ent_token": "covid19"})
    for role in roles:  # of the folder's own: as any added token
        stated = {"do_lower_case": True, **role}
        tok = Tokenizer.load(write(tmp_path, None, tokenizer_config__json=stated))
        assert words(tok, "COVID19 covid19") == ["covid19"] * 2
    special = {"do_lower_case": True, "split_special_tokens": True}
    tok = Tokenizer.load(write(tmp_path, None, tokenizer_config__json=special))
    assert "[MASK]" not in words(tok, "the [MASK]")


def test_special_tokens_map_overrules_the_config_but_not_its_decoder(tmp_path):
    pieces = ["<none>", *WORDS]
    settings = {"do_lower_case": True, "unk_token": "[UNK]"}
    write(tmp_path, pieces, special_tokens_map__json={"unk_token": "<none>"})
    write(tmp_path, None, tokenizer_config__json=settings)
    assert words(Tokenizer.load(tmp_path), "zebra") == ["<none>"]
    write(tmp_path, None, tokenizer_config__json={**settings, "added_tokens_decoder": {}})
    assert words(Tokenizer.load(tmp_path), "zebra") == ["[UNK]"]


# --- left open: the vocabulary decides ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "text", "expected", "said"),
    [
        (["Paris", "The", "the", "par", "##is"], "The Paris", ["The", "Paris"], "is cased"),
        (["the", "paris", "a"], "The Paris", ["the", "paris"], "is uncased"),
        (["été", "déjà", "ete", "deja"], "Été déjà", ["été", "déjà"], "and its accents"),
        # one odd piece among many is no evidence
        (["the", "Paris", "café", "cafe"], "The Café", ["the", "cafe"], "is uncased"),
        (["1", "2", "北"], "1 北", ["1", "北"], "has no letters that know case"),
    ],
)
def test_the_vocabulary_decides_on_case_where_no_file_states_it(
    tmp_path, pieces, text, expected, said
):
    tok = Tokenizer.load(write(tmp_path, [*MARKS, *pieces], config__json={"model_type": "bert"}))
    assert words(tok, text) == expected
    assert any(said in note for note in tok.notes)
    tok.save(tmp_path / "again")  # and what was decided is written down
    again = Tokenizer.load(tmp_path / "again")
    assert words(again, text) == expected and not again.notes


def test_case_of_published_vocabularies(shared_data, tmp_path):
    for path in sorted(shared_data.glob("tokenizers/*/vocab.txt")):
        (tmp_path / path.parent.name).mkdir()
        shutil.copy(path, tmp_path / path.parent.name)  # the bare file
        note = " ".join(Tokenizer.load(tmp_path / path.parent.name).notes)
        expected = "keeps its case" if path.parent.name.endswith("-cased") else "is lower-cased"
        assert expected in note and "accents" not in note, path


@pytest.mark.parametrize("kind", ["albert", "xlnet"])
def test_case_of_a_sentencepiece_vocabulary(tmp_path, kind):
    text = ["The Cat sat on a Mat in Paris and the Dog ran to London"] * 30
    for lowercase in (False, True):
        train(text, kind, 120, lowercase).save(tmp_path / f"{lowercase}")
        for file in (tmp_path / f"{lowercase}").glob("*.json"):
            file.unlink()
        pieces = "".join(words(Tokenizer.load(tmp_path / f"{lowercase}"), "The Cat"))
        assert pieces == ("▁the▁cat" if lowercase else "▁The▁Cat")


# --- of no known family -------------------------------------------------------------------------------

FOREIGN = {
    "BertJapaneseTokenizer": {"tokenizer_config__json": {"tokenizer_class": "BertJapaneseTokenizer"}},
    "HerbertTokenizerFast": {"config__json": {"tokenizer_class": "HerbertTokenizerFast"}},
    "tokenization_x.XTokenizer": {
        "tokenizer_config__json": {"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}}
    },
    "RobertaTokenizer reads vocab.json": {
        "tokenizer_config__json": {"tokenizer_class": "RobertaTokenizer"}
    },
    "'roberta' reads vocab.json": {"config__json": {"model_type": "roberta"}},
    "model_type 'mpnet'": {"config__json": {"model_type": "mpnet"}},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_tokenizer_of_no_known_family_is_refused_by_name(tmp_path, name):
    folder = write(tmp_path, **FOREIGN[name])
    with pytest.raises(ValueError, match=name):
        Tokenizer.load(folder)
    chosen = Tokenizer.load(folder, family="bert")
    assert chosen.family == "bert"
    own = write(tmp_path / "own", tokenizer_config__json={"do_lower_case": False})
    Tokenizer.load(own).save(own)  # its settings count as they do untold
    write(own, None, tokenizer_config__json={"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    assert words(Tokenizer.load(own, family="bert"), "PARIS") == ["paris"]
    chosen.save(tmp_path / "again")  # as what it was read
    assert Tokenizer.load(tmp_path / "again").family == "bert"


def test_a_foreign_tokenizer_does_not_hide_the_weights(tmp_path, capsys):
    own = Tokenizer.load(write(tmp_path / "own"))
    size = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    size["vocab_size"] = own.vocab_size
    model = bv.new("bert-tiny", heads=("mlm",), num_hidden_layers=1, **size)
    bv.save(model, tmp_path / "model")
    settings = {"tokenizer_class": "PhobertTokenizer"}
    write(tmp_path / "model", ["Tôi 5", "là 4"], tokenizer_config__json=settings)

    loaded = bv.load(tmp_path / "model")
    assert loaded.tokenizer is None and loaded.heads
    assert "PhobertTokenizer" in str(loaded.report)
    with pytest.raises(ValueError, match=r"PhobertTokenizer.*tokenizer=FOLDER"):
        bv.pipeline("fill-mask", loaded)
    assert main(["predict", str(tmp_path / "model"), "the [MASK]"]) == 1
    assert "PhobertTokenizer" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "bare")]) == 0
    assert "PhobertTokenizer" in capsys.readouterr().out
    assert not list((tmp_path / "bare").glob("*vocab*"))

    assert bv.load(tmp_path / "model", tokenizer=False).tokenizer is None
    assert bv.load(tmp_path / "model", tokenizer=own).tokenizer is own
    chosen = ["--tokenizer", str(tmp_path / "own")]
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "whole"), *chosen]) == 0
    assert bv.load(tmp_path / "whole").tokenizer.vocab_size == own.vocab_size

    write(tmp_path / "model", ["no", "marks"], tokenizer_config__json={})  # damaged, not foreign
    with pytest.raises(ValueError, match=r"not in the vocabulary.*tokenizer=False"):
        bv.load(tmp_path / "model")


# --- whose ids ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deberta(tmp_path_factory):
    """A small DeBERTa-v3 vocabulary with bytes, as its publisher gives it: spm.model alone."""
    import io

    import sentencepiece

    folder, model = tmp_path_factory.mktemp("deberta"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the fine dog sat on 1 2 mats ... and ran"] * 40),
        model_writer=model,
        vocab_size=320,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
        minloglevel=2,
    )
    (folder / "spm.model").write_bytes(model.getvalue())
    return write(folder, None, config__json={"model_type": "deberta-v2"})


TEXT = "the\xa0ﬁne dog… ½ 𝄞"


def test_deberta_gives_its_own_models_ids_unless_told(deberta, tmp_path):
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(deberta / "spm.model"))
    tok, hf = Tokenizer.load(deberta), Tokenizer.load(deberta, tokenizer_ids="hf")
    assert tok.ids([TEXT])[0].tolist() == processor.encode(TEXT)
    assert tok.unk_token_id not in tok.ids([TEXT])[0] and hf.unk_token_id in hf.ids([TEXT])[0]
    for one, whose in ((tok, "original"), (hf, "hf")):
        assert one.tokenizer_ids == whose and f"'{whose}'" in " ".join(one.notes)
        one.save(tmp_path / whose)
        shutil.copy(deberta / "config.json", tmp_path / whose)
        again = Tokenizer.load(tmp_path / whose)
        assert again.tokenizer_ids == whose and again.encode(TEXT) == one.encode(TEXT)
    turned = Tokenizer.load(tmp_path / "original", tokenizer_ids="hf")
    assert turned.encode(TEXT) == hf.encode(TEXT)
    (tmp_path / "original" / "spm.model").unlink()
    with pytest.raises(ValueError, match="alone holds the ids of 'original'"):
        Tokenizer.load(tmp_path / "original", tokenizer_ids="hf")
    with pytest.raises(ValueError, match="tokenizer_ids is 'google'; it is one of hf, original"):
        Tokenizer.load(deberta, tokenizer_ids="google")


def test_deberta_folders_without_the_model(deberta, tmp_path):
    """tokenizer.json keeps the model's normalization, or says that it does not."""
    for whose in ("original", "hf"):
        tok = Tokenizer.load(deberta, tokenizer_ids=whose)
        tok.save(tmp_path / whose)
        (tmp_path / whose / "spm.model").unlink()
        settings = {"tokenizer_class": "DebertaV2Tokenizer"}  # as a stranger's, that names no ids
        write(tmp_path / whose, None, tokenizer_config__json=settings)
        again = Tokenizer.load(tmp_path / whose)
        assert again.tokenizer_ids == whose and again.encode(TEXT).ids == tok.encode(TEXT).ids
    with pytest.raises(ValueError, match="needs the SentencePiece model"):
        Tokenizer.load(tmp_path / "hf", tokenizer_ids="original")


def test_folders_and_runs_from_before_the_choice_keep_their_ids(deberta, tmp_path):
    Tokenizer.load(deberta, tokenizer_ids="hf").save(tmp_path / "old")
    path = tmp_path / "old" / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    del settings["tokenizer_ids"]
    path.write_text(json.dumps(settings), encoding="utf-8")
    assert Tokenizer.load(tmp_path / "old").tokenizer_ids == "hf"

    from bertvariants_jax.recipe import Model, Pretrain, Recipe, run

    recipe = Recipe(Pretrain(), Model(variant="deberta-v3", tokenizer_ids="original"))
    begun = recipe.as_json()
    del begun["model"]["tokenizer_ids"]
    write(tmp_path / "run", None, config__json=begun)
    with pytest.raises(ValueError, match="was begun with transformers' ids"):
        run(recipe, tmp_path / "run")

    (tmp_path / "text.txt").write_text("the dog ran.\nthe dogs.\n\n" * 80, encoding="utf-8")
    bare = write(tmp_path / "cased", [*WORDS, "The", "Dog"])  # was lower-cased then
    config = bv.new("bert-tiny", vocab_size=len(WORDS) + 2).config
    settings = Model(tokenizer=str(bare), config=config)
    recipe = Recipe(Pretrain(data=(f"text:{tmp_path / 'text.txt'}",), max_length=32), settings)
    write(tmp_path / "run", None, config__json=begun)
    with pytest.raises(ValueError, match=r"gave other ids: .*the vocabulary is cased"):
        run(recipe, tmp_path / "run")


def test_load_and_convert_take_whose_ids(deberta, tmp_path, capsys):
    size = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    model = bv.new("deberta-v3-small", tokenizer=deberta, num_hidden_layers=1, **size)
    bv.save(model, tmp_path / "model")
    assert "own SentencePiece" in str(bv.load(tmp_path / "model").report)
    assert bv.load(tmp_path / "model", tokenizer_ids="hf").tokenizer.tokenizer_ids == "hf"
    for chosen, said in ((False, "none is"), (Tokenizer.load(deberta), "'original'")):
        with pytest.raises(ValueError, match=f"tokenizer_ids='hf'.*{said}"):
            bv.load(tmp_path / "model", tokenizer=chosen, tokenizer_ids="hf")
    command = ["convert", str(tmp_path / "model"), str(tmp_path / "hf"), "--tokenizer-ids", "hf"]
    assert main(command) == 0 and "tokenizer_ids 'hf'" in capsys.readouterr().out
    assert bv.load(tmp_path / "hf").tokenizer.tokenizer_ids == "hf"
