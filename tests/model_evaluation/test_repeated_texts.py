"""Ten copies of a text are the evidence of one: thresholds, temperature, intervals and tests count texts.

python -m pytest tests/model_evaluation/test_repeated_texts.py
"""

from functools import partial
from math import erf

import numpy as np
import pytest
from report_inputs import invented, write_inputs

from model_evaluation.baselines.comparison import baseline_entry
from model_evaluation.baselines.models import Baseline
from model_evaluation.confidence_analysis import confidence_analysis
from model_evaluation.metrics import classification as metrics
from model_evaluation.metrics.classification import classification_metrics, seen_unseen_metrics
from model_evaluation.metrics.selective_prediction import threshold_table
from model_evaluation.report_generator import write_report
from model_evaluation.robustness.scores import plan_robustness, score_robustness
from prediction.prediction_set import Predictions


def answers(n, classes=2, seed=0, strength=2.5):
    """Answers to n different texts, most of them right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes)) + strength * np.eye(classes)[labels]
    return Predictions([f"第{i}条" for i in range(n)], logits, labels)


def copied(predictions, copies):
    """Each row `copies` times, written differently: only punctuation, width and case tell the copies apart."""
    rows = predictions.select(np.tile(np.arange(len(predictions)), copies))
    marks = np.repeat(["", "！", "。。"] * copies, len(predictions))
    texts = [text + mark for text, mark in zip(rows.texts, marks, strict=False)]
    return Predictions(texts, rows.logits, rows.labels)


def names(classes):
    return [f"类{c}" for c in range(classes)]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("copies", [2, 5])
def test_copies_change_no_figure_and_no_interval(classes, copies):
    once = classification_metrics(answers(150, classes), names(classes))
    several = classification_metrics(copied(answers(150, classes), copies), names(classes))
    assert (several["n"], several["n_texts"], once["n"], once["n_texts"]) == (150 * copies, 150, 150, 150)
    for name in ("accuracy", "precision", "recall", "f1", "auc"):
        assert several[name] == pytest.approx(once[name])
        assert several["intervals"][name] == pytest.approx(once["intervals"][name])


def test_copies_of_answers_that_are_all_right_keep_the_exact_interval():
    right = answers(60, strength=50)
    once, several = (classification_metrics(p, names(2)) for p in (right, copied(right, 4)))
    assert several["intervals"] == once["intervals"] and several["intervals"]["f1"] is None


def test_copies_change_neither_temperature_nor_threshold_nor_what_is_promised():
    validation, test = answers(900, seed=1), answers(500, seed=2)
    once, several = confidence_analysis(validation, test), confidence_analysis(copied(validation, 3), copied(test, 3))
    assert several["temperature"] == pytest.approx(once["temperature"])
    assert (several["n"], several["n_texts"]) == (1500, 500)
    for before, after in zip(once["thresholds"], several["thresholds"], strict=True):
        assert after["reason"] == before["reason"]
        assert after["threshold"] == pytest.approx(before["threshold"])
    before, after = once["thresholds"][0], several["thresholds"][0]
    assert after["validation"]["accepted"] == 3 * before["validation"]["accepted"]
    assert after["validation"]["accepted_texts"] == before["validation"]["accepted_texts"]
    for part, figures in (
        ("validation", ("precision", "lower_bound", "coverage")),
        ("test", ("precision", "interval")),
    ):
        for name in figures:
            assert after[part][name] == pytest.approx(before[part][name])
    curves = [result["calibration"]["test"]["after"]["reliability"] for result in (once, several)]
    assert [point["interval"] for point in curves[1]] == [pytest.approx(point["interval"]) for point in curves[0]]


def test_copies_change_no_test_and_no_other_interval():
    fine, other = answers(200), answers(200, strength=1.0)
    other = Predictions(fine.texts, other.logits, fine.labels)
    baseline = Baseline("零", lambda texts: np.zeros((len(texts), 2)), trained_parameters=0)
    options = {"labels": names(2), "timed": ["好"], "seed": 0}
    once = baseline_entry(baseline, other, fine, **options)
    several = baseline_entry(baseline, copied(other, 4), copied(fine, 4), **options)
    assert several["mcnemar"] == once["mcnemar"] and once["mcnemar"]["p_value"] < 0.05

    seen = np.arange(200) < 80
    once = seen_unseen_metrics(fine, seen, names(2), intervals=False)["seen"]
    several = seen_unseen_metrics(copied(fine, 4), np.tile(seen, 4), names(2), intervals=False)["seen"]
    assert several["n"] == 320 and several["interval"] == pytest.approx(once["interval"])

    def logits_of(texts):
        return np.array([[len(text) % 3, 1.5] for text in texts])

    texts, labels = [f"第{i}次来，房间很干净{'，服务热情' * (i % 3)}。" for i in range(40)], [i % 2 for i in range(40)]
    once = score_robustness(plan_robustness(texts, labels, [], seed=0), logits_of)
    several = score_robustness(plan_robustness(texts * 3, labels * 3, [], seed=0), logits_of)
    assert (several["n"], several["n_texts"]) == (120, 40)
    for name, test in once["perturbation_tests"].items():
        again = several["perturbation_tests"][name]
        assert again["applied"] == 3 * test["applied"]
        for interval in ("original_interval", "perturbed_interval", "flip_interval"):
            assert again[interval] == (test[interval] and pytest.approx(test[interval]))


def test_copies_with_other_labels_count_in_the_figures_and_once_in_the_choice():
    """Each text has three rows, right at first and wrong twice: the first row stands for it, the figures are of all."""
    sure = Predictions([f"好{i}" for i in range(80)], [[0.0, 9.0]] * 80, [1] * 80)
    thrice = copied(sure, 3)
    labels = np.r_[np.ones(80, dtype=int), np.zeros(160, dtype=int)]
    validation = threshold_table(Predictions(thrice.texts, thrice.logits, labels), sure, 1.0, (0.95,))[0]["validation"]
    assert (validation["accepted"], validation["accepted_texts"]) == (240, 80)
    assert validation["precision"] == pytest.approx(1 / 3) and validation["lower_bound"] > 0.95
    refused = threshold_table(Predictions(thrice.texts, thrice.logits, labels[::-1]), sure, 1.0, (0.95,))[0]
    assert refused["threshold"] is None


def test_the_promise_of_95_percent_holds_with_five_copies_of_each_text():
    """Every text is right with 94.9%: any threshold breaks the promise. Counting rows did in a fifth of all draws."""
    rng = np.random.default_rng(11)
    texts = [f"第{i}条" for i in range(200)] * 5
    gap = np.tile(np.linspace(4, 0.1, 200), 5)
    test = Predictions(["好"], [[0.0, 1.0]], [1])
    broken = 0
    for _ in range(600):
        right = np.tile(rng.random(200) < 0.949, 5)
        validation = Predictions(texts, np.stack([0 * gap, gap], axis=1), right.astype(int))
        broken += threshold_table(validation, test, 1.0, (0.95,))[0]["threshold"] is not None
    assert broken / 600 < 0.05 + 2 * (0.05 * 0.95 / 600) ** 0.5


def test_intervals_cover_at_their_level_with_copies(monkeypatch):
    """Up to nine copies of a text. The scores of the classes are 2 standard deviations apart."""
    monkeypatch.setattr(metrics, "bootstrap_interval", partial(metrics.bootstrap_interval, resamples=499))
    rng = np.random.default_rng(12)
    truth = {"accuracy": (1 + erf(1 / 2**0.5)) / 2, "auc": (1 + erf(1)) / 2}  # normal CDF at 1 and at 2 / sqrt(2)
    draws, covered = 300, dict.fromkeys(truth, 0)
    for _ in range(draws):
        labels = rng.integers(2, size=150)
        score = rng.normal(2.0 * labels - 1)
        rows = np.repeat(np.arange(150), rng.integers(1, 10, size=150))
        logits = np.stack([0 * score, score], axis=1)[rows]
        found = classification_metrics(Predictions([f"第{i}条" for i in rows], logits, labels[rows]), names(2))
        for name, value in truth.items():
            low, high = found["intervals"][name]
            covered[name] += low <= value <= high
    # Standard error 1.3%. A bootstrap of 150 texts with unequal weights falls a little short of its level.
    assert all(0.90 <= count / draws <= 0.98 for count in covered.values()), covered


def test_the_report_says_that_intervals_count_texts(tmp_path):
    page = write_report(write_inputs(tmp_path, invented(seed=1), invented(seed=2))).read_text(encoding="utf-8")
    assert "区间、检验和阈值都按不同的评论算" in page
