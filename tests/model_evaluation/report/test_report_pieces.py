"""The words of report.html, and the small pieces that its plots and tables are made of."""

import importlib
import json
import re
from html import unescape

import numpy as np
import pytest
from report_inputs import invented, write_inputs
from small import REPOSITORY

from model_evaluation.report.filters import FILTERS, certainty, short_percent
from model_evaluation.report.plots import confusion, precision_recall, reliability, risk_coverage, roc, round_ticks
from model_evaluation.report.results import read_results
from model_evaluation.report.summary import judge_accuracy, judge_baselines, judge_thresholds, judge_weaknesses
from model_evaluation.report.tables import common_domain, hardest_errors, wrong_by_tenth
from model_evaluation.report_generator import render_summary, template_environment, write_report
from prediction.prediction_set import Predictions
from runtime.atomic_files import write_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("report"), invented(seed=1), invented(seed=2))


def answers(folder) -> dict[str, tuple[str, bool]]:
    """question -> (answer without markup, whether it is marked as limiting what the figures mean)."""
    results = read_results(folder)
    found = render_summary(template_environment(results), results)
    plain = [unescape(re.sub("<[^>]+>", "", finding["answer"])) for finding in found]
    return {finding["question"]: (text, finding["careful"]) for finding, text in zip(found, plain, strict=True)}


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
    page = write_report(folder).read_text(encoding="utf-8")
    assert f"判对约 <strong>{round(100 * metrics['accuracy'])}</strong> 条" in page


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


def curve_of(drawing: str) -> list[tuple[float, float]]:
    """The points of a plot's curve as shares of its axes."""
    path = re.search(r'<path d="([^"]+)" fill="none" stroke="var\(--accent\)"', drawing)[1]
    points = [tuple(map(float, point.split()[:2])) for point in re.split("[ML]", path)[1:]]
    return [((x - 56) / 288, 1 - (y - 12) / 242) for x, y in points]


def test_roc_and_precision_recall_equal_counting():
    scores, positive = np.array([0.9, 0.8, 0.8, 0.3]), np.array([True, False, True, False])
    # Above 0.9, 0.8, 0.3: 1, 2, 2 hits and 0, 1, 2 false alarms; equal scores count together.
    drawn = curve_of(roc(scores, positive))
    assert drawn == [pytest.approx(point, abs=1e-3) for point in [(0, 0), (0, 0.5), (0.5, 1), (1, 1)]]
    drawn = curve_of(precision_recall(scores, positive))
    assert drawn == [pytest.approx(point, abs=1e-3) for point in [(1, 0.5), (1, 2 / 3), (0.5, 1)]]
    assert "以 0.5 为界：误判 50.0%，找出 100.0%" in roc(scores, positive)
    assert "以 0.5 为界：召回率 100.0%，精确率 66.7%" in precision_recall(scores, positive)
    assert roc(scores, np.ones(4, dtype=bool)) is None and precision_recall(scores, np.zeros(4, dtype=bool)) is None


def test_a_curve_of_many_points_is_no_longer_than_it_can_be_seen():
    rng = np.random.default_rng(0)
    scores = rng.random(50_000)
    drawing = roc(scores, rng.random(50_000) < scores)
    assert len(drawing) < 60_000
    points = curve_of(drawing)
    assert points[0] == pytest.approx((0, 0), abs=1e-3) and points[-1] == pytest.approx((1, 1), abs=1e-3)


def test_drawings_are_the_same_each_time_and_hold_any_label():
    names = ["$x^2$ & <b>", 'a\x0b\x1bb\n”style="fill: #000000"']
    first, second = (confusion([[8, 2], [1, 4]], names) for _ in range(2))
    assert first == second
    assert "<b>" not in first and "$x^…" in first and "&lt;b&gt;：8 条" in first and 'fill="#000000"' not in first


@pytest.mark.parametrize("name", ["heads.svg", "speed.svg", "speed.en.svg"])
def test_the_plots_of_the_benchmarks_are_those_of_their_results(monkeypatch, name):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    results = REPOSITORY / "benchmarks" / "results"
    if name == "heads.svg":
        lines = json.loads((results / "heads.json").read_text(encoding="utf-8"))["summary"]
        drawing = importlib.import_module("few_shot_plot").few_shot_curve(lines)
    else:
        summary = importlib.import_module("summary")
        drawing = summary.speed_plot(summary.read_results(results), summary.WORDS[name])
    texts = re.findall("<text[^>]*>([^<]+)<", drawing)
    committed = (results / name).read_text(encoding="utf-8")
    assert len(texts) > 10 and texts == re.findall("<text[^>]*>([^<]+)<", committed)
    for colours in ("--ink: #1d2430", "prefers-color-scheme: dark", 'fill="var(--ink)"'):
        assert colours in drawing and colours in committed
    assert "url(" not in drawing and "href" not in drawing


def test_a_bin_without_an_interval_has_a_point_and_no_line():
    entry = {"low": 0.9, "high": 1.0, "count": 3, "confidence": 0.95, "accuracy": 1.0, "interval": None}
    whisker = 'stroke="var(--ink)"'
    drawing = reliability([entry])
    assert whisker not in drawing and "判对 100.0%" in drawing
    assert reliability([entry | {"interval": [0.4, 1.0]}]).count(whisker) == 1


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


def test_figures_as_a_reader_expects_them():
    assert FILTERS["percent"](0.9012) == '<data value="0.9012">90.1%</data>'
    assert FILTERS["count"](1626) == '<data value="1626">1,626</data>' and FILTERS["number"](None) == "—"
    assert FILTERS["p_value"](0.0004).endswith(">&lt; 0.001</data>")
    assert FILTERS["duration"](59.94).endswith(">59.9 秒</data>") and "2.0 小时" in FILTERS["duration"](7200)
    assert FILTERS["interval"](None) == "—" and "90.0%</data>–<data" in FILTERS["interval"]([0.9, 0.95])
    assert FILTERS["place"](0.75, (0.5, 1.0)) == "50.00%"
    assert FILTERS["clipped"]("很好" * 100, 5) == "很好很好很……（共 200 字）"
    assert (certainty(0.99951), certainty(0.9994)) == ("> 99.9%", "99.9%")
    assert (short_percent(0.97), short_percent(0.975)) == ("97%", "97.5%")


def test_scales_are_round():
    assert round_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert round_ticks(0.5, 1) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1])
    assert round_ticks(0, 0.026) == pytest.approx([0, 0.01, 0.02])
    test = {"original_accuracy": 0.9, "original_interval": [0.87, 0.93], "perturbed_accuracy": 0.8}
    assert common_domain([test | {"perturbed_interval": [0.76, 0.84]}]) == pytest.approx((0.7, 1))
    assert common_domain([test | {"perturbed_interval": None}]) == pytest.approx((0.75, 1)) and common_domain([]) == (
        0,
        1,
    )


def test_judgements_do_without_intervals():
    matrix = {"confusion_matrix": [[3, 0], [0, 1]], "n": 4}
    assert judge_accuracy(matrix | {"accuracy": 1.0, "intervals": {"accuracy": None}})["careful"] is False
    assert judge_accuracy(matrix | {"accuracy": 0.75})["careful"] is True
    ability = {"title": "反语", "accuracy": 1.0, "interval": None}
    judged = judge_weaknesses({"perturbation_tests": {}, "behaviour": {"abilities": {"irony": ability}}})
    assert judged["chance"] == [] and judged["careful"] is False


def test_a_baseline_that_is_no_better_or_not_tested_is_no_clear_win():
    def judged(accuracy, mcnemar):
        entry = {"title": "TF-IDF", "accuracy": accuracy, "mcnemar": mcnemar}
        return judge_baselines({"fine_tuned_model": {"accuracy": 0.9}, "baselines": {"x": entry}})["careful"]

    assert judged(0.8, {"p_value": 0.01}) is False
    assert judged(0.8, None) and judged(0.9, {"p_value": 1.0}) and judged(0.95, {"p_value": 0.01})


def test_the_threshold_nearest_to_the_headline_is_named():
    def row(target, threshold):
        return {"target": target, "threshold": threshold, "test": {"precision": 0.98}}

    judged = judge_thresholds({"thresholds": [row(0.95, 0.8), row(0.97, 0.9), row(0.99, None)]})
    assert judged["chosen"]["target"] == 0.97 and judged["without"] == [0.99] and judged["careful"] is False
    assert judge_thresholds({"thresholds": [row(0.95, 0.8), row(0.99, 0.95)]})["missed"] is False
