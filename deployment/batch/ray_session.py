"""Ray as batch_predict.py uses it: connected, silent, its errors turned into ours."""

import io
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runtime.errors import UserError, first_line
from runtime.run_info import REPOSITORY
from runtime.signals import interrupt_on_signals

# Ray is quiet, sends nothing to anyone, and our progress bar is the only one. Who asks for no GPU sees none.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_LOG_LEVEL": "CRITICAL", "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}  # fmt: skip
# Ray's name for a node that listens on 127.0.0.1 alone, the default on other systems than Linux: whoever reaches its
# ports can run programs.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
CONNECT_SECONDS = 10


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The module `ray`, connected to a cluster, or to processes of its own on this machine, which end with this."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():  # Ray would try for minutes
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise UserError(f"--address：连不上 {address}（{error.strerror or error}）") from None
    os.environ.update(QUIET if address else QUIET | LOOPBACK)  # read when it is imported
    try:
        import ray
    except ImportError:
        raise UserError("还没有装 Ray：pip install -r requirements-deploy.txt（Python 3.11 或更新）") from None
    # Its workers find this repository where it is not installed, as it lies here.
    options: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": str(REPOSITORY), **QUIET}}}
    if address is None:
        options |= {"address": "local", "include_dashboard": False}
    else:
        options["address"] = address
    with silent_libraries():
        try:
            ray.init(logging_level="CRITICAL", log_to_driver=False, **options)
        except ConnectionError as error:
            raise UserError(f"--address：连不上 {address}（{first_line(error)}）") from None
        interrupt_on_signals()  # Ray has put its own handlers in their place
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Ray's C++ writes to the terminal whatever it is told; only what Python prints gets there from here on.

    All that Ray has to say is in its own logs, /tmp/ray/session_latest/logs.
    """
    stderr, terminal = sys.stderr, os.dup(2)
    if stderr is sys.__stderr__:
        sys.stderr = io.TextIOWrapper(
            io.FileIO(terminal, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True
        )
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        sys.stderr = stderr
        os.close(terminal)


def results_of(ray, references: list) -> list:
    """Results of remote calls; a `UserError` that one of them met is raised here as itself."""
    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        raise mistake_or(error) from None


def rows_of(ray, dataset) -> Iterator[dict[str, Any]]:
    """The same for the rows of a data set, as they come."""
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayTaskError as error:
        raise mistake_or(error) from None


def mistake_or(error: Any) -> BaseException:
    """The user's mistake that Ray has wrapped; `error` itself where it is none."""
    return UserError(str(error.cause)) if isinstance(error.cause, UserError) else error
