"""A Trainer that computes a batch in as many micro-batches as memory asks for; the gradients stay the same.

Only batches that are too long are split, so most steps run whole. When memory runs out all the same,
the step is done again from its beginning in micro-batches of half the size, which then stays.
"""

import dataclasses
import math
from contextlib import nullcontext

import torch
from transformers import Trainer

from modeling.batching import extra_tokens
from runtime.errors import OneProcessError, UserError, is_out_of_memory
from training.memory_plan import MicroBatchPlan

# The reentrant kind needs an input that requires a gradient, which a frozen embedding's output does not by itself:
# where nothing sees to that, the adapter silently gets none.
CHECKPOINTING = {"use_reentrant": False}


class MicroBatchTrainer(Trainer):
    """`plan` says how a batch is computed. The loss must be a sum over rows divided by the rows of the step."""

    plan = MicroBatchPlan()

    def use_plan(self, plan: MicroBatchPlan) -> None:
        """Compute batches so from now on; activation checkpointing once begun goes on."""
        self.plan = plan
        if plan.activation_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=CHECKPOINTING)

    def get_batch_samples(self, *args, **kwargs):
        """Trainer asks for the batches of each optimizer step once, at its beginning."""
        self.batches_of_step = []
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Loss of a batch, its gradient added. After a lack of memory all batches of this step are done again."""
        self.batches_of_step.append(inputs)
        pending = [inputs]
        while True:
            try:
                for batch in pending:
                    loss = self._step_in_micro_batches(model, batch, num_items_in_batch)
                return loss
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside `except`, whose traceback would keep the activations alive.
            self._use_less_memory(batch["input_ids"].shape)
            model.zero_grad()  # a backward pass that broke off has left gradients in some layers
            pending = self.batches_of_step

    def _step_in_micro_batches(self, model, inputs, num_items_in_batch) -> torch.Tensor:
        batch, length = inputs["input_ids"].shape
        rows = self.plan.rows(batch, length + extra_tokens(self.model))
        losses = []
        for start in range(0, batch, rows):
            micro_batch = {name: value[start : start + rows] for name, value in inputs.items()}
            # Processes exchange gradients once for each batch, with its last micro-batch.
            is_last = start + rows >= batch
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                losses.append(super().training_step(model, micro_batch, num_items_in_batch))
        return sum(losses)

    def _use_less_memory(self, shape: tuple[int, int]) -> None:
        """Halve the micro-batches, then begin activation checkpointing, then give up; says which."""
        from accelerate.utils.memory import clear_device_cache

        clear_device_cache(garbage_collection=True)
        batch, length = shape[0], shape[1] + extra_tokens(self.model)
        rows, step = self.plan.rows(batch, length), self.state.global_step + 1
        if self.accelerator.num_processes > 1:
            raise OneProcessError(
                f"第 {step} 步内存不足。多个进程时不能中途改小："
                "加 --max_memory_gb（每个进程的上限，单位 GB），再运行同一条命令接着训练"
            )
        if rows > 1:
            rows = math.ceil(rows / 2)
            self.use_plan(dataclasses.replace(self.plan, max_tokens=rows * length))
            change = f"从现在起每次最多算 {rows * length:,} 个 token（这一批每次 {rows} 条）"
        elif not self.plan.activation_checkpointing:
            self.use_plan(dataclasses.replace(self.plan, activation_checkpointing=True))
            change = "从现在起反向时重算激活"
        else:
            raise UserError(
                f"第 {step} 步内存不足：重算激活、每次只算一条（{length} 个 token）也放不下。"
                "加 --use_qlora，或减小 --max_length，或关掉占用显存的其他程序"
            )
        print(f"\n第 {step} 步内存不足：{change}，这一步重新算；梯度不变，训练接着进行。", flush=True)
