"""The step that writes metrics.json: the metrics of all rows, and of those that the adapter has not seen in training.

Its own command is `python model_evaluation/run_full_eval.py --steps metrics`; `eval.py` runs it too.
"""

from model_evaluation.evaluation import Evaluation
from model_evaluation.metrics.classification import seen_unseen_metrics
from model_evaluation.metrics.intervals import with_interval
from model_evaluation.metrics.ordinal import ORDINAL_TITLES, ordinal_metrics
from model_evaluation.metrics.terminal_table import metrics_table
from model_evaluation.pipeline import Step
from runtime.atomic_files import write_json
from runtime.terminal import text_table


class MetricsStep(Step):
    """Accuracy, precision, recall, F1 and AUC of the evaluated rows."""

    name = "metrics"
    title = "指标"
    file_name = "metrics.json"
    script = ("model_evaluation/run_full_eval.py", "--steps", "metrics")

    def run(self, evaluation: Evaluation) -> str:
        predictions = evaluation.predictions(evaluation.rows)
        seen = evaluation.seen(evaluation.rows.texts)
        seed = evaluation.config.seed
        measured = seen_unseen_metrics(predictions, seen, evaluation.sentiment.labels, seed=seed)
        shown = {"全部": measured["all"]}
        # Rows that were also in the training split may be memorised, so those without them stand apart.
        if measured["seen"] and measured["unseen"]:
            shown["训练中没见过的"] = measured["unseen"]
        if evaluation.ordinal:
            measured["all"]["ordinal"] = ordinal_metrics(predictions, seed)
            if measured["unseen"]:
                measured["unseen"]["ordinal"] = ordinal_metrics(predictions.select(~seen), seed)

        result = measured["all"] | {"unseen": measured["unseen"], "seen": measured["seen"]}
        write_json(evaluation.output / self.file_name, result | evaluation.provenance())

        lines = [metrics_table(shown)]
        if evaluation.ordinal:
            lines += ["", ordinal_table(shown)]
        if measured["seen"]:
            n, accuracy = measured["seen"]["n"], measured["seen"]["accuracy"]
            lines.append(f"其中 {n:,} 条在训练中见过（可能是背下来的），在它们上面准确率 {accuracy:.4f}")
        return "\n".join(lines)


def ordinal_table(measured: dict[str, dict]) -> str:
    """One line for each name -> metrics with `ordinal`, each figure with its interval."""
    table = [["", *(f"{title}（95% 区间）" for title in ORDINAL_TITLES.values())]]
    for name, metrics in measured.items():
        table.append([name, *(with_interval(metrics["ordinal"], key) for key in ORDINAL_TITLES)])
    return text_table(table)
