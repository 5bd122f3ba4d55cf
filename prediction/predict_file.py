"""Predict the reviews of a file of any length in bounded memory; a killed run can be taken up again.

    rows = predict_file(predictor, Path("reviews.csv"), Path("out.csv"), "text", model="…", resume=False)

The file is read twice, a few rows at a time: first every row is checked, then they are predicted in chunks. Chunks
begin at fixed rows, and the answers of a chunk are computed together, so that the output is the same to the byte
wherever a run was killed and taken up again.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from data.sources.record_reader import require_file
from data.sources.review_files import read_texts
from data.spreadsheet_csv import encode_answers
from prediction.predictor import SentimentPredictor
from prediction.resumable_file import PartialFile
from runtime.atomic_files import file_sha256
from runtime.distributed import broadcast_from_main
from runtime.errors import UserError
from runtime.processes import is_main

CHUNK = 4096  # enough to put texts of like length together, a few megabytes of answers
OUTPUT_TYPES = (".jsonl", ".csv")


def predict_file(
    predictor: SentimentPredictor, source: Path, target: Path, text_column: str, *, model: str, resume: bool
) -> int:
    """Write the answers to `target` and return how many; it keeps its old content until the new one is whole.

    `model` names the model (`model_fingerprint`). With `resume`, what an earlier process has left is gone on with.
    Of several processes at work together all predict and the first one writes.
    """
    from tqdm import tqdm

    check_target(source, target)
    before = _state(source)
    total = sum(1 for _ in read_texts(source, text_column))
    key = partial_key(predictor, source, target, text_column, model)
    with PartialFile(target, key, resume) if is_main() else nullcontext() as partial:
        done = broadcast_from_main(partial and partial.rows)
        with tqdm(total=total, initial=done, desc="预测", unit="条", leave=False) as bar:
            for chunk in chunks(islice(read_texts(source, text_column), done, None), CHUNK):
                answers = predictor.predict_batch(chunk, progress=total > CHUNK)
                if partial:
                    partial.append(encode_answers(answers, target.suffix, first=done == 0), len(chunk))
                done += len(chunk)
                bar.update(len(chunk))
        if _state(source) != before or done != total:
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


def chunks(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while chunk := list(islice(texts, size)):
        yield chunk


def partial_key(
    predictor: SentimentPredictor, source: Path, target: Path, text_column: str, model: str
) -> dict[str, Any]:
    """Everything that the bytes of the output depend on, in words that a user understands."""
    parameter = next(predictor.model.parameters())
    return {
        "输入文件的大小": source.stat().st_size,
        "输入文件的 SHA-256": file_sha256(source),
        "--text_column": text_column,
        "模型": model,
        "温度": predictor.config.temperature,
        "--min_precision 的阈值": predictor.threshold,
        "--merge": not any("lora" in name for name, _ in predictor.model.named_modules()),
        "设备": f"{parameter.device.type} {parameter.dtype}",
        "文件类型": target.suffix.lower(),
        "每段条数": CHUNK,
    }


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
