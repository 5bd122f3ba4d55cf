"""Tokenised rows for training: the data set, the order in which they come, and a batch of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from data.dataset import LABEL_NAMES, Rows
from data.preprocessing import clean_text, encode_texts
from modeling.batching import pad
from runtime.terminal import ProgressBar

NO_LABEL = -100  # what cross-entropy leaves out, and Trainer does not count
TEXTS_AT_ONCE = 2000  # that a tokenizer gets: a fraction of a second
MORE_TOKENS = 4  # times max_length, how far a text that is cut is looked at
RARE = 0.1  # share of the rows
POOL_BATCHES = 50  # batches drawn at random and sorted by length together; more would make batches less random


@dataclass
class TokenizedRows:
    """`input_ids[i]`, at most max_length tokens, has the label id `labels[i]`; a map-style torch dataset.

    `full_lengths[i]` is what it would have at `MORE_TOKENS` times max_length.
    """

    input_ids: list[list[int]]
    labels: list[int]
    label_names: list[str] = field(default_factory=lambda: list(LABEL_NAMES))
    full_lengths: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < 0:  # a row that fills up a batch (`EvenSampler`)
            return {"input_ids": self.input_ids[~index], "label": NO_LABEL}
        return {"input_ids": self.input_ids[index], "label": self.labels[index]}

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.input_ids]


def tokenize(rows: Rows, tokenizer, max_length: int, template: str | None = None) -> TokenizedRows:
    """Cleaned and cut token ids of all rows, in the prompt where there is one, unpadded."""
    input_ids: list[list[int]] = []
    full_lengths: list[int] = []
    prompt = len(encode_texts(tokenizer, [""], max_length, template)[0])
    with ProgressBar(len(rows), "分词", "条") as bar:
        for start in range(0, len(rows), TEXTS_AT_ONCE):
            texts = [clean_text(text) for text in rows.texts[start : start + TEXTS_AT_ONCE]]
            encoded = encode_texts(tokenizer, texts, max_length, template)
            input_ids += encoded
            # Those that may have been cut are looked at again.
            lengths = [len(ids) for ids in encoded]
            full = [i for i, length in enumerate(lengths) if length == max_length + prompt]
            longer = encode_texts(tokenizer, [texts[i] for i in full], MORE_TOKENS * max_length, template)
            for i, ids in zip(full, longer, strict=True):
                lengths[i] = len(ids)
            full_lengths += lengths
            bar.update(len(texts))
    return TokenizedRows(input_ids, rows.labels, rows.label_names, full_lengths)


def rare_labels(labels: Sequence[int]) -> dict[int, float]:
    """Label id -> its share of the rows, for each of less than a tenth; of six labels or more, half an even share.

    With such data accuracy says little about the rare label: never giving it costs next to nothing.
    """
    shares = np.bincount(labels) / len(labels)
    limit = min(RARE, 0.5 / len(shares))
    return {label: float(share) for label, share in enumerate(shares) if share < limit}


def collate(rows: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` (B, T), `labels` (B,)."""
    return pad([row["input_ids"] for row in rows], pad_id) | {"labels": torch.tensor([row["label"] for row in rows])}


class LengthGroupedSampler(Sampler[int]):
    """Indices of each epoch in an order that depends on (seed, epoch) alone, so a resumed run meets it again.

    transformers' own sampler draws from the global random state, which a resumed run no longer has,
    and runs through each pool from long to short; here the batches of a pool come in random order.
    `group_size` is the number of rows of one optimizer step (batch x accumulation): with it, 4 x 4 and
    16 x 1 see the same rows in each step.
    """

    def __init__(self, lengths: Sequence[int], group_size: int, seed: int):
        self.lengths = np.asarray(lengths)
        self.group_size = group_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch).tolist())

    def order(self, epoch: int) -> np.ndarray:
        """All indices once, (N,). An incomplete group comes last, so that the others stay whole."""
        rng = np.random.default_rng((self.seed, epoch))
        shuffled = rng.permutation(len(self.lengths))
        pool_size = POOL_BATCHES * self.group_size
        groups = []
        for start in range(0, len(shuffled), pool_size):
            pool = shuffled[start : start + pool_size]
            pool = pool[np.argsort(-self.lengths[pool], kind="stable")]
            groups += [pool[i : i + self.group_size] for i in range(0, len(pool), self.group_size)]
        whole = [group for group in groups if len(group) == self.group_size]
        rest = [group for group in groups if len(group) < self.group_size]
        rng.shuffle(whole)
        return np.concatenate(whole + rest)


class EvenSampler(Sampler[int]):
    """The order of `sampler`, filled up so that every process gets as many batches.

    accelerate would fill up with rows that then count twice. Here `~i` (negative) stands for row i without its label:
    it is computed and adds nothing, so that each step is that of one process with larger accumulation.
    """

    def __init__(self, sampler, multiple: int):
        self.sampler, self.multiple = sampler, multiple

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        shortest = int(np.argmin(self.sampler.lengths))
        yield from [~shortest] * (len(self) - len(self.sampler))
