"""Memory that a training step takes, the micro-batches that fit what there is, and the Trainer that computes them.

    estimate = estimate_memory(model, device, longest=256)       # two small forward passes
    plan = plan_micro_batches(estimate, limit, longest=256, rows=8)
    plan.max_tokens, plan.activation_checkpointing

A batch whose padded tokens are more than `max_tokens` is computed in micro-batches, rows at a time; the gradients add
up to those of the whole batch, because the loss is a sum divided by the rows of the step. Activation checkpointing is
the dearer way out (half as much work again in each step, where micro-batches cost nothing but the kernels' smaller
inputs), so it comes second. Only batches that are too long are split, so most steps run whole. When memory runs out all
the same, the step is done again from its beginning in micro-batches of half the size, which then stays.
"""

import dataclasses
import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from transformers import Trainer

from modeling.batching import BATCH_TOKENS, extra_tokens, pad, padded_length
from modeling.devices import Device
from runtime.errors import OneProcessError, UserError, is_out_of_memory

GB = 10**9
# What lies beside the tensors: CUDA's context, its kernels and workspaces; Python with its libraries.
RUNTIME_BYTES = {"cuda": 700_000_000, "mps": 800_000_000, "cpu": 800_000_000}
MARGIN = 1.1  # what an allocator loses between blocks
# Tokens of the row that is counted; on a CPU as long as the rows get, since attention there can keep (T, T) scores.
MOST_PROBE_TOKENS = {"cuda": 128, "mps": 128, "cpu": 512}
# The reentrant kind needs an input that requires a gradient, which a frozen embedding's output does not by itself:
# where nothing sees to that, the adapter silently gets none.
CHECKPOINTING = {"use_reentrant": False}


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


class MicroBatchTrainer(Trainer):
    """`plan` says how a batch is computed. The loss must be a sum over rows divided by the rows of the step."""

    plan = MicroBatchPlan()

    def use_plan(self, plan: MicroBatchPlan) -> None:
        """Compute batches so from now on; activation checkpointing once begun goes on."""
        self.plan = plan
        if plan.activation_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=CHECKPOINTING)

    def get_batch_samples(self, *args, **kwargs):
        """Trainer asks for the batches of each optimizer step once, at its beginning."""
        self.batches_of_step = []
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Loss of a batch, its gradient added. After a lack of memory all batches of this step are done again."""
        self.batches_of_step.append(inputs)
        pending = [inputs]
        while True:
            try:
                for batch in pending:
                    loss = self._step_in_micro_batches(model, batch, num_items_in_batch)
                return loss
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside `except`, whose traceback would keep the activations alive.
            self._use_less_memory(batch["input_ids"].shape)
            model.zero_grad()  # a backward pass that broke off has left gradients in some layers
            pending = self.batches_of_step

    def _step_in_micro_batches(self, model, inputs, num_items_in_batch) -> torch.Tensor:
        batch, length = inputs["input_ids"].shape
        rows = self.plan.rows(batch, length + extra_tokens(self.model))
        losses = []
        for start in range(0, batch, rows):
            micro_batch = {name: value[start : start + rows] for name, value in inputs.items()}
            # Processes exchange gradients once for each batch, with its last micro-batch.
            is_last = start + rows >= batch
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                losses.append(super().training_step(model, micro_batch, num_items_in_batch))
        return sum(losses)

    def _use_less_memory(self, shape: tuple[int, int]) -> None:
        """Halve the micro-batches, then begin activation checkpointing, then give up; says which."""
        from accelerate.utils.memory import clear_device_cache

        clear_device_cache(garbage_collection=True)
        batch, length = shape[0], shape[1] + extra_tokens(self.model)
        rows, step = self.plan.rows(batch, length), self.state.global_step + 1
        if self.accelerator.num_processes > 1:
            raise OneProcessError(
                f"第 {step} 步内存不足。多个进程时不能中途改小："
                "加 --max_memory_gb（每个进程的上限，单位 GB），再运行同一条命令接着训练"
            )
        if rows > 1:
            rows = math.ceil(rows / 2)
            self.use_plan(dataclasses.replace(self.plan, max_tokens=rows * length))
            change = f"从现在起每次最多算 {rows * length:,} 个 token（这一批每次 {rows} 条）"
        elif not self.plan.activation_checkpointing:
            self.use_plan(dataclasses.replace(self.plan, activation_checkpointing=True))
            change = "从现在起反向时重算激活"
        else:
            raise UserError(
                f"第 {step} 步内存不足：重算激活、每次只算一条（{length} 个 token）也放不下。"
                "加 --use_qlora，或减小 --max_length，或关掉占用显存的其他程序"
            )
        print(f"\n第 {step} 步内存不足：{change}，这一步重新算；梯度不变，训练接着进行。", flush=True)
