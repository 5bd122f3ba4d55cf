"""A user's mistake, told in one message and exit code 2; never a traceback."""

import gc
import sys
from collections.abc import Callable


class UserError(Exception):
    """What is wrong, where, and what to do about it, in the user's language."""


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's `main`: `UserError` becomes a message and exit code 2, Ctrl-C exit code 130."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"错误：{error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\n已中断。", file=sys.stderr)
        sys.exit(130)
    finally:
        gc.freeze()  # else Python goes through all that torch and transformers have made before it ends: a second
