"""The few-shot curve of benchmarks/heads.py as an SVG that stands alone: accuracy against labelled rows.

python benchmarks/few_shot_plot.py benchmarks/results/heads.json
"""

import json
import math
import sys
from pathlib import Path

from markupsafe import Markup

from model_evaluation.report.svg import Frame, drawing, segment, tag
from runtime.atomic_files import atomic_write

STYLE = """
svg { background: #fff; font: 12px system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }
.grid { stroke: #e9e7e1; } .tick, .axis-title, .name { fill: #5c6675; } polyline { fill: none; stroke-width: 2.2; }
"""
# Colours that stay apart for colour-blind readers (Okabe & Ito 2008).
COLOURS = {"classifier": "#0072B2", "label_scoring": "#D55E00", "tfidf": "#009E73", "zero_shot": "#767676"}
NAMES = {"classifier": "classifier", "label_scoring": "label_scoring", "tfidf": "TF-IDF", "zero_shot": "零样本"}
FIGURE = "accuracy_unseen"


def few_shot_curve(lines: list[dict]) -> str:
    """`lines` are the summary of benchmarks/heads.py; a bar spans the seeds, the line joins the means."""
    shown = [line for line in lines if line["model"] in COLOURS]
    rows = sorted({line["rows"] for line in shown if line["rows"]})
    low = min(line[FIGURE]["low"] for line in shown)
    frame = Frame(
        x=(math.log(rows[0] / 1.3), math.log(rows[-1] * 1.3)), y=(math.floor(10 * low) / 10, 1.0), width=640, top=30
    )
    ticks = [share / 100 for share in range(round(100 * frame.y[0]), 101, 10)]
    pieces = [
        tag("style", Markup(STYLE)),
        frame.axes("", "", [], ticks),
        tag("text", "准确率（训练文件里没有的评论）", class_="axis-title", x=frame.left, y=18),
        *(_row_tick(frame, count) for count in rows),
        *(_model(frame, name, [line for line in shown if line["model"] == name], place)
          for place, name in enumerate(COLOURS)),
    ]  # fmt: skip
    svg = drawing("训练条数与准确率", frame.width, frame.height, *pieces)
    return str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _row_tick(frame: Frame, count: int) -> Markup:
    x, bottom = frame.at(math.log(count), frame.y[0])
    return segment((x, frame.top), (x, bottom), "grid") + tag(
        "text", f"{count:,} 条", class_="tick", x=x, y=bottom + 17, text_anchor="middle"
    )


def _model(frame: Frame, name: str, lines: list[dict], place: int) -> Markup:
    """One model's line with its bars, and its name in the legend; the un-tuned base is a level."""
    colour, pieces = COLOURS[name], []
    if name == "zero_shot":
        points = [(x, lines[0][FIGURE]["mean"]) for x in frame.x]
    else:
        points = [(math.log(line["rows"]), line[FIGURE]["mean"]) for line in lines]
        for (x, _), line in zip(points, lines, strict=True):
            ends = frame.at(x, line[FIGURE]["low"]), frame.at(x, line[FIGURE]["high"])
            pieces.append(Markup("<g stroke='{}' stroke-width='1.4'>{}</g>").format(colour, segment(*ends, "range")))
    written = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.at(*point) for point in points))
    dash = "5 4" if name == "zero_shot" else None
    pieces.append(tag("polyline", points=written, stroke=colour, stroke_dasharray=dash))
    left = frame.left + 20 + 140 * place
    pieces.append(tag("line", x1=left, y1=288, x2=left + 22, y2=288, stroke=colour, stroke_width=3))
    pieces.append(tag("text", NAMES[name], class_="name", x=left + 28, y=292))
    return Markup("").join(pieces)


def main() -> None:
    source = Path(sys.argv[1])
    with atomic_write(source.with_suffix(".svg")) as file:
        file.write(few_shot_curve(json.loads(source.read_text(encoding="utf-8"))["summary"]))


if __name__ == "__main__":
    main()
