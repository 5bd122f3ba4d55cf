"""A user's mistake, told in one message and exit code 2; never a traceback."""

import io
import sys
from collections.abc import Callable


class UserError(Exception):
    """What is wrong, where, and what to do about it, in the user's language."""


def first_line(error: Exception) -> str:
    """What a library says about a fault, short enough for a message of ours; its kind where it says nothing."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's `main`: `UserError` becomes a message and exit code 2, Ctrl-C exit code 130.

    So does what the system refuses (no permission, a file where a folder should be, a name too long).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal in GBK has no emoji, and nothing can print half of one
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main())
    except UserError as error:
        print(f"错误：{error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if not error.strerror:
            raise
        where = "".join(f"{name}：" for name in (error.filename, error.filename2) if name is not None)
        print(f"错误：{where}{error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\n已中断。", file=sys.stderr)
        sys.exit(130)
