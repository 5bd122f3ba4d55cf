"""Small SVG pieces: elements with everything escaped, and a frame with two axes.

    >>> tag("text", "a < b", x=1.0, text_anchor="end")
    Markup('<text x="1" text-anchor="end">a &lt; b</text>')

Colours come from the page's style sheet by class, so that one drawing serves light, dark and paper.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

Point = tuple[float, float]


def tag(element: str, *children: str, **attributes: Any) -> Markup:
    """`<element attributes>children</element>`; `class_` and `text_anchor` become `class` and `text-anchor`."""
    written = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _short(value))
        for name, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(element), written, Markup("").join(children))


def _short(value: Any) -> Any:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def drawing(label: str, width: float, height: float, *children: str) -> Markup:
    """An `<svg>` that keeps its proportions; `label` is what a screen reader says."""
    return tag(
        "svg", *children, class_="plot", viewBox=f"0 0 {_short(width)} {_short(height)}", role="img", aria_label=label
    )  # fmt: skip


def hint(text: str) -> Markup:
    """What shows when the pointer rests on the parent element."""
    return tag("title", text)


def whole_percent(value: float) -> str:
    return f"{100 * value:.0f}%"


@dataclass(frozen=True)
class Frame:
    """A plot area: `x` and `y` are the ranges of the data, the rest is in SVG units."""

    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)
    width: float = 360
    height: float = 300
    left: float = 56
    right: float = 16
    top: float = 12
    bottom: float = 46

    def at(self, x: float, y: float) -> Point:
        """Data to SVG coordinates."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        inner_width, inner_height = self.width - self.left - self.right, self.height - self.top - self.bottom
        return self.left + across * inner_width, self.top + (1 - up) * inner_height

    def axes(
        self,
        x_title: str,
        y_title: str,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        write: Callable[[float], str] = whole_percent,
    ) -> Markup:
        """Grid lines, tick labels and titles; an empty `x_title` leaves its place free."""
        left, bottom = self.at(self.x[0], self.y[0])
        right, top = self.at(self.x[1], self.y[1])
        pieces = [segment((left, y), (right, y), "grid") for y in (self.at(self.x[0], tick)[1] for tick in y_ticks)]
        pieces += [segment((x, top), (x, bottom), "grid") for x in (self.at(tick, self.y[0])[0] for tick in x_ticks)]
        for tick in y_ticks:
            y = self.at(self.x[0], tick)[1]
            pieces.append(tag("text", write(tick), class_="tick", x=left - 7, y=y + 4, text_anchor="end"))
        for tick in x_ticks:
            x = self.at(tick, self.y[0])[0]
            pieces.append(tag("text", write(tick), class_="tick", x=x, y=bottom + 17, text_anchor="middle"))
        if x_title:
            middle = (left + right) / 2
            pieces.append(tag("text", x_title, class_="axis-title", x=middle, y=self.height - 8, text_anchor="middle"))
        pieces.append(turned(y_title, 10, (top + bottom) / 2, class_="axis-title", text_anchor="middle"))
        return Markup("").join(pieces)

    def line(self, points: Iterable[Point], kind: str) -> Markup:
        """A polyline through data points."""
        written = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        return tag("polyline", class_=kind, points=written)

    def dot(self, point: Point, kind: str, text: str, radius: float = 4.0) -> Markup:
        """A marked data point, with `text` under the pointer."""
        x, y = self.at(*point)
        return tag("circle", hint(text), class_=kind, cx=x, cy=y, r=radius)


def segment(start: Point, end: Point, kind: str) -> Markup:
    return tag("line", class_=kind, x1=start[0], y1=start[1], x2=end[0], y2=end[1])


def turned(text: str, x: float, y: float, **attributes: str) -> Markup:
    """Text that reads upwards."""
    return tag("text", text, transform=f"translate({x:.1f} {y:.1f}) rotate(-90)", **attributes)


def share_ticks(low: float, high: float) -> list[float]:
    """Three to six round shares from `low` to `high`."""
    step = next((s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25) if (high - low) / s <= 5.001), 0.5)
    first = round(low / step + 0.4999)
    return [tick * step for tick in range(first, int(high / step + 1e-9) + 1)]
