"""From the values of a label column to label ids: one spelling for each value, and the check of every row.

    names = find_labels(["3", "10.0", "3"], "a.csv")  # ["3", "10"]
    label_id(10, names)  # 1

A value is compared by its spelling here, so that the 1 of a .jsonl file, the "1" of a .csv file and the 1.0 that
pandas makes of a column with gaps are one label: numbers without superfluous zeros, booleans as true and false,
text without the blanks around it. With the names 负面 and 正面, 0 stands for 负面 and 1 for 正面. Of two labels that
are a sentiment (`data.polarity`), the negative one is label 0, and a word of another pair means the same: 好评 is 正面.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from data.dataset import LABEL_NAMES, RawReview, Rows
from data.polarity import polarity_of, same_sentiment
from data.preprocessing import clean_text
from runtime.errors import UserError

MAX_LABELS = 1000  # more kinds of values than this are texts, dates or numbers, and no labels
SHOWN_LABELS = 20
SHOWN_PROBLEMS = 10
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?", re.ASCII)  # "007" is no number but a code, and keeps its zeros


def label_key(value: Any) -> str | None:
    """The one spelling of a label value: "1" for 1, 1.0, "1.0", " 1 "; "true" for True, "TRUE"; None for no label.

    No label are None, blank text, NaN, infinity, and what is neither text, number nor boolean.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(f"{value:.0f}" if value.is_integer() else repr(value)) if math.isfinite(value) else None
    if not isinstance(value, str) or not (text := value.strip()):
        return None
    if text.lower() in ("true", "false"):
        return text.lower()
    return _number(text) if NUMBER.fullmatch(text) else text


def _number(text: str) -> str:
    """ "1.50" -> "1.5", "2.0" -> "2", "-0.0" -> "0"; digits are never rounded."""
    if "." in text and "e" not in text:  # 1e-07 has no superfluous zeros
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def label_id(value: Any, names: Sequence[str] = LABEL_NAMES) -> int | None:
    """The position in `names` of the label that `value` spells; None if it spells none of them.

    For 负面 and 正面, in whichever order, also 0, 1, "0", "1", 0.0, "1.0"; booleans never stand for them.
    """
    if set(names) == set(LABEL_NAMES) and (known := _binary_id(value)) is not None:
        return names.index(LABEL_NAMES[known])
    key = label_key(value)
    if key is None or key in names:
        return None if key is None else names.index(key)
    return same_sentiment(key, names)


def _binary_id(value: Any) -> int | None:
    if isinstance(value, str):
        value = value.strip()
        if value in LABEL_NAMES:
            return LABEL_NAMES.index(value)
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value in range(len(LABEL_NAMES)) else None


def given_labels(names: Sequence[str]) -> list[str]:
    """`--labels` in the one spelling, in its order; `UserError` where two of them are the same label."""
    keys = [label_key(name) for name in names]
    _require_printable(keys, "--labels")
    if repeated := sorted(key for key, count in Counter(keys).items() if count > 1):
        raise UserError(f"--labels：{'、'.join(repeated)} 出现了不止一次（1 与 1.0 是同一个标签）")
    return keys


def named_sentiments(negative: str | None, positive: str | None, names: Sequence[str]) -> list[str] | None:
    """The names of the negative and the positive label: as the flags say, or by their words; None where neither does.

    `UserError` for a flag's label that is not in `names`.
    """
    if negative is None or positive is None:
        known = polarity_of(names)
        return None if known is None else [names[known.negative], names[known.positive]]
    named = [label_key(negative), label_key(positive)]
    for flag, name in zip(("--negative_label", "--positive_label"), named, strict=True):
        if name not in names:
            raise UserError(f"{flag}：没有标签 {name}（有 {shown_labels(names)}）")
    return named


def find_labels(values: Sequence[Any], source: str, negative: str | None = None) -> list[str]:
    """The label names that the values of a training file stand for, in an order that no order of rows can change.

    负面 and 正面 where every value is one of their spellings. Else all the values there are: of two sentiments the
    negative one first (`negative` says which, where no word is known), otherwise numbers first, ascending, then the
    others by their characters. `UserError` for a column that can hardly hold labels: more than
    1,000 of them, one for each row, or one that stands on a single row, which is nearly always a typing mistake.
    """
    if all(_binary_id(value) is not None for value in values):
        return list(LABEL_NAMES)
    counts = Counter(label_key(value) for value in values)
    if len(counts) > MAX_LABELS or len(counts) == len(values) > SHOWN_LABELS:
        examples = "、".join(f"{name:.20}" for name in list(counts)[:3])
        raise UserError(
            f"{source} 的标签有 {len(counts):,} 种（共 {len(values):,} 行），例如 {examples}："
            "多半指错了列；用 --label_column 指定标签列"
        )
    names = sorted(counts, key=_order)
    _require_printable(names, source)
    if single := [name for name in names if counts[name] == 1]:
        raise UserError(
            f"{source} 里只出现一次的标签：{shown_labels(single)}。多半写错了，请改正；"
            f"若没有写错，请用 --labels 写明全部标签，逗号分隔（现有 {shown_labels(names)}）"
        )
    polarity = polarity_of(names)
    if len(names) == 2 and (names[1] == label_key(negative) or (polarity is not None and polarity.negative == 1)):
        names.reverse()
    return names


def _require_printable(names: Sequence[str], source: str) -> None:
    """Line breaks, full-width blanks and the like: no terminal and no flag can show such a label."""
    if bad := [name for name in names if not name.isprintable()]:
        raise UserError(f"{source} 的标签里有不能显示的字符：{'、'.join(f'{name!r:.40}' for name in bad[:5])}；请改正")


def _order(name: str) -> tuple[bool, float, str]:
    number = NUMBER.fullmatch(name)
    return (False, float(name), name) if number else (True, 0.0, name)


def describe_labels(rows: Rows) -> str:
    """A line for the terminal: the labels, and the number of rows of each."""
    counts = [f"{name} {count:,}" for name, count in rows.label_counts().items()]
    more = "……" if len(counts) > SHOWN_LABELS else ""
    return f"标签      {len(counts)} 种：{'、'.join(counts[:SHOWN_LABELS])}{more} 条"


def shown_labels(names: Sequence[str]) -> str:
    """The first names, for a message."""
    more = f"……共 {len(names):,} 种" if len(names) > SHOWN_LABELS else ""
    return "、".join(f"{name:.40}" for name in names[:SHOWN_LABELS]) + more


def labelled_rows(
    reviews: Iterable[RawReview],
    source: str,
    names: Sequence[str] | None,
    text_column: str = "text",
    label_column: str = "label",
    *,
    negative: str | None = None,
) -> Rows:
    """Rows with label ids of whatever source; `UserError` that lists the first ten bad rows of `source`.

    Label ids are positions in `names`, and another label makes a row a bad one; with None the labels that the source
    itself has are the names (`find_labels`, which `negative` is for).
    """

    def problem_of(review: RawReview) -> str | None:
        return text_problem(review.text, text_column) or label_problem(review.label, label_column, names)

    sound = list(sound_reviews(reviews, source, problem_of))
    if names is None:
        names = find_labels([review.label for review in sound], source, negative)
    ids = [label_id(review.label, names) for review in sound]
    texts, where = [review.text for review in sound], [review.where for review in sound]
    return Rows(texts, [i for i in ids if i is not None], list(names), source, where)


def sound_reviews(
    reviews: Iterable[RawReview],
    source: str,
    problem_of: Callable[[RawReview], str | None],
    advice: str = "请改正后再运行",
) -> Iterator[RawReview]:
    """The reviews without a problem, one at a time; those with one end it in one `UserError`, after the last."""
    found, bad, shown = 0, 0, []
    for review in reviews:
        problem = review.problem or problem_of(review)
        if problem is None:
            found += 1
            yield review
            continue
        bad += 1
        if bad <= SHOWN_PROBLEMS:
            shown.append(f"{review.where}：{problem}")
    if bad:
        more = f"\n  ……共 {bad} 行有问题" if bad > SHOWN_PROBLEMS else ""
        raise UserError(f"{source} 有不能用的行，{advice}：\n  " + "\n  ".join(shown) + more)
    if not found:
        raise UserError(f"{source} 里没有数据行")


def text_problem(text: Any, column: str) -> str | None:
    """The reason why a value of the text column is no review; None where it is one."""
    if not isinstance(text, str):
        return f"{column} 应为文本，得到 {text!r:.60}"
    return None if clean_text(text) else f"{column} 是空的"


def label_problem(value: Any, column: str, names: Sequence[str] | None) -> str | None:
    """The reason why a value of the label column spells no label of `names`, or with None no label at all."""
    if names is None:
        return None if label_key(value) is not None else f"{column} 应为文字或数，得到 {value!r:.60}"
    if label_id(value, names) is not None:
        return None
    known = "0（负面）或 1（正面）" if names == LABEL_NAMES else f"{shown_labels(names)} 之一"
    return f"{column} 应为 {known}，得到 {value!r:.60}"
