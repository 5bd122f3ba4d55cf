"""Perturbations of words and characters: synonyms, typing mistakes, doubled or dropped characters.

    >>> synonym_replace("早餐的质量不错，下次还来", random.Random(0), 1.0)
    '早饭的品质不错，下回还来'

Each function is pure: `(text, rng, strength) -> str | None`, None where it does not apply.
"""

import random
import re
from functools import lru_cache

from model_evaluation.robustness.word_lists import (
    NUMERALS,
    free_positions,
    label_bearing_characters,
    label_bearing_words,
    pick,
    read_groups,
    read_lines,
    replace_spans,
    tokens,
)

HAN_RUN = re.compile(r"[\u4e00-\u9fff]+")
# People and input methods offer the usual characters of a syllable first; rare ones are no natural typo.
HOMOPHONES_KEPT = 4


@lru_cache(maxsize=1)
def _synonyms() -> dict[str, list[str]]:
    return {
        word: [other for other in group if other != word] for group in read_groups("synonyms.txt") for word in group
    }


def synonym_replace(text: str, rng: random.Random, strength: float) -> str | None:
    """A share of the words that have near-exact synonyms, replaced by one of these."""
    synonyms = _synonyms()
    places = [(word, start, end) for word, start, end in tokens(text) if word in synonyms]
    chosen = pick(places, strength, rng)
    return replace_spans(text, {(start, end): rng.choice(synonyms[word]) for word, start, end in chosen})


def typo_insertion(text: str, rng: random.Random, strength: float) -> str | None:
    """A share of the free characters mistyped: a homophone, a neighbouring nasal (in/ing) or a look-alike."""
    readings = _readings(text)
    places = [i for i in free_positions(text) if _typos_of(text[i], readings.get(i, ""))]
    characters = list(text)
    for i in pick(places, strength, rng):
        # First the kind of mistake, then the character, so that no kind wins by its number of characters.
        characters[i] = rng.choice(rng.choice(_typos_of(text[i], readings.get(i, ""))))
    return _same_verdict(text, "".join(characters))


def character_noise(text: str, rng: random.Random, strength: float) -> str | None:
    """A share of the free characters doubled or dropped."""
    characters = list(text)
    for i in pick([i for i in free_positions(text) if not _is_repeated(text, i)], strength, rng):
        characters[i] = rng.choice(["", text[i] * 2])
    return _same_verdict(text, "".join(characters))


def _is_repeated(text: str, i: int) -> bool:
    """In 看看 a dropped or doubled character is no noise."""
    return text[i] in (text[i - 1 : i], text[i + 1 : i + 2])


def _same_verdict(text: str, changed: str) -> str | None:
    """None where characters that now stand together happen to spell a label-bearing word."""
    return changed if label_bearing_words(changed) == label_bearing_words(text) else None


def _readings(text: str) -> dict[int, str]:
    """Index -> syllable without tone, read in context (行 is hang in 银行) for each Chinese character."""
    from pypinyin import lazy_pinyin

    readings: dict[int, str] = {}
    for run in HAN_RUN.finditer(text):
        readings.update(enumerate(lazy_pinyin(run.group(), errors=list), start=run.start()))
    return readings


@lru_cache(maxsize=8192)
def _typos_of(ch: str, syllable: str) -> tuple[tuple[str, ...], ...]:
    """The possible mistakes by kind: homophones, nasals, look-alikes; kinds without any are left out."""
    forbidden = label_bearing_characters() | NUMERALS | {ch}
    by_syllable = _common_by_syllable()
    kinds = (by_syllable.get(syllable, ""), by_syllable.get(_other_nasal(syllable), ""), _lookalikes().get(ch, ""))
    allowed = (tuple(other for other in kind if other not in forbidden) for kind in kinds)
    return tuple(kind[:HOMOPHONES_KEPT] for kind in allowed if kind)


def _other_nasal(syllable: str) -> str:
    """jin -> jing, cheng -> chen, shang -> shan: the mistakes of speakers who do not tell them apart."""
    if syllable.endswith(("ing", "eng", "ang")):
        return syllable[:-1]
    return syllable + "g" if syllable.endswith(("in", "en", "an")) else ""


@lru_cache(maxsize=1)
def _common_by_syllable() -> dict[str, str]:
    """Syllable without tone -> the common characters with this reading, most frequent first."""
    from pypinyin import lazy_pinyin

    by_syllable: dict[str, str] = {}
    for ch in "".join(read_lines("common_characters.txt")):
        syllable = lazy_pinyin(ch)[0]
        by_syllable[syllable] = by_syllable.get(syllable, "") + ch
    return by_syllable


@lru_cache(maxsize=1)
def _lookalikes() -> dict[str, str]:
    """Character -> all that look like it, in the order of the file."""
    alike: dict[str, str] = {}
    for group in read_groups("lookalikes.txt"):
        for ch in group:
            alike[ch] = alike.get(ch, "") + "".join(other for other in group if other != ch)
    return alike
