"""The training loop of the small base: batches, losses, averaged weights, and rounds that can be taken up again."""

import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from prompted import Example
from torch import nn
from transformers import Qwen2ForCausalLM

from runtime.atomic_files import atomic_write

EMA_EVERY = 8  # steps between two looks at the weights for their average


@dataclass(frozen=True)
class Stage:
    """One stretch of training with its own learning-rate schedule."""

    name: str
    rounds: int
    learning_rate: float  # peak; linear warm-up, then a cosine to a hundredth
    lm_share: float  # of the positions whose next token is predicted; the others only carry the label
    lm_weight: float  # of the mean next-token loss beside the mean label loss


def add_dropout(model: Qwen2ForCausalLM, p: float) -> None:
    """Dropout after the embeddings and at the end of each attention and MLP, while in training mode."""
    drop = lambda module, inputs, output: nn.functional.dropout(output, p, module.training)  # noqa: E731
    model.model.embed_tokens.register_forward_hook(drop)
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.down_proj.register_forward_hook(drop)


def batches(examples: list[Example], tokens_per_step: int, rng: random.Random | None) -> list[list[Example]]:
    """Examples of about equal length together; padded, a batch has at most about `tokens_per_step` tokens."""
    noise = (lambda: rng.uniform(0.95, 1.05)) if rng else (lambda: 1.0)
    found, current, longest = [], [], 0
    for example in sorted(examples, key=lambda example: len(example.ids) * noise()):
        longest = max(longest, len(example.ids))
        if current and longest * (len(current) + 1) > tokens_per_step:
            found.append(current)
            current, longest = [], len(example.ids)
        current.append(example)
    found.append(current)
    if rng:
        rng.shuffle(found)
    return found


@dataclass
class Losses:
    """Sums over a batch: next-token cross-entropy and label cross-entropy in nats, and over how many of each."""

    lm: torch.Tensor
    lm_count: int
    label: torch.Tensor
    label_count: int


def losses_of(model, batch: list[Example], pad_id: int, lm_share: float = 1.0) -> Losses:
    """Losses of a batch. Padding stands on the right, where causal attention never looks: no mask is needed."""
    length = max(len(example.ids) for example in batch)
    ids = torch.tensor([example.ids + [pad_id] * (length - len(example.ids)) for example in batch])  # (B, T)
    sizes = torch.tensor([len(example.ids) for example in batch])  # (B,)
    chosen = torch.arange(length - 1) < (sizes - 1)[:, None]  # (B, T - 1): has a next token
    if lm_share < 1:
        chosen &= torch.rand(chosen.shape) < lm_share
    asked = [row for row, example in enumerate(batch) if example.words]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids).last_hidden_state  # (B, T, D)
        states, targets = hidden[:, :-1][chosen], ids[:, 1:][chosen]  # (N, D), (N,)
        # In chunks, so that the (N, V) logits stay in the processor's cache.
        lm = sum(
            nn.functional.cross_entropy(model.lm_head(h).float(), t, reduction="sum")
            for h, t in zip(states.split(128), targets.split(128), strict=True)
        )
        label = torch.zeros(())
        if asked:
            log_probs = model.lm_head(hidden[asked, sizes[asked] - 1]).float().log_softmax(dim=1)  # (A, V)
            words = torch.tensor([batch[row].words for row in asked])  # (A, 2): negative, positive
            positive = torch.tensor([batch[row].positive for row in asked])  # (A,)
            wanted = torch.stack([1 - positive, positive], dim=1)  # (A, 2)
            label = -(wanted * log_probs.gather(1, words)).sum()
    return Losses(lm, len(targets), label, len(asked))


def learning_rate_factor(progress: float) -> float:
    """Linear warm-up over the first fiftieth, then a cosine to 0.01."""
    if progress < 0.02:
        return (progress + 1e-4) / 0.02
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


class Trainer:
    """Model, optimizer and averaged weights of a stage, with the checkpoint that it goes on from."""

    def __init__(self, model, tokenizer, args, stages: Path):
        self.model, self.tokenizer, self.args, self.stages = model, tokenizer, args, stages

    def run(self, stage: Stage, examples_of_round, evaluate) -> list[dict]:
        """Train through the stage's rounds; leaves the averaged weights in the model. Returns one row a round."""
        finished = self.stages / f"{stage.name}.pt"
        running = self.stages / f"{stage.name}.running.pt"
        if finished.is_file():
            state = torch.load(finished)
            self.model.load_state_dict(state["model"])
            return state["history"]
        self._start()
        history = self._take_up(running) if running.is_file() else []
        for index in range(len(history), stage.rounds):
            trained = self._round(stage, index, examples_of_round(index))
            history.append(trained | evaluate(self.copy_of_model(self.average)))
            print(json.dumps({"stage": stage.name} | history[-1]), flush=True)
            more = {"optimizer": self.optimizer.state_dict(), "average": self.average, "looks": self.looks}
            self._save(running, more, history)
        self.model.load_state_dict(self.average)
        self._save(finished, {}, history)
        running.unlink()
        return history

    def _start(self) -> None:
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        plain = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [{"params": decayed, "weight_decay": self.args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self.looks = 0
        self.average = {name: weights.clone() for name, weights in self.model.state_dict().items()}

    def _take_up(self, path: Path) -> list[dict]:
        state = torch.load(path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.looks = state["average"], state["looks"]
        return state["history"]

    def _save(self, path: Path, more: dict, history: list[dict]) -> None:
        with atomic_write(path, "wb") as file:
            torch.save({"model": self.model.state_dict(), "history": history} | more, file)

    def _round(self, stage: Stage, index: int, examples: list[Example]) -> dict:
        """One pass over the examples of a round."""
        rng = random.Random(f"{self.args.seed} {stage.name} {index}")
        torch.manual_seed(rng.randrange(2**31))
        started, todo = time.time(), batches(examples, self.args.tokens_per_step, rng)
        rows_per_step = max(1, sum(1 for example in examples if example.words) / len(todo))
        sums = [0.0, 0, 0.0, 0]
        self.model.train()
        for number, batch in enumerate(todo):
            progress = (index + number / len(todo)) / stage.rounds
            for group in self.optimizer.param_groups:
                group["lr"] = stage.learning_rate * learning_rate_factor(progress)
            found = losses_of(self.model, batch, self.tokenizer.pad_token_id, stage.lm_share)
            # Every labelled row weighs the same, whether it came with many short ones or with few long ones.
            loss = stage.lm_weight * found.lm / found.lm_count + found.label / rows_per_step
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if number % EMA_EVERY == 0:
                self._add_to_average()
            for i, value in enumerate((found.lm.item(), found.lm_count, found.label.item(), found.label_count)):
                sums[i] += value
        result = {"round": index + 1, "steps": len(todo), "next_token_loss": sums[0] / sums[1]}
        if sums[3]:
            result["label_loss"] = sums[2] / sums[3]
        return result | {"seconds": round(time.time() - started)}

    @torch.no_grad()
    def _add_to_average(self) -> None:
        self.looks += 1
        decay = min(self.args.average**EMA_EVERY, self.looks / (self.looks + 9))  # forgets the first steps soon
        for name, weights in self.model.state_dict().items():
            self.average[name].lerp_(weights, 1 - decay)

    def copy_of_model(self, weights=None) -> Qwen2ForCausalLM:
        """The model without dropout, to be evaluated and thrown away; by default with its own weights."""
        model = Qwen2ForCausalLM(self.model.config)
        model.load_state_dict(weights or self.model.state_dict())
        return model.eval()
