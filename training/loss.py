"""The loss: exact under gradient accumulation, with class weights, for both heads."""

from collections.abc import Sequence

import torch
from torch import nn


def mean_cross_entropy(
    outputs,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    *,
    weights: torch.Tensor | None = None,
    over_vocabulary: bool = False,
) -> torch.Tensor:
    """Cross-entropy summed over the rows (B,) and divided by the rows of the whole optimizer step.

    With `weights` (C,) each row counts by its label's. They are 1 on average over the training rows, so rows are
    what the sum is divided by in either case; dividing by the weights of the step would undo part of them.
    Thus 4 x 4 gives the gradient of 16 x 1, also where the last batch is smaller. Left to itself,
    Trainer 5.x takes Qwen2's classifier for one that divides by itself and skips the division
    (https://github.com/huggingface/transformers/issues/47688).
    """
    # Label scores are log-probabilities over the vocabulary already; a softmax over them is one over the labels.
    loss = nn.functional.nll_loss if over_vocabulary else nn.functional.cross_entropy
    weights = None if weights is None else weights.to(labels.device)
    total = loss(outputs.logits.float(), labels, weight=weights, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def balanced_weights(labels: Sequence[int]) -> torch.Tensor:
    """rows / (C x rows of the label), (C,): every label weighs the same in all, and a row 1 on average.

    This is sklearn's "balanced" (King & Zeng 2001). Every label id below C occurs.
    """
    counts = torch.bincount(torch.tensor(labels))
    return len(labels) / (len(counts) * counts.float())
