"""A terminal's columns, where a Chinese character takes two; a log file's lines."""

import io
import sys

import pytest

from runtime import terminal
from runtime.terminal import ProgressBar, display_width, table_line, text_table


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_columns_stand_below_each_other():
    lines = text_table([["种子", "准确率"], ["1", "0.9130"], ["平均数", "0.9"]]).splitlines()
    for line, cell in zip(lines, ("准确率", "0.9130", "0.9"), strict=True):
        assert display_width(line[: line.index(cell)]) == 8
    assert table_line(["步", "1"], [4, 4]) == "步    1"


def test_a_log_file_gets_a_line_every_ten_seconds_and_no_carriage_return(monkeypatch):
    seconds = iter([0, 9, 11, 12, 30])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with ProgressBar(1000, "评估", "条") as bar:
        for _ in range(3):
            bar.update(100)
        bar.set_postfix_str("损失 0.5")
        bar.update(200)
    assert sys.stderr.getvalue().splitlines() == [
        "评估 200/1,000 条（20%） 已用 00:11 剩 00:44",
        "评估 500/1,000 条（50%） 已用 00:30 剩 00:30, 损失 0.5",
    ]


@pytest.mark.parametrize("columns", ["80", "200", "50"])
def test_a_bar_fits_the_terminal_and_eighty_columns_and_goes_away(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar(123456, "训练", "步", initial=1000) as bar:
        bar.set_postfix_str("损失 0.1234, 学习率 9.9e-05")
        bar.update(5000)
        bar.refresh()
    frames = sys.stderr.getvalue().split("\r")
    assert any("损失" in frame and "6000/123456 步" in frame for frame in frames) == (columns != "50")
    assert all(display_width(frame) <= min(80, int(columns)) for frame in frames)
    assert not frames[-1].strip()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
def test_a_terminal_that_does_not_know_its_size_has_a_bar_too(monkeypatch):
    import os
    import pty

    screen, terminal = pty.openpty()  # 0 rows of 0 columns
    with os.fdopen(terminal, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        ProgressBar(10, "评估", "条").close()
        assert "评估   0%|" in os.read(screen, 65536).decode()
    os.close(screen)


def test_only_the_first_process_shows_it_and_only_with_a_title(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    ProgressBar(10, None, "条").update(5)
    monkeypatch.setenv("RANK", "1")
    ProgressBar(10, "评估", "条").update(5)
    assert sys.stderr.getvalue() == ""
