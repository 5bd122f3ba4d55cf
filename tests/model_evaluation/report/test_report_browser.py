"""report.html in a real browser: it shows, says no error, fits a desktop and a phone, and no two texts overlap.

Needs Chromium (Debian: apt-get install chromium fonts-noto-cjk); without it these tests are skipped.
"""

import html
import json
import re
import shutil
import subprocess

import pytest
from report_inputs import HOSTILE, confidence_json, invented, metrics_json, write_inputs
from small import run_main

from model_evaluation import compare_runs
from model_evaluation.metrics.ordinal import ordinal_metrics
from model_evaluation.report_generator import write_report
from runtime.atomic_files import write_json

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--enable-logging=stderr", "--virtual-time-budget=5000", "--window-size=1700,1000", "--hide-scrollbars",
    "--dump-dom",
)  # fmt: skip
WIDTHS = {"desktop": 1280, "phone": 390}
HEADINGS = ["摘要", "准确率", "置信度", "稳健性与能力", "与基线比较", "数据检查", "最该看的错误", "这份报告怎么来的"]
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"没有浏览器（{'、'.join(NAMES)} 都找不到）")

# The report is shown in frames of both widths, measured from outside: it runs no script itself.
MEASURE = """
function shown(element) { const box = element.getBoundingClientRect(); return box.width > 0 && box.height > 0; }
function overlaps(svg) {
  const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  const found = [];
  texts.forEach(([one, a], i) => texts.slice(i + 1).forEach(([other, b]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1 && down > 3) found.push(one + ' / ' + other);
  }));
  return found;
}
function measure(frame) {
  const page = frame.contentDocument, root = page.documentElement, width = root.clientWidth;
  page.querySelectorAll('details').forEach(details => details.open = true);
  const beyond = [...page.querySelectorAll('body *')].filter(element =>
    !element.closest('.scroll') && element.getBoundingClientRect().right > width + 1);
  return {
    width, scrollWidth: root.scrollWidth, title: page.title,
    headings: [...page.querySelectorAll('h2')].filter(shown).map(heading => heading.textContent),
    drawings: [...page.querySelectorAll('svg')].filter(shown).length,
    overlaps: [...page.querySelectorAll('svg')].flatMap(overlaps),
    beyond: beyond.slice(0, 5).map(element => element.outerHTML.slice(0, 120)),
    smallest: Math.min(...[...page.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height)),
    text: page.body.innerText,
  };
}
onload = () => {
  const result = {};
  document.querySelectorAll('iframe').forEach(frame => result[frame.name] = measure(frame));
  document.body.innerHTML = '';
  document.body.textContent = JSON.stringify(result);
  document.body.id = 'measured';
};
"""


def measured(report, folder) -> dict[str, dict]:
    """Findings of the browser in the report at each of `WIDTHS`; fails where it logs anything to the console."""
    source = html.escape(report.read_text(encoding="utf-8"))
    frames = "".join(
        f'<iframe name="{name}" style="width:{width}px;height:900px;border:0" srcdoc="{source}"></iframe>'
        for name, width in WIDTHS.items()
    )
    wrapper = folder / "wrapper.html"
    wrapper.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{frames}<script>{MEASURE}</script>", encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", wrapper.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=90)
    assert "CONSOLE" not in result.stderr, result.stderr
    found = re.search(r'<body id="measured">(.*?)</body>', result.stdout, re.DOTALL)
    assert found, f"the browser gave nothing\n{result.stdout[-500:]}\n{result.stderr[-2000:]}"
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    return measured(write_report(write_inputs(folder, invented(seed=1), invented(seed=2))), folder)


@pytest.mark.parametrize("view", WIDTHS)
def test_the_report_shows_and_fits(views, view):
    found = views[view]
    assert found["width"] == WIDTHS[view]
    assert found["headings"] == HEADINGS
    assert found["drawings"] > 30
    assert found["scrollWidth"] == found["width"] and found["beyond"] == []
    assert found["overlaps"] == []
    assert found["smallest"] > 9  # CSS pixels: still legible


@pytest.mark.parametrize("view", WIDTHS)
def test_a_hostile_review_is_only_text(views, view):
    assert views[view]["title"] == "情感分类评估报告"
    assert HOSTILE in views[view]["text"]


def test_a_comparison_fits_as_well(tmp_path):
    test = invented(200, 5, 1)
    names = ["a" * 40 + "-ChnSentiCorp-validation-500-3f9a2c1b", "评论" * 20 + "-1", "short"]
    for name in names:
        test.save(tmp_path / name / "predictions.jsonl")
        write_json(tmp_path / name / "metrics.json", metrics_json(test) | {"ordinal": ordinal_metrics(test)})
        write_json(
            tmp_path / name / "run.json", {"training": {"train_file": f"/home/{name}/data.csv", "seed": len(name)}}
        )
    folders = [tmp_path / name for name in names]
    assert run_main(compare_runs.main, *folders, "--output_dir", tmp_path).returncode == 0
    for found in measured(tmp_path / "comparison.html", tmp_path).values():
        assert found["headings"] == ["哪几次", "准确率", "两两比较", "全部指标", "不同的设置"]
        assert found["scrollWidth"] == found["width"] and found["beyond"] == [] and found["overlaps"] == []


def test_missing_files_failures_and_many_classes_fit_a_phone(tmp_path):
    test, validation = invented(300, 12, 1), invented(300, 12, 2)
    write_json(tmp_path / "metrics.json", metrics_json(test))
    write_json(tmp_path / "confidence_analysis.json", confidence_json(validation, test))
    failures = {"robustness": "OSError: /a/very/long/path/" + "without_a_break_" * 12, "baselines": "内存不够"}
    for found in measured(write_report(tmp_path, failures=failures), tmp_path).values():
        assert found["headings"][0] == "有 2 步没有做成"
        assert found["scrollWidth"] == found["width"] and found["beyond"] == [] and found["overlaps"] == []
