"""Training speed side by side: what tutorials do, what Trainer does by itself, and what this repository does.

    python benchmarks/train_speed.py                          # the small base; CPU or GPU
    python benchmarks/train_speed.py --model_name PATH --batch_size 8 --steps 30

Same model, same LoRA, same optimizer, same precision, same 9,600 review lengths (ChnSentiCorp's training
rows under Qwen2.5's tokenizer, cut at 256; the tokens themselves are random). Only this differs:
  (a) every row padded to 256, activations recomputed      (b) padded to the batch's longest, random order
  (c) batches of similar length (`modeling/sampling.py`), no recomputation
Steps spread evenly over an epoch are timed in turns a b c a b c …, so that a drift of the machine meets
all alike. Writes one JSON file with versions, commit and device.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig
from data.atomic import write_json
from data.rows import LABEL_NAMES
from modeling.builder import build_for_training
from modeling.devices import best_device
from modeling.prediction import pad
from modeling.run_record import environment
from modeling.sampling import LengthGroupedSampler
from modeling.training import mean_cross_entropy

MAX_LENGTH = 256
LENGTHS = Path(__file__).parent / "chnsenticorp_lengths.json"
VARIANTS = {
    "a": "pad to 256 + recomputation",
    "b": "pad to the longest, random order",
    "c": "ours: grouped by length",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default="tiny_base", help="hub name or folder")
    parser.add_argument("--batch_size", type=int, default=16, help="rows of a step")
    parser.add_argument("--steps", type=int, default=24, help="timed steps of each variant")
    parser.add_argument("--output", default="benchmarks/results/train_speed.json")
    return parser.parse_args()


def review_lengths() -> np.ndarray:
    """(9600,) tokens of each review, cut at 256, in a fixed random order."""
    counts = json.loads(LENGTHS.read_text(encoding="utf-8"))["lengths"]
    lengths = np.concatenate([np.full(rows, min(tokens, MAX_LENGTH)) for tokens, rows in counts])
    return np.random.default_rng(0).permutation(lengths)


def batches_of(variant: str, lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Row lengths of each batch of one epoch."""
    order = np.arange(len(lengths)) if variant != "c" else LengthGroupedSampler(lengths, batch_size, seed=0).order(0)
    return [lengths[order[i : i + batch_size]] for i in range(0, len(order), batch_size)]


def evenly_spread(batches: list[np.ndarray], count: int) -> list[np.ndarray]:
    """`count` batches at even steps through the epoch sorted by cost, so that few stand for all."""
    by_cost = sorted(batches, key=lambda lengths: (lengths.max(), len(lengths)))
    return [by_cost[int((i + 0.5) * len(by_cost) / count)] for i in range(count)]


def make_inputs(lengths: np.ndarray, variant: str, vocab: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    rows = [rng.integers(5, vocab, size=length).tolist() for length in lengths]
    inputs = pad(rows, pad_id=0)
    if variant == "a":
        missing = MAX_LENGTH - inputs["input_ids"].shape[1]
        inputs = {name: torch.nn.functional.pad(value, (0, missing)) for name, value in inputs.items()}
    return inputs | {"labels": torch.from_numpy(rng.integers(0, 2, size=len(lengths)))}


def timed_step(model, optimizer, inputs: dict[str, torch.Tensor], device) -> float:
    """Seconds of forward, backward and update of one batch."""
    synchronise(device)
    start = time.perf_counter()
    inputs = {name: value.to(device.kind) for name, value in inputs.items()}
    with device.autocast():
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    mean_cross_entropy(outputs, inputs["labels"]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device) -> None:
    if device.kind == "cuda":
        torch.cuda.synchronize()


def measure(args, lengths: np.ndarray) -> dict[str, dict]:
    """Variant -> figures; the three take turns, step by step."""
    device = best_device()
    torch.manual_seed(0)
    model, _ = build_for_training(TrainingConfig(model_name=args.model_name), LoraSettings(), LABEL_NAMES)
    model = model.to(device.kind).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    rng, vocab = np.random.default_rng(0), model.config.vocab_size
    chosen = {name: evenly_spread(batches_of(name, lengths, args.batch_size), args.steps) for name in VARIANTS}
    figures = {name: {"seconds": [], "tokens": 0, "peak_memory_bytes": 0} for name in VARIANTS}
    for step in range(-2, args.steps):  # two rounds to warm up
        for name, figure in figures.items():
            batch = chosen[name][step]
            use_recomputation(model, name == "a")
            if device.kind == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds = timed_step(model, optimizer, make_inputs(batch, name, vocab, rng), device)
            if step >= 0:
                figure["seconds"].append(seconds)
                figure["tokens"] += int(batch.sum())
                peak = torch.cuda.max_memory_allocated() if device.kind == "cuda" else 0
                figure["peak_memory_bytes"] = max(figure["peak_memory_bytes"], peak)
    return figures


def use_recomputation(model, on: bool) -> None:
    base = model.base_model.model
    if on:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        base.gradient_checkpointing_disable()


def limit(lengths: np.ndarray) -> float:
    """By arithmetic alone: (a) costs 6 operations per parameter and padded token, (c) 4 per real one."""
    return MAX_LENGTH * 6 / (float(lengths.mean()) * 4)


def summarise(figures: dict[str, dict], lengths: np.ndarray, batch_size: int) -> list[dict]:
    speed = {name: figure["tokens"] / sum(figure["seconds"]) for name, figure in figures.items()}
    rows = []
    for name, title in VARIANTS.items():
        seconds = figures[name]["seconds"]
        steps_per_epoch = -(-len(lengths) // batch_size)
        padded = [max(b) * len(b) for b in batches_of(name, lengths, batch_size)]
        computed = MAX_LENGTH * len(lengths) if name == "a" else sum(padded)
        rows.append({
            "variant": name, "title": title, "padding": 1 - float(lengths.sum()) / float(computed),
            "review_tokens_per_second": speed[name], "steps_per_second": len(seconds) / sum(seconds),
            "epoch_minutes": steps_per_epoch * float(np.mean(seconds)) / 60,
            "ratio_to_a": speed[name] / speed["a"], "ratio_to_b": speed[name] / speed["b"],
            "share_of_limit": speed[name] / speed["a"] / limit(lengths),
            "peak_memory_bytes": figures[name]["peak_memory_bytes"] or None,
        })  # fmt: skip
    return rows


def main() -> None:
    args = parse_args()
    lengths = review_lengths()
    rows = summarise(measure(args, lengths), lengths, args.batch_size)
    print(f"{'':34} {'padding':>8} {'tokens/s':>9} {'epoch min':>9} {'x (a)':>6} {'x (b)':>6} {'of limit':>8}")
    for row in rows:
        print(
            f"({row['variant']}) {row['title']:30} {row['padding']:8.1%} {row['review_tokens_per_second']:9.0f} "
            f"{row['epoch_minutes']:9.1f} {row['ratio_to_a']:6.2f} {row['ratio_to_b']:6.2f} "
            f"{row['share_of_limit']:8.0%}"
        )
    settings = {"model_name": args.model_name, "batch_size": args.batch_size, "steps": args.steps}
    result = {"arguments": settings, "limit": limit(lengths), "variants": rows, "environment": environment()}
    write_json(args.output, result)


if __name__ == "__main__":
    main()
