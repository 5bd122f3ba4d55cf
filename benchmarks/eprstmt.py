"""EPRSTMT with 32 labelled reviews: LoRA with label scoring on each of the five official splits, beside zero-shot.

    python benchmarks/eprstmt.py FewCLUE/datasets/eprstmt
    python benchmarks/eprstmt.py FewCLUE/datasets/eprstmt --test_file FewCLUE/datasets/eprstmt/test_public.json

Trains on eprstmt_train_K.jsonl, chooses the best step on eprstmt_dev_K.jsonl (32 rows each), and measures on
--test_file, or without one on the rows of the other four splits that are in neither of the two. Prints the accuracy of
each split and its mean, zero-shot on the same rows beside it, and writes one JSON file.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from data.dataset import Rows
from data.sources.review_files import read_labelled_file
from prediction.predictor import SentimentPredictor
from prediction.zero_shot import ZeroShotPredictor, zero_shot_config
from runtime.atomic_files import write_json
from runtime.errors import run_script
from runtime.run_info import REPOSITORY, environment

SPLITS = range(5)
FLAGS = ["--preset", "tiny", "--max_steps", "40", "--eval_steps", "10"]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with eprstmt_train_K.jsonl and eprstmt_dev_K.jsonl")
    parser.add_argument("--test_file", type=Path, help="labelled rows (text, label) that are measured")
    parser.add_argument("--head", default="label_scoring")
    parser.add_argument("--learning_rate", default="1e-4")
    parser.add_argument("--work_dir", type=Path, default=Path("outputs/eprstmt"), help="where the adapters go")
    parser.add_argument("--output", default="benchmarks/results/eprstmt.json")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    splits = [split_rows(args.folder, split) for split in SPLITS]
    zero_shot = ZeroShotPredictor(zero_shot_config("tiny_base"))
    results = []
    for split in SPLITS:
        test = read_labelled_file(args.test_file, "text", "label") if args.test_file else others(splits, split)
        predictor = SentimentPredictor(lora_path=train(args, split))
        result = {"split": split, "rows": len(test), "zero_shot": accuracy(zero_shot, test)}
        results.append(result | {"adapter": accuracy(predictor, test)})
        print(json.dumps(results[-1]), flush=True)
    means = {name: statistics.mean(result[name] for result in results) for name in ("zero_shot", "adapter")}
    print(f"mean of {len(results)} splits: zero-shot {means['zero_shot']:.1%}, {args.head} {means['adapter']:.1%}")
    write_json(
        args.output,
        {
            "flags": FLAGS,
            "learning_rate": args.learning_rate,
            "results": results,
            "means": means,
            "environment": environment(),
        },
    )


def split_rows(folder: Path, split: int) -> dict[str, int]:
    """Text and label of a split's 32 rows to train on and 32 to choose by."""
    found = {}
    for part in ("train", "dev"):
        rows = read_labelled_file(folder / f"eprstmt_{part}_{split}.jsonl", "text", "label")
        found |= dict(zip(rows.texts, rows.labels, strict=True))
    return found


def others(splits: list[dict[str, int]], split: int) -> Rows:
    found = {}
    for rows in splits:
        found |= {text: label for text, label in rows.items() if text not in splits[split]}
    return Rows(list(found), list(found.values()))


def train(args: argparse.Namespace, split: int) -> Path:
    output = args.work_dir.resolve() / f"{args.head}-{args.learning_rate}-{split}"
    files = [args.folder.resolve() / f"eprstmt_{part}_{split}.jsonl" for part in ("train", "dev")]
    flags = [*FLAGS, "--head", args.head, "--learning_rate", args.learning_rate, "--output_dir", str(output)]
    flags += ["--train_file", str(files[0]), "--validation_file", str(files[1]), "--resume_from_checkpoint", "none"]
    subprocess.run([sys.executable, "train.py", *flags], cwd=REPOSITORY, check=True, capture_output=True)
    return output / "lora_adapter"


def accuracy(predictor, rows: Rows) -> float:
    return float((predictor.predictions(rows.texts).pred == np.array(rows.labels)).mean())


if __name__ == "__main__":
    run_script(main)
