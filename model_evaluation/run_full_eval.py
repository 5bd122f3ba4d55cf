"""The whole evaluation of an adapter with one run of the model: figures, curves, robustness, baselines, report.

    python model_evaluation/run_full_eval.py --model_path ./outputs/lora_adapter
    python model_evaluation/run_full_eval.py --steps metrics,confidence
    python model_evaluation/run_full_eval.py --test_file my_test.csv --max_samples 500 --output_dir ./my_results

The model reads each distinct text once, and nothing that it has answered in an earlier run (`--fresh` asks again).
A step that fails does not stop the others; the report says so, and the exit code is 1.
"""

import time

from configs.command_line import help_text, parse_config
from configs.evaluation_config import FullEvaluationConfig
from model_evaluation.benchmark import STEP as BASELINES
from model_evaluation.classification_report import STEP as METRICS
from model_evaluation.confidence_analysis import STEP as CONFIDENCE
from model_evaluation.metrics.terminal_table import display_width
from model_evaluation.pipeline import Evaluation, Step, run_steps
from model_evaluation.robustness_test import STEP as ROBUSTNESS
from runtime.errors import run_script


def main() -> int:
    (config,) = parse_config(
        [FullEvaluationConfig], None, description=help_text("完整评估：指标、置信度、稳健性、基线、报告。", __doc__)
    )
    start = time.perf_counter()
    print("正在载入……", flush=True)
    evaluation = Evaluation(config)
    steps = [step for step in STEPS if step.name in config.steps]
    if config.steps != ["report"]:
        evaluation.load()
    done = run_steps(evaluation, steps)
    print(f"\n{overview(evaluation, steps, done)}")
    print(f"\n共用 {time.perf_counter() - start:.0f} 秒")
    return 1 if evaluation.failures else 0


def overview(evaluation: Evaluation, steps: list[Step], done: dict[str, float]) -> str:
    """A line for each step: done in how many seconds or failed, and where its file is."""
    width = max(display_width(step.title) for step in steps)
    lines = []
    for step in steps:
        title = step.title + " " * (width - display_width(step.title))
        if step.name in done:
            lines.append(f"{title}  完成 {done[step.name]:6.1f} 秒  {evaluation.output / step.file}")
        else:
            lines.append(f"{title}  失败：{evaluation.failures[step.name]}")
    return "\n".join(lines)


def report(evaluation: Evaluation) -> str:
    """report.html: from the files in the output folder, with what failed on top."""
    from model_evaluation.report_generator import write_report

    return f"用浏览器打开 {write_report(evaluation.output, failures=evaluation.failures)}"


STEPS = (
    METRICS,
    CONFIDENCE,
    ROBUSTNESS,
    BASELINES,
    Step("report", "报告", "report.html", lambda evaluation: [], report),
)

if __name__ == "__main__":
    run_script(main)
