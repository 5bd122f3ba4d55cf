"""Nothing lost: killed at every file operation, broken in every way, stopped by signals, on a full disk, twice at once.

`tests/kill_resume.py` does the same to real runs; docs/reliability.md shows both.
"""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from small import REPOSITORY, assert_one_message, run_script, small_reviews
from transformers import TrainerCallback, set_seed

from configs.errors import UserError
from configs.interrupts import Interrupted, interrupt_on_signals
from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig
from data import atomic
from data.atomic import atomic_folder, atomic_write, clean_leftovers, recover_folder
from data.rows import Rows
from modeling.best_adapter import BestAdapter
from modeling.builder import build_for_training
from modeling.checkpoints import (
    CheckpointStore,
    Run,
    choose_checkpoint,
    fault_of,
    find_checkpoints,
    finished_run_id,
    mark_finished,
    step_of,
)
from modeling.output_lock import LOCK, output_lock
from modeling.prediction import pad
from modeling.training import build_trainer, tokenize

resource = pytest.importorskip("resource", reason="kills by SIGKILL, forks and limits file sizes: not on Windows")

# ---- Killed at every operation on files -------------------------------------------------------------------------

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


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def killed_everywhere(folder: Path, prepare, action, check) -> int:
    """Fill `folder` anew, do `action` in a child that is killed at its n-th operation, `check`; for each n there is."""
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


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".*")]


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
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
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


def staged(folder: Path, step: int, run: Run, keep: int = 2, resumed: Path | None = None) -> CheckpointStore:
    """A store with a small checkpoint of `step` ready to be committed."""
    store = CheckpointStore(folder, run, keep, resumed)
    (store.staging / f"checkpoint-{step}").mkdir(parents=True)
    for name in ("adapter_model.safetensors", "optimizer.pt"):
        (store.staging / f"checkpoint-{step}" / name).write_text(f"{name} of {step}")
    return store


def commit(folder: Path, step: int, run: Run, **kwargs) -> None:
    staged(folder, step, run, **kwargs).commit(f"checkpoint-{step}")


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


def test_files_are_written_through_data_atomic(tmp_path):
    """These alone write for themselves: into a folder that has no final name yet, or what is no output."""
    known = {
        "data/atomic.py", "data/seen_texts.py", "modeling/best_adapter.py", "modeling/stopping.py",
        "modeling/output_lock.py", "tiny_base/pretrain.py",
    }  # fmt: skip
    direct = re.compile(
        r"write_text\(|write_bytes\(|save_file\(|open\([^)]*[\"'][wx]b?[\"']|copyfile\(|\.to_csv\(|savefig\("
    )
    paths = [
        path for path in REPOSITORY.rglob("*.py") if path.relative_to(REPOSITORY).parts[0] not in ("tests", ".venv")
    ]
    found = {str(path.relative_to(REPOSITORY)) for path in paths if direct.search(path.read_text(encoding="utf-8"))}
    assert found <= known and "data/seen_texts.py" in found


# ---- Training in this process ------------------------------------------------------------------------------------

SETTINGS = {"max_steps": 30, "save_steps": 7, "eval_steps": 4, "batch_size": 4, "learning_rate": 3e-3}


def make_trainer(small_base, folder, checkpoint=None, run=None, **settings):
    config = TrainingConfig(model_name=str(small_base), output_dir=str(folder), max_length=64, **(SETTINGS | settings))
    set_seed(config.seed)
    model, tokenizer = build_for_training(config, LoraSettings())
    reviews = [
        Rows([r["text"] for r in part], [r["label"] for r in part]) for part in (small_reviews(50), small_reviews(9))
    ]
    tokenized = {
        name: tokenize(rows, tokenizer, 64) for name, rows in zip(("train", "validation"), reviews, strict=True)
    }
    return build_trainer(config, model, tokenizer, tokenized, run or Run({}), checkpoint)


def go_on(small_base, folder, **settings):
    """A new process's trainer, as train.py makes it, after its training."""
    checkpoint, _ = choose_checkpoint(folder, "auto", run := Run({}))
    trainer = make_trainer(small_base, folder, checkpoint, run, **settings)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


def outcome(trainer, folder):
    """What must be the same in the end, however often it was interrupted."""
    newest = find_checkpoints(folder)[0]
    tensors = get_peft_model_state_dict(trainer.finished_model())
    return {
        "adapter": {name: tensor.tolist() for name, tensor in tensors.items()},
        "best": (trainer.best.step, trainer.best.accuracy, trainer.best.loss, trainer.best.misses),
        "log": json.loads((newest / "trainer_state.json").read_text())["log_history"],
        "checkpoints": [path.name for path in find_checkpoints(folder)][:1],
    }


@pytest.fixture(scope="module")
def whole(small_base, tmp_path_factory):
    """(outcome, folder) of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return outcome(go_on(small_base, folder), folder), folder


class At(TrainerCallback):
    """Do something when step `step` begins."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def interrupt(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


# 3 is a log line, 4 an evaluation, 7 a checkpoint, 13 the end of an epoch, 30 the last step.
@pytest.mark.parametrize("steps", [[1, 4], [3, 7, 13], [30]], ids=str)
def test_stopped_by_a_signal_after_any_step_it_ends_with_the_same_bits(small_base, tmp_path, whole, steps):
    for step, number in zip(steps, [signal.SIGTERM, signal.SIGINT] * 2, strict=False):
        checkpoint, _ = choose_checkpoint(tmp_path, "auto", run := Run({}))
        trainer = make_trainer(small_base, tmp_path, checkpoint, run)
        trainer.add_callback(At(step - 1, lambda number=number: interrupt(number)))
        with pytest.raises(Interrupted, match=f"第 {step} 步") as stop:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        assert stop.value.number == number and step_of(find_checkpoints(tmp_path)[0]) == step
        assert not (tmp_path / "lora_adapter").exists()
    assert outcome(go_on(small_base, tmp_path), tmp_path) == whole[0]


VARIANTS = {
    "accumulation": {"batch_size": 2, "gradient_accumulation_steps": 3},
    "qlora": {"use_qlora": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_bits_in_every_way_to_train(small_base, tmp_path, variant):
    settings = VARIANTS[variant] | {"max_steps": 20}
    expected = outcome(go_on(small_base, tmp_path / "whole", **settings), tmp_path / "whole")
    trainer = make_trainer(small_base, tmp_path / "stopped", **settings)
    trainer.add_callback(At(10, interrupt))
    with pytest.raises(Interrupted):
        trainer.train()
    assert outcome(go_on(small_base, tmp_path / "stopped", **settings), tmp_path / "stopped") == expected


def test_an_evaluation_leaves_a_4_bit_base_as_it_was(small_base, tmp_path):
    """On a CPU with AVX512-BF16 bitsandbytes would repack it for inference, rounded, and go on training with that."""
    trainer = make_trainer(small_base, tmp_path, use_qlora=True)

    def gradients():
        set_seed(0)
        trainer.model.train().zero_grad()
        trainer.model(**pad([[5, 6, 7], [8] * 12], 0)).logits.square().sum().backward()
        return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}

    before = gradients()
    trainer.evaluate()
    after = gradients()
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize(("method", "step"), [("evaluate", 4), ("_save_checkpoint", 7)])
def test_a_signal_during_an_evaluation_or_a_save_is_heard_when_it_is_done(
    small_base, tmp_path, whole, monkeypatch, method, step
):
    trainer = make_trainer(small_base, tmp_path)
    original = getattr(trainer, method)
    monkeypatch.setattr(trainer, method, lambda *arguments, **kwargs: (interrupt(), original(*arguments, **kwargs))[1])
    with pytest.raises(Interrupted, match=f"第 {step} 步"):
        trainer.train()
    assert [path.name for path in find_checkpoints(tmp_path)] == [f"checkpoint-{step}"]
    assert outcome(go_on(small_base, tmp_path), tmp_path) == whole[0]


def test_signals_have_their_old_meaning_after_the_training(small_base, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    make_trainer(small_base, tmp_path, max_steps=1).train()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_killed_after_the_last_checkpoint_no_step_is_added(small_base, tmp_path, whole):
    shutil.copytree(whole[1], tmp_path, dirs_exist_ok=True)
    again = go_on(small_base, tmp_path)
    assert again.state.global_step == 0 and outcome(again, tmp_path) == whole[0]


def test_patience_is_kept_and_nothing_follows_its_end(small_base, tmp_path):
    """A constant validation accuracy: the first evaluation is the best, and patience ends at the fourth."""
    settings = {"early_stopping_patience": 3, "learning_rate": 1e-9, "save_steps": 5}
    expected = outcome(go_on(small_base, tmp_path / "whole", **settings), tmp_path / "whole")
    assert expected["checkpoints"] == ["checkpoint-16"] and expected["best"][-1] == 3
    folder = tmp_path / "stopped"
    for step in (6, 13):
        checkpoint, _ = choose_checkpoint(folder, "auto", run := Run({}))
        trainer = make_trainer(small_base, folder, checkpoint, run, **settings)
        trainer.add_callback(At(step, interrupt))
        with pytest.raises(Interrupted):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    assert outcome(go_on(small_base, folder, **settings), folder) == expected
    assert outcome(go_on(small_base, folder, **settings), folder) == expected  # killed while it measured


def test_a_loss_that_is_not_a_number_is_never_the_best(small_base, tmp_path):
    model, _ = build_for_training(TrainingConfig(model_name=str(small_base)), LoraSettings())
    best = BestAdapter(tmp_path)
    for step, loss in enumerate([0.7, float("nan"), 0.6, float("nan")], start=1):
        best.offer(model, 0.5, loss, step)
    assert (best.step, best.loss, best.misses) == (3, 0.6, 1)


# ---- Broken checkpoints ------------------------------------------------------------------------------------------

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


def test_the_matrix_names_every_file_of_a_checkpoint(whole):
    assert sorted(path.name for path in find_checkpoints(whole[1])[0].iterdir() if path.name != "README.md") == FILES


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES)
def test_a_broken_checkpoint_is_passed_over_and_named(whole, tmp_path, name, fault):
    for checkpoint in (newest := find_checkpoints(whole[1])[:2]):
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


def test_training_goes_on_past_a_broken_checkpoint_and_clears_it(small_base, tmp_path, whole):
    trainer = make_trainer(small_base, tmp_path)
    trainer.add_callback(At(15, interrupt))
    with pytest.raises(Interrupted):
        trainer.train()
    broken = find_checkpoints(tmp_path)[0]
    (broken / "optimizer.pt").write_bytes(b"")
    assert outcome(go_on(small_base, tmp_path), tmp_path) == whole[0]
    assert broken.name == "checkpoint-16" and not broken.exists()
    assert len(find_checkpoints(tmp_path)) == 3


@pytest.mark.parametrize("content", ["", "{", "null", "[]", '{"run": 1}', "\x00" * 40])
def test_a_broken_mark_of_the_end_means_that_the_end_is_done_again(whole, tmp_path, content):
    shutil.copytree(find_checkpoints(whole[1])[0], tmp_path / "checkpoint-30")
    (tmp_path / "run_finished.json").write_text(content)
    assert finished_run_id(tmp_path) is None
    assert choose_checkpoint(tmp_path, "auto", Run({}))[0] == tmp_path / "checkpoint-30"


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_is_not_run(small_base, whole, tmp_path, monkeypatch, name):
    """Sealed again by whoever changed it, so the manifest fits."""
    monkeypatch.chdir(tmp_path)
    store = CheckpointStore(tmp_path, Run({}), 3, None)
    shutil.copytree(find_checkpoints(whole[1])[1], store.staging / "checkpoint-28")
    (store.staging / "checkpoint-28" / name).write_bytes(pickle.dumps(Payload()))
    store.commit("checkpoint-28")
    with pytest.raises(UserError, match="checkpoint-28"):
        go_on(small_base, tmp_path)
    assert not (tmp_path / "executed").exists()


# ---- A full disk -------------------------------------------------------------------------------------------------


@pytest.fixture
def largest_file():
    """Call with a number of bytes: no file of this process may grow beyond (EFBIG, as a full disk in all but name)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_at_any_file_of_a_checkpoint_leaves_the_older_ones(
    small_base, tmp_path, whole, largest_file
):
    trainer = make_trainer(small_base, tmp_path)
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
    assert outcome(go_on(small_base, tmp_path), tmp_path) == whole[0]


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
    trainer = make_trainer(small_base, small_disk, max_steps=4)
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


# ---- Two at once, and the real command line ----------------------------------------------------------------------


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
from modeling.output_lock import output_lock
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
from configs.errors import run_script
from configs.interrupts import postponed_interrupts
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
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interrupt_on_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
            patch.setattr("modeling.prediction.predict_logits", lambda *_, number=number, **__: interrupt(number))
            run(tmp_path / "stopped")
        assert stop.value.number == number and not (tmp_path / "stopped" / "lora_adapter").exists()
    capsys.readouterr()
    output = run(tmp_path / "stopped")
    assert "checkpoint-6 继续训练" in output and "'loss'" not in output
    run(tmp_path / "whole")
    weights = [tmp_path / name / "lora_adapter" / "adapter_model.safetensors" for name in ("stopped", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


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
