"""Trainer, set up for this task: exact accumulation, length-grouped batches, safe checkpoints, best adapter.

trainer = build_trainer(config, model, tokenizer, tokenized, run, checkpoint)
trainer.train(resume_from_checkpoint=checkpoint)
"""

import math
import os
import signal
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from peft.helpers import disable_input_dtype_casting
from sklearn.metrics import f1_score
from torch import nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerControl, TrainerState, TrainingArguments

from configs.training_config import ACCURACY, BEST_BY_AUTO, LANGUAGE_MODEL, MACRO_F1, TrainingConfig
from modeling.batching import extra_tokens, predict_logits
from modeling.devices import best_device
from runtime.distributed import broadcast_from_main
from runtime.errors import UserError, writing_to
from runtime.processes import world_size
from runtime.signals import Interrupted, postponed_interrupts
from training.callbacks import BestAdapter, EvaluateAndKeepBest, KeepLossSum, Progress, StopWhenAsked
from training.checkpoints import CheckpointStore, Run
from training.memory_plan import (
    GB,
    MicroBatchPlan,
    MicroBatchTrainer,
    cap_memory,
    estimate_memory,
    memory_limit,
    plan_micro_batches,
)
from training.optimization import (
    balanced_weights,
    faster_on_cpu,
    is_paged,
    mean_cross_entropy,
    optimizer_name,
    page_again,
)
from training.tokenized_dataset import EvenSampler, LengthGroupedSampler, TokenizedRows, collate, rare_labels


def rows_per_step(config: TrainingConfig) -> int:
    """Rows of one optimizer step, over all processes."""
    return config.batch_size * config.gradient_accumulation_steps * world_size()


def steps_per_epoch(config: TrainingConfig, rows: int) -> int:
    """Optimizer steps in one pass over `rows` rows; the last may have fewer rows."""
    return math.ceil(rows / rows_per_step(config))


def total_steps(config: TrainingConfig, rows: int) -> int:
    return config.max_steps or config.num_epochs * steps_per_epoch(config, rows)


def training_arguments(config: TrainingConfig, rows: int) -> TrainingArguments:
    """Trainer's own options. Evaluation is asked for by `EvaluateAndKeepBest`, so none is set here."""
    device = best_device()
    arguments = TrainingArguments(
        output_dir=config.output_dir,
        num_train_epochs=config.num_epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(config.warmup_ratio * total_steps(config, rows)),
        weight_decay=config.weight_decay,
        optim=optimizer_name(config.optim, config.use_qlora, device),
        bf16=device.bf16,
        use_cpu=device.kind == "cpu",
        save_strategy="steps",
        save_steps=config.save_steps,
        logging_nan_inf_filter=False,  # would show a run that diverges as one whose loss is 0
        logging_steps=max(1, min(50, total_steps(config, rows) // 10)),
        seed=config.seed,
        data_seed=config.seed,
        report_to=config.report_to,
        disable_tqdm=True,  # the callback `Progress` shows it
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,  # every trainable matrix takes part in every step
        dataloader_pin_memory=device.kind == "cuda",
    )
    # One GPU for each process: Trainer would spread one process over all of them by DataParallel, with larger batches.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


class SentimentTrainer(MicroBatchTrainer):
    """Trainer with this repository's order of rows, evaluation loop and checkpoints."""

    def __init__(
        self, *, sampler: LengthGroupedSampler, store: CheckpointStore, best: BestAdapter, pad_id: int, **kwargs
    ):
        super().__init__(**kwargs)
        # The loss is ours (see mean_cross_entropy), and so are the labels: one a row, (B,). Of a language model Trainer
        # would count all but the first of each batch, as if they were tokens.
        self.model_accepts_loss_kwargs = self._loss_shifts_labels = False
        self.sampler = sampler
        self.store = store
        self.best = best
        self.pad_id = pad_id
        self.loss_sum = KeepLossSum(self)
        self.add_callback(self.loss_sum)
        self.progress = Progress(store.output_dir, best)
        self.remove_callback(PrinterCallback)
        self.add_callback(self.progress)
        # On a CPU with AVX512-BF16 bitsandbytes would repack a 4-bit base at the first evaluation, round its scales
        # to bf16 and go on training with these; a resumed run would have them unrounded until its next evaluation.
        for module in self.model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """To the end, from a checkpoint or the start; a signal before that saves one and is `Interrupted`."""
        checkpoint = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        if checkpoint:
            self.loss_sum.go_on_from(checkpoint)
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if self.best.should_stop or state.global_step >= state.max_steps:  # Trainer would do one step more
                self.state = state
                if self.args.should_save:
                    self.progress.rewrite_log(state)
                return

        # A signal is heard at the end of the step under way.
        with postponed_interrupts("做完这一步、存好检查点就停；再来一次则立即结束，退回上一个检查点。") as received:
            stop = StopWhenAsked(received)
            self.add_callback(stop)
            try:
                # Autocast brings the inputs to bf16 by itself; PEFT would first bring them to float32.
                with disable_input_dtype_casting(self.model, self.args.bf16):
                    super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
            except UnpicklingError:  # raised by weights_only=True, which Trainer loads with
                raise UserError(f"{checkpoint} 里有不是张量的内容，拒绝载入；请删掉这个文件夹") from None
            finally:
                self.remove_callback(stop)
                self.progress.close()
        if stop.stopped:
            message = f"已停在第 {self.state.global_step} 步，检查点在 {self.store.output_dir}。"
            raise Interrupted([*received, signal.SIGTERM][0], f"{message}重新运行同一条命令即接着训练。")

    def floating_point_ops(self, inputs) -> int:
        """Nobody reads the count, and Trainer would walk through all parameters for it at each step."""
        return 0

    def _get_train_sampler(self, train_dataset=None) -> Sampler[int]:
        if world_size() == 1:
            return self.sampler
        return EvenSampler(self.sampler, self.args.per_device_train_batch_size * world_size())

    def evaluate(self, eval_dataset: TokenizedRows | None = None, ignore_keys=None, metric_key_prefix: str = "eval"):
        """Accuracy, macro F1 and mean loss by the one prediction loop."""
        rows = eval_dataset or self.eval_dataset
        logits = torch.from_numpy(self.logits_of(rows, "评估"))  # (N, C)
        labels, pred = torch.tensor(rows.labels), logits.argmax(1)
        metrics = {
            f"{metric_key_prefix}_accuracy": float((pred == labels).float().mean()),
            f"{metric_key_prefix}_macro_f1": float(f1_score(labels, pred, average="macro", zero_division=0)),
            f"{metric_key_prefix}_loss": float(nn.functional.cross_entropy(logits, labels)),
        }
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def logits_of(self, rows: TokenizedRows, title: str) -> np.ndarray:
        """(N, C) by the one prediction loop, each process its share, in batches that fit the memory."""
        most = self.plan.prediction_tokens
        return predict_logits(self.model, rows.input_ids, self.pad_id, max_tokens=most, progress=title, shared=True)

    def finished_model(self):
        """The model with its best adapter and without Trainer's bf16 autocast around it: as it will be served."""
        self.best.load_into(self.model)
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint and is_paged(self.args.optim):
            page_again(self.optimizer.optimizer)

    def _save_checkpoint(self, model, trial=None) -> None:
        """Trainer writes into the staging folder; the store then makes it visible as a whole."""
        name = f"checkpoint-{self.state.global_step}"
        self.args.output_dir = str(self.store.staging)
        try:
            with writing_to(self.store.output_dir / name):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # of several processes each writes its random state
                if self.args.should_save:
                    self.loss_sum.save_to(self.store.staging / name)
                    self.best.save_to(self.store.staging / name)
                    self.store.commit(name)
                self.accelerator.wait_for_everyone()
        finally:
            self.args.output_dir = str(self.store.output_dir)
            self.store.discard()

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        """Only the adapter: PEFT would ask the hub whether the vocabulary was resized, and it never is."""
        if not self.args.should_save:
            return
        os.makedirs(output_dir, exist_ok=True)
        self.model.save_pretrained(output_dir, save_embedding_layers=False)


def build_trainer(
    config: TrainingConfig, model, tokenizer, tokenized: dict[str, TokenizedRows], run: Run, checkpoint: Path | None
) -> SentimentTrainer:
    """Everything put together; with a `checkpoint`, the best adapter so far comes from it."""
    output_dir = Path(config.output_dir)
    train = tokenized["train"]

    # The best adapter on the validation rows, by default looked for once an epoch.
    by = config.best_by
    if by == BEST_BY_AUTO:
        by = MACRO_F1 if rare_labels(train.labels) else ACCURACY
    best = BestAdapter(output_dir, config.early_stopping_patience, by)
    if checkpoint:
        best.restore_from(checkpoint)
    eval_steps = config.eval_steps or steps_per_epoch(config, len(train))

    # The loss: over labels, or over the whole vocabulary.
    weights = balanced_weights(train.labels) if config.class_weights == "balanced" else None
    loss = partial(mean_cross_entropy, weights=weights, over_vocabulary=config.label_loss == LANGUAGE_MODEL)

    faster_on_cpu(model, best_device(), max(train.lengths))
    trainer = SentimentTrainer(
        model=model,
        args=training_arguments(config, len(train)),
        train_dataset=train,
        eval_dataset=tokenized["validation"],
        compute_loss_func=loss,
        data_collator=lambda rows: collate(rows, tokenizer.pad_token_id),
        callbacks=[EvaluateAndKeepBest(eval_steps, best)],
        sampler=LengthGroupedSampler(train.lengths, rows_per_step(config), config.seed),
        store=CheckpointStore(output_dir, run, config.save_total_limit, checkpoint),
        best=best,
        pad_id=tokenizer.pad_token_id,
    )
    fit_memory(trainer, config)
    return trainer


def fit_memory(trainer: SentimentTrainer, config: TrainingConfig) -> None:
    """Plan micro-batches and activation checkpointing for the memory there is.

    A `--max_memory_gb` that not even one row fits into is a `UserError`.
    """
    device = best_device()
    limit = memory_limit(device, config.max_memory_gb)
    if limit is None:
        trainer.use_plan(MicroBatchPlan(activation_checkpointing=config.gradient_checkpointing))
        return
    longest = max(trainer.train_dataset.lengths) + extra_tokens(trainer.model)
    plan = plan_micro_batches(
        estimate_memory(trainer.model, device, longest),
        limit,
        longest=longest,
        rows=config.batch_size,
        checkpointing=config.gradient_checkpointing,
    )
    if config.max_memory_gb and plan.needed > config.max_memory_gb * GB:
        raise UserError(
            f"--max_memory_gb {config.max_memory_gb:g} 太小：重算激活、每次只算一条（最长 {longest} 个 token）"
            f"也估计要 {plan.needed / GB:.1f} GB；加大 --max_memory_gb，或加 --use_qlora，或减小 --max_length"
        )
    cap_memory(device, config.max_memory_gb)
    # Processes with plans of their own would deal the same rows out in different batches.
    trainer.use_plan(broadcast_from_main(plan))
