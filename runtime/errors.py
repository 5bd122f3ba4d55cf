"""The end of a script: a user's mistake, a full disk, Ctrl-C. One message and an exit code; never a traceback."""

import errno
import io
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.processes import is_main, local_rank, world_size
from runtime.signals import SIGNALS, Interrupted, end_quietly, interrupt_on_signals

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# What the libraries that write files by themselves say instead: torch.save, and those in Rust (112: Windows).
LIBRARY_DISK_FULL = re.compile(r"inline_container|iostream error|os error (28|122|27|30|112)\b")
# How torch (CUDA, MPS, a CPU), CUDA itself, cuBLAS, cuDNN, oneDNN and C++ say that they got no memory.
OUT_OF_MEMORY = (
    " out of memory.", "MPS backend out of memory", "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_NOT_SUPPORTED",
    "could not create a primitive", "could not create a memory", "std::bad_alloc",
)  # fmt: skip

# gloo's and NCCL's words in a process that waits for another which is gone.
LOST_PROCESS = re.compile(r"Connection (closed|reset) by peer|Broken pipe|remote process exited")
SAME_MISTAKE_SECONDS = 5  # in which the first process of a machine meets a mistake that all of them meet


class UserError(Exception):
    """A mistake of the user's: its message says what is wrong, where, and what to do, in her language."""


class OneProcessError(UserError):
    """Met by one of several processes alone, which therefore says so itself, at once."""


def first_line(error: BaseException) -> str:
    """A library's words about a fault, short enough for a message of ours; its kind where it says nothing."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], there: str) -> list[str]:
    """A line for a message of each name whose values differ or that one side lacks; `there` says whose the first is."""
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return [f"  {name}：{there} {theirs.get(name)}，现在 {ours.get(name)}" for name in names]


@contextmanager
def writing_to(path: str | Path) -> Iterator[None]:
    """A disk that takes no more becomes one `UserError` about `path`, whichever library met it."""
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise UserError(disk_full_message(error, path)) from error


def is_disk_full(error: BaseException) -> bool:
    """True for a disk that takes no more, whichever library says so."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_FULL
    return LIBRARY_DISK_FULL.search(str(error)) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """True for an allocation that failed, on a GPU or in main memory; without torch, which may not be imported yet."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def out_of_memory_message(error: BaseException) -> str:
    """For a lack of memory where nothing can be made smaller."""
    return (
        f"内存（GPU 上是显存）不足（{first_line(error)}）。之前写完整的文件都还在。关掉占用它的其他程序后，"
        "重新运行同一条命令；仍不够，训练时加 --use_qlora 或减小 --max_length，预测和评估时换一台内存更大的机器"
    )


def disk_full_message(error: BaseException, path: str | Path) -> str:
    """A message that says where writing failed, how much room is left there in MB (2^20 bytes), and what to do."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    folder = next(parent for parent in Path(path).absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    return (
        f"写不进 {path}（{reason}）；{folder} 所在的磁盘还剩 {free / 2**20:,.1f} MB。"
        "之前写完整的文件都还在。腾出空间（或换一个文件夹）后，重新运行同一条命令即可"
    )


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's `main`: `UserError` becomes a message and exit code 2, Ctrl-C 130, SIGTERM 143.

    Exit code 2 also for what the system refuses (no permission, a file where a folder should be, a name too long, no
    more memory).
    Of several processes the first one speaks, and one on each machine names a mistake. After an error none of them
    waits for the others.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal in GBK has no emoji, and nothing can print half of one
            stream.reconfigure(errors="backslashreplace")
    if not is_main():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open to the end)
        os.environ["TQDM_DISABLE"] = "1"
    interrupt_on_signals()
    try:
        sys.exit(main())
    except UserError as error:
        if local_rank() and not isinstance(error, OneProcessError):
            _let_the_first_process_speak()
        print(f"错误：{error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if is_disk_full(error):  # what is not one of our outputs: a library's cache, a redirected stdout
            message = disk_full_message(error, error.filename or Path.cwd() / "…")
        elif error.strerror:
            where = "".join(f"{name}：" for name in (error.filename, error.filename2) if name is not None)
            message = f"{where}{error.strerror}"
        else:
            raise
        print(f"错误：{message}", file=sys.stderr)
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"错误：{out_of_memory_message(error)}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        end_quietly()
        if is_main():
            print(f"\n{stop.message}", file=sys.stderr)
        sys.exit(128 + stop.number)
    finally:
        if world_size() > 1:
            _end_at_once_after(sys.exc_info()[1])


def _let_the_first_process_speak() -> None:
    """Wait for the end of this process, which comes if the first one of its machine meets the same mistake.

    The launcher then ends all the others. Who is still there after it has met the mistake alone.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    time.sleep(SAME_MISTAKE_SECONDS)


def _end_at_once_after(error: BaseException | None) -> None:
    """End this process if `error` is one, or an exit code that is not 0.

    As a kill would: at an ordinary end the process group is destroyed, and NCCL waits there for the work under way,
    which the other processes have to take part in; they in turn wait for this one.
    """
    code = error.code if isinstance(error, SystemExit) else 1
    if error is None or not code:
        return
    if LOST_PROCESS.search(str(error)):
        message = "另一个进程先断了，这个进程跟着结束；原因见那个进程的消息（没有消息：多半是内存不足，被系统结束了）"
        print(f"\n{message}", file=sys.stderr)
    elif not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 1)
