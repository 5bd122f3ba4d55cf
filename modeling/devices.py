"""The device to compute on, and the precisions that it computes best in."""

import contextlib
from dataclasses import dataclass

import torch

LARGE_HIDDEN_SIZE = 1024  # Qwen2.5-1.5B has 1,536


@dataclass(frozen=True)
class Device:
    """`kind` is cuda, mps or cpu; `bf16` says whether it multiplies bfloat16 matrices in hardware."""

    kind: str
    bf16: bool

    @property
    def weights_dtype(self) -> torch.dtype:
        """Precision of the frozen base: half the memory where that costs no speed."""
        return torch.bfloat16 if self.kind == "cuda" and self.bf16 else torch.float32

    def serving_dtype(self, hidden_size: int) -> torch.dtype:
        """Precision of a merged model: that of the base, but bf16 for a large one on a CPU that multiplies it.

        That is twice as fast there; small ones stay exact. What bf16 changes is in docs/performance.md.
        """
        large = hidden_size >= LARGE_HIDDEN_SIZE
        return torch.bfloat16 if self.kind == "cpu" and self.bf16 and large else self.weights_dtype

    def autocast(self, enabled: bool = True):
        """bf16 autocast where the hardware has it, else nothing."""
        if not (enabled and self.bf16):
            return contextlib.nullcontext()
        return torch.autocast(self.kind, dtype=torch.bfloat16)


def best_device() -> Device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        # Cards before Ampere emulate bf16, slower than float32.
        return Device("cuda", torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.backends.mps.is_available():
        return Device("mps", False)
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # bf16 is ARM's name
    return Device("cpu", has_bf16)
