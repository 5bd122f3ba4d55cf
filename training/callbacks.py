"""Callbacks of the Trainer: evaluate, keep the best adapter, stop early or on a signal, go on as if never stopped.

Trainer's own best-model option needs an evaluation at every save, which at 100 steps would cost nearly as much as the
training. Here the best adapter so far is kept aside in one small file. Each checkpoint carries a copy, the state of
early stopping, and the loss since the last log line.
"""

import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save
from transformers import Trainer, TrainerCallback, TrainerState

from runtime.atomic_files import atomic_write
from runtime.distributed import broadcast_from_main
from runtime.errors import UserError
from runtime.processes import is_main

WEIGHTS, STATE = "best_adapter.safetensors", "best_adapter.json"
LOSS_SUM = "loss_since_last_log.json"


@dataclass
class BestAdapter:
    """Highest validation accuracy, the lower loss where two are equal, the earlier where both are."""

    output_dir: Path
    patience: int | None = None
    accuracy: float = -1.0
    loss: float = float("inf")
    step: int = 0
    misses: int = 0  # evaluations since the best one

    @property
    def should_stop(self) -> bool:
        return self.patience is not None and self.misses >= self.patience

    def offer(self, model, accuracy: float, loss: float, step: int) -> None:
        """Keep the model's adapter if it is better than all before; `loss` is finite."""
        if (accuracy, -loss) <= (self.accuracy, -self.loss):
            self.misses += 1
            return
        self.accuracy = accuracy
        self.loss = loss
        self.step = step
        self.misses = 0
        if not is_main():
            return
        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with atomic_write(self.output_dir / WEIGHTS, "wb") as file:
            file.write(save(tensors))

    def load_into(self, model) -> None:
        """Give the model the best adapter's weights."""
        # The first process alone has the file; others may be on another machine.
        best = broadcast_from_main(load_file(self.output_dir / WEIGHTS) if is_main() else None)
        set_peft_model_state_dict(model, best)

    def save_to(self, checkpoint: Path) -> None:
        """Put a copy and the state into a checkpoint; before the first evaluation there is none."""
        if not self.step:
            return
        shutil.copyfile(self.output_dir / WEIGHTS, checkpoint / WEIGHTS)
        state = {"accuracy": self.accuracy, "loss": self.loss, "step": self.step, "misses": self.misses}
        (checkpoint / STATE).write_text(json.dumps(state), encoding="utf-8")

    def restore_from(self, checkpoint: Path) -> None:
        """Take over what `save_to` has put there, in this version or an earlier one."""
        if not (checkpoint / STATE).is_file():
            return
        if is_main():
            shutil.copyfile(checkpoint / WEIGHTS, self.output_dir / WEIGHTS)
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        self.accuracy = state["accuracy"]
        self.loss = state["loss"]
        self.step = state["step"]
        self.misses = state["misses"]

    def remove(self) -> None:
        """Delete the file kept aside, once the run has saved its adapter."""
        (self.output_dir / WEIGHTS).unlink(missing_ok=True)


class EvaluateAndKeepBest(TrainerCallback):
    """Evaluate every `every` steps and at the end; stop when patience is over, and with a message after divergence.

    By step and never by epoch: Trainer saves the checkpoint of an epoch's last step before the
    evaluation of that epoch, and a run resumed from there would never do this evaluation.
    """

    def __init__(self, every: int, best: BestAdapter):
        self.every, self.best = every, best

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_evaluate(self, args, state, control, metrics, model, **kwargs):
        if not math.isfinite(metrics["eval_loss"]):
            raise UserError(
                f"训练发散了：第 {state.global_step} 步的验证损失是 {metrics['eval_loss']}。减小 --learning_rate，"
                "加 --resume_from_checkpoint none 重新训练；输出文件夹里原有的 lora_adapter 没有动"
            )
        self.best.offer(model, metrics["eval_accuracy"], metrics["eval_loss"], state.global_step)
        if self.best.should_stop:
            control.should_training_stop = control.should_save = True


def is_last(checkpoint: Path) -> bool:
    """True where no step of its run is left after this checkpoint."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state.global_step >= state.max_steps


class StopWhenAsked(TrainerCallback):
    """Once a signal is in `received`: end with the step or evaluation under way, and a checkpoint of it."""

    def __init__(self, received: list[int]):
        self.received = received
        self.stopped = False  # the same in every process, whichever of them got the signal

    def on_step_end(self, args, state, control, **kwargs):
        if self.asked(args):
            self.stopped = control.should_save = control.should_training_stop = True

    on_evaluate = on_step_end

    def on_save(self, args, state, control, **kwargs):
        if self.asked(args):  # while saving; what is saved need not be saved again
            self.stopped = control.should_training_stop = True

    def asked(self, args) -> bool:
        """Several processes stop at the same step, or one would wait for the others' gradients for ever."""
        if args.world_size == 1:
            return bool(self.received)
        anyone = torch.tensor(float(bool(self.received)), device=args.device)
        torch.distributed.all_reduce(anyone, op=torch.distributed.ReduceOp.MAX)
        return bool(anyone)


class KeepLossSum(TrainerCallback):
    """The loss summed up since the last log line, and the time, which Trainer's checkpoints leave out.

    Without it the first line after a resume is a mean over fewer steps than in an uninterrupted run.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.saved: dict = {}  # by the checkpoint that training goes on from
        self.began = time.monotonic()

    def go_on_from(self, checkpoint: Path) -> None:
        if (checkpoint / LOSS_SUM).is_file():
            self.saved = json.loads((checkpoint / LOSS_SUM).read_text(encoding="utf-8"))

    @property
    def seconds_before(self) -> float:
        """Seconds that earlier processes have spent on what the checkpoint holds."""
        return self.saved.get("seconds", 0.0)

    def on_train_begin(self, args, state, control, **kwargs):
        if self.saved:
            self.trainer._tr_loss += self.saved["loss_sum"]
            self.trainer._globalstep_last_logged = self.saved["last_logged_step"]

    def save_to(self, checkpoint: Path) -> None:
        sums = {
            "loss_sum": self.trainer._tr_loss.item(),
            "last_logged_step": self.trainer._globalstep_last_logged,
            "seconds": self.seconds_before + time.monotonic() - self.began,
        }
        (checkpoint / LOSS_SUM).write_text(json.dumps(sums), encoding="utf-8")
