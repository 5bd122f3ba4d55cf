"""The few-shot curve of benchmarks/heads.py as an SVG that stands alone: accuracy against labelled rows.

python benchmarks/few_shot_plot.py benchmarks/results/heads.json
"""

import json
import math
import sys
from pathlib import Path

from matplotlib.ticker import NullLocator, PercentFormatter

from model_evaluation.report.svg import new_plot, page_style, standalone_svg
from runtime.atomic_files import atomic_write

# Colours that stay apart for colour-blind readers (Okabe & Ito 2008), on white and on black.
COLOURS = {"classifier": "#0072b2", "label_scoring": "#d55e00", "tfidf": "#009e73", "zero_shot": "#767676"}
NAMES = {"classifier": "classifier", "label_scoring": "label_scoring", "tfidf": "TF-IDF", "zero_shot": "零样本"}
FIGURE = "accuracy_unseen"


@page_style
def few_shot_curve(lines: list[dict]) -> str:
    """`lines` are the summary of benchmarks/heads.py; a bar spans the seeds, the line joins the means."""
    shown = [line for line in lines if line["model"] in COLOURS]
    rows = sorted({line["rows"] for line in shown if line["rows"]})
    lowest = min(line[FIGURE]["low"] for line in shown)
    figure, axes = new_plot(height=320, width=640, top=30, bottom=66)
    axes.set(xscale="log", xlim=(rows[0] / 1.3, rows[-1] * 1.3), ylim=(math.floor(10 * lowest) / 10, 1))
    axes.set_xticks(rows, [f"{count:,} 条" for count in rows])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.text(56 / 640, 302 / 320, "准确率（训练文件里没有的评论）", color=axes.xaxis.label.get_color())

    for model, colour in COLOURS.items():
        lines_of_model = [line for line in shown if line["model"] == model]
        if model == "zero_shot":  # the un-tuned base is a level
            mean = lines_of_model[0][FIGURE]["mean"]
            axes.axhline(mean, color=colour, linestyle=(0, (3, 2)), label=NAMES[model])
            continue
        counts = [line["rows"] for line in lines_of_model]
        axes.plot(counts, [line[FIGURE]["mean"] for line in lines_of_model], color=colour, label=NAMES[model])
        lows = [line[FIGURE]["low"] for line in lines_of_model]
        highs = [line[FIGURE]["high"] for line in lines_of_model]
        axes.vlines(counts, lows, highs, color=colour, linewidth=1.4)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=len(COLOURS), frameon=False, borderaxespad=0)
    return standalone_svg(figure, "训练条数与准确率")


def main() -> None:
    source = Path(sys.argv[1])
    with atomic_write(source.with_suffix(".svg")) as file:
        file.write(few_shot_curve(json.loads(source.read_text(encoding="utf-8"))["summary"]))


if __name__ == "__main__":
    main()
