"""Stopping in good order, and going on as if nothing had happened."""

import json
import time
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback, TrainerState

LOSS_SUM = "loss_since_last_log.json"


def is_last(checkpoint: Path) -> bool:
    """Whether no step of its run is left after this checkpoint."""
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
