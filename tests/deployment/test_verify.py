"""`deployment/verify.py` against our own server, and against servers that answer something else."""

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi_offline")

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from serving import running_server
from small import assert_one_message, run_main, small_reviews, write_jsonl

from deployment import verify
from deployment.server.uvicorn_server import bound_socket
from prediction.predictor import SentimentPredictor
from prediction.zero_shot import ZeroShotPredictor, zero_shot_config

KEY = "a-key-of-32-characters-or-so-0000"


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("reviews") / "reviews.jsonl", small_reviews(40))


@pytest.fixture(scope="module")
def server(adapter):
    with running_server(SentimentPredictor(lora_path=adapter), api_key=KEY) as running:
        yield running


def test_our_server_agrees(server, adapter, reviews, tmp_path):
    (tmp_path / "key").write_text(KEY)
    flags = ["--url", server.url, "--model_path", adapter, "--input", reviews, "--batch_size", "7"]
    result = run_main(verify.main, *flags, "--api_key_file", tmp_path / "key", "--tolerance", "1e-5")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "40 条" in result.stdout and "一致" in result.stdout.splitlines()[-1] and "0 条" in result.stdout
    for line in result.stdout.splitlines()[2:]:
        assert sum(2 if ord(character) > 0x2E7F else 1 for character in line) <= 80
    assert_one_message(run_main(verify.main, *flags), "密钥")


def test_another_adapter_is_told_apart(server, plain_adapter, reviews, tmp_path, monkeypatch):
    monkeypatch.setenv(verify.KEY_VARIABLE, KEY)
    result = run_main(verify.main, "--url", server.url, "--model_path", plain_adapter, "--input", reviews)
    assert result.returncode == 1 and "不一致" in result.stdout


@pytest.fixture(scope="module")
def other_server():
    """A server that answers /classify with what `answer(body)` says."""
    app, held = FastAPI(), SimpleNamespace(answer=None, bodies=[])

    @app.post("/classify")
    async def classify(request: Request):
        held.bodies.append(await request.json())
        status, content = held.answer(held.bodies[-1])
        return JSONResponse(content, status)

    listening = bound_socket("127.0.0.1", 0)
    held.url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield held
    server.should_exit = True
    thread.join(30)


def entries(body, label, probs):
    return {"data": [{"index": i, "label": label, "probs": probs, "num_classes": 2} for i in range(len(body["input"]))]}


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda body: (200, {"answers": []}), "形状"),
        (lambda body: (200, [1]), "形状"),
        (lambda body: (200, {"data": []}), "不是 1 条"),
        (lambda body: (200, {"data": [{"label": "负面"}] * len(body["input"])}), "probs"),
        (lambda body: (200, entries(body, "负面", [0.5, 0.25, 0.25])), "3 个类别"),
        (lambda body: (200, entries(body, "LABEL_0", [0.9, 0.1])), "id2label"),
        (lambda body: (200, entries(body, "负面", [2.5, -1.5])), "softmax"),
        (lambda body: (400, {"error": {"message": "too long"}}), "too long"),
    ],
)
def test_other_answers_get_one_message(other_server, plain_adapter, reviews, answer, word):
    other_server.answer = answer
    result = run_main(
        verify.main, "--url", other_server.url, "--model_path", plain_adapter, "--input", reviews, "--model", "m"
    )
    assert_one_message(result, word)


def test_vllm_is_told_the_length_and_given_the_prompt(other_server, plain_adapter, reviews, small_base, monkeypatch):
    other_server.answer = lambda body: (200, entries(body, "负面", [0.6, 0.4]))
    other_server.bodies.clear()
    flags = ["--url", other_server.url + "classify", "--model_path", plain_adapter, "--input", reviews]
    assert run_main(verify.main, *flags, "--model", "m").returncode == 1
    assert other_server.bodies[-1]["truncate_prompt_tokens"] == 64 and other_server.bodies[-1]["model"] == "m"
    assert_one_message(run_main(verify.main, *flags, "--with_prompt"), "--with_prompt")

    predictor = ZeroShotPredictor(zero_shot_config(str(small_base), max_length=10))
    sent = verify.with_prompt(predictor, "很好，下次还来")  # a token a byte: three characters and a third
    assert sent == predictor.config.prompt_template.replace("{text}", "很好，下")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--url", "http://127.0.0.1:9"], "没有应答"),
        (["--url", "ftp://x"], "--url"),
        (["--url", "http://127.0.0.1:9", "--batch_size", "0"], "--batch_size"),
        (["--url", "http://127.0.0.1:9", "--tolerance", "nan"], "--tolerance"),
        (["--url", "http://127.0.0.1:9", "--api_key_file", "nowhere"], "nowhere"),
        ([], "--url"),
    ],
)
def test_mistakes_get_one_message(reviews, flags, word):
    assert_one_message(run_main(verify.main, "--input", reviews, *flags), word)
