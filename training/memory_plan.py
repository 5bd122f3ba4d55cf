"""How much memory a training step takes, and how many tokens of a batch may be computed at once.

    account = measure(model, device)                    # one small forward pass
    pieces = choose(account, limit, longest=256, rows=8)
    pieces.max_tokens, pieces.recompute

A batch whose padded tokens are more than `max_tokens` is computed in pieces, rows at a time; the
gradients add up to those of the whole batch, because the loss is a sum divided by the rows of the
step. Recomputation is the dearer way out (half as much work again in each step, where pieces cost
nothing but the kernels' smaller inputs), so it comes second.
"""

from dataclasses import dataclass

import torch

from modeling.batching import BATCH_TOKENS, extra_tokens, pad, padded_length
from modeling.devices import Device

GB = 10**9
# What lies beside the tensors: CUDA's context, its kernels and workspaces; Python with its libraries.
RUNTIME = {"cuda": 700_000_000, "mps": 800_000_000, "cpu": 800_000_000}
MARGIN = 1.1  # what an allocator loses between blocks
# Tokens of the row that is counted; on a CPU as long as the rows get, since attention there can keep (T, T) scores.
MOST_PROBE_TOKENS = {"cuda": 128, "mps": 128, "cpu": 512}


@dataclass(frozen=True)
class Account:
    """Bytes of one forward and backward pass. `benchmarks/memory.py` holds it against what is measured."""

    weights: int  # the model as it lies: bf16, float32 or 4 bits, and the adapter
    training: int  # gradients and AdamW's two moments of the trained weights, float32
    per_pass: int  # what autograd keeps whatever the number of tokens (casts of weights)
    per_token: int  # what autograd keeps for each padded token, all layers together
    hidden: int  # of these, the input of one layer
    layers: int
    device: str  # kind

    @property
    def runtime(self) -> int:
        return RUNTIME[self.device]

    def slope(self, recompute: bool) -> float:
        """Bytes for each padded token. The layer at work needs about as much again as it keeps."""
        layer = self.per_token / self.layers
        return (self.layers * self.hidden + 2 * layer) if recompute else self.per_token + layer

    def fixed(self, recompute: bool) -> float:
        return self.weights + self.training + self.per_pass / (self.layers if recompute else 1)

    def peak(self, tokens: int, recompute: bool) -> int:
        """Bytes at the highest point of a pass over `tokens` padded tokens."""
        return int(self.runtime + MARGIN * (self.fixed(recompute) + tokens * self.slope(recompute)))

    def tokens_within(self, limit: int, recompute: bool) -> int:
        """The most padded tokens whose pass stays within `limit` bytes; below 0 where the weights do not."""
        return int(((limit - self.runtime) / MARGIN - self.fixed(recompute)) / self.slope(recompute))

    def prediction_tokens(self, limit: int) -> int:
        """The same for a pass without gradients, one layer at work and nothing kept; no more than is usual."""
        within = ((limit - self.runtime) / MARGIN - self.fixed(True)) / (2 * self.per_token / self.layers)
        return min(int(within), BATCH_TOKENS[self.device])


@dataclass(frozen=True)
class Pieces:
    """How a batch is computed. `max_tokens`, `prediction_tokens`: None for as many as there are."""

    max_tokens: int | None = None
    recompute: bool = False
    prediction_tokens: int | None = None
    needed: int | None = None  # estimated bytes at the highest point
    limit: int | None = None

    def rows(self, batch: int, length: int) -> int:
        """How many of `batch` rows padded to `length` are computed at once: equal shares, one at least."""
        at_once = batch if self.max_tokens is None else max(1, self.max_tokens // length)
        return -(-batch // -(-batch // at_once))

    @property
    def too_much(self) -> bool:
        return self.limit is not None and self.needed > self.limit


def choose(account: Account, limit: int, *, longest: int, rows: int, recompute: bool = False) -> Pieces:
    """The fewest pieces, without recomputation if one row of `longest` tokens fits so; `recompute` asks for it anyway.

    Where not even one row with recomputation fits, that is what is returned, and it is `too_much`.
    """
    longest = padded_length(longest)
    prediction = max(account.prediction_tokens(limit), longest)
    for again in [True] if recompute else [False, True]:
        tokens = account.tokens_within(limit, again)
        if tokens >= longest or again:
            at_once = min(max(tokens, longest), rows * longest)
            max_tokens = at_once if at_once < rows * longest else None
            at_once = Pieces(max_tokens).rows(rows, longest) * longest
            return Pieces(max_tokens, again, prediction, account.peak(at_once, again), limit)
    raise AssertionError("recomputation is the last resort")


def measure(model, device: Device, longest: int) -> Account:
    """The account of a model on its device, by two small forward passes; the random state stays as it was."""
    least = padded_length(1)
    most = max(2 * least, padded_length(min(longest, MOST_PROBE_TOKENS[device.kind])))
    short, long = _kept_bytes(model, device, least), _kept_bytes(model, device, most)
    per_token = -(-(long - short) // (most - least))
    in_each_row = least + extra_tokens(model)
    parameters = list(model.parameters())
    # Where weights are float32 the hidden states between layers are, also under autocast.
    element = 2 if any(p.dtype == torch.bfloat16 for p in parameters) else 4
    return Account(
        weights=sum(p.numel() * p.element_size() for p in parameters),
        training=sum(3 * 4 * p.numel() for p in parameters if p.requires_grad),
        per_pass=max(0, short - in_each_row * per_token),
        per_token=per_token,
        hidden=model.config.hidden_size * element,
        layers=model.config.num_hidden_layers,
        device=device.kind,
    )


def _kept_bytes(model, device: Device, length: int) -> int:
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
        limits.append(free + torch.cuda.memory_reserved() + RUNTIME["cuda"])
    return min(limits, default=None)


def cap_memory(device: Device, max_memory_gb: float | None) -> None:
    """What was asked for holds even if the estimate does not: torch then runs out of memory, and goes on in halves."""
    if device.kind == "cuda" and max_memory_gb is not None:
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        share = (max_memory_gb * GB - RUNTIME["cuda"]) / total
        torch.cuda.set_per_process_memory_fraction(min(max(share, 0.0), 1.0))
