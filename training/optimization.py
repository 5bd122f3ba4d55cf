"""Loss, optimizer, and a dropout that is cheap on a CPU: what one training step computes beside the model.

loss = mean_cross_entropy(outputs, labels, rows_of_the_step)
optim = optimizer_name(config.optim, config.use_qlora, device)
"""

from collections.abc import Sequence

import torch
from torch import nn

from configs.training_config import ADAMW, PAGED_ADAMW
from modeling.devices import EAGER_ATTENTION_TOKENS, Device
from runtime.errors import UserError


def mean_cross_entropy(
    outputs,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    *,
    weights: torch.Tensor | None = None,
    over_vocabulary: bool = False,
) -> torch.Tensor:
    """Cross-entropy summed over the rows (B,) and divided by the rows of the whole optimizer step.

    With `weights` (C,) each row counts by its label's. They are 1 on average over the training rows, so rows are
    what the sum is divided by in either case; dividing by the weights of the step would undo part of them.
    Thus 4 x 4 gives the gradient of 16 x 1, also where the last batch is smaller. Left to itself,
    Trainer 5.x takes Qwen2's classifier for one that divides by itself and skips the division
    (https://github.com/huggingface/transformers/issues/47688).
    """
    # Label scores are log-probabilities over the vocabulary already; a softmax over them is one over the labels.
    loss = nn.functional.nll_loss if over_vocabulary else nn.functional.cross_entropy
    weights = None if weights is None else weights.to(labels.device)
    total = loss(outputs.logits.float(), labels, weight=weights, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def balanced_weights(labels: Sequence[int]) -> torch.Tensor:
    """rows / (C x rows of the label), (C,): every label weighs the same in all, and a row 1 on average.

    This is sklearn's "balanced" (King & Zeng 2001). Every label id below C occurs.
    """
    counts = torch.bincount(torch.tensor(labels))
    return len(labels) / (len(counts) * counts.float())


def optimizer_name(asked: str | None, use_qlora: bool, device: Device) -> str:
    """Trainer's name of the optimizer: what was `asked` for, or else the one that suits the base and the device.

    QLoRA on CUDA gets the paged one, as in its paper (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).
    """
    if asked is None:
        if device.kind == "mps":
            return "adamw_torch"
        return PAGED_ADAMW if use_qlora and device.kind == "cuda" else ADAMW
    if is_paged(asked) and device.kind == "mps":  # bitsandbytes would ask CUDA for the memory
        raise UserError(f"--optim {asked}：bitsandbytes 的分页优化器不能在 MPS 上运行；去掉这个参数")
    return asked


def is_paged(name: str) -> bool:
    return name.startswith("paged_")


def page_again(optimizer) -> None:
    """Bring a state that was loaded back into paged memory.

    bitsandbytes' `load_state_dict` leaves ordinary copies on the device, which nothing pages any more; those of a
    checkpoint from a GPU call themselves paged on a CPU too, where nothing can be.
    """
    for parameter, state in optimizer.state.items():
        for name in ("state1", "state2"):
            state[name] = optimizer.get_state_buffer(parameter, dtype=state[name].dtype).copy_(state[name])


class CpuDropout(nn.Dropout):
    """Dropout whose mask comes from 16 random bits for each number instead of a float.

    torch draws a mask on most CPUs one double at a time from one thread, which took an eighth of a training
    step. `p` is rounded to a multiple of 1/65536, and the scale is that of the rounded value: the mean is exact.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training or inputs.device.type != "cpu":
            return super().forward(inputs)
        dropped = round(self.p * 2**16)
        return torch.where(random_bits(inputs.shape) >= dropped - 2**15, inputs * (2**16 / (2**16 - dropped)), 0)


def random_bits(shape: torch.Size) -> torch.Tensor:
    """Uniform int16 of this shape, four from each 64-bit draw of torch's generator."""
    count = shape.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)[:count].view(shape)


def faster_on_cpu(model, device: Device, max_length: int) -> None:
    """Change a PEFT model in place: nothing on a GPU."""
    if device.kind != "cpu":
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                setattr(module, name, CpuDropout(child.p))
    if device.bf16 and max_length <= EAGER_ATTENTION_TOKENS:
        # The backward pass of torch's fused attention takes several times as long in bf16 as its matrices would.
        model.get_base_model().set_attn_implementation("eager")
