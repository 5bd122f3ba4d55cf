"""`python deployment/serve.py` as a real command: start, end, and what a user may get wrong."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

pytest.importorskip("fastapi_offline")

import httpx
from small import REPOSITORY, assert_one_message, run_main, run_script

from deployment import serve

KEY = "a-key-of-32-characters-or-so-0000"
pytestmark = pytest.mark.slow


def test_help_is_quick_and_shows_commands():
    result = run_script("-X", "importtime", "deployment/serve.py", "--help")
    assert "    python deployment/serve.py --" in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "fastapi", "gradio", "uvicorn"}


def test_a_real_server_answers_and_ends_in_good_order(plain_adapter, tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    command = [sys.executable, "deployment/serve.py", "--model_path", str(plain_adapter), "--port", "0", "--no_page"]
    with open(tmp_path / "err", "w") as err_file:  # a pipe would be full before anybody reads it
        process = subprocess.Popen(
            [*command, "--api_key_file", str(tmp_path / "key")], cwd=REPOSITORY, text=True, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=err_file,
            env=os.environ | {"PYTHONUTF8": "1", "PYTHONPROFILEIMPORTTIME": "1"},
        )  # fmt: skip
    try:
        url = re.search(r"http://[\d.:]+", process.stdout.readline())[0]
        with httpx.Client(base_url=url, timeout=60) as client:
            assert client.get("/health").json() == {"status": "ok"}
            assert client.get("/info").status_code == 401
            client.headers["Authorization"] = f"Bearer {KEY}"
            assert client.get("/info").json()["model"] == str(plain_adapter)
            assert client.post("/classify", json={"input": "很好"}).json()["data"][0]["num_classes"] == 2
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    err = (tmp_path / "err").read_text(encoding="utf-8")
    assert process.returncode == 0, err
    assert "停止" in err and "Traceback" not in err and "很好" not in err and KEY not in out + err
    assert "POST /classify 200" in err
    assert "fastapi" in err and "gradio" not in err  # imports are in it; a server without a page does without Gradio


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model_path", "nowhere"], ["nowhere"]),
        (["--port", "70000"], ["--port"]),
        (["--host", "no.such.host.invalid"], ["--host"]),
        (["--max_queue", "10"], ["--max_queue", "--max_texts"]),
        (["--max_body_mb", "0"], ["--max_body_mb"]),
        (["--min_precision", "2"], ["--min_precision"]),
        (["--api_key_file", "nowhere.txt"], ["nowhere.txt"]),
        (["--marks_file", "marks.xlsx"], [".jsonl"]),
    ],
    ids=lambda value: str(value[0]),
)
def test_mistakes_get_one_message(flags, words):
    assert_one_message(run_main(serve.main, "--port", "0", *flags), *words)


@pytest.mark.parametrize("key", ["short", "with a blank in the middle", "不是 ASCII 的密钥而且足够长的一串字"])
def test_a_poor_key_is_refused_and_not_shown(tmp_path, monkeypatch, key):
    (tmp_path / "key").write_text(key, encoding="utf-8")
    result = run_main(serve.main, "--api_key_file", tmp_path / "key")
    assert_one_message(result, "密钥")
    monkeypatch.setenv(serve.KEY_VARIABLE, key)
    other = run_main(serve.main)
    assert_one_message(other, serve.KEY_VARIABLE)
    assert key not in result.stderr + other.stderr


def test_a_port_that_is_taken_is_told_before_the_model_is_read():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_message(run_main(serve.main, "--port", port, "--model_path", "nowhere"), f"127.0.0.1:{port}")
