"""Two trainings at once, Ctrl-C, SIGTERM, and how a script ends; on the real command line."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from small import REPOSITORY, assert_one_message, kept_handlers, run_script
from small_runs import hidden, interrupt

from runtime.errors import UserError
from runtime.file_lock import LOCK, output_lock
from runtime.signals import Interrupted, interrupt_on_signals
from training.checkpoints import (
    fault_of,
    find_checkpoints,
    step_of,
)
from training.trainer import SentimentTrainer

resource = pytest.importorskip("resource", reason="limits file sizes: not on Windows")


def test_a_second_run_in_the_same_folder_ends_at_once_and_names_the_first(tmp_path):
    with output_lock(tmp_path):
        before = sorted(tmp_path.rglob("*"))
        result = run_script("train.py", "--preset", "tiny", "--output_dir", tmp_path)
        assert_one_message(result, str(tmp_path), f"进程 {os.getpid()}", "--output_dir")
        assert sorted(tmp_path.rglob("*")) == before
    with output_lock(tmp_path):
        pass


def test_a_killed_process_leaves_no_lock_and_its_children_hold_none(tmp_path):
    code = f"""
import subprocess, time
from runtime.file_lock import output_lock
with output_lock({str(tmp_path)!r}):
    child = subprocess.Popen(["sleep", "60"])
    print(child.pid, flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    with pytest.raises(UserError, match=f"进程 {process.pid}"), output_lock(tmp_path):
        pass
    process.kill()
    process.wait()
    try:
        assert (tmp_path / LOCK).exists()
        with output_lock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_of_processes_that_train_together_the_first_keeps_the_lock(tmp_path, monkeypatch):
    with output_lock(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with output_lock(tmp_path):
            pass


def test_an_output_folder_that_cannot_be_one_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output_dir：不能写到 .*file"), output_lock(tmp_path / "file"):
        pass


SCRIPT = """
import errno, os, signal, sys
from runtime.errors import run_script
from runtime.signals import postponed_interrupts
def main():
    {body}
run_script(main)
"""


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, ["已中断", "重新运行同一条命令"]),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, ["已中断", "重新运行同一条命令"]),
        ("raise OSError(errno.ENOSPC, 'No space left', '/tmp/缓存')", 2, ["写不进 /tmp/缓存", "还剩", "MB"]),
        ("with postponed_interrupts('稍等'): [os.kill(os.getpid(), n) for n in (2, 15)]", -15, ["收到 Ctrl-C：稍等"]),
        ("signal.signal(2, signal.SIG_IGN)\n    with postponed_interrupts(''): os.kill(os.getpid(), 2)", 0, []),
        ("os.kill(os.getppid(), 0)", 0, []),
    ],
    ids=["SIGTERM", "Ctrl-C", "disk full anywhere", "second signal", "ignored signal", "nothing"],
)
def test_how_a_script_ends(body, code, words):
    result = run_script("-c", SCRIPT.format(body=body))
    assert result.returncode == code and "Traceback" not in result.stderr, result.stderr
    assert all(word in result.stderr for word in words) and bool(words) == bool(result.stderr)


@contextmanager
def handlers():
    """As `run_script` installs them, for a while."""
    with kept_handlers():
        interrupt_on_signals()
        yield


def interrupted_at_the_end(number):
    """`SentimentTrainer.logits_of`, sound in an evaluation and interrupted in the prediction after the training."""
    original = SentimentTrainer.logits_of

    def logits_of(self, rows, title):
        return original(self, rows, title) if title == "评估" else interrupt(number)

    return logits_of


def test_interrupted_in_the_final_prediction_only_the_end_is_done_again(
    small_base, review_files, tmp_path, monkeypatch, capsys
):
    import train

    def run(folder):
        command = ["train.py", "--model_name", small_base, *review_files, "--max_length", "64", "--output_dir", folder]
        monkeypatch.setattr(sys, "argv", [*map(str, command), "--max_steps", "6", "--eval_steps", "4"])
        train.main()
        return capsys.readouterr().out

    for number in (signal.SIGTERM, signal.SIGINT):
        with handlers(), monkeypatch.context() as patch, pytest.raises(Interrupted) as stop:
            patch.setattr("training.trainer.SentimentTrainer.logits_of", interrupted_at_the_end(number))
            run(tmp_path / "stopped")
        assert stop.value.number == number and not (tmp_path / "stopped" / "lora_adapter").exists()
    capsys.readouterr()
    output = run(tmp_path / "stopped")
    assert "checkpoint-6 继续训练" in output and "'loss'" not in output
    run(tmp_path / "whole")
    weights = [tmp_path / name / "lora_adapter" / "adapter_model.safetensors" for name in ("stopped", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_time_before_the_interruption_counts(small_base, review_files, tmp_path, monkeypatch):
    import train

    def run():
        command = ["train.py", "--model_name", small_base, *review_files, "--max_length", "64", "--max_steps", "4"]
        monkeypatch.setattr(sys, "argv", [*map(str, command), "--output_dir", str(tmp_path)])
        train.main()
        return json.loads((tmp_path / "lora_adapter" / "run_info.json").read_text(encoding="utf-8"))["seconds"]

    with handlers(), monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("training.trainer.SentimentTrainer.logits_of", interrupted_at_the_end(signal.SIGTERM))
        patch.setattr("training.callbacks.time.monotonic", itertools.count(step=1000).__next__)
        run()
    assert run() > 1000


def test_a_second_signal_to_end_adds_nothing_to_the_message():
    """timeout and make both send one; the interpreter is then on its way out."""
    program = """
import atexit, os, signal
from runtime.errors import run_script
atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))
run_script(lambda: os.kill(os.getpid(), signal.SIGTERM))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY)
    assert result.returncode == 143 and "已中断" in result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) == 1


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_sigterm_before_the_training_ends_with_a_message(tmp_path):
    process = start("train.py", "--preset", "tiny", "--output_dir", tmp_path)
    assert "正在载入" in process.stdout.readline()
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "重新运行同一条命令" in errors and "Traceback" not in errors
    assert not find_checkpoints(tmp_path)


def test_ctrl_c_saves_and_says_how_to_go_on_and_a_full_disk_ends_with_one_message(small_base, review_files, tmp_path):
    command = [
        "train.py", "--model_name", small_base, *review_files, "--max_length", "64", "--num_epochs", "900",
        "--save_steps", "3", "--output_dir", tmp_path,
    ]  # fmt: skip
    process = start(*command)
    while process.poll() is None and not find_checkpoints(tmp_path):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    newest = find_checkpoints(tmp_path)[0]
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert "收到 Ctrl-C" in errors and f"已停在第 {step_of(newest)} 步" in errors and "接着训练" in errors
    assert all(fault_of(path) is None for path in find_checkpoints(tmp_path)) and "接下来" not in output

    full = run_script(*command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    assert_one_message(full, "写不进", "checkpoint-", "MB", "重新运行同一条命令")
    assert f"接着 {newest} 继续训练" in full.stdout and find_checkpoints(tmp_path)[0] == newest
    assert fault_of(newest) is None and sorted(hidden(tmp_path)) == [".train.lock", ".train.pid"]
