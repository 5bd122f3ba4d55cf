"""Ctrl-C and SIGTERM: one message and exit code 130 or 143; where it matters, a stop in good order."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.processes import is_main, world_size

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "终止信号（SIGTERM）"}


class Interrupted(KeyboardInterrupt):
    """The user or the system asked this process to end; the exit code is 128 + `number`."""

    def __init__(self, number: int, message: str = "已中断。写完整的文件都还在；重新运行同一条命令即可。"):
        super().__init__(message)
        self.number, self.message = number, message


def interrupt_on_signals() -> None:
    """From now on both signals raise `Interrupted`; one that the caller chose to ignore (nohup) stays ignored."""
    for number in _ours():
        signal.signal(number, _interrupt)


def _interrupt(number, frame) -> None:
    end_quietly()
    raise Interrupted(number)


def end_quietly() -> None:
    """From now on another SIGTERM changes nothing (timeout and make both send one), another Ctrl-C ends at once."""
    for number in _ours():
        signal.signal(number, signal.SIG_IGN if number == signal.SIGTERM else signal.SIG_DFL)


@contextmanager
def postponed_interrupts(notice: str) -> Iterator[list[int]]:
    """Within, a first Ctrl-C or SIGTERM is only noted in the list and answered with `notice`; a second one kills."""
    received: list[int] = []

    def note(number, frame):
        received.append(number)
        for other in previous:
            signal.signal(other, signal.SIG_DFL)
        text = f"\n收到 {NAMES[number]}：{notice}{_launchers_patience()}\n"
        if is_main():  # torchrun hands a signal on to all
            os.write(2, text.encode(sys.stderr.encoding or "utf-8", "replace"))  # print may not be entered twice

    previous = {number: signal.signal(number, note) for number in _ours()}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _launchers_patience() -> str:
    """The time in seconds that torchrun lets several processes go on after a signal, and how to have more.

    Its flag `--shutdown-timeout` cannot be seen from here; the variable goes for `accelerate launch` too.
    """
    if world_size() == 1:
        return ""
    name = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
    return (
        f"启动器（torchrun）只等 {os.environ.get(name, 30)} 秒，到时没做完的也退回上一个检查点；"
        f"一步或一次评估更久的，下次启动前设环境变量 {name}=秒数。"
    )


def _ours() -> list[int]:
    """The signals that this thread may handle: Python gives them to the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
