"""Peak memory of training for the longest batches that can occur: every row as long as --max_length.

    python benchmarks/memory.py --model_name PATH                          # a GPU: measured against 8 GB and 4 GB
    python benchmarks/memory.py --model_name CONFIG_AND_TOKENIZER --random_weights
    python benchmarks/memory.py --model_name PATH --cases lora_8gb,qlora_4gb

On a GPU each case is a process of its own that trains a few steps the way train.py does and evaluates once.
A case with a limit may not allocate more: torch is told so, and beyond it the step fails. The verdict adds
what torch reserves at most to what CUDA itself occupies.

Without a GPU the estimate of `training/memory_plan.py` is taken instead: the first one and two layers of the shape
are built, with weights as a GPU would hold them, what autograd keeps is counted, and the difference, one layer,
stands for all others. A pass of the two layers is held against the growth of the process, with --all_layers also one
of the whole shape (some 10 GB of main memory and ten minutes for Qwen2.5-1.5B). Writes one JSON file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from process_memory import peak, reset_peak, return_freed_memory
from random_weights import random_base, temporary_random_base
from summary import pass_line
from transformers import Qwen2Config

from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig
from data.dataset import LABEL_NAMES
from modeling.base_model import find_model, load_base, load_tokenizer
from modeling.batching import pad
from modeling.devices import Device, best_device
from modeling.lora import add_lora, build_for_training
from runtime.atomic_files import write_json
from runtime.errors import run_script
from runtime.run_info import environment
from training.checkpoints import Run
from training.memory_plan import GB, MemoryEstimate, cap_memory, estimate_memory, plan_micro_batches
from training.optimization import faster_on_cpu
from training.run_summary import describe_micro_batches
from training.tokenized_dataset import TokenizedRows
from training.trainer import build_trainer


@dataclass(frozen=True)
class Case:
    title: str
    use_qlora: bool
    gb: float | None  # None: the whole card
    recompute: bool = False


CASES = {
    "lora_8gb": Case("LoRA within 8 GB", False, 8),
    "qlora_4gb": Case("QLoRA within 4 GB", True, 4),
    "lora": Case("LoRA, whole batches", False, None),
    "qlora": Case("QLoRA, whole batches", True, None),
    "lora_recomputed": Case("LoRA, whole batches, recomputation", False, None, True),
    "qlora_recomputed": Case("QLoRA, whole batches, recomputation", True, None, True),
}
LIMITS = (4, 6, 8, 12, 16)
LIKE_A_GPU = Device("cpu", True)  # bf16 weights, bf16 autocast


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default="Qwen/Qwen2.5-1.5B", help="hub name or folder")
    parser.add_argument("--random_weights", action="store_true", help="the folder has only config and tokenizer")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--max_length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4, help="training steps of each case")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--all_layers", action="store_true", help="without a GPU: also a pass of all layers, minutes")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # what the process of one case is started with
    parser.add_argument("--output", default="benchmarks/results/memory.json")
    return parser.parse_args()


# On a GPU: measured.


def run_case(args, case: Case, folder: str) -> dict:
    """Figures of one case, in a process that does nothing else."""
    total = torch.cuda.get_device_properties(0).total_memory
    cap_memory(best_device(), case.gb)  # from the start, loading included
    length, rows = args.max_length, args.batch_size * args.steps
    config = TrainingConfig(
        model_name=args.model_name, use_qlora=case.use_qlora, batch_size=args.batch_size, max_length=length,
        num_epochs=1, max_memory_gb=case.gb, gradient_checkpointing=case.recompute, output_dir=folder,
    )  # fmt: skip
    torch.manual_seed(0)
    model, tokenizer = build_for_training(config, LoraSettings())
    ids = torch.randint(5, model.config.vocab_size // 2, (rows, length)).tolist()
    tokenized = TokenizedRows(ids, [i % 2 for i in range(rows)])
    trainer = build_trainer(config, model, tokenizer, {"train": tokenized, "validation": tokenized}, Run({}), None)
    picked, loading = trainer.plan, torch.cuda.max_memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    free, _ = torch.cuda.mem_get_info()
    training = torch.cuda.max_memory_reserved()
    reserved = max(loading, training)
    outside = total - free - torch.cuda.memory_reserved()  # CUDA's context, and other programs if there are any
    return {
        "picked": describe_micro_batches(picked, best_device()), "pieces": asdict(picked),
        "pieces_in_the_end": asdict(trainer.plan),  # others if memory ran out all the same
        "weights_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "float32_frozen_bytes": sum(
            p.numel() * 4 for p in model.parameters() if p.dtype == torch.float32 and not p.requires_grad
        ),
        "max_memory_allocated": torch.cuda.max_memory_allocated(), "max_memory_reserved": training,
        "max_memory_reserved_while_loading": loading,
        "outside_torch": outside, "peak_bytes": reserved + outside,
        "within_limit": None if case.gb is None else reserved + outside <= case.gb * GB,
    }  # fmt: skip


def measured_cases(args) -> Iterator[dict]:
    """Each case in a process of its own; a failed one has its last words."""
    for name in args.cases.split(","):
        command = [sys.executable, __file__, "--case", name, "--model_name", args.model_name]
        for flag in ("batch_size", "max_length", "steps"):
            command += [f"--{flag}", str(getattr(args, flag))]
        done = subprocess.run(command, capture_output=True, text=True)
        row = {"case": name, "title": CASES[name].title, "limit_gb": CASES[name].gb}
        if done.returncode:
            row |= {"failed": done.stderr.strip().splitlines()[-1:], "within_limit": False}
        else:
            row |= json.loads(done.stdout.strip().splitlines()[-1])
        print(measured_line(row), flush=True)
        yield row


def measured_line(row: dict) -> str:
    if "failed" in row:
        return f"{row['title']:38} FAILED {row['failed']}"
    verdict = {None: "", True: "  within", False: "  EXCEEDS"}[row["within_limit"]]
    if row["pieces_in_the_end"] != row["pieces"]:
        verdict += "  BUT THE PLAN DID NOT HOLD, memory ran out once"
    return (
        f"{row['title']:38} allocated {row['max_memory_allocated'] / GB:5.2f}  reserved "
        f"{row['max_memory_reserved'] / GB:5.2f}  with CUDA {row['peak_bytes'] / GB:5.2f} GB{verdict}  {row['picked']}"
    )


# Without a GPU: the estimate.


def load(folder: Path, quantize: bool):
    """PEFT model with weights as a GPU holds them."""
    base = load_base(
        str(folder), load_tokenizer(str(folder)), labels=LABEL_NAMES, quantize=quantize, dtype=torch.bfloat16,
        device=LIKE_A_GPU,
    )  # fmt: skip
    model = add_lora(base, LoraSettings())
    # A GPU's dropout keeps a mask of bytes too; its attention is not the CPU's plain one.
    faster_on_cpu(model, LIKE_A_GPU, max_length=10**6)
    return model


def estimate_of(args, layers: int, folders: list[Path], quantize: bool) -> tuple[MemoryEstimate, list[dict]]:
    """(estimate for the whole shape, passes of two layers)."""
    models = [load(folder, quantize) for folder in folders]
    one, two = (estimate_memory(model, LIKE_A_GPU, args.max_length) for model in models)
    added = {f: getattr(two, f) - getattr(one, f) for f in ("weights", "training", "per_pass", "per_token")}
    whole = {name: getattr(one, name) + (layers - 1) * value for name, value in added.items()}
    estimate = replace(one, **whole, layers=layers, device="cuda")
    return estimate, [a_pass(models[1], two, args.batch_size, args, recompute) for recompute in (False, True)]


def passes_of_all_layers(args, estimate: MemoryEstimate, folder: Path, quantize: bool, limit: int) -> list[dict]:
    """The passes that `limit` allows, the whole batch, and the whole batch recomputed; minutes each on a CPU."""
    model = load(folder, quantize)
    plan = plan_micro_batches(estimate, limit, longest=args.max_length, rows=args.batch_size)
    rows = plan.rows(args.batch_size, args.max_length)
    passes = [(rows, False), (args.batch_size, False), (args.batch_size, True)]
    return [a_pass(model, estimate, rows, args, recompute) for rows, recompute in passes]


def a_pass(model, estimate: MemoryEstimate, rows: int, args, recompute: bool) -> dict:
    """Activations of a forward and backward pass: what the estimate says, and what the process really grew by."""
    tokens = rows * args.max_length
    return {
        "layers": estimate.layers, "tokens": tokens, "recompute": recompute,
        "estimated": int(estimate.bytes_per_token(recompute) * tokens),
        "measured": growth_of_a_pass(model, rows, args.max_length, recompute),
    }  # fmt: skip


def growth_of_a_pass(model, rows: int, length: int, recompute: bool) -> int | None:
    """Bytes that a forward and backward pass adds to the resident process at most; None where Linux is not."""
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    train_once(model, pad([[5] * 7], 0))
    for parameter in model.parameters():
        parameter.view(torch.uint8).max()  # a weight that is still only mapped from its file would count
    return_freed_memory(at_once=True)
    before = reset_peak()
    train_once(model, pad([[5] * (length - 1)] * rows, 0))
    return None if before is None else peak() - before


def train_once(model, inputs: dict[str, torch.Tensor]) -> None:
    with LIKE_A_GPU.autocast():
        loss = model(**inputs).logits.sum()
    loss.backward()
    model.zero_grad()


def estimated_cases(args, shape: Path) -> dict:
    """Estimates and plans for LoRA and QLoRA; prints them."""
    result, tokens = {}, args.batch_size * args.max_length
    layers = Qwen2Config.from_json_file(shape / "config.json").num_hidden_layers
    with tempfile.TemporaryDirectory() as scratch:
        folders = [random_base(shape, Path(scratch) / str(n), layers=n) for n in (1, 2)]
        for kind, quantize, gb in (("LoRA", False, 8), ("QLoRA", True, 4)):
            estimate, passes = estimate_of(args, layers, folders, quantize)
            print(kind, *(f"{name} {value}" for name, value in asdict(estimate).items()), sep="  ", flush=True)
            if args.all_layers:
                everything = random_base(shape, Path(scratch) / "all")
                passes += passes_of_all_layers(args, estimate, everything, quantize, gb * GB)
            for row in passes:
                print("  " + pass_line(row))
            plans = {}
            for gb in LIMITS:
                plans[gb] = plan_micro_batches(estimate, gb * GB, longest=args.max_length, rows=args.batch_size)
                print(f"  {gb:2} GB: {describe_micro_batches(plans[gb], Device('cuda', True))}")
            result[kind] = {
                "account": asdict(estimate), "passes": passes,
                "whole_batch": {str(again): estimate.peak_bytes(tokens, again) for again in (False, True)},
                "choices": {gb: asdict(plan) for gb, plan in plans.items()},
            }  # fmt: skip
    return result


def main() -> None:
    args = parse_args()
    if args.case:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(run_case(args, CASES[args.case], folder)))
        return
    result = {"arguments": vars(args).copy(), "environment": environment()}
    if torch.cuda.is_available():
        if args.random_weights:
            args.model_name = str(temporary_random_base(args.model_name))
        result["measured"] = []
        for row in measured_cases(args):
            result["measured"].append(row)
            write_json(args.output, result)  # after each, so that a limit of time loses no other
    else:
        result["estimated"] = estimated_cases(args, Path(find_model(args.model_name)[0]))
        write_json(args.output, result)


if __name__ == "__main__":
    run_script(main)
