"""The real scripts one after the other in each process; `torchrun` starts this in tests/runtime/test_distributed.py.

torchrun --nproc_per_node 2 tests/helpers/several_processes.py '[["train", "--preset", "tiny"], ["inference", ...]]'
"""

import importlib
import json
import shutil
import sys
import time
from pathlib import Path

import torch
from small_runs import keep_first_gradients

import training.trainer
from modeling.devices import Device
from runtime.errors import UserError, run_script
from runtime.processes import is_main, rank
from training.checkpoints import FINISHED, find_checkpoints, step_of
from training.trainer import SentimentTrainer


def forget(folder: str, copy: str, step: str) -> None:
    """A copy of a run's folder as it was when it had saved `step`."""
    if is_main():
        shutil.copytree(folder, copy)
        (Path(copy) / FINISHED).unlink()
        for checkpoint in find_checkpoints(Path(copy)):
            if step_of(checkpoint) > int(step):
                shutil.rmtree(checkpoint)


def fail(numbers: str, kind: str) -> None:
    """From now on these processes meet an error at their second training step, while the others wait for them.

    To destroy the process group takes as long as the others work, which is how NCCL does it.
    """
    torch.distributed.destroy_process_group = lambda: time.sleep(600)
    if str(rank()) not in numbers:
        return
    error = {"mistake": UserError, "bug": AssertionError}[kind]("这一步坏了")
    training_step = SentimentTrainer.training_step

    def failing_step(self, *args, **kwargs):
        if self.state.global_step == 1:
            raise error
        return training_step(self, *args, **kwargs)

    SentimentTrainer.training_step = failing_step


def first_gradients() -> None:
    """From now on in float32, and the gradients of a training's first step are kept."""
    training.trainer.best_device = lambda: Device("cpu", False)
    keep_first_gradients(setattr)


ACTIONS = {"forget": forget, "fail": fail, "first_gradients": first_gradients}

for name, *arguments in json.loads(sys.argv[1]):
    if name in ACTIONS:
        ACTIONS[name](*arguments)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        continue
    sys.argv = [f"{name}.py", *arguments]
    try:
        run_script(importlib.import_module(name).main)
    except SystemExit as end:
        if end.code:
            raise
