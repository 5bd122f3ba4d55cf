"""The model's answers by text: each distinct text is read once, and the answers are kept for the next run.

    answers = Answers(folder, fingerprint, lambda: SentimentPredictor(lora_path=...))
    answers.prepare(texts)  # one run of the model over those that are not known yet
    answers(texts)          # their logits, (N, C) float32
    answers.save(rows)

Kept in the output folder: `predictions.jsonl` (the evaluated rows), `predictions_more.jsonl` (all other texts) and
`predictions_key.json`, which says which model gave them and holds the SHA-256 of both files. Answers of another model,
or of a file that something else has written since, are not used.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data.dataset import Rows
from data.preprocessing import clean_text
from prediction.prediction_set import Predictions
from runtime.atomic_files import file_sha256, write_json

ROWS_FILE = "predictions.jsonl"
MORE_FILE = "predictions_more.jsonl"
KEY_FILE = "predictions_key.json"


class Answers:
    """Logits by text. `load_predictor` is called only when a text is unknown, and its model is let go afterwards."""

    def __init__(self, folder: str | Path, fingerprint: str, load_predictor: Callable, *, fresh: bool = False):
        self.folder, self.fingerprint, self._load_predictor = Path(folder), fingerprint, load_predictor
        self._kept = {} if fresh else _read_kept(self.folder, fingerprint)
        self._logits = {
            text: row for kept in self._kept.values() for text, row in zip(kept.texts, kept.logits, strict=True)
        }
        self._requested, self._distinct = 0, set()
        self._predicted, self._seconds = 0, 0.0

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts whose answer is not known, sorted."""
        return sorted(set(texts) - self._logits.keys())

    def prepare(self, texts: Sequence[str], progress: str | None = None) -> None:
        """Run the model once over those of `texts` that are not known yet; `progress` titles a progress bar."""
        self._requested += len(texts)
        self._distinct |= {clean_text(text) for text in set(texts)}
        if not (missing := self.missing(texts)):
            return
        predictor = self._load_predictor()
        start = time.perf_counter()
        predictions = predictor.predictions(missing, progress=progress)
        self._seconds += time.perf_counter() - start
        self._predicted += len({clean_text(text) for text in missing})
        self._logits.update(zip(missing, predictions.logits, strict=True))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Logits (N, C) of prepared texts; KeyError for another one."""
        return np.stack([self._logits[text] for text in texts])

    def counts(self) -> dict:
        """What was asked for and what the model did in this process; texts count as the model sees them, cleaned.

        `requested_texts` (repeats included), `distinct_texts`, `predicted_texts` (read by the model now; the others
        were known from an earlier run) and `seconds` of the model, loading not included.
        """
        return {
            "requested_texts": self._requested,
            "distinct_texts": len(self._distinct),
            "predicted_texts": self._predicted,
            "seconds": round(self._seconds, 3),
        }

    def save(self, rows: Rows) -> None:
        """Write the answers to the evaluated `rows` and to all other texts; the key comes last."""
        if not self._predicted and self._are_kept(rows):
            return
        evaluated = set(rows.texts)
        others = [text for text in self._logits if text not in evaluated]
        Predictions(rows.texts, self(rows.texts), np.array(rows.labels)).save(self.folder / ROWS_FILE)
        more = Predictions(others, self(others) if others else np.empty((0, 2)))
        more.save(self.folder / MORE_FILE)
        files = {name: file_sha256(self.folder / name) for name in (ROWS_FILE, MORE_FILE)}
        write_json(self.folder / KEY_FILE, {"model": self.fingerprint, "files": files})

    def _are_kept(self, rows: Rows) -> bool:
        kept = self._kept.get(ROWS_FILE)
        if kept is None or kept.labels is None:
            return False
        return (kept.texts, kept.labels.tolist()) == (rows.texts, rows.labels)


def _read_kept(folder: Path, fingerprint: str) -> dict[str, Predictions]:
    """File name -> its predictions, where this model gave them and nothing has touched the file since."""
    try:
        key = json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))
        if key["model"] != fingerprint:
            return {}
        unchanged = [name for name in (ROWS_FILE, MORE_FILE) if file_sha256(folder / name) == key["files"][name]]
    except (OSError, ValueError, KeyError, TypeError):  # none there, or not ours: predict again
        return {}
    return {name: Predictions.load(folder / name) for name in unchanged}
