"""Calibration: whether 90% confidence is right nine times in ten; its error, proper scores, temperature scaling.

    >>> logits, labels = np.array([[0.0, 4.0], [4.0, 0.0], [0.0, 4.0]]), np.array([1, 0, 0])  # 98% sure, 2 of 3 right
    >>> temperature = fit_temperature(logits, labels)
    >>> softmax(logits, temperature).max(axis=1).round(3)
    array([0.667, 0.667, 0.667])

Confidence is the probability of the predicted label, for any number of classes; P(positive) has no place here.
"""

import numpy as np

from model_evaluation.metrics.classification import checked_labels
from model_evaluation.metrics.intervals import share_interval
from prediction.prediction_set import Predictions, softmax

BINS = 15  # as in Guo et al. 2017
TEMPERATURES = (0.05, 20.0)  # searched range; beyond it answers are all certain or all alike
HIGH_CONFIDENCE = 0.9
LOW_CONFIDENCE_SAMPLES = 20


def calibration_report(predictions: Predictions, temperature: float) -> dict:
    """{"n", "accuracy", "temperature", "before": scores at T = 1, "after": scores at `temperature`}, JSON-ready.

    Fit the temperature on other rows than these, or "after" flatters. ValueError as for `checked_labels`.
    """
    labels = checked_labels(predictions)
    return {
        "n": len(labels),
        "accuracy": float((predictions.pred == labels).mean()),
        "temperature": float(temperature),
        "before": calibration_scores(predictions, 1.0),
        "after": calibration_scores(predictions, temperature),
    }


def calibration_scores(predictions: Predictions, temperature: float = 1.0) -> dict:
    """avg_confidence, ece, ece_equal_mass, brier, nll, reliability at one temperature; brier_binary for two classes.

    `brier` is the mean over texts of the sum over classes of (probability - 1 for the true class)^2, from 0 to 2
    (Brier 1950); `brier_binary`, the mean of (P(label 1) - label)^2, is half of it. `nll` is in nats.
    """
    labels = checked_labels(predictions)
    probs = softmax(predictions.logits, temperature)
    confidence, correct = probs.max(axis=1), predictions.pred == labels
    brier = float(((probs - np.eye(probs.shape[1])[labels]) ** 2).sum(axis=1).mean())
    scores = {
        "avg_confidence": float(confidence.mean()),
        "ece": expected_calibration_error(confidence, correct, equal_width_bins(confidence)),
        "ece_equal_mass": expected_calibration_error(confidence, correct, equal_mass_bins(confidence)),
        "brier": brier,
        "nll": negative_log_likelihood(predictions.logits, labels, temperature),
        "reliability": reliability_curve(confidence, correct, predictions.text_ids),
    }
    return scores | ({"brier_binary": brier / 2} if probs.shape[1] == 2 else {})


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T that minimises the NLL of softmax(logits / T): logits (N, C), labels (N,). Never worse than T = 1.

    1.0 where every label has the highest logit: the NLL then falls for ever as T goes to 0, and a set without an
    error says nothing about over-confidence. The NLL is convex in 1/T, so a bounded search finds the minimum.
    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks". ValueError if there are no rows.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if len(labels) == 0:
        raise ValueError("没有可用于拟合温度的数据：验证集为空")
    if (logits[np.arange(len(labels)), labels] == logits.max(axis=1)).all():
        return 1.0
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, labels, np.exp(log_t)),
        bounds=np.log(TEMPERATURES),
        method="bounded",
        options={"xatol": 1e-6},
    )
    temperature = float(np.exp(found.x))
    return min((1.0, temperature), key=lambda t: negative_log_likelihood(logits, labels, t))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Mean of -log softmax(logits / T)[label] in nats; finite however small the probability."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(labels)), labels]).mean())


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: np.ndarray) -> float:
    """Mean over bins, by their share of rows, of |accuracy - mean confidence|; all arrays (N,), `bins` bin numbers.

    Source: Naeini et al. 2015 (equal width), Nixon et al. 2019 (equal mass). ValueError if there are no rows.
    """
    if len(confidence) == 0:
        raise ValueError("没有可用于计算校准误差的数据")
    return float(np.abs(np.bincount(bins, weights=correct - confidence)).sum() / len(confidence))


def equal_width_bins(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Bin number (N,) for `bins` intervals (low, high] that cut 0..1 evenly."""
    return np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)


def equal_mass_bins(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Bin number (N,) for `bins` intervals with as many rows each as can be.

    Equal confidences share a bin, so that the order of the rows does not matter; there may be fewer bins for it.
    """
    n = len(confidence)
    last = [-(-i * n // bins) - 1 for i in range(1, bins)]  # sorted position of the last row of each bin
    return np.digitize(confidence, np.unique(np.sort(confidence)[last]), right=True)


def reliability_curve(confidence: np.ndarray, correct: np.ndarray, text_ids: np.ndarray) -> list[dict]:
    """The equal-width bins that hold rows: low, high, count, confidence (mean), accuracy, interval (95%, over texts).

    All arrays (N,); equal `text_ids` are rows of the same text.
    """
    numbers = equal_width_bins(confidence)
    curve = []
    for number in np.unique(numbers).tolist():
        rows = numbers == number
        curve.append(
            {
                "low": number / BINS,
                "high": (number + 1) / BINS,
                "count": int(rows.sum()),
                "confidence": float(confidence[rows].mean()),
                "accuracy": float(correct[rows].mean()),
                "interval": share_interval(correct[rows], text_ids[rows]),
            }
        )
    return curve


def confidence_summary(predictions: Predictions) -> dict:
    """The keys that confidence_analysis.json promises; labels may be unknown.

    avg_confidence, high_confidence_ratio (above 0.9), confidence_distribution (count for each tenth, low end
    included, from the one that holds 1/C up), low_confidence_samples (at most 20: text, label or None, pred,
    confidence). ValueError if there are no rows.
    """
    if len(predictions) == 0:
        raise ValueError("没有可分析的数据：预测结果为空，请检查输入文件")
    confidence, pred = predictions.confidence, predictions.pred
    lowest = np.argsort(confidence, kind="stable")[:LOW_CONFIDENCE_SAMPLES].tolist()
    return {
        "avg_confidence": float(confidence.mean()),
        "high_confidence_ratio": float((confidence > HIGH_CONFIDENCE).mean()),
        "confidence_distribution": _tenths(confidence, predictions.logits.shape[1]),
        "low_confidence_samples": [
            {
                "text": predictions.texts[i],
                "label": None if predictions.labels is None else int(predictions.labels[i]),
                "pred": int(pred[i]),
                "confidence": float(confidence[i]),
            }
            for i in lowest
        ],
    }


def _tenths(confidence: np.ndarray, classes: int) -> dict[str, int]:
    """Counts for "0.5-0.6" and so on; 1.0 belongs to the last. The first holds 1/C, the least a confidence can be."""
    first = 10 // classes
    tenth = np.clip(np.floor(confidence * 10).astype(int), first, 9)
    counts = np.bincount(tenth, minlength=10).tolist()
    return {f"{i / 10:.1f}-{(i + 1) / 10:.1f}": counts[i] for i in range(first, 10)}
