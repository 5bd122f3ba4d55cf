"""Tokenised rows as a data set for training, and how they become a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data.dataset import Rows
from data.preprocessing import clean_text, encode_texts
from modeling.batching import pad

NO_LABEL = -100  # what cross-entropy leaves out, and Trainer does not count


@dataclass
class TokenizedRows:
    """`input_ids[i]`, at most max_length tokens, has the label id `labels[i]`; a map-style torch dataset."""

    input_ids: list[list[int]]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < 0:  # a row that fills up a batch (runtime/distributed.py)
            return {"input_ids": self.input_ids[~index], "label": NO_LABEL}
        return {"input_ids": self.input_ids[index], "label": self.labels[index]}

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.input_ids]


def tokenize(rows: Rows, tokenizer, max_length: int, template: str | None = None) -> TokenizedRows:
    """Cleaned and cut token ids of all rows, in the prompt where there is one, unpadded."""
    texts = [clean_text(text) for text in rows.texts]
    return TokenizedRows(encode_texts(tokenizer, texts, max_length, template), rows.labels)


def collate(rows: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` (B, T), `labels` (B,)."""
    return pad([row["input_ids"] for row in rows], pad_id) | {"labels": torch.tensor([row["label"] for row in rows])}
