"""An output file that grows piece by piece, survives a kill, and takes its name when it is whole.

    with PartialFile(Path("out.csv"), {"输入": "…"}, resume=True) as partial:
        partial.append(b"…", rows=4096)  # `partial.rows` are there already
        partial.finish()

It grows as `out.csv.partial`. Beside it, `out.csv.partial.json` is written after each piece has reached the disk: what
the file belongs to, and how many rows and bytes of it are whole, with their SHA-256. What a killed process left
behind those bytes is cut off.
"""

import hashlib
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from runtime.atomic_files import give_name, write_json
from runtime.errors import UserError, differences

BLOCK = 1 << 20


class PartialFile:
    """`key` names everything that the content depends on; `resume` goes on with one of the same key, or starts."""

    def __init__(self, target: Path, key: dict[str, Any], resume: bool):
        self.target, self.key = Path(os.path.realpath(target)), key  # a link stays a link
        self.path = self.target.with_name(self.target.name + ".partial")
        self.state_path = self.target.with_name(self.target.name + ".partial.json")
        self.rows, self.size, self._digest = 0, 0, hashlib.sha256()
        self._resume = resume
        self._lock = FileLock(self.target.with_name(self.target.name + ".partial.lock"), timeout=0)

    def __enter__(self) -> "PartialFile":
        # The lock is a file of its own and comes first: the partial file itself may get its final name between its
        # being opened here and locked, and would then be cut to nothing.
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise UserError(f"另一个进程正在写 {self.path}；等它结束，或换一个 --output") from None
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            # Without a buffer, which would try again to write when it is closed.
            self._file = open(self.path, "ab+", buffering=0, opener=_open_itself)
        except OSError as error:
            self._unlock()
            raise self._unwritable(error) from None
        try:
            if self._resume:
                self._take_over()
            elif self.state_path.exists():
                print(f"覆盖没有写完的 {self.path}（要接着算，请加 --resume）", file=sys.stderr)
            if not self.rows:
                self.state_path.unlink(missing_ok=True)
            self._file.truncate(self.size)
        except BaseException:
            self._file.close()
            self._unlock()
            raise
        return self

    def __exit__(self, kind, *_) -> None:
        self._file.close()
        self._unlock()
        if kind and self.rows and not issubclass(kind, UserError):
            print(f"\n已算好的 {self.rows:,} 条留在 {self.path}；用同样的命令加 --resume 接着算", file=sys.stderr)

    def append(self, data: bytes, rows: int) -> None:
        """Add `rows` rows; when this returns they are on the disk and will not be computed again."""
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
            self.rows, self.size = self.rows + rows, self.size + len(data)
            self._digest.update(data)
            state = {"key": self.key, "rows": self.rows, "bytes": self.size, "sha256": self._digest.hexdigest()}
            write_json(self.state_path, state)
        except OSError as error:
            raise self._unwritable(error) from None

    def finish(self) -> None:
        """The whole file takes the place of the old one."""
        self._file.close()  # Windows renames no open file
        try:
            give_name(self.path, self.target)
        except OSError as error:
            raise self._unwritable(error) from None
        except UserError as error:
            raise UserError(f"{error}，加上 --resume：算好的都留着") from None
        self.state_path.unlink(missing_ok=True)

    def _unlock(self) -> None:
        # While it is held: filelock tells whoever waits for the file that is gone.
        with suppress(OSError):  # Windows removes no open file; filelock removes it there
            os.unlink(self._lock.lock_file)
        self._lock.release()

    def _take_over(self) -> None:
        """Go on behind the whole pieces of an earlier process."""
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
            key, rows, size, digest = state["key"], state["rows"], state["bytes"], state["sha256"]
            if not all(isinstance(number, int) and number >= 0 for number in (rows, size)):
                raise ValueError("not numbers")
        except FileNotFoundError:
            print(f"没有可以接着算的 {self.path}，从头开始", file=sys.stderr)
            return
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{self.state_path} 损坏，不能接着算；去掉 --resume 从头开始") from None
        _require_same(self.path, key, self.key)
        self._file.seek(0)
        left = size
        while left and (block := self._file.read(min(BLOCK, left))):
            self._digest.update(block)
            left -= len(block)
        if left or self._digest.hexdigest() != digest:
            raise UserError(f"{self.path} 被改动过或不完整，不能接着算；去掉 --resume 从头开始")
        self.rows, self.size = rows, size

    def _unwritable(self, error: OSError) -> UserError:
        kept = f"；已算好的 {self.rows:,} 条留着，解决后加 --resume 接着算" if self.rows else ""
        return UserError(f"不能写 {self.path}：{error.strerror}{kept}")


def _open_itself(path: str, flags: int) -> int:
    """Never what a link of this name points to: that is somebody else's file."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _require_same(path: Path, theirs: Any, ours: dict[str, Any]) -> None:
    theirs = theirs if isinstance(theirs, dict) else {}
    if lines := differences(theirs, ours, "那时"):
        raise UserError(
            f"{path} 是另一次预测没有写完的结果，下面的不同：\n" + "\n".join(lines) + "\n"
            "换回原来的设置，或去掉 --resume 从头开始（会覆盖它）"
        )
