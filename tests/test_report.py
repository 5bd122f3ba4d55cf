"""report.html, without a browser: its figures are those of the files, it loads nothing, and texts stay texts."""

import json
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from report_inputs import HOSTILE, confidence_json, invented, metrics_json, write_inputs
from small import assert_one_message, run_script

from data.atomic import write_json
from model_evaluation.report_generator import write_report
from model_evaluation.report_plots import confusion, precision_recall, risk_coverage, roc, sweep, thinned
from model_evaluation.report_svg import Frame, share_ticks, tag
from model_evaluation.report_tables import hardest_errors, wrong_by_tenth
from model_evaluation.report_text import headline, summary
from model_evaluation.report_values import STEPS, Figures, certainty, pointer, read_results, short_percent
from modeling.predictions import Predictions

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Elements as (name, attributes), the text of each `<data>`, and whether every element was closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.figures, self.open, self.texts = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name == "data":
            self.figures.append([dict(attributes), ""])
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open and self.open[-1] == name, f"</{name}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, text):
        if "style" not in self.open:
            self.texts.append(text)
        if "data" in self.open:
            self.figures[-1][1] += text

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("report"), invented(seed=1), invented(seed=2))


@pytest.fixture(scope="module")
def page(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def follow(value, path: str):
    """The value at a JSON Pointer."""
    for key in path.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def test_every_figure_is_the_one_in_its_file(folder, page):
    traced = [(about, shown) for about, shown in page.figures if "data-pointer" in about]
    seen = set()
    for about, shown in traced:
        written = follow(json.loads((folder / about["data-file"]).read_text()), about["data-pointer"])
        assert json.loads(about["value"]) == written
        seen.add((about["data-file"], about["data-pointer"]))
        digits = re.search(r"\d[\d,]*\.?\d*", shown.replace("−", "-"))
        if shown.endswith("%") and isinstance(written, float):
            decimals = len(digits[0].partition(".")[2])
            expected = 99.9 if shown.startswith(">") else round(100 * written, decimals)
            assert float(digits[0]) == pytest.approx(expected, abs=1e-9), (about, shown)
        elif isinstance(written, int):
            assert int(digits[0].replace(",", "")) == written
    needed = [
        ("metrics.json", path)
        for path in ("/accuracy", "/f1", "/auc", "/intervals/accuracy/0", "/seen/accuracy", "/unseen/accuracy")
    ]
    needed += [("confidence_analysis.json", f"/calibration/test/{side}/ece") for side in ("before", "after")]
    needed += [("confidence_analysis.json", "/temperature"), ("confidence_analysis.json", "/thresholds/0/target")]
    needed += [("robustness_result.json", "/perturbation_tests/typo_insertion/perturbed_accuracy")]
    needed += [("robustness_result.json", "/behaviour/abilities/irony/accuracy")]
    needed += [("baseline_comparison.json", "/baselines/tfidf/mcnemar/p_value")]
    needed += [("baseline_comparison.json", "/baseline_model/accuracy"), ("baseline_comparison.json", "/improvement")]
    assert not [path for path in needed if path not in seen]


def test_all_sections_are_there_and_none_of_our_own_files_is_found_faulty(page):
    identities = {about.get("id") for _, about in page.elements}
    assert identities >= {step.name for step in STEPS} | {"summary", "errors", "origin", "hardest"}
    assert not [about for _, about in page.elements if about.get("class", "").startswith("box")]
    assert "答不了" not in page.text and "还没有测" not in page.text
    assert page.open == []
    drawings = [about["aria-label"] for name, about in page.elements if about.get("class") == "plot"]
    assert len(drawings) == 7 and any("ROC" in label for label in drawings)


def test_nothing_is_loaded_and_no_script_stands_in_the_page(folder, page):
    html = (folder / "report.html").read_text(encoding="utf-8")
    names = {name for name, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "use"}
    for name, about in page.elements:
        assert not {"src", "href", "xlink:href", "srcset", "action", "style"} & set(about), (name, about)
        assert not [key for key in about if key.startswith("on")], (name, about)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style and "&#" not in style and "&gt;" not in style
    policy = [about["content"] for _, about in page.elements if about.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert page.elements.index(("meta", {"charset": "utf-8"})) < 4


def test_texts_stay_texts(folder, page):
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html and 'onerror="' not in html
    # The hardest error, a perturbed example and a suspicious label all hold it.
    assert page.text.count(HOSTILE) >= 3
    assert "&amp;lt;" not in html and "&amp;amp;" not in html and "&lt;data" not in html  # nothing escaped twice
    assert "<b>评估的评论就是它的训练数据</b>" in page.text  # a note is a text as well


def test_missing_files_are_named_with_the_command_that_makes_them(tmp_path):
    write_json(tmp_path / "metrics.json", metrics_json(invented()))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    for step in STEPS[1:]:
        assert f"没有 {step.file}" in page.text
        assert f"python {' '.join(step.script)}" in page.text
    assert f"--model_path outputs/lora_adapter --output_dir {tmp_path}" in page.text
    assert "没有 predictions.jsonl" in page.text and "没有 ROC" in page.text
    assert page.text.count("还没有测") == 4
    assert f"{round(100 * metrics_json(invented())['accuracy'])} 条" in page.text


def test_an_empty_folder_still_gives_a_page(tmp_path):
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "准确率还没有测" in page.text and page.text.count("生成它的命令") == len(STEPS) + 1


def test_failures_stand_on_top_and_older_results_are_marked(folder):
    failures = {"robustness": "内存不够 <b>8 GB</b>", "something_new": "OSError: 磁盘满了"}
    page = Page(write_report(folder, failures=failures).read_text(encoding="utf-8"))
    write_report(folder)
    for message in ("有 2 步没有做成", "稳健性与能力 内存不够 <b>8 GB</b>", "something_new OSError: 磁盘满了"):
        assert message.replace(" ", "") in page.text.replace(" ", "")
    assert page.text.index("没有做成") < page.text.index("摘要")
    assert page.text.count("下面是 robustness_result.json 里以前的结果") == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [("{", "JSONDecodeError"), ("[]", "最外层应为对象"), ('{"accuracy": 0.9}', "metrics.json 里没有 /f1")],
)
def test_a_broken_file_is_a_box_and_the_rest_is_shown(tmp_path, folder, content, told):
    for path in folder.glob("*.json*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "metrics.json").write_text(content)
    (tmp_path / "predictions.jsonl").write_text('{"text": 1}\n')
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "metrics.json 的内容不是预期的样子" in page.text
    assert told in page.text and "predictions.jsonl 的内容不是预期的样子" in page.text
    assert "从哪个置信度起可以不用人看" in page.text and "能力测试" in page.text


@pytest.mark.parametrize("classes", [3, 12, 40])
def test_more_classes(tmp_path, classes):
    test, validation = invented(400, classes, 1), invented(400, classes, 2)
    test.save(tmp_path / "predictions.jsonl")
    write_json(tmp_path / "metrics.json", metrics_json(test))
    write_json(tmp_path / "confidence_analysis.json", confidence_json(validation, test))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    cells = [about for name, about in page.elements if name == "rect" and about["class"].startswith("cell")]
    assert len(cells) == classes**2 and sum("right" in about["class"] for about in cells) == classes
    assert "ROC 曲线" not in page.text and "没有 ROC" in page.text
    assert "不是预期的样子" not in page.text and f"类{classes - 1}" in page.text


def test_predictions_without_labels_or_of_one_class(tmp_path):
    texts, logits = ["好", "很好"], np.array([[0, 2.0], [0, 3.0]])
    Predictions(texts, logits).save(tmp_path / "predictions.jsonl")
    assert "没有带标签的 predictions.jsonl" in Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    Predictions(texts, logits, [1, 1]).save(tmp_path / "predictions.jsonl")
    write_json(tmp_path / "metrics.json", metrics_json(Predictions(texts, logits, [1, 1])))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "一条也没有判错" in page.text and "标签中只有一个类别" in page.text and "不是预期" not in page.text


def test_results_that_do_not_belong_together_are_pointed_out(tmp_path, folder):
    for path in folder.glob("*.json*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    other = metrics_json(invented(seed=9))
    other["data"] = other["data"] | {"fingerprint": "1234567812345678"}
    write_json(tmp_path / "metrics.json", other)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "来自不同的数据" in page.text and "不是同一次预测" in page.text


def test_the_script_writes_the_page_and_names_a_folder_without_results(folder, tmp_path):
    (folder / "report.html").unlink()
    result = run_script("model_evaluation/report_generator.py", "--output_dir", folder)
    assert result.returncode == 0 and (folder / "report.html").is_file(), result.stderr
    assert str(folder / "report.html") in result.stdout
    assert_one_message(run_script("model_evaluation/report_generator.py", "--output_dir", tmp_path), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


# What the summary says


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
    assert "没有一个阈值能担保" in told and "验证集只有 9 条" in told and careful
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert page.text.count("没有阈值能担保：验证集只有 9 条") == 3 and "不是预期" not in page.text


def test_the_summary_warns_where_the_test_rows_miss_the_target(folder, tmp_path):
    def change(value):
        row = value["thresholds"][1]
        row |= {"threshold": 0.9, "reason": None}
        row["validation"] = {"accepted": 90, "precision": 0.99, "lower_bound": 0.97, "coverage": 0.5}
        row["test"] = {"accepted": 80, "precision": 0.95, "interval": [0.9, 0.98], "coverage": 0.4}

    told, careful = changed(folder, tmp_path, "confidence_analysis.json", change)["哪些可以不用人看？"]
    assert "不低于 0.900" in told and "占 40.0%" in told and "低于目标" in told and careful


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
        value["behaviour"]["abilities"]["irony"] |= {"accuracy": 0.1, "interval": [0.03, 0.25]}

    told, careful = changed(folder, tmp_path, "robustness_result.json", change)["最怕什么？"]
    assert "掉得最多的是繁体字（90.0% → 70.0%）。" in told and "最弱的是反语（10.0%）" in told and careful
    assert "反语" in told[told.index("其中") :]


# Pieces


def test_roc_and_precision_recall_sweep_equals_counting():
    scores, positive = np.array([0.9, 0.8, 0.8, 0.3]), np.array([True, False, True, False])
    hits, alarms = sweep(scores, positive)
    assert hits.tolist() == [1, 2, 2] and alarms.tolist() == [0, 1, 2]  # above 0.9, 0.8, 0.3; equal scores together
    frame, points = Frame(), re.compile(r'class="curve" points="([^"]+)"')
    drawn = [tuple(map(float, point.split(","))) for point in points.search(roc(scores, positive))[1].split()]
    assert drawn == [pytest.approx(frame.at(*point), abs=0.05) for point in [(0, 0), (0, 0.5), (0.5, 1), (1, 1)]]
    drawn = [tuple(map(float, p.split(","))) for p in points.search(precision_recall(scores, positive))[1].split()]
    assert drawn == [pytest.approx(frame.at(*point), abs=0.05) for point in [(0.5, 1), (1, 2 / 3), (1, 0.5)]]
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
