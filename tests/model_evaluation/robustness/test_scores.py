"""The robustness figures, by hand: a model that is a dictionary, and wordings that are written down here."""

import numpy as np
import pytest

from model_evaluation.metrics.intervals import wilson_interval
from model_evaluation.robustness.behaviour_suite import Ability, Case
from model_evaluation.robustness.perturbations import PERTURBATIONS
from model_evaluation.robustness.scores import RobustnessPlan, plan_robustness, score_robustness

SUITE = [Ability("negation", "否定", "不、没", (Case("不好", 0, "否定"), Case("没得挑", 1, "否定")))]
TEXTS, LABELS = ["甲", "乙", "丙", "丁"], [1, 1, 0, 0]
# Right before: 甲 乙 丙 (丁 is taken for positive).
VARIANTS = {
    "punctuation_change": {
        0.0: ["甲0", None, None, None],
        0.3: ["甲1", "乙1", "丙1", None],
        1.0: ["甲2", "乙2", "丙2", "丁2"],
    },
    "traditional": {1.0: ["甲3", None, None, "丁3"]},
    "whitespace": {1.0: [None, None, None, None]},
}
POSITIVE = {"甲": 1.0, "乙": 2.0, "丁": 1.0, "甲0": 1.0, "甲1": 1.0, "甲2": 1.0, "丁2": 3.0, "甲3": 1.0, "没得挑": 1.0}
NEGATIVE = {"丙": 1.0, "乙1": 1.0, "乙2": 2.0, "丙2": 1.0, "丁3": 1.0, "不好": 1.0}
POSITIVE |= {"丙1": 3.0}  # 乙1 and 丙1 are wrong after, 丙1 the surer of the two


def logits_of(texts):
    """Logits (N, 2) from the tables above."""
    return np.array([[NEGATIVE.get(text, 0.0), POSITIVE.get(text, 0.0)] for text in texts])


@pytest.fixture(scope="module")
def result():
    return score_robustness(RobustnessPlan(TEXTS, LABELS, VARIANTS, SUITE), logits_of)


def test_a_test_has_the_figures_of_its_middle_strength(result):
    test = result["perturbation_tests"]["punctuation_change"]
    assert (test["n"], test["applied"]) == (4, 3)
    assert (test["original_accuracy"], test["perturbed_accuracy"]) == (1.0, pytest.approx(1 / 3))
    assert test["flip_rate"] == pytest.approx(2 / 3)
    assert test["robustness_score"] == pytest.approx(1 / 3)
    assert test["original_interval"] == list(wilson_interval(3, 3))
    assert test["perturbed_interval"] == list(wilson_interval(1, 3))
    assert test["flip_interval"] == list(wilson_interval(2, 3))
    assert test["title"] == PERTURBATIONS["punctuation_change"].title


def test_all_strengths_stand_beside_it(result):
    strengths = result["perturbation_tests"]["punctuation_change"]["strengths"]
    assert {name: figures["applied"] for name, figures in strengths.items()} == {"0.0": 1, "0.3": 3, "1.0": 4}
    # 乙2 is lost, 丁2 is as wrong as 丁 was: 3 of 4 right before, 2 of 4 after, one flip.
    strong = strengths["1.0"]
    assert (strong["original_accuracy"], strong["perturbed_accuracy"], strong["flip_rate"]) == (0.75, 0.5, 0.25)
    assert strong["robustness_score"] == pytest.approx(2 / 3)


def test_a_change_for_the_better_counts_too(result):
    test = result["perturbation_tests"]["traditional"]  # 丁 was wrong, 丁3 is right
    assert (test["original_accuracy"], test["perturbed_accuracy"], test["robustness_score"]) == (0.5, 1.0, 2.0)


def test_where_nothing_applies_there_are_no_figures(result):
    test = result["perturbation_tests"]["whitespace"]
    assert test["applied"] == 0 and test["examples"] == []
    for name in ("original_accuracy", "perturbed_accuracy", "flip_rate", "flip_interval", "robustness_score"):
        assert test[name] is None


def test_overall_each_row_counts_once(result):
    # Shares of right versions at middle strength: 甲 2/2, 乙 0/1, 丙 0/1, 丁 1/1.
    assert (result["n"], result["original_accuracy"], result["perturbed_accuracy"]) == (4, 0.75, 0.5)
    assert result["robustness_score"] == pytest.approx(2 / 3)


def test_a_row_that_nothing_applies_to_counts_as_it_stands():
    plan = RobustnessPlan(["甲", "乙"], [1, 1], {"punctuation_change": {1.0: [None, "乙1"]}}, [])
    scored = score_robustness(plan, logits_of)
    assert (scored["original_accuracy"], scored["perturbed_accuracy"]) == (1.0, 0.5)
    assert scored["behaviour"] is None


def test_no_score_where_nothing_was_right_before():
    plan = RobustnessPlan(["丁"], [0], {"punctuation_change": {1.0: ["丁3"]}}, [])
    scored = score_robustness(plan, logits_of)
    assert scored["robustness_score"] is None
    assert scored["perturbation_tests"]["punctuation_change"]["robustness_score"] is None


def test_examples_are_the_answers_that_were_lost_the_surest_first(result):
    examples = result["perturbation_tests"]["punctuation_change"]["examples"]
    assert [example["perturbed"] for example in examples] == ["丙1", "乙1"]
    assert examples[0] == {
        "text": "丙", "perturbed": "丙1", "label": 0, "pred_before": 0, "pred_after": 1,
        "confidence_before": pytest.approx(1 / (1 + np.exp(-1))),
        "confidence_after": pytest.approx(1 / (1 + np.exp(-3))),
    }  # fmt: skip


def test_at_most_five_examples():
    texts = [f"{i}" for i in range(9)]
    plan = RobustnessPlan(texts, [0] * 9, {"punctuation_change": {1.0: [f"{text}好" for text in texts]}}, [])
    scored = score_robustness(plan, lambda asked: np.array([[0.5, float("好" in text)] for text in asked]))
    assert len(scored["perturbation_tests"]["punctuation_change"]["examples"]) == 5


def test_the_plan_asks_for_every_text_that_is_scored():
    plan, looked_up = RobustnessPlan(TEXTS, LABELS, VARIANTS, SUITE), []

    def looking(texts):
        looked_up.extend(texts)
        return logits_of(texts)

    score_robustness(plan, looking)
    assert sorted(plan.requested_texts()) == sorted(looked_up)


def test_the_behaviour_suite_is_scored_by_its_own_labels(result):
    assert result["behaviour"]["overall"]["accuracy"] == 1.0
    assert result["behaviour"]["abilities"]["negation"]["n"] == 2


def test_real_perturbations_do_not_move_a_model_that_does_not_read():
    texts = ["房间很干净，住了3天，服务热情。", "屏幕有坏点，等了两个小时，很失望！"]
    plan = plan_robustness(texts, [1, 0], SUITE, seed=1)
    assert len(plan.requested_texts()) > 20
    scored = score_robustness(plan, lambda asked: np.tile([0.0, 1.0], (len(asked), 1)))
    assert set(scored["perturbation_tests"]) == set(PERTURBATIONS)
    assert scored["robustness_score"] == 1.0
    assert {test["flip_rate"] for test in scored["perturbation_tests"].values()} == {0.0}


def test_a_plan_follows_from_its_seed():
    texts = ["房间很干净，住了3天，服务热情，早餐也丰富。"] * 2
    first, same, other = (plan_robustness(texts, [1, 1], SUITE, seed=seed) for seed in (1, 1, 2))
    assert first == same and first.variants != other.variants
