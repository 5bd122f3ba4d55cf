"""Calibration by hand, against sklearn, and by what must not change it.

python -m pytest tests/model_evaluation/metrics/test_calibration.py
"""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import brier_score_loss, log_loss

from model_evaluation.metrics.calibration import (
    calibration_report,
    calibration_scores,
    confidence_summary,
    equal_mass_bins,
    equal_width_bins,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_curve,
)
from prediction.prediction_set import Predictions, softmax


def from_confidences(confidences, classes=2, labels=None):
    """Label 0 is predicted with these probabilities; the rest is shared evenly."""
    confidences = np.asarray(confidences)
    rest = np.repeat(((1 - confidences) / (classes - 1))[:, None], classes - 1, axis=1)
    logits = np.log(np.hstack([confidences[:, None], rest]))
    return Predictions([f"第{i}条" for i in range(len(logits))], logits, labels)


def made_up(n=300, classes=2, scale=3.0, seed=0):
    """Over-confident for a scale above 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 1.5
    labels = np.array([rng.choice(classes, p=row) for row in softmax(logits)])
    return Predictions([f"第{i}条" for i in range(n)], logits * scale, labels)


def test_equal_width_by_hand():
    """Edges are fifteenths, a bin takes its upper one: 0.6 is 9/15 and belongs to bin 8, 0.61 to bin 9."""
    confidence = np.array([0.6, 0.59, 0.61, 0.65, 0.99])
    correct = np.array([True, False, True, True, False])
    assert equal_width_bins(confidence).tolist() == [8, 8, 9, 9, 14]
    gaps = [abs(0.5 - 0.595), abs(1 - 0.63), abs(0 - 0.99)]
    expected = (2 * gaps[0] + 2 * gaps[1] + 1 * gaps[2]) / 5
    assert expected_calibration_error(confidence, correct, equal_width_bins(confidence)) == pytest.approx(expected)


def test_equal_width_keeps_the_ends():
    assert equal_width_bins(np.array([0.0, 1.0, 1 / 15])).tolist() == [0, 14, 0]


def test_equal_mass_by_hand():
    confidence = np.array([0.9, 0.5, 0.8, 0.6, 0.7, 0.95])
    correct = np.array([True, False, True, True, False, True])
    assert equal_mass_bins(confidence, bins=3).tolist() == [2, 0, 1, 0, 1, 2]
    expected = (abs(0.5 - 0.55) + abs(0.5 - 0.75) + abs(1 - 0.925)) / 3
    assert expected_calibration_error(confidence, correct, equal_mass_bins(confidence, 3)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 7, 15, 16, 100, 1626])
def test_equal_mass_is_even_and_never_empty(n):
    confidence = np.random.default_rng(n).permutation(np.linspace(0.5, 1, n))
    sizes = np.bincount(equal_mass_bins(confidence))
    assert len(sizes) == min(n, 15)
    assert sizes.max() - sizes.min() <= 1


def test_equal_mass_keeps_ties_together_whatever_their_order():
    confidence, correct = np.full(30, 0.8), np.arange(30) < 12
    for order in (slice(None), slice(None, None, -1)):
        ece = expected_calibration_error(confidence[order], correct[order], equal_mass_bins(confidence[order]))
        assert ece == pytest.approx(0.8 - 12 / 30)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_swapping_classes_changes_no_calibration(classes):
    p = made_up(classes=classes)
    order = np.random.default_rng(1).permutation(classes) if classes > 2 else np.array([1, 0])
    swapped = Predictions(p.texts, p.logits[:, order], np.argsort(order)[p.labels])
    before, after = calibration_scores(p), calibration_scores(swapped)
    for name in ("ece", "ece_equal_mass", "brier", "nll", "avg_confidence"):
        assert before[name] == pytest.approx(after[name], abs=1e-12)


def test_sure_and_right_has_no_error_sure_and_wrong_the_worst():
    sure = [[50.0, -50.0]] * 4
    right = calibration_scores(Predictions(["好"] * 4, sure, [0] * 4))
    wrong = calibration_scores(Predictions(["好"] * 4, sure, [1] * 4))
    assert [right[k] for k in ("ece", "ece_equal_mass", "brier", "nll")] == pytest.approx([0] * 4)
    assert [wrong[k] for k in ("ece", "ece_equal_mass", "brier", "nll")] == pytest.approx([1, 1, 2, 100])


@pytest.mark.parametrize("classes", [2, 4])
def test_brier_and_nll_equal_sklearn(classes):
    p = made_up(classes=classes)
    scores = calibration_scores(p)
    assert scores["nll"] == pytest.approx(log_loss(p.labels, p.probs))
    assert scores["brier"] == pytest.approx(
        brier_score_loss(p.labels, p.probs, labels=range(classes), scale_by_half=False)
    )
    if classes == 2:
        assert scores["brier_binary"] == pytest.approx(brier_score_loss(p.labels, p.p_positive))
    else:
        assert "brier_binary" not in scores


def test_reliability_curve():
    confidence = np.array([0.9, 0.91, 0.55, 0.92])
    correct = np.array([True, True, False, False])
    low, high = reliability_curve(confidence, correct, np.arange(4))
    assert (low["count"], low["accuracy"], low["confidence"]) == (1, 0.0, 0.55)
    assert (high["count"], high["accuracy"]) == (3, pytest.approx(2 / 3))
    assert high["confidence"] == pytest.approx(0.91)
    assert high["low"] < 0.9 and high["high"] == pytest.approx(14 / 15)
    assert high["interval"][0] < 2 / 3 < high["interval"][1]


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(2, 4)), elements=st.floats(-30, 30, width=32)),
    st.randoms(use_true_random=False),
)
def test_temperature_never_raises_the_nll_it_is_fitted_on(logits, random):
    labels = np.array([random.randrange(logits.shape[1]) for _ in logits])
    temperature = fit_temperature(logits, labels)
    assert 0.05 <= temperature <= 20
    assert negative_log_likelihood(logits, labels, temperature) <= negative_log_likelihood(logits, labels, 1.0)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_temperature_finds_the_scale_that_was_put_in(classes, scale):
    p = made_up(n=6000, classes=classes, scale=scale)
    assert fit_temperature(p.logits, p.labels) == pytest.approx(scale, rel=0.1)


def test_temperature_is_the_best_of_a_fine_grid():
    p = made_up()
    grid = [negative_log_likelihood(p.logits, p.labels, t) for t in np.geomspace(0.05, 20, 2000)]
    assert negative_log_likelihood(p.logits, p.labels, fit_temperature(p.logits, p.labels)) <= min(grid)


def test_temperature_by_hand():
    """Logit gap 4, two of three right: softmax(4 / T) = 2/3, so T = 4 / log 2."""
    logits = np.array([[0.0, 4.0], [4.0, 0.0], [0.0, 4.0]])
    assert fit_temperature(logits, np.array([1, 0, 0])) == pytest.approx(4 / np.log(2), rel=1e-4)


@pytest.mark.parametrize("right", range(2, 40))
def test_temperature_1_stays_exactly_where_it_is_best(right):
    """`right` of right + 1 rows right, each with just that confidence: the search alone would end a hair beside 1."""
    logits = np.tile([np.log(right), 0.0], (right + 1, 1))
    labels = np.r_[np.zeros(right, dtype=int), 1]
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(1, rel=1e-5)
    assert negative_log_likelihood(logits, labels, temperature) <= negative_log_likelihood(logits, labels, 1.0)


@pytest.mark.parametrize("logits", [[[3.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_temperature_stays_1_where_no_error_teaches_anything(logits):
    assert fit_temperature(np.array(logits), np.array([0, 1])) == 1.0


def test_report_before_and_after():
    validation, test = made_up(n=2000, seed=1), made_up(n=2000, seed=2)
    report = calibration_report(test, fit_temperature(validation.logits, validation.labels))
    assert report["n"] == 2000 and report["temperature"] > 2
    for name in ("ece", "ece_equal_mass", "brier", "nll", "avg_confidence"):
        assert report["after"][name] < report["before"][name]
    assert report["before"] == calibration_scores(test)
    json.dumps(report, allow_nan=False)


def test_summary_of_confidence():
    p = from_confidences([0.51, 0.62, 0.75, 0.89, 0.9001, 0.97, 1 - 1e-9], labels=[1, 0, 0, 0, 0, 0, 0])
    summary = confidence_summary(p)
    assert summary["confidence_distribution"] == {"0.5-0.6": 1, "0.6-0.7": 1, "0.7-0.8": 1, "0.8-0.9": 1, "0.9-1.0": 3}
    assert summary["high_confidence_ratio"] == 3 / 7
    assert summary["avg_confidence"] == pytest.approx(p.confidence.mean())
    lowest = summary["low_confidence_samples"][0]
    assert lowest == {"text": "第0条", "label": 1, "pred": 0, "confidence": pytest.approx(0.51)}


def test_summary_without_labels_lists_the_twenty_least_sure():
    p = from_confidences(np.linspace(0.99, 0.55, 50))
    samples = confidence_summary(p)["low_confidence_samples"]
    assert [s["text"] for s in samples] == [f"第{i}条" for i in range(49, 29, -1)]
    assert all(s["label"] is None for s in samples)
    json.dumps(samples)


@pytest.mark.parametrize(("classes", "first"), [(2, "0.5-0.6"), (3, "0.3-0.4"), (4, "0.2-0.3"), (10, "0.1-0.2")])
def test_distribution_starts_where_confidence_can_and_misses_no_row(classes, first):
    undecided = Predictions(["嗯"] * 3, np.zeros((3, classes)), None)
    counts = confidence_summary(undecided)["confidence_distribution"]
    assert next(iter(counts)) == first and counts[first] == 3
    assert list(counts)[-1] == "0.9-1.0"
    assert sum(confidence_summary(made_up(classes=classes))["confidence_distribution"].values()) == 300


def test_nothing_to_calibrate_is_refused():
    nothing = Predictions([], np.zeros((0, 2)), [])
    for call in (calibration_scores, confidence_summary, lambda p: fit_temperature(p.logits, p.labels)):
        with pytest.raises(ValueError, match="空"):
            call(nothing)
    with pytest.raises(ValueError, match="没有标签"):
        calibration_report(from_confidences([0.9]), 1.0)
    with pytest.raises(ValueError, match="没有"):
        expected_calibration_error(np.array([]), np.array([]), np.array([], dtype=int))
