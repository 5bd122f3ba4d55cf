"""A user's mistake, told in one message and exit code 2; never a traceback."""

import gc
import os
import sys
from collections.abc import Callable

from configs.processes import is_main, local_rank


class UserError(Exception):
    """What is wrong, where, and what to do about it, in the user's language."""


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's `main`: `UserError` becomes a message and exit code 2, Ctrl-C exit code 130.

    Of several processes the first one speaks, and one on each machine names a mistake.
    """
    if not is_main():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open to the end)
        os.environ["TQDM_DISABLE"] = "1"
    try:
        sys.exit(main())
    except UserError as error:
        if not local_rank():
            print(f"错误：{error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\n已中断。", file=sys.stderr)
        sys.exit(130)
    finally:
        gc.freeze()  # else Python goes through all that torch and transformers have made before it ends: a second
