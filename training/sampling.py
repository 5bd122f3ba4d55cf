"""Training order: random, but rows of similar length share a batch, so little is padding."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

POOL_BATCHES = 50  # batches drawn at random and sorted by length together; more would make batches less random


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
