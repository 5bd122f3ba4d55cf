"""Perturbations of words and characters: synonyms, typing mistakes, an added sentence or emoji.

    >>> synonym_replace("早餐的质量不错，下次还来", random.Random(0), 1.0)
    '早饭的品质不错，下回还来'
    >>> emoji_append("房间很好", random.Random(0), 1.0, label=1)
    '房间很好🎉🎉'

Each function is pure: `(text, rng, strength) -> str | None`, None where it does not apply.
"""

import random
import re
from functools import lru_cache

from data.word_segmentation import tokens
from model_evaluation.robustness.word_lists import (
    NUMERALS,
    free_positions,
    label_bearing_characters,
    label_bearing_words,
    others_of_group,
    pick,
    read_lines,
    replace_spans,
)

HAN_RUN = re.compile(r"[\u4e00-\u9fff]+")
# People and input methods offer the usual characters of a syllable first; rare ones are no natural typo.
HOMOPHONES_KEPT = 4
# Only emoji of one meaning: 😭 also stands for tears of joy, and 🙂 for sarcasm.
EMOJI = {0: ("😡", "👎", "😞", "😠", "😤", "💔", "😒"), 1: ("😊", "👍", "😄", "😍", "🥰", "👏", "🎉")}
CLOSING_MARKS = "。！？!?…~～.；;，,"


def synonym_replace(text: str, rng: random.Random, strength: float) -> str | None:
    """A share of the words that have near-exact synonyms, replaced by one of these."""
    synonyms = others_of_group("synonyms.txt")
    places = [(word, start, end) for word, start, end in tokens(text) if word in synonyms]
    changes = {}
    for word, start, end in pick(places, strength, rng):
        changes[start, end] = rng.choice(synonyms[word])
    return replace_spans(text, changes)


def typo_insertion(text: str, rng: random.Random, strength: float) -> str | None:
    """A share of the free characters mistyped: a homophone, a neighbouring nasal (in/ing) or a look-alike."""
    readings = _readings(text)
    typos = {i: _typos_of(text[i], readings[i]) for i in free_positions(text)}
    places = [i for i, kinds in typos.items() if kinds]
    characters = list(text)
    for i in pick(places, strength, rng):
        # First the kind of mistake, then the character, so that no kind wins by its number of characters.
        characters[i] = rng.choice(rng.choice(typos[i]))
    return _unless_label_bearing_words_change(text, "".join(characters))


def character_noise(text: str, rng: random.Random, strength: float) -> str | None:
    """A share of the free characters doubled or dropped."""
    # In 看看 a dropped or doubled character is no noise.
    places = [i for i in free_positions(text) if text[i] not in (text[i - 1 : i], text[i + 1 : i + 2])]
    characters = list(text)
    for i in pick(places, strength, rng):
        characters[i] = rng.choice(["", text[i] * 2])
    return _unless_label_bearing_words_change(text, "".join(characters))


def neutral_sentence(text: str, rng: random.Random, strength: float) -> str | None:
    """A sentence without any opinion before or after the text, whatever the strength; None for a blank text."""
    if not text.strip():
        return None
    if rng.random() < 0.5:
        return rng.choice(read_lines("neutral_openings.txt")) + text
    closing = rng.choice(read_lines("neutral_closings.txt"))
    body = text.rstrip()
    full_stop = "" if body[-1] in CLOSING_MARKS else "。"
    return body + full_stop + closing


def emoji_append(text: str, rng: random.Random, strength: float, label: int) -> str | None:
    """One emoji of the label's polarity, up to three times; None for a blank text or a label but 0 and 1."""
    if not text.strip() or label not in EMOJI:
        return None
    return text.rstrip() + rng.choice(EMOJI[label]) * rng.randint(1, 3)


def _unless_label_bearing_words_change(text: str, changed: str) -> str | None:
    """None where characters that now stand together happen to spell a label-bearing word, or no longer do."""
    return changed if label_bearing_words(changed) == label_bearing_words(text) else None


def _readings(text: str) -> dict[int, str]:
    """Index -> syllable without tone, read in context (行 is hang in 银行) for each Chinese character."""
    from pypinyin import lazy_pinyin

    readings: dict[int, str] = {}
    for run in HAN_RUN.finditer(text):
        readings.update(enumerate(lazy_pinyin(run.group(), errors=list), start=run.start()))  # type: ignore[arg-type]
    return readings


@lru_cache(maxsize=8192)
def _typos_of(ch: str, syllable: str) -> tuple[tuple[str, ...], ...]:
    """The possible mistakes by kind: homophones, nasals, look-alikes; kinds without any are left out."""
    by_syllable = _common_by_syllable()
    homophones = by_syllable.get(syllable, "")
    other_nasals = by_syllable.get(_other_nasal(syllable), "")
    lookalikes = others_of_group("lookalikes.txt").get(ch, [])

    forbidden = label_bearing_characters() | NUMERALS | {ch}
    kinds = []
    for characters in (homophones, other_nasals, lookalikes):
        allowed = tuple(other for other in characters if other not in forbidden)
        if allowed:
            kinds.append(allowed[:HOMOPHONES_KEPT])
    return tuple(kinds)


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
