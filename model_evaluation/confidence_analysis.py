"""The step that writes confidence_analysis.json: calibration, and thresholds above which an adapter answers alone.

    python model_evaluation/confidence_analysis.py --model_path ./outputs/lora_adapter
    python model_evaluation/confidence_analysis.py --test_file my_test.csv --text_column 评论 --label_column 标签

Chooses a temperature and thresholds for 95%, 97% and 99% precision on the validation split, tries them on the
test rows, writes confidence_analysis.json, and puts both into the adapter's sentiment_config.json.
"""

import dataclasses

import numpy as np

from configs.command_line import help_text
from data.dataset import Rows
from data.seen_texts import seen_mask
from model_evaluation.evaluation import Evaluation
from model_evaluation.metrics.calibration import calibration_report, confidence_summary, fit_temperature
from model_evaluation.metrics.selective_prediction import risk_coverage, threshold_table
from model_evaluation.pipeline import Step, run_single
from modeling.adapter_folder import FORMAT_VERSION, SentimentConfig, refuse_link
from prediction.prediction_set import Predictions, softmax
from runtime.atomic_files import write_json
from runtime.errors import UserError, run_script

CURVE_POINTS = 200  # more than a plot shows


class ConfidenceStep(Step):
    """A temperature and thresholds from the validation rows, tried on the evaluated ones, and put into the adapter."""

    name = "confidence"
    title = "置信度、校准与阈值"
    file_name = "confidence_analysis.json"
    script = ("model_evaluation/confidence_analysis.py",)

    def required_texts(self, evaluation: Evaluation) -> list[str]:
        if evaluation.config.split == "validation" and not evaluation.config.test_file:
            raise UserError("温度和阈值是在验证集上选的，不能再用验证集检验；请用 --split test 或 --test_file")
        refuse_link(evaluation.config.model_path)  # before the model has read all those texts
        return evaluation.validation.texts + evaluation.rows.texts

    def run(self, evaluation: Evaluation) -> str:
        held_out = unseen_rows(evaluation.config.model_path, evaluation.validation)
        validation, test = evaluation.predictions(held_out), evaluation.predictions(evaluation.rows)
        result = confidence_analysis(validation, test)
        validation_facts = {
            "n": len(held_out),
            "n_texts": len(validation.first_rows),
            "left_out_seen": len(evaluation.validation) - len(held_out),
        }
        provenance = evaluation.provenance()
        provenance["data"]["validation"] = validation_facts | {"fingerprint": held_out.fingerprint()}
        write_json(evaluation.output / self.file_name, result | provenance)
        save_calibration(evaluation.config.model_path, result["temperature"], result["thresholds"])
        return _calibration_lines(evaluation, result)


def unseen_rows(model_path: str, rows: Rows) -> Rows:
    """The rows that the adapter has not seen in training: it is surer, and more often right, on what it has learnt."""
    kept = rows.select(np.flatnonzero(~seen_mask(model_path, rows.texts)).tolist())
    if not len(kept):
        raise UserError("验证集的评论都在训练中见过，无法用来选温度和阈值；请换验证集重新训练")
    return kept


def confidence_analysis(validation: Predictions, test: Predictions) -> dict:
    """Temperature and thresholds chosen on `validation`, everything else reported on `test`, JSON-ready.

    Both are chosen on the first row of each different text: copies are no further evidence. See `threshold_table` for
    copies that carry different labels.

    The keys of `confidence_summary` are of the raw confidence, max(probs); thresholds and the risk-coverage curve are
    of the confidence after the temperature, which is the one that `SentimentPredictor` returns.

    A temperature that makes the ECE of `test` worse is `rejected_temperature` (temperature, ece_before, ece_after; else
    None), and the one applied is 1.
    """
    once = validation.select(validation.first_rows)
    temperature, rejected = fit_temperature(once.logits, once.labels), None
    tried = calibration_report(test, temperature)
    if tried["after"]["ece"] > tried["before"]["ece"]:
        eces = {f"ece_{when}": tried[when]["ece"] for when in ("before", "after")}
        temperature, rejected = 1.0, {"temperature": temperature} | eces
    calibrated = softmax(test.logits, temperature).max(axis=1)
    return confidence_summary(test) | {
        "n": len(test),
        "n_texts": len(test.first_rows),
        "temperature": temperature,
        "rejected_temperature": rejected,
        "calibration": {
            "validation": calibration_report(validation, temperature),
            "test": calibration_report(test, temperature),
        },
        "risk_coverage": thinned(risk_coverage(calibrated, test.pred == test.labels)),
        "thresholds": threshold_table(validation, test, temperature),
    }


def thinned(curve: dict, points: int = CURVE_POINTS) -> dict:
    """A risk-coverage curve with at most `points` points, evenly spread, both ends kept; its areas are untouched."""
    total = len(curve["coverage"])
    chosen = np.unique(np.linspace(0, total - 1, min(points, total)).round().astype(int)).tolist()
    return curve | {name: [curve[name][i] for i in chosen] for name in ("threshold", "coverage", "risk")}


def save_calibration(model_path: str, temperature: float, table: list[dict]) -> None:
    """Into sentiment_config.json, whole or not at all; targets without a threshold are noted as such."""
    thresholds = {f"{row['target']:g}": row["threshold"] for row in table if row["threshold"] is not None}
    without = [f"{row['target']:g}" for row in table if row["threshold"] is None]
    config = dataclasses.replace(SentimentConfig.load(model_path), temperature=temperature, thresholds=thresholds)
    dataclasses.replace(config, without_threshold=without, format_version=FORMAT_VERSION).save(model_path)


def _calibration_lines(evaluation: Evaluation, result: dict) -> str:
    before, after = (result["calibration"]["test"][when]["ece"] for when in ("before", "after"))
    rejected = result["rejected_temperature"]
    if rejected:
        first = (
            f"温度 {rejected['temperature']:.3f} 会让测试上的 ECE 从 {rejected['ece_before']:.4f} 变成 "
            f"{rejected['ece_after']:.4f}，更差，没有采用：温度仍为 1"
        )
    else:
        first = f"温度 {result['temperature']:.3f}；测试上的 ECE {before:.4f} → {after:.4f}"
    lines = [_threshold_line(row) for row in result["thresholds"]]
    return "\n".join([first, *lines, f"温度和阈值已写进 {evaluation.config.model_path}/sentiment_config.json"])


def _threshold_line(row: dict) -> str:
    if row["threshold"] is None:
        return f"精确率 {row['target']:.0%}：没有阈值（{row['reason']}）"
    tried = row["test"]
    precision = "—" if tried["precision"] is None else f"{tried['precision']:.1%}"
    return (
        f"精确率 {row['target']:.0%}：阈值 {row['threshold']:.4f}，"
        f"测试上自动回答 {tried['coverage']:.1%}，其中对的 {precision}"
    )


def main() -> None:
    title = "置信度分析：在验证集上选温度和阈值，在测试集上检验，写进适配器。"
    run_single(ConfidenceStep(), help_text(title, __doc__))


if __name__ == "__main__":
    run_script(main)
