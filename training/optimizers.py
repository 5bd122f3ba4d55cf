"""AdamW as torch has it, or bitsandbytes' paged one, whose state the driver moves between GPU and main memory.

optim=optimizer_name(config.optim, config.use_qlora, device)
"""

from configs.training_config import ADAMW, PAGED_ADAMW
from modeling.devices import Device
from runtime.errors import UserError


def optimizer_name(asked: str | None, use_qlora: bool, device: Device) -> str:
    """Trainer's name of the optimizer: what was `asked` for, or else the one that suits the base and the device.

    QLoRA on CUDA gets the paged one, as in its paper (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).
    """
    if asked is None:
        if device.kind == "mps":
            return "adamw_torch"
        return PAGED_ADAMW if use_qlora and device.kind == "cuda" else ADAMW
    if is_paged(asked) and device.kind == "mps":  # bitsandbytes would ask CUDA for the memory
        raise UserError(f"--optim {asked}：bitsandbytes 的分页优化器不能在 MPS 上运行；去掉这个参数")
    return asked


def is_paged(name: str) -> bool:
    return name.startswith("paged_")


def page_again(optimizer) -> None:
    """Bring a state that was loaded back into paged memory.

    bitsandbytes' `load_state_dict` leaves ordinary copies on the device, which nothing pages any more; those of a
    checkpoint from a GPU call themselves paged on a CPU too, where nothing can be.
    """
    for parameter, state in optimizer.state.items():
        for name in ("state1", "state2"):
            state[name] = optimizer.get_state_buffer(parameter, dtype=state[name].dtype).copy_(state[name])
