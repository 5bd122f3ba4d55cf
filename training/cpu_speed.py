"""Faster training on a CPU, with no result changed beyond rounding; figures in docs/performance.md."""

import torch
from torch import nn

from modeling.devices import Device

# Where scores of (T, T) still fit the caches; with longer rows torch's own kernel is the faster one.
EAGER_ATTENTION_TOKENS = 512


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
