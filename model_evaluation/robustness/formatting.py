"""Perturbations of the writing alone: punctuation, traditional characters, white space.

    >>> traditional("酒店里面很干净", random.Random(0), 1.0)
    '酒店裡面很乾淨'

Each function is pure: `(text, rng, strength) -> str | None`, None where it does not apply.
"""

import random
import re
import unicodedata
from functools import lru_cache

from model_evaluation.robustness.word_lists import HAN, pick, replace_spans

FULL_WIDTH = {",": "，", ".": "。", "!": "！", "?": "？", ";": "；", ":": "："}
OTHER_WIDTH = FULL_WIDTH | {full: half for half, full in FULL_WIDTH.items()}
MARKS = frozenset(OTHER_WIDTH) | {"、"}
# Without its mark 这是五星级？ turns into praise, and in 优点：没有 the colon says what belongs to what.
NEVER_DROPPED = frozenset("?？:：")
# 好吗？不，很差: the pause after a negation must not vanish, or the negation takes the next clause.
NEGATIONS = frozenset("不没无未别非有是")
BLANKS = (" ", " ", "\n", "\u3000")


def punctuation_change(text: str, rng: random.Random, strength: float) -> str | None:
    """A share of the lone marks dropped, doubled, or turned from half to full width and back."""
    places = [i for i in range(len(text)) if _is_lone_mark(text, i)]
    changes = {}
    for i in pick(places, strength, rng):
        mark, before = text[i], text[i - 1 : i]
        options = [mark * 2]
        if mark in OTHER_WIDTH:
            options.append(OTHER_WIDTH[mark])
        if mark not in NEVER_DROPPED and before not in NEGATIONS and not before.isdigit():
            options.append("")
        changes[i, i + 1] = rng.choice(options)
    return replace_spans(text, changes)


def _is_lone_mark(text: str, i: int) -> bool:
    """A mark between words; not one of a row (……, :-)), a number (1.5, 12:30) or an address (a.com)."""
    if text[i] not in MARKS:
        return False
    before, after = text[i - 1 : i], text[i + 1 : i + 2]
    if any(ch and unicodedata.category(ch)[0] in "PS" for ch in (before, after)):
        return False
    in_ascii_word = all(ch.isascii() and ch.isalnum() for ch in (before, after))
    return not in_ascii_word


def whitespace(text: str, rng: random.Random, strength: float) -> str | None:
    """Blanks and line breaks put between a share of the characters; English words and numbers stay whole."""
    places = []
    for i in range(1, len(text)):
        before, after = text[i - 1], text[i]
        beside_chinese = HAN.match(before) or HAN.match(after)
        if beside_chinese and not before.isspace() and not after.isspace():
            places.append(i)
    changes = {}
    for i in pick(places, strength, rng):
        changes[i, i] = rng.choice(BLANKS)
    return replace_spans(text, changes)


def traditional(text: str, rng: random.Random, strength: float) -> str | None:
    """The whole text in traditional characters; None where it has none to change."""
    # OpenCC is C++ and takes no lone surrogates, so that only runs of Chinese characters go there.
    return re.sub(r"[\u4e00-\u9fff]+", lambda run: _traditional_converter().convert(run.group()), text)


@lru_cache(maxsize=1)
def _traditional_converter():
    from opencc import OpenCC

    # s2tw: Taiwan's characters with unchanged words; plain s2t writes 喫 for 吃, which nobody does today.
    return OpenCC("s2tw")
