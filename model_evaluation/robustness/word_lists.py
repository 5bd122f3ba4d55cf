"""The word lists in `resources/` that perturbations read, and the places where a text may be touched.

>>> free_positions("房间很好，电视信号弱")     # 房 间 电 视 信; not 好, 弱 and their neighbours
[0, 1, 5, 6, 7]
"""

import random
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

RESOURCES = Path(__file__).parent / "resources"
HAN = re.compile(r"[\u4e00-\u9fff]")
# A typo in 三星级 or 半价 changes a fact, so number characters stay as they are.
NUMERALS = frozenset("零〇一二两三四五六七八九十百千万亿半几数第")


def read_lines(name: str) -> list[str]:
    """Lines of `resources/<name>` without blank lines and comments (#)."""
    lines = (line.strip() for line in (RESOURCES / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_groups(name: str) -> list[list[str]]:
    """One group a line, its members separated by blanks."""
    return [line.split() for line in read_lines(name)]


@lru_cache(maxsize=2)
def others_of_group(name: str) -> dict[str, list[str]]:
    """Each member of the groups in `resources/<name>` -> all others of its groups, in the order of the file."""
    others: dict[str, list[str]] = {}
    for group in read_groups(name):
        for member in group:
            others.setdefault(member, []).extend(other for other in group if other != member)
    return others


@lru_cache(maxsize=1)
def label_bearing_characters() -> frozenset[str]:
    """Single characters such as 不 and 好 that may neither vanish nor appear."""
    return frozenset(word for group in read_groups("label_bearing.txt") for word in group if len(word) == 1)


@lru_cache(maxsize=1)
def _label_bearing_pattern() -> re.Pattern[str]:
    words = {word for group in read_groups("label_bearing.txt") for word in group}
    # The longest first, so that 不 does not hide 名不副实.
    return re.compile("|".join(sorted(words, key=lambda word: (-len(word), word))))


def label_bearing_words(text: str) -> list[str]:
    """The label-bearing words and characters of `text`, in their order."""
    return _label_bearing_pattern().findall(text)


def free_positions(text: str) -> list[int]:
    """Indices of Chinese characters that are no numeral, no label-bearing word and not next to one.

    The neighbours stay too: without its second character 非常 reads 非, and 差价 reads 差.
    """
    guarded: set[int] = set()
    for match in _label_bearing_pattern().finditer(text):
        guarded.update(range(match.start() - 1, match.end() + 1))
    return [i for i, ch in enumerate(text) if HAN.match(ch) and ch not in NUMERALS and i not in guarded]


def pick(places: Sequence, strength: float, rng: random.Random) -> list:
    """Choose `strength` (0 to 1) of the places, at least one, in random order; none of none."""
    if not places:
        return []
    return rng.sample(places, max(1, round(strength * len(places))))


def replace_spans(text: str, replacements: dict[tuple[int, int], str]) -> str:
    """`text` with each span (start, end) replaced; the spans must not overlap."""
    pieces = []
    done = 0
    for (start, end), new in sorted(replacements.items()):
        pieces += [text[done:start], new]
        done = end
    return "".join([*pieces, text[done:]])
