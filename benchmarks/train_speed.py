"""Training speed side by side: what tutorials do, what Trainer does by itself, and what this repository does.

    python benchmarks/train_speed.py                          # the small base; CPU or GPU
    python benchmarks/train_speed.py --model_name PATH --batch_size 8 --steps 32
    python benchmarks/train_speed.py --model_name CONFIG_AND_TOKENIZER --random_weights

Same LoRA, optimizer, precision and seed, same 9,600 review lengths (ChnSentiCorp's training rows under
Qwen2.5's tokenizer, cut at 256; the tokens themselves are random). Only this differs:
  (a) transformers' Trainer, every row padded to 256, activations recomputed
  (b) transformers' Trainer and its DataCollatorWithPadding: padded to the longest of a random batch
  (c) `build_trainer`, as train.py runs it
  (d) an expert's script: (b) with Trainer's batches grouped by length, padded to multiples of 8
Each is its own Trainer's loop, with all that it does between steps. Batches spread evenly over the costs of an
epoch are timed in rounds a b c d a b c d …, so that a drift of the machine meets all alike; the first step of a round
is not timed. Writes one JSON file with versions, commit and device.
"""

import argparse
import tempfile
import time

import numpy as np
import torch
from process_memory import peak, reset_peak, return_freed_memory
from random_weights import temporary_random_base
from torch.utils.data import SequentialSampler
from transformers import (
    DataCollatorWithPadding,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from workload import MAX_LENGTH, batches_of, build, evenly_spread, review_lengths, rows_of

from configs.training_config import TrainingConfig
from modeling.batching import PAD_MULTIPLE, padded_length
from modeling.devices import best_device
from runtime.atomic_files import write_json
from runtime.run_info import environment
from training.checkpoints import Run
from training.memory_plan import GB
from training.tokenized_dataset import TokenizedRows
from training.trainer import build_trainer

VARIANTS = {
    "a": "pad to 256 + recomputation",
    "b": "pad to the longest, random order",
    "c": "ours: grouped by length",
    "d": "an expert's: Trainer, grouped by length",
}
THEIRS = ("a", "b", "d")
GROUPED = ("c", "d")
ROUND = 8  # timed steps of a variant before the next has its turn


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default="tiny_base", help="hub name or folder")
    parser.add_argument("--random_weights", action="store_true", help="the folder has only config and tokenizer")
    parser.add_argument("--use_qlora", action="store_true", help="4-bit base in all three")
    parser.add_argument("--batch_size", type=int, default=16, help="rows of a step")
    parser.add_argument("--steps", type=int, default=24, help=f"timed steps of each variant, in rounds of {ROUND}")
    parser.add_argument("--output", default="benchmarks/results/train_speed.json")
    return parser.parse_args()


def theirs(model, tokenizer, rows: TokenizedRows, args, folder: str, variant: str) -> Trainer:
    """(a), (b), (d): Trainer as it comes, with the loss that the model computes from `labels`."""
    device = best_device()
    fixed = variant == "a"
    padding = {"padding": "max_length", "max_length": MAX_LENGTH} if fixed else {}
    if variant == "d":
        padding = {"pad_to_multiple_of": PAD_MULTIPLE}
    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=args.batch_size, num_train_epochs=1, learning_rate=1e-4,
        gradient_checkpointing=fixed, gradient_checkpointing_kwargs={"use_reentrant": False},
        optim="adamw_torch_fused", bf16=device.bf16, use_cpu=device.kind == "cpu",
        train_sampling_strategy="sequential",  # `batches_of` has drawn the order
        save_strategy="no", report_to="none", remove_unused_columns=False,
    )  # fmt: skip
    arguments._n_gpu = min(1, arguments.n_gpu)  # as ours: one process does not spread over several GPUs
    return Trainer(model, arguments, DataCollatorWithPadding(tokenizer, **padding), rows)


def ours(model, tokenizer, rows: TokenizedRows, args, folder: str) -> Trainer:
    """(c): Trainer as train.py sets it up."""
    config = TrainingConfig(
        model_name=args.model_name, output_dir=folder, batch_size=args.batch_size, num_epochs=1,
        use_qlora=args.use_qlora,
    )  # fmt: skip
    one = TokenizedRows(rows.input_ids[:1], rows.labels[:1])  # evaluated at the end, out of the time
    trainer = build_trainer(config, model, tokenizer, {"train": rows, "validation": one}, Run({}), None)
    trainer.sampler = SequentialSampler(rows)
    trainer.args.logging_steps = 500  # in a short round it would be every step
    return trainer


class Clock(TrainerCallback):
    """Seconds from the end of the first step to the end of the last, and the highest memory between in `peak`.

    On a GPU what torch allocates; on a CPU all that the process holds, with a second model for (c).
    """

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step not in (1, state.max_steps):
            return
        if cuda := torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step == 1:
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            else:
                return_freed_memory()
                reset_peak()
            self.start = time.perf_counter()
        else:
            self.seconds = time.perf_counter() - self.start
            self.peak = torch.cuda.max_memory_allocated() if cuda else peak() or 0


def timed_round(variant: str, model, tokenizer, batches: list[np.ndarray], args) -> Clock:
    """Train on `batches` of one variant after one more of middling cost."""
    rows = rows_of([batches[len(batches) // 2], *batches], model.config.vocab_size)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        if variant in THEIRS:
            trainer = theirs(model, tokenizer, rows, args, folder, variant)
        else:
            trainer = ours(model, tokenizer, rows, args, folder)
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        trainer.train()
    # accelerate's autocast stays around the model: it wraps a model once, and never again after an unwrapping.
    model.get_base_model().gradient_checkpointing_disable()
    model.get_base_model().disable_input_require_grads()  # which recomputation has brought along
    return clock


def models_of(args) -> dict[str, tuple]:
    """Variant -> (model, tokenizer); they share a model where none changes it."""
    plain, tokenizer = build(args.model_name, args.use_qlora)
    models = dict.fromkeys(VARIANTS, (plain, tokenizer))
    if best_device().kind == "cpu":  # ours changes the model in place
        models["c"] = (build(args.model_name, args.use_qlora)[0], tokenizer)
    return models


def measure(args, lengths: np.ndarray) -> dict[str, dict]:
    """Variant -> figures; the variants take turns, round by round."""
    models, rounds = models_of(args), max(1, args.steps // ROUND)
    chosen = {
        name: evenly_spread(batches_of(lengths, args.batch_size, grouped=name in GROUPED), rounds * ROUND)
        for name in VARIANTS
    }
    figures = {name: {"seconds": 0.0, "steps": 0, "tokens": 0, "peak_memory_bytes": 0} for name in VARIANTS}
    for turn in range(-1, rounds):  # the first to warm up
        for name, figure in figures.items():
            batches = chosen[name][turn::rounds] if turn >= 0 else warm_up(chosen[name])
            clock = timed_round(name, *models[name], batches, args)
            if turn >= 0:
                figure["seconds"] += clock.seconds
                figure["steps"] += len(batches)
                figure["tokens"] += int(sum(batch.sum() for batch in batches))
                figure["peak_memory_bytes"] = max(figure["peak_memory_bytes"], clock.peak)
    return figures


def warm_up(batches: list[np.ndarray]) -> list[np.ndarray]:
    """Batches to run before anything is timed; a GPU then has the kernels of every size loaded."""
    return batches if best_device().kind == "cuda" else batches[:2]


def computed_tokens(name: str, batch: np.ndarray) -> int:
    """Tokens that a variant computes for rows of these lengths, padding included."""
    if name == "a":
        return len(batch) * MAX_LENGTH
    longest = int(batch.max())
    return len(batch) * (padded_length(longest) if name in GROUPED else longest)


def limit(lengths: np.ndarray) -> float:
    """By arithmetic alone: (a) costs 6 operations per parameter and padded token, (c) 4 per real one."""
    return MAX_LENGTH * 6 / (float(lengths.mean()) * 4)


def summarise(figures: dict[str, dict], lengths: np.ndarray, batch_size: int) -> list[dict]:
    """One row for each variant, of a whole epoch."""
    speed = {name: figure["tokens"] / figure["seconds"] for name, figure in figures.items()}
    rows = []
    for name, title in VARIANTS.items():
        steps_per_second = figures[name]["steps"] / figures[name]["seconds"]
        steps_per_epoch = -(-len(lengths) // batch_size)
        epoch = batches_of(lengths, batch_size, grouped=name in GROUPED)
        computed = sum(computed_tokens(name, batch) for batch in epoch)
        rows.append({
            "variant": name, "title": title, "padding": 1 - float(lengths.sum()) / float(computed),
            "review_tokens_per_second": speed[name], "steps_per_second": steps_per_second,
            "epoch_minutes": steps_per_epoch / steps_per_second / 60,
            **{f"ratio_to_{other}": speed[name] / speed[other] for other in THEIRS},
            "share_of_limit": speed[name] / speed["a"] / limit(lengths),
            "peak_memory_bytes": figures[name]["peak_memory_bytes"] or None,
        })  # fmt: skip
    return rows


def print_table(rows: list[dict]) -> None:
    titles = f"{'padding':>8} {'tokens/s':>9} {'epoch min':>9} {'x (a)':>6} {'x (b)':>6} {'x (d)':>6}"
    titles += f" {'of limit':>8} {'peak GB':>8}"
    print(f"{'':50} {titles}")
    for row in rows:
        memory = f"{row['peak_memory_bytes'] / GB:8.2f}" if row["peak_memory_bytes"] else ""
        print(
            f"{'(' + row['variant'] + ')':10} {row['title']:39} {row['padding']:8.1%} "
            f"{row['review_tokens_per_second']:9.0f} {row['epoch_minutes']:9.1f} "
            f"{row['ratio_to_a']:6.2f} {row['ratio_to_b']:6.2f} {row['ratio_to_d']:6.2f} "
            f"{row['share_of_limit']:8.0%} {memory}"
        )


def main() -> None:
    args = parse_args()
    shown = vars(args).copy()
    if args.random_weights:
        args.model_name = str(temporary_random_base(args.model_name))
    lengths = review_lengths()
    rows = summarise(measure(args, lengths), lengths, args.batch_size)
    print_table(rows)
    result = {"arguments": shown, "limit": limit(lengths), "variants": rows, "environment": environment()}
    write_json(args.output, result)


if __name__ == "__main__":
    main()
