"""Checkpoints that are whole or not there, and which of them a run may go on from.

Trainer writes a checkpoint file by file under its final name and resumes without a word when some are
missing. Here one is written into a staging folder, gets a manifest (size and SHA-256 of each file, and
which run it belongs to), is flushed to disk, and only then takes its name. docs/reliability.md shows what
it survives.
"""

import hashlib
import json
import re
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.lora_config import LoraSettings
from configs.training_config import BEST_BY_AUTO, RESUME_AUTO, RESUME_NONE, TrainingConfig
from modeling.adapter_folder import read_run_info
from modeling.base_model import BASE, COMMIT
from modeling.devices import best_device
from runtime.atomic_files import (
    clean_leftovers,
    file_sha256,
    fsync_tree,
    json_text,
    remove_folder,
    replace_folder,
    write_json,
)
from runtime.errors import UserError, differences
from runtime.processes import is_main, world_size
from training.optimization import is_paged, optimizer_name

MANIFEST = "manifest.json"
STAGING = ".checkpoint-staging"
FINISHED = "run_finished.json"
NAME = re.compile(r"checkpoint-(\d+)")


@dataclass
class Run:
    """`fingerprint` says what a run computes (setting -> value); `run_id` names this very run, resumed or not."""

    fingerprint: dict[str, Any]
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)


def fingerprint(config: TrainingConfig, lora: LoraSettings, data: dict[str, str]) -> dict[str, Any]:
    """Every setting that a trained adapter depends on.

    What is only about where and how often to write is not in it, nor what is only about memory: after a
    lack of it one may go on with `--gradient_checkpointing` or another `--max_memory_gb`.
    """
    names = (
        "model_name max_length use_qlora num_epochs batch_size gradient_accumulation_steps learning_rate warmup_ratio "
        "weight_decay max_steps eval_steps early_stopping_patience seed "
        "head prompt_template label_words label_loss class_weights"
    )
    settings = {name: getattr(config, name) for name in names.split()}
    if world_size() > 1:
        settings["进程数"] = world_size()
    optimizer = optimizer_name(config.optim, config.use_qlora, best_device())
    if is_paged(optimizer):  # its state is another than that of torch's
        settings["optim"] = optimizer
    if config.best_by != BEST_BY_AUTO:  # auto follows from the data, and in earlier versions it was accuracy
        settings["best_by"] = config.best_by
    return settings | vars(lora) | {f"{split} 数据": digest for split, digest in data.items() if split != "test"}


def find_checkpoints(output_dir: Path) -> list[Path]:
    """`checkpoint-N` folders, the newest (highest N) first."""
    found = [path for path in output_dir.glob("checkpoint-*") if path.is_dir() and NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    return int(NAME.fullmatch(checkpoint.name).group(1))


def fault_of(checkpoint: Path) -> str | None:
    """The fault of a checkpoint, in words, or None if every file is as the manifest says."""
    try:
        manifest = read_manifest(checkpoint)
    except (OSError, ValueError) as error:
        return f"{MANIFEST} 缺失或损坏（{type(error).__name__}）"
    for name, entry in manifest["files"].items():
        path = checkpoint / name
        if checkpoint.resolve() not in path.resolve().parents:
            return f"{MANIFEST} 里的 {name} 在检查点之外"
        try:
            if not path.is_file():
                return f"缺少 {name}"
            if path.stat().st_size != entry["size"]:
                return f"{name} 的大小不对（{path.stat().st_size} 字节，应为 {entry['size']}）"
            if file_sha256(path) != entry["sha256"]:
                return f"{name} 的内容被改动过"
        except OSError as error:
            return f"{name} 读不出来（{error.strerror}）"
    return None


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """`step`, `run_id`, `fingerprint` and `files`; `ValueError` or `OSError` if it is not one of ours."""
    text = (checkpoint / MANIFEST).read_bytes().decode()
    manifest = json.loads(text)
    # The same values can be written in other ways (1e-05, 1E-05); only the way they were written is whole.
    if not isinstance(manifest, dict) or json_text(manifest) != text:
        raise ValueError("not a manifest, or a changed one")
    if manifest.pop("sha256", None) != _digest(manifest):
        raise ValueError("not a manifest, or a changed one")
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def choose_checkpoint(output_dir: Path, mode: str, run: Run) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from (or None), and lines to tell the user. Takes over its `run_id` into `run`.

    auto: the newest whole checkpoint of the same unfinished run; one of another run is a `UserError`.
    none: None. A path: that checkpoint, or a `UserError`.
    """
    if mode == RESUME_NONE:
        return None, []
    if mode != RESUME_AUTO:
        return _explicit(Path(mode), run), []

    # The newest that is whole and not of a finished run.
    notes = []
    finished = finished_run_id(output_dir)
    for checkpoint in find_checkpoints(output_dir):
        if fault := fault_of(checkpoint):
            notes.append(f"跳过 {checkpoint}：{fault}")
            continue
        manifest = read_manifest(checkpoint)
        if manifest["run_id"] == finished:  # a run begun since may have one with a lower number
            continue
        _require_same_run(checkpoint, manifest, run)
        run.run_id = manifest["run_id"]
        return checkpoint, [*notes, f"接着 {checkpoint} 继续训练"]

    # None: a new training, unless broken checkpoints would be lost by it.
    if finished:
        return None, [*notes, f"{output_dir} 里上一次训练已经完成，从头开始新的训练"]
    if notes:
        raise UserError(
            "\n  ".join([*notes, "没有完整的检查点可以接着训练；要从头开始，请加 --resume_from_checkpoint none"])
        )
    return None, []


def _explicit(checkpoint: Path, run: Run) -> Path:
    if not checkpoint.is_dir():
        raise UserError(f"--resume_from_checkpoint：没有检查点文件夹 {checkpoint}（可写 auto、none 或检查点的路径）")
    if not NAME.fullmatch(checkpoint.name):
        raise UserError(f"--resume_from_checkpoint：{checkpoint} 应形如 checkpoint-100")
    if fault := fault_of(checkpoint):
        raise UserError(f"--resume_from_checkpoint：{checkpoint} 不完整：{fault}")
    manifest = read_manifest(checkpoint)
    _require_same_run(checkpoint, manifest, run)
    run.run_id = manifest["run_id"]
    return checkpoint


def _require_same_run(checkpoint: Path, manifest: dict[str, Any], run: Run) -> None:
    """The base is compared later, by `keep_base`, since the checkpoint says which commit of it to look for."""
    theirs = {name: value for name, value in manifest["fingerprint"].items() if not name.startswith(BASE)}
    _refuse_differences(checkpoint, theirs, json.loads(json.dumps(run.fingerprint)))


def recorded_commit(checkpoint: Path | None) -> str | None:
    """The hub's commit of the base that a checkpoint was trained on; None for a folder, or where it does not say."""
    return read_manifest(checkpoint)["fingerprint"].get(COMMIT) if checkpoint else None


def keep_base(checkpoint: Path | None, run: Run, facts: dict[str, str]) -> list[str]:
    """Note in `run` which base it trains on (`base_facts`), and return lines to tell the user.

    A checkpoint of another base is a `UserError`. One that earlier versions wrote says nothing of it; it is gone on
    from, since the base is nearly always the same, and refusing would throw a sound training away.
    """
    run.fingerprint |= facts
    if not checkpoint:
        return []
    recorded = read_manifest(checkpoint)["fingerprint"]
    theirs = {name: value for name, value in recorded.items() if name.startswith(BASE)}
    if not theirs:
        return [f"{checkpoint} 没有记下基座的内容（旧版本写的），没有核对它是不是同一个基座"]
    _refuse_differences(checkpoint, theirs, facts)
    return []


def _refuse_differences(folder: Path, theirs: dict[str, Any], ours: dict[str, Any], there: str = "检查点") -> None:
    if lines := differences(theirs, ours, there):
        raise UserError(
            f"{folder} 属于另一次训练，下面的设置不同：\n" + "\n".join(lines) + "\n两个办法：换一个 --output_dir；"
            "或加 --resume_from_checkpoint none 从头开始（新训练存下第一个检查点后才删掉旧的）"
        )


def finished_run_id(output_dir: Path) -> str | None:
    """The run that was brought to its end in this folder; None also if unreadable: its end is then done again."""
    try:
        return str(json.loads((output_dir / FINISHED).read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def finished_run(output_dir: Path, run: Run) -> dict[str, Any] | None:
    """The run_info.json of a finished run of the same settings; None where no run is finished.

    One of other settings is a `UserError`.
    """
    adapter = output_dir / "lora_adapter"
    finished = finished_run_id(output_dir)
    if finished is None or not adapter.is_dir():
        return None
    info = read_run_info(adapter)
    if info.get("run_id") != finished:
        return None
    _refuse_differences(adapter, info["fingerprint"], json.loads(json.dumps(run.fingerprint)), "适配器")
    return info


def mark_finished(output_dir: Path, run: Run) -> None:
    write_json(output_dir / FINISHED, {"run_id": run.run_id})


class CheckpointStore:
    """Where Trainer's checkpoints go: staged, sealed, renamed, and the oldest removed."""

    def __init__(self, output_dir: Path, run: Run, keep: int, resumed: Path | None):
        self.output_dir, self.run, self.keep = output_dir, run, keep
        # Those of earlier runs, and those after the one we go on from (broken ones, say), stay until this run
        # has a new one of its own.
        found = find_checkpoints(output_dir)
        self.stale = [path for path in found if resumed is None or step_of(path) > step_of(resumed)]
        if is_main():
            clean_leftovers(output_dir)
            self.discard()

    @property
    def staging(self) -> Path:
        return self.output_dir / STAGING

    def discard(self) -> None:
        """Forget what is staged: a killed process left it, or the disk was full."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def commit(self, name: str) -> Path:
        """Seal `staging/name`, move it to its final name, remove stale and surplus ones."""
        staged, final = self.staging / name, self.output_dir / name
        self._seal(staged)
        replace_folder(staged, final)

        # Now that there is a new one: those of earlier runs, and of this run all but the newest.
        stale = [path for path in self.stale if path != final]
        self.stale = []
        ours = [path for path in find_checkpoints(self.output_dir) if path not in stale]
        for old in [*stale, *ours[self.keep :]]:
            if old != final:
                remove_folder(old)
        (self.output_dir / FINISHED).unlink(missing_ok=True)  # that was the run before this one
        return final

    def _seal(self, folder: Path) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        entries = {}
        for path in files:
            name = path.relative_to(folder).as_posix()  # a checkpoint may be gone on with on another system
            entries[name] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
        manifest = {
            "step": step_of(folder),
            "run_id": self.run.run_id,
            "fingerprint": self.run.fingerprint,
            "files": entries,
        }
        write_json(folder / MANIFEST, manifest | {"sha256": _digest(manifest)})
        fsync_tree(folder)
