"""Figures for labels that are a scale: equal to sklearn's and to the figures counted by hand, with intervals.

python -m pytest tests/model_evaluation/metrics/test_ordinal.py
"""

import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

from model_evaluation.metrics.ordinal import ordinal_metrics
from prediction.prediction_set import Predictions


def rated(labels, pred, classes=5) -> Predictions:
    return Predictions([f"第{i}条" for i in range(len(labels))], 5.0 * np.eye(classes)[pred], labels)


def stars(n=300, classes=5, seed=0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    return rated(labels, np.clip(labels + rng.choice([-2, -1, 0, 0, 0, 1, 3], size=n), 0, classes - 1), classes)


@pytest.mark.parametrize("classes", [2, 3, 5, 11])
@pytest.mark.parametrize("seed", range(3))
def test_equals_sklearn(classes, seed):
    p = stars(classes=classes, seed=seed)
    found = ordinal_metrics(p)
    kappa = cohen_kappa_score(p.labels, p.pred, labels=range(classes), weights="quadratic")
    assert found["quadratic_kappa"] == pytest.approx(kappa)
    assert found["mae"] == pytest.approx(mean_absolute_error(p.labels, p.pred))
    assert found["within_one"] == pytest.approx((abs(p.labels - p.pred) <= 1).mean())


def test_by_hand():
    """Off by 0, 1, 2 and 4 of five stars."""
    found = ordinal_metrics(rated([0, 1, 2, 4], [0, 2, 4, 0]))
    assert (found["mae"], found["within_one"]) == (7 / 4, 0.5)


def test_intervals_hold_the_value_and_what_resampling_texts_gives():
    p = stars(400)
    found = ordinal_metrics(p)
    rng = np.random.default_rng(1)
    drawn = rng.integers(len(p), size=(2000, len(p)))
    distance = abs(p.labels - p.pred)
    references = {"mae": distance[drawn].mean(axis=1), "within_one": (distance <= 1)[drawn].mean(axis=1)}
    for name, values in references.items():
        expected = np.quantile(values, [0.025, 0.975])
        assert found["intervals"][name] == pytest.approx(expected, abs=0.015)
    low, high = found["intervals"]["quadratic_kappa"]
    assert low < found["quadratic_kappa"] < high
    assert ordinal_metrics(p) == found  # the seed alone decides


def test_copies_of_a_text_are_no_further_evidence():
    p = stars(100)
    five = Predictions(p.texts * 5, np.tile(p.logits, (5, 1)), np.tile(p.labels, 5))
    once, copied = ordinal_metrics(p), ordinal_metrics(five)
    assert copied["mae"] == pytest.approx(once["mae"])
    assert copied["intervals"]["mae"] == pytest.approx(once["intervals"]["mae"], abs=0.01)


def test_where_all_is_right_the_bootstrap_claims_nothing():
    found = ordinal_metrics(rated([0, 1, 2, 3, 4] * 6, [0, 1, 2, 3, 4] * 6))
    assert (found["mae"], found["quadratic_kappa"], found["within_one"]) == (0, 1, 1)
    assert found["intervals"]["mae"] is None and found["intervals"]["quadratic_kappa"] is None
    low, high = found["intervals"]["within_one"]  # exact, as for the accuracy
    assert 0.8 < low < 1 == high


@pytest.mark.filterwarnings("error")
def test_kappa_of_a_single_class_is_undefined_and_no_nan():
    found = ordinal_metrics(rated([2, 2, 2], [2, 2, 2]))
    assert found["quadratic_kappa"] is None and found["intervals"]["quadratic_kappa"] is None
    assert "NaN" not in json.dumps(found)
