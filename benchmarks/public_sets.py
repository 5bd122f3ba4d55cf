"""Public sets of Chinese reviews in one table: the un-tuned base, zero-shot, and an adapter if one is named.

    python benchmarks/public_sets.py                                     # the plain sentences beside this script
    python benchmarks/public_sets.py --chnsenticorp validation.jsonl --eprstmt FewCLUE/datasets/eprstmt \\
        --online_shopping online_shopping_10_cats.csv --model_path outputs/lora_adapter
    python benchmarks/public_sets.py --file waimai=waimai_10k.csv --text_column review

Of online_shopping only the slice that the small base was not trained on is measured; of EPRSTMT all reviews of the
files eprstmt_*.jsonl, each once. Beside each accuracy stand its 95% interval (Wilson), AUC, the share of rows that
the model has seen in training, and the accuracy on the others. Writes one JSON file.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from data.dataset import Rows
from data.preprocessing import in_slice
from data.seen_texts import FILE_NAME, seen_mask
from data.sources.review_files import read_labelled_file
from model_evaluation.metrics.classification import classification_metrics
from model_evaluation.metrics.intervals import wilson_interval
from runtime.atomic_files import write_json
from runtime.errors import run_script
from runtime.run_info import environment

PLAIN_SENTENCES = Path(__file__).with_name("plain_sentences.jsonl")
HELD_OUT_PERCENT = 3  # as tiny_base/corpora.py keeps it out of the base's training


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default="tiny_base", help="base that is asked zero-shot, a folder or hub name")
    parser.add_argument("--model_path", help="adapter folder that is measured beside it")
    parser.add_argument("--chnsenticorp", type=Path, help="validation or test split as a file")
    parser.add_argument("--eprstmt", type=Path, help="folder with files eprstmt_*.jsonl")
    parser.add_argument("--online_shopping", type=Path, help="online_shopping_10_cats.csv")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=FILE", help="any other file; repeatable")
    parser.add_argument("--text_column", default="text", help="of the files given with --file")
    parser.add_argument("--label_column", default="label")
    parser.add_argument("--output", default="benchmarks/results/public_sets.json")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    sets = public_sets(args)
    from prediction.zero_shot import ZeroShotPredictor, zero_shot_config

    models = {"zero_shot": (ZeroShotPredictor(zero_shot_config(args.model_name)), args.model_name)}
    if args.model_path:
        from prediction.predictor import SentimentPredictor

        models["adapter"] = (SentimentPredictor(lora_path=args.model_path), args.model_path)
    results = []
    for name, rows in sets.items():
        for model, (predictor, folder) in models.items():
            results.append({"set": name, "model": model} | measured(predictor, rows, folder))
            print(line(results[-1]), flush=True)
    write_json(args.output, {"model_name": args.model_name, "results": results, "environment": environment()})


def public_sets(args: argparse.Namespace) -> dict[str, Rows]:
    sets = {"plain_sentences": read_labelled_file(PLAIN_SENTENCES, "text", "label")}
    if args.chnsenticorp:
        sets["chnsenticorp"] = read_labelled_file(args.chnsenticorp, "text", "label")
    if args.eprstmt:
        distinct = {}
        for path in sorted(args.eprstmt.glob("eprstmt_*.jsonl")):
            rows = read_labelled_file(path, "text", "label")
            distinct |= dict(zip(rows.texts, rows.labels, strict=True))
        sets["eprstmt"] = Rows(list(distinct), list(distinct.values()))
    if args.online_shopping:
        with args.online_shopping.open(encoding="utf-8", newline="") as file:  # one of its reviews is empty
            kept = {row["review"]: int(row["label"]) for row in csv.DictReader(file) if row["review"].strip()}
        kept = {text: label for text, label in kept.items() if in_slice(text, HELD_OUT_PERCENT)}
        sets["online_shopping"] = Rows(list(kept), list(kept.values()))
    for given in args.file:
        name, _, path = given.partition("=")
        sets[name] = read_labelled_file(Path(path), args.text_column, args.label_column)
    return sets


def measured(predictor, rows: Rows, folder: str) -> dict:
    """Figures of one model on one set; those about seen rows are None where its training texts are not known."""
    predictions = predictor.predictions(rows.texts, rows.labels)
    right = predictions.pred == np.array(rows.labels)
    low, high = wilson_interval(int(right.sum()), len(right))
    figures = {
        "rows": len(rows),
        "accuracy": float(right.mean()),
        "interval": [low, high],
        "auc": classification_metrics(predictions, predictor.labels)["auc"],
        "seen": None,
        "accuracy_unseen": None,
    }
    if (Path(folder) / FILE_NAME).is_file():
        seen = seen_mask(folder, rows.texts)
        figures["seen"] = float(seen.mean())
        figures["accuracy_unseen"] = float(right[~seen].mean()) if not seen.all() else None
    return figures


def line(result: dict) -> str:
    low, high = result["interval"]
    text = f"{result['set']:16} {result['model']:10} {result['rows']:>6}  {result['accuracy']:.2%} "
    text += f"({low:.1%}–{high:.1%})  AUC {result['auc']:.3f}"
    if result["seen"] is None:
        return text
    unseen = "" if result["accuracy_unseen"] is None else f", {result['accuracy_unseen']:.2%} on the others"
    return f"{text}  seen in training {result['seen']:.1%}{unseen}"


if __name__ == "__main__":
    run_script(main)
