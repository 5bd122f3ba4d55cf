"""Stopping in good order, and going on as if nothing had happened."""

import json
from pathlib import Path

from transformers import Trainer, TrainerCallback

LOSS_SUM = "loss_since_last_log.json"


class StopWhenAsked(TrainerCallback):
    """Once a signal is in `received`: end with the step or evaluation under way, and a checkpoint of it."""

    def __init__(self, received: list[int]):
        self.received = received

    def on_step_end(self, args, state, control, **kwargs):
        if self.received:
            control.should_save = control.should_training_stop = True

    on_evaluate = on_step_end

    def on_save(self, args, state, control, **kwargs):
        if self.received:  # while saving; what is saved need not be saved again
            control.should_training_stop = True


class KeepLossSum(TrainerCallback):
    """The loss summed up since the last log line, which Trainer's checkpoints leave out.

    Without it the first line after a resume is a mean over fewer steps than in an uninterrupted run.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.checkpoint: Path | None = None  # the one that training goes on from

    def on_train_begin(self, args, state, control, **kwargs):
        if self.checkpoint and (self.checkpoint / LOSS_SUM).is_file():
            saved = json.loads((self.checkpoint / LOSS_SUM).read_text(encoding="utf-8"))
            self.trainer._tr_loss += saved["loss_sum"]
            self.trainer._globalstep_last_logged = saved["last_logged_step"]

    def save_to(self, checkpoint: Path) -> None:
        sums = {
            "loss_sum": self.trainer._tr_loss.item(),
            "last_logged_step": self.trainer._globalstep_last_logged,
        }
        (checkpoint / LOSS_SUM).write_text(json.dumps(sums), encoding="utf-8")
