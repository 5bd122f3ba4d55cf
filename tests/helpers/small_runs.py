"""Short trainings in the test process, as train.py does them, with everything that must survive an interruption."""

import json
import shutil
import signal
from pathlib import Path

from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from small import REPOSITORY, run_script, small_reviews
from transformers import TrainerCallback, set_seed

from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig
from data.dataset import LABEL_NAMES, Rows
from modeling.lora import build_for_training
from training.checkpoints import FINISHED, CheckpointStore, Run, choose_checkpoint, find_checkpoints, step_of
from training.tokenized_dataset import tokenize
from training.trainer import SentimentTrainer, build_trainer

SETTINGS = {"max_steps": 30, "save_steps": 7, "eval_steps": 4, "batch_size": 4, "learning_rate": 3e-3}


def rows(count: int = 40) -> Rows:
    reviews = small_reviews(count)
    return Rows([r["text"] for r in reviews], [r["label"] for r in reviews])


def make_trainer(
    small_base, folder, reviews=None, lora=None, labels=LABEL_NAMES, checkpoint=None, run=None, **settings
) -> SentimentTrainer:
    """A trainer of a throwaway base, as train.py makes it; without dropout unless `lora` has some."""
    config = TrainingConfig(model_name=str(small_base), output_dir=str(folder), max_length=64, **settings)
    set_seed(config.seed)
    model, tokenizer = build_for_training(config, lora or LoraSettings(lora_dropout=0.0), labels)
    template = config.template_for(labels)
    tokenized = {
        "train": tokenize(reviews or rows(), tokenizer, 64, template),
        "validation": tokenize(rows(8), tokenizer, 64, template),
    }
    return build_trainer(config, model, tokenizer, tokenized, run or Run({}), checkpoint)


def resumable_trainer(small_base, folder, checkpoint=None, run=None, **settings) -> SentimentTrainer:
    """One with checkpoints and evaluations in between, and with dropout, whose random state has to be resumed."""
    return make_trainer(
        small_base, folder, rows(50), LoraSettings(), LABEL_NAMES, checkpoint, run, **(SETTINGS | settings)
    )


def go_on(small_base, folder, **settings):
    """A new process's trainer, as train.py makes it, after its training."""
    checkpoint, _ = choose_checkpoint(folder, "auto", run := Run({}))
    trainer = resumable_trainer(small_base, folder, checkpoint, run, **settings)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


def outcome(trainer, folder):
    """All that must be the same in the end, however often it was interrupted."""
    newest = find_checkpoints(folder)[0]
    tensors = get_peft_model_state_dict(trainer.finished_model())
    return {
        "adapter": {name: tensor.tolist() for name, tensor in tensors.items()},
        "best": (trainer.best.step, trainer.best.score, trainer.best.loss, trainer.best.misses),
        "log": json.loads((newest / "trainer_state.json").read_text())["log_history"],
        "training_log": (folder / "training_log.jsonl").read_text(),
        "checkpoints": [path.name for path in find_checkpoints(folder)][:1],
    }


def run_in_processes(count: int, work: list[list[str]], timeout: int = 240):
    """Run scripts one after the other (tests/helpers/several_processes.py), in `count` processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count] if count > 1 else []
    here = {"PYTHONPATH": str(REPOSITORY)}
    return run_script(*launcher, "tests/helpers/several_processes.py", json.dumps(work), env=here, timeout=timeout)


class At(TrainerCallback):
    """Do something when step `step` begins."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def interrupt(number=signal.SIGTERM):
    signal.raise_signal(number)


def keep_first_gradients(patch) -> None:
    """From now on a training leaves its first step's gradients, not yet clipped, in its output folder.

    `patch` sets an attribute of the class, as `setattr` does.
    """
    clip = SentimentTrainer._clip_grad_norm

    def keep(self, model):
        if self.state.global_step == 0 and self.args.should_save:
            gradients = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.requires_grad}
            save_file(gradients, Path(self.args.output_dir) / "first_gradients.safetensors")
        return clip(self, model)

    patch(SentimentTrainer, "_clip_grad_norm", keep)


def as_if_killed(folder: Path, step: int) -> None:
    """Leave of a finished run what was there when it had saved checkpoint `step`."""
    shutil.rmtree(folder / "lora_adapter")
    (folder / FINISHED).unlink()
    for checkpoint in find_checkpoints(folder):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint)


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".*")]


def staged(folder: Path, step: int, run: Run, keep: int = 2, resumed: Path | None = None) -> CheckpointStore:
    """A store with a small checkpoint of `step` ready to be committed."""
    store = CheckpointStore(folder, run, keep, resumed)
    (store.staging / f"checkpoint-{step}").mkdir(parents=True)
    for name in ("adapter_model.safetensors", "optimizer.pt"):
        (store.staging / f"checkpoint-{step}" / name).write_text(f"{name} of {step}")
    return store


def commit(folder: Path, step: int, run: Run, **kwargs) -> None:
    staged(folder, step, run, **kwargs).commit(f"checkpoint-{step}")
