"""The model's predictions by text: each distinct text is read once, and the logits are kept for the next run.

    cache = PredictionCache(folder, fingerprint, load_predictor)  # load_predictor() -> a SentimentPredictor
    cache.predict_missing(texts)  # one run of the model over those of the N texts that are not cached
    cache.logits(texts)           # (N, C) float32
    cache.save(rows)

Kept in the output folder: `predictions.jsonl` (the evaluated rows), `predictions_more.jsonl` (all other texts) and
`predictions_key.json`, which says which model gave them and holds the SHA-256 of both files. Predictions of another
model, or in a file that something else has written since, are not used.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Rows
from data.preprocessing import clean_text
from prediction.prediction_set import Predictions
from runtime.atomic_files import file_sha256, write_json

ROWS_FILE = "predictions.jsonl"
MORE_FILE = "predictions_more.jsonl"
KEY_FILE = "predictions_key.json"


class PredictionCache:
    """A model's logits by text, C of them for each, in memory and in a folder.

    `fingerprint` stands for the model: files in `folder` with another one are not read, with `fresh` none is; the same
    holds for the folders `elsewhere`, in which this model's answers may also lie.
    `load_predictor` is called only when a text is missing, and its model is let go afterwards.
    """

    def __init__(
        self,
        folder: str | Path,
        fingerprint: str,
        load_predictor: Callable[[], Any],
        *,
        fresh: bool = False,
        elsewhere: Sequence[Path] = (),
    ):
        self.folder = Path(folder)
        self.fingerprint = fingerprint
        self._load_predictor = load_predictor
        self._saved = {} if fresh else _read_saved(self.folder, fingerprint)
        self._logits: dict[str, np.ndarray] = {}  # text -> (C,) float32
        for predictions in self._saved.values():
            self._logits.update(zip(predictions.texts, predictions.logits, strict=True))
        self._elsewhere: dict[str, np.ndarray] = {}
        for other in elsewhere if not fresh else ():
            for predictions in _read_saved(other, fingerprint).values():
                self._elsewhere.update(zip(predictions.texts, predictions.logits, strict=True))
        self._unsaved = False
        self._requested = 0
        self._predicted = 0
        self._distinct: set[str] = set()
        self._seconds = 0.0

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts that are not cached, sorted."""
        return sorted(set(texts) - self._logits.keys())

    def predict_missing(self, texts: Sequence[str], progress: str | None = None) -> None:
        """Run the model once over those of `texts` that are not cached; `progress` titles a progress bar."""
        self._requested += len(texts)
        self._distinct |= {clean_text(text) for text in set(texts)}
        found = {text: self._elsewhere[text] for text in self.missing(texts) if text in self._elsewhere}
        self._logits.update(found)
        missing = self.missing(texts)
        self._unsaved = self._unsaved or bool(found or missing)
        if not missing:
            return
        predictor = self._load_predictor()
        start = time.perf_counter()
        predictions = predictor.predictions(missing, progress=progress)
        self._seconds += time.perf_counter() - start
        self._predicted += len({clean_text(text) for text in missing})
        self._logits.update(zip(missing, predictions.logits, strict=True))

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """The logits (N, C) float32 of N >= 1 cached texts, in their order; KeyError for a text that is missing."""
        return np.stack([self._logits[text] for text in texts])

    def counts(self) -> dict:
        """The work of this process; texts count as the model sees them, cleaned.

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
        """Write the predictions for the evaluated `rows` and for all other texts; the key comes last."""
        if not self._unsaved and self._are_saved(rows):
            return
        evaluated = set(rows.texts)
        others = [text for text in self._logits if text not in evaluated]
        other_logits = self.logits(others) if others else np.empty((0, 2))
        Predictions(rows.texts, self.logits(rows.texts), rows.labels).save(self.folder / ROWS_FILE)
        Predictions(others, other_logits).save(self.folder / MORE_FILE)
        files = {name: file_sha256(self.folder / name) for name in (ROWS_FILE, MORE_FILE)}
        write_json(self.folder / KEY_FILE, {"model": self.fingerprint, "files": files})

    def _are_saved(self, rows: Rows) -> bool:
        saved = self._saved.get(ROWS_FILE)
        if saved is None or saved.labels is None:
            return False
        return saved.texts == rows.texts and saved.labels.tolist() == rows.labels


def _read_saved(folder: Path, fingerprint: str) -> dict[str, Predictions]:
    """The files of an earlier run: name -> predictions, where this model gave them and nothing has changed the file."""
    try:
        key = json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))
        if key["model"] != fingerprint:
            return {}
        unchanged = [name for name in (ROWS_FILE, MORE_FILE) if file_sha256(folder / name) == key["files"][name]]
    except (OSError, ValueError, KeyError, TypeError):  # none there, or not ours: predict again
        return {}
    return {name: Predictions.load(folder / name) for name in unchanged}
