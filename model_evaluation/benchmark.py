"""Is the fine-tuned model worth its price? Everything cheaper answers the same rows.

    python model_evaluation/benchmark.py --model_path ./outputs/lora_adapter
    python model_evaluation/benchmark.py --test_file my_test.csv --max_samples 500

Compares with the majority class, SnowNLP, TF-IDF with logistic regression, the un-tuned base (zero-shot), and a
linear probe on it: how often right, how sure that is, what it costs. Writes baseline_comparison.json.
"""

from model_evaluation.baselines.comparison import compare_baselines, comparison_table
from model_evaluation.evaluation import training_splits
from model_evaluation.pipeline import Evaluation, Step, run_single
from runtime.atomic_files import write_json
from runtime.errors import run_script


def compare(evaluation: Evaluation) -> str:
    """baseline_comparison.json; what needs training learns from the rows that the adapter was trained on."""
    config = evaluation.config
    comparison = compare_baselines(
        evaluation.load_predictor(),
        evaluation.predictions(evaluation.rows),
        training_splits(config.model_path)["train"],
        evaluation.rows,
        model_path=config.model_path,
        seed=config.seed,
        progress=True,
    )
    write_json(evaluation.output / STEP.file, comparison | evaluation.described())
    return comparison_table(comparison)


STEP = Step("baselines", "与基线比较", "baseline_comparison.json", lambda evaluation: evaluation.rows.texts, compare)

if __name__ == "__main__":
    run_script(lambda: run_single(STEP, "与基线比较：更便宜的办法在同样的评论上做得怎样。", __doc__))
