"""Tables for the terminal, where a Chinese character takes two columns."""

from collections.abc import Sequence
from typing import Any

COLUMNS = {"accuracy": "准确率", "precision": "精确率", "recall": "召回率", "f1": "F1", "auc": "AUC"}
SPLIT_NAMES = {"train": "训练集", "validation": "验证集", "test": "测试集"}


def metrics_table(measured: dict[str, dict[str, Any]]) -> str:
    """One line for each name -> metrics (as `classification_metrics` gives them), with the interval of accuracy."""
    lines = [_line(["", "n", *COLUMNS.values(), "准确率 95% 区间"])]
    for name, metrics in measured.items():
        figures = ["—" if metrics[key] is None else f"{metrics[key]:.4f}" for key in COLUMNS]
        interval = (metrics.get("intervals") or {}).get("accuracy")
        shown = f"{interval[0]:.4f} – {interval[1]:.4f}" if interval else "—"
        lines.append(_line([SPLIT_NAMES.get(name, name), f"{metrics['n']:,}", *figures, shown]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    widths = [16, 8, 8, 8, 8, 8, 8, 18]
    return " ".join(padded(cell, width) for cell, width in zip(cells, widths, strict=True))


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """One line for each row; a column is as wide as its widest cell, with two blanks between columns."""
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [padded(cell, width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def padded(cell: str, width: int) -> str:
    """`cell` with blanks behind it, `width` columns wide or as wide as it is."""
    return cell + " " * max(0, width - display_width(cell))


def display_width(text: str) -> int:
    """Columns in a terminal: a Chinese character takes two."""
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(ch) in "WF" else 1 for ch in text)
