"""The device to compute on, and the precisions that it computes best in."""

import contextlib
import dataclasses
from dataclasses import dataclass

import torch

from configs.fields import AUTO

LARGE_HIDDEN_SIZE = 1024  # Qwen2.5-1.5B has 1,536
# On a CPU in bf16, scores of (T, T) that still fit the caches are faster than torch's own kernel.
EAGER_ATTENTION_TOKENS = 512


@dataclass(frozen=True)
class Device:
    """`kind` is cuda, mps or cpu; `bf16` says whether it multiplies bfloat16 matrices in hardware.

    `dtype` is the precision that the user asks for; None leaves the choice to the properties below.
    """

    kind: str
    bf16: bool
    dtype: torch.dtype | None = None

    def asked_for(self, dtype: str) -> "Device":
        """This device with what `--dtype` says: auto, float32 or bfloat16."""
        return self if dtype == AUTO else dataclasses.replace(self, dtype=getattr(torch, dtype))

    @property
    def bulk_dtype(self) -> str:
        """The precision for many texts where the user has named none: bfloat16 wherever it is multiplied in hardware.

        What that gains and costs is in docs/performance.md.
        """
        return "bfloat16" if self.bf16 else "float32"

    @property
    def weights_dtype(self) -> torch.dtype:
        """Precision of the frozen base: half the memory where that costs no speed."""
        if self.dtype:
            return self.dtype
        return torch.bfloat16 if self.kind == "cuda" and self.bf16 else torch.float32

    def serving_dtype(self, hidden_size: int) -> torch.dtype:
        """Precision of a merged model: that of the base, but bf16 for a large one on a CPU that multiplies it.

        That is twice as fast there; small ones stay exact. What bf16 changes is in docs/performance.md.
        """
        large_on_cpu = self.kind == "cpu" and self.bf16 and hidden_size >= LARGE_HIDDEN_SIZE
        return torch.bfloat16 if large_on_cpu and not self.dtype else self.weights_dtype

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
