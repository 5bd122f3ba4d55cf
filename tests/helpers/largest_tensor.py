"""A watch on the tensors that a model makes."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LargestVocabularyTensor(TorchDispatchMode):
    """The most rows of a tensor whose last dimension is the vocabulary."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.ndim and result.shape[-1] == self.vocabulary:
            self.rows = max(self.rows, result.numel() // self.vocabulary)
        return result
