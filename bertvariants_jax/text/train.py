"""Vocabulary training: WordPiece (BERT), byte-level BPE (RoBERTa) and Unigram (ALBERT)."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator

from bertvariants_jax.text.families import FAMILIES
from bertvariants_jax.text.tokenizer import Tokenizer
from bertvariants_jax.text.unigram import UNDERLINE

# The kinds, each followed by the families whose special pieces and layout it can be given; the first
# is what the kind's own name stands for.
KINDS = {
    "wordpiece": ("bert",),
    "bpe": ("roberta", "deberta", "modernbert"),
    "unigram": ("albert", "xlnet", "deberta-v2"),
}
COVERAGE = 0.9995  # share of all characters that get a piece of their own (SentencePiece's default)
ALPHABET_SLACK = 40_000  # pieces that BPE may spend on characters, before rare ones are thrown out
LONGEST = 4_000  # bytes; SentencePiece silently skips longer sentences than its limit
THREADS = 8  # a fixed number: SentencePiece's sums, and so its pieces, depend on it


def train(
    texts: Iterable[str],
    kind: str = "wordpiece",
    vocab_size: int = 30_522,
    lowercase: bool = True,
) -> Tokenizer:
    """Train a vocabulary of at most `vocab_size` ids on `texts` and return its tokenizer.

    "wordpiece" has BERT's special tokens and clean-up, "bpe" RoBERTa's, "unigram" ALBERT's; the name
    of a family ("xlnet", "deberta", "deberta-v2", "modernbert", ...) is the kind that it reads, with
    its own. `lowercase` also strips accents, as the uncased BERT does (ALBERT strips them anyway);
    byte-level BPE ignores it, being lossless. A small corpus may give fewer ids. The same texts
    in the same order give the same vocabulary. The trainers hold the counts of words ("unigram":
    all texts) in memory: give a sample of a very large corpus.

    Raises `ValueError` for an unknown kind, for no text, or where `vocab_size` has no room for the
    alphabet.
    """
    families = {family: name for name, among in KINDS.items() for family in among}
    if kind not in KINDS and kind not in families:
        raise ValueError(
            f"unknown tokenizer kind {kind!r}: choose one of {', '.join((*KINDS, *families))}"
        )
    family, kind = (KINDS[kind][0], kind) if kind in KINDS else (kind, families[kind])
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of strings, not one string")
    texts = _not_empty(texts)
    if kind == "wordpiece":
        return _wordpiece(texts, vocab_size, lowercase)
    if kind == "bpe":
        return _byte_bpe(texts, vocab_size, family)
    return _unigram(texts, vocab_size, lowercase, family)


def _wordpiece(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """BPE over words that begin with a mark, then "▁play" -> "play" and "ing" -> "##ing".

    The library's own WordPieceTrainer gives other vocabularies on every run (its continuation
    pieces are numbered in hash order); plain BPE, which it is built upon, does not.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    words = pre_tokenizers.BertPreTokenizer()
    marked = pre_tokenizers.Metaspace(replacement=UNDERLINE, prepend_scheme="always", split=False)
    counts: Counter[str] = Counter()

    def counted() -> Iterator[str]:
        for text in texts:
            text = normalizer.normalize_str(text)
            counts.update(text)
            yield text.replace(UNDERLINE, " ")

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, marked])
    backend.train_from_iterator(
        counted(),
        trainers.BpeTrainer(
            vocab_size=vocab_size + ALPHABET_SLACK,
            limit_alphabet=ALPHABET_SLACK // 2,
            min_frequency=2,
            show_progress=False,
        ),
    )
    tokens = FAMILIES["bert"].tokens
    special = [tokens[role] for role in ("pad", "unk", "cls", "sep", "mask")]
    alphabet = _alphabet(counts)
    # Punctuation and Chinese characters, which are words of their own, can continue none.
    inner = [char for char in alphabet if len(words.pre_tokenize_str(f"a{char}a")) == 1]
    inner = [char for char in inner if normalizer.normalize_str(char) == char]
    pieces = dict.fromkeys([*special, *alphabet, *(f"##{char}" for char in inner)])
    if len(pieces) > vocab_size:
        raise ValueError(
            f"vocab_size {vocab_size} is too small for {len(special)} special tokens and an "
            f"alphabet of {len(alphabet)} characters: it needs at least {len(pieces)}"
        )
    kept = set(alphabet)
    learnt = sorted(backend.get_vocab().items(), key=lambda item: item[1])  # in order of merges
    for piece, _ in learnt:
        begins = piece.startswith(UNDERLINE)
        piece = piece.removeprefix(UNDERLINE)
        if len(pieces) == vocab_size:
            break
        if len(piece) > 1 and kept.issuperset(piece):
            pieces.setdefault(piece if begins else f"##{piece}")
    vocab = "".join(f"{piece}\n" for piece in pieces)
    return Tokenizer.from_files({"vocab.txt": vocab.encode("utf-8")}, {"do_lower_case": lowercase})


def _alphabet(counts: Counter[str]) -> list[str]:
    """The characters that make up `COVERAGE` of all, most frequent first."""
    chars = [(count, char) for char, count in counts.items() if not char.isspace()]
    chars.sort(key=lambda item: (-item[0], item[1]))
    total, seen, alphabet = sum(count for count, _ in chars), 0, []
    for count, char in chars:
        if seen >= COVERAGE * total:
            break
        alphabet.append(char)
        seen += count
    return alphabet


def _byte_bpe(texts: Iterable[str], vocab_size: int, family: str) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    tokens = FAMILIES[family].tokens
    first = ("cls", "pad") if family == "roberta" else ("pad", "cls")
    special = [tokens[role] for role in (*first, "sep", "unk", "mask")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(special) + len(alphabet):
        raise ValueError(
            f"vocab_size {vocab_size} is too small: byte-level BPE needs at least "
            f"{len(special) + len(alphabet)} ids"
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - 1,  # the mask comes last, as RoBERTa's does
            min_frequency=2,
            special_tokens=special[:-1],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    model = json.loads(backend.to_str())["model"]
    vocab = {**model["vocab"], special[-1]: len(model["vocab"])}
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in model["merges"])
    files = {
        "vocab.json": json.dumps(vocab, ensure_ascii=False).encode("utf-8"),
        "merges.txt": merges.encode("utf-8"),
    }
    return Tokenizer.from_files(files, family=family)


def _unigram(texts: Iterable[str], vocab_size: int, lowercase: bool, family: str) -> Tokenizer:
    import sentencepiece
    from tokenizers import normalizers

    steps = [normalizers.NFKD(), normalizers.StripAccents()]
    steps += [normalizers.Lowercase()] if lowercase else []
    normalizer = normalizers.Sequence(steps)  # what ALBERT does before SentencePiece sees the text

    def lines() -> Iterator[str]:
        for text in texts:
            for line in normalizer.normalize_str(text).splitlines():
                yield from _short(line)

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size - (family == "deberta-v2"),
            hard_vocab_limit=False,
            character_coverage=COVERAGE,
            **_special_pieces(family),
            num_threads=THREADS,
            shuffle_input_sentence=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"SentencePiece could not train {vocab_size} pieces: {error}") from error
    name = "spm.model" if family == "deberta-v2" else "spiece.model"
    options = {"do_lower_case": lowercase}
    return Tokenizer.from_files({name: model.getvalue()}, options, family=family)


# SentencePiece's own four special pieces, as far as a family has them, by the role that they play
# there and in the order of the published ids; the control pieces behind them; what is never cut.
# DeBERTa-v2's model has no mask: its tokenizer adds it behind the last piece.
_SPECIAL = {
    "albert": ({"pad": "pad", "unk": "unk"}, ("cls", "sep", "mask"), '()"-.–£€'),
    "xlnet": ({"unk": "unk", "bos": "bos", "eos": "eos"}, ("cls", "sep", "pad", "mask"), '()"-.–£€'),
    "deberta-v2": ({"pad": "pad", "bos": "cls", "eos": "sep", "unk": "unk"}, (), ""),
}


def _special_pieces(family: str) -> dict:
    """SentencePiece's options for a family's special pieces."""
    chosen, (own, controls, whole) = FAMILIES[family], _SPECIAL[family]
    ids = {f"{name}_id": list(own).index(name) if name in own else -1 for name in ("pad", "unk", "bos", "eos")}
    return {
        **ids,
        **{f"{name}_piece": chosen.tokens[role] for name, role in own.items()},
        "control_symbols": [*(chosen.tokens[role] for role in controls), *chosen.extra],
        "user_defined_symbols": list(whole),
    }


def _short(line: str) -> Iterator[str]:
    """A line in parts that SentencePiece takes, cut at blanks."""
    line = line.strip()
    while len(line.encode("utf-8")) > LONGEST:
        cut = line.rfind(" ", 1, LONGEST // 4)
        cut = cut if cut > 0 else LONGEST // 4
        yield line[:cut]
        line = line[cut:].lstrip()
    if line:
        yield line


def _not_empty(texts: Iterable[str]) -> Iterator[str]:
    """`texts`, with an error where there is none, or where one is no string."""
    some = False
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{index}] must be a string, not {type(text).__name__}")
        some = some or bool(text.strip())
        yield text
    if not some:
        raise ValueError("no text to train on")
