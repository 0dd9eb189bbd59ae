"""Texts that tokenizers trip over, made from a seed: the same list on every machine."""

import random

BLANKS = [" ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2028", "\u200b", "\x0b", "\x1c"]
LINES = """the The café Crème naïve Ångström coöperate résumé İstanbul
straße ΟΔΥΣΣΕΥΣ ﬁne ﬂow Ǆ ſ K Å hello HELLO don't rock'n'roll
state-of-the-art U.S. e.g. 3.14 9,000,000 19, 1804, $5 £3 €2 50%
x² ½ ① ™ … – — “q” ‘q’ ``q'' http://a.b/c?d=e&f=g a_b C++ C#
#tag @user foo(bar) [x] {y} <z> a/b a\\b 1st 2,5 10:30 0x1F é é
ñ 日本語 東京都 你好，世界 한국어 ひらがな カタカナ ｶﾀｶﾅ Ａｂｃ １２３ 𠮷野家 עברית
العَرَبِيَّة فارسی हिन्दी ไทย தமிழ் Ελληνικά Русский Ёлка 😀
👨‍👩‍👧 🇫🇷 ❤️ ☃ ☃☃ 𝒳 \u00ad soft\u00adhyphen zero\u200bwidth
\ufeffbom \ufffd \x00 \x07bell \x7f \u202eabc a\u0301\u0327
\U000e0041 [MASK] [CLS] [SEP] [UNK] [PAD] <mask> <s> </s> <pad>
<unk> <sep> <cls> [unused1] ## ##ing ▁ ▁a Ġ Ġthe"""
WORDS = LINES.split()
FIXED = [
    "",
    " ",
    "\n",
    "a",
    ".",
    "Hello world!",
    "The capital of France is [MASK].",
    "The capital of France is <mask>.",
    " leading and trailing ",
    "two  spaces   three",
    "a" * 150,
    "ab" * 300,
    "x" * 99 + " " + "y" * 100 + " " + "z" * 101,
    "很长" * 60,
    "😀" * 40,
    "9,000, and 1,234,567.89, or (12,) 3,",
    "Wait... what?! -- \"quoted\" 'single' ``double''",
    "a\u0300\u0301\u0302b",
    "\u00ad",
    "a\u00adb",
    "\x00",
    "\u2028",
    "x\u2028y\u2029z",
    "مرحبا بالعالم שלום עולם",
    "नमस्ते दुनिया",
]


def hard_texts(count: int, seed: int = 0) -> list[str]:
    """`FIXED`, then mixtures of `WORDS`, blanks and random code points (no surrogates)."""
    rng = random.Random(seed)
    texts = list(FIXED)
    while len(texts) < count:
        parts = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.75:
                parts.append(rng.choice(WORDS))
            elif kind < 0.85:
                parts.append("".join(rng.choices("abcdefghijklmnopqrstuvwxyz,.-'0123456789", k=8)))
            elif kind < 0.95:
                parts += [chr(rng.randint(0xA0, 0x2FFF)) for _ in range(rng.randint(1, 4))]
            else:
                parts.append(chr(rng.choice([rng.randint(1, 0x9F), rng.randint(0xE000, 0x1FFFF)])))
            if rng.random() < 0.8:
                parts.append(" " if rng.random() < 0.8 else rng.choice(BLANKS))
        texts.append("".join(parts))
    return texts
