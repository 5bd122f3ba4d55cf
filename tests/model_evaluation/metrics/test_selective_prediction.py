"""Risk-coverage by hand and by brute force; the thresholds' promise by simulation.

python -m pytest tests/model_evaluation/metrics/test_selective_prediction.py
"""

import json
from itertools import permutations

import numpy as np
import pytest

from model_evaluation.metrics.intervals import clopper_pearson_lower
from model_evaluation.metrics.selective_prediction import (
    apply_threshold,
    choose_threshold,
    risk_coverage,
    threshold_table,
)
from prediction.prediction_set import Predictions


def falling(n):
    """n distinct confidences, highest first."""
    return np.linspace(1, 0.5, n)


def wrong_at(n, *positions):
    correct = np.full(n, True)
    correct[list(positions)] = False
    return correct


def made_up(n, seed, scale=2.5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    margin = rng.normal(scale, 1.6, size=n) * (2 * labels - 1)
    return Predictions([f"第{i}条" for i in range(n)], np.stack([-margin, margin], axis=1) / 2, labels)


def test_aurc_by_hand():
    """Right, wrong, right, right: risks 0, 1/2, 1/3, 1/4. With the error last: 0, 0, 0, 1/4."""
    result = risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True]))
    assert result["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert result["aurc_best"] == pytest.approx(1 / 16)
    assert result["error_rate"] == 0.25
    assert result["threshold"] == [0.9, 0.8, 0.7, 0.6]
    assert result["coverage"] == [0.25, 0.5, 0.75, 1.0]
    assert result["risk"] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])


def test_aurc_of_ties_is_the_mean_over_all_orders():
    confidence, correct = np.array([0.9, 0.8, 0.8, 0.8, 0.6]), np.array([True, False, True, True, False])
    brute = []
    for order in permutations([1, 2, 3]):
        errors = np.cumsum(~correct[[0, *order, 4]])
        brute.append((errors / np.arange(1, 6)).mean())
    result = risk_coverage(confidence, correct)
    assert result["aurc"] == pytest.approx(np.mean(brute))
    assert result["coverage"] == [0.2, 0.8, 1.0]


@pytest.mark.parametrize("seed", range(5))
def test_row_order_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.integers(10, 20, size=300) / 20, rng.random(300) < 0.97
    order = rng.permutation(300)
    assert risk_coverage(confidence, correct) == risk_coverage(confidence[order], correct[order])
    assert choose_threshold(confidence, correct, 0.9) == choose_threshold(confidence[order], correct[order], 0.9)


def test_aurc_of_useless_and_of_perfect_confidence():
    correct = wrong_at(100, 3, 50, 77)
    useless = risk_coverage(np.full(100, 0.8), correct)
    assert useless["aurc"] == pytest.approx(useless["error_rate"]) == 0.03
    perfect = risk_coverage(np.where(correct, 0.9, 0.6) + np.linspace(0, 0.01, 100), correct)
    assert perfect["aurc"] == pytest.approx(perfect["aurc_best"])


def test_all_right_and_all_wrong():
    assert risk_coverage(falling(5), wrong_at(5))["aurc"] == 0
    assert risk_coverage(falling(5), ~wrong_at(5))["aurc"] == 1


def test_threshold_without_error_accepts_all():
    chosen = choose_threshold(falling(400), wrong_at(400), 0.95)
    assert chosen["threshold"] == 0.5 and chosen["accepted"] == 400 and chosen["coverage"] == 1
    assert chosen["lower_bound"] == pytest.approx(0.05 ** (1 / 400))
    assert chosen["reason"] is None


@pytest.mark.parametrize(("target", "least"), [(0.95, 59), (0.97, 99), (0.99, 299)])
def test_fewest_rows_that_can_prove_a_target(target, least):
    """target^n <= 5%: 0.95^59 = 4.8%, 0.95^58 = 5.1%."""
    enough = choose_threshold(falling(least), wrong_at(least), target)
    too_few = choose_threshold(falling(least - 1), wrong_at(least - 1), target)
    assert enough["accepted"] == least and enough["lower_bound"] >= target
    assert too_few["threshold"] is None and str(least) in too_few["reason"]


def test_the_walk_stops_at_the_first_failure_by_hand():
    """400 rows, target 0.95: the walk starts at 153 rows, where 3 errors just pass. Wrong are rows 10, 200 and each
    from 250 on (counted from 0)."""
    needs = [next(n for n in range(e + 1, 400) if clopper_pearson_lower(n - e, n) >= 0.95) for e in range(8)]
    assert needs == [59, 93, 124, 153, 181, 208, 234, 260]
    chosen = choose_threshold(falling(400), wrong_at(400, 10, 200, *range(250, 400)), 0.95)
    # The third to sixth error come as the 251st to 254th row; the seventh, as the 255th, would need 260 rows.
    assert chosen["accepted"] == 254
    assert chosen["threshold"] == falling(400)[253]
    assert chosen["precision"] == 248 / 254


def test_a_small_set_is_walked_from_an_earlier_start():
    """200 rows: 153 are more than half of them, so the walk starts at 93, where one error passes, and ends at 101."""
    chosen = choose_threshold(falling(200), wrong_at(200, *range(100, 200)), 0.95)
    assert chosen["accepted"] == 101


def test_a_failure_ends_the_walk_even_if_later_rows_would_pass():
    correct = wrong_at(1000, *range(150, 160))  # ten errors at 160 rows fail; ten at 1,000 would pass with ease
    assert clopper_pearson_lower(990, 1000) > 0.95
    chosen = choose_threshold(falling(1000), correct, 0.95)
    assert chosen["accepted"] == 153  # three errors, where the walk starts


def test_early_errors_are_named():
    chosen = choose_threshold(falling(400), wrong_at(400, *range(10)), 0.95)
    assert chosen["threshold"] is None
    assert "153 条" in chosen["reason"] and "10 条" in chosen["reason"]


def test_ties_are_accepted_together():
    confidence = np.r_[np.full(200, 0.9), np.full(200, 0.7)]
    chosen = choose_threshold(confidence, wrong_at(400, *range(300, 400)), 0.95)
    assert (chosen["threshold"], chosen["accepted"]) == (0.9, 200)
    assert apply_threshold(confidence, wrong_at(400), chosen["threshold"], np.arange(400))["accepted"] == 200


def test_bound_reaches_the_target_wherever_a_threshold_is_found():
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        confidence = rng.random(rng.integers(60, 900)) / 2 + 0.5
        correct = rng.random(len(confidence)) < 0.8 + 0.4 * (confidence - 0.5)
        chosen = choose_threshold(confidence, correct, 0.9)
        if chosen["threshold"] is not None:
            found += 1
            again = apply_threshold(confidence, correct, chosen["threshold"], np.arange(len(correct)))
            assert (again["accepted"], again["precision"]) == (chosen["accepted"], chosen["precision"])
            assert chosen["lower_bound"] >= 0.9
    assert found > 10


def test_the_promise_holds_where_plain_scanning_breaks_it():
    """Every text is right with 94.9%, whatever its confidence: any threshold at all breaks a promise of 95%."""
    rng = np.random.default_rng(7)
    broken = scanned = 0
    for _ in range(400):
        correct = rng.random(600) < 0.949
        broken += choose_threshold(falling(600), correct, 0.95)["threshold"] is not None
        errors = np.cumsum(~correct)
        needs = np.array([59, 93, 124, 153, 181, 208, 234, 260])  # least rows for 0 to 7 errors
        scanned += any(n >= needs[e] for n, e in zip(range(59, 301), errors[58:300], strict=True) if e < len(needs))
    assert broken / 400 < 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    assert scanned / 400 > 0.12


def test_table_tries_the_validation_threshold_on_test():
    validation, test = made_up(1500, seed=1), made_up(1000, seed=2)
    table = threshold_table(validation, test, temperature=1.5)
    assert [row["target"] for row in table] == [0.95, 0.97, 0.99]
    first = table[0]
    accepts = np.array([max(1 / (1 + np.exp(-d)), 1 / (1 + np.exp(d))) for d in np.diff(test.logits)[:, 0] / 1.5])
    accepts = accepts >= first["threshold"]
    assert first["test"]["accepted"] == accepts.sum()
    assert first["test"]["precision"] == pytest.approx((test.pred == test.labels)[accepts].mean())
    assert first["test"]["coverage"] == accepts.mean()
    assert first["test"]["interval"][0] < first["test"]["precision"] < first["test"]["interval"][1]
    assert first["validation"]["lower_bound"] >= 0.95
    json.dumps(table, allow_nan=False)


def test_temperature_moves_the_threshold_but_not_the_accepted_rows_of_two_classes():
    validation, test = made_up(1500, seed=1), made_up(1000, seed=2)
    cold, hot = (threshold_table(validation, test, temperature=t)[0] for t in (0.8, 3.0))
    assert cold["threshold"] > hot["threshold"]
    assert cold["validation"] == hot["validation"] and cold["test"] == hot["test"]


def test_table_where_nothing_can_be_promised_and_where_nothing_is_accepted():
    validation, test = made_up(100, seed=1, scale=9.0), made_up(50, seed=2)
    row = threshold_table(validation, test, temperature=1.0, targets=(0.99,))[0]
    assert row["threshold"] is row["validation"] is row["test"] is None and "299" in row["reason"]
    unsure = Predictions(["嗯"], [[0.0, 0.001]], [1])
    sure = Predictions([f"好{i}" for i in range(80)], [[0.0, 9.0]] * 80, [1] * 80)
    tried = threshold_table(sure, unsure, temperature=1.0, targets=(0.95,))[0]["test"]
    assert tried == {"accepted": 0, "precision": None, "interval": None, "coverage": 0.0}


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="没有"):
        risk_coverage(np.array([]), np.array([], dtype=bool))
    with pytest.raises(ValueError, match="没有"):
        choose_threshold(np.array([]), np.array([], dtype=bool), 0.95)
    with pytest.raises(ValueError, match="0 与 1"):
        choose_threshold(falling(5), wrong_at(5), 1.0)
    with pytest.raises(ValueError, match=r"\(N,\)"):
        risk_coverage(falling(5), wrong_at(4))
    with pytest.raises(ValueError, match="为空"):
        threshold_table(Predictions([], np.zeros((0, 2)), []), made_up(10, seed=0), 1.0)
