"""This process among several; `torchrun` and `accelerate launch` say which in the environment. No torch here."""

import os


def world_size() -> int:
    """Number of processes that work together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """The number of this process on its machine, which is also that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
    """True in the process that prints, and writes what all share."""
    return rank() == 0
