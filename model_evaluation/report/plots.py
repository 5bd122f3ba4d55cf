"""The plots of report.html, drawn by matplotlib; every function is pure and returns one `<svg>`.

confusion([[530, 62], [41, 567]], ["负面", "正面"])
roc(predictions.p_positive, predictions.labels == 1)
"""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from sklearn.metrics import precision_recall_curve, roc_curve

from data.dataset import LABEL_NAMES
from model_evaluation.report.filters import percent, short_percent
from model_evaluation.report.svg import COLOUR, inline_svg, new_plot, page_style, set_hint

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
SETTLED = 0.05  # share of texts from which the error rate sets the scale of the risk-coverage curve
LONGEST_NAME = 6  # characters of a label's name in the title of an axis
MOST_DOTS = 40  # points of a training curve beyond which a dot for each would be a band
SMALLEST_CELL = 20  # below this a number does not fit into a cell of the confusion matrix


@page_style
def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """(C, C) counts, row = true label, column = predicted; the colour is the share of the row."""
    counts = np.asarray(matrix)
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 282
    size = side / classes
    with_numbers = size >= SMALLEST_CELL

    # Names of columns stand upright where they are wider than their column; a Chinese character is a square.
    short_names = [_short(name, 3) if with_numbers else "" for name in names]
    upright = max(sum(12 if ord(letter) > 0x2000 else 7.5 for letter in name) for name in short_names) > size - 4
    top = 68 if upright else 44
    figure, axes = new_plot(height=top + side + 8, left=74, right=4, top=top, bottom=8)
    axes.set(xlim=(0, side), ylim=(side, 0), xlabel="判为", ylabel="标签")
    axes.grid(False)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    middles = (np.arange(classes) + 0.5) * size
    axes.set_xticks(middles, short_names, rotation=90 if upright else 0, rotation_mode="anchor")
    if upright:
        for text in axes.get_xticklabels():
            text.set(ha="left", va="center")
    axes.set_yticks(middles, short_names)
    axes.xaxis.set_label_coords(0.5, 1 + (top - 14) / side)
    axes.yaxis.set_label_coords(-58 / side, 0.5)

    for (i, j), count in np.ndenumerate(counts):
        share = float(shares[i, j])
        corner = (j * size + 1, i * size + 1)
        if with_numbers:
            cell: Patch = FancyBboxPatch(corner, size - 2, size - 2, boxstyle="round,pad=0,rounding_size=4")
        else:
            cell = Rectangle(corner, size - 2, size - 2)
        cell.set(color=COLOUR["accent" if i == j else "bad"], alpha=0.06 + 0.84 * share, linewidth=0)
        set_hint(cell, f"标签{names[i]}、判为{names[j]}：{count:,} 条，占这一行的 {percent(share)}")
        axes.add_patch(cell)
        if with_numbers:
            written = f"{count:,}"
            ink = COLOUR["page" if share > 0.55 else "ink"]
            font_size = min(26.0, size / 3, 1.5 * size / len(written))
            baseline = float(middles[i]) + (0 if size >= 60 else font_size / 3)
            axes.text(float(middles[j]), baseline, written, color=ink, size=font_size, weight="bold", ha="center")
            if size >= 60:
                axes.text(float(middles[j]), baseline + 20, percent(share), color=ink, size=13, ha="center")
    return inline_svg(figure, "混淆矩阵：行是标签，列是模型的判断")


@page_style
def roc(scores: np.ndarray, positive: np.ndarray, names: Sequence[str] = LABEL_NAMES) -> Markup | None:
    """`scores` (N,) rank the positives, `positive` (N,) bool; None where there is one class alone.

    `names` are those of the negatives and of the positives.
    """
    if positive.all() or not positive.any():
        return None
    false_alarms, hits, _ = roc_curve(positive, scores)
    figure, axes = new_plot(height=300)
    negatives_name, positives_name = _short(names[0]), _short(names[1])
    _shares(axes, f"{negatives_name}里误判为{positives_name}", f"{positives_name}里找出")
    _reference(axes, (0, 0), (1, 1))
    axes.plot(false_alarms, hits, color=COLOUR["accent"])

    chosen = scores > 0.5
    x, y = float(chosen[~positive].mean()), float(chosen[positive].mean())
    _dot(axes, x, y, f"以 0.5 为界：误判 {percent(x)}，找出 {percent(y)}")
    return inline_svg(figure, "ROC 曲线")


@page_style
def precision_recall(scores: np.ndarray, positive: np.ndarray, names: Sequence[str] = LABEL_NAMES) -> Markup | None:
    """As `roc`: precision among those called positive, against the share of positives found."""
    if positive.all() or not positive.any():
        return None
    precisions, recalls, _ = precision_recall_curve(positive, scores)
    figure, axes = new_plot(height=300)
    name = _short(names[1])
    _shares(axes, f"{name}里找出（召回率）", f"判为{name}的判对（精确率）")
    _reference(axes, (0, positive.mean()), (1, positive.mean()))
    # The last point is sklearn's convention, not of the data.
    axes.plot(recalls[:-1], precisions[:-1], color=COLOUR["accent"])

    chosen = scores > 0.5
    if chosen.any():
        x, y = float(chosen[positive].mean()), float(positive[chosen].mean())
        _dot(axes, x, y, f"以 0.5 为界：召回率 {percent(x)}，精确率 {percent(y)}")
    return inline_svg(figure, "精确率-召回率曲线")


@page_style
def reliability(curve: Sequence[dict], classes: int = 2) -> Markup:
    """Accuracy of the answers of one confidence, with intervals; below, how many answers each bin holds."""
    lowest = 0.5 if classes == 2 else 0.0
    figure, axes = new_plot(height=330, bottom=104)
    _shares(axes, "", "实际判对")
    axes.set(xlim=(lowest, 1), xticks=round_ticks(lowest, 1))
    _reference(axes, (lowest, lowest), (1, 1))
    strip = figure.add_axes((56 / 360, 32 / 330, 288 / 360, 26 / 330))
    most = max(entry["count"] for entry in curve)
    strip.set(xlim=(lowest, 1), ylim=(0, most), xticks=[], yticks=[])
    strip.set_xlabel("置信度（柱：各段的条数）", labelpad=12)
    strip.text(0, 1.2, f"最多 {most:,} 条", transform=strip.transAxes, color=COLOUR["soft"], size=12)

    for entry in curve:
        low, high = max(entry["low"], lowest), max(entry["high"], lowest)
        said = (
            f"置信度 {percent(low)}–{percent(high)}：{entry['count']:,} 条，"
            f"平均置信度 {percent(entry['confidence'])}，判对 {percent(entry['accuracy'])}"
        )
        if entry["interval"]:
            axes.vlines(entry["confidence"], *entry["interval"], color=COLOUR["ink"], linewidth=1.5)
        _dot(axes, entry["confidence"], entry["accuracy"], said)
        gap = (1 - lowest) / 288  # one pixel on either side
        tall = max(entry["count"], most / 26)
        (bar,) = strip.bar(low + gap, tall, high - low - 2 * gap, align="edge", color=COLOUR["accent-soft"])
        set_hint(bar, said)
    return inline_svg(figure, "可靠性图：置信度与实际判对的比例")


@page_style
def histogram(distribution: dict[str, int], wrong: dict[str, int] | None = None) -> Markup:
    """Answers for each tenth of confidence; `wrong` says how many of them are wrong, where that is known."""
    figure, axes = new_plot(height=300, left=16)
    most = max([*distribution.values(), 1])
    axes.set(xlim=(-0.5, len(distribution) - 0.5), ylim=(0, 1.1 * most), yticks=[], xlabel="置信度")
    axes.grid(False)
    axes.spines.bottom.set_visible(True)
    short_names = [tenth if len(distribution) <= 6 else tenth.split("-")[0] for tenth in distribution]
    axes.set_xticks(range(len(distribution)), short_names)
    for i, (tenth, count) in enumerate(distribution.items()):
        said = f"置信度 {tenth}：{count:,} 条"
        if wrong is not None:
            said += f"，判错 {wrong[tenth]:,} 条"
        heights = {"accent": count, "bad": 0 if wrong is None else wrong[tenth]}
        for colour, height in heights.items():
            (bar,) = axes.bar(i, height, 0.8, color=COLOUR[colour])
            set_hint(bar, said)
        axes.annotate(f"{count:,}", (i, count), (0, 6), textcoords="offset points", ha="center", weight="bold")
    return inline_svg(figure, "置信度的分布")


@page_style
def risk_coverage(curve: dict, thresholds: Sequence[dict] = ()) -> Markup:
    """Error rate among the answered texts against their share; `thresholds` are rows of `threshold_table`."""
    tested = [row for row in thresholds if row["test"] and row["test"]["precision"] is not None]
    # Among the first few texts a single error is a spike that would flatten all the rest.
    settled = [risk for risk, share in zip(curve["risk"], curve["coverage"], strict=True) if share >= SETTLED]
    errors = [1 - row["test"]["precision"] for row in tested]
    high = min(1.0, 1.3 * max([*settled, *errors, 0.02]))
    figure, axes = new_plot(height=300)
    _shares(axes, "交给模型的比例", "其中判错")
    axes.set(ylim=(0, high), yticks=round_ticks(0, high))
    axes.plot(curve["coverage"], np.minimum(curve["risk"], high), color=COLOUR["accent"])

    # Targets stand to the upper left of their dots, where a rising curve leaves room; higher where two would meet.
    taken: list[tuple[float, float]] = []
    for row in sorted(tested, key=lambda row: row["test"]["coverage"]):
        tried, target = row["test"], short_percent(row["target"])
        x, y = tried["coverage"], 1 - tried["precision"]
        _dot(axes, x, y, f"目标 {target}：交给模型 {percent(x)}，判对 {percent(tried['precision'])}")
        across, up = axes.transData.transform((x, y))
        across, up = max(across - 7, 90), up + 9
        while any(across - other < 36 and abs(up - height) < 16 for other, height in taken):
            up += 16
        taken.append((across, up))
        axes.annotate(target, (across, up), xycoords="figure points", ha="right", color=COLOUR["accent"], weight="bold")
    return inline_svg(figure, "风险-覆盖率曲线")


@page_style
def training_curve(log: Sequence[dict], keys: dict[str, str], best_step: int | None, label: str) -> Markup | None:
    """Figures of training_log.jsonl by step; `keys` maps those to draw to their names. None where the log has none.

    The best step is a vertical line. A figure that is None (a loss that was no number) is left out.
    """
    figure, axes = new_plot(height=300)
    drawn = []
    for (key, name), colour in zip(keys.items(), ("accent", "bad"), strict=False):
        points = [(entry["step"], entry[key]) for entry in log if entry.get(key) is not None]
        if not points:
            continue
        drawn += [value for _, value in points]
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=COLOUR[colour])
        axes.annotate(name, points[-1], (0, 8), textcoords="offset points", ha="right", color=COLOUR[colour])
        for step, value in points if len(points) <= MOST_DOTS else ():
            _dot(axes, step, value, f"第 {step:,} 步：{name} {value:.4f}", colour)
    if not drawn:
        return None
    low, high = min(drawn), max(drawn)
    margin = 0.15 * (high - low) or 0.05
    axes.set(xlabel="步", ylim=(low - margin, high + margin))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    if best_step:
        line = axes.axvline(best_step, color=COLOUR["soft"], linewidth=1, linestyle=(0, (4, 4)))
        set_hint(line, f"最好的一步：{best_step:,}")
    return inline_svg(figure, label)


def round_ticks(low: float, high: float) -> list[float]:
    """Three to six round shares from `low` to `high`."""
    ticks = MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low - 1e-9 <= tick <= high + 1e-9]


def _short(name: str, longest: int = LONGEST_NAME) -> str:
    """A label's name where there is little room."""
    return name if len(name) <= longest else f"{name[:longest]}…"


def _shares(axes: Axes, x_title: str, y_title: str) -> None:
    """Let both axes go from 0% to 100%."""
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=QUARTERS, yticks=QUARTERS, xlabel=x_title, ylabel=y_title)
    axes.xaxis.set_major_formatter(lambda share, _: short_percent(share))
    axes.yaxis.set_major_formatter(lambda share, _: short_percent(share))
    axes.yaxis.labelpad = 1


def _reference(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.plot(*zip(start, end, strict=True), color=COLOUR["soft"], linewidth=1, linestyle=(0, (4, 4)))


def _dot(axes: Axes, x: float, y: float, hint: str, colour: str = "accent") -> None:
    """A disc of radius 4; matplotlib's own markers are references, which the page is to do without."""
    dot = Circle((0, 0), 4, transform=ScaledTranslation(x, y, axes.transData), zorder=3)  # type: ignore[arg-type]
    dot.set(facecolor=COLOUR[colour], edgecolor=COLOUR["page"], linewidth=1.5)
    set_hint(dot, hint)
    axes.add_artist(dot)
