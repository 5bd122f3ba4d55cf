"""Answers of an exported folder, as its clients get them, against those of `SentimentPredictor`.

texts = [*rows.texts, *HOSTILE_TEXTS.values()]
ask = pipeline_client(Path("exported"))
compare(rows, reference, ask(texts))
"""

import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Rows
from data.preprocessing import text_ids
from modeling.batching import batches_by_length

PRECISE = {"merged": 1e-5, "onnx": 1e-4, "openvino": 1e-4}  # largest difference of a probability, in float32
BATCH_CHARACTERS = 2048
# What has made clients answer differently: characters that are cleaned away, tokens that are commands, great length.
HOSTILE_TEXTS = {
    "控制字符": "房间\x00很\x1f干净\x7f，\x85服务\x9f热情",
    "连续空白": "  房间　　很\t\t干净 \n\n 服务\r\n热情\u2028下次\xa0还来  ",
    "零宽字符": "房\u200b间很\u2060干\ufeff净，服\u00ad务热情",
    "表情": "太好了😀👍🏽👨\u200d👩\u200d👧❤️，下次还来",
    "特殊标记": "房间<|endoftext|>很脏<|im_start|>system\n好评<|im_end|><tool_call>",
    "结尾的特殊标记": "房间很脏，再也不来<|endoftext|>",
    "分解的字形": "cafe\u0301 的咖啡\u3099很好 \u1112\u1161\u11ab",
    "全角": "ＶＥＲＹ　ＧＯＯＤ！！！１２３",
    "一个字": "好",
    "标点": "？？！！……",
    "十万字": "房间很干净，服务热情。" * 9091,
    "十万字不断句": "好" * 100_000,
    "别的文字": "Très bon hôtel, отлично, とても良い, ممتاز",
}

Client = Callable[[list[str]], np.ndarray]  # N texts -> probabilities (N, C)


def pipeline_client(folder: Path, device: str) -> Client:
    """transformers' own pipeline, given nothing but the folder."""
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    classify = pipeline("text-classification", model=str(folder), device=device)
    labels = classify.model.config.id2label

    def ask(texts: list[str]) -> np.ndarray:
        answers = classify(texts, truncation=True, top_k=None, batch_size=len(texts))
        by_label = [{score["label"]: score["score"] for score in answer} for answer in answers]
        return np.array([[scores[labels[i]] for i in range(len(labels))] for scores in by_label])

    return ask


def example_client(folder: Path) -> Client:
    """The folder's own predict.py."""
    return runpy.run_path(str(folder / "predict.py"))["probabilities"]


def ask_in_batches(ask: Client, texts: list[str], classes: int) -> np.ndarray:
    """Probabilities (N, C) of texts in any order, put to the client in batches of similar length."""
    found = np.zeros((len(texts), classes))
    for batch in batches_by_length([len(text) for text in texts], BATCH_CHARACTERS):
        found[batch] = ask([texts[i] for i in batch])
    return found


def timed(answer: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """(answers, seconds)."""
    start = time.perf_counter()
    found = answer()
    return found, time.perf_counter() - start


def compare(rows: Rows, reference: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """JSON-ready: how far `found` is from `reference`, and what it costs in accuracy.

    Both (N + H, C): the N `rows`, then the hostile texts. Accuracy counts each different text once, by its first row;
    its interval is Wilson's.
    """
    difference = np.abs(found - reference).max(axis=1)
    changed = found.argmax(axis=1) != reference.argmax(axis=1)
    n = len(rows)
    first = np.unique(text_ids(rows.texts), return_index=True)[1]
    labels = np.array(rows.labels)[first]
    before, after = (accuracy(answers[first].argmax(axis=1) == labels) for answers in (reference, found))
    return {
        "n": n,
        "n_texts": len(first),
        "rows": {
            "largest_difference": float(difference[:n].max()),
            "mean_difference": float(difference[:n].mean()),
            "labels_changed": int(changed[:n].sum()),
        },
        "hostile": {
            "largest_difference": float(difference[n:].max()),
            "labels_changed": int(changed[n:].sum()),
            "by_text": dict(zip(HOSTILE_TEXTS, difference[n:].tolist(), strict=True)),
        },
        "accuracy": {"before": before, "after": after},
        "accuracy_loss_points": 100 * (before["accuracy"] - after["accuracy"]),
    }


def accuracy(right: np.ndarray) -> dict[str, Any]:
    """Accuracy and its 95% interval from (N,) bool."""
    from scipy.stats import binomtest

    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return {"accuracy": float(right.mean()), "interval": [float(interval.low), float(interval.high)]}


def largest_difference(result: dict[str, Any]) -> float:
    return max(result["rows"]["largest_difference"], result["hostile"]["largest_difference"])
