"""The step that writes baseline_comparison.json: the fine-tuned model beside everything cheaper, on the same rows.

    python model_evaluation/benchmark.py --model_path ./outputs/lora_adapter
    python model_evaluation/benchmark.py --test_file my_test.csv --max_samples 500

Compares with the majority class, SnowNLP, TF-IDF with logistic regression, the un-tuned base (zero-shot), and a
linear probe on it: how often right, how sure that is, what it costs.
"""

from configs.command_line import help_text
from model_evaluation.baselines.comparison import compare_baselines, comparison_table
from model_evaluation.evaluation import Evaluation, training_splits
from model_evaluation.pipeline import Step, run_single
from runtime.atomic_files import write_json
from runtime.errors import run_script


class BaselinesStep(Step):
    """Baselines that need training learn from the rows that the adapter was trained on."""

    name = "baselines"
    title = "与基线比较"
    file_name = "baseline_comparison.json"
    script = ("model_evaluation/benchmark.py",)

    def run(self, evaluation: Evaluation) -> str:
        config = evaluation.config
        comparison = compare_baselines(
            evaluation.load_predictor(),
            evaluation.predictions(evaluation.rows),
            training_splits(config.model_path)["train"],
            model_path=config.model_path,
            seed=config.seed,
            polarity=evaluation.polarity,
            progress=True,
        )
        write_json(evaluation.output / self.file_name, comparison | evaluation.provenance())
        return comparison_table(comparison)


def main() -> None:
    run_single(BaselinesStep(), help_text("与基线比较：更便宜的办法在同样的评论上做得怎样。", __doc__))


if __name__ == "__main__":
    run_script(main)
