"""Predict the reviews of many files with Ray Data: several processes of one machine, or a cluster's.

    python deployment/batch_predict.py --input 'reviews/*.csv' --output predictions/ --workers 4 --text_column 评论
    python deployment/batch_predict.py --input 'reviews/*.parquet' --output predictions/ --workers 2 --gpus_per_worker 1
    python deployment/batch_predict.py --input '/mnt/in/*.jsonl' --output /mnt/predictions --workers 16 --address auto

Each file is read in parts of 1,024 rows. A part travels through Ray as one row, is answered by one worker, and becomes
one file of the output folder, which appears whole or not at all. So a worker that dies is replaced and its part done
again, and the same command after a kill does the parts that are missing; nothing is lost or there twice.
"""

import glob
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.command_line import ArgumentParser, help_text
from configs.fields import AUTO, DTYPES
from deployment.batch.ray_session import connected, results_of, rows_of
from runtime.atomic_files import write_json
from runtime.errors import UserError, differences, run_script

if TYPE_CHECKING:
    from deployment.batch.parts import InputFile, Job

FORMATS = ("jsonl", "csv", "parquet")
ON_BAD_ROWS = ("error", "skip")
JOB_FILE = "job.json"
READER_CPUS = 0.1  # as Ray counts them: reading takes little beside predicting


def main() -> None:
    args = parse_args()
    files = input_files(args.input)
    output = Path(args.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output：{output} 是文件，应为文件夹")

    from modeling.adapter_folder import SentimentConfig

    SentimentConfig.load(args.model_path)  # a mistake in its name need not wait for Ray
    with connected(args.address) as ray:
        predict_files(ray, args, files, output)


def parse_args():
    parser = ArgumentParser(description=help_text("批量预测：很多文件，几个进程或一个 Ray 集群。", __doc__))
    parser.add_argument(
        "--input", nargs="+", required=True,
        help="评论文件，可用通配符（加引号）：.csv .jsonl .parquet 等；集群上各台机器都要能读到",
    )  # fmt: skip
    parser.add_argument("--output", required=True, help="结果文件夹：每个输入文件每 1,024 行一个结果文件")
    parser.add_argument("--workers", type=int, default=1, help="几个进程同时预测，各载入一份模型（默认 1）")
    parser.add_argument("--gpus_per_worker", type=float, default=0, help="每个进程用几个 GPU，可以是分数（默认 0）")
    parser.add_argument("--address", help="已有 Ray 集群的地址，或 auto；不给则就在本机")
    parser.add_argument("--format", choices=FORMATS, default="jsonl", help="结果文件的类型（默认 jsonl）")
    parser.add_argument(
        "--on_bad_rows", choices=ON_BAD_ROWS, default="skip",
        help="有空的或读不出的行：skip 照样预测其余的，在结果里留空并写明 reason（默认）；error 列出它们就结束",
    )  # fmt: skip
    parser.add_argument("--text_column", default="text", help="文本的列名（默认 text）")
    parser.add_argument(
        "--model_path", default="./outputs/lora_adapter", help="适配器文件夹（默认 ./outputs/lora_adapter）"
    )
    parser.add_argument("--base_model_name", help="换一个基座（例如本机上的文件夹）；不给则用适配器里记的")
    parser.add_argument("--min_precision", type=float, help="标出把握达到此精确率的回答，如 0.97（先做过评估）")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=AUTO,
        help="计算的精度（默认 auto：硬件会算 bfloat16 就用它，否则 float32）",
    )
    args = parser.parse_args()
    if args.workers < 1:
        parser.error(f"--workers：应至少为 1，得到 {args.workers}")
    if args.gpus_per_worker < 0 or (args.gpus_per_worker > 1 and args.gpus_per_worker % 1):
        parser.error(f"--gpus_per_worker：应为 0 到 1 之间的数，或整数，得到 {args.gpus_per_worker}")
    if args.min_precision is not None and not 0 < args.min_precision < 1:
        parser.error(f"--min_precision：应在 0 和 1 之间，得到 {args.min_precision}")
    return args


def input_files(patterns: list[str]) -> list[Path]:
    """Every file that the patterns name, once, sorted."""
    found = set()
    for pattern in patterns:
        names = glob.glob(pattern, recursive=True) or ([pattern] if Path(pattern).exists() else [])
        if not names:
            raise UserError(f"--input：没有符合 {pattern} 的文件")
        found.update(names)
    return [Path(name) for name in sorted(found)]


def predict_files(ray, args, files: list[Path], output: Path) -> None:
    """All that is missing of `output`."""
    from data.labels import SHOWN_PROBLEMS
    from deployment.batch.parts import Worker, look_through, read_parts
    from runtime.terminal import ProgressBar

    # Look through all files first, so that a mistake in the last one does not come after hours.
    require_resources(ray.cluster_resources(), args)
    looking = ray.remote(look_through).options(num_cpus=READER_CPUS)
    found = results_of(ray, [looking.remote(str(path.resolve()), args.text_column) for path in files])
    bad, total = sum(one.bad for one in found), sum(one.rows for one in found)
    if bad and (args.on_bad_rows == "error" or bad == total):
        shown_rows = [f"{path} {problem}" for path, one in zip(files, found, strict=True) for problem in one.problems]
        raise UserError(
            f"{total:,} 行里有 {bad:,} 行不能预测，请改正后再运行（或去掉 --on_bad_rows error）：\n  "
            + "\n  ".join(shown_rows[:SHOWN_PROBLEMS])
        )
    if not total:
        raise UserError(f"{args.input[0]} 等文件里没有数据行")
    job = plan(ray, args, files, found)
    open_output(output, key_of(args, job, found))

    if bad:
        print(f"{total:,} 行里有 {bad:,} 行不能预测，跳过；结果的 reason 列写明原因", file=sys.stderr)
    items, done = missing_parts(job, found)
    with ProgressBar(total, "预测", "条", initial=done) as bar:
        if items:
            context = ray.data.DataContext.get_current()
            context.target_max_block_size = 1  # a block for each part, or one worker would get those of a whole file
            context.enable_progress_bars = False
            context.raise_original_map_exception = True  # a user's mistake comes back as itself
            dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                read_parts, batch_size=1, fn_args=[job], num_cpus=READER_CPUS
            ).map_batches(
                Worker, batch_size=1, fn_constructor_args=[job], num_cpus=job.cpus, num_gpus=args.gpus_per_worker,
                compute=ray.data.ActorPoolStrategy(size=args.workers),
            )  # fmt: skip
            for answered in rows_of(ray, dataset):
                bar.update(answered["rows"])
    print(f"{total:,} 行的结果写在 {output}（{len(list(output.glob('part-*'))):,} 个文件）", file=sys.stderr)


def missing_parts(job: "Job", found: "list[InputFile]") -> tuple[list[dict[str, Any]], int]:
    """(an item for each file with parts that are not there, rows of those that are)."""
    items, done = [], 0
    for number, one in enumerate(found):
        missing = []
        for part, start in enumerate(range(0, one.rows, job.part_rows)):
            if job.path(number, part).exists():
                done += min(job.part_rows, one.rows - start)
            else:
                missing.append(part)
        if missing:
            items.append({"file": number, "parts": missing})
    return items, done


def require_resources(there: dict[str, float], args) -> None:
    """A `UserError` where Ray would wait for ever."""
    gpus, wanted = there.get("GPU", 0), args.workers * args.gpus_per_worker
    if wanted > gpus:
        raise UserError(
            f"GPU 不够：--workers {args.workers} × --gpus_per_worker {args.gpus_per_worker:g} = {wanted:g}，"
            f"只有 {gpus:g} 个"
        )
    if gpus and not wanted:
        print("有 GPU，但没有用：加上 --gpus_per_worker 1（或分数）", file=sys.stderr)


def plan(ray, args, files: list[Path], found: "list[InputFile]") -> "Job":
    """The job, where all files fit together."""
    from deployment.batch import parts
    from modeling.adapter_folder import SentimentConfig
    from modeling.devices import best_device

    # The precision is the same for all, whatever each worker would choose.
    if args.dtype == AUTO:
        asking = ray.remote(best_device).options(num_cpus=READER_CPUS, num_gpus=args.gpus_per_worker)
        args.dtype = results_of(ray, [asking.remote()])[0].bulk_dtype

    labels = SentimentConfig.load(args.model_path).labels
    columns, types = parts.output_columns(files, found, labels, one_table=args.format != "jsonl")
    base = args.base_model_name
    if base and Path(base).is_dir():
        base = str(Path(base).resolve())
    cpus = ray.cluster_resources()["CPU"]
    return parts.Job(
        names=[str(path) for path in files],
        paths=[str(path.resolve()) for path in files],
        states=[one.state for one in found],
        part_rows=parts.PART_ROWS,
        output=str(Path(args.output).resolve()),
        format=args.format,
        text_column=args.text_column,
        columns=columns,
        types=types,
        model_path=str(Path(args.model_path).resolve()),
        base_model_name=base,
        min_precision=args.min_precision,
        dtype=args.dtype,
        cpus=min(1, cpus / (2 * args.workers)),  # half is left to the readers, or Ray would wait for ever
        threads=max(1, int(cpus / args.workers)),
    )


def key_of(args, job: "Job", found: "list[InputFile]") -> dict[str, Any]:
    """Everything that the parts depend on, in words that a user understands."""
    from modeling.adapter_folder import SentimentConfig
    from modeling.fingerprint import model_fingerprint

    key = {f"{name} 的 SHA-256": one.sha256 for name, one in zip(job.names, found, strict=True)}
    return key | {
        "--text_column": job.text_column,
        "--format": job.format,
        "模型": model_fingerprint(job.model_path, job.base_model_name),
        "温度": SentimentConfig.load(job.model_path).temperature,
        "--min_precision": job.min_precision,
        "--dtype": job.dtype,
        "设备": "GPU" if args.gpus_per_worker else "CPU",
        "每个结果文件的行数": job.part_rows,
    }


def open_output(output: Path, key: dict[str, Any]) -> None:
    """Make the folder, or go on with the one of the same job."""
    path = output / JOB_FILE
    if path.is_file():
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))["key"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path} 损坏，不能接着算；请换一个 --output") from None
        if lines := differences(theirs, key, "那时"):
            raise UserError(
                f"{output} 是另一次批量预测的结果，下面的不同：\n"
                + "\n".join(lines)
                + "\n换回原来的设置，或换一个 --output"
            )
        return
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"--output：{output} 里已有别的文件，请换一个文件夹")
    write_json(path, {"key": key})


if __name__ == "__main__":
    run_script(main)
