"""Files and folders are whole, wherever the process that writes them is killed. docs/reliability.md shows it all."""

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from small import REPOSITORY
from small_runs import commit, hidden, staged

from runtime import atomic_files
from runtime.atomic_files import atomic_folder, atomic_write, clean_leftovers, recover_folder
from training.checkpoints import (
    CheckpointStore,
    Run,
    choose_checkpoint,
    fault_of,
    find_checkpoints,
    mark_finished,
    step_of,
)

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "tempfile.mkstemp", "tempfile.mkdtemp"}


def kill_at_operation(number: int) -> None:
    """SIGKILL to this process before its `number`-th operation that changes the file system."""
    left = [number]

    def hook(event, arguments):
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed_everywhere(folder: Path, prepare, action, check) -> int:
    """Fill `folder` anew, do `action` in a child that is killed at its n-th operation, `check`; for each n there is."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    for number in range(1, 200):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        prepare(folder)
        if not (child := os.fork()):
            kill_at_operation(number)
            action(folder)
            os._exit(0)
        survived = os.waitpid(child, 0)[1] == 0
        check(folder, survived)
        if survived:
            return number - 1
    raise AssertionError("the action has no end")


def test_a_file_is_the_old_or_the_new_one_wherever_the_writer_is_killed(tmp_path):
    def action(folder):
        with atomic_write(folder / "metrics.json") as file:
            file.write("new" * 9999)

    def check(folder, survived):
        assert (folder / "metrics.json").read_text() in (["new" * 9999] if survived else ["old", "new" * 9999])
        clean_leftovers(folder)
        assert not hidden(folder)

    points = killed_everywhere(tmp_path / "f", lambda f: (f / "metrics.json").write_text("old"), action, check)
    assert points >= 4


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_a_folder_is_the_old_or_the_new_one_wherever_the_writer_is_killed(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(atomic_files, "_exchange", lambda one, other: False)
    elif sys.platform != "linux":
        pytest.skip("only Linux exchanges two names in one step")

    def fill(folder, word):
        for name in ("weights", "config", "tokenizer"):
            (folder / name).write_text(word)

    def prepare(folder):
        (folder / "lora_adapter").mkdir()
        fill(folder / "lora_adapter", "old")
        (folder / "lora_adapter" / "only the old one has it").write_text("old")

    def action(folder):
        with atomic_folder(folder / "lora_adapter") as new:
            fill(new, "new")

    def check(folder, survived):
        adapter = folder / "lora_adapter"
        assert exchange is False or adapter.is_dir()  # with an exchange there is always one
        recover_folder(adapter)
        contents = {path.name: path.read_text() for path in adapter.iterdir()}
        assert set(contents.values()) in ([{"new"}] if survived else [{"old"}, {"new"}])
        assert len(contents) == (4 if "old" in contents.values() else 3)
        clean_leftovers(folder)
        assert not hidden(folder) and adapter.is_dir()

    assert killed_everywhere(tmp_path / "f", prepare, action, check) >= 8


def test_a_checkpoint_is_whole_or_not_there_wherever_its_writer_is_killed(tmp_path):
    """Sealing, renaming and the removal of older ones."""
    run, other = Run({"a": 1}), Run({"a": 2})

    def prepare(folder):
        commit(folder, 99, other)
        commit(folder, 12, other)
        store = staged(folder, 4, run)  # the first of its run: the other run's go
        store.commit("checkpoint-4")
        commit(folder, 8, run, resumed=folder / "checkpoint-4")
        assert [path.name for path in find_checkpoints(folder)] == ["checkpoint-8", "checkpoint-4"]

    def action(folder):
        commit(folder, 12, run, resumed=folder / "checkpoint-8")

    def check(folder, survived):
        found = find_checkpoints(folder)
        assert all(fault_of(path) is None for path in found)
        chosen, notes = choose_checkpoint(folder, "auto", Run({"a": 1}))
        assert step_of(chosen) in ([12] if survived else [8, 12]) and len(notes) == 1
        CheckpointStore(folder, run, 2, chosen)
        assert not hidden(folder)

    assert killed_everywhere(tmp_path / "f", prepare, action, check) >= 10


def test_the_first_checkpoint_of_a_new_run_is_found_wherever_it_was_killed(tmp_path):
    """After a finished run its checkpoints have higher numbers; the new run's must win once it is there."""
    old, new = Run({"a": 1}), Run({"a": 2})

    def prepare(folder):
        for step in (36, 40):
            commit(folder, step, old, resumed=folder / "checkpoint-36")
        mark_finished(folder, old)

    def check(folder, survived):
        chosen, _ = choose_checkpoint(folder, "auto", Run({"a": 2}))
        assert chosen == (folder / "checkpoint-4" if (folder / "checkpoint-4").exists() else None)
        assert not survived or [path.name for path in find_checkpoints(folder)] == ["checkpoint-4"]

    assert killed_everywhere(tmp_path / "f", prepare, lambda folder: commit(folder, 4, new), check) >= 10


def test_files_that_killed_processes_left_do_not_pile_up(tmp_path):
    left = tmp_path / ".结果[1].json.abcdefgh.unfinished"
    left.write_text("half")
    other = tmp_path / ".结果[1].json.live.unfinished"
    other.write_text("someone is writing this now")
    os.utime(left, (0, 0))
    with atomic_write(tmp_path / "结果[1].json") as file:
        file.write("{}")
    assert hidden(tmp_path) == [other.name]


def test_a_linked_folder_stays_a_link(tmp_path):
    (tmp_path / "big disk").mkdir()
    (tmp_path / "lora_adapter").symlink_to(tmp_path / "big disk")
    for word in ("one", "two"):
        with atomic_folder(tmp_path / "lora_adapter") as new:
            (new / "weights").write_text(word)
    assert (tmp_path / "lora_adapter").is_symlink() and (tmp_path / "big disk" / "weights").read_text() == "two"
    assert not hidden(tmp_path)


def test_outputs_are_written_through_atomic_files(tmp_path):
    """These alone write for themselves: into a folder that has no final name yet, or what is no output."""
    known = {
        "runtime/atomic_files.py", "data/seen_texts.py", "training/callbacks.py", "runtime/file_lock.py",
        "model_evaluation/report/svg.py", "modeling/adapter_folder.py", "deployment/batch/ray_session.py",
        "deployment/exports/exporting.py", "deployment/exports/graph_folder.py", "deployment/exports/merged_folder.py",
        "tiny_base/pretrain.py", "runtime/errors.py", "benchmarks/predict_load.py", "benchmarks/process_memory.py",
    }  # fmt: skip
    direct = re.compile(
        r"write_text\(|write_bytes\(|save_file\(|open\([^)]*[\"'][wx]b?[\"']|copyfile\(|\.to_csv\(|savefig\("
    )
    paths = [
        path for path in REPOSITORY.rglob("*.py") if path.relative_to(REPOSITORY).parts[0] not in ("tests", ".venv")
    ]
    found = {str(path.relative_to(REPOSITORY)) for path in paths if direct.search(path.read_text(encoding="utf-8"))}
    assert found <= known and "data/seen_texts.py" in found
