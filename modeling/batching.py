"""Batches of token ids, and the one loop that predicts them.

logits = predict_logits(model, rows, pad_id)  # (N, C) of N rows of token ids, in their order
"""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from modeling.engines import GraphEngine, TorchEngine
from runtime.distributed import sum_over_processes
from runtime.errors import is_out_of_memory
from runtime.processes import rank, world_size
from runtime.terminal import ProgressBar

PAD_MULTIPLE = 8  # a GPU's matrix units read tiles of eight
# Tokens of a batch, padding included: enough to keep the device busy, few enough for 4 GB.
BATCH_TOKENS = {"cpu": 1024, "mps": 8192, "cuda": 16384}


def padded_length(longest: int, multiple: int = PAD_MULTIPLE) -> int:
    """`longest` rounded up to a multiple of `multiple`."""
    return -(-longest // multiple) * multiple


def pad(rows: Sequence[Sequence[int]], pad_id: int, multiple: int = PAD_MULTIPLE) -> dict[str, torch.Tensor]:
    """Right-padded `input_ids` and `attention_mask`, both (B, T) with T a multiple of `multiple`."""
    length = padded_length(max(map(len, rows)), multiple)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first; a padded batch has at most `max_tokens` tokens.

    The longest come first so that a lack of memory shows at once and not at the end.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * padded_length(lengths[batch[0]]) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def smaller_batches(batches: list[list[int]], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """The same indices in the same order, each padded batch with at most `max_tokens` tokens or of one row."""
    smaller = []
    for batch in batches:
        at_once = max(1, max_tokens // padded_length(lengths[batch[0]]))
        smaller += [batch[start : start + at_once] for start in range(0, len(batch), at_once)]
    return smaller


def extra_tokens(model) -> int:
    """Tokens that a model itself puts behind every row: the label words of the head label_scoring."""
    return getattr(model, "extra_tokens", 0)


def predict_logits(
    model,
    rows: Sequence[Sequence[int]],
    pad_id: int,
    *,
    max_tokens: int | None = None,
    progress: str | None = None,
    shared: bool = False,
) -> np.ndarray:
    """Logits (N, C) float32 of tokenised rows, in their order. `progress` titles a progress bar.

    `model` is a torch model or a `GraphEngine`. A torch model runs in the precision of its weights: a 16-bit base
    under bf16 autocast, any other as it is. `shared` deals the batches out to all processes, which must ask for the
    same rows; each gets all answers, the same bits as one process would. When memory runs out, a batch is computed in
    halves, down to one row, and the model from then on in batches no larger; that rounds differently and changes
    nothing else.
    """
    from accelerate.utils.memory import clear_device_cache

    engine = model if isinstance(model, GraphEngine) else TorchEngine(model)
    multiple = 1 if engine.kind == "cpu" else PAD_MULTIPLE
    logits = np.zeros((len(rows), engine.classes), np.float32)

    # The batches of this process, none larger than what an earlier call has found to fit.
    lengths = [len(row) + extra_tokens(model) for row in rows]
    batches = list(batches_by_length(lengths, max_tokens or BATCH_TOKENS[engine.kind]))
    if shared:
        batches = batches[rank() :: world_size()]
    if known := getattr(model, "most_prediction_tokens", None):
        batches = smaller_batches(batches, lengths, known)
    waiting = deque(batches)

    with evaluation_mode(model), ProgressBar(sum(map(len, batches)), progress, "条") as bar:
        while waiting:
            batch = waiting.popleft()
            found = _logits_or_none(engine, pad([rows[i] for i in batch], pad_id, multiple))
            if found is not None:
                logits[batch] = found
                bar.update(len(batch))
                continue
            # Too little memory: this batch in halves, and all that wait no larger than these.
            clear_device_cache(garbage_collection=True)
            half = -(-len(batch) // 2)
            most = model.most_prediction_tokens = half * padded_length(lengths[batch[0]])
            waiting = deque(smaller_batches([batch, *waiting], lengths, most))
            smaller = f"从现在起每次最多算 {most:,} 个 token（这一批每次 {half} 条）"
            notice = f"内存不足：{smaller}，预测接着进行；答案只差舍入。"
            bar.write(notice, file=sys.stderr)
    return sum_over_processes(logits) if shared else logits


@contextmanager
def evaluation_mode(model) -> Iterator[None]:
    """A torch model without dropout, and then again as it was; an exported graph has none."""
    if isinstance(model, GraphEngine):
        yield
        return
    was_training = model.training
    model.eval()
    yield
    model.train(was_training)


def _logits_or_none(engine: TorchEngine | GraphEngine, inputs: dict[str, torch.Tensor]) -> np.ndarray | None:
    """Logits (B, C) of one batch; None where there is too little memory and fewer rows than these may fit.

    The tensors of a pass that broke off are gone with this call.
    """
    try:
        return engine.logits(**inputs)
    except (RuntimeError, MemoryError) as error:
        if len(inputs["input_ids"]) == 1 or not is_out_of_memory(error):
            raise
        return None
