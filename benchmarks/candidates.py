"""Ways to train faster that train.py does not use, and whether they compute the same: packing and torch.compile.

    python benchmarks/candidates.py                                      # the small base
    python benchmarks/candidates.py --model_name FOLDER --batch_size 32

Logits and LoRA gradients of a few batches, each way against the padded one, in float32 and in the precision of
training. `benchmarks/train_speed.py --candidates` times them. Writes one JSON file with versions, commit and device.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput
from workload import batches_of, build, evenly_spread, review_lengths, rows_of

from modeling.devices import Device, best_device
from runtime.atomic_files import write_json
from runtime.run_info import environment
from training.loss import mean_cross_entropy
from training.tokenized_dataset import collate

BUCKET = 128  # a pack is filled up to a multiple of so many tokens: few shapes, so few CUDA graphs
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # of the largest gradient


class Packed:
    """Mixed into a classifier's class by `as_packed`: rows one behind the other instead of below each other."""

    def forward(self, input_ids, attention_mask=None, *, ends: torch.Tensor | None = None, **kwargs):
        """`ends` (B,): where each row's last token stands in `input_ids` (1, T); without it the padded way."""
        if ends is None:
            return super().forward(input_ids, attention_mask, **kwargs)
        # Positions begin anew with each row; from this transformers makes a block-diagonal causal mask.
        hidden = self.get_decoder()(input_ids=input_ids, position_ids=kwargs["position_ids"]).last_hidden_state
        return SequenceClassifierOutput(logits=self.score(hidden[0, ends]))  # (B, C)


def as_packed(model):
    """A PEFT classifier that takes packs of `collate_packed` as well as padded batches."""
    base = model.get_base_model()
    base.__class__ = type(f"Packed{type(base).__name__}", (Packed, type(base)), {})
    return model


def collate_packed(rows: Sequence[dict], pad_id: int, multiple: int = 1) -> dict[str, torch.Tensor]:
    """`input_ids` and `position_ids` (1, T), `ends` and `labels` (B,).

    T is filled up to a `multiple` by one more row, which nobody reads.
    """
    ids = [row["input_ids"] for row in rows]
    ends = torch.tensor([len(row) for row in ids]).cumsum(0) - 1
    ids.append([pad_id] * (-(int(ends[-1]) + 1) % multiple))
    positions = [position for row in ids for position in range(len(row))]
    return {
        "input_ids": torch.tensor([token for row in ids for token in row])[None],
        "position_ids": torch.tensor(positions)[None],
        "ends": ends,
        "labels": torch.tensor([row["label"] for row in rows]),
    }


class FusedDropout(nn.Dropout):
    """Not torch's own class, so that `faster_on_cpu` leaves it to the compiler, which fuses it."""


def compile_layers(model, mode: str = "default"):
    """Each decoder layer through torch.compile, in place; sizes stay symbols, so that no length compiles anew."""
    torch._dynamo.config.cache_size_limit = 64
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FusedDropout
    for layer in model.get_base_model().get_decoder().layers:
        layer.compile(mode=mode, dynamic=True)
    return model


def changed(name: str, model, pad_id: int):
    """(model, collator) of a candidate: `packed`, `compiled`, or `graphed` (packed in buckets and compiled)."""
    if name == "compiled":
        return compile_layers(model), partial(collate, pad_id=pad_id)
    if name == "packed":
        return as_packed(model), partial(collate_packed, pad_id=pad_id)
    graphs = "reduce-overhead" if best_device().kind == "cuda" else "default"  # CUDA graphs, one for each bucket
    return compile_layers(as_packed(model), graphs), partial(collate_packed, pad_id=pad_id, multiple=BUCKET)


CANDIDATES = {
    "packed": "packed, no padding",
    "compiled": "compiled layers",
    "graphed": f"packed to {BUCKET}s, compiled, CUDA graphs",
}


def answers(model, collator, batches: list[list[dict]], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits of all rows (N, C), LoRA and head gradients of all batches in one vector), dropout off."""
    kind = next(model.parameters()).device.type
    model.zero_grad()
    logits = []
    for batch in batches:
        inputs = {name: value.to(kind) for name, value in collator(batch).items()}
        labels = inputs.pop("labels")
        with Device(kind, bf16=dtype == torch.bfloat16).autocast():
            outputs = model(**inputs)
        mean_cross_entropy(outputs, labels).backward()
        logits.append(outputs.logits.detach().float().cpu())
    gradients = [p.grad.float().flatten().cpu() for p in model.parameters() if p.grad is not None]
    return torch.cat(logits), torch.cat(gradients)


def as_if_trained(model):
    """B random instead of 0, so that A has a gradient too; dropout off, so that all ways compute the same."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def check(args, batches: list[list[dict]], dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Candidate -> how far its logits and gradients are from the padded way's."""
    found, plain = {}, None
    for name in [None, *args.ways]:
        model, tokenizer = build(args.model_name)
        model = as_if_trained(model.to(dtype) if dtype == torch.float32 else model).to(best_device().kind)
        collator = partial(collate, pad_id=tokenizer.pad_token_id)
        if name:
            model, collator = changed(name, model, tokenizer.pad_token_id)
        logits, gradients = answers(model, collator, batches, dtype)
        if not name:
            plain = logits, gradients
            continue
        found[name] = {
            "max_logit_difference": float((logits - plain[0]).abs().max()),
            "max_gradient_difference": float((gradients - plain[1]).abs().max()),
            "largest_gradient": float(plain[1].abs().max()),
        }
    return found


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default="tiny_base", help="hub name or folder")
    parser.add_argument("--ways", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--batch_size", type=int, default=8, help="rows of a batch")
    parser.add_argument("--batches", type=int, default=4, help="batches of different lengths")
    parser.add_argument("--output", default="benchmarks/results/candidates.json")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    chosen = evenly_spread(batches_of(review_lengths(), args.batch_size, grouped=True), args.batches)
    rows = rows_of(chosen, 250)
    batches = [[rows[i] for i in range(k, k + args.batch_size)] for k in range(0, len(rows), args.batch_size)]
    differences, wrong = {}, []
    for dtype in (torch.float32, torch.bfloat16):
        for name, figures in check(args, batches, dtype).items():
            title = f"{name}, {str(dtype).removeprefix('torch.')}"
            differences[title] = figures
            print(
                f"{title:20} logits differ by {figures['max_logit_difference']:.1e} at most, gradients by "
                f"{figures['max_gradient_difference']:.1e} (the largest is {figures['largest_gradient']:.1e})"
            )
            if figures["max_gradient_difference"] > TOLERANCE[dtype] * figures["largest_gradient"]:
                wrong.append(title)
    write_json(args.output, {"arguments": vars(args), "candidates": differences, "environment": environment()})
    if wrong:
        raise SystemExit(f"not the same gradients: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
