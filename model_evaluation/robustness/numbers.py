"""Where a text has a number that can be written in the other script: 3天 and 三天.

    >>> arabic_places("住了3天，花了1.5小时")
    [((2, 3), '三'), ((7, 10), '一点五')]

Only a number before a counter (天, 元, 次 ...) is one: E5500, 2008-10-1, 12:30 and telephone numbers
are names and stay. A place is ((start, end), replacement).
"""

import re

from model_evaluation.robustness.word_lists import tokens

Place = tuple[tuple[int, int], str]

CHINESE_DIGITS = "零一二三四五六七八九"
UNITS = "千百十"

# Counters after which a number means the same in both scripts (the longer ones first) ...
COUNTERS = [
    *("块钱", "分钟", "小时", "个小时", "个月", "个星期", "星级", "个", "天", "次", "元", "月", "楼", "层", "本", "台"),
    *("件", "间", "晚", "位", "张", "条", "套", "种", "岁", "斤", "页", "章", "瓶", "箱", "盒", "遍", "句", "颗", "份"),
]
# ... and those where only 3 -> 三 is safe: 三星 is a brand, 一块 also means together, 一点 a little.
ARABIC_ONLY_COUNTERS = ["块", "年", "日", "号", "周", "部", "家", "人", "点", "星"]
# Here 一 is an article and no number (一个很远的地方, 另一间, 有一天), which nobody writes as 1.
ARTICLE = r"(?!一(?:[种份句条套]|个(?!小时|月|星期)))(?!(?<=[另这那每某同有头])一)"
# Before these, 2 is 二 (二月, 二楼); before the others it is 两 (两天).
ORDINAL_COUNTERS = frozenset({"月", "日", "号", "楼", "层", "星", "星级"})

_NUMBER = r"\d{1,4}(?:\.\d{1,2})?"
# Not part of a longer name, an amount with commas, a date with dashes, or a range (2-3天, 2到3天).
_ALONE = r"(?<![0-9A-Za-z.,:/~～、\-—+*×])(?<!\d[到至])"
ARABIC = re.compile(
    rf"{_ALONE}(?:(?P<date>(?:\d{{4}}年)?\d{{1,2}}月(?:\d{{1,2}}[日号])?(?!\d))|(?P<percent>{_NUMBER})%"
    rf"|(?P<number>{_NUMBER})(?=(?P<counter>{'|'.join(COUNTERS + ARABIC_ONLY_COUNTERS)})(?!\d)))",
    re.ASCII,
)
NUMERALS = "零一二两三四五六七八九十百千"
CHINESE = re.compile(
    rf"{ARTICLE}(?<![{NUMERALS}〇万亿几数半第])([一二两三四五六七八九十][{NUMERALS}]{{0,6}})"
    rf"({'|'.join(COUNTERS)})(?!\2|[{NUMERALS}半多])"
)


def to_chinese(value: int) -> str:
    """0 to 9999 in words: 10 -> 十, 105 -> 一百零五, 2000 -> 二千."""
    if not 0 <= value <= 9999:
        raise ValueError(f"只支持 0 到 9999 的整数，得到 {value}")
    words = ""
    for power, unit in zip((1000, 100, 10, 1), (*UNITS, ""), strict=True):
        digit = value // power % 10
        if digit:
            words += CHINESE_DIGITS[digit] + unit
        elif words and not words.endswith("零"):
            words += "零"
    words = words.rstrip("零") or "零"
    return words[1:] if words.startswith("一十") else words


def from_chinese(words: str) -> int | None:
    """The value of a plainly written number; None for 一百五 (150) and 三四 (three or four)."""
    value, digit = 0, 0
    for ch in words.replace("两", "二"):
        if ch in UNITS:
            value += (digit or 1) * 10 ** (3 - UNITS.index(ch))
            digit = 0
        else:
            digit = CHINESE_DIGITS.index(ch)
    value += digit
    # Whatever is not written as we write it is a colloquial short form, which we do not guess at.
    return value if value <= 9999 and to_chinese(value) == words.replace("两", "二") else None


def arabic_places(text: str) -> list[Place]:
    """Numbers, dates and percentages in Arabic numerals, each with its Chinese form."""
    places = []
    for match in ARABIC.finditer(text):
        if match["date"]:
            new = re.sub(r"(\d+)(.)", lambda part: (_year if part[2] == "年" else _spoken)(part[1]) + part[2], match[0])
        elif match["percent"]:
            new = "百分之" + _spoken(match["percent"])
        else:
            new = _before_counter(match["number"], match["counter"], text[: match.start()].endswith("第"))
        if new:
            places.append((match.span(), new))
    return places


def chinese_places(text: str) -> list[Place]:
    """Numbers in Chinese numerals that start and end a word (not 一天到晚, 统一天空), with their Arabic form."""
    matches = list(CHINESE.finditer(text))
    if not matches:
        return []
    spans = [(start, end) for _, start, end in tokens(text)]
    starts, ends = {start for start, _ in spans}, {end for _, end in spans}
    values = [(match, from_chinese(match[1])) for match in matches if match.start() in starts and match.end() in ends]
    return [(match.span(1), str(value)) for match, value in values if value is not None]


def _before_counter(number: str, counter: str, ordinal: bool) -> str | None:
    """None where the spoken form would be ambiguous: 10年 (2010 or ten years), 1点 (一点, a little), 007次."""
    if counter == "年" and len(number) != 1:
        return _year(number) if (len(number) == 4 and number.isdigit()) or number.startswith("0") else None
    if (counter == "点" and number == "1") or (number.startswith("0") and number[1:2].isdigit()):
        return None
    if number == "2" and not ordinal and counter not in ORDINAL_COUNTERS:
        return "两"
    return _spoken(number)


def _spoken(number: str) -> str:
    """105 -> 一百零五, 1.50 -> 一点五零."""
    whole, _, decimals = number.partition(".")
    return to_chinese(int(whole)) + ("点" + _year(decimals).replace("〇", "零") if decimals else "")


def _year(number: str) -> str:
    """Digit by digit: 2008 -> 二〇〇八."""
    return "".join("〇一二三四五六七八九"[int(digit)] for digit in number)
