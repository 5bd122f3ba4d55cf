"""Evaluate an adapter, or an un-tuned base, on a split or a file: a table, and metrics.json.

    python eval.py                                              # the test split of the data it was trained on
    python eval.py --dataset ChnSentiCorp --split validation
    python eval.py --test_file my_test.csv --text_column 评论 --label_column 标签
    python eval.py --zero_shot --model_name Qwen/Qwen2.5-1.5B --dataset ChnSentiCorp --contextual_calibration

The metrics stand beside those on the rows that the adapter has not seen in training.
`model_evaluation/run_full_eval.py` tells much more.
"""

from configs.command_line import help_text, parse_config
from configs.evaluation_config import MetricsConfig
from runtime.errors import run_script


def main() -> None:
    title = "评估适配器或未微调的基座：打印一张表，写出 metrics.json。"
    (config,) = parse_config([MetricsConfig], None, description=help_text(title, __doc__))
    print("正在载入……", flush=True)

    from model_evaluation.classification_report import MetricsStep
    from model_evaluation.evaluation import Evaluation, ZeroShotEvaluation
    from model_evaluation.pipeline import run_step

    evaluation = ZeroShotEvaluation(config) if config.zero_shot else Evaluation(config)
    run_step(MetricsStep(), evaluation)


if __name__ == "__main__":
    run_script(main)
