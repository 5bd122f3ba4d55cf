"""Figures as a reader expects them, for the templates: `{{ data.accuracy | percent }}`.

    >>> FILTERS["percent"](0.9012)
    Markup('<data value="0.9012">90.1%</data>')

The figure of the file stands in `value` with all its digits, so that a test, or a program, can follow every figure of
the page back to its file; what the page computes itself does not go through here. What is null in a file is "—".
"""

import json
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

NOTHING = "—"
LONGEST_TEXT = 180  # characters of a review that a table shows


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def certainty(confidence: float) -> str:
    """A softmax never reaches 100%, and rounding must not say that it does."""
    return "> 99.9%" if confidence >= 0.9995 else percent(confidence)


def short_percent(share: float) -> str:
    """Without digits that say nothing: 0.97 is 97%."""
    return f"{100 * share:.4g}%"


def points(difference: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * difference:.1f}"


def number(value: float) -> str:
    return f"{value:.3f}"


def count(value: int) -> str:
    return f"{value:,}"


def milliseconds(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"{value:.3g}"


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """In the unit that a reader expects."""
    if seconds < 60:
        return f"{seconds:.1f} 秒"
    if seconds < 3600:
        return f"{seconds / 60:.1f} 分钟"
    return f"{seconds / 3600:.1f} 小时"


def figure(write: Callable[[Any], str]) -> Callable[[Any], str]:
    """The filter that shows a figure as `write` says."""

    def show(value: Any) -> str:
        if value is None:
            return NOTHING
        text = write(value)
        return Markup('<data value="{}">{}</data>').format(json.dumps(value), text)

    return show


def interval(bounds: list[float] | None, kind: str = "percent") -> str:
    """[low, high] as "88.6%–91.5%"."""
    if bounds is None:
        return NOTHING
    low, high = bounds
    show = FILTERS[kind]
    return Markup('<span class="interval">{}–{}</span>').format(show(low), show(high))


def place(value: float, domain: tuple[float, float]) -> str:
    """The share of a row's width at which `value` lies: rows are as wide as the page leaves room."""
    low, high = domain
    return f"{100 * (value - low) / (high - low):.2f}%"


def minute(time: str | None) -> str:
    """ISO 8601 without seconds: 2026-11-23 20:00; nothing for None."""
    return (time or "")[:16].replace("T", " ")


def clipped(text: Any, longest: int = LONGEST_TEXT) -> str:
    """The beginning of a long text, and how long it is."""
    text = str(text)
    return text if len(text) <= longest else f"{text[:longest]}……（共 {len(text):,} 字）"


WRITERS = (percent, certainty, short_percent, points, number, count, milliseconds, p_value, duration)
FILTERS: dict[str, Callable[..., str]] = {write.__name__: figure(write) for write in WRITERS}
FILTERS |= {"interval": interval, "place": place, "minute": minute, "clipped": clipped}
