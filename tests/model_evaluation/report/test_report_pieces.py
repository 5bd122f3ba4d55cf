"""What report.html says in words, and the small pieces that its plots and tables are made of."""

import json
import re
from html import unescape

import numpy as np
import pytest
from report_inputs import invented, write_inputs

from model_evaluation.report.plots import confusion, precision_recall, risk_coverage, roc, sweep, thinned
from model_evaluation.report.results import Figures, certainty, pointer, read_results, short_percent
from model_evaluation.report.summary import headline, summary
from model_evaluation.report.svg import Frame, share_ticks, tag
from model_evaluation.report.tables import hardest_errors, wrong_by_tenth
from model_evaluation.report_generator import write_report
from prediction.prediction_set import Predictions
from runtime.atomic_files import write_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("report"), invented(seed=1), invented(seed=2))


def answers(folder) -> dict[str, tuple[str, bool]]:
    found = summary(read_results(folder))
    return {finding.question: (unescape(re.sub("<[^>]+>", "", finding.answer)), finding.careful) for finding in found}


def changed(folder, target, name, change):
    """A copy of the folder in which one file is changed."""
    for path in folder.glob("*.json*"):
        (target / path.name).write_bytes(path.read_bytes())
    value = json.loads((folder / name).read_text())
    change(value)
    write_json(target / name, value)
    return answers(target)


def test_the_summary_gives_the_figures_and_a_plain_judgement(folder):
    told = answers(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"判对 {metrics['accuracy']:.1%}" in told["有多准？"][0]
    assert f"{metrics['intervals']['accuracy'][0]:.1%}–" in told["有多准？"][0]
    memorised = told["有多少是背下来的？"]
    assert f"{metrics['unseen']['accuracy']:.1%}" in memorised[0] and memorised[1]
    assert "过于自信" in told["它说有把握，可信吗？"][0]
    assert f"<strong>{round(100 * metrics['accuracy'])}</strong>" in headline(read_results(folder))


def test_the_summary_calls_a_difference_what_it_is(folder, tmp_path):
    question, name = "比便宜的办法强多少？", "baseline_comparison.json"

    def set_to(accuracy, p):
        def change(value):
            value["fine_tuned_model"]["accuracy"] = 0.9
            value["baselines"]["tfidf"] |= {"accuracy": accuracy, "mcnemar": {"b": 5, "c": 9, "p_value": p}}

        return changed(folder, tmp_path, name, change)[question]

    told, careful = set_to(0.88, 0.4239)
    assert "高 2.0 个百分点" in told and "p = 0.424" in told and "差别不显著" in told and careful
    told, careful = set_to(0.8, 0.00001)
    assert "高 10.0 个百分点" in told and "p < 0.001" in told and "差别显著" in told and not careful
    told, careful = set_to(0.95, 0.01)
    assert "低 5.0 个百分点" in told and "差别显著" in told and careful
    told, careful = changed(folder, tmp_path, name, lambda value: value["baselines"].pop("tfidf"))[question]
    assert "没有和只统计字词片段的线性模型比" in told and careful


def test_the_summary_says_so_where_no_threshold_holds(folder, tmp_path):
    def change(value):
        for row in value["thresholds"]:
            row |= {"threshold": None, "reason": "验证集只有 9 条", "validation": None, "test": None}

    told, careful = changed(folder, tmp_path, "confidence_analysis.json", change)["哪些可以不用人看？"]
    assert "没有一个阈值能担保 95%、97%、99% 的精确率" in told and "验证集只有 9 条" in told and careful
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert html.count("没有阈值能担保：验证集只有 9 条") == 3 and "不是预期" not in html


def test_the_summary_warns_where_the_test_rows_miss_the_target(folder, tmp_path):
    def change(value):
        row = value["thresholds"][1]
        row |= {"threshold": 0.9, "reason": None}
        row["validation"] = {"accepted": 90, "precision": 0.99, "lower_bound": 0.97, "coverage": 0.5}
        row["test"] = {"accepted": 80, "precision": 0.95, "interval": [0.9, 0.98], "coverage": 0.4}

    told, careful = changed(folder, tmp_path, "confidence_analysis.json", change)["哪些可以不用人看？"]
    assert "不低于 0.900" in told and "占 40.0%" in told and "低于目标" in told and careful


def test_the_summary_says_so_where_the_largest_class_does_as_well(folder, tmp_path):
    question = "有多准？"
    assert not answers(folder)[question][1]

    def change(value):
        value |= {"confusion_matrix": [[10, 50], [0, 240]], "accuracy": 0.83}
        value["intervals"]["accuracy"] = [0.79, 0.87]

    told, careful = changed(folder, tmp_path, "metrics.json", change)[question]
    assert "总答最多的那一类就能判对 80.0%" in told and careful


def test_the_summary_knows_all_old_and_all_new_rows(folder, tmp_path):
    question = "有多少是背下来的？"
    told, careful = changed(folder, tmp_path, "metrics.json", lambda value: value.update(seen=None))[question]
    assert "没有一条在训练中出现过" in told and not careful
    told, careful = changed(folder, tmp_path, "metrics.json", lambda value: value.update(unseen=None))[question]
    assert "没有一条是新的" in told and careful


def test_the_summary_names_the_worst_perturbation_and_ability(folder, tmp_path):
    def change(value):
        for test in value["perturbation_tests"].values():
            if test["applied"]:
                test["perturbed_accuracy"] = test["original_accuracy"]
        value["perturbation_tests"]["traditional"] |= {"original_accuracy": 0.9, "perturbed_accuracy": 0.7}
        value["perturbation_tests"]["whitespace"] |= {"original_accuracy": 0.9, "perturbed_accuracy": 0.8}
        value["behaviour"]["abilities"]["irony"] |= {"accuracy": 0.1, "interval": [0.03, 0.25]}

    told, careful = changed(folder, tmp_path, "robustness_result.json", change)["最怕什么？"]
    assert (
        "掉得最多的是繁体字（90.0% → 70.0%）、多余空白（90.0% → 80.0%）。" in told
        and "最弱的是反语（10.0%）" in told
        and careful
    )
    assert "反语" in told[told.index("其中") :]


def test_roc_and_precision_recall_sweep_equals_counting():
    scores, positive = np.array([0.9, 0.8, 0.8, 0.3]), np.array([True, False, True, False])
    hits, alarms = sweep(scores, positive)
    assert hits.tolist() == [1, 2, 2] and alarms.tolist() == [0, 1, 2]  # above 0.9, 0.8, 0.3; equal scores together
    frame, points = Frame(), re.compile(r'class="curve" points="([^"]+)"')
    drawn = [tuple(map(float, point.split(","))) for point in points.search(roc(scores, positive))[1].split()]
    assert drawn == [pytest.approx(frame.at(*point), abs=0.05) for point in [(0, 0), (0, 0.5), (0.5, 1), (1, 1)]]
    drawn = [tuple(map(float, p.split(","))) for p in points.search(precision_recall(scores, positive))[1].split()]
    assert drawn == [pytest.approx(frame.at(*point), abs=0.05) for point in [(0.5, 1), (1, 2 / 3), (1, 0.5)]]
    assert "以 0.5 为界：误判 50.0%，找出 100.0%" in roc(scores, positive)
    assert "以 0.5 为界：召回率 100.0%，精确率 66.7%" in precision_recall(scores, positive)
    assert roc(scores, np.ones(4, dtype=bool)) is None and precision_recall(scores, np.zeros(4, dtype=bool)) is None


def test_thinning_keeps_short_curves_whole_and_both_ends():
    assert thinned([(0, 0), (1, 1)]) == [(0, 0), (1, 1)]
    long = [(i, i) for i in range(5000)]
    assert len(thinned(long)) == 200 and (thinned(long)[0], thinned(long)[-1]) == (long[0], long[-1])


def test_confusion_matrix_says_its_counts():
    drawn = confusion([[8, 2], [1, 4]], ["负面", "正面"])
    assert (
        "标签负面、判为正面：2 条，占这一行的 20.0%" in drawn and "标签正面、判为正面：4 条，占这一行的 80.0%" in drawn
    )
    assert "nan" not in confusion([[0, 0], [1, 4]], ["负面", "正面"])


def test_risk_coverage_scale_is_not_set_by_the_first_text():
    curve = {"coverage": [0.001, 0.1, 1.0], "risk": [1.0, 0.02, 0.1]}
    assert "20%" not in risk_coverage(curve) and "10%" in risk_coverage(curve)


def test_hardest_errors_are_the_surest_wrong_answers_and_skip_unknown_labels():
    logits = np.array([[3, 0], [5, 0], [0, 1], [0, 4], [9, 0]])
    predictions = Predictions(list("abcde"), logits, [1, 1, 0, 1, 7])
    assert [row["text"] for row in hardest_errors(predictions)] == ["b", "a", "c"]
    assert [row["text"] for row in hardest_errors(predictions, most=1)] == ["b"]
    assert hardest_errors(predictions, temperature=5)[0]["confidence"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_wrong_answers_by_tenth_only_where_the_predictions_are_those_of_the_file(folder):
    results = read_results(folder)
    distribution = results.data["confidence"]["confidence_distribution"]
    wrong = wrong_by_tenth(results, distribution)
    assert sum(wrong.values()) == int((results.predictions.pred != results.predictions.labels).sum())
    other = distribution | {"0.5-0.6": distribution["0.5-0.6"] + 1, "0.9-1.0": distribution["0.9-1.0"] - 1}
    assert wrong_by_tenth(results, other) is None


def test_small_pieces():
    assert tag("text", "a < b", x=1.0, class_="n") == '<text x="1" class="n">a &lt; b</text>'
    assert tag("rect", class_='"><script>') == '<rect class="&#34;&gt;&lt;script&gt;"></rect>'
    assert share_ticks(0, 1) == [0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
    assert share_ticks(0.5, 1)[0] == 0.5 and share_ticks(0.5, 1)[-1] == 1.0
    assert pointer(("a/b", "c~d", 0)) == "/a~1b/c~0d/0"
    assert (certainty(0.99951), certainty(0.9994)) == ("> 99.9%", "99.9%")
    assert (short_percent(0.97), short_percent(0.975)) == ("97%", "97.5%")
    with pytest.raises(KeyError, match=r"metrics\.json 里没有 /a/0"):
        Figures("metrics.json", {"a": 1}).number("a", 0)
