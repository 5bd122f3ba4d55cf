"""One training at a time in one output folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.errors import UserError, writing_to
from runtime.processes import is_main

LOCK, OWNER = ".train.lock", ".train.pid"


@contextmanager
def output_lock(folder: str | Path) -> Iterator[None]:
    """Make `folder` and keep it for this process until the end of the block, or of the process, however it ends.

    A second process gets a `UserError` that names the first. Of several processes that train together
    (torchrun, accelerate) the first one keeps it for all.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    if not is_main():
        yield
        return
    try:
        with writing_to(folder / OWNER):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / LOCK, timeout=0)
            lock.acquire()
            (folder / OWNER).write_text(str(os.getpid()))  # apart: on Windows nobody can read a locked file
    except Timeout:
        raise UserError(
            f"{folder.resolve()} 里正在进行另一次训练（进程 {_owner(folder)}）。等它结束，或换一个 --output_dir"
        ) from None
    except OSError as error:
        raise UserError(f"--output_dir：不能写到 {folder}（{error.strerror}）") from None
    try:
        yield
    finally:
        _leave_nothing(folder)
        lock.release()


def _leave_nothing(folder: Path) -> None:
    """A run that wrote nothing (a mistyped name, say) takes its folder away again; a folder with anything in it stays.

    While the lock is held: whoever waits for the file that is gone is told so by filelock, and makes a new one.
    """
    with suppress(OSError):  # gone already; or Windows, which removes no file that is open
        if {path.name for path in folder.iterdir()} <= {LOCK, OWNER}:
            for name in (LOCK, OWNER):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()


def _owner(folder: Path) -> str:
    try:
        return str(int((folder / OWNER).read_text()))
    except (OSError, ValueError):
        return "？"
