"""Files and folders that appear whole or not at all, and the hash that tells whether they still are.

What is being written has a hidden name that ends in `.unfinished`; so has what is being deleted. A killed process
leaves such names behind and nothing else, and `clean_leftovers` removes them.
"""

import ctypes
import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.errors import UserError, writing_to

UNFINISHED = ".unfinished"
REPLACED = ".replaced"  # the old folder, between the two renames that systems without an exchange need
DAY = 86_400


@contextmanager
def atomic_write(path: str | Path, mode: str = "w"):
    """Open a file beside `path`, flush it to disk and rename it; on an error `path` stays as it was.

    Text is written as UTF-8 with "\\n"; half a surrogate pair as \\udxxx, as JSON writes it. Makes the parent
    folder. A full disk is a `UserError`.
    """
    text_options: dict[str, Any] = {}
    if "b" not in mode:
        text_options = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with writing_to(path):
        path = Path(os.path.realpath(path))  # a link stays a link
        path.parent.mkdir(parents=True, exist_ok=True)
        clean_leftovers(path.parent, f".{glob.escape(path.name)}.", older_than=DAY)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
        try:
            with os.fdopen(handle, mode, **text_options) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            give_name(temporary, path)
            fsync_tree(path.parent, files=False)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def write_json(path: str | Path, value) -> None:
    """`value` as indented UTF-8 JSON with a final newline; NaN is refused, use None."""
    text = json_text(value)
    with atomic_write(path) as file:
        file.write(text)


def json_text(value) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def fsync_tree(folder: Path, files: bool = True) -> None:
    """Flush a folder, and with `files` all that is in it, to disk."""
    paths = [*folder.rglob("*"), folder] if files else [folder]
    if os.name == "nt":  # Windows flushes no folders
        paths = [path for path in paths if path.is_file()]
    for path in paths:
        # Windows flushes a file only for a handle that may write; a folder cannot be opened so anywhere.
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def atomic_folder(path: str | Path):
    """Fill a new folder beside `path`; when it is whole it takes the place of the old one."""
    with writing_to(path):
        path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(path)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED))
        try:
            yield temporary
            fsync_tree(temporary)
            os.chmod(temporary, 0o777 & ~_umask())
            replace_folder(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def replace_folder(new: Path, path: Path) -> None:
    """Give the whole and flushed folder `new` the name `path`; a folder that had this name is removed."""
    old = path.with_name(f".{path.name}{REPLACED}")
    if not path.exists():
        give_name(new, path)
    elif _exchange(new, path):
        old = new
    else:
        shutil.rmtree(old, ignore_errors=True)
        give_name(path, old)  # killed here: `recover_folder` puts it back
        try:
            give_name(new, path)
        except UserError:
            recover_folder(path)
            raise
    fsync_tree(path.parent, files=False)
    shutil.rmtree(old, ignore_errors=True)


def give_name(source: str | Path, target: str | Path) -> None:
    """Rename a file or folder, waiting a little where it is held open; a `UserError` where it stays so.

    Windows renames nothing that a program has open, and its virus scanner opens what is new for a moment.
    """
    for pause_seconds in (0.1, 0.5, 2.0, None):
        try:
            os.replace(source, target)
            return
        except PermissionError as error:
            if pause_seconds is None:
                raise UserError(
                    f"不能把 {source} 改名为 {target}（{error.strerror}）：没有权限，或者别的程序正打开着它；"
                    "关掉那个程序，重新运行同一条命令"
                ) from None
            time.sleep(pause_seconds)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, so that neither is ever missing; False where the system cannot (it is Linux's)."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2 is not None and renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A second name for a file, or where the system gives none (another disk, FAT) a copy of it.

    For files that are only ever replaced: what is written into one would change the other.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def recover_folder(path: Path) -> None:
    """Put back a folder whose replacement was killed between its two renames."""
    old = path.with_name(f".{path.name}{REPLACED}")
    if old.is_dir() and not path.exists():
        os.rename(old, path)


def remove_folder(path: Path) -> None:
    """Delete a folder, never half there under its own name; one that is gone or held open is let be."""
    doomed = path.with_name(f".{path.name}{UNFINISHED}")
    shutil.rmtree(doomed, ignore_errors=True)
    with suppress(OSError):
        os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def clean_leftovers(folder: Path, prefix: str = ".", older_than: float = 0.0) -> None:
    """Remove what killed processes left unfinished; only when nothing else writes there, or if old (seconds)."""
    for path in folder.glob(f".*{REPLACED}") if not older_than else []:
        recover_folder(path.with_name(path.name[1 : -len(REPLACED)]))
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"{prefix}*{UNFINISHED}"):
        with suppress(OSError):  # another process was faster
            if time.time() - path.stat().st_mtime >= older_than:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def file_state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change, in nanoseconds: the same while nobody has written to the file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, read in pieces: a checkpoint may be larger than memory allows."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
