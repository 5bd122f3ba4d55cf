"""A comparison of evaluations for a terminal of 80 columns."""

from typing import Any

from model_evaluation.metrics.intervals import with_interval
from model_evaluation.metrics.ordinal import ORDINAL_TITLES
from runtime.terminal import display_width, text_table

WIDTH = 80
SIGNIFICANT = 0.05


def terminal_lines(comparison: dict[str, Any]) -> str:
    """The runs by number, their figures, the unseen rows, each pair, and the settings that differ."""
    runs = comparison["runs"]
    lines = [f"比较 {len(runs)} 次评估", ""]
    lines += [clipped(f"{number}  {run['name']}") for number, run in enumerate(runs, 1)]

    table = [["", "行数", "准确率（95% 区间）", "F1", "AUC"]]
    for number, run in enumerate(runs, 1):
        cells = [with_interval(run, name) for name in ("accuracy", "f1", "auc")]
        table.append([str(number), f"{run['n']:,}", *cells])
    lines += ["", text_table(table)]
    if not comparison["same_rows"]:
        lines.append("各次评估的行不全相同，上面的数字不能直接比；要比，看下面共同的行。")

    if any(run["unseen"] for run in runs):
        table = [["", "行数", "准确率（95% 区间）", "F1"]]
        for number, run in enumerate(runs, 1):
            cells = ["—"] * 3
            if unseen := run["unseen"]:
                cells = [f"{unseen['n']:,}", with_interval(unseen, "accuracy"), with_interval(unseen, "f1")]
            table.append([str(number), *cells])
        lines += ["", "训练中没见过的行", text_table(table)]
    if any(run["ordinal"] for run in runs):
        table = [["", *ORDINAL_TITLES.values()]]
        for number, run in enumerate(runs, 1):
            cells = [with_interval(run["ordinal"], name) if run["ordinal"] else "—" for name in ORDINAL_TITLES]
            table.append([str(number), *cells])
        lines += ["", "标签是等级", text_table(table)]
    return "\n".join([*lines, "", *pair_lines(comparison["pairs"]), "", *setting_lines(comparison)])


def pair_lines(pairs: list[dict[str, Any]]) -> list[str]:
    table = [["", "共同的行", "准确率", "只有前者对", "只有后者对", "p"]]
    for pair in pairs:
        cells = ["—"] * 4
        if pair["rows"]:
            one, other = pair["accuracy"]
            cells = [f"{one:.3f} – {other:.3f}", f"{pair['b']:,}", f"{pair['c']:,}", f"{pair['p_value']:.2g}"]
        table.append([" – ".join(str(i + 1) for i in pair["runs"]), f"{pair['rows']:,}", *cells])
    return [
        "两两比较：在共同的行上（文本和标签都相同），McNemar 精确检验，一条文本一票",
        text_table(table),
        significance(len(pairs)),
    ]


def significance(pairs: int) -> str:
    if pairs == 1:
        return f"p 小于 {SIGNIFICANT} 才能说有差别。"
    return f"比了 {pairs} 对，总有碰巧的：p 小于 {SIGNIFICANT / pairs:.2g}（{SIGNIFICANT} ÷ {pairs}）才能说有差别。"


def setting_lines(comparison: dict[str, Any]) -> list[str]:
    """Each setting that differs, and below it its values with the numbers of the runs that have them."""
    runs = comparison["runs"]
    unknown = [str(number) for number, run in enumerate(runs, 1) if not run["has_settings"]]
    lines = [f"第 {'、'.join(unknown)} 次没有 run.json（以前的版本写的），不知道它的设置。"] if unknown else []
    if not comparison["settings"]:
        return [*lines, "没有找到不同的设置。"]
    lines.append("不同的设置")
    for name, values in comparison["settings"].items():
        lines.append(f"  {name}")
        by_value: dict[str, list[str]] = {}
        for number, value in enumerate(values, 1):
            if str(number) not in unknown:
                by_value.setdefault(shown(value), []).append(str(number))
        table = text_table([["、".join(numbers), value] for value, numbers in by_value.items()])
        lines += [clipped(f"    {line}") for line in table.splitlines()]
    return lines


def shown(value: Any) -> str:
    """A setting as one would type it."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "开" if value else "关"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value).replace("\n", "\\n")


def clipped(line: str) -> str:
    """The line, its end cut off where it is wider than the terminal."""
    if display_width(line) <= WIDTH:
        return line
    while display_width(line) > WIDTH - 1:
        line = line[:-1]
    return f"{line}…"
