"""The one batch prediction loop, and `SentimentPredictor` around it.

from inference import SentimentPredictor
predictor = SentimentPredictor(lora_path="outputs/lora_adapter")
predictor.predict("酒店很干净，下次还来")
# {"text": "酒店很干净，下次还来", "label": "正面", "label_id": 1, "confidence": 0.98,
#  "probabilities": {"负面": 0.02, "正面": 0.98}}
"""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.preprocessing import clean_text, encode_texts
from modeling.adapter_folder import DEFAULT_ADAPTER
from modeling.base_model import load_adapter
from modeling.devices import Device, best_device
from prediction.prediction_set import Predictions, softmax
from runtime.distributed import total
from runtime.errors import UserError, is_out_of_memory
from runtime.processes import is_main, rank, world_size

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

    Runs in the precision of the weights: a 16-bit base under bf16 autocast, any other as it is. `shared`
    deals the batches out to all processes, which must ask for the same rows; each gets all answers, the
    same bits as one process would. When memory runs out, a batch is computed in halves, down to one row, and
    the model from then on in batches no larger; that rounds differently and changes nothing else.
    """
    from tqdm import tqdm

    parameter = next(model.parameters())
    device = Device(parameter.device.type, parameter.dtype == torch.bfloat16)
    was_training = model.training
    model.eval()
    logits = np.zeros((len(rows), model.config.num_labels), np.float32)
    lengths = [len(row) + extra_tokens(model) for row in rows]
    batches = list(batches_by_length(lengths, max_tokens or BATCH_TOKENS[device.kind]))
    mine = batches[rank() :: world_size()] if shared else batches
    if known := getattr(model, "most_prediction_tokens", None):
        mine = smaller_batches(mine, lengths, known)
    mine = deque(mine)
    # Under FSDP the other processes wait in this batch's layers and know nothing of a lack of memory here.
    alone = shared or world_size() == 1
    multiple = 1 if device.kind == "cpu" else PAD_MULTIPLE
    hidden = progress is None or not is_main()
    with tqdm(total=sum(map(len, mine)), desc=progress, unit="条", disable=hidden, leave=False) as bar:
        while mine:
            batch = mine.popleft()
            found = _logits_or_none(model, pad([rows[i] for i in batch], pad_id, multiple), device, alone)
            if found is None:
                from accelerate.utils.memory import clear_device_cache

                clear_device_cache(garbage_collection=True)
                fewer = -(-len(batch) // 2)
                most = model.most_prediction_tokens = fewer * padded_length(lengths[batch[0]])
                mine = deque(smaller_batches([batch, *mine], lengths, most))
                smaller = f"从现在起每次最多算 {most:,} 个 token（这一批每次 {fewer} 条）"
                notice = f"内存不足：{smaller}，预测接着进行；答案只差舍入。"
                bar.write(notice, file=sys.stderr)
                continue
            logits[batch] = found
            bar.update(len(batch))
    model.train(was_training)
    return total(logits) if shared else logits


def _logits_or_none(model, inputs: dict[str, torch.Tensor], device: Device, halve: bool) -> np.ndarray | None:
    """Logits (B, C) of one batch; None where there is too little memory and `halve` allows fewer rows than these.

    The tensors of a pass that broke off are gone with this call.
    """
    try:
        where = next(model.parameters()).device
        inputs = {name: value.to(where) for name, value in inputs.items()}
        with torch.inference_mode(), device.autocast():
            return model(**inputs).logits.float().cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if not halve or len(inputs["input_ids"]) == 1 or not is_out_of_memory(error):
            raise
        return None


class SentimentPredictor:
    """An adapter folder, ready to answer.

    What a text may be: any string with something visible in it. Control characters and white space
    are read as blanks, half a surrogate pair as U+FFFD, and what lies beyond `max_length` tokens is
    not read. Anything else (empty or blank text, None, a number) is a `ValueError` that names its
    position. An answer depends on its text alone, not on the others of the batch.
    """

    def __init__(
        self,
        base_model_name: str | None = None,
        lora_path: str | Path = DEFAULT_ADAPTER,
        *,
        merge: bool = True,
        min_precision: float | None = None,
        device: Device | None = None,
        shared: bool = False,
    ):
        """`base_model_name` replaces the base that the adapter names (a folder on this machine, say).

        `merge=False` keeps LoRA apart from the base. With `min_precision` (0.95, 0.97 or 0.99) each
        answer has `accepted`: whether its confidence reaches the threshold that the evaluation found
        for this precision; the others are for a person to read. `shared` is for several processes that
        all ask for the same texts (after `runtime.distributed.join`): each computes its share.
        """
        self.model, self.tokenizer, self.config = load_adapter(
            lora_path, base_model_name, merge=merge, device=device or best_device()
        )
        self.labels, self.shared = self.config.labels, shared
        self.threshold = None if min_precision is None else self._threshold_for(min_precision)

    def predict(self, text: str) -> dict[str, Any]:
        """`text, label, label_id, confidence, probabilities` (label -> probability) of one text."""
        return self.predict_batch([text])[0]

    def predict_batch(self, texts: Sequence[str], progress: bool = False) -> list[dict[str, Any]]:
        """The same for each text, in the order given; any number of texts, none included."""
        answers = self.predictions(list(texts), progress="预测" if progress else None)
        return [self._answer(text, row) for text, row in zip(answers.texts, answers.logits, strict=True)]

    def predictions(self, texts: list[str], labels=None, progress: str | None = None) -> Predictions:
        """Raw logits of each text, before the temperature; equal texts are computed once."""
        cleaned = [self._checked(text, i) for i, text in enumerate(texts)]
        distinct = {text: i for i, text in enumerate(dict.fromkeys(cleaned))}
        rows = encode_texts(self.tokenizer, list(distinct), self.config.max_length, self.config.prompt_template)
        logits = predict_logits(self.model, rows, self.tokenizer.pad_token_id, progress=progress, shared=self.shared)
        return Predictions(texts, logits[[distinct[text] for text in cleaned]], labels)

    @staticmethod
    def _checked(text: Any, position: int) -> str:
        try:
            cleaned = clean_text(text)
        except ValueError as error:
            raise ValueError(f"第 {position + 1} 条：{error}") from None
        if not cleaned:
            raise ValueError(f"第 {position + 1} 条：评论是空的，或只有空白字符")
        return cleaned

    def _answer(self, text: str, logits: np.ndarray) -> dict[str, Any]:
        probabilities = softmax(logits, self.config.temperature)
        label_id = int(probabilities.argmax())
        answer = {
            "text": text,
            "label": self.labels[label_id],
            "label_id": label_id,
            "confidence": float(probabilities[label_id]),
            "probabilities": dict(zip(self.labels, probabilities.tolist(), strict=True)),
        }
        if self.threshold is not None:
            answer["accepted"] = answer["confidence"] >= self.threshold
        return answer

    def _threshold_for(self, min_precision: float) -> float:
        known = self.config.thresholds
        for name, confidence in known.items():
            if abs(float(name) - min_precision) < 1e-9:
                return confidence
        found = f"已有 {'、'.join(sorted(known))}" if known else "还没有任何阈值"
        raise UserError(
            f"没有精确率 {min_precision} 的阈值（{found}）；先运行 python model_evaluation/confidence_analysis.py"
        )
