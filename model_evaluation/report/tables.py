"""Rows of the report's tables and what its plots are drawn from; pure functions of the result files.

for row in hardest_errors(predictions, temperature=1.4):
    print(row["confidence"], row["label"], row["pred"], row["text"])
"""

from typing import Any

import numpy as np

from model_evaluation.report.results import Results, Step
from prediction.prediction_set import Predictions, softmax

HARDEST = 15
SUSPICIOUS = 20
LONGEST_TEXT = 180  # characters of a review that a table shows


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


def known_labels(predictions: Predictions) -> np.ndarray:
    """(N,) bool: which rows have a label that the model can give."""
    if predictions.labels is None:
        return np.zeros(len(predictions), dtype=bool)
    return (predictions.labels >= 0) & (predictions.labels < predictions.logits.shape[1])


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


def models(comparison: dict[str, Any]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """(path in the file, entry) of all compared models: the fine-tuned one, then the others, the best first."""
    others = [(("baselines", name), entry) for name, entry in comparison["baselines"].items()]
    if comparison["baseline_model"]:
        others.append((("baseline_model",), comparison["baseline_model"]))
    others.sort(key=lambda item: -item[1]["accuracy"])
    return [(("fine_tuned_model",), comparison["fine_tuned_model"]), *others]


def suspicious(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """The listed rows of a data audit: `suspicious_labels` is a list, or an object that holds it as `top`."""
    found = audit.get("suspicious_labels") or []
    rows = found.get("top") or [] if isinstance(found, dict) else found
    return [row | {"suggested": row.get("suggested_label", row.get("suggested"))} for row in rows[:SUSPICIOUS]]


def provenance(results: Results, steps: tuple[Step, ...]) -> list[dict[str, Any]]:
    """Where each file comes from: file, time, commit, device, source, split, n, fingerprint, versions."""
    rows = []
    for step in steps:
        if step.name not in results.data:
            continue
        found = results.data[step.name]
        environment, data = found.get("environment") or {}, found.get("data") or {}
        git = environment.get("git") or {}
        rows.append(
            {
                "file": step.file,
                "time": str(environment.get("time") or "")[:16].replace("T", " "),
                "commit": str(git.get("commit") or "")[:10],
                "dirty": bool(git.get("dirty")),
                "device": environment.get("device"),
                "source": data.get("source"),
                "split": data.get("split"),
                "n": data.get("n"),
                "fingerprint": data.get("fingerprint"),
                "versions": environment.get("versions") or {},
            }
        )
    return rows


def shared_versions(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(package, version) of everything that is installed; several versions where the files disagree."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name, version in row["versions"].items():
            if version and version not in found.setdefault(name, []):
                found[name].append(version)
    return [(name, "、".join(versions)) for name, versions in found.items() if versions]


def clipped(text: Any, longest: int = LONGEST_TEXT) -> str:
    """The beginning of a long text, and how long it is."""
    text = str(text)
    return text if len(text) <= longest else f"{text[:longest]}……（共 {len(text):,} 字）"
