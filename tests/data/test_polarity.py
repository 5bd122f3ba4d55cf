"""Sentiments by any name, and labels renamed by a table: from the file to the evaluation.

python -m pytest tests/data/test_polarity.py
"""

import csv
import json
import shutil

import numpy as np
import pytest
from small import assert_one_message, change_json, run_main, small_reviews, write_jsonl

import train
from configs.training_config import DataConfig
from data.data_loader import load_splits
from data.labels import find_labels, label_id
from data.polarity import PAIRS, Polarity, polarity_of, sentiment_words
from model_evaluation import robustness_test
from model_evaluation.baselines.models import FITTERS, Task
from model_evaluation.evaluation import training_splits
from model_evaluation.robustness.behaviour_suite import load_suite
from model_evaluation.robustness.scores import plan_robustness, score_robustness
from modeling.adapter_folder import SentimentConfig
from prediction.zero_shot import zero_shot_config
from runtime.errors import UserError


@pytest.mark.parametrize("pair", [*PAIRS, ("Negative", "Positive"), ("NEG", "POS")])
def test_the_negative_one_of_a_known_pair_is_label_0(pair):
    for values in (pair, pair[::-1]):
        names = find_labels(list(values) * 2, "a.csv")
        assert names == (["负面", "正面"] if pair == ("0", "1") else list(pair))
        assert polarity_of(names) == Polarity(0, 1) and polarity_of(names[::-1]) == Polarity(1, 0)
    numbers = find_labels([1, -1.0, "1", "-1"], "a.csv")
    assert numbers == ["-1", "1"] and polarity_of(numbers) == Polarity(0, 1)


def test_other_words_are_no_sentiment_until_somebody_says_so():
    for names in (["a", "b"], ["中评", "好评", "差评"], ["1", "2"], ["负面", "好评"], ["正面", "正"]):
        assert polarity_of(names) is None
    assert polarity_of(["中评", "好评", "差评"], ["差评", "好评"]) == Polarity(2, 1)
    assert find_labels(["吐槽", "种草"] * 2, "a.csv", negative="种草") == ["种草", "吐槽"]


def test_a_word_of_another_pair_means_the_same_and_a_number_does_not():
    assert [label_id(word) for word in ("好评", "NEG", "消极", "不推荐", "中评", "-1")] == [1, 0, 0, 0, None, None]
    assert [label_id(word, ["好评", "差评"]) for word in ("正面", "negative", "好评", 1, "0")] == [0, 1, 0, None, None]
    assert [label_id(word, ["-1", "1"]) for word in (-1, "1.0", "好评", 0)] == [0, 1, None, None]
    assert label_id("正面", ["差评", "中评", "好评"]) is None


def test_the_suite_and_the_emoji_follow_the_labels_whatever_their_order():
    """A model that knows every sentiment is right everywhere, by its own label ids."""
    texts, suite = ["房间很干净，服务热情。", "屏幕有坏点，很失望！", "还行。"], load_suite()
    positive = {case.text for ability in suite for case in ability.cases if case.label == 1}
    for names, polarity in ((["好评", "差评"], None), (["中", "贬", "褒"], Polarity(1, 2)), (["正面", "负面"], None)):
        known = polarity or polarity_of(names)
        labels = [known.positive, known.negative] + [0] * (len(names) == 3)
        plan = plan_robustness(texts[: len(labels)], labels, suite, seed=1, label_names=names, polarity=polarity)

        def logits_of(asked, known=known, classes=names):
            logits = np.zeros((len(asked), len(classes)))
            logits[range(len(asked)), [known.positive if text in positive else known.negative for text in asked]] = 1
            return logits

        result = score_robustness(plan, logits_of)
        assert result["behaviour"]["overall"]["accuracy"] == 1.0 and not plan.skipped
        assert set(result["behaviour"]["abilities"]["negation"]["wrong_by_label"]) == {str(i) for i in known}
        (changed,) = plan.variants["emoji_append"].values()
        assert [text is not None for text in changed] == [True, True] + [False] * (len(names) == 3)
        default = plan_robustness(texts[:2], [1, 0], suite, seed=1)
        assert list(default.variants["emoji_append"].values()) == [changed[:2]]


def test_what_is_skipped_names_the_flags():
    plan = plan_robustness(["好", "差"], [1, 0], load_suite(), seed=1, label_names=["种草", "吐槽"])
    assert set(plan.skipped) == {"behaviour", "emoji_append"} and not plan.suite
    assert "种草、吐槽" in plan.skipped["behaviour"] and "--positive_label" in plan.skipped["behaviour"]


def test_zero_shot_asks_for_the_words_that_a_base_knows():
    assert sentiment_words(["好评", "差评"], Polarity(1, 0)) == ["正面", "负面"]
    config = zero_shot_config("base", labels=["好评", "差评"])
    assert (config.labels, config.label_words) == (["好评", "差评"], ["正面", "负面"])
    assert "情感倾向" in config.prompt_template
    assert zero_shot_config("base", labels=["好评", "差评"], label_words=["好", "差"]).label_words == ["好", "差"]
    other = zero_shot_config("base", labels=["种草", "吐槽"])
    assert other.label_words == ["种草", "吐槽"] and "类别" in other.prompt_template
    said = zero_shot_config("base", labels=["种草", "吐槽"], sentiments=["吐槽", "种草"])
    assert said.label_words == ["正面", "负面"] and said.polarity == Polarity(1, 0)


def test_snownlp_answers_in_the_order_of_the_labels():
    from data.dataset import Rows

    texts = ["非常好，很喜欢，推荐", "太差了，很失望，垃圾"]
    for labels, expected in ((["差评", "好评"], [1, 0]), (["好评", "差评"], [0, 1])):
        rows = Rows(texts, expected, labels)
        task = Task(rows, rows, labels=labels, max_length=8, seed=0, load_base=lambda: None)
        assert FITTERS["snownlp"](task).answer(texts).argmax(1).tolist() == expected
    named = {"labels": ["a", "b"], "polarity": Polarity(1, 0), "max_length": 8, "seed": 0, "load_base": lambda: None}
    assert FITTERS["snownlp"](Task(rows, rows, **named)).answer(texts).argmax(1).tolist() == [0, 1]
    assert FITTERS["snownlp"](Task(rows, rows, **named | {"polarity": None})) is None


# ---- the flags


def named_reviews(count=60, names=("吐槽", "种草")):
    return [row | {"label": names[row["label"]]} for row in small_reviews(count)]


def config_of(tmp_path, rows, **settings):
    return DataConfig(train_file=str(write_jsonl(tmp_path / "a.jsonl", rows)), **settings)


def test_the_flags_order_two_labels_and_must_name_labels(tmp_path):
    rows = named_reviews(names=("吐槽", "Aye"))  # Aye comes first by its characters
    assert load_splits(config_of(tmp_path, rows))["train"].label_names == ["Aye", "吐槽"]
    flags = {"negative_label": "吐槽", "positive_label": "Aye"}
    assert load_splits(config_of(tmp_path, rows, **flags))["train"].label_names == ["吐槽", "Aye"]
    with pytest.raises(UserError, match="--positive_label：没有标签 种（有 吐槽、Aye）"):
        load_splits(config_of(tmp_path, rows, negative_label="吐槽", positive_label="种"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--positive_label", "好"], ["要一起给"]),
        (["--positive_label", "好", "--negative_label", "好"], ["不能是同一个"]),
        (["--encoding", "klingon"], ["--encoding", "klingon"]),
        (["--label_map", "none.csv"], ["none.csv"]),
    ],
)
def test_mistakes_in_the_flags_are_one_message(flags, words, tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", named_reviews())
    assert_one_message(run_main(train.main, "--train_file", file, *flags), *words)


@pytest.fixture(scope="module")
def named(small_base, tmp_path_factory):
    """The adapter of a short training on 吐槽 and 种草, in GBK, from a table of five kinds of labels."""
    folder = tmp_path_factory.mktemp("named")
    stars = {"吐槽": ["1", "2"], "种草": ["4", "5"]}
    with open(folder / "map.csv", "w", encoding="gbk", newline="") as file:
        csv.writer(file).writerows([["from", "to"], *((star, name) for name in stars for star in stars[name])])
    rows = [[row["text"], stars[row["label"]][i % 4 // 2]] for i, row in enumerate(named_reviews(80))]
    with open(folder / "train.csv", "w", encoding="gbk", newline="") as file:
        csv.writer(file).writerows([["评论", "星级"], *rows])
    result = run_main(
        train.main, "--model_name", small_base, "--train_file", folder / "train.csv", "--text_column", "评论",
        "--label_column", "星级", "--label_map", folder / "map.csv", "--positive_label", "种草", "--negative_label",
        "吐槽", "--max_steps", 2, "--max_length", 32, "--output_dir", folder / "out",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "out" / "lora_adapter", folder


def test_the_adapter_remembers_which_is_which_and_the_evaluation_uses_it(named, tmp_path):
    adapter, folder = named
    config = SentimentConfig.load(adapter)
    assert (config.labels, config.sentiments, config.polarity) == (["吐槽", "种草"], ["吐槽", "种草"], Polarity(0, 1))
    assert training_splits(str(adapter))["train"].label_names == ["吐槽", "种草"]
    flags = ["--model_path", adapter, "--test_file", folder / "train.csv", "--text_column", "评论", "--label_column"]
    flags += ["星级", "--label_map", folder / "map.csv", "--max_samples", 8, "--output_dir", tmp_path]
    result = run_main(robustness_test.main, *flags)
    assert result.returncode == 0 and "行为测试：跳过" not in result.stdout, result.stdout + result.stderr

    other = shutil.copytree(adapter, tmp_path / "other")
    change_json(other / "sentiment_config.json", sentiments=None)
    flags[1] = other
    result = run_main(robustness_test.main, *flags)
    assert "行为测试：跳过" in result.stdout and "--positive_label" in result.stdout
    result = run_main(robustness_test.main, *flags, "--positive_label", "种草", "--negative_label", "吐槽")
    assert result.returncode == 0 and "行为测试：跳过" not in result.stdout
    refused = run_main(robustness_test.main, *flags, "--positive_label", "种", "--negative_label", "吐槽")
    assert_one_message(refused, "--positive_label", "种")


def test_training_goes_on_with_the_same_sentiments(named, tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", named_reviews(40))
    flags = ["--init_adapter", named[0], "--train_file", file, "--max_steps", 1, "--output_dir", tmp_path / "out"]
    result = run_main(train.main, *flags)
    assert result.returncode == 0, result.stderr
    assert SentimentConfig.load(tmp_path / "out" / "lora_adapter").sentiments == ["吐槽", "种草"]


def test_adapters_of_earlier_versions_mean_what_they_meant(adapter_copy):
    path = adapter_copy / "sentiment_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["sentiments"]
    path.write_text(json.dumps(values | {"format_version": 2}), encoding="utf-8")
    assert SentimentConfig.load(adapter_copy).polarity == Polarity(0, 1)
    for bad in (["负面"], ["负面", "负面"], ["负面", "好"], "负面", [0, 1]):
        change_json(path, sentiments=bad)
        with pytest.raises(UserError, match="sentiments"):
            SentimentConfig.load(adapter_copy)


def test_an_adapter_is_evaluated_in_its_own_order_of_labels(tmp_path, monkeypatch):
    """One that was trained when 好评 came before 差评, by their characters."""
    from data.data_loader import fingerprints
    from prediction import training_data

    rows = named_reviews(names=("差评", "好评"))
    config = config_of(tmp_path, rows)
    old = load_splits(config_of(tmp_path, rows, labels=["好评", "差评"]))
    info = {"config": vars(config), "data_fingerprint": fingerprints(old)}
    monkeypatch.setattr(training_data, "read_run_info", lambda path: info)
    monkeypatch.setattr(SentimentConfig, "load", lambda path: SentimentConfig("b", None, ["好评", "差评"], 8))
    assert training_splits("x")["train"].label_names == ["好评", "差评"]
    assert load_splits(config)["train"].label_names == ["差评", "好评"]


# ---- --label_map


def mapped(tmp_path, table: str, rows=None):
    (tmp_path / "map.csv").write_text(table, encoding="utf-8")
    rows = rows or [row | {"label": i % 5 + 1.0} for i, row in enumerate(small_reviews(100))]
    return load_splits(config_of(tmp_path, rows, label_map=str(tmp_path / "map.csv")))


def test_five_stars_become_three_classes_before_anything_else(tmp_path):
    splits = mapped(tmp_path, "from,to,备注\n1,差评,x\n2.0,差评,\n3,中评,\n4,好评,\n5,好评,\n")
    assert splits["train"].label_names == ["中评", "好评", "差评"]
    counts = [sum(rows.label_counts()[name] for rows in splits.values()) for name in ("差评", "中评", "好评")]
    assert counts == [40, 20, 40]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("from,to\n1,a\n2,b\n", ["a.jsonl", "第 3 行", "--label_map 里没有 label 的值 3.0（有 1、2）"]),
        ("from,to\n1,a\n1.0,b\n", ["第 3 行", "1 出现了不止一次"]),
        ("from,to\n1,\n,b\n", ["第 2 行：to 是空的", "第 3 行：from 是空的"]),
        ("old,new\n1,a\n", ["没有 from、to 列", "应为 from 和 to"]),
        ("from,to\n", ["没有数据行"]),
        ("from,to\n1,a,b\n", ["第 2 行", "3 格"]),
    ],
)
def test_a_table_that_does_not_fit_gets_one_message(tmp_path, table, words):
    with pytest.raises(UserError) as error:
        mapped(tmp_path, table)
    for word in words:
        assert word in str(error.value), str(error.value)
