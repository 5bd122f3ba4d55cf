"""Predictions as .jsonl or as a .csv that opens in a spreadsheet."""

import csv
import json
from pathlib import Path
from typing import Any

from data.atomic import atomic_write

# A cell that begins so is read as a formula by spreadsheets; a leading quote makes it text.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def spreadsheet_text(text: str) -> str:
    """`text`, unable to run as a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def write_answers(path: Path, answers: list[dict[str, Any]]) -> None:
    """Answers of `SentimentPredictor`, one a row; in .csv each label's probability has its own column."""
    if path.suffix.lower() == ".jsonl":
        with atomic_write(path) as file:
            file.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    else:
        write_csv(path, [flatten(answer) for answer in answers])


def flatten(answer: dict[str, Any]) -> dict[str, Any]:
    row = {key: value for key, value in answer.items() if key != "probabilities"}
    return row | {f"probability_{label}": value for label, value in answer["probabilities"].items()}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows with the same keys; UTF-8 with a byte-order mark, without which Excel shows Chinese as noise."""
    with atomic_write(path) as file:
        file.write("\ufeff")
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {key: spreadsheet_text(value) if isinstance(value, str) else value for key, value in row.items()}
            )
