"""What `torchrun` starts in tests/runtime/test_distributed.py: the real scripts one after the other, in each process.

torchrun --nproc_per_node 2 tests/helpers/several_processes.py '[["train", "--preset", "tiny"], ["inference", ...]]'
"""

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import torch
import yaml
from accelerate.state import AcceleratorState, DistributedType, PartialState
from small_runs import keep_first_gradients

import training.trainer
from modeling.devices import Device
from runtime.errors import run_script
from runtime.processes import is_main
from training.checkpoints import FINISHED, find_checkpoints, step_of


def forget(folder: str, copy: str, step: str) -> None:
    """A copy of a run's folder as it was when it had saved `step`."""
    if is_main():
        shutil.copytree(folder, copy)
        (Path(copy) / FINISHED).unlink()
        for checkpoint in find_checkpoints(Path(copy)):
            if step_of(checkpoint) > int(step):
                shutil.rmtree(checkpoint)


def fsdp(config: str) -> None:
    """What `accelerate launch --config_file` sets; on a CPU accelerate itself would go back to DDP without a word."""
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    for name, value in yaml.safe_load(Path(config).read_text(encoding="utf-8"))["fsdp_config"].items():
        name = {"fsdp_transformer_layer_cls_to_wrap": "fsdp_transformer_cls_to_wrap"}.get(name, name)
        os.environ[name.upper()] = str(value).lower() if isinstance(value, bool) else str(value)
    begin = AcceleratorState.__init__

    def begin_as_on_gpus(self, *args, **kwargs) -> None:
        if not AcceleratorState._shared_state:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
        begin(self, *args, **kwargs)

    AcceleratorState._reset_state()
    AcceleratorState.__init__ = begin_as_on_gpus


def first_gradients() -> None:
    """From now on in float32, and the gradients of a training's first step are kept."""
    training.trainer.best_device = lambda: Device("cpu", False)
    keep_first_gradients(setattr)


ACTIONS = {"forget": forget, "fsdp": fsdp, "first_gradients": first_gradients}

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
