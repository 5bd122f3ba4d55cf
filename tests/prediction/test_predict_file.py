"""inference.py --input: in pieces, killed at any moment, taken up again with --resume."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
from small import REPOSITORY, assert_one_message, run_main, small_reviews, write_jsonl

import inference
from data.sources.review_files import read_texts
from modeling.devices import Device
from prediction import predict_file
from prediction.predictor import SentimentPredictor
from prediction.resumable_file import PartialFile
from runtime.errors import UserError

KEY = {"输入": "a"}


@pytest.fixture
def source(tmp_path):
    """100 reviews, of which 25 stand twice."""
    rows = [{"text": row["text"]} for row in small_reviews(75)]
    return write_jsonl(tmp_path / "评论.jsonl", rows + rows[:25])


@pytest.fixture
def predict(plain_adapter, source, monkeypatch):
    """inference.py --input with pieces of 16 rows."""
    monkeypatch.setattr(predict_file, "CHUNK", 16)

    def run(target, *flags, model_path=plain_adapter):
        return run_main(inference.main, "--model_path", model_path, "--input", source, "--output", target, *flags)

    return run


@contextlib.contextmanager
def watched(stop_at: int | None = None):
    """How many texts each call of the predictor gets; its `stop_at`-th call is interrupted as by Ctrl-C."""
    calls, original = [], SentimentPredictor.predict_batch

    def predict_batch(self, texts, **kwargs):
        if len(calls) + 1 == stop_at:
            signal.raise_signal(signal.SIGINT)
        calls.append(len(texts))
        return original(self, texts, **kwargs)

    with mock.patch.object(SentimentPredictor, "predict_batch", predict_batch):
        yield calls


@pytest.mark.parametrize(("suffix", "stop_at"), [(".jsonl", 1), (".jsonl", 2), (".csv", 5), (".csv", 7)])
def test_wherever_it_is_stopped_the_resumed_output_is_equal_to_the_byte(predict, tmp_path, suffix, stop_at):
    whole, target = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    assert predict(whole).returncode == 0
    target.write_text("old")
    with watched(stop_at):
        result = predict(target)
    assert result.returncode == 130 and ("--resume" in result.stderr) == (stop_at > 1)
    assert target.read_text() == "old"
    with watched() as calls:
        assert predict(target, "--resume").returncode == 0
    assert sum(calls) == 100 - 16 * (stop_at - 1)
    assert target.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([whole.name, target.name, "评论.jsonl"])


def test_a_killed_process_is_taken_up_where_it_stopped(predict, plain_adapter, source, tmp_path):
    """A real kill -9 of a real process, and what stands behind the last whole piece is cut off."""
    code = (
        "import sys, time; from prediction import predict_file as f; f.CHUNK = 16; import inference\n"
        "from prediction.predictor import SentimentPredictor as P; original = P.predict_batch\n"
        "P.predict_batch = lambda *a, **k: [time.sleep(0.2), original(*a, **k)][1]\n"
        "inference.main()"
    )
    target, state = tmp_path / "out.csv", tmp_path / "out.csv.partial.json"
    flags = ["--model_path", str(plain_adapter), "--input", str(source), "--output", str(target)]
    process = subprocess.Popen([sys.executable, "-c", code, *flags], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (state.exists() and json.loads(state.read_text(encoding="utf-8"))["rows"] >= 32):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not target.exists()
    rows = json.loads(state.read_text(encoding="utf-8"))["rows"]
    with open(tmp_path / "out.csv.partial", "ab") as file:
        file.write("半行，没有写".encode()[:-1])
    with watched() as calls:
        assert predict(target, "--resume").returncode == 0
    assert sum(calls) == 100 - rows and rows in (32, 48)
    assert predict(tmp_path / "whole.csv").returncode == 0
    assert target.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_what_is_left_of_another_run_is_not_gone_on_with(predict, plain_adapter, source, tmp_path):
    """Another input, model, temperature or flag; and without --resume it starts again and says so."""
    target, other = tmp_path / "out.jsonl", shutil.copytree(plain_adapter, tmp_path / "other")
    config = json.loads((other / "sentiment_config.json").read_text())
    (other / "sentiment_config.json").write_text(json.dumps(config | {"temperature": 2.0}))
    with watched(stop_at=3):
        predict(target)
    left = (tmp_path / "out.jsonl.partial").read_bytes()
    assert_one_message(predict(target, "--resume", model_path=other), "温度", "--resume")
    assert_one_message(predict(target, "--resume", "--no_merge"), "--merge")
    with watched(stop_at=3):
        predict(tmp_path / "half.jsonl", "--dtype", "bfloat16")
    assert_one_message(predict(tmp_path / "half.jsonl", "--resume", "--dtype", "float32"), "bfloat16", "float32")
    content = source.read_text(encoding="utf-8")
    source.write_text(content.replace("很差", "极差"), encoding="utf-8")
    assert_one_message(predict(target, "--resume"), "SHA-256", "输入文件")
    source.write_text(content, encoding="utf-8")
    assert (tmp_path / "out.jsonl.partial").read_bytes() == left
    with watched() as calls:
        result = predict(target)
    assert result.returncode == 0 and "覆盖" in result.stderr and sum(calls) == 100


def test_many_texts_are_answered_in_bf16_where_the_processor_multiplies_it(predict, tmp_path, monkeypatch):
    """A file but for `--dtype float32`; a text on the command line only with `--dtype bfloat16`."""
    asked, original = [], SentimentPredictor.__init__
    monkeypatch.setattr(
        SentimentPredictor, "__init__", lambda self, *a, **k: asked.append(k["dtype"]) or original(self, *a, **k)
    )
    for bf16, flags, expected in [
        (True, [], "bfloat16"), (False, [], "float32"), (True, ["--dtype", "float32"], "float32"),
    ]:  # fmt: skip
        monkeypatch.setattr("modeling.devices.best_device", lambda bf16=bf16: Device("cpu", bf16))
        assert predict(tmp_path / "out.csv", *flags).returncode == 0
        assert asked.pop() == expected


def test_a_bad_row_far_down_is_met_before_anything_is_written(predict, source, tmp_path):
    with open(source, "a", encoding="utf-8") as file:
        file.write('{"text": " "}\n{"txt": 1}\n')
    (tmp_path / "out.csv").write_text("old")
    with watched() as calls:
        assert_one_message(predict(tmp_path / "out.csv"), "第 101 行", "第 102 行")
    assert not calls and (tmp_path / "out.csv").read_text() == "old" and not list(tmp_path.glob("*.partial*"))


def test_an_input_that_changes_meanwhile_gives_no_output(predict, source, tmp_path):
    original = SentimentPredictor.predict_batch

    def predict_batch(self, texts, **kwargs):
        with open(source, "a", encoding="utf-8") as file:
            file.write('{"text": "又来一条"}\n')
        return original(self, texts, **kwargs)

    with mock.patch.object(SentimentPredictor, "predict_batch", predict_batch):
        assert_one_message(predict(tmp_path / "out.csv"), "被改动")
    assert not (tmp_path / "out.csv").exists()


def test_resume_without_anything_left_starts(predict, tmp_path):
    result = predict(tmp_path / "out.csv", "--resume")
    assert result.returncode == 0 and "从头开始" in result.stderr and (tmp_path / "out.csv").exists()


def test_half_a_surrogate_pair_comes_back_as_it_was(predict, source, tmp_path):
    source.write_text('{"text": "\\ud83d坏了"}\n', encoding="utf-8")
    assert predict(tmp_path / "out.jsonl").returncode == 0
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))["text"] == "\ud83d坏了"
    assert predict(tmp_path / "out.csv").returncode == 0
    assert "\\ud83d坏了," in (tmp_path / "out.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("out.xlsx", [".jsonl", ".csv"]),
        ("out", [".jsonl", ".csv"]),
        ("in.csv", ["输入文件"]),
        ("link.csv", ["输入文件"]),
        ("folder.csv", ["文件夹"]),
        ("in.csv/out.csv", ["不能写"]),
        ("x" * 300 + ".csv", ["too long"]),
    ],
)
def test_an_output_that_cannot_be_one_is_refused(plain_adapter, tmp_path, output, words):
    source = tmp_path / "in.csv"
    source.write_text("text\n很好\n", encoding="utf-8")
    (tmp_path / "link.csv").symlink_to(source)
    (tmp_path / "folder.csv").mkdir()
    result = run_main(inference.main, "--model_path", plain_adapter, "--input", source, "--output", tmp_path / output)
    assert_one_message(result, *words)
    assert source.read_text(encoding="utf-8") == "text\n很好\n"


# ---- the partial file itself


def grown(target, pieces, resume=False):
    with PartialFile(target, KEY, resume) as partial:
        for piece in pieces:
            partial.append(piece, 1)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data, state: data.write_bytes(b"one\ntw"), "被改动过或不完整"),
        (lambda data, state: data.write_bytes(b"\0" * 8), "被改动过或不完整"),
        (lambda data, state: data.unlink(), "被改动过或不完整"),
        (lambda data, state: state.write_text("{"), "损坏"),
        (lambda data, state: state.write_text("[]"), "损坏"),
        (lambda data, state: state.write_text("[" * 100_000), "损坏"),
        (lambda data, state: state.write_text(state.read_text().replace('"bytes": 8', '"bytes": "8"')), "损坏"),
    ],
    ids=["cut", "zeroed", "gone", "half", "list", "deep", "type"],
)
def test_a_damaged_partial_file_is_refused(tmp_path, damage, words):
    target = tmp_path / "out.csv"
    grown(target, [b"one\n", b"two\n"])
    damage(tmp_path / "out.csv.partial", tmp_path / "out.csv.partial.json")
    with pytest.raises(UserError, match=words), PartialFile(target, KEY, resume=True):
        pass
    with PartialFile(target, KEY, resume=False) as partial:
        partial.append(b"new\n", 1)
        partial.finish()
    assert target.read_bytes() == b"new\n"


def test_a_link_in_place_of_the_partial_file_is_not_followed(tmp_path):
    (tmp_path / "other.txt").write_text("mine")
    (tmp_path / "out.csv.partial").symlink_to("other.txt")
    with pytest.raises(UserError, match="不能写"), PartialFile(tmp_path / "out.csv", KEY, resume=False):
        pass
    assert (tmp_path / "other.txt").read_text() == "mine"


def test_an_output_that_is_a_link_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "out.csv").symlink_to("there/real.csv")
    with PartialFile(tmp_path / "out.csv", KEY, resume=False) as partial:
        partial.append(b"one\n", 1)
        partial.finish()
    assert (tmp_path / "out.csv").is_symlink() and (tmp_path / "there" / "real.csv").read_bytes() == b"one\n"


def test_two_processes_do_not_write_one_file(tmp_path):
    """Nor does the lock of one that was killed stay behind, or any lock file."""
    held = f"""
import time
from pathlib import Path
from prediction.resumable_file import PartialFile
with PartialFile(Path({str(tmp_path / "out.csv")!r}), {KEY!r}, resume=False) as partial:
    partial.append(b"one\\n", 1)
    print("there", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", held], stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout.readline() == b"there\n"
        for resume in (True, False):
            with pytest.raises(UserError, match="另一个进程"), PartialFile(tmp_path / "out.csv", KEY, resume):
                pass
        process.kill()
        process.wait()
    with PartialFile(tmp_path / "out.csv", KEY, resume=True) as partial:
        assert partial.rows == 1
        partial.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_bytes() == b"one\n"


def test_an_output_that_another_process_finishes_meanwhile_is_not_cut(tmp_path, monkeypatch):
    """The second has opened the partial file when the first gives it its final name and lets go of it."""
    target, opened = tmp_path / "out.csv", []
    first = PartialFile(target, KEY, resume=False)
    first.__enter__()
    first.append(b"one\n", 1)
    really_open = os.open

    def open_slowly(path, *arguments, **options):
        handle = really_open(path, *arguments, **options)
        if str(path) == str(first.path) and not opened:
            opened.append(path)
            first.finish()
            first.__exit__(None)
        return handle

    monkeypatch.setattr(os, "open", open_slowly)
    with contextlib.suppress(UserError), PartialFile(target, KEY, resume=False):
        pass
    if not opened:
        first.finish()
        first.__exit__(None)
    assert target.read_bytes() == b"one\n"


def test_a_full_disk_is_told_in_one_message_and_what_was_whole_stays(tmp_path):
    resource = pytest.importorskip("resource")
    target, limits = tmp_path / "out.csv", resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        with pytest.raises(UserError, match=r"已算好的 1 条.*--resume"):
            grown(target, [b"one\n", b"x" * (1 << 17)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with PartialFile(target, KEY, resume=True) as partial:
        assert partial.rows == 1
        partial.append(b"two\n", 1)
        partial.finish()
    assert target.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt", ".parquet"])
def test_reading_takes_memory_for_a_few_rows_only(tmp_path, suffix):
    """A file of 24 MB, read in less than 10 MB of Python's memory."""
    import tracemalloc

    import pandas

    path, texts = tmp_path / f"big{suffix}", [f"{i}" + "房间很干净" * 400 for i in range(4000)]
    table = pandas.DataFrame({"text": texts})
    {
        ".jsonl": lambda: table.to_json(path, orient="records", lines=True, force_ascii=False),
        ".csv": lambda: table.to_csv(path, index=False),
        ".txt": lambda: path.write_text("\n".join(texts), encoding="utf-8"),
        ".parquet": lambda: table.to_parquet(path, row_group_size=500),
    }[suffix]()
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_texts(path, "text")) == 4000
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
