"""Memory that a training step takes, and the micro-batches that fit what there is.

    estimate = estimate_memory(model, device, longest=256)       # two small forward passes
    plan = plan_micro_batches(estimate, limit, longest=256, rows=8)
    plan.max_tokens, plan.activation_checkpointing

A batch whose padded tokens are more than `max_tokens` is computed in micro-batches, rows at a time; the gradients add
up to those of the whole batch, because the loss is a sum divided by the rows of the step. Activation checkpointing is
the dearer way out (half as much work again in each step, where micro-batches cost nothing but the kernels' smaller
inputs), so it comes second.
"""

import math
from dataclasses import dataclass

import torch

from modeling.batching import BATCH_TOKENS, extra_tokens, pad, padded_length
from modeling.devices import Device

GB = 10**9
# What lies beside the tensors: CUDA's context, its kernels and workspaces; Python with its libraries.
RUNTIME_BYTES = {"cuda": 700_000_000, "mps": 800_000_000, "cpu": 800_000_000}
MARGIN = 1.1  # what an allocator loses between blocks
# Tokens of the row that is counted; on a CPU as long as the rows get, since attention there can keep (T, T) scores.
MOST_PROBE_TOKENS = {"cuda": 128, "mps": 128, "cpu": 512}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one forward and backward pass. `benchmarks/memory.py` holds it against what is measured."""

    weights: int  # the model as it lies: bf16, float32 or 4 bits, and the adapter
    training: int  # gradients and AdamW's two moments of the trained weights, float32
    per_pass: int  # what autograd keeps whatever the number of tokens (casts of weights)
    per_token: int  # what autograd keeps for each padded token, all layers together
    hidden: int  # of these, the input of one layer
    layers: int
    device: str  # kind

    def bytes_per_token(self, checkpointing: bool) -> float:
        """Bytes for each padded token. The layer at work needs about as much again as it keeps."""
        layer = self.per_token / self.layers
        if checkpointing:
            return self.layers * self.hidden + 2 * layer
        return self.per_token + layer

    def fixed_bytes(self, checkpointing: bool) -> float:
        """Bytes that do not depend on the number of tokens; of `per_pass` one layer at a time is kept."""
        per_pass = self.per_pass / self.layers if checkpointing else self.per_pass
        return self.weights + self.training + per_pass

    def peak_bytes(self, tokens: int, checkpointing: bool) -> int:
        """Bytes at the highest point of a pass over `tokens` padded tokens."""
        tensors = self.fixed_bytes(checkpointing) + tokens * self.bytes_per_token(checkpointing)
        return int(RUNTIME_BYTES[self.device] + MARGIN * tensors)

    def tokens_within(self, limit: int, checkpointing: bool) -> int:
        """The most padded tokens whose pass stays within `limit` bytes; below 0 where the weights do not."""
        left = (limit - RUNTIME_BYTES[self.device]) / MARGIN - self.fixed_bytes(checkpointing)
        return int(left / self.bytes_per_token(checkpointing))

    def prediction_tokens(self, limit: int) -> int:
        """The same for a pass without gradients, one layer at work and nothing kept; no more than is usual."""
        left = (limit - RUNTIME_BYTES[self.device]) / MARGIN - self.fixed_bytes(checkpointing=True)
        within = left / (2 * self.per_token / self.layers)
        return min(int(within), BATCH_TOKENS[self.device])


@dataclass(frozen=True)
class MicroBatchPlan:
    """The way a batch is computed. `max_tokens`, `prediction_tokens`: None for as many as there are."""

    max_tokens: int | None = None
    activation_checkpointing: bool = False
    prediction_tokens: int | None = None
    needed: int | None = None  # estimated bytes at the highest point
    limit: int | None = None  # bytes there are

    def rows(self, batch: int, length: int) -> int:
        """Rows of each micro-batch, of `batch` rows padded to `length` tokens: equal shares, one row at least."""
        if self.max_tokens is None:
            return batch
        most = max(1, self.max_tokens // length)
        micro_batches = math.ceil(batch / most)
        return math.ceil(batch / micro_batches)

    @property
    def exceeds_limit(self) -> bool:
        return self.limit is not None and self.needed > self.limit


def plan_micro_batches(
    estimate: MemoryEstimate, limit: int, *, longest: int, rows: int, checkpointing: bool = False
) -> MicroBatchPlan:
    """The fewest micro-batches for batches of `rows` rows of up to `longest` tokens within `limit` bytes.

    Activation checkpointing comes in where not one row fits without it, or where `checkpointing` asks for it. Where
    not even one row fits with it, that is what is returned, and it `exceeds_limit`.
    """
    longest = padded_length(longest)
    checkpointing = checkpointing or estimate.tokens_within(limit, False) < longest
    max_tokens = max(estimate.tokens_within(limit, checkpointing), longest)
    if max_tokens >= rows * longest:
        max_tokens = None
    at_once = MicroBatchPlan(max_tokens).rows(rows, longest) * longest
    return MicroBatchPlan(
        max_tokens=max_tokens,
        activation_checkpointing=checkpointing,
        prediction_tokens=max(estimate.prediction_tokens(limit), longest),
        needed=estimate.peak_bytes(at_once, checkpointing),
        limit=limit,
    )


def estimate_memory(model, device: Device, longest: int) -> MemoryEstimate:
    """Estimate of a model on its device, by two small forward passes; the random state stays as it was."""
    # Two rows of different lengths: the difference is what tokens cost, the rest does not depend on them.
    short = padded_length(1)
    long = max(2 * short, padded_length(min(longest, MOST_PROBE_TOKENS[device.kind])))
    short_bytes = _activation_bytes(model, device, short)
    long_bytes = _activation_bytes(model, device, long)
    per_token = math.ceil((long_bytes - short_bytes) / (long - short))
    per_pass = short_bytes - per_token * (short + extra_tokens(model))

    parameters = list(model.parameters())
    # Where weights are float32 the hidden states between layers are, also under autocast.
    element = 2 if any(p.dtype == torch.bfloat16 for p in parameters) else 4
    return MemoryEstimate(
        weights=sum(p.numel() * p.element_size() for p in parameters),
        training=sum(3 * 4 * p.numel() for p in parameters if p.requires_grad),
        per_pass=max(0, per_pass),
        per_token=per_token,
        hidden=model.config.hidden_size * element,
        layers=model.config.num_hidden_layers,
        device=device.kind,
    )


def _activation_bytes(model, device: Device, length: int) -> int:
    """Bytes that autograd keeps for the backward pass of one row of `length`, a token of it padding: with a mask."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    where = next(model.parameters()).device
    inputs = {name: value.to(where) for name, value in pad([[1] * (length - 1)], 0).items()}
    was_training = model.training
    model.train()
    with (
        torch.random.fork_rng(devices=[where] if where.type == "cuda" else []),  # dropout draws
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        device.autocast(),
    ):
        outputs = model(**inputs)  # alive until all is counted
    model.train(was_training)
    del outputs
    return sum(kept.values())


def memory_limit(device: Device, max_memory_gb: float | None) -> int | None:
    """Bytes this process may use in all: what was asked for, and on a GPU no more than what is free; None if any."""
    limits = [] if max_memory_gb is None else [int(max_memory_gb * GB)]
    if device.kind == "cuda":
        free, _ = torch.cuda.mem_get_info()
        limits.append(free + torch.cuda.memory_reserved() + RUNTIME_BYTES["cuda"])
    return min(limits, default=None)


def cap_memory(device: Device, max_memory_gb: float | None) -> None:
    """Hold torch to what was asked for, also where the estimate is too low: it then runs out and goes on in halves."""
    if device.kind == "cuda" and max_memory_gb is not None:
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        share = (max_memory_gb * GB - RUNTIME_BYTES["cuda"]) / total
        torch.cuda.set_per_process_memory_fraction(min(max(share, 0.0), 1.0))
