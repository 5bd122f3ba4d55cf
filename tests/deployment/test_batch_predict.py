"""deployment/batch_predict.py: many files, several workers, killed and gone on with; one Ray for all of it."""

import contextlib
import csv
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas
import pytest
from pyarrow import Table, parquet
from small import REPOSITORY, assert_one_message, change_json, run_main, small_reviews, write_jsonl

import inference
from deployment import batch_predict
from deployment.batch import parts, ray_session
from runtime.errors import UserError

# Not by importing it: what Ray is to be like is set before.
pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")]
ROWS = 12  # of a part


@pytest.fixture(scope="module")
def ray():
    with ray_session.connected(None) as ray:
        assert ray.util.get_node_ip_address() == "127.0.0.1"  # nobody else reaches it
        yield ray


@pytest.fixture
def predict(ray, plain_adapter, monkeypatch):
    """batch_predict.py in this process, with small parts, on the Ray that is there."""
    monkeypatch.setattr(batch_predict, "connected", lambda address: contextlib.nullcontext(ray))
    monkeypatch.setattr(parts, "PART_ROWS", ROWS)

    def run(pattern, output, *flags):
        return run_main(
            batch_predict.main, "--model_path", plain_adapter, "--input", pattern, "--output", output, *flags
        )

    return run


@pytest.fixture
def reviews(tmp_path):
    """Three files of 90, 60 and 21 reviews, among them three bad rows; each has the column 编号, and label."""
    folder, rows = tmp_path / "评论", [{"编号": i, **row} for i, row in enumerate(small_reviews(168))]
    folder.mkdir()
    with open(folder / "a.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["编号", "text", "label"])
        writer.writeheader()
        writer.writerows(rows[:88])
        file.write("999\n88,  ,0\n")
    write_jsonl(folder / "b.jsonl", [*rows[88:147], {"编号": 147, "text": None, "label": 1}])
    parquet.write_table(Table.from_pylist(rows[147:]), folder / "c.parquet")
    return folder


def answers(output: Path) -> list[dict]:
    """All rows of the .jsonl parts, in the order of their names."""
    files = sorted(output.glob("part-*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def workers(process: int) -> list[int]:
    """Ray's processes that hold a model, among all that descend from this one."""
    parents, found = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if "Worker)" in (path / "cmdline").read_text():
                found.append(int(path.name))

    def descends(child: int) -> bool:
        return child == process or (child in parents and descends(parents[child]))

    return [pid for pid in found if descends(pid)]


def test_killed_gone_on_with_and_a_worker_lost_it_gives_what_inference_gives(
    predict, reviews, plain_adapter, tmp_path, monkeypatch
):
    output, pattern = tmp_path / "out", str(reviews / "*")
    code = (
        f"from deployment.batch import parts; parts.PART_ROWS = {ROWS}\n"
        "from deployment import batch_predict; batch_predict.main()"
    )
    flags = ["--input", pattern, "--output", str(output), "--workers", "2", "--dtype", "float32"]
    flags += ["--model_path", str(plain_adapter)]
    process = subprocess.Popen([sys.executable, "-c", code, *flags], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not list(output.glob("part-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert 0 < len(kept) < 15

    # The same command again; as soon as it has written a part, one of its workers dies.
    killed, deadline = [], time.monotonic() + 600

    def kill_a_worker():
        while not killed and time.monotonic() < deadline:
            if len(list(output.glob("part-*"))) > len(kept) and (there := workers(os.getpid())):
                os.kill(there[0], 9)
                killed.append(there[0])
            time.sleep(0.01)

    (output / "part-00000-000007.jsonl").unlink(missing_ok=True)  # so that there is something left to do in each file
    kept.pop("part-00000-000007.jsonl", None)
    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    result = predict(pattern, output, "--workers", 2, "--dtype", "float32")
    thread.join()
    assert result.returncode == 0 and killed, result.stderr
    assert "171 行里有 3 行不能预测" in result.stderr and "171 行的结果写在" in result.stderr
    assert all((output / name).stat().st_mtime_ns == when for name, when in kept.items())

    # Each row is there once, in order, with its other columns; bad ones say why.
    found = answers(output)
    assert [row["row"] for row in found] == [*range(1, 91), *range(1, 61), *range(1, 22)]
    assert [Path(row["file"]).name for row in found[::60]] == ["a.csv", "a.csv", "b.jsonl"]
    bad = [row for row in found if row["reason"]]
    assert [(row["编号"], row["label"]) for row in bad] == [(None, None), ("88", None), (147, None)]
    assert "1 格" in bad[0]["reason"] and "空" in bad[1]["reason"]
    assert [row["input_label"] for row in found[88:92]] == [None, "0", 0, 1]

    # The answers are those of inference.py for the same texts.
    sound = [row for row in found if not row["reason"]]
    write_jsonl(tmp_path / "sound.jsonl", [{"text": row["text"]} for row in sound])
    flags = ["--input", tmp_path / "sound.jsonl", "--output", tmp_path / "expected.jsonl", "--dtype", "float32"]
    assert run_main(inference.main, "--model_path", plain_adapter, *flags).returncode == 0
    expected = [json.loads(line) for line in (tmp_path / "expected.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in ("text", "label", "label_id"):
        assert [row[name] for row in sound] == [row[name] for row in expected]
    np.testing.assert_allclose([row["confidence"] for row in sound], [row["confidence"] for row in expected], atol=1e-5)

    # Again there is nothing to do; another job does not go into this folder.
    again = predict(pattern, output, "--dtype", "float32")
    assert again.returncode == 0 and "171 行的结果写在" in again.stderr and answers(output) == found
    assert_one_message(predict(pattern, output, "--dtype", "bfloat16"), "--dtype：那时 float32，现在 bfloat16")
    with open(reviews / "b.jsonl", "a", encoding="utf-8") as file:
        file.write('{"text": "又来一条"}\n')
    assert_one_message(predict(pattern, output, "--dtype", "float32"), "b.jsonl 的 SHA-256")


def test_tables_keep_the_columns_of_the_input(predict, reviews, tmp_path, monkeypatch):
    output, jobs, plan = tmp_path / "out", [], batch_predict.plan
    monkeypatch.setattr(batch_predict, "plan", lambda *arguments: jobs.append(plan(*arguments)) or jobs[-1])
    assert predict(reviews / "c.parquet", output, "--format", "parquet", "--dtype", "float32").returncode == 0
    # As .csv, by a worker in this process.
    job = replace(jobs[0], format="csv")
    worker = parts.Worker(job)
    for batch in parts.read_parts({"file": np.array([0]), "parts": np.array([[0, 1]])}, job):
        worker(batch)
    for suffix, read in {".parquet": pandas.read_parquet, ".csv": pandas.read_csv}.items():
        table = pandas.concat(map(read, sorted(output.glob(f"part-*{suffix}"))))
        assert list(table["编号"]) == [*range(147, 168)] and list(table["row"]) == [*range(1, 22)]
        assert list(table["input_label"]) == [i % 2 for i in range(147, 168)]
        assert set(table["label"]) <= {"负面", "正面"} and table["reason"].isna().all()
        np.testing.assert_allclose(table["probability_负面"] + table["probability_正面"], 1, atol=1e-6)


def test_mistakes_are_met_before_anything_is_computed(predict, reviews, adapter_copy, tmp_path):
    output = tmp_path / "out"
    assert_one_message(predict(reviews / "*.tsv", output), "没有符合")
    assert_one_message(
        predict(reviews / "a.csv", output, "--on_bad_rows", "error"), "2 行不能预测", "第 89 条", "a.csv"
    )
    assert_one_message(predict(reviews / "*", output, "--format", "csv"), "列不同", "--format jsonl")
    assert_one_message(predict(reviews / "*", output, "--text_column", "评论"), "没有 评论 列")
    assert_one_message(predict(reviews / "*", output, "--workers", 2, "--gpus_per_worker", 1), "GPU 不够", "只有 0 个")
    assert_one_message(predict(reviews / "*", reviews), "已有别的文件")
    assert_one_message(predict(reviews / "*", output, "--model_path", tmp_path / "nowhere"), "nowhere")
    assert not output.exists()
    # What only a worker can find out: weights that do not fit the base.
    change_json(adapter_copy / "adapter_config.json", r=3)
    assert_one_message(predict(reviews / "c.parquet", output, "--model_path", adapter_copy), "装不到基座")


def test_a_quotation_mark_without_its_partner_is_not_skipped_as_one_row(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text('text\n好\n"没有收尾\n很好\n不错\n', encoding="utf-8")
    with pytest.raises(UserError, match="后面的行都混在里面"):
        parts.look_through(str(source), "text")


def test_a_cluster_that_is_not_there_is_told_at_once(plain_adapter, reviews, tmp_path):
    flags = ["--input", reviews / "*", "--output", tmp_path / "out", "--address", "127.0.0.1:1"]
    assert_one_message(run_main(batch_predict.main, "--model_path", plain_adapter, *flags), "--address", "127.0.0.1:1")
