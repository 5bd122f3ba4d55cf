"""Files that appear whole or not at all, and the hash that tells whether they still are."""

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path, mode: str = "w"):
    """Open a file beside `path`, flush it to disk and rename it; on an error `path` stays as it was.

    Text is written as UTF-8 with "\\n"; half a surrogate pair as \\udxxx, as JSON writes it. Makes the parent folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text_options = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, mode, **text_options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: str | Path, value) -> None:
    """`value` as indented UTF-8 JSON with a final newline; NaN is refused, use None."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text + "\n")


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
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def atomic_folder(path: str | Path):
    """Fill a new folder beside `path`; when it is whole it takes the place of the old one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new-"))
    old = path.with_name(f".{path.name}.old")
    try:
        yield temporary
        fsync_tree(temporary)
        os.chmod(temporary, 0o777 & ~_umask())
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, read in pieces: a checkpoint may be larger than memory allows."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
