"""The whole evaluation of an adapter with one run of the model: figures, curves, robustness, baselines, report.

    python model_evaluation/run_full_eval.py --model_path ./outputs/lora_adapter
    python model_evaluation/run_full_eval.py --steps metrics,confidence
    python model_evaluation/run_full_eval.py --test_file my_test.csv --max_samples 500 --output_dir ./my_results

The model reads each distinct text once, and nothing that it has answered in an earlier run (`--fresh` asks again).
A step that fails does not stop the others; the report says so, and the exit code is 1.
"""

import time
from dataclasses import dataclass

from configs.command_line import help_text, parse_config
from configs.evaluation_config import StepConfig
from configs.fields import did_you_mean, option
from model_evaluation.benchmark import BaselinesStep
from model_evaluation.classification_report import MetricsStep
from model_evaluation.confidence_analysis import ConfidenceStep
from model_evaluation.evaluation import Evaluation
from model_evaluation.pipeline import Step, run_steps
from model_evaluation.robustness_test import RobustnessStep
from runtime.errors import run_script
from runtime.terminal import text_table


class ReportStep(Step):
    """report.html, from the files in the output folder, with what failed on top."""

    name = "report"
    title = "报告"
    file_name = "report.html"
    script = ("model_evaluation/report_generator.py",)

    def required_texts(self, evaluation: Evaluation) -> list[str]:
        return []

    def run(self, evaluation: Evaluation) -> str:
        from model_evaluation.report_generator import write_report

        return f"用浏览器打开 {write_report(evaluation.output, failures=evaluation.failures)}"


# In the order in which they run.
STEPS: tuple[type[Step], ...] = (MetricsStep, ConfidenceStep, RobustnessStep, BaselinesStep, ReportStep)
STEP_NAMES = [step.name for step in STEPS]


@dataclass
class FullEvaluationConfig(StepConfig):
    steps: list[str] = option(STEP_NAMES, "只做哪几步，逗号分隔")

    def problems(self) -> list[str]:
        problems = super().problems()
        unknown = [name for name in self.steps if name not in STEP_NAMES]
        if unknown:
            known = "、".join(STEP_NAMES)
            near = did_you_mean(unknown[0], STEP_NAMES)
            problems.append(f"--steps：应为 {known} 中的一个或几个，逗号分隔{near}，得到 {'、'.join(unknown)}")
        return problems


def main() -> int:
    (config,) = parse_config(
        [FullEvaluationConfig], None, description=help_text("完整评估：指标、置信度、稳健性、基线、报告。", __doc__)
    )
    start = time.perf_counter()
    print("正在载入……", flush=True)
    evaluation = Evaluation(config)
    steps = [step() for step in STEPS if step.name in config.steps]
    if config.steps != [ReportStep.name]:  # the report alone needs no model
        evaluation.load([step.file_name for step in steps])

    seconds = run_steps(evaluation, steps)

    print(f"\n{overview(evaluation, steps, seconds)}")
    evaluation.publish()
    print(f"\n共用 {time.perf_counter() - start:.0f} 秒")
    return 1 if evaluation.failures else 0


def overview(evaluation: Evaluation, steps: list[Step], seconds: dict[str, float]) -> str:
    """A line for each step: done in how many seconds or failed, and where its file is."""
    rows = []
    for step in steps:
        if step.name in seconds:
            outcome = f"完成 {seconds[step.name]:6.1f} 秒  {evaluation.output / step.file_name}"
        else:
            outcome = f"失败：{evaluation.failures[step.name]}"
        rows.append([step.title, outcome])
    return text_table(rows)


if __name__ == "__main__":
    run_script(main)
