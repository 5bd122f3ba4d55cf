"""Kill a real `python train.py` again and again, and compare what it ends with to an uninterrupted run. Linux, by hand.

    python tests/helpers/kill_resume.py --kills 20 --seed 0                       # LoRA, about 5 minutes
    python tests/helpers/kill_resume.py --variant qlora --kills 8                 # also accumulation, early_stopping, …
    python tests/helpers/kill_resume.py --variant early_stopping -- --seed 3      # any other flags of train.py

Each kill is a SIGKILL to the whole process group, at a moment that is seen from outside: a word that is printed, or a
name that appears in the output folder. After each one no checkpoint and no adapter may be there that is not whole. At
the end the adapter must be equal to the bit, and so must the best step, the patience and the logged history.
"""

import argparse
import ctypes
import json
import os
import pty
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from small import REPOSITORY, make_small_base, small_reviews, write_jsonl

from runtime.atomic_files import file_sha256
from training.checkpoints import fault_of, find_checkpoints

VARIANTS = {
    "lora": [],
    "accumulation": ["--batch_size", "2", "--gradient_accumulation_steps", "3"],
    "qlora": ["--use_qlora"],
    "early_stopping": ["--early_stopping_patience", "8"],
    "label_scoring": ["--head", "label_scoring"],
}
SETTINGS = [
    "--max_length", "64", "--batch_size", "4", "--max_steps", "300", "--eval_steps", "9", "--save_steps", "5",
    "--save_total_limit", "2", "--learning_rate", "1e-3",
]  # fmt: skip
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json", "sentiment_config.json", "run_info.json")


@dataclass(frozen=True)
class Moment:
    """When to kill: at the n-th sign (a word printed, or a name in the folder), or up to `steps` steps later."""

    name: str
    sign: str
    steps: float
    most: int = 1


# Each delay is about as long as what it interrupts, counted in steps, so that a busy machine changes nothing.
DURING = [
    Moment("随时", "", 100),
    Moment("一步之中", "move checkpoint-", 4, most=4),
    Moment("一步之中", "写到", 20),
    Moment("评估之中", "评估", 2, most=2),
    Moment("存检查点之中", "create .checkpoint-staging", 2, most=3),
    Moment("存检查点之中", "create .checkpoint-staging", 2, most=3),
    Moment("检查点刚改名", "move checkpoint-", 0, most=3),
    Moment("删旧检查点之中", "move .checkpoint-", 0.02, most=2),
    Moment("删旧检查点之中", "move .checkpoint-", 0.02, most=2),
]
AT_THE_END = [Moment("最后的预测之中", "预测", 2), Moment("写适配器之中", "create .lora_adapter", 2)]


def watch_folder(folder: Path, tell) -> None:
    """Call `tell("create NAME")` and `tell("move NAME")` for what appears in `folder`, at once (inotify)."""
    libc = ctypes.CDLL(None)
    handle = libc.inotify_init()
    created, moved = 0x100, 0x80
    libc.inotify_add_watch(handle, os.fsencode(folder), created | moved)
    while True:
        events = os.read(handle, 65536)
        while events:
            mask, length = int.from_bytes(events[4:8], "little"), int.from_bytes(events[12:16], "little")
            tell(f"{'create' if mask & created else 'move'} {events[16 : 16 + length].rstrip(bytes(1)).decode()}")
            events = events[16 + length :]


class Killer:
    """One run of `command`, killed at `moment`; `hit` says whether it came in time."""

    def __init__(self, command: list[str], moment: Moment, step: float, rng: random.Random):
        self.moment, self.left = moment, rng.randint(1, moment.most)
        self.delay = rng.uniform(0, moment.steps * step)  # seconds
        self.lock, self.hit = threading.Lock(), False
        # A terminal, since a log file is told of an evaluation only when it has taken a while.
        self.screen, terminal = pty.openpty()
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=terminal, stderr=terminal, start_new_session=True
        )
        os.close(terminal)

    def tell(self, sign: str) -> None:
        with self.lock:
            self.left -= self.moment.sign in sign
            if self.left == 0:
                self.left = -1
                time.sleep(self.delay)
                if self.process.poll() is None:
                    os.killpg(self.process.pid, signal.SIGKILL)

    def wait(self) -> str:
        output = b""
        self.tell("started")
        with suppress(OSError):  # how Linux says that nobody writes to a terminal any more
            while block := os.read(self.screen, 65536):
                output += block
                self.tell(block.decode(errors="ignore"))
        os.close(self.screen)
        self.hit = self.process.wait() == -signal.SIGKILL
        return output.decode(errors="replace")


def not_whole(folder: Path) -> list[str]:
    """What is visible under a final name and yet not whole."""
    faults = [f"{path.name}：{fault}" for path in find_checkpoints(folder) if (fault := fault_of(path))]
    adapter = folder / "lora_adapter"
    if adapter.exists():
        faults += [f"lora_adapter 缺 {name}" for name in ADAPTER_FILES if not (adapter / name).is_file()]
    return faults


def leftovers(folder: Path) -> list[str]:
    """Hidden names with the number of files in them: what the kill interrupted."""
    hidden = [path for path in sorted(folder.glob(".*")) if not path.name.startswith(".train.")]
    return [
        f"{path.name}（{sum(p.is_file() for p in path.rglob('*'))}）" if path.is_dir() else path.name for path in hidden
    ]


def outcome(folder: Path) -> dict:
    """All that must be the same in the end."""
    newest = find_checkpoints(folder)[0]
    best = json.loads((newest / "best_adapter.json").read_text())
    return {
        "适配器（SHA-256）": file_sha256(folder / "lora_adapter" / "adapter_model.safetensors"),
        "最好的一步": best["step"],
        "没有进步的评估次数": best["misses"],
        "检查点": [path.name for path in find_checkpoints(folder)],
        "日志": json.loads((newest / "trainer_state.json").read_text())["log_history"],
        "training_log.jsonl（SHA-256）": file_sha256(folder / "training_log.jsonl"),
        "指标": json.loads((folder / "lora_adapter" / "run_info.json").read_text())["metrics"],
        "残留": leftovers(folder),
    }


def moments(kills: int, rng: random.Random) -> list[Moment]:
    """Those during training in random order, each kind in turn; those of the end last."""
    during = [DURING[i % len(DURING)] for i in range(kills - len(AT_THE_END))]
    rng.shuffle(during)
    return [*during, *AT_THE_END][:kills]


def seconds_per_step(folder: Path) -> float:
    newer, older = (path.stat().st_mtime for path in find_checkpoints(folder)[:2])
    return (newer - older) / 5


def differences(one: Path, other: Path) -> list[str]:
    first, second = outcome(one), outcome(other)
    return [f"{key} 不同：\n  {first[key]}\n  {second[key]}" for key in first if first[key] != second[key]]


def killed_run(command: list[str], whole: Path, killed: Path, kills: list[Moment], rng: random.Random) -> list[str]:
    """Kill and go on, once for each of `kills`, then to the end; returns what was wrong."""
    faults, runs, step = [], [], seconds_per_step(whole)
    killed.mkdir()
    threading.Thread(target=watch_folder, args=(killed, lambda sign: runs[-1].tell(sign)), daemon=True).start()
    never = Moment("", "never", 0)
    for number, moment in enumerate([*kills, never], start=1):
        for _ in range(3):
            runs.append(Killer(command, moment, step, rng))
            output = runs[-1].wait()
            if runs[-1].hit:
                break
            # It came to its end before the moment: compare, and begin anew.
            faults += differences(whole, killed) if runs[-1].process.returncode == 0 else [output]
            if faults or moment is never:
                return faults
        faults += (broken := not_whole(killed))
        name = moment.name if runs[-1].hit else f"{moment.name}（没有赶上）"
        newest = next((path.name for path in find_checkpoints(killed)), "—")
        cells = [str(number), name, newest, "、".join(leftovers(killed)) or "—", "；".join(broken) or "是"]
        print(f"| {' | '.join(cells)} |", flush=True)
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--variant", choices=VARIANTS, default="lora")
    parser.add_argument("flags", nargs="*", help="further flags of train.py, after --")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    rng, started = random.Random(args.seed), time.time()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        # One label in seven is wrong, so that the best step is not the last and patience comes to an end.
        rows = [row | {"label": row["label"] ^ (i % 7 == 3)} for i, row in enumerate(small_reviews(400))]
        command = [sys.executable, "train.py", "--model_name", str(make_small_base(work / "base"))]
        for name, part in {"train": rows[:200], "validation": rows[200:320], "test": rows[320:]}.items():
            command += [f"--{name}_file", str(write_jsonl(work / f"{name}.jsonl", part))]
        command += [*SETTINGS, *VARIANTS[args.variant], *args.flags, "--output_dir"]
        subprocess.run([*command, work / "whole"], cwd=REPOSITORY, check=True, capture_output=True)
        print("| # | 杀在 | 最新的检查点 | 留下的（文件数） | 看得见的都完整 |\n|---|---|---|---|---|")
        kills = moments(args.kills, rng)
        faults = killed_run([*command, str(work / "killed")], work / "whole", work / "killed", kills, rng)
    print(f"\n{args.variant}，{args.kills} 次，{time.time() - started:.0f} 秒：", end="")
    print("与未中断的完全相同" if not faults else "\n".join(["", *faults]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
