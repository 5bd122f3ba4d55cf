"""Answers that somebody has marked as wrong, with the right label: a .jsonl file that `--train_file` reads as it is.

add_mark(Path("outputs/marks.jsonl"), "房间小得转不开身", "负面")
"""

import json
import os
import threading
from pathlib import Path

from filelock import FileLock, Timeout

from runtime.atomic_files import atomic_write
from runtime.errors import UserError

MOST_BYTES = 16 * 2**20
LOCK_SECONDS = 10
_one_at_a_time = threading.Lock()  # a file lock of one process does not keep its own threads apart everywhere


def add_mark(path: Path, text: str, label: str) -> None:
    """Append one row {"text", "label"}; when this returns it is on the disk, and a kill leaves the old file or the new.

    The file is written anew each time: marks are clicks, and a line that is torn in half would be one that training
    refuses. Several servers may share a file. `UserError` where it cannot be written or has grown too large.
    """
    line = json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n"
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time, FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS):
            old = path.read_bytes() if path.exists() else b""
            if len(old) > MOST_BYTES:
                raise UserError(f"{path.name} 已超过 {MOST_BYTES >> 20} MB：请把它移走，新的标记另起一个文件")
            if old and not old.endswith(b"\n"):  # edited by hand
                old += b"\n"
            with atomic_write(path, "wb") as file:
                file.write(old + line.encode("utf-8"))
    except Timeout:
        raise UserError(f"{path.name} 正被别的程序占用，没有记下，请再试一次") from None
    except OSError as error:
        raise UserError(f"不能写 {path}：{error.strerror}") from None
