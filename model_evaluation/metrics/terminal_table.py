"""The table of metrics that training and evaluation print; it fits 80 columns."""

from typing import Any

from runtime.terminal import text_table

COLUMNS = {"accuracy": "准确率", "precision": "精确率", "recall": "召回率", "f1": "F1", "auc": "AUC"}
SPLIT_NAMES = {"train": "训练集", "validation": "验证集", "test": "测试集"}


def metrics_table(measured: dict[str, dict[str, Any]]) -> str:
    """One line for each name -> metrics (as `classification_metrics` gives them), with the interval of accuracy."""
    rows = [["", "n", *COLUMNS.values(), "准确率 95% 区间"]]
    for name, metrics in measured.items():
        figures = ["—" if metrics[key] is None else f"{metrics[key]:.4f}" for key in COLUMNS]
        interval = (metrics.get("intervals") or {}).get("accuracy")
        shown = f"{interval[0]:.4f}–{interval[1]:.4f}" if interval else "—"
        rows.append([SPLIT_NAMES.get(name, name), f"{metrics['n']:,}", *figures, shown])
    return text_table(rows)
