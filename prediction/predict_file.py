"""Predict the reviews of a file of any length in bounded memory; a killed run can be taken up again.

    rows = predict_file(predictor, Path("reviews.csv"), Path("out.csv"), "text", model="…", resume=False)

The file is read twice, a few rows at a time: first every row is checked, then they are predicted in chunks. Chunks
begin at fixed rows, and the answers of a chunk are computed together, so that the output is the same to the byte
wherever a run was killed and taken up again. Every row of the input is a row of the output, which begins with the
input's other columns; with `on_bad_rows="skip"` one that cannot be predicted has no answer but a `reason`.
"""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from data.dataset import RawReview
from data.labels import sound_reviews
from data.sources.record_reader import require_file
from data.sources.review_files import prediction_problem, read_input, refuse_swallowed_rows
from data.spreadsheet_csv import carried, encode_answers, output_names
from modeling.engines import GraphEngine
from prediction.predictor import SentimentPredictor, no_answer
from prediction.resumable_file import PartialFile
from runtime.atomic_files import file_sha256, file_state
from runtime.distributed import broadcast_from_main
from runtime.errors import UserError
from runtime.processes import is_main
from runtime.terminal import ProgressBar

CHUNK = 4096  # enough to put texts of like length together, a few megabytes of answers
OUTPUT_TYPES = (".jsonl", ".csv")
ERROR, SKIP = ON_BAD_ROWS = ("error", "skip")
MOST_COLUMNS = 1000  # in a .jsonl file every row may bring new ones


def predict_file(
    predictor: SentimentPredictor,
    source: Path,
    target: Path,
    text_column: str,
    *,
    model: str,
    resume: bool,
    encoding: str | None = None,
    on_bad_rows: str = ERROR,
) -> int:
    """Write the answers to `target` and return how many rows; it keeps its old content until the new one is whole.

    `model` names the model (`model_fingerprint`). With `resume`, what an earlier process has left is gone on with.
    Rows that cannot be predicted are a `UserError` that names them, or are skipped.
    Of several processes at work together all predict and the first one writes.
    """
    check_target(source, target)
    before = file_state(source)
    total, bad, others = _look_through(source, text_column, encoding, skip=on_bad_rows == SKIP)
    columns = output_names(others, predictor.labels)
    if is_main():
        _say_what_differs(source, columns, bad, total)
    key = partial_key(predictor, source, target, text_column, model)
    key |= {"--encoding": encoding, "--on_bad_rows": on_bad_rows}
    with PartialFile(target, key, resume) if is_main() else nullcontext() as partial:
        done = broadcast_from_main(partial and partial.rows)
        with ProgressBar(total, "预测", "条", initial=done) as bar:
            for chunk in chunks(islice(read_input(source, text_column, encoding), done, None), CHUNK):
                problems = [prediction_problem(review, text_column) for review in chunk]
                texts = [review.text for review, problem in zip(chunk, problems, strict=True) if problem is None]
                answers = iter(predictor.predict_batch(texts, progress=total > CHUNK))
                rows = []
                for review, problem in zip(chunk, problems, strict=True):
                    row = {new: carried(review.others.get(name)) for name, new in columns.items()}
                    row |= next(answers) if problem is None else no_answer(predictor, review.text)
                    rows.append(row | ({"reason": problem} if on_bad_rows == SKIP else {}))
                if partial:
                    partial.append(encode_answers(rows, target.suffix, first=done == 0), len(chunk))
                done += len(chunk)
                bar.update(len(chunk))
        if file_state(source) != before or done != total:
            raise UserError(f"{source} 在预测过程中被改动了，没有写 {target}；请重新运行（不加 --resume）")
        if partial:
            partial.finish()
    return total


def check_target(source: Path, target: Path) -> None:
    """Meet a mistake in the two paths before the first review is read."""
    require_file(source)
    if target.suffix.lower() not in OUTPUT_TYPES:
        raise UserError(f"--output：应为 {' 或 '.join(OUTPUT_TYPES)} 文件，得到 {target}")
    if target.exists() and target.samefile(source):
        raise UserError(f"--output 不能就是输入文件 {source}")
    if target.is_dir():
        raise UserError(f"--output：{target} 是文件夹，应为文件")


def chunks(reviews: Iterator[RawReview], size: int) -> Iterator[list[RawReview]]:
    while chunk := list(islice(reviews, size)):
        yield chunk


def _look_through(source: Path, text_column: str, encoding: str | None, *, skip: bool) -> tuple[int, int, list[str]]:
    """(rows, those that cannot be predicted, names of all other columns); `UserError` for such rows unless `skip`."""
    names: dict[str, None] = {}

    def reviews() -> Iterator[RawReview]:
        for review in read_input(source, text_column, encoding):
            if not names.keys() >= review.others.keys():
                names.update(dict.fromkeys(review.others))
                if len(names) > MOST_COLUMNS:
                    raise UserError(f"{source} 有 {MOST_COLUMNS:,} 列以上（{review.where}），不像是一张表")
            yield review

    if skip:
        total = bad = 0
        for review in reviews():
            refuse_swallowed_rows(source, review)
            total += 1
            bad += prediction_problem(review, text_column) is not None
        if bad == total:
            raise UserError(f"{source} 里没有一行能预测（共 {total:,} 行）；去掉 --on_bad_rows {SKIP} 可看到原因")
        return total, bad, list(names)
    advice = f"请改正；或加 --on_bad_rows {SKIP}，跳过它们，照样预测其余的行"
    total = sum(
        1 for _ in sound_reviews(reviews(), str(source), lambda one: prediction_problem(one, text_column), advice)
    )
    return total, 0, list(names)


def _say_what_differs(source: Path, columns: dict[str, str], bad: int, total: int) -> None:
    renamed = "、".join(f"{name} 写作 {new}" for name, new in columns.items() if new != name)
    if renamed:
        print(f"{source} 有与结果同名的列：{renamed}", file=sys.stderr)
    if bad:
        print(f"{source} 的 {total:,} 行里有 {bad:,} 行不能预测，跳过；结果的 reason 列写明原因", file=sys.stderr)


def partial_key(
    predictor: SentimentPredictor, source: Path, target: Path, text_column: str, model: str
) -> dict[str, Any]:
    """Everything that the bytes of the output depend on, in words that a user understands."""
    return {
        "输入文件的大小": source.stat().st_size,
        "输入文件的 SHA-256": file_sha256(source),
        "--text_column": text_column,
        "模型": model,
        "温度": predictor.config.temperature,
        "--min_precision 的阈值": predictor.threshold,
        **computation(predictor.model),
        "文件类型": target.suffix.lower(),
        "每段条数": CHUNK,
    }


def computation(model) -> dict[str, Any]:
    """The way logits are computed, as far as their last bits depend on it."""
    if isinstance(model, GraphEngine):
        return {"--merge": True, "设备": model.name}
    parameter = next(model.parameters())
    merged = not any("lora" in name for name, _ in model.named_modules())
    return {"--merge": merged, "设备": f"{parameter.device.type} {parameter.dtype}"}
