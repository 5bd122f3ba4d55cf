"""Speed of a large base on a CPU with weights of 8 or 4 bits through OpenVINO, beside torch in bfloat16.

    python benchmarks/weight_bits.py --model_name CONFIG_AND_TOKENIZER --random_weights   # e.g. of Qwen2.5-1.5B
    python benchmarks/weight_bits.py --model_name Qwen2.5-1.5B/ --reviews 32

The base gets a fresh classification head, so answers mean nothing; speed and memory are those of a trained one. Reviews
are real ones, sorted by length and cut into batches as `SentimentPredictor` does. Each variant has a process of its
own, whose highest resident memory is said, conversion included. Needs requirements-deploy.txt. Writes one JSON file
with versions, commit and device.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from predict_speed import MAX_LENGTH, reviews
from process_memory import peak
from random_weights import temporary_random_base
from torch import nn

from data.dataset import LABEL_NAMES
from data.preprocessing import encode_texts
from modeling.base_model import for_serving, load_base, load_tokenizer
from modeling.batching import BATCH_TOKENS, batches_by_length, pad, predict_logits
from modeling.devices import Device
from runtime.atomic_files import write_json
from runtime.run_info import environment

TORCH = "torch bf16"
OPENVINO = {"openvino bf16": None, "openvino int8": "INT8_SYM", "openvino int4": "INT4_SYM"}  # NNCF's names
GB = 10**9


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", required=True, help="model folder")
    parser.add_argument("--random_weights", action="store_true", help="the folder has only config and tokenizer")
    parser.add_argument("--reviews", type=int, default=32, help="reviews, from the embedded validation and test splits")
    parser.add_argument("--repeats", type=int, default=2, help="timed runs over all reviews; the fastest counts")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # this variant, in this process
    parser.add_argument("--output", default="benchmarks/results/weight_bits.json")
    return parser.parse_args()


class LastToken(nn.Module):
    """(input_ids (B, T), last (B,)) -> logits (B, C): no mask, since padding stands behind all that is read."""

    def __init__(self, model):
        super().__init__()
        self.decoder, self.score = model.get_decoder(), model.score

    def forward(self, input_ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        hidden = self.decoder(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, T, D)
        return self.score(hidden[torch.arange(input_ids.shape[0]), last])


def predictor_of(variant: str, folder: str, tokenizer) -> Callable[[list[list[int]]], np.ndarray]:
    """(N rows of token ids) -> logits (N, C), computed by this variant."""
    torch.manual_seed(0)
    device = Device("cpu", True, torch.bfloat16)
    model = load_base(folder, tokenizer, labels=LABEL_NAMES, quantize=False, dtype=torch.bfloat16, device=device)
    model = for_serving(model, device, quantize=False)
    if variant == TORCH:
        model.set_attn_implementation("eager")  # as modeling/lora.py serves it
        return lambda rows: predict_logits(model, rows, tokenizer.pad_token_id)

    sys.modules.setdefault("openvino_telemetry", None)  # it would report the conversion
    import nncf
    import openvino

    free = {0: torch.export.Dim("batch", max=1024), 1: torch.export.Dim("length", max=MAX_LENGTH)}
    example = (torch.ones(2, 8, dtype=torch.long), torch.ones(2, dtype=torch.long))
    with torch.no_grad():
        converted = openvino.convert_model(
            torch.export.export(LastToken(model), example, dynamic_shapes=(free, {0: free[0]}))
        )
    if bits := OPENVINO[variant]:
        converted = nncf.compress_weights(converted, mode=getattr(nncf.CompressWeightsMode, bits))
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})

    def predict(rows: list[list[int]]) -> np.ndarray:
        logits = np.zeros((len(rows), len(LABEL_NAMES)), np.float32)
        for batch in batches_by_length([len(row) for row in rows], BATCH_TOKENS["cpu"]):
            inputs = pad([rows[i] for i in batch], tokenizer.pad_token_id, multiple=1)
            last = inputs["attention_mask"].sum(dim=1) - 1
            logits[batch] = compiled([inputs["input_ids"].numpy(), last.numpy()])[0]
        return logits

    return predict


def measure(variant: str, args: argparse.Namespace) -> dict:
    """Speed, memory and logits of one variant, in this process."""
    tokenizer = load_tokenizer(args.model_name)
    rows = encode_texts(tokenizer, reviews(args.reviews), MAX_LENGTH)
    predict = predictor_of(variant, args.model_name, tokenizer)
    logits, seconds = predict(rows[:2]), []  # warms up
    for _ in range(args.repeats):
        start = time.perf_counter()
        logits = predict(rows)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "peak_bytes": peak(), "logits": logits.tolist()}


def main() -> None:
    args = parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args)))
        return
    shown = vars(args).copy()
    if args.random_weights:
        args.model_name = str(temporary_random_base(args.model_name))
    rows, expected, slowest = [], None, None
    for variant in (TORCH, *OPENVINO):
        command = [sys.executable, __file__, "--model_name", args.model_name, "--only", variant]
        command += ["--reviews", str(args.reviews), "--repeats", str(args.repeats)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(run.stdout.splitlines()[-1])
        logits, seconds = np.array(found.pop("logits")), min(found["seconds"])
        if expected is None:
            expected, slowest = logits, seconds
        rows.append({
            "variant": variant, "texts_per_second": args.reviews / seconds, "ratio": slowest / seconds,
            "logits_difference": float(np.abs(logits - expected).mean()), "logits_spread": float(expected.std()),
            **found,
        })  # fmt: skip
        memory = f", peak {found['peak_bytes'] / GB:.1f} GB" if found["peak_bytes"] else ""
        print(
            f"{variant:14} {rows[-1]['texts_per_second']:7.2f} texts/s, {rows[-1]['ratio']:5.2f} times torch bf16"
            f"{memory}; logits differ by {rows[-1]['logits_difference']:.3f} (they spread by {expected.std():.3f})",
            flush=True,
        )
    write_json(args.output, {"arguments": shown, "engines": rows, "environment": environment()})


if __name__ == "__main__":
    main()
