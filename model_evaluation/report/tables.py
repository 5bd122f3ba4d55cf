"""Rows of the report's tables and what its plots are drawn from; pure functions of the result files.

for row in hardest_errors(predictions, temperature=1.4):
    print(row["confidence"], row["label"], row["pred"], row["text"])
"""

from typing import Any

import numpy as np

from model_evaluation.report.results import Results, known_labels
from prediction.prediction_set import Predictions, softmax

HARDEST = 15
SUSPICIOUS = 20


def hardest_errors(predictions: Predictions, temperature: float = 1.0, most: int = HARDEST) -> list[dict[str, Any]]:
    """The wrong answers that the model was surest of: text, label, pred, confidence; surest first."""
    wrong = known_labels(predictions) & (predictions.pred != predictions.labels)
    confidence = softmax(predictions.logits, temperature).max(axis=1)
    rows = np.flatnonzero(wrong)
    rows = rows[np.argsort(-confidence[rows], kind="stable")][:most]
    return [
        {
            "text": predictions.texts[i],
            "label": int(predictions.labels[i]),
            "pred": int(predictions.pred[i]),
            "confidence": float(confidence[i]),
        }
        for i in rows.tolist()
    ]


def scored(results: Results) -> tuple[np.ndarray, np.ndarray] | None:
    """(P(label 1), label is 1) for ROC and PR; None unless there are two classes and labels to all rows."""
    predictions = results.predictions
    if predictions is None or predictions.logits.shape[1] != 2 or not known_labels(predictions).all():
        return None
    return predictions.p_positive, predictions.labels == 1


def wrong_by_tenth(results: Results, distribution: dict[str, int]) -> dict[str, int] | None:
    """Wrong answers for each tenth of `confidence_distribution`; None where the predictions do not add up to it."""
    predictions = results.predictions
    if predictions is None or not known_labels(predictions).all() or len(predictions) != sum(distribution.values()):
        return None
    names = list(distribution)
    first = 10 - len(names)
    tenth = np.clip(np.floor(predictions.confidence * 10).astype(int), first, 9) - first
    if np.bincount(tenth, minlength=len(names)).tolist() != list(distribution.values()):
        return None
    counts = np.bincount(tenth[predictions.pred != predictions.labels], minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))


def models(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """All compared models: the fine-tuned one, then the others, the best first."""
    others = list(comparison["baselines"].values())
    if comparison["baseline_model"]:
        others.append(comparison["baseline_model"])
    others.sort(key=lambda model: -model["accuracy"])
    return [comparison["fine_tuned_model"], *others]


def common_domain(tests: list[dict[str, Any]]) -> tuple[float, float]:
    """A range of round shares that holds the accuracies of perturbation tests with their intervals, up to 100%."""
    if not tests:
        return 0.0, 1.0
    low = 1.0
    for test in tests:
        for side in ("original", "perturbed"):
            interval = test[f"{side}_interval"]
            low = min(low, interval[0] if interval else test[f"{side}_accuracy"])
    return max(0.0, int(20 * low) / 20 - 0.05), 1.0


def suspicious(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """The listed rows of a data audit: `suspicious_labels` is a list, or an object that holds it as `top`."""
    found = audit.get("suspicious_labels") or []
    rows = found.get("top") or [] if isinstance(found, dict) else found
    return [row | {"suggested": row.get("suggested_label", row.get("suggested"))} for row in rows[:SUSPICIOUS]]


def versions(results: Results) -> list[tuple[str, str]]:
    """(package, version) of everything that was installed; several versions where the files disagree."""
    found: dict[str, list[str]] = {}
    for data in results.data.values():
        for name, version in ((data.get("environment") or {}).get("versions") or {}).items():
            if version and version not in found.setdefault(name, []):
                found[name].append(version)
    return [(name, "、".join(several)) for name, several in found.items() if several]
