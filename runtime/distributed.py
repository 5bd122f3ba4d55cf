"""Several processes that do one thing together (`torchrun`, `accelerate launch`); in one process nothing of this acts.

Training is Trainer's DDP; here is what it leaves open: the end of an epoch that does not come out even, one run of the
model dealt out to all, and files that only the first process writes.
"""

import atexit
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.data import Sampler

from runtime.processes import is_main, local_rank, world_size


def join() -> None:
    """Meet the other processes, and take the GPU that belongs to this one."""
    if world_size() == 1:
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    if not dist.is_initialized():  # gloo carries numbers and messages, NCCL the gradients
        dist.init_process_group("cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)  # at a clean end alone: see `run_script`


def from_main(value: Any) -> Any:
    """What the first process has as `value`, in every process."""
    if world_size() == 1:
        return value
    box = [value if is_main() else None]
    dist.broadcast_object_list(box)
    return box[0]


def total(numbers: np.ndarray) -> np.ndarray:
    """The sum of all processes' arrays of this shape, in every process."""
    if world_size() == 1:
        return numbers
    summed = torch.from_numpy(numbers.copy())
    dist.all_reduce(summed)
    return summed.numpy()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which FSDP keeps a piece in each process; all processes have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_trainable(model) -> dict[str, torch.Tensor]:
    """The trainable parameters by name, whole; all processes have to ask."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    state = model.state_dict()  # which FSDP brings back to its pieces first
    return {name: whole(state[name]) for name in names}


def like(tensor: torch.Tensor, model_tensor: torch.Tensor) -> torch.Tensor:
    """The inverse of `whole`: this process's piece, where the model has pieces."""
    if not isinstance(model_tensor, DTensor):
        return tensor
    return distribute_tensor(tensor, model_tensor.device_mesh, model_tensor.placements)


class EvenSampler(Sampler[int]):
    """The order of `sampler`, filled up so that every process gets as many batches.

    accelerate would fill up with rows that then count twice. Here `~i` (negative) stands for row i without its label:
    it is computed and adds nothing, so that each step is that of one process with larger accumulation.
    """

    def __init__(self, sampler, multiple: int):
        self.sampler, self.multiple = sampler, multiple

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        shortest = int(np.argmin(self.sampler.lengths))
        yield from [~shortest] * (len(self) - len(self.sampler))
