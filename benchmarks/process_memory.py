"""Highest resident memory of this process between two moments, on Linux; a GPU's is torch's to say."""

import ctypes
import gc
import re
from pathlib import Path

CLEAR = Path("/proc/self/clear_refs")
M_MMAP_THRESHOLD = -3


def return_freed_memory(at_once: bool = False) -> None:
    """What was freed goes back to the system; `at_once`: from now on also each large block when it is freed."""
    if not CLEAR.exists():
        return
    libc = ctypes.CDLL(None)
    if at_once:
        libc.mallopt(M_MMAP_THRESHOLD, 100_000)
    gc.collect()
    libc.malloc_trim(0)


def reset_peak() -> int | None:
    """Resident bytes now, from where the peak counts anew; None where it cannot be asked for."""
    if not CLEAR.exists():
        return None
    CLEAR.write_text("5")
    return _resident("VmRSS")


def peak() -> int | None:
    """Most resident bytes since `reset_peak`."""
    return _resident("VmHWM") if CLEAR.exists() else None


def _resident(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
