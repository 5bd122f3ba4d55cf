"""The step that writes robustness_result.json: answers to changed wordings, and to tests of single abilities.

    python model_evaluation/robustness_test.py --model_path ./outputs/lora_adapter
    python model_evaluation/robustness_test.py --max_samples 300

Eight kinds of changes that keep the label (robustness/perturbations.py), and the behaviour suite
(robustness/behaviour_suite.py).
"""

from configs.command_line import help_text
from model_evaluation.evaluation import Evaluation
from model_evaluation.pipeline import Step, run_single
from model_evaluation.robustness.behaviour_suite import load_suite
from model_evaluation.robustness.scores import plan_robustness, score_robustness
from runtime.atomic_files import write_json
from runtime.errors import run_script


class RobustnessStep(Step):
    """Accuracy before and after changes of the wording, and on the behaviour suite.

    `required_texts` makes the plan, which has all changed wordings, and `run` scores it.
    """

    name = "robustness"
    title = "稳健性与行为测试"
    file_name = "robustness_result.json"
    script = ("model_evaluation/robustness_test.py",)

    def required_texts(self, evaluation: Evaluation) -> list[str]:
        rows = evaluation.rows
        self.plan = plan_robustness(
            rows.texts,
            rows.labels,
            load_suite(),
            seed=evaluation.config.seed,
            label_names=rows.label_names,
            polarity=evaluation.polarity,
            progress=True,
        )
        return self.plan.requested_texts()

    def run(self, evaluation: Evaluation) -> str:
        result = score_robustness(self.plan, evaluation.cache.logits)
        result["forward_passes"] = evaluation.cache.counts()
        write_json(evaluation.output / self.file_name, result | evaluation.provenance())
        return terminal_lines(result)


def terminal_lines(result: dict) -> str:
    """The overall accuracies, a line for each perturbation, and the behaviour suite."""
    overall = f"准确率 {result['original_accuracy']:.1%}，改写后 {result['perturbed_accuracy']:.1%}"
    if result["robustness_score"] is not None:
        overall += f"（稳健性 {result['robustness_score']:.3f}）"
    lines = [overall]

    for test in result["perturbation_tests"].values():
        if test["applied"]:
            lines.append(
                f"{test['title']}：{test['applied']:,} 条，{test['original_accuracy']:.1%} → "
                f"{test['perturbed_accuracy']:.1%}，回答变了的 {test['flip_rate']:.1%}"
            )
        elif "reason" in test:
            lines.append(f"{test['title']}：跳过，{test['reason']}")

    if result["behaviour"] is None:
        lines.append(f"行为测试：跳过，{result['behaviour_reason']}")
    else:
        suite = result["behaviour"]["overall"]
        lines.append(f"行为测试：{suite['n']:,} 条，对 {suite['accuracy']:.1%}")
    return "\n".join(lines)


def main() -> None:
    title = "稳健性测试：改写评论而不改褒贬，看回答是否不变；再逐项测试能力。"
    run_single(RobustnessStep(), help_text(title, __doc__))


if __name__ == "__main__":
    run_script(main)
