"""`run_info.json`: enough about a run to repeat it and to trust its numbers."""

import dataclasses
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers", "snownlp")


def versions() -> dict[str, str | None]:
    """Versions of Python and the packages that a result depends on; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def git_state() -> dict[str, Any]:
    """Commit of this repository and whether files beside benchmark results differ from it; None outside git."""

    def git(*arguments: str) -> str | None:
        try:
            return subprocess.run(
                ["git", "-C", str(REPOSITORY), *arguments],
                capture_output=True,
                check=True,
                encoding="utf-8",
                errors="replace",
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    status = git("status", "--porcelain", "--", ".", ":!benchmarks/results")  # figures change no behaviour
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def device_name() -> str:
    """The GPU's name, or the CPU's with its number of threads."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    return f"{name}（{torch.get_num_threads()} 线程）"


def environment() -> dict[str, Any]:
    """Versions, commit, device and time (UTC): the part of every result file that says where it was made."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"versions": versions(), "git": git_state(), "device": device_name(), "time": now}


def run_info(
    *, configs: list[Any], run, data: dict[str, str], seconds: float, metrics: dict[str, Any]
) -> dict[str, Any]:
    """Resolved configuration, environment, data fingerprints, seconds of this process, and metrics."""
    settings = {key: value for config in configs for key, value in dataclasses.asdict(config).items()}
    return {
        "run_id": run.run_id,
        "fingerprint": run.fingerprint,
        "status": "finished",
        "config": settings,
        **environment(),
        "data_fingerprint": data,
        "seconds": round(seconds, 1),
        "metrics": metrics,
    }
