"""Several processes that do one thing together (`torchrun`, `accelerate launch`); in one process nothing of this acts.

Training is Trainer's DDP; here is what it leaves open: one run of the model dealt out to all, and files that only the
first process writes. `EvenSampler` (training/tokenized_dataset.py) sees to an epoch that does not come out even.
"""

import atexit
import os
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from runtime.errors import UserError
from runtime.processes import is_main, local_rank, world_size


def connect_processes() -> None:
    """Meet the other processes, and take the GPU that belongs to this one."""
    if world_size() == 1:
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    if not dist.is_initialized():  # gloo carries numbers and messages, NCCL the gradients
        dist.init_process_group("cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)  # at a clean end alone: see `run_script`


def refuse_sharding() -> None:
    """Raise `UserError` where the launcher is set up to split the model over the GPUs, which nothing here can do."""
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("true", "1"):
            raise UserError(
                f"accelerate 的配置启用了 {name}，本仓库的训练不支持拆分模型。改用 torchrun 或 "
                "accelerate launch --multi_gpu（每个 GPU 各放一整份基座）；基座一个 GPU 放不下时加 --use_qlora"
            )


def broadcast_from_main(value: Any) -> Any:
    """The first process's `value`, in every process."""
    if world_size() == 1:
        return value
    box = [value if is_main() else None]
    dist.broadcast_object_list(box)
    return box[0]


def sum_over_processes(numbers: np.ndarray) -> np.ndarray:
    """The sum of all processes' arrays of this shape, in every process."""
    if world_size() == 1:
        return numbers
    summed = torch.from_numpy(numbers.copy())
    dist.all_reduce(summed)
    return summed.numpy()
