"""Files that appear whole or not at all."""

import json
import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path, mode: str = "w"):
    """Open a file beside `path`, flush it to disk and rename it; on an error `path` stays as it was.

    Text is written as UTF-8 with "\\n". Makes the parent folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text_options = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
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
