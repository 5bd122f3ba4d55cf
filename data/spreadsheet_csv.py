"""Predictions as .jsonl or as a .csv that opens in a spreadsheet."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from runtime.atomic_files import atomic_write

# A cell that begins so is read as a formula by spreadsheets; a leading quote makes it text. The last four are
# full-width, which East Asian versions take for the others (https://owasp.org/www-community/attacks/CSV_Injection).
FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
PLAIN_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?", re.ASCII)  # -5.00 is no formula, and stays a number
SEPARATORS = ("\t", "\r", "\n")
BYTE_ORDER_MARK = "\ufeff"  # without it Excel shows Chinese as noise
# Half a surrogate pair, which no encoding has, is written as \udxxx: in JSON that is just what it is.
ENCODING = {"encoding": "utf-8", "errors": "backslashreplace"}

ANSWER_COLUMNS = ("text", "label", "label_id", "confidence", "probabilities", "accepted", "reason")


def output_names(others: Sequence[str], labels: Iterable[str], more: Iterable[str] = ()) -> dict[str, str]:
    """Column of the input -> its name in the output: the same, or input_… where an answer, or `more`, has that name."""
    taken = {*more, *ANSWER_COLUMNS, *(f"probability_{label}" for label in labels)}
    names = {}
    for name in others:
        new = name
        while new in taken or (new != name and new in others):
            new = f"input_{new}"
        names[name] = new
        taken.add(new)
    return names


def carried(value: Any) -> Any:
    """A value of the input as JSON can have it; times, decimals and bytes of a .parquet file become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, bool, int, float, list, dict)) else str(value)


def spreadsheet_text(text: str) -> str:
    """`text`, unable to run as a formula."""
    return f"'{text}" if text.startswith(SEPARATORS) or text.lstrip().startswith(FORMULA_STARTS) else text


def encode_answers(answers: list[dict[str, Any]], suffix: str, first: bool) -> bytes:
    """Answers of `SentimentPredictor` as a piece of a .jsonl or .csv file; the `first` piece has the header.

    In .csv each label's probability has its own column.
    """
    if suffix.lower() == ".jsonl":
        text = "".join(json.dumps(answer, ensure_ascii=False, default=str) + "\n" for answer in answers)
    else:
        text = csv_text([flatten(answer) for answer in answers], header=first)
    return text.encode(**ENCODING)


def flatten(answer: dict[str, Any]) -> dict[str, Any]:
    row = {key: value for key, value in answer.items() if key != "probabilities"}
    return row | {f"probability_{label}": value for label, value in answer["probabilities"].items()}


def csv_text(rows: list[dict[str, Any]], header: bool = True) -> str:
    """Rows with the same keys; with the `header`, a byte-order mark comes first."""
    file = io.StringIO()
    writer = csv.writer(file)
    if header:
        file.write(BYTE_ORDER_MARK)
        writer.writerow([spreadsheet_text(name) for name in (rows[0] if rows else ())])
    writer.writerows([cell(value) for value in row.values()] for row in rows)
    return file.getvalue()


def cell(value: Any) -> Any:
    """A value as the csv module takes it; lists and objects of a .jsonl file as JSON."""
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    if not isinstance(value, str) or PLAIN_NUMBER.fullmatch(value):
        return value
    return spreadsheet_text(value)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """A whole table of rows with the same keys."""
    with atomic_write(path, "wb") as file:
        file.write(csv_text(rows).encode(**ENCODING))
