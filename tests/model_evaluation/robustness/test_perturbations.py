"""Perturbations keep the label, depend on nothing but (seed, name, strength, text), and never fail."""

import doctest
import itertools
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.word_segmentation import tokens
from model_evaluation.robustness import formatting, perturbations, word_lists, wording
from model_evaluation.robustness.perturbations import PERTURBATIONS, perturb
from model_evaluation.robustness.word_lists import read_groups, read_lines

REVIEWS = [
    "房间很干净，服务员的态度也非常好，早餐的质量不错，下次还会来住3天。",
    "屏幕有坏点，打电话给客服，等了2个小时没有人回答，太差了！因为散热不行，后悔买了。",
    "这本书的情节一般，但是插图很漂亮，孩子喜欢，价格298元，附近的书店都没有。",
    "垃圾酒店，卫生间有异味，隔音差，电梯慢，不会再去，大家别上当。前台说话也不客气，根本没有人管。",
]
LABELS = [1, 0, 1, 0]
# Written out here on purpose, apart from the resource file that the code reads.
NEVER_TOUCHED = "不没无未别非好差坏棒烂赞"
ALL_SETTINGS = [(name, strength) for name, found in PERTURBATIONS.items() for strength in found.strengths]


def changed(text: str, name: str, strength: float = 1.0, label: int = 1, seed: int = 0) -> str | None:
    return perturb([text], [label], name, strength, seed)[0]


@pytest.mark.parametrize(
    "module",
    [perturbations, wording, formatting, word_lists],
    ids=lambda module: module.__name__,
)
def test_examples_in_the_docstrings_hold(module):
    result = doctest.testmod(module, extraglobs={"random": random})
    assert result.attempted and not result.failed


@pytest.mark.parametrize(("name", "strength"), ALL_SETTINGS)
def test_same_seed_same_result_and_never_the_text_itself(name, strength):
    first = perturb(REVIEWS, LABELS, name, strength, seed=7)
    assert first == perturb(REVIEWS, LABELS, name, strength, seed=7)
    assert any(first), "must apply to some of the sample reviews"
    assert all(new != old for new, old in zip(first, REVIEWS, strict=True))


@pytest.mark.parametrize("name", [name for name in PERTURBATIONS if name != "traditional"])
def test_seed_matters(name):
    strength = PERTURBATIONS[name].strengths[0]
    assert len({tuple(perturb(REVIEWS, LABELS, name, strength, seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize(("name", "strength"), ALL_SETTINGS)
def test_a_text_does_not_depend_on_order_or_on_other_texts(name, strength):
    together = perturb(REVIEWS, LABELS, name, strength, seed=3)
    backwards = perturb(REVIEWS[::-1], LABELS[::-1], name, strength, seed=3)[::-1]
    alone = [perturb([t], [y], name, strength, seed=3)[0] for t, y in zip(REVIEWS, LABELS, strict=True)]
    assert together == backwards == alone


@pytest.mark.parametrize("name", ["typo_insertion", "character_noise"])
@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0])
def test_label_bearing_characters_neither_vanish_nor_appear(name, strength):
    for text, seed in itertools.product(REVIEWS, range(30)):
        new = changed(text, name, strength, seed=seed)
        if new is not None:
            assert [ch for ch in new if ch in NEVER_TOUCHED] == [ch for ch in text if ch in NEVER_TOUCHED]


def test_neighbours_of_label_bearing_characters_stay():
    # Each character here is label-bearing, a numeral, or next to one: 非常 must not become 非.
    for text in ("非常好", "很不错", "三星级差", "太差"):
        assert changed(text, "typo_insertion") is changed(text, "character_noise") is None


def test_strength_is_a_share_of_the_places():
    text = "酒店前台电视空调床单地毯窗帘水杯茶叶咖啡" * 5
    for strength in (0.0, 0.05, 0.1):
        new = changed(text, "typo_insertion", strength)
        differing = sum(a != b for a, b in zip(text, new, strict=True))
        assert differing == max(1, round(strength * len(word_lists.free_positions(text))))


def test_typos_come_from_sound_or_shape():
    typos = set("".join(map("".join, wording._typos_of("情", "qing"))))
    assert {"请", "琴"} & typos and {"晴"} <= typos  # qing, qin, look-alike
    assert "情" not in typos
    assert "不" not in "".join(map("".join, wording._typos_of("部", "bu")))


def test_synonyms_keep_everything_but_the_listed_words():
    group_of = {word: i for i, group in enumerate(read_groups("synonyms.txt")) for word in group}
    for text in REVIEWS:
        old, new = tokens(text), tokens(changed(text, "synonym_replace"))
        assert [group_of.get(word, word) for word, _, _ in old] == [group_of.get(word, word) for word, _, _ in new]


def test_synonyms_follow_word_boundaries():
    assert changed("他已", "synonym_replace") == "他已经"
    assert changed("迫不得已", "synonym_replace") is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("好看得很", "synonym_replace"),
        ("good", "typo_insertion"),
        ("好", "character_noise"),
        ("没有标点", "punctuation_change"),
        ("……！！！ 1.5 12:30", "punctuation_change"),
        ("人山人海", "traditional"),
        ("ok ok", "whitespace"),
        ("  \n", "neutral_sentence"),
        ("", "emoji_append"),
    ],
)
def test_none_where_nothing_applies(text, name):
    assert changed(text, name) is None


def test_punctuation_and_blanks_leave_the_words():
    for text, seed in itertools.product(REVIEWS, range(20)):
        for name in ("punctuation_change", "whitespace"):
            new = changed(text, name, seed=seed)
            assert [ch for ch in new if ch.isalnum()] == [ch for ch in text if ch.isalnum()]
    new = [changed("好吗？不，很差", "punctuation_change", seed=seed) for seed in range(50)]
    assert all("不很差" not in text and ("？" in text or "?" in text) for text in new)


def test_traditional():
    assert changed("酒店里面很干净，吃的头发", "traditional") == "酒店裡面很乾淨，吃的頭髮"


def test_neutral_sentence_keeps_the_review():
    for text, seed in itertools.product(REVIEWS, range(20)):
        assert text in changed(text, "neutral_sentence", seed=seed)


def test_emoji_agree_with_the_label():
    sets = [{changed("房间", "emoji_append", label=label, seed=seed)[2] for seed in range(60)} for label in (0, 1)]
    assert not sets[0] & sets[1] and {"👎", "😡"} <= sets[0] and {"👍", "😊"} <= sets[1]
    assert changed("房间", "emoji_append", label=2) is None


def test_synonym_groups():
    groups = read_groups("synonyms.txt")
    words = [word for group in groups for word in group]
    assert len(groups) >= 400 and all(len(group) >= 2 for group in groups)
    assert [word for word, count in Counter(words).items() if count > 1] == []
    assert [word for word in words if [token for token, _, _ in tokens(word)] != [word]] == []
    assert [group for group in groups if len({sum(ch in "不没无" for ch in word) for word in group}) > 1] == []


def test_lookalike_groups():
    groups = read_groups("lookalikes.txt")
    pairs = Counter(frozenset(pair) for group in groups for pair in itertools.combinations(group, 2))
    assert len(groups) >= 300 and all(len(group) >= 2 for group in groups)
    assert [set(pair) for pair, count in pairs.items() if count > 1 or len(pair) == 1] == []
    assert all(len(ch) == 1 and "\u4e00" <= ch <= "\u9fff" for group in groups for ch in group)


def test_other_resources():
    common = "".join(read_lines("common_characters.txt"))
    assert len(common) == len(set(common)) == 1500
    assert all(0xB0 <= ch.encode("gb2312")[0] <= 0xD7 for ch in common)  # level 1 of GB 2312
    added = read_lines("neutral_openings.txt") + read_lines("neutral_closings.txt")
    assert len(set(added)) == len(added) >= 20
    assert [line for line in added if not line.endswith("。") or set(line) & set(NEVER_TOUCHED)] == []


ANY_TEXT = st.text(st.characters()) | st.text(
    st.sampled_from("很不好，。?!3两天个月元星%12.点年第一十百 \n因为已经酒店的\ud800é")
)


@given(ANY_TEXT, st.sampled_from(ALL_SETTINGS), st.integers(0, 3), st.sampled_from([0, 1, 2]))
@settings(max_examples=400, deadline=None)
def test_any_text_gives_a_new_text_or_none(text, setting, seed, label):
    new = changed(text, *setting, label=label, seed=seed)
    assert new is None or (isinstance(new, str) and new != text and new.strip())


def test_nothing_heavy_and_nothing_on_stderr():
    code = (
        "import sys; from model_evaluation.robustness.perturbations import perturb; "
        "assert not {'jieba', 'pypinyin', 'opencc', 'torch'} & set(sys.modules); "
        "perturb(['因为价格'], [1], 'synonym_replace', 1.0, 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
