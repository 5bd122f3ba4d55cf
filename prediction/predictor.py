"""`SentimentPredictor`: an adapter folder, or a model that was exported from one, ready to answer.

from inference import SentimentPredictor
predictor = SentimentPredictor(lora_path="outputs/lora_adapter")
predictor.predict("酒店很干净，下次还来")
# {"text": "酒店很干净，下次还来", "label": "正面", "label_id": 1, "confidence": 0.98,
#  "probabilities": {"负面": 0.02, "正面": 0.98}}
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from configs.fields import AUTO
from data.preprocessing import clean_text, encode_texts
from modeling.adapter_folder import ADAPTER, DEFAULT_ADAPTER, model_kind
from modeling.batching import predict_logits
from modeling.devices import Device, best_device
from modeling.model_folder import load_model
from prediction.prediction_set import Predictions, softmax
from runtime.errors import UserError


class SentimentPredictor:
    """An adapter folder or an exported model (merged, ONNX, OpenVINO), ready to answer.

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
        quantize: bool = True,
        min_precision: float | None = None,
        dtype: str = AUTO,
        device: Device | None = None,
        shared: bool = False,
    ):
        """`base_model_name` replaces the base that the adapter names (a folder on this machine, say).

        `merge=False` keeps LoRA apart from the base; `quantize=False` loads whole a base that was 4-bit.
        With `min_precision` (0.95, 0.97 or 0.99) each answer has `accepted`: whether its confidence reaches the
        threshold that the evaluation found for this precision; the others are for a person to read. `dtype` is
        float32, bfloat16 or auto, which is float32 but for a GPU and large bases (docs/performance.md). `shared` is for
        several processes that all ask for the same texts (after `runtime.distributed.connect_processes`): each
        computes its share.
        """
        self.model, self.tokenizer, self.config = load_model(
            lora_path,
            base_model_name,
            merge=merge,
            quantize=quantize,
            device=(device or best_device()).asked_for(dtype),
        )
        # The base without adapter, a folder or the hub's name: an exported model holds it no more.
        is_adapter = model_kind(lora_path) == ADAPTER
        self.base = self.model.config.name_or_path if is_adapter else self.config.base_model
        self.labels, self.shared = self.config.labels, shared
        self.threshold = None if min_precision is None else self._threshold_for(min_precision)

    def predict(self, text: str) -> dict[str, Any]:
        """`text, label, label_id, confidence, probabilities` (label -> probability) of one text."""
        return self.predict_batch([text])[0]

    def predict_batch(self, texts: Sequence[str], progress: bool = False) -> list[dict[str, Any]]:
        """The same for each text, in the order given; any number of texts, none included."""
        answers = self.predictions(list(texts), progress="预测" if progress else None)
        return [self._answer(text, row) for text, row in zip(answers.texts, answers.logits, strict=True)]

    def predictions(
        self, texts: list[str], labels: ArrayLike | None = None, progress: str | None = None
    ) -> Predictions:
        """Raw logits of each text, before the temperature; equal texts are computed once."""
        cleaned = [self._checked(text, i) for i, text in enumerate(texts)]
        # Each distinct text is computed once: text -> its row in `logits`.
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
        known, without = self.config.thresholds, self.config.without_threshold
        for name, confidence in known.items():
            if abs(float(name) - min_precision) < 1e-9:
                return confidence
        evaluate = "python model_evaluation/confidence_analysis.py"
        if not known and not without:
            raise UserError(
                f"--min_precision：这个适配器还没有评估过（或是旧版本评估的，一个阈值也没有），先运行 {evaluate}"
            )
        usable = f"有阈值的是 {'、'.join(sorted(known))}" if known else "其余的目标也没有阈值"
        if any(abs(float(name) - min_precision) < 1e-9 for name in without):
            raise UserError(
                f"--min_precision：评估过了，验证集担保不了 {min_precision} 的精确率（{usable}）；"
                f"换一个目标，或用更多验证评论重新训练、再运行 {evaluate}"
            )
        raise UserError(f"--min_precision：评估时没有为 {min_precision} 选阈值（{usable}）；可选 0.95、0.97、0.99")


def no_answer(predictor: SentimentPredictor, text: Any) -> dict[str, Any]:
    """The keys of an answer for what cannot be predicted, all empty but the text."""
    answer = {"text": text, "label": None, "label_id": None, "confidence": None}
    answer["probabilities"] = dict.fromkeys(predictor.labels)
    return answer if predictor.threshold is None else answer | {"accepted": None}
