"""report.html: everything an evaluation found out, on one page that needs no network.

    python model_evaluation/report_generator.py --output_dir ./model_evaluation/outputs

Reads the result files that lie in the folder and never the model. A step without a result is a box that says what is
missing and which command makes it. The page loads nothing, runs no script and forbids both to itself (its
Content-Security-Policy), so that a review can hold whatever it likes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from configs.command_line import help_text, parse_config
from configs.fields import ConfigError, check_fields, option
from runtime.errors import UserError, run_script

if TYPE_CHECKING:
    from model_evaluation.report.results import Results, Step

TEMPLATES = Path(__file__).parent / "report" / "templates"
FILE_NAME = "report.html"


@dataclass
class ReportConfig:
    output_dir: str = option("./model_evaluation/outputs", "结果文件夹；报告也写在里面")

    def __post_init__(self):
        if problems := check_fields(self):
            raise ConfigError(problems)


def main() -> None:
    (config,) = parse_config([ReportConfig], None, description=help_text("把评估结果写成一页报告。", __doc__))
    from model_evaluation.report.results import PREDICTIONS, STEPS

    folder = Path(config.output_dir)
    known = [step.file for step in STEPS] + [PREDICTIONS]
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
    """The page's HTML."""
    from model_evaluation.report.results import STEPS
    from model_evaluation.report.summary import headline, summary

    environment = template_environment(results)
    sections = [(step, *_section(environment, results, step)) for step in STEPS]
    titles = {step.name: step.title for step in STEPS}
    failed = [(titles.get(name, name), message) for name, message in failures.items()]
    return environment.get_template("page.html").render(
        headline=headline(results),
        findings=summary(results),
        failed=failed,
        failed_steps=set(failures),
        warnings=_warnings(results),
        sections=sections,
    )


def template_environment(results: "Results"):
    """Jinja with everything escaped, an unknown name an error, and the drawings and tables at hand."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from model_evaluation.report import plots, tables
    from model_evaluation.report import results as values

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(results=results, plots=plots, tables=tables, values=values)
    return environment


def _section(environment, results: "Results", step: "Step") -> tuple[str | None, str | None]:
    """(HTML of a step's section, None), or (None, why there is none)."""
    from jinja2 import UndefinedError
    from markupsafe import Markup

    from model_evaluation.report.results import unexpected

    if step.file in results.problems:
        return None, results.problems[step.file]
    if step.name not in results.data:
        return None, None
    template = environment.get_template(f"{step.name}.html")
    try:
        return Markup(template.render(f=results.figures(step.name), data=results.data[step.name])), None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, UndefinedError) as error:
        # An older or foreign file. One of our own would fail the tests, which render them all.
        return None, unexpected(step.file, error)


def _warnings(results: "Results") -> list[str]:
    """What does not fit together: figures that come from different rows must not be compared."""
    from model_evaluation.report.results import PREDICTIONS

    checks: list[Callable[[Results], str | None]] = [_different_data, _different_models, _different_predictions]
    found = [message for check in checks if (message := check(results))]
    if PREDICTIONS in results.problems:
        found.append(results.problems[PREDICTIONS] + "依靠它的图和表没有画。")
    return found


def _different_data(results: "Results") -> str | None:
    """The audit is left out: it is about the training rows."""
    groups = _groups(results, lambda found: (found.get("data") or {}).get("fingerprint"))
    return f"这些结果来自不同的数据，彼此不能比较（数据指纹 {groups}）。" if groups else None


def _different_models(results: "Results") -> str | None:
    groups = _groups(results, lambda found: found.get("model_fingerprint"))
    return f"这些结果来自不同的模型，彼此不能比较（模型指纹 {groups}）。" if groups else None


def _groups(results: "Results", fingerprint_of: Callable[[dict], str | None]) -> str | None:
    """Which files have which fingerprint; None where all that have one have the same."""
    from model_evaluation.report.results import STEPS

    files: dict[str, list[str]] = {}
    for step in STEPS:
        if fingerprint := fingerprint_of(results.data.get(step.name) or {}):
            files.setdefault(fingerprint, []).append(step.file)
    return "；".join(f"{name}：{'、'.join(group)}" for name, group in files.items()) if len(files) > 1 else None


def _different_predictions(results: "Results") -> str | None:
    from model_evaluation.metrics.classification import confusion_matrix
    from model_evaluation.report.results import PREDICTIONS

    written, predictions = (results.data.get("metrics") or {}).get("confusion_matrix"), results.predictions
    if written is None or predictions is None or predictions.labels is None:
        return None
    classes = predictions.logits.shape[1]
    if predictions.labels.min() >= 0 and predictions.labels.max() < classes:
        counted = confusion_matrix(predictions.labels, predictions.pred, classes)
        if counted.tolist() == written:
            return None
    return f"{PREDICTIONS} 与 metrics.json 不是同一次预测：由前者画的图和表与后者的数字对不上。"


if __name__ == "__main__":
    run_script(main)
