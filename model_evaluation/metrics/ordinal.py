"""Figures for labels that are a scale, such as one to five stars: how far off an answer is, not only whether.

    >>> p = Predictions(["甲", "乙", "丙", "丁"], np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 1, 2]))
    >>> ordinal_metrics(p)["mae"], ordinal_metrics(p)["within_one"]  # off by 0, 0, 1 and 2 steps
    (0.75, 0.75)

A step is the distance between neighbouring labels, in the order of the label ids; all steps count as equally long.
"""

import warnings

import numpy as np

from model_evaluation.metrics.classification import checked_labels, confusion_matrix, kinds_of_texts
from model_evaluation.metrics.intervals import bootstrap_interval, clopper_pearson_interval, effective_size
from prediction.prediction_set import Predictions

ORDINAL_TITLES = {"mae": "平均差几级", "quadratic_kappa": "二次加权 kappa", "within_one": "最多差一级的比例"}


def ordinal_metrics(predictions: Predictions, seed: int = 0) -> dict:
    """JSON-ready: mae (steps), quadratic_kappa (None where labels and answers are all one), within_one, intervals.

    The 95% intervals resample texts, as those of `classification_metrics` do; likewise None where all resamples
    agree, and exact (Clopper-Pearson) for a share of 0 or 1. ValueError as for `checked_labels`.
    """
    labels = checked_labels(predictions)
    confusion = confusion_matrix(labels, predictions.pred, predictions.logits.shape[1])
    cells = labels * len(confusion) + predictions.pred
    counts, contents = kinds_of_texts(cells, predictions.text_ids, confusion.size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)  # kappa, where there is one class alone
        bounds = bootstrap_interval(
            lambda drawn: ordinal_scores(drawn.reshape(-1, *confusion.shape)), counts, contents=contents, seed=seed
        )

    result: dict = {}
    intervals: dict[str, list[float] | None] = {}
    for name, value, (low, high) in zip(ORDINAL_TITLES, ordinal_scores(confusion).tolist(), bounds.T, strict=True):
        result[name] = None if np.isnan(value) else value
        intervals[name] = [float(low), float(high)] if low < high else None
    if result["within_one"] in (0, 1):
        n = effective_size(predictions.text_ids)
        intervals["within_one"] = list(clopper_pearson_interval(result["within_one"] * n, n))
    return result | {"intervals": intervals}


def ordinal_scores(confusions: np.ndarray) -> np.ndarray:
    """The values of `ORDINAL_TITLES` for any number of confusion matrices: (..., C, C) -> (..., 3).

    Kappa: 1 - the squared distances / those of the same labels and answers paired at random; NaN where the latter are
    all 0. Source: Cohen 1968, "Weighted kappa".
    """
    classes = confusions.shape[-1]
    steps = np.abs(np.subtract.outer(np.arange(classes), np.arange(classes)))
    total = confusions.sum(axis=(-2, -1))
    true, predicted = confusions.sum(axis=-1), confusions.sum(axis=-2)
    at_random = np.einsum("...i,ij,...j->...", true, steps**2, predicted) / total
    observed = (confusions * steps**2).sum(axis=(-2, -1))
    ratio = np.divide(observed, at_random, out=np.full(np.shape(total), np.nan), where=at_random > 0)
    mae = (confusions * steps).sum(axis=(-2, -1)) / total
    within_one = (confusions * (steps <= 1)).sum(axis=(-2, -1)) / total
    return np.stack([mae, 1 - ratio, within_one], axis=-1)
