"""Broken checkpoints, full disks: what is broken is named, what is whole is used and kept."""

import os
import pickle
import shutil
import subprocess

import pytest
from small_runs import At, commit, go_on, hidden, interrupt, outcome, resumable_trainer

from runtime.atomic_files import atomic_folder
from runtime.errors import UserError
from runtime.signals import Interrupted
from training.checkpoints import (
    CheckpointStore,
    Run,
    choose_checkpoint,
    fault_of,
    find_checkpoints,
    finished_run_id,
)

resource = pytest.importorskip("resource", reason="limits file sizes: not on Windows")

FILES = [
    "adapter_config.json", "adapter_model.safetensors", "best_adapter.json", "best_adapter.safetensors",
    "loss_since_last_log.json", "manifest.json", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json",
]  # fmt: skip
FAULTS = {
    "missing": lambda content: None,
    "truncated": lambda content: content[: len(content) // 2],
    "last byte gone": lambda content: content[:-1],
    "empty": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "one bit flipped": lambda content: flip(content, 4 * len(content)),
}


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_the_matrix_names_every_file_of_a_checkpoint(whole_run):
    names = {path.name for path in find_checkpoints(whole_run[1])[0].iterdir()}
    assert sorted(names - {"README.md"}) == FILES


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES)
def test_a_broken_checkpoint_is_passed_over_and_named(whole_run, tmp_path, name, fault):
    for checkpoint in (newest := find_checkpoints(whole_run[1])[:2]):
        shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    newest, older = (tmp_path / path.name for path in newest)
    content = FAULTS[fault]((newest / name).read_bytes())
    (newest / name).unlink() if content is None else (newest / name).write_bytes(content)
    chosen, notes = choose_checkpoint(tmp_path, "auto", Run({}))
    assert chosen == older and newest.name in notes[0] and name in notes[0] and len(notes) == 2
    with pytest.raises(UserError, match=f"{newest.name} 不完整.*{name}"):
        choose_checkpoint(tmp_path, str(newest), Run({}))
    shutil.rmtree(older)
    with pytest.raises(UserError, match=f"{name}.*\n.*没有完整的检查点"):
        choose_checkpoint(tmp_path, "auto", Run({}))
    assert choose_checkpoint(tmp_path, "none", Run({})) == (None, [])
    with pytest.raises(UserError, match="没有检查点文件夹"):
        choose_checkpoint(tmp_path, str(older), Run({}))


def test_every_bit_of_a_manifest_counts(tmp_path):
    commit(tmp_path, 4, Run({"学习率": 1e-5, "文件": "a"}))
    manifest = tmp_path / "checkpoint-4" / "manifest.json"
    content = manifest.read_bytes()
    assert b"1e-05" in content and fault_of(manifest.parent) is None
    for bit in range(0, 8 * len(content), 3):
        manifest.write_bytes(flip(content, bit))
        assert "manifest.json" in fault_of(manifest.parent), bit


def test_training_goes_on_past_a_broken_checkpoint_and_clears_it(small_base, tmp_path, whole_run):
    trainer = resumable_trainer(small_base, tmp_path)
    trainer.add_callback(At(15, interrupt))
    with pytest.raises(Interrupted):
        trainer.train()
    broken = find_checkpoints(tmp_path)[0]
    (broken / "optimizer.pt").write_bytes(b"")
    assert outcome(go_on(small_base, tmp_path), tmp_path) == whole_run[0]
    assert broken.name == "checkpoint-16" and not broken.exists()
    assert len(find_checkpoints(tmp_path)) == 3


@pytest.mark.parametrize("content", ["", "{", "null", "[]", '{"run": 1}', "\x00" * 40])
def test_a_broken_mark_of_the_end_means_that_the_end_is_done_again(whole_run, tmp_path, content):
    shutil.copytree(find_checkpoints(whole_run[1])[0], tmp_path / "checkpoint-30")
    (tmp_path / "run_finished.json").write_text(content)
    assert finished_run_id(tmp_path) is None
    assert choose_checkpoint(tmp_path, "auto", Run({}))[0] == tmp_path / "checkpoint-30"


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_is_not_run(small_base, whole_run, tmp_path, monkeypatch, name):
    """Sealed again by whoever changed it, so the manifest fits."""
    monkeypatch.chdir(tmp_path)
    store = CheckpointStore(tmp_path, Run({}), 3, None)
    shutil.copytree(find_checkpoints(whole_run[1])[1], store.staging / "checkpoint-28")
    (store.staging / "checkpoint-28" / name).write_bytes(pickle.dumps(Payload()))
    store.commit("checkpoint-28")
    with pytest.raises(UserError, match="checkpoint-28"):
        go_on(small_base, tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def largest_file():
    """Call with a number of bytes: no file of this process may grow beyond (EFBIG, as a full disk in all but name)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_at_any_file_of_a_checkpoint_leaves_the_older_ones(
    small_base, tmp_path, whole_run, largest_file
):
    trainer = resumable_trainer(small_base, tmp_path)
    trainer.add_callback(At(13, interrupt))
    with pytest.raises(Interrupted):
        trainer.train()
    before = sorted(tmp_path.rglob("*"))
    sizes = sorted({path.stat().st_size for path in find_checkpoints(tmp_path)[0].iterdir()})
    for size in [0, *(size - 1 for size in sizes)]:
        largest_file(size)
        with pytest.raises(UserError, match=r"写不进 .*checkpoint-14.*还剩.*MB.*重新运行同一条命令"):
            trainer._save_checkpoint(trainer.model)
        largest_file(resource.RLIM_INFINITY)
        assert sorted(tmp_path.rglob("*")) == before
        assert all(fault_of(path) is None for path in find_checkpoints(tmp_path))
    assert outcome(go_on(small_base, tmp_path), tmp_path) == whole_run[0]


def test_a_disk_that_is_full_at_the_end_leaves_the_old_adapter_and_names_the_folder(tmp_path, largest_file):
    for word, size in [("old", resource.RLIM_INFINITY), ("new", 1000)]:
        largest_file(size)
        try:
            with atomic_folder(tmp_path / "lora_adapter") as new:
                (new / "weights").write_text(word * 999)
        except UserError as error:
            assert word == "new" and "lora_adapter" in str(error) and "MB" in str(error)
    largest_file(resource.RLIM_INFINITY)
    assert (tmp_path / "lora_adapter" / "weights").read_text() == "old" * 999 and not hidden(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_real_full_disk(small_base, small_disk):
    """With no, one, two … pages free: a checkpoint is refused, or as large as it should be."""
    trainer = resumable_trainer(small_base, small_disk, max_steps=4)
    trainer.train()
    before, filler = sorted(small_disk.rglob("*")), small_disk / "filler"
    sizes = {path.name: path.stat().st_size for path in find_checkpoints(small_disk)[0].iterdir()}
    trainer.state.global_step, saved = 5, 0
    for pages in range(50):
        free = os.statvfs(small_disk)
        filler.write_bytes(bytes(max(0, free.f_bavail - pages) * free.f_bsize))
        try:
            trainer._save_checkpoint(trainer.model)
        except UserError as error:
            assert "写不进" in str(error) and "checkpoint-5" in str(error) and not saved
        else:
            saved += 1
            assert sizes.keys() == {path.name for path in (small_disk / "checkpoint-5").iterdir()}
            assert sizes["optimizer.pt"] == (small_disk / "checkpoint-5" / "optimizer.pt").stat().st_size
            assert fault_of(small_disk / "checkpoint-5") is None
            shutil.rmtree(small_disk / "checkpoint-5")
        filler.unlink()
        assert sorted(small_disk.rglob("*")) == before and fault_of(small_disk / "checkpoint-4") is None
    assert 0 < saved < 40
