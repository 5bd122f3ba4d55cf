"""Callbacks of the Trainer: evaluate, keep the best adapter, stop early or on a signal, show and log the progress.

Trainer's own best-model option needs an evaluation at every save, which at 100 steps would cost nearly as much as the
training. Here the best adapter so far is kept aside in one small file. Each checkpoint carries a copy, the state of
early stopping, and the loss since the last log line.

training_log.jsonl has one JSON object a line, for each logged loss and each evaluation: step, epoch, then loss,
grad_norm and learning_rate, or eval_loss, eval_accuracy and eval_macro_f1; null for a number that is not finite. It is
made of Trainer's history, which checkpoints carry: a resumed run begins with the lines up to its checkpoint, so that
none is there twice and none is missing.
"""

import json
import math
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save
from transformers import Trainer, TrainerCallback, TrainerState

from configs.training_config import ACCURACY
from modeling.adapter_folder import TRAINING_LOG
from runtime.atomic_files import atomic_write
from runtime.distributed import broadcast_from_main
from runtime.errors import UserError, writing_to
from runtime.processes import is_main
from runtime.terminal import ProgressBar, table_line

WEIGHTS, STATE = "best_adapter.safetensors", "best_adapter.json"
LOSS_SUM = "loss_since_last_log.json"
LOGGED = ("step", "epoch", "loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy", "eval_macro_f1")
TABLE = {"步": 9, "轮": 6, "训练损失": 8, "验证损失": 8, "准确率": 8, "宏平均 F1": 9, "": 8}


@dataclass
class BestAdapter:
    """Highest score on the validation rows, the lower loss where two are equal, the earlier where both are.

    `by` names the score: accuracy or f1 (macro).
    """

    output_dir: Path
    patience: int | None = None
    by: str = ACCURACY
    score: float = -1.0
    loss: float = float("inf")
    step: int = 0
    misses: int = 0  # evaluations since the best one

    @property
    def should_stop(self) -> bool:
        return self.patience is not None and self.misses >= self.patience

    @property
    def reason(self) -> str:
        """The choice in words."""
        return "验证准确率最高" if self.by == ACCURACY else "验证集的宏平均 F1 最高"

    def offer(self, model, score: float, loss: float, step: int) -> None:
        """Keep the model's adapter if it is better than all before; `loss` is finite."""
        if (score, -loss) <= (self.score, -self.loss):
            self.misses += 1
            return
        self.score = score
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
        names = ("by", "score", "loss", "step", "misses")
        state = {name: getattr(self, name) for name in names}
        (checkpoint / STATE).write_text(json.dumps(state), encoding="utf-8")

    def restore_from(self, checkpoint: Path) -> None:
        """Take over what `save_to` has put there, in this version or in an earlier one, which knew accuracy alone."""
        if not (checkpoint / STATE).is_file():
            return
        if is_main():
            shutil.copyfile(checkpoint / WEIGHTS, self.output_dir / WEIGHTS)
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        self.by = state.get("by", ACCURACY)
        self.score = state["score"] if "score" in state else state["accuracy"]
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
        score = metrics["eval_accuracy" if self.best.by == ACCURACY else "eval_macro_f1"]
        self.best.offer(model, score, metrics["eval_loss"], state.global_step)
        if self.best.should_stop:
            control.should_training_stop = control.should_save = True


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


def log_lines(history: list[dict[str, Any]]) -> list[str]:
    """The lines of the log, each with its line break; Trainer's closing summary is none of them."""
    lines = []
    for entry in history:
        if "loss" not in entry and "eval_loss" not in entry:
            continue
        known = {name: entry[name] for name in LOGGED if name in entry}  # a checkpoint has them in another order
        finite = {name: value if math.isfinite(value) else None for name, value in known.items()}
        lines.append(json.dumps(finite) + "\n")
    return lines


class Progress(TrainerCallback):
    """Shows the training and writes its log, in the first process alone; to be called after `best` has been offered."""

    def __init__(self, output_dir: Path, best: BestAdapter):
        self.path = output_dir / TRAINING_LOG
        self.best = best
        self.bar: ProgressBar | None = None
        self.has_header = False

    def rewrite_log(self, state: TrainerState) -> None:
        """Let the log hold this history and nothing else."""
        with atomic_write(self.path) as file:
            file.writelines(log_lines(state.log_history))

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.rewrite_log(state)
        self.bar = ProgressBar(state.max_steps, "训练", "步", initial=state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" in logs:
            self.bar.set_postfix_str(f"损失 {logs['loss']:.4f}, 学习率 {logs['learning_rate']:.1e}")
        if state.is_world_process_zero:
            with writing_to(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
                file.writelines(log_lines(state.log_history[-1:]))

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if not state.is_world_process_zero:
            return
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        cells = [
            f"{state.global_step:,}",
            f"{state.epoch:.2f}",
            f"{losses[-1]:.4f}" if losses else "—",
            f"{metrics['eval_loss']:.4f}",
            f"{metrics['eval_accuracy']:.4f}",
            f"{metrics['eval_macro_f1']:.4f}",
            "← 最好" if self.best.step == state.global_step else "",
        ]
        if not self.has_header:
            ProgressBar.write(table_line(list(TABLE), list(TABLE.values())))
            self.has_header = True
        ProgressBar.write(table_line(cells, list(TABLE.values())))
        sys.stdout.flush()  # which in a log file is written in blocks

    def close(self) -> None:
        """Take the bar away, however the training ended."""
        if self.bar is not None:
            self.bar.close()
