"""Work for the training benchmarks: a model with fresh LoRA, and batches with the lengths of real reviews."""

import json
from pathlib import Path

import numpy as np
import torch

from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig
from modeling.lora import build_for_training
from training.tokenized_dataset import LengthGroupedSampler, TokenizedRows

MAX_LENGTH = 256
LENGTHS = Path(__file__).parent / "chnsenticorp_lengths.json"


def build(model_name: str, use_qlora: bool = False):
    """(PEFT model, tokenizer), the same weights each time."""
    torch.manual_seed(0)
    return build_for_training(TrainingConfig(model_name=model_name, use_qlora=use_qlora), LoraSettings())


def review_lengths() -> np.ndarray:
    """(9600,) tokens of each review, cut at 256, in a fixed random order."""
    counts = json.loads(LENGTHS.read_text(encoding="utf-8"))["lengths"]
    lengths = np.concatenate([np.full(rows, min(tokens, MAX_LENGTH)) for tokens, rows in counts])
    return np.random.default_rng(0).permutation(lengths)


def batches_of(lengths: np.ndarray, batch_size: int, *, grouped: bool) -> list[np.ndarray]:
    """Row lengths of each batch of one epoch: `grouped` by length as train.py does, or in random order."""
    order = LengthGroupedSampler(lengths, batch_size, seed=0).order(0) if grouped else np.arange(len(lengths))
    return [lengths[order[i : i + batch_size]] for i in range(0, len(order), batch_size)]


def evenly_spread(batches: list[np.ndarray], count: int) -> list[np.ndarray]:
    """`count` batches at even steps through the epoch sorted by cost, so that few stand for all."""
    by_cost = sorted(batches, key=lambda lengths: (lengths.max(), len(lengths)))
    return [by_cost[int((i + 0.5) * len(by_cost) / count)] for i in range(count)]


def rows_of(batches: list[np.ndarray], vocab: int) -> TokenizedRows:
    """Random tokens of these lengths, batch after batch."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(5, vocab, size=length).tolist() for length in np.concatenate(batches)]
    return TokenizedRows(rows, rng.integers(0, 2, size=len(rows)).tolist())
