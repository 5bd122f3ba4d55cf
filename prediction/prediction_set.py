"""`Predictions`: what a model said about some texts. Predict once; every analysis starts from here.

    >>> p = Predictions(["好", "差"], np.array([[-2.0, 2.0], [1.0, -1.0]]), np.array([1, 0]))
    >>> p.pred, p.confidence.round(3), p.p_positive.round(3)
    (array([1, 0]), array([0.982, 0.881]), array([0.982, 0.119]))

No torch in here, so that whoever only reads `predictions.jsonl` starts at once.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from data.preprocessing import text_ids
from runtime.atomic_files import atomic_write


@dataclass(frozen=True, init=False)
class Predictions:
    """`texts` (N), `logits` (N, C) float32, `labels` (N,) int64 or None where they are unknown."""

    texts: list[str]
    logits: np.ndarray
    labels: np.ndarray | None

    def __init__(self, texts: list[str], logits: ArrayLike, labels: ArrayLike | None = None):
        """Take lists as well as arrays; ValueError where their lengths differ."""
        known = None if labels is None else np.asarray(labels, dtype=np.int64)
        # A frozen dataclass is filled by way of `object`.
        object.__setattr__(self, "texts", texts)
        object.__setattr__(self, "logits", np.asarray(logits, dtype=np.float32))
        object.__setattr__(self, "labels", known)
        if self.logits.ndim != 2 or len(self.logits) != len(self.texts):
            raise ValueError(f"logits {self.logits.shape} do not fit {len(self.texts)} texts")
        if self.labels is not None and self.labels.shape != (len(self.texts),):
            raise ValueError(f"labels {self.labels.shape} do not fit {len(self.texts)} texts")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def probs(self) -> np.ndarray:
        """Softmax of the logits, (N, C) float64; rows sum to 1."""
        return softmax(self.logits)

    @property
    def pred(self) -> np.ndarray:
        """Most probable label id of each text, (N,) int64."""
        return self.logits.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted label, (N,), from 1/C to 1. Not P(positive)."""
        return self.probs.max(axis=1)

    @property
    def p_positive(self) -> np.ndarray:
        """P(label 1), (N,); defined for two classes alone."""
        if self.logits.shape[1] != 2:
            raise ValueError(f"p_positive needs two classes, these are {self.logits.shape[1]}")
        return self.probs[:, 1]

    @cached_property
    def text_ids(self) -> np.ndarray:
        """(N,) int64, equal for rows of the same text (`data.preprocessing.text_ids`), in the order of appearance."""
        return np.array(text_ids(self.texts), dtype=np.int64)

    @property
    def first_rows(self) -> np.ndarray:
        """Position of the first row of each different text, ascending."""
        return np.unique(self.text_ids, return_index=True)[1]

    def select(self, indices) -> "Predictions":
        """The rows at `indices` (integers or a boolean mask of length N)."""
        positions = np.arange(len(self))[indices]
        labels = None if self.labels is None else self.labels[positions]
        return Predictions([self.texts[i] for i in positions], self.logits[positions], labels)

    def save(self, path: str | Path) -> None:
        """One JSON row for each text: text, label (or null), logits, probabilities, pred."""
        labels = [None] * len(self) if self.labels is None else self.labels.tolist()
        rows = zip(self.texts, labels, self.logits.tolist(), self.probs.tolist(), self.pred.tolist(), strict=True)
        names = ("text", "label", "logits", "probabilities", "pred")
        with atomic_write(path) as file:
            file.writelines(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """The inverse of `save`; float32 logits come back bit for bit."""
        with open(path, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
        labels = [row["label"] for row in rows]
        known = bool(labels) and all(label is not None for label in labels)
        if not rows:
            return cls([], np.zeros((0, 0), np.float32))
        logits = np.array([row["logits"] for row in rows], dtype=np.float32)
        return cls([row["text"] for row in rows], logits, np.array(labels) if known else None)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax over the last axis of `logits / temperature`, computed in float64."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
