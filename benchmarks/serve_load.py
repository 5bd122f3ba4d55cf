"""Load on `deployment/serve.py`: latency and rate at 1, 8 and 32 clients against predict_batch, overload, memory.

    python benchmarks/serve_load.py                                      # the small base with a random adapter
    python benchmarks/serve_load.py --model_path outputs/lora_adapter    # an adapter of yours
    python benchmarks/serve_load.py --requests 100000                    # is memory flat?

The server is a real process on this machine, and so are its clients: on two cores they take some of its time.
`ratio` is the rate against `predict_batch` on the same texts, in this process, before the server starts. Every answer
is compared. Then 500 clients ask at once, and none may wait until it gives up; at the end --requests requests of one
text, and the server's resident memory (Linux). Prints one table, writes one JSON file with versions and commit.
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from predict_speed import random_adapter, reviews

from prediction.predictor import SentimentPredictor
from runtime.atomic_files import write_json
from runtime.run_info import REPOSITORY, environment

CLIENTS = (1, 8, 32)
TEXTS_PER_REQUEST = (1, 16)
CROWD, CROWD_TEXTS, CROWD_PATIENCE_SECONDS = 500, 16, 60.0
TOLERANCE = 0.02  # of probabilities in bf16; float32 differs by 1e-6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default="tiny_base", help="hub name or folder; gets a random adapter")
    parser.add_argument("--model_path", help="adapter folder to use instead")
    parser.add_argument("--texts", type=int, default=2000, help="reviews")
    parser.add_argument("--single", type=int, default=300, help="of these, for one client with one text at a time")
    parser.add_argument("--requests", type=int, default=5000, help="requests of the memory test")
    parser.add_argument("--output", default="benchmarks/results/serve_load.json")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    texts = reviews(args.texts)
    with tempfile.TemporaryDirectory() as folder:
        model_path = args.model_path or random_adapter(Path(folder) / "adapter", args.model_name)
        predictor = SentimentPredictor(lora_path=model_path)
        predictor.predict_batch(texts[:100])  # warm
        began = time.perf_counter()
        expected = predictor.predict_batch(texts)
        alone = len(texts) / (time.perf_counter() - began)
        print(f"predict_batch: {alone:,.1f} texts/s\n")
        process, port = start_server(model_path)
        try:
            load = asyncio.run(measure_load(port, texts, expected, alone, args.single))
            overload = asyncio.run(measure_overload(port, texts))
            memory = asyncio.run(measure_memory(process.pid, port, texts, args.requests))
        finally:
            process.terminate()
            process.wait(60)
    at_32 = max(row["ratio"] for row in load if row["clients"] == 32)
    print(f"\n32 clients reach {at_32:.2f} of predict_batch; {CROWD} at once: {overload['answers']}; memory: {memory}")
    if overload["answers"].keys() - {"200", "429"}:
        raise SystemExit("not every client of the crowd got 200 or 429")
    arguments = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    result = {"arguments": arguments, "predict_batch": alone, "load": load, "overload": overload, "memory": memory}
    write_json(args.output, result | {"environment": environment()})


def start_server(model_path: str | Path) -> tuple[subprocess.Popen, int]:
    """(process, port) of a server that can be reached."""
    command = [sys.executable, "deployment/serve.py", "--model_path", str(model_path), "--port", "0", "--no_page"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, text=True, encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
    if not found:
        raise SystemExit(f"{' '.join(command)} did not start")
    return process, int(found[1])


def request_bytes(texts: list[str]) -> bytes:
    body = json.dumps({"texts": texts}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def ask(streams, request: bytes) -> tuple[int, bytes]:
    """(status, body); a client as small as can be, since it shares the processor with the server."""
    reader, writer = streams
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head.lower())[1])
    return int(head[9:12]), await reader.readexactly(length)


async def run_clients(port: int, requests: list[bytes], count: int) -> tuple[list[bytes], list[float], float]:
    """(bodies in the order of the requests, seconds of each, seconds of all) with `count` clients."""
    bodies, seconds = [b""] * len(requests), [0.0] * len(requests)
    numbers = iter(range(len(requests)))

    async def client() -> None:
        streams = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:  # shared: each request is made once
            began = time.perf_counter()
            status, bodies[number] = await ask(streams, requests[number])
            seconds[number] = time.perf_counter() - began
            if status != 200:
                raise SystemExit(f"status {status}: {bodies[number][:200]!r}")
        streams[1].close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(count)))
    return bodies, seconds, time.perf_counter() - began


async def measure_load(port: int, texts: list[str], expected: list[dict], alone: float, single: int) -> list[dict]:
    """One row for each number of clients and of texts in a request."""
    rows = []
    print(f"{'clients':>8} {'texts each':>11} {'texts/s':>10} {'ratio':>7} {'p50 ms':>9} {'p99 ms':>9}")
    for size in TEXTS_PER_REQUEST:
        for count in CLIENTS:
            used = texts[:single] if count == size == 1 else texts
            requests = [request_bytes(used[start : start + size]) for start in range(0, len(used), size)]
            await run_clients(port, requests[: 4 * count], count)  # warm
            bodies, seconds, whole = await run_clients(port, requests, count)
            answers = [answer for body in bodies for answer in json.loads(body)["answers"]]
            check(answers, expected)
            rate = len(used) / whole
            p50, p99 = (1000 * float(np.percentile(seconds, p)) for p in (50, 99))
            rows.append(
                {"clients": count, "texts_per_request": size, "texts_per_second": rate, "ratio": rate / alone}
                | {"p50_ms": p50, "p99_ms": p99, "mean_ms": 1000 * statistics.mean(seconds), "requests": len(requests)}
            )
            print(f"{count:8} {size:11} {rate:10,.1f} {rate / alone:7.2f} {p50:9.1f} {p99:9.1f}", flush=True)
    return rows


def check(answers: list[dict], expected: list[dict]) -> None:
    for answer, other in zip(answers, expected, strict=False):
        if answer["text"] != other["text"] or abs(answer["confidence"] - other["confidence"]) > TOLERANCE:
            raise SystemExit(f"another answer than predict_batch: {answer} {other}")


async def measure_overload(port: int, texts: list[str]) -> dict:
    """How many of `CROWD` clients that ask at the same moment get which status, and the longest wait in seconds."""
    request = request_bytes(texts[:CROWD_TEXTS])

    async def client() -> str:
        try:
            streams = await asyncio.open_connection("127.0.0.1", port)
            status, _ = await asyncio.wait_for(ask(streams, request), CROWD_PATIENCE_SECONDS)
            streams[1].close()
            return str(status)
        except (TimeoutError, asyncio.TimeoutError):
            return "timeout"
        except (OSError, asyncio.IncompleteReadError) as error:
            return type(error).__name__

    began = time.perf_counter()
    answers = Counter(await asyncio.gather(*(client() for _ in range(CROWD))))
    longest = round(time.perf_counter() - began, 2)
    return {"clients": CROWD, "texts_per_request": CROWD_TEXTS, "answers": dict(answers), "longest_seconds": longest}


async def measure_memory(pid: int, port: int, texts: list[str], count: int) -> dict:
    """Resident MiB of the server after a tenth of `count` requests and after all; None where it cannot be asked."""
    requests = [request_bytes([text]) for text in texts]
    tenth = max(1, count // 10)
    resident = []
    for number in (tenth, count - tenth):
        for start in range(0, number, len(requests)):
            await run_clients(port, requests[: min(len(requests), number - start)], 32)
        resident.append(resident_mib(pid))
    return {"requests": count, "begin_mib": resident[0], "end_mib": resident[1]}


def resident_mib(pid: int) -> int | None:
    status = Path(f"/proc/{pid}/status")
    return int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) >> 10 if status.exists() else None


if __name__ == "__main__":
    main()
