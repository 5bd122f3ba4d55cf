"""The step that writes metrics.json: all rows, and apart those that the adapter has not seen in training."""

from model_evaluation.metrics.classification import seen_unseen_metrics
from model_evaluation.metrics.terminal_table import metrics_table
from model_evaluation.pipeline import Evaluation, Step
from runtime.atomic_files import write_json


def measure(evaluation: Evaluation) -> str:
    """Write metrics.json; returns the table for the terminal."""
    predictions = evaluation.predictions(evaluation.rows)
    seen = evaluation.seen(evaluation.rows.texts)
    measured = seen_unseen_metrics(predictions, seen, evaluation.sentiment.labels, seed=evaluation.config.seed)
    result = measured["all"] | {"unseen": measured["unseen"], "seen": measured["seen"]}
    write_json(evaluation.output / STEP.file, result | evaluation.described())
    shown = {"全部": measured["all"], "训练中没见过的": measured["unseen"] if measured["seen"] else None}
    return "\n".join(
        [metrics_table({name: rows for name, rows in shown.items() if rows}), *memorised(measured["seen"])]
    )


def memorised(seen: dict | None) -> list[str]:
    """A line on the rows that stand in the training split too, if there are any."""
    if not seen:
        return []
    return [f"其中 {seen['n']:,} 条在训练中见过（可能是背下来的），在它们上面准确率 {seen['accuracy']:.4f}"]


STEP = Step("metrics", "指标", "metrics.json", lambda evaluation: evaluation.rows.texts, measure)
