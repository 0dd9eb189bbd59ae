"""ERNIE 1.0's masking against a literal restatement and its statistics on Chinese text; units, pairs, dialogues."""

import json
import pickle
import zlib

import numpy as np
import pytest
from corpora import SPECIALS, Words, make_corpus

from bertvariants_jax.data import noise, units
from bertvariants_jax.data.corpus import Corpus, nsp_pairs
from bertvariants_jax.data.dialogue import Together, Turns, dialogues
from bertvariants_jax.data.documents import Document
from bertvariants_jax.data.segments import fit
from bertvariants_jax.data.units import UnitPairs, capitalised, found_units, given_units, labels_of, mask_units, spans

CLS, SEP, MASK, LENGTH = 1, 2, 3, 64
ERNIE = dict(seed=5, vocab_size=17964, mask_token_id=MASK, never=(CLS, SEP), max_predictions=LENGTH)


def pieces(text):
    """Words of one to four characters, cut by what stands there: a stand-in for a word segmenter."""
    out, start = [], 0
    while start < len(text):
        size = 1 + zlib.crc32(text[start:start + 2].encode()) % 4
        out.append((start, min(len(text), start + size)))
        start += size
    return out


@pytest.fixture(scope="module")
def examples(tao, ernie):
    corpus = Corpus.build(tao, ernie)
    labels = found_units(corpus, [s for d in tao for s in d.sentences], ernie, pieces, "pieces")
    special = {key: getattr(ernie, key) for key in SPECIALS}
    return UnitPairs(nsp_pairs(corpus, LENGTH, seed=1, dupe_factor=600, **special), labels)


@pytest.fixture(scope="module")
def rows(examples):
    assert len(examples) >= 10_000
    return examples.rows(np.arange(len(examples)), np.zeros(len(examples), np.int64))


def masked(batch, epoch=0, **options):
    index = np.arange(len(batch["input_ids"]))
    return mask_units(batch, index, np.full(len(index), epoch), **{**ERNIE, **options})


def literal(sent, seg_labels, mask_word, prob_mask, replace_ids):
    """The loop of ERNIE's batching.py over one row; its random numbers are given."""
    sent, mask_label, mask_pos = list(sent), [], []

    def predict(index, prob, base):
        mask_label.append(sent[index])
        mask_pos.append(index)
        if 0.2 * base < prob <= base:
            sent[index] = MASK
        elif 0.1 * base < prob <= 0.2 * base:
            sent[index] = replace_ids[index]

    if mask_word:
        beg = 0
        for token_index, seg_label in enumerate(seg_labels):
            if seg_label == 1:
                continue
            if beg == 0:
                if seg_label != -1:
                    beg = token_index
                continue
            if prob_mask[beg] <= 0.15:
                for index in range(beg, token_index):
                    predict(index, prob_mask[index], 0.15 if index == beg else 1.0)
            beg = 0 if seg_label == -1 else token_index
    else:
        for token_index, token in enumerate(sent):
            if prob_mask[token_index] <= 0.15 and token not in (CLS, SEP):
                predict(token_index, prob_mask[token_index], 0.15)
    return sent, mask_pos, mask_label


@pytest.mark.parametrize("share", [1.0, 0.0, 0.5])
def test_equals_the_literal_procedure(rows, share):
    some = {key: value if share == 1 else value[:3000] for key, value in rows.items()}
    n, epoch = len(some["input_ids"]), 3
    out = masked(some, epoch, mask_word_prob=share)
    assert "seg_labels" not in out and "seg_labels" in some
    index = np.arange(n)
    u = noise.uniform(5, "units/u", epoch, index, LENGTH)
    by_unit = noise.uniform(5, "units/level", epoch, index, 1)[:, 0] < share
    word = 1 + noise.integers(5, "units/word", epoch, index, LENGTH, 17964 - 1)
    for i, length in enumerate(some["attention_mask"].sum(1).tolist()):
        sent, places, labels = literal(some["input_ids"][i, :length].tolist(), some["seg_labels"][i, :length].tolist(),
                                       by_unit[i], u[i].tolist(), word[i].tolist())
        assert out["input_ids"][i, :length].tolist() == sent
        used = out["masked_weights"][i] > 0
        assert out["masked_positions"][i][used].tolist() == places and out["masked_labels"][i][used].tolist() == labels
    if share == 0.5:
        assert abs(by_unit.mean() - 0.5) < 5 * 0.5 / np.sqrt(n)


def marks(batch, out):
    """Where tokens are predicted, and what stands there: 0 the mask, 1 another id, 2 the token itself."""
    chosen = np.zeros(batch["input_ids"].shape, bool)
    used = out["masked_weights"] > 0
    chosen[np.nonzero(used)[0], out["masked_positions"][used]] = True
    fate = np.where(out["input_ids"] == MASK, 0, np.where(out["input_ids"] != batch["input_ids"], 1, 2))
    return chosen, fate


def near(values, p, sigmas=5):
    return abs(np.mean(values) - p) < sigmas * np.sqrt(p * (1 - p) / np.size(values))


def test_units_are_chosen_whole_and_each_token_has_a_fate_of_its_own(rows):
    out, labels = masked(rows), rows["seg_labels"]
    chosen, fate = marks(rows, out)
    first, goes_on = labels == 0, labels == 1
    assert not chosen[labels < 0].any() and (rows["input_ids"][labels < 0] <= 2).all()
    assert near(chosen[first], 0.15) and first.sum() > 100_000
    assert (chosen[:, 1:][goes_on[:, 1:]] == chosen[:, :-1][goes_on[:, 1:]]).all()            # one decision a unit
    for which in (first, goes_on):
        fates = fate[chosen & which]
        # a drawn id may be the mask's or the token's own; both are far rarer than the bounds
        assert near(fates == 0, 0.8) and near(fates == 1, 0.1) and near(fates == 2, 0.1)
    pair = chosen[:, 1:] & goes_on[:, 1:] & first[:, :-1]                                    # 80/10/10 each for itself
    both = np.stack([fate[:, :-1][pair], fate[:, 1:][pair]])
    assert near((both == 0).all(0), 0.64) and near((both == 1).any(0), 0.19)
    assert 0.1 < chosen[goes_on].mean() < 0.2


def test_token_level_and_the_mixture(rows):
    out = masked(rows, mask_word_prob=0.0)
    chosen, fate = marks(rows, out)
    body = rows["seg_labels"] >= 0
    assert not chosen[~body].any() and near(chosen[body], 0.15)
    fates = fate[chosen]
    assert near(fates == 0, 0.8) and near(fates == 1, 0.1) and near(fates == 2, 0.1)
    goes_on = rows["seg_labels"][:, 1:] == 1
    assert near((chosen[:, 1:] & chosen[:, :-1])[goes_on], 0.0225, sigmas=8)                 # neighbours know nothing of it
    mixed = marks(rows, masked(rows, mask_word_prob=0.5))[0]
    same = [(mixed[i, 1:] == mixed[i, :-1])[goes_on[i]].all() for i in range(len(mixed))]
    assert 0.48 < np.mean(same) < 0.6                           # rows by units, and a few by tokens that look like it


def test_random_ids_are_all_but_the_first(rows):
    drawn = []
    for epoch in range(3):
        chosen, fate = marks(rows, out := masked(rows, epoch))
        drawn.append(out["input_ids"][chosen & (fate == 1)])
    drawn, size = np.concatenate(drawn), 17964
    parts = np.histogram(drawn, 20, (1, size))[0]
    assert ((parts - len(drawn) / 20) ** 2 / (len(drawn) / 20)).sum() < 60
    assert drawn.min() >= 1 and drawn.max() < size
    few = {**{key: value[:4000] for key, value in rows.items()}}
    out = masked(few, vocab_size=6)
    chosen, fate = marks(few, out)
    assert set(out["input_ids"][chosen & (fate == 1)].tolist()) == {1, 2, 4, 5}              # 3 is the mask, 0 never


def test_too_many_for_the_slots_leaves_whole_units_out(rows):
    some = {key: value[:3000] for key, value in rows.items()}
    whole, few = marks(some, masked(some))[0], marks(some, out := masked(some, max_predictions=6))[0]
    count = whole.sum(1)
    assert out["masked_positions"].shape == (3000, 6) and (few <= whole).all() and few.sum(1).max() == 6
    assert (few.sum(1)[count <= 6] == count[count <= 6]).all() and few.sum(1)[count > 6].min() >= 3
    goes_on = some["seg_labels"][:, 1:] == 1
    assert (few[:, 1:] == few[:, :-1])[goes_on].all()
    place = np.tile(np.arange(LENGTH), (3000, 1))
    crowded = count > 6
    assert abs(place[crowded][few[crowded]].mean() / place[crowded][whole[crowded]].mean() - 1) < 0.02   # anywhere


def test_depends_on_example_and_epoch_alone(rows):
    whole = masked({key: value[:40] for key, value in rows.items()})
    part = {key: value[10:20] for key, value in rows.items()}
    out = mask_units(part, np.arange(10, 20), np.zeros(10, int), **ERNIE)
    assert all((out[key] == whole[key][10:20]).all() for key in out)
    assert (masked(part)["masked_positions"] != masked(part, 1)["masked_positions"]).any()
    with pytest.raises(ValueError, match="masked already"):
        masked(masked(part) | {"seg_labels": part["seg_labels"]})


def test_nothing_but_special_tokens_and_nothing_at_all():
    batch = {"input_ids": np.array([[CLS, SEP, SEP, 0], [0, 0, 0, 0], [CLS, 9, 9, SEP]]),
             "attention_mask": np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]),
             "seg_labels": np.array([[-1, -1, -1, -1], [-1, -1, -1, -1], [-1, 1, 1, -1]])}
    for share in (0.0, 1.0):
        out = masked(batch, mask_word_prob=share, rate=0.999)
        assert not out["masked_weights"][:2].any()
    assert not out["masked_weights"].any()                       # a continuation without its head belongs to no unit


def test_one_is_the_true_pair():
    corpus = make_corpus([[5, 4, 6, 7]] * 40)
    pairs = nsp_pairs(corpus, 32, seed=0, **SPECIALS)
    batch = UnitPairs(pairs, np.zeros(len(corpus.tokens), np.int8)).rows(np.arange(len(pairs)), 0 * np.arange(len(pairs)))
    documents = (np.cumsum([0] + [22] * 40))
    true = 0
    for ids, types, label in zip(batch["input_ids"], batch["token_type_ids"], batch["next_sentence_label"], strict=True):
        a, b = ids[(types == 0) & (ids > 4)], ids[(types == 1) & (ids > 4)]
        together = np.searchsorted(documents, a[0] - 5, "right") == np.searchsorted(documents, b[0] - 5, "right")
        assert label == int(together and b[0] == a[-1] + 1), (a, b, label)
        true += label
    assert 0.25 < true / len(pairs) < 0.75
    assert (batch["next_sentence_label"] == 1 - pairs.rows(np.arange(len(pairs)))["next_sentence_label"]).all()


def test_labels_stand_where_their_tokens_do(examples):
    some = np.arange(200)
    batch, corpus = examples.rows(some, 0 * some), examples.pairs.corpus
    for i in range(200):
        at, column = int(examples.pairs.first[i]), 1
        for k in (0, 1):
            size = int(examples.pairs.sizes[i, k])
            assert (batch["input_ids"][i, column:column + size] == corpus.tokens[at:at + size]).all()
            want = examples.labels[at:at + size].tolist()
            assert batch["seg_labels"][i, column:column + size].tolist() == [0, *want[1:]]
            assert batch["seg_labels"][i, column + size] == batch["seg_labels"][i, 0] == -1
            at, column = int(examples.pairs.second[i]), column + size + 1
        assert (batch["seg_labels"][i, column:] == -1).all()
    again = pickle.loads(pickle.dumps(examples)).rows(some, 0 * some)
    assert all((again[key] == batch[key]).all() for key in batch)


def test_units_of_a_text():
    offsets = np.array([(0, 3), (3, 5), (6, 8), (8, 9), (10, 14)])          # "abcde fgh ijkl"
    assert labels_of([(0, 5), (6, 9), (10, 14)], offsets).tolist() == [0, 1, 0, 1, 0]
    assert labels_of([(0, 14)], offsets).tolist() == [0, 1, 1, 1, 1]
    assert labels_of([(3, 8)], offsets).tolist() == [0, 0, 1, 0, 0]          # outside of all units each is its own
    assert labels_of([], offsets).tolist() == [0] * 5 and labels_of([], offsets[:0]).tolist() == []
    assert labels_of([(0, 4), (4, 9)], offsets).tolist() == [0, 1, 0, 1, 0]  # a border inside a token falls behind it
    assert spans("abcde fgh ijkl", ["abcde", " ", "fgh", "ijkl"], "") == [(0, 5), (6, 9), (10, 14)]
    for given, message in (([(0, 4)], r"border lies inside the token at characters \(3, 5\)"),
                           ([(0, 5), (5, 6)], r"no token begins in the unit \(5, 6\)"),
                           ([(7, 9)], r"border lies inside the token at characters \(6, 8\)"),
                           ([(11, 12)], r"border lies inside")):
        with pytest.raises(ValueError, match=f"^row 3: .*{message}"):
            labels_of(given, offsets, "row 3")
    for given, message in ((["abcd", "fgh"], "'fgh' does not stand at character 4"), ([(0, 5), (4, 6)], "overlaps"),
                           ([(3, 3)], "is empty"), ([(0, 99)], "lies outside")):
        with pytest.raises(ValueError, match=message):
            spans("abcde fgh ijkl", given, "row 3")


def test_given_units_fit_or_are_refused(ernie):
    texts = ["北京大学在北京。", "", "数学 math"]
    corpus = Corpus.build([texts], ernie)
    said = [("row 0", [[0, 4], [5, 7]]), ("row 1", []), ("row 2", ["数学", "math"])]
    labels = given_units(corpus, texts, said, ernie)
    assert labels[:8].tolist() == [0, 1, 1, 1, 0, 0, 1, 0] and len(labels) == len(corpus.tokens)
    tokens = len(corpus.tokens) - 8
    flat = given_units(corpus, texts, [("", [0, 1, 1, 1, 0, 0, 1, 0]), ("", []), ("", [0] * tokens)], ernie)
    assert flat[:8].tolist() == labels[:8].tolist() and not flat[8:].any()
    for wrong, message in (([0, 1], "2 unit labels for 8 tokens"), ([1] * 8, "begin with 0"), ([0, 2] * 4, "must be 0")):
        with pytest.raises(ValueError, match=f"row 0: .*{message}"):
            given_units(corpus, texts, [("row 0", wrong), *said[1:]], ernie)
    with pytest.raises(ValueError, match="no units for the sentence '数学"):
        given_units(corpus, texts, said[:2], ernie)
    with pytest.raises(ValueError, match="has the data changed"):
        given_units(corpus, texts[:1], said, ernie)


def test_found_units_are_kept_beside_the_corpus(ernie, tmp_path):
    texts = ["北京大学在北京。", "数学很难。"]
    calls = []

    def find(text):
        calls.append(text)
        return pieces(text)

    plain = found_units(Corpus.build([texts], ernie), texts, ernie, pieces, "pieces")
    for _ in range(2):
        corpus = Corpus.build([texts], ernie, tmp_path)
        assert (found_units(corpus, texts, ernie, find, "pieces") == plain).all()
    assert calls.count(texts[0]) == 1 and corpus.folder
    assert (found_units(corpus, texts, ernie, lambda text: [(0, len(text))], "pieces") != plain).any()  # another function


def test_words_and_functions(ernie):
    corpus = Corpus.build([["数学 mathematician", "b b"]], ernie)
    tokens = [ernie.id_to_token(int(i)) for i in corpus.tokens]
    assert units.word_units(corpus, ernie.starts_word).tolist() == [int(token.startswith("##")) for token in tokens]
    assert units.finder("bertvariants_jax.data.units:capitalised") is capitalised
    for name, message in (("nowhere_at_all:f", "No module named"), ("json:nothing", "nothing"), ("words!", "module:function")):
        with pytest.raises(ValueError, match=message):
            units.finder(name)
    text = "The Bank of England, said Mr Smith in Paris, is old. Paris is not."
    assert [text[a:b] for a, b in capitalised(text)] == ["The Bank of England", "Mr Smith", "Paris", "Paris"]
    assert capitalised("Nothing here.") == []


def test_jieba_words():
    jieba = pytest.importorskip("jieba")
    text = "数学是研究数量的学科, 1.5 kg"
    found = spans(text, jieba.lcut(text), "jieba")
    assert [text[a:b] for a, b in found][:3] == ["数学", "是", "研究"]
    text = "李明在北京大学学习"
    assert "北京大学" in [text[a:b] for a, b in units.chinese_entities(text)]


class Each(dict):
    """A tokenizer that gives each word an id of its own."""

    vocab_size = 1 << 20

    def ids(self, texts):
        return [np.array([self.setdefault(word, 5 + len(self)) for word in text.split()], np.int32) for text in texts]


def corpus_of(talks, tokenizer=None):
    read = Turns(Documents(talks))
    corpus = Corpus.build(list(read), Words() if tokenizer is None else tokenizer)
    return corpus, read.roles(corpus)


class Documents(list):
    """Documents with a fingerprint."""

    fingerprint = "made"

    def __init__(self, talks):
        super().__init__(Document(list(talk)) for talk in talks)


def test_dialogues():
    rng = np.random.default_rng(0)
    # word d.t says its dialogue and turn
    talks = [[" ".join(f"{d}.{t}.{w}" for w in range(rng.integers(1, 9))) for t in range(rng.integers(1, 7))]
             for d in range(2000)]
    marked = [f"{role}: {turn}" for role, turn in zip("QQR", talks[0] * 3, strict=False)]
    talks[0] = marked
    corpus, roles = corpus_of(talks, Each())
    assert roles[:3].tolist() == [0, 0, 1] and roles[3:3 + len(talks[1])].tolist() == [i % 2 for i in range(len(talks[1]))]
    labels = (np.arange(len(corpus.tokens)) % 3 > 0).astype(np.int8)
    examples = dialogues(corpus, labels, roles, 24, seed=3, **SPECIALS)
    lengths = np.array([len(talk) for talk in talks])
    assert len(examples) == np.where(lengths > 2, lengths - 2, lengths // 2).sum()
    index = np.arange(len(examples))
    batch = examples.rows(index, 0 * index)
    where = {}
    for s in range(corpus.num_sentences):
        where.update(dict.fromkeys(corpus.tokens[corpus.sentences[s]:corpus.sentences[s + 1]].tolist(), s))
    owner = np.repeat(np.arange(2000), lengths)
    replaced = []
    for i in index.tolist():
        ids = batch["input_ids"][i][batch["attention_mask"][i] > 0].tolist()
        assert ids[0] == 2 and ids[-1] == 3
        parts = np.split(np.array(ids[1:-1]), np.flatnonzero(np.array(ids[1:-1]) == 3))
        shown = [where[int(part[part > 4][0])] for part in parts]
        first = int(examples.first[i])
        true = list(range(first, first + int(examples.turns[i])))
        assert len(shown) == len(true) and len({owner[s] for s in true}) == 1
        wrong = [k for k in range(len(true)) if shown[k] != true[k]]
        assert batch["next_sentence_label"][i] == (not wrong) and len(wrong) < 2             # 1 is real
        if wrong:
            assert owner[shown[wrong[0]]] != owner[true[0]]
            replaced.append(wrong[0] if len(true) == 3 else -1)
        want = []
        for k, part in enumerate(parts):
            want += [int(roles[true[k]])] * (len(part[part > 4]) + 1)
        assert batch["token_type_ids"][i, 1:len(ids)].tolist() == want
    assert near(batch["next_sentence_label"], 0.5)
    replaced = np.array(replaced)
    assert all(near(replaced[replaced >= 0] == k, 1 / 3) for k in range(3))
    assert (examples.rows(index, 0 * index + 1)["next_sentence_label"] != batch["next_sentence_label"]).any()
    one = examples.rows(index[7:9], 0 * index[7:9])
    assert all((one[key] == batch[key][7:9]).all() for key in batch)


def test_bad_dialogues_are_refused():
    for talks, message in (([["a b", "c"]], "two dialogues or more"), ([["a"], ["b"]], "none of the 2 dialogues has two")):
        corpus, roles = corpus_of(talks)
        with pytest.raises(ValueError, match=message):
            dialogues(corpus, np.zeros(9, np.int8), roles, 24, seed=0, **SPECIALS)
    with pytest.raises(ValueError, match="turns, but 3 of them hold a token"):
        corpus_of([["a b", "Q: ", " "], ["c"]])


def test_sets_of_examples_together():
    def talk(count, letter):
        return [[f"{letter}{d}a", f"{letter}{d}b", f"{letter}{d}c"] for d in range(count)]

    parts = []
    for count, letter in ((3, "x"), (5, "y")):
        corpus, roles = corpus_of(talk(count, letter))
        parts.append(dialogues(corpus, np.zeros(len(corpus.tokens), np.int8), roles, 12, seed=0, **SPECIALS))
    both = Together(tuple(parts))
    index, epoch = np.array([7, 0, 2, 3]), np.array([0, 1, 2, 3])
    batch = both.rows(index, epoch)
    for row, (part, i) in enumerate(((1, 4), (0, 0), (0, 2), (1, 0))):
        alone = parts[part].rows(np.array([i]), epoch[row:row + 1])
        assert all((alone[key][0] == batch[key][row]).all() for key in batch)
    assert len(both) == 8


def test_fit_cuts_the_longest():
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 30, (2000, 3))
    for row, out in zip(sizes.tolist(), fit(sizes, 40).tolist(), strict=True):
        want = list(row)
        while sum(want) > 40:
            want = [min(x, max(want) - 1) for x in want]       # all of the longest at once
        assert sum(out) <= 40 and all(a <= b for a, b in zip(out, row, strict=True))
        assert out == want


def test_the_jsonl_of_given_units_names_its_faults(tmp_path, ernie):
    from bertvariants_jax.tasks.knowledge import Knowledge

    good = {"text": ["北京大学在北京。", "数学很难。"], "units": [[[0, 4]], [[0, 2]]]}
    path = tmp_path / "a.jsonl"

    def task(*rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Knowledge(data=(f"jsonl:{path}",), evaluation=(f"jsonl:{path}",), units="field:units", max_length=32)

    examples = task(good, good).examples("train", ernie, None)
    assert examples.labels[:13].tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    for bad, message in (({"text": ["a"]}, "row 1 has no field 'units'; it has: text"),
                         ({**good, "units": [[]]}, "row 1: 2 sentences in 'text', but units for 1"),
                         ({**good, "units": [[[0, 4]], [[0, 9]]]}, "row 1, sentence 1: .*outside"),
                         ({**good, "units": [[0] * 7, []]}, "row 1, sentence 0: 7 unit labels for 8 tokens")):
        with pytest.raises(ValueError, match=message):
            task(good, bad).examples("train", ernie, None)
