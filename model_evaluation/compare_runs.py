"""Several evaluations side by side: what differs in their settings, their figures, and whether a difference is one.

    python model_evaluation/compare_runs.py outputs-snownlp-test-3f9a2c1b outputs_2-snownlp-test-77aa01bc
    python model_evaluation/compare_runs.py results_a results_b --output_dir ./comparison

A run is a folder of results, or the name of one in model_evaluation/outputs. Each pair is tested on the rows that both
have answered (McNemar's exact test). Prints a table, and writes comparison.html and comparison.json.
"""

from dataclasses import dataclass
from pathlib import Path

from configs.command_line import ArgumentParser, add_fields, build, help_text
from configs.evaluation_config import DEFAULT_OUTPUT
from configs.fields import ConfigError, check_fields, option
from runtime.errors import UserError, run_script


@dataclass
class ComparisonConfig:
    output_dir: str = option(DEFAULT_OUTPUT, "comparison.html 和 comparison.json 写在哪里")

    def __post_init__(self):
        if problems := check_fields(self):
            raise ConfigError(problems)


def main() -> None:
    title = "并排比较几次评估：设置哪里不同，指标各是多少，差别是否显著。"
    parser = ArgumentParser(description=help_text(title, __doc__))
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help=f"一次评估：结果文件夹，或 {DEFAULT_OUTPUT} 里子文件夹的名字；至少两次"
    )
    add_fields(parser, ComparisonConfig)
    given = vars(parser.parse_args())
    names = [name.rstrip("/\\") or name for name in given["runs"]]
    if len(names) < 2:
        parser.error(f"至少要两次评估，得到 {names[0]}")
    (config,) = build(parser, [ComparisonConfig], given)

    from model_evaluation.metrics.ordinal import ORDINAL_TITLES
    from model_evaluation.report.environment import page_environment
    from model_evaluation.runs.comparison import compare, read_run
    from model_evaluation.runs.comparison_table import shown, significance, terminal_lines
    from runtime.atomic_files import atomic_write, write_json

    runs = {name: read_run(run_folder(name)) for name in names}
    if len({run.folder.resolve() for run in runs.values()}) < len(names):
        raise UserError(f"同一次评估给了两次（{'、'.join(names)}）；要比较的应是不同的")
    comparison = compare(runs)
    page = Path(config.output_dir) / "comparison.html"
    write_json(page.with_suffix(".json"), comparison)
    pages = page_environment(shown=shown, significance=significance, ORDINAL_TITLES=ORDINAL_TITLES)
    with atomic_write(page) as file:
        file.write(pages.get_template("comparison.html").render(comparison))
    print(terminal_lines(comparison))
    print(f"\n全部数字在 {page.with_suffix('.json')}\n用浏览器打开 {page}")


def run_folder(name: str) -> Path:
    """The folder of a run, by its path or by its name among the evaluations."""
    for folder in (Path(name), Path(DEFAULT_OUTPUT) / name):
        if folder.is_dir():
            return folder
    known = "、".join(sorted(path.parent.name for path in Path(DEFAULT_OUTPUT).glob("*/metrics.json"))) or "一次也没有"
    raise UserError(f"没有评估 {name}：它应是结果文件夹，或 {DEFAULT_OUTPUT} 里的名字（现有：{known}）")


if __name__ == "__main__":
    run_script(main)
