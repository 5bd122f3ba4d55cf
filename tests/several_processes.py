"""What `torchrun` starts in tests/test_distributed.py: the real scripts one after the other, in each process.

torchrun --nproc_per_node 2 tests/several_processes.py '[["train", "--preset", "tiny"], ["inference", ...]]'
"""

import importlib
import json
import shutil
import sys
from pathlib import Path

from configs.errors import run_script
from configs.processes import is_main
from modeling.checkpoints import FINISHED, find_checkpoints, step_of
from modeling.distributed import wait_for_all


def forget(folder: str, copy: str, step: str) -> None:
    """A copy of a run's folder as it was when it had saved `step`."""
    if is_main():
        shutil.copytree(folder, copy)
        (Path(copy) / FINISHED).unlink()
        for checkpoint in find_checkpoints(Path(copy)):
            if step_of(checkpoint) > int(step):
                shutil.rmtree(checkpoint)


for name, *arguments in json.loads(sys.argv[1]):
    if name == "forget":
        forget(*arguments)
        wait_for_all()
        continue
    sys.argv = [f"{name}.py", *arguments]
    try:
        run_script(importlib.import_module(name).main)
    except SystemExit as end:
        if end.code:
            raise
