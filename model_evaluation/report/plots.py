"""The plots of report.html as inline SVG with real text; every function is pure and returns one `<svg>`.

    confusion([[530, 62], [41, 567]], ["负面", "正面"])
    roc(predictions.p_positive, predictions.labels == 1)

Nothing is drawn by a plotting library: its fonts would have to hold Chinese, and the page's own fonts do.
"""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from data.dataset import LABEL_NAMES
from model_evaluation.report.results import percent, short_percent
from model_evaluation.report.svg import Frame, Point, drawing, hint, segment, share_ticks, tag, turned, whole_percent

MAX_POINTS = 200  # a curve of the page is a few hundred pixels wide
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
SETTLED = 0.05  # share of texts from which the error rate sets the scale of the risk-coverage curve
LONGEST_NAME = 6  # characters of a label's name in the title of an axis
SMALLEST_CELL = 20  # below this a number does not fit into a cell of the confusion matrix


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """(C, C) counts, row = true label, column = predicted; the colour is the share of the row."""
    counts = np.asarray(matrix)
    size = 282 / len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    short = [name if len(name) <= 3 else f"{name[:3]}…" for name in names] if size >= SMALLEST_CELL else []
    upright = any(_text_width(name) > size - 4 for name in short)
    left, top = 66.0, 68.0 if upright else 44.0
    pieces = [
        tag("text", "判为", class_="axis-title", x=left + 141, y=14, text_anchor="middle"),
        turned("标签", 14, top + 141, class_="axis-title", text_anchor="middle"),
    ]
    for i, name in enumerate(short):
        middle = (i + 0.5) * size
        pieces.append(tag("text", name, class_="tick", x=left - 8, y=top + middle + 4, text_anchor="end"))
        if upright:
            pieces.append(turned(name, left + middle + 4, top - 6, class_="tick"))
        else:
            pieces.append(tag("text", name, class_="tick", x=left + middle, y=top - 9, text_anchor="middle"))
    for (i, j), count in np.ndenumerate(counts):
        corner = left + j * size, top + i * size
        pieces.append(_cell(corner, size, int(count), float(shares[i, j]), (names[i], names[j])))
    return drawing("混淆矩阵：行是标签，列是模型的判断", 360, top + 290, *pieces)


def _text_width(text: str) -> float:
    """About, in the font size of tick labels; a Chinese character is a square."""
    return sum(12 if ord(character) > 0x2000 else 7.5 for character in text)


def _cell(corner: Point, size: float, count: int, share: float, names: tuple[str, str]) -> Markup:
    x, y = corner
    right = names[0] == names[1]
    kind = "cell right" if right else "cell wrong"
    said = f"标签{names[0]}、判为{names[1]}：{count:,} 条，占这一行的 {percent(share)}"
    square = tag(
        "rect", hint(said), class_=kind, x=x + 1, y=y + 1, width=size - 2, height=size - 2, rx=4,
        fill_opacity=0.06 + 0.84 * share,
    )  # fmt: skip
    if size < SMALLEST_CELL:
        return square
    ink, middle = "on-dark" if share > 0.55 else "on-light", x + size / 2
    large = min(26.0, size / 3, 1.5 * size / len(f"{count:,}"))
    both = size >= 60
    texts = [
        tag(
            "text", f"{count:,}", class_=f"count {ink}", x=middle, y=y + size / 2 + (0 if both else large / 3),
            text_anchor="middle", font_size=large,
        )
    ]  # fmt: skip
    if both:
        texts.append(
            tag("text", percent(share), class_=f"share {ink}", x=middle, y=y + size / 2 + 20, text_anchor="middle")
        )
    return square + Markup("").join(texts)


def roc(scores: np.ndarray, positive: np.ndarray, names: Sequence[str] = LABEL_NAMES) -> Markup | None:
    """`scores` (N,) rank the positives, `positive` (N,) bool; None where there is one class alone.

    `names` are those of the negatives and of the positives.
    """
    if positive.all() or not positive.any():
        return None
    hits, false_alarms = sweep(scores, positive)
    points = list(zip(false_alarms / (~positive).sum(), hits / positive.sum(), strict=True))
    chosen = scores > 0.5
    here = float(chosen[~positive].mean()), float(chosen[positive].mean())
    frame = Frame()
    return drawing(
        "ROC 曲线", frame.width, frame.height,
        frame.axes(f"{short(names[0])}里误判为{short(names[1])}", f"{short(names[1])}里找出", QUARTERS, QUARTERS),
        frame.line([(0, 0), (1, 1)], "reference"),
        frame.line(thinned([(0.0, 0.0), *points]), "curve"),
        frame.dot(here, "mark", f"以 0.5 为界：误判 {percent(here[0])}，找出 {percent(here[1])}"),
    )  # fmt: skip


def precision_recall(scores: np.ndarray, positive: np.ndarray, names: Sequence[str] = LABEL_NAMES) -> Markup | None:
    """As `roc`: precision among those called positive, against the share of positives found."""
    if positive.all() or not positive.any():
        return None
    hits, false_alarms = sweep(scores, positive)
    points = [(hit / positive.sum(), hit / (hit + alarm)) for hit, alarm in zip(hits, false_alarms, strict=True)]
    rate, frame, name = float(positive.mean()), Frame(), short(names[1])
    chosen = scores > 0.5
    pieces = [
        frame.axes(f"{name}里找出（召回率）", f"判为{name}的判对（精确率）", QUARTERS, QUARTERS),
        frame.line([(0, rate), (1, rate)], "reference"),
        frame.line(thinned(points), "curve"),
    ]
    if chosen.any():
        here = float(chosen[positive].mean()), float(positive[chosen].mean())
        pieces.append(frame.dot(here, "mark", f"以 0.5 为界：召回率 {percent(here[0])}，精确率 {percent(here[1])}"))
    return drawing("精确率-召回率曲线", frame.width, frame.height, *pieces)


def short(name: str) -> str:
    """A label's name where there is little room."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def sweep(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives at or above each distinct score, from the highest down."""
    distinct, group = np.unique(-scores, return_inverse=True)
    return tuple(np.bincount(group[rows], minlength=len(distinct)).cumsum() for rows in (positive, ~positive))


def thinned(points: Sequence[Point]) -> list[Point]:
    chosen = np.unique(np.linspace(0, len(points) - 1, MAX_POINTS).round().astype(int))
    return [points[i] for i in chosen]


def reliability(curve: Sequence[dict], classes: int = 2) -> Markup:
    """Accuracy of the answers of one confidence, with intervals; below, how many answers each bin holds."""
    frame = Frame(x=(0.5 if classes == 2 else 0.0, 1.0), height=330, bottom=104)
    ticks = share_ticks(*frame.x)
    # The titles of the two halves would meet, so the strip of counts has its own.
    pieces = [frame.axes("", "实际判对", ticks, QUARTERS), frame.line([(frame.x[0],) * 2, (1, 1)], "reference")]
    most = max(entry["count"] for entry in curve)
    for entry in curve:
        low, high = (max(entry[side], frame.x[0]) for side in ("low", "high"))
        said = (
            f"置信度 {percent(low)}–{percent(high)}：{entry['count']:,} 条，"
            f"平均置信度 {percent(entry['confidence'])}，判对 {percent(entry['accuracy'])}"
        )
        x = entry["confidence"]
        pieces.append(segment(frame.at(x, entry["interval"][0]), frame.at(x, entry["interval"][1]), "whisker"))
        pieces.append(frame.dot((x, entry["accuracy"]), "mark", said))
        (left, _), (right, _) = frame.at(low, 0), frame.at(high, 0)
        tall = max(1.0, 26 * entry["count"] / most)
        pieces.append(
            tag("rect", hint(said), class_="bar quiet", x=left + 1, y=298 - tall, width=right - left - 2, height=tall)
        )
    pieces.append(tag("text", f"最多 {most:,} 条", class_="tick", x=frame.left, y=265))
    pieces.append(tag("text", "置信度（柱：各段的条数）", class_="axis-title", x=195, y=322, text_anchor="middle"))
    return drawing("可靠性图：置信度与实际判对的比例", frame.width, frame.height, *pieces)


def histogram(distribution: dict[str, int], wrong: dict[str, int] | None = None) -> Markup:
    """Answers for each tenth of confidence; `wrong` says how many of them are wrong, where that is known."""
    most = max([*distribution.values(), 1])
    frame = Frame(x=(0, len(distribution)), y=(0, 1.1 * most), left=16)
    _, bottom = frame.at(0, 0)
    pieces = [segment((frame.left, bottom), (frame.width - frame.right, bottom), "baseline")]
    for i, (tenth, count) in enumerate(distribution.items()):
        (left, top), (right, _) = frame.at(i + 0.1, count), frame.at(i + 0.9, 0)
        bad = (wrong or {}).get(tenth, 0)
        said = f"置信度 {tenth}：{count:,} 条" + (f"，判错 {bad:,} 条" if wrong is not None else "")
        pieces.append(
            tag("rect", hint(said), class_="bar", x=left, y=top, width=right - left, height=bottom - top)
        )  # fmt: skip
        if bad:
            y = frame.at(0, bad)[1]
            pieces.append(
                tag("rect", hint(said), class_="bar bad", x=left, y=y, width=right - left, height=bottom - y)
            )  # fmt: skip
        middle = (left + right) / 2
        pieces.append(tag("text", f"{count:,}", class_="value", x=middle, y=top - 6, text_anchor="middle"))
        label = tenth if len(distribution) <= 6 else tenth.split("-")[0]
        pieces.append(tag("text", label, class_="tick", x=middle, y=bottom + 17, text_anchor="middle"))
    pieces.append(
        tag("text", "置信度", class_="axis-title", x=frame.width / 2, y=frame.height - 8, text_anchor="middle")
    )
    return drawing("置信度的分布", frame.width, frame.height, *pieces)


def risk_coverage(curve: dict, thresholds: Sequence[dict] = ()) -> Markup:
    """Error rate among the answered texts against their share; `thresholds` are rows of `threshold_table`."""
    marked = [row for row in thresholds if row["test"] and row["test"]["precision"] is not None]
    # Among the first few texts a single error is a spike that would flatten all the rest.
    settled = [risk for risk, share in zip(curve["risk"], curve["coverage"], strict=True) if share >= SETTLED]
    high = min(1.0, 1.3 * max([*settled, *(1 - row["test"]["precision"] for row in marked), 0.02]))
    frame = Frame(y=(0.0, high))
    pieces = [
        frame.axes("交给模型的比例", "其中判错", QUARTERS, share_ticks(0.0, high)),
        frame.line([(x, min(y, high)) for x, y in zip(curve["coverage"], curve["risk"], strict=True)], "curve"),
    ]
    for row in marked:
        tried = row["test"]
        figures = percent(tried["coverage"]), percent(tried["precision"])
        said = "目标 {}：交给模型 {}，判对 {}".format(short_percent(row["target"]), *figures)
        pieces.append(frame.dot((tried["coverage"], 1 - tried["precision"]), "mark", said))
    return drawing("风险-覆盖率曲线", frame.width, frame.height, *pieces, *_threshold_names(frame, marked))


def _threshold_names(frame: Frame, marked: Sequence[dict]) -> list[Markup]:
    """The targets to the upper left of their marks, where a rising curve leaves room; higher where two would meet."""
    names, taken = [], []
    for row in sorted(marked, key=lambda row: row["test"]["coverage"]):
        x, y = frame.at(row["test"]["coverage"], 1 - row["test"]["precision"])
        x, y = max(x - 7, frame.left + 34), y - 9
        while any(x - other_x < 36 and abs(y - other_y) < 16 for other_x, other_y in taken):
            y -= 16
        taken.append((x, y))
        names.append(tag("text", short_percent(row["target"]), class_="value", x=x, y=y, text_anchor="end"))
    return names


def bar(value: float, interval: Sequence[float] | None, kind: str = "") -> Markup:
    """One row of a bar chart from 0% to 100%, as wide as there is room: coordinates are shares of the width."""
    pieces = [_line_at(tick, "grid") for tick in QUARTERS]
    pieces.append(tag("rect", class_=f"bar {kind}".strip(), x=0, y=5, width=_place(value), height=14, rx=2))
    return _row(percent(value), *pieces, *_whisker(interval, (0.0, 1.0)))


def before_after(before: float, after: float, interval: Sequence[float] | None, domain: Point) -> Markup:
    """One row: a ring where a figure was, a dot with its interval where it is now."""
    pieces = [_line_at(tick, "grid", domain) for tick in share_ticks(*domain)]
    pieces += _whisker(interval, domain)
    pieces.append(tag("circle", class_="ring", cx=_place(before, domain), cy=12, r=5))
    pieces.append(tag("circle", class_="mark", cx=_place(after, domain), cy=12, r=5))
    return _row(f"从 {percent(before)} 到 {percent(after)}", *pieces)


def ruler(domain: Point = (0.0, 1.0)) -> Markup:
    """The scale above such rows."""
    ticks = QUARTERS if domain == (0.0, 1.0) else share_ticks(*domain)
    anchors = ["start" if t - domain[0] < 1e-9 else "end" if domain[1] - t < 1e-9 else "middle" for t in ticks]
    texts = [
        tag("text", whole_percent(tick), class_="tick", x=_place(tick, domain), y=14, text_anchor=anchor)
        for tick, anchor in zip(ticks, anchors, strict=True)
    ]
    return _row("刻度", *texts)


def common_domain(intervals: Sequence[Sequence[float]]) -> Point:
    """A range of round shares that holds all intervals and ends at 100%."""
    low = min([interval[0] for interval in intervals], default=0.0)
    return max(0.0, int(20 * low) / 20 - 0.05), 1.0


def _row(label: str, *children: str) -> Markup:
    return tag("svg", *children, class_="row", width="100%", height=24, role="img", aria_label=label)


def _whisker(interval: Sequence[float] | None, domain: Point) -> list[Markup]:
    if interval is None:
        return []
    low, high = (_place(bound, domain) for bound in interval)
    ends = [tag("line", class_="whisker", x1=end, x2=end, y1=8, y2=16) for end in (low, high)]
    # A halo keeps the line apart from the bar that it lies on.
    lines = [tag("line", class_=kind, x1=low, x2=high, y1=12, y2=12) for kind in ("halo", "whisker")]
    return [*lines, *ends]


def _line_at(value: float, kind: str, domain: Point = (0.0, 1.0)) -> Markup:
    return tag(
        "line", class_=kind, x1=_place(value, domain), x2=_place(value, domain), y1=-99, y2=99
    )  # the row cuts it off


def _place(value: float, domain: Point = (0.0, 1.0)) -> str:
    return f"{100 * (value - domain[0]) / (domain[1] - domain[0]):.2f}%"
