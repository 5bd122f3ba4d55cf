"""A file that somebody has uploaded: what it may be, its columns, its predictions, in few words.

Each fault is a `UserError` of one line that names the file as the user knows it, never a path of this machine.
"""

import csv
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.sources.record_reader import BadRow, read_records, require_file
from deployment.server.inference_queue import InferenceQueue
from runtime.errors import UserError

FILE_TYPES = (".csv", ".tsv", ".txt", ".jsonl", ".xlsx")
TEXT_COLUMNS = ("text", "评论", "评论内容", "内容", "review", "content", "文本")
# A workbook is a zip file: what it unpacks to, and how many times its own size that is.
MOST_UNPACKED_BYTES, MOST_RATIO = 512 * 2**20, 200
PIECE = 256  # texts of a file that are handed to the model at once, so that others are answered in between
SHOWN_ROWS = 20
csv.field_size_limit(1 << 25)


def check_upload(path: Path, most_bytes: int) -> None:
    """Refuse another type, too large a file, and a workbook that would unpack to very much."""
    require_file(path)
    if path.suffix.lower() not in FILE_TYPES:
        raise UserError(f"{path.name}：不认识的文件类型，应为 {' '.join(FILE_TYPES)}")
    size = path.stat().st_size
    if size > most_bytes:
        raise UserError(f"{path.name} 太大（{size / 2**20:.1f} MB），最大 {most_bytes / 2**20:.0f} MB")
    if path.suffix.lower() != ".xlsx":
        return
    try:
        with zipfile.ZipFile(path) as workbook:
            unpacked = sum(part.file_size for part in workbook.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise UserError(f"{path.name} 不是完整的 Excel 工作簿") from None
    if unpacked > MOST_UNPACKED_BYTES or unpacked > MOST_RATIO * size:
        raise UserError(f"{path.name} 解开后有 {unpacked / 2**20:,.0f} MB，拒绝读入")


def columns_of(path: Path) -> list[str]:
    """Column names of a table, those of its first row; none for a .txt file, which has one review a line."""
    if path.suffix.lower() == ".txt":
        return []
    for _, record in read_records(path, set()):
        if isinstance(record, BadRow):
            raise UserError(f"{path.name}：{record}")
        return [str(name) for name in record]
    raise UserError(f"{path.name} 是空的：没有数据行")


def likely_text_column(columns: list[str]) -> str | None:
    """The first column that is usually called so, or the first of all."""
    by_name = {name.strip().lower(): name for name in reversed(columns)}
    return next((by_name[name] for name in TEXT_COLUMNS if name in by_name), columns[0] if columns else None)


class QueuedPredictor:
    """A predictor whose texts go through a server's queue, in pieces, and wait there for their turn."""

    def __init__(self, queue: InferenceQueue, progress: Callable[[int], None]):
        self._queue, self._progress, self._done = queue, progress, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue.predictor, name)

    def predict_batch(self, texts: list[str], progress: bool = False) -> list[dict[str, Any]]:
        """As `SentimentPredictor.predict_batch`; texts of like length share a piece."""
        answers: list[dict[str, Any]] = [{}] * len(texts)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(order), PIECE):
            places = order[start : start + PIECE]
            future: Future = self._queue.submit([texts[place] for place in places], patient=True)
            for place, answer in zip(places, future.result().answers, strict=True):
                answers[place] = answer
            self._done += len(places)
            self._progress(self._done)
        return answers


@dataclass
class AnsweredRow:
    text: str
    label: str
    confidence: float
    unsure: bool  # never without a threshold


@dataclass
class FileSummary:
    """The first rows of a file of answers, and how many there are of each label."""

    rows: list[AnsweredRow] = field(default_factory=list)
    labels: Counter = field(default_factory=Counter)
    count: int = 0
    unsure: int | None = None  # None without a threshold


def summarise(path: Path) -> FileSummary:
    """Read a .csv file of answers once."""
    summary = FileSummary()
    with open(path, encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            summary.count += 1
            summary.labels[row["label"]] += 1
            unsure = row.get("accepted") == "False"
            if "accepted" in row:
                summary.unsure = (summary.unsure or 0) + unsure
            if len(summary.rows) < SHOWN_ROWS:
                answer = AnsweredRow(row["text"], row["label"], float(row["confidence"]), unsure)
                summary.rows.append(answer)
    return summary
