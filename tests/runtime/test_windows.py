"""The file operations of Windows, emulated where they differ: handles, folders, names of what is open.

pytest tests/runtime/test_windows.py

An emulation is no proof: docs/reliability.md says what has been tried there and what has not.
"""

import errno
import fcntl
import os
import stat
import types
from pathlib import Path

import pytest
from small_runs import find_checkpoints, go_on, hidden

from prediction import resumable_file
from prediction.resumable_file import PartialFile
from runtime import atomic_files
from runtime.atomic_files import atomic_folder, remove_folder, write_json
from runtime.errors import UserError
from training.checkpoints import fault_of, step_of

if not Path("/proc/self/fd").is_dir():
    pytest.skip("the emulation looks into /proc", allow_module_level=True)


def refused(number: int, *names) -> OSError:
    return OSError(number, os.strerror(number), *map(str, names))


def open_files() -> set[Path]:
    """What this process holds open."""
    return {Path(os.path.realpath(link)) for link in Path("/proc/self/fd").iterdir()}


def windows_open(path, flags, mode=0o777):
    if os.path.isdir(path):
        raise refused(errno.EACCES, path)
    return os.open(path, flags, mode)


def windows_fsync(handle):
    """FlushFileBuffers wants a handle that may write."""
    writable = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    if stat.S_ISREG(os.fstat(handle).st_mode) and not writable:
        raise refused(errno.EBADF)
    os.fsync(handle)


def windows_replace(source, target):
    """Nothing that is open, and no folder with an open file in it, gets another name or is replaced."""
    names = {Path(os.path.realpath(name)) for name in (source, target)}
    held = any(names & {path, *path.parents} for path in open_files())
    if held or (os.path.isdir(target) and os.path.exists(source)):
        raise refused(errno.EACCES, source, target)
    os.replace(source, target)


@pytest.fixture
def windows(monkeypatch):
    """The modules that write files see another `os`; os.name itself would change pathlib for all."""
    system = types.SimpleNamespace(**vars(os))
    del system.O_NOFOLLOW
    system.name, system.open, system.fsync = "nt", windows_open, windows_fsync
    system.replace = system.rename = windows_replace
    for module in (atomic_files, resumable_file):
        monkeypatch.setattr(module, "os", system)
    monkeypatch.setattr(atomic_files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(atomic_files.time, "sleep", lambda seconds: None)
    return system


def test_files_and_folders_are_written_and_replaced(windows, tmp_path):
    for number in (1, 2):
        write_json(tmp_path / "metrics.json", number)
        with atomic_folder(tmp_path / "adapter") as new:
            (new / "weights").write_text(str(number))
        assert (tmp_path / "metrics.json").read_text() == f"{number}\n"
        assert (tmp_path / "adapter" / "weights").read_text() == str(number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "metrics.json"]


def test_a_training_saves_checkpoints_and_goes_on_from_them(windows, small_base, tmp_path):
    settings = {"max_steps": 6, "save_steps": 2, "eval_steps": 3}
    go_on(small_base, tmp_path, **settings)
    remove_folder(find_checkpoints(tmp_path)[0])
    assert go_on(small_base, tmp_path, **settings).state.global_step == 6
    found = find_checkpoints(tmp_path)
    assert step_of(found[0]) == 6 and not any(map(fault_of, found)) and not hidden(tmp_path)


def test_an_output_of_many_pieces_takes_its_name(windows, tmp_path):
    target = tmp_path / "out.jsonl"
    target.write_bytes(b"old\n")
    with PartialFile(target, {"model": "a"}, resume=False) as partial:
        partial.append(b"new\n", rows=1)
        partial.finish()
    assert target.read_bytes() == b"new\n" and [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_output_that_a_spreadsheet_has_open_is_named_and_the_answers_are_kept(windows, tmp_path):
    target = tmp_path / "out.csv"
    target.write_bytes(b"old\n")
    with (
        open(target),
        pytest.raises(UserError, match=r"别的程序正打开着.*--resume"),
        PartialFile(target, {"model": "a"}, resume=False) as partial,
    ):
        partial.append(b"new\n", rows=1)
        partial.finish()
    with PartialFile(target, {"model": "a"}, resume=True) as partial:
        assert partial.rows == 1 and target.read_bytes() == b"old\n"
        partial.finish()
    assert target.read_bytes() == b"new\n"


def test_a_folder_that_another_program_has_open_is_named_and_stays(windows, tmp_path):
    with atomic_folder(tmp_path / "adapter") as new:
        (new / "weights").write_text("old")
    with (
        open(tmp_path / "adapter" / "weights"),
        pytest.raises(UserError, match="别的程序正打开着"),
        atomic_folder(tmp_path / "adapter") as new,
    ):
        (new / "weights").write_text("new")
    assert (tmp_path / "adapter" / "weights").read_text() == "old" and not hidden(tmp_path)


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_name(windows, tmp_path):
    """The virus scanner holds a new file open for good."""
    with atomic_folder(tmp_path / "adapter") as new:
        (new / "weights").write_text("old")

    with pytest.raises(UserError, match="别的程序正打开着"), atomic_folder(tmp_path / "adapter") as new:
        (new / "weights").write_text("new")
        held = open(new / "weights")  # noqa: SIM115 (held until the end)
    held.close()
    assert (tmp_path / "adapter" / "weights").read_text() == "old" and not hidden(tmp_path)


def test_a_moment_of_the_virus_scanner_is_waited_for(windows, tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr(atomic_files.time, "sleep", lambda seconds: held.pop().close())
    with atomic_folder(tmp_path / "adapter") as new:
        (new / "weights").write_text("new")
        held.append(open(new / "weights"))  # noqa: SIM115 (closed by the wait)
    assert (tmp_path / "adapter" / "weights").read_text() == "new" and not held
