"""report.html: everything an evaluation found out, on one page that needs no network.

    python model_evaluation/report_generator.py --output_dir ./model_evaluation/outputs

Reads the result files that lie in the folder and never the model. A step without a result is a box that says what is
missing and which command makes it. The page loads nothing, runs no script and forbids both to itself (its
Content-Security-Policy), so that a review can hold whatever it likes.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from configs.command_line import help_text, parse_config
from configs.fields import ConfigError, check_fields, option
from runtime.errors import UserError, run_script

if TYPE_CHECKING:
    from markupsafe import Markup

    from model_evaluation.report.results import Results, Section

FILE_NAME = "report.html"


@dataclass
class ReportConfig:
    output_dir: str = option("./model_evaluation/outputs", "结果文件夹；报告也写在里面")

    def __post_init__(self):
        if problems := check_fields(self):
            raise ConfigError(problems)


def main() -> None:
    (config,) = parse_config([ReportConfig], None, description=help_text("把评估结果写成一页报告。", __doc__))
    from model_evaluation.report.results import PREDICTIONS, SECTIONS

    folder = Path(config.output_dir)
    known = [section.file_name for section in SECTIONS] + [PREDICTIONS]
    if not any((folder / name).is_file() for name in known):
        raise UserError(
            f"{folder} 里没有评估结果（{'、'.join(known)}）；先运行 python model_evaluation/run_full_eval.py"
        )
    print(f"报告写在 {write_report(folder)}，用浏览器打开")


def write_report(output_dir: Path, *, failures: dict[str, str] | None = None) -> Path:
    """Write `output_dir`/report.html from the result files there and return its path.

    `failures` maps the name of a step (metrics, confidence, robustness, baselines, or any other) to what went wrong
    in this run; it stands on top of the page, and where the step's file is of an earlier run the page says so.
    """
    from model_evaluation.report.results import read_results
    from runtime.atomic_files import atomic_write

    page = render_report(read_results(Path(output_dir)), failures or {})
    path = Path(output_dir) / FILE_NAME
    with atomic_write(path) as file:
        file.write(page)
    return path


def render_report(results: "Results", failures: dict[str, str]) -> str:
    """HTML of the page."""
    from model_evaluation.report.results import SECTIONS

    environment = template_environment(results)
    training = _render_training(environment, results)
    titles = {section.name: section.title for section in SECTIONS}
    return environment.get_template("page.html").render(
        findings=render_summary(environment, results),
        failed=[(titles.get(name, name), message) for name, message in failures.items()],
        failed_steps=set(failures),
        warnings=_warnings(results),
        training=training,
        rendered_sections=[(section, *_render_section(environment, results, section)) for section in SECTIONS],
    )


def template_environment(results: "Results"):
    """The templates with what they say about these results."""
    from data.polarity import polarity_of
    from model_evaluation.report import tables
    from model_evaluation.report.environment import page_environment
    from model_evaluation.report.results import SECTIONS
    from model_evaluation.report.summary import at_chance

    return page_environment(
        results=results,
        sections=SECTIONS,
        is_sentiment=polarity_of(results.labels) is not None,
        tables=tables,
        at_chance=at_chance,
    )


def render_summary(environment, results: "Results") -> list[dict]:
    """For each question of a reader: `question`, `answer` (HTML), `careful`; one the files do not tell says so."""
    from markupsafe import Markup

    from model_evaluation.report.results import FOREIGN_FILE_ERRORS, explained
    from model_evaluation.report.summary import QUESTIONS

    template = environment.get_template("summary.html").module
    findings = []
    for question, section, macro, judge in QUESTIONS:
        careful = True
        if section not in results.data:
            answer = "还没有测，命令见下文。"
        else:
            data = results.data[section]
            try:
                judged = judge(data)
                # The lines of a template are one paragraph: Chinese has no spaces between sentences.
                answer = Markup(re.sub(r"\s*\n\s*", "", getattr(template, macro)(data, judged)))
                careful = judged["careful"]
            except FOREIGN_FILE_ERRORS as error:
                answer = f"结果文件不完整，答不了：{explained(error)}"
        findings.append({"question": question, "answer": answer, "careful": careful})
    return findings


def _render_section(environment, results: "Results", section: "Section") -> "tuple[Markup | None, str | None]":
    """(HTML, None), or (None, why there is none)."""
    from markupsafe import Markup

    from model_evaluation.report.results import FOREIGN_FILE_ERRORS, unexpected

    if section.file_name in results.problems:
        return None, results.problems[section.file_name]
    if section.name not in results.data:
        return None, None
    try:
        html = environment.get_template(f"{section.name}.html").render(data=results.data[section.name])
    except FOREIGN_FILE_ERRORS as error:
        return None, unexpected(section.file_name, error)
    return Markup(html), None


def _render_training(environment, results: "Results") -> "Markup | None":
    """The adapter's own account of its training as HTML, None where it has none or it cannot be read."""
    from markupsafe import Markup

    from model_evaluation.report.results import FOREIGN_FILE_ERRORS, TRAINING_FILES, unexpected

    if not (results.training_log or results.seeds):
        return None
    try:
        return Markup(environment.get_template("training.html").render())
    except FOREIGN_FILE_ERRORS as error:
        results.problems[TRAINING_FILES[0]] = unexpected(" 或 ".join(TRAINING_FILES), error)
        return None


def _warnings(results: "Results") -> list[str]:
    """Sentences on what does not fit together: figures that come from different rows must not be compared."""
    from model_evaluation.report.results import PREDICTIONS, SECTIONS, TRAINING_FILES

    found = []
    # An audit is about the training rows and has neither fingerprint.
    for what in ("数据", "模型"):
        files: dict[str, list[str]] = {}
        for section in SECTIONS:
            data = results.data.get(section.name) or {}
            fingerprint = data.get("model_fingerprint")
            if what == "数据":
                fingerprint = (data.get("data") or {}).get("fingerprint")
            if fingerprint:
                files.setdefault(fingerprint, []).append(section.file_name)
        if len(files) > 1:
            groups = "；".join(f"{fingerprint}：{'、'.join(names)}" for fingerprint, names in files.items())
            found.append(f"这些结果来自不同的{what}，彼此不能比较（{what}指纹 {groups}）。")

    if results.predictions_are_of_another_run():
        found.append(f"{PREDICTIONS} 与 metrics.json 不是同一次预测：由前者画的图和表与后者的数字对不上。")
    for name in (PREDICTIONS, *TRAINING_FILES):
        if name in results.problems:
            found.append(results.problems[name] + "依靠它的图和表没有画。")
    return found


if __name__ == "__main__":
    run_script(main)
