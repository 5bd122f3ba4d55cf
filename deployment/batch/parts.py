"""Parts of a batch job, and what Ray's processes do with them: look through a file, read its parts, answer one.

Everything here runs in processes of other machines too, which get no more than a `Job` and the numbers of a part.
"""

import io
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import RawReview
from data.labels import SHOWN_PROBLEMS
from data.sources.record_reader import require_file
from data.sources.review_files import prediction_problem, read_reviews, refuse_swallowed_rows
from data.spreadsheet_csv import ENCODING, carried, encode_answers, flatten, output_names
from runtime.atomic_files import atomic_write, file_sha256, file_state
from runtime.errors import UserError

# Of a job: enough to put texts of like length together, few enough to share a file out and to do again.
PART_ROWS = 1024
FILE, ROW, REASON = "file", "row", "reason"


@dataclass(frozen=True)
class InputFile:
    """Facts about one input file: `rows`, how many of them are `bad`, the first problems, its other columns by type."""

    state: tuple[int, int]  # size in bytes, time of the last change
    sha256: str
    rows: int
    bad: int
    problems: list[str]
    columns: dict[str, Any]  # name -> arrow type of a .parquet file, None for a text file


@dataclass(frozen=True)
class Job:
    """Everything that the content of the output depends on."""

    names: list[str]  # of the input files, as the user gave them
    paths: list[str]  # the same, absolute
    states: list[tuple[int, int]]
    part_rows: int
    output: str
    format: str
    text_column: str
    columns: dict[str, str]  # other column of the input -> its name in the output
    types: dict[str, Any]  # that name -> its arrow type in .parquet output
    model_path: str
    base_model_name: str | None
    min_precision: float | None
    dtype: str
    cpus: float  # of a worker, as Ray counts them
    threads: int

    def path(self, file: int, part: int) -> Path:
        """The file of the output that holds a part; sorted by name they are in the order of the input."""
        return Path(self.output) / f"part-{file:05}-{part:06}.{self.format}"


def parquet_columns(path: Path) -> dict[str, Any]:
    """Name -> arrow type; none for a file that the reader will refuse."""
    import pyarrow
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError):
        return {}
    return dict(zip(schema.names, schema.types, strict=True))


def look_through(name: str, text_column: str) -> InputFile:
    """Read a whole file once; `UserError` where it cannot be read at all or has no such column."""
    path = Path(name)
    require_file(path)
    before = file_state(path)
    rows, bad, problems = 0, 0, []
    columns: dict[str, Any] = {}
    for review in read_reviews(path, text_column, others=True):
        refuse_swallowed_rows(path, review)
        rows += 1
        if not columns.keys() >= review.others.keys():
            columns |= dict.fromkeys(review.others)
        if problem := prediction_problem(review, text_column):
            bad += 1
            if bad <= SHOWN_PROBLEMS:
                problems.append(f"第 {rows} 条：{problem}")
    if path.suffix.lower() == ".parquet":
        types = parquet_columns(path)
        columns = {column: types[column] for column in columns}
    return InputFile(before, file_sha256(path), rows, bad, problems, columns)


def output_columns(
    files: list[Path], found: list[InputFile], labels: list[str], *, one_table: bool
) -> tuple[dict[str, str], dict[str, Any]]:
    """(column of the input -> its name in the output, that name -> its arrow type there).

    The name stays, or is input_… where an answer has the same. Numbers of .parquet files keep their type, all else is
    text. `one_table` asks for the same columns in all files, else `UserError`.
    """
    import pyarrow

    for path, one in zip(files, found, strict=True):
        if one_table and one.columns != found[0].columns:
            first, other = (shown(columns) for columns in (found[0].columns, one.columns))
            raise UserError(
                f"列不同：{files[0]} 有 {first}，{path} 有 {other}；"
                "csv 和 parquet 的结果要各文件的列相同，请改用 --format jsonl，或分几次预测"
            )
    kinds = {name: kind for one in found for name, kind in one.columns.items()}
    columns, types = output_names(list(kinds), labels, more=(FILE, ROW)), {}
    for name, kind in kinds.items():
        number = kind is not None and pyarrow.types.is_primitive(kind) and not pyarrow.types.is_temporal(kind)
        types[columns[name]] = kind if number else pyarrow.string()
    return columns, types


def shown(columns: dict[str, Any]) -> str:
    """Columns for a message, with their types where these are known."""
    return "、".join(name if kind is None else f"{name}（{kind}）" for name, kind in columns.items()) or "没有别的列"


def read_parts(batch: dict[str, Any], job: Job) -> Iterator[dict[str, Any]]:
    """The missing parts of one input file, each as a row that holds its reviews pickled."""
    (file,), (parts,) = batch["file"], batch["parts"]
    path = Path(job.paths[file])
    reviews = read_reviews(path, job.text_column, others=True)
    wanted = set(parts.tolist())
    for part in range(max(wanted) + 1):
        found = list(islice(reviews, job.part_rows))
        if file_state(path) != job.states[file]:
            raise UserError(f"{path} 在预测过程中被改动了；请换一个 --output 重新运行")
        if part in wanted:
            yield {"file": [file], "part": [part], "reviews": [pickle.dumps(found)]}


class Worker:
    """A process that has loaded the model; it answers parts and writes them."""

    def __init__(self, job: Job):
        self.job = job

    @cached_property
    def predictor(self) -> Any:
        """The model, loaded with the first part: a fault then comes back as itself, and not as the end of an actor."""
        import torch

        from prediction.predictor import SentimentPredictor

        job = self.job
        torch.set_num_threads(job.threads)
        return SentimentPredictor(job.base_model_name, job.model_path, min_precision=job.min_precision, dtype=job.dtype)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (file,), (part,), (pickled,) = batch["file"], batch["part"], batch["reviews"]
        rows = self.answer(int(file), int(part), pickle.loads(pickled))
        self.write(self.job.path(int(file), int(part)), rows)
        return {"rows": np.array([len(rows)])}

    def answer(self, file: int, part: int, reviews: list[RawReview]) -> list[dict[str, Any]]:
        """A row of the output for each of the input: where it stands, its other columns, the answer, or why none."""
        from prediction.predictor import no_answer

        job = self.job
        problems = [prediction_problem(review, job.text_column) for review in reviews]
        texts = [review.text for review, problem in zip(reviews, problems, strict=True) if problem is None]
        answers = iter(self.predictor.predict_batch(texts))
        rows = []
        for number, (review, problem) in enumerate(zip(reviews, problems, strict=True), start=part * job.part_rows + 1):
            row = {FILE: job.names[file], ROW: number}
            row |= {new: carried(review.others.get(old)) for old, new in job.columns.items()}
            row |= next(answers) if problem is None else no_answer(self.predictor, carried(review.text))
            rows.append(row | {REASON: problem})
        return rows

    def write(self, path: Path, rows: list[dict[str, Any]]) -> None:
        """One file of the output, whole or not at all."""
        if self.job.format == "parquet":
            data = parquet_bytes([flatten(row) for row in rows], self.job.types)
        else:
            data = encode_answers(rows, path.suffix, first=True)
        with atomic_write(path, "wb") as file:
            file.write(data)


def parquet_bytes(rows: list[dict[str, Any]], types: dict[str, Any]) -> bytes:
    """A .parquet file of rows with the same keys; `types` are those of the input's columns."""
    import pyarrow
    from pyarrow import parquet

    text, integer = pyarrow.string(), pyarrow.int64()
    types = types | {FILE: text, ROW: integer, "text": text, "label": text, "label_id": integer, REASON: text}
    types["accepted"] = pyarrow.bool_()
    arrays = {}
    for name in rows[0]:
        kind = types.get(name, pyarrow.float64())  # confidence and the probabilities
        values = [row[name] for row in rows]
        if kind == text:
            values = [value if value is None else as_text(value) for value in values]
        arrays[name] = pyarrow.array(values, kind)
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays), file)
    return file.getvalue()


def as_text(value: Any) -> str:
    """A string that UTF-8 can have; what is none, as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode(**ENCODING).decode("utf-8")
