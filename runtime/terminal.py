"""Tables and progress bars for a terminal, where a Chinese character takes two columns; plain lines for a log file.

print(text_table([["种子", "准确率"], ["1", "0.9130"]]))
with ProgressBar(1200, "评估", "条") as bar:
    bar.update(8)
"""

import shutil
import sys
import time
import unicodedata
from collections.abc import Sequence

from tqdm import tqdm

from runtime.processes import is_main

WIDTH = 80  # columns that every table and bar fits into
LOG_SECONDS = 10  # between two lines of a log file
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit} 已用 {elapsed} 剩 {remaining}{postfix}"


class ProgressBar(tqdm):
    """A bar on a terminal, which goes away when it is done; anywhere else a line every ten seconds.

    A log file so gets no carriage returns, and nothing at all of what is quickly done. Of several processes the first
    one shows it.
    """

    def __init__(self, total: int, title: str | None, unit: str, *, initial: int = 0):
        shown = title is not None and is_main()
        terminal = sys.stderr.isatty()
        super().__init__(
            total=total, desc=title, unit=unit, initial=initial, leave=False, disable=not (shown and terminal),
            bar_format=BAR, ncols=min(WIDTH, shutil.get_terminal_size().columns),
            nrows=20,  # some terminals do not know their size, and tqdm would show them nothing
        )  # fmt: skip
        self.title, self.unit_name, self.first = title, unit, initial
        self.is_log = shown and not terminal
        self.postfix: str | None = None
        self.begun = self.last_line = time.monotonic()

    def update(self, n: float | None = 1) -> bool | None:
        """Count `n` more as done."""
        if not self.is_log:
            return super().update(n)
        self.n += n
        now = time.monotonic()
        if now - self.last_line < LOG_SECONDS:
            return False
        self.last_line = now
        print(self._line(now - self.begun), file=sys.stderr, flush=True)
        return True

    def _line(self, seconds: float) -> str:
        done = self.n - self.first
        left = seconds / done * (self.total - self.n) if done else None
        line = (
            f"{self.title} {self.n:,}/{self.total:,} {self.unit_name}（{self.n / self.total:.0%}）"
            f" 已用 {self.format_interval(seconds)}"
        )
        if left is not None:
            line += f" 剩 {self.format_interval(left)}"
        return line + (f", {self.postfix}" if self.postfix else "")


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """One line for each row; a column is as wide as its widest cell, with two blanks between columns."""
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    return "\n".join(table_line(row, widths) for row in rows)


def table_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One row of a table whose widths are known before its rows are."""
    padded = [cell + " " * max(0, width - display_width(cell)) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()


def display_width(text: str) -> int:
    """Columns in a terminal: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(ch) in "WF" else 1 for ch in text)
