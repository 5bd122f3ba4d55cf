"""Does an adapter's answer stay when a review is worded otherwise, and what can it not do at all?

    python model_evaluation/robustness_test.py --model_path ./outputs/lora_adapter
    python model_evaluation/robustness_test.py --max_samples 300

Writes robustness_result.json: nine kinds of changes that keep the label (robustness/perturbations.py), and the
behaviour suite (robustness/behaviour_suite.py).
"""

from model_evaluation.pipeline import Evaluation, Step, run_single
from model_evaluation.robustness.scores import score_robustness
from runtime.atomic_files import write_json
from runtime.errors import run_script


def needed_texts(evaluation: Evaluation) -> list[str]:
    return evaluation.robustness_plan.requested_texts()


def stress(evaluation: Evaluation) -> str:
    """robustness_result.json: changed wordings, and the behaviour suite."""
    result = score_robustness(evaluation.robustness_plan, evaluation.answers)
    result["forward_passes"] = evaluation.answers.counts()
    write_json(evaluation.output / STEP.file, result | evaluation.described())
    return _robustness_lines(result)


def _robustness_lines(result: dict) -> str:
    score = result["robustness_score"]
    lines = [
        f"准确率 {result['original_accuracy']:.1%}，改写后 {result['perturbed_accuracy']:.1%}"
        + ("" if score is None else f"（稳健性 {score:.3f}）")
    ]
    for test in result["perturbation_tests"].values():
        if test["applied"]:
            lines.append(
                f"{test['title']}：{test['applied']:,} 条，{test['original_accuracy']:.1%} → "
                f"{test['perturbed_accuracy']:.1%}，回答变了的 {test['flip_rate']:.1%}"
            )
        elif "reason" in test:
            lines.append(f"{test['title']}：跳过，{test['reason']}")
    if result["behaviour"] is None:
        return "\n".join([*lines, f"行为测试：跳过，{result['behaviour_reason']}"])
    overall = result["behaviour"]["overall"]
    return "\n".join([*lines, f"行为测试：{overall['n']:,} 条，对 {overall['accuracy']:.1%}"])


STEP = Step("robustness", "稳健性与行为测试", "robustness_result.json", needed_texts, stress)

if __name__ == "__main__":
    run_script(lambda: run_single(STEP, "稳健性测试：改写评论而不改褒贬，看回答是否不变；再逐项测试能力。", __doc__))
