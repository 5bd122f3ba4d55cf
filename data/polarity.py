"""The two labels that are a sentiment, whatever they are called: 负面 and 正面, 差评 and 好评, neg and pos, 0 and 1.

    polarity_of(["好评", "差评"])                            # Polarity(negative=1, positive=0): label ids
    polarity_of(["吐槽", "种草", "其他"])                     # None: no words that are known here
    polarity_of(["吐槽", "种草", "其他"], ["吐槽", "种草"])     # Polarity(negative=0, positive=1), as somebody says

What is about sentiment alone (ability tests, added emoji, SnowNLP, the words of a zero-shot prompt) asks this module.
"""

from collections.abc import Sequence
from typing import NamedTuple

from data.dataset import LABEL_NAMES

# (negative, positive), without capital letters.
PAIRS = (
    ("负面", "正面"), ("差评", "好评"), ("消极", "积极"), ("负", "正"), ("负向", "正向"), ("不推荐", "推荐"),
    ("negative", "positive"), ("neg", "pos"), ("0", "1"), ("-1", "1"),
)  # fmt: skip
FLAGS = "--positive_label 和 --negative_label"


class Polarity(NamedTuple):
    """The label ids of the two sentiments."""

    negative: int
    positive: int


def polarity_of(labels: Sequence[str], named: Sequence[str] | None = None) -> Polarity | None:
    """The ids of the two sentiments among `labels`; None where there are none that are known.

    `named` are the negative and the positive label, as an adapter or a flag names them. Otherwise both labels of two
    must be a pair of `PAIRS`: of three, nobody has said that the others are no sentiments.
    """
    if named is not None:
        return Polarity(labels.index(named[0]), labels.index(named[1]))
    words = tuple(label.casefold() for label in labels)
    if words in PAIRS:
        return Polarity(0, 1)
    return Polarity(1, 0) if words[::-1] in PAIRS else None


def sentiment_words(labels: Sequence[str], polarity: Polarity | None) -> list[str] | None:
    """负面 and 正面 in the order of two sentiment labels: the words that a language model knows best; else None."""
    if polarity is None or len(labels) != 2:
        return None
    return LABEL_NAMES if polarity.negative == 0 else LABEL_NAMES[::-1]


def same_sentiment(value: str, labels: Sequence[str]) -> int | None:
    """The id of the label of two sentiments that `value`, a word of another pair, means: 好评 for 正面.

    Numbers mean nothing but themselves here: of three values 0 may well be the neutral one.
    """
    polarity = polarity_of(labels)
    if polarity is None or labels[0].lstrip("-").isdigit() or value.lstrip("-").isdigit():
        return None
    for pair in PAIRS:
        if value.casefold() in pair:
            return polarity[pair.index(value.casefold())]
    return None


def skipped_reason(labels: Sequence[str]) -> str:
    """A sentence on why that which is about sentiment is left out, and the flags that would switch it on."""
    shown = "、".join(labels[:6]) + ("……" if len(labels) > 6 else "")
    return (
        f"只适用于标签 {'、'.join(LABEL_NAMES)} 这样的褒贬，这个适配器的标签是 {shown}；"
        f"若其中有褒有贬，用 {FLAGS} 指明是哪两个"
    )
