"""The best adapter so far, kept aside in one small file, and the patience of early stopping.

Trainer's own best-model option needs an evaluation at every save, which at 100 steps would cost
nearly as much as the training. Each checkpoint carries a copy, so a resumed run knows the best too.
"""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save

from runtime.atomic_files import atomic_write
from runtime.distributed import from_main
from runtime.processes import is_main

WEIGHTS, STATE = "best_adapter.safetensors", "best_adapter.json"


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
        from peft import get_peft_model_state_dict

        self.accuracy, self.loss, self.step, self.misses = accuracy, loss, step, 0
        if not is_main():
            return
        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with atomic_write(self.output_dir / WEIGHTS, "wb") as file:
            file.write(save(tensors))

    def load_into(self, model) -> None:
        """Give the model the best adapter's weights."""
        from peft import set_peft_model_state_dict

        # The first process alone has the file; others may be on another machine.
        best = from_main(load_file(self.output_dir / WEIGHTS) if is_main() else None)
        set_peft_model_state_dict(model, best)

    def save_to(self, checkpoint: Path) -> None:
        """Put a copy and the state into a checkpoint; before the first evaluation there is none."""
        if self.step:
            shutil.copyfile(self.output_dir / WEIGHTS, checkpoint / WEIGHTS)
            state = {
                key: value for key, value in dataclasses.asdict(self).items() if key not in ("output_dir", "patience")
            }
            (checkpoint / STATE).write_text(json.dumps(state), encoding="utf-8")

    def restore_from(self, checkpoint: Path) -> None:
        """The inverse of `save_to`."""
        if (checkpoint / STATE).is_file():
            if is_main():
                shutil.copyfile(checkpoint / WEIGHTS, self.output_dir / WEIGHTS)
            state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
            self.accuracy, self.loss = float(state["accuracy"]), float(state["loss"])
            self.step, self.misses = int(state["step"]), int(state["misses"])

    def remove(self) -> None:
        """Delete the file kept aside, once the run has saved its adapter."""
        (self.output_dir / WEIGHTS).unlink(missing_ok=True)
