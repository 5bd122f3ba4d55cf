"""The HTTP interface: answers, limits, errors, batching, key, end; over real connections to this machine alone."""

import base64
import concurrent.futures
import json
import logging
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("fastapi_offline")

import httpx
from serving import post, running_server
from small import small_reviews

from deployment.server import gate, uvicorn_server
from deployment.server.inference_queue import InferenceQueue, QueueFull, Stopping
from deployment.server.schemas import Limits
from prediction.predictor import SentimentPredictor

TEXTS = [row["text"] for row in small_reviews(40)]
KEY = "a-key-of-32-characters-or-so-0000"


@pytest.fixture(scope="module")
def predictor(adapter):
    return SentimentPredictor(lora_path=adapter)


@pytest.fixture(scope="module")
def server(predictor):
    limits = Limits(texts=64, characters=1000, body_bytes=100_000, upload_bytes=100_000)
    with running_server(predictor, limits=limits) as running:
        yield running


def close(answers, others) -> bool:
    """True for the same answers up to the rounding of a padded batch."""
    same = [{k: v for k, v in a.items() if k not in ("confidence", "probabilities")} for a in answers] == [
        {k: v for k, v in b.items() if k not in ("confidence", "probabilities")} for b in others
    ]
    pairs = zip(answers, others, strict=True)
    return same and all(a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-6) for a, b in pairs)


def assert_error(response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"] and "\n" not in response.json()["error"]
    for word in words:
        assert word in response.json()["error"], response.text


def test_predict_answers_as_the_predictor_does(server, predictor):
    expected = predictor.predict_batch(TEXTS)
    answers = post(server, "/predict", {"texts": TEXTS}).json()["answers"]
    assert close(answers, expected)
    assert close(post(server, "/predict", {"texts": TEXTS[3]}).json()["answers"], expected[3:4])


def test_classify_has_the_shape_of_vllm(server, predictor):
    answer = post(server, "/classify", {"model": "small", "input": TEXTS[:2], "truncate_prompt_tokens": 64}).json()
    expected = predictor.predict_batch(TEXTS[:2])
    assert list(answer) == ["id", "object", "created", "model", "data", "usage"]
    assert answer["object"] == "list" and answer["model"] == "small" and abs(answer["created"] - time.time()) < 60
    for index, (found, one) in enumerate(zip(answer["data"], expected, strict=True)):
        assert (found["index"], found["label"], found["num_classes"]) == (index, one["label"], 2)
        assert found["probs"] == pytest.approx(list(one["probabilities"].values()), abs=1e-6)
    tokens = sum(min(64, len(text.encode())) for text in TEXTS[:2])  # the small base has a token a byte
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] == tokens
    assert answer["id"] != post(server, "/classify", {"input": TEXTS[0]}).json()["id"]


def test_classify_refuses_what_would_mean_other_answers(server):
    assert_error(post(server, "/classify", {"model": "another", "input": "好"}), 404, "small")
    assert_error(post(server, "/classify", {"input": "好", "truncate_prompt_tokens": 32}), 422, "64")
    assert_error(post(server, "/classify", {"input": "好", "use_activation": False}), 422, "use_activation")
    assert post(server, "/classify", {"input": "好", "truncate_prompt_tokens": -1}).status_code == 200


def test_answers_do_not_depend_on_the_company(server, predictor):
    """Many clients at once, each with texts of other lengths: each gets what it would get alone."""
    requests = [TEXTS[i : i + 1 + i % 5] for i in range(30)]
    with concurrent.futures.ThreadPoolExecutor(16) as clients:
        found = list(clients.map(lambda texts: post(server, "/predict", {"texts": texts}).json()["answers"], requests))
    for texts, answers in zip(requests, found, strict=True):
        assert close(answers, predictor.predict_batch(texts))


def test_a_threshold_marks_what_a_person_should_read(predictor, monkeypatch):
    middle = sorted(answer["confidence"] for answer in predictor.predict_batch(TEXTS))[20]
    monkeypatch.setattr(predictor, "threshold", middle)
    with running_server(predictor) as running:
        answers = post(running, "/predict", {"texts": TEXTS}).json()["answers"]
        assert {answer["accepted"] for answer in answers} == {True, False}
        assert httpx.get(running.url + "/info").json()["threshold"] == middle


BAD = [
    (b"{", 422, "JSON"),
    (b"", 422, "请求体"),
    (b'{"texts": NaN}', 422, "texts"),
    (b'{"texts": [1, 2]}', 422, "第 1 条应为字符串"),
    (b'{"texts": ["good", null]}', 422, "第 2 条"),
    (b'{"texts": []}', 422, "texts"),
    (b'{"texts": {"a": 1}}', 422, "texts"),
    (b'{"text": "good"}', 422, "texts"),
    (b'["good"]', 422, "JSON"),
    ('{"texts": ["好", " \\u200b "]}'.encode(), 422, "第 2 条是空的"),
    (b'{"texts": ["\\ud83d"]}', 422, "半个代理对"),
    (b'{"\\ud83d": 1, "texts": "a"}', 422, "Unicode"),
    (b'{"texts": "a", "topk": 3}', 422, "topk：不认识的字段"),
    (b'{"texts": "\xff"}', 400, "UTF-8"),
    (b"[" * 50_000, 400, "嵌套"),
    (json.dumps({"texts": ["好"] * 65}).encode(), 422, "最多 64 条"),
    (json.dumps({"texts": "好" * 1001}).encode(), 422, "1,001 个字符"),
    (json.dumps({"texts": "好" * 50_000}).encode(), 413, "100,000"),
]


@pytest.mark.parametrize(("body", "status", "word"), BAD, ids=[str(body[:24]) for body, *_ in BAD])
def test_bad_bodies_get_one_line(server, body, status, word):
    headers = {"Content-Type": "application/json"}
    assert_error(httpx.post(server.url + "/predict", content=body, headers=headers, timeout=60), status, word)
    assert post(server, "/predict", {"texts": "很好"}).status_code == 200


def test_a_body_in_pieces_is_counted_while_it_comes(server, monkeypatch):
    """Without a Content-Length; and one that has no end is cut off."""
    pieces = (b'{"texts": "' + b"a" * 30_000 for _ in range(5))
    headers = {"Content-Type": "application/json"}
    assert_error(httpx.post(server.url + "/predict", content=pieces, headers=headers), 413)
    monkeypatch.setattr(uvicorn_server, "HEADER_SECONDS", 0.2)
    sent = 0
    with connection(server) as endless:
        endless.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises(OSError):  # the server closes
            while sent < 10**9:
                sent += endless.send(b"186a0\r\n" + b"a" * 100_000 + b"\r\n")
    assert post(server, "/predict", {"texts": "很好"}).status_code == 200


def connection(server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_a_slow_body_ends_in_408_and_slow_headers_in_the_end_of_the_connection(server, monkeypatch):
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.3)
    with connection(server) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")
    monkeypatch.setattr(uvicorn_server, "HEADER_SECONDS", 0.3)
    with connection(server) as slow:
        slow.sendall(b"POST /predict HT")
        assert slow.recv(4096) == b""
    with connection(server) as silent:
        assert silent.recv(4096) == b""


def test_broken_connections_do_not_disturb_the_others(server):
    for piece in (
        b"\x16\x03\x01\x02",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    ):
        with connection(server) as broken:
            broken.sendall(piece)
    assert post(server, "/predict", {"texts": TEXTS[0]}).status_code == 200


def test_unknown_paths_and_methods(server):
    assert_error(httpx.get(server.url + "/nowhere"), 404)
    response = httpx.get(server.url + "/predict")
    assert_error(response, 405)
    assert response.headers["allow"] == "POST"


def test_info_health_and_metrics(server):
    assert httpx.get(server.url + "/health").json() == {"status": "ok"}
    info = httpx.get(server.url + "/info").json()
    assert info["labels"] == ["负面", "正面"] and info["max_length"] == 64 and info["limits"]["texts"] == 64
    post(server, "/predict", {"texts": TEXTS[:7]})
    text = httpx.get(server.url + "/metrics").text
    assert 'sentiment_requests_total{path="/predict",status="200"}' in text
    assert 'sentiment_requests_total{path="/predict",status="422"}' in text
    for name in (
        "sentiment_texts_total",
        "sentiment_queue_texts",
        "sentiment_batch_texts_bucket",
        "sentiment_request_seconds_bucket",
    ):
        assert name in text


def test_docs_ask_nobody_outside(server):
    page = httpx.get(server.url + "/docs").text
    assert "http://" not in page and "https://" not in page
    assert '"validatorUrl": null' in page
    for path in ("/static-offline-docs/swagger-ui-bundle.js", "/static-offline-docs/swagger-ui.css", "/openapi.json"):
        assert path in page and httpx.get(server.url + path).status_code == 200


def test_a_key_is_asked_for_everywhere_but_at_health(predictor):
    with running_server(predictor, api_key=KEY) as running:
        basic = base64.b64encode(f"anybody:{KEY}".encode()).decode()
        for path in ("/info", "/metrics", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"):
            assert_error(httpx.get(running.url + path), 401)
            for value in (f"Bearer {KEY}", f"Basic {basic}"):
                assert httpx.get(running.url + path, headers={"Authorization": value}).status_code == 200
        wrong = [
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
            "Bearer",
            f"Token {KEY}",
            "Basic %%%",
            "Basic eA==",
            KEY,
            b"Bearer \xff",
        ]
        for value in wrong:
            response = post(running, "/predict", {"texts": "好"}, headers={"Authorization": value})
            assert_error(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
        assert post(running, "/predict", {"texts": "好"}, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        assert httpx.get(running.url + "/health").status_code == 200


def test_texts_are_in_the_log_only_when_asked_for(predictor, caplog):
    caplog.set_level(logging.INFO, logger="deployment.server")
    for log_texts in (False, True):
        caplog.clear()
        with running_server(predictor, log_texts=log_texts) as running:
            post(running, "/predict", {"texts": "只有日志知道的话"})
            post(running, "/predict", {"texts": ["只有日志知道的话", 1]})
        assert "/predict 200" in caplog.text
        assert ("只有日志知道的话" in caplog.text) == log_texts


class Held:
    """A predictor that waits until it may go on, and can be told to fail."""

    def __init__(self, predictor):
        self.config, self.labels, self.threshold, self.tokenizer = (
            predictor.config, predictor.labels, predictor.threshold, predictor.tokenizer
        )  # fmt: skip
        self.may_go_on, self.began, self.asked, self.poison = threading.Event(), threading.Event(), [], None

    def predict_batch(self, texts):
        self.began.set()
        assert self.may_go_on.wait(30)
        self.asked.append(texts)
        if self.poison in texts:
            raise RuntimeError(f"cannot read {self.poison}")
        even = dict.fromkeys(self.labels, 0.5)
        return [{"text": t, "label": "负面", "label_id": 0, "confidence": 0.5, "probabilities": even} for t in texts]


@pytest.fixture
def held(predictor):
    return Held(predictor)


def test_a_full_queue_answers_429_at_once(held):
    small = running_server(held, most_waiting=64, limits=Limits(texts=64))
    with small as running, concurrent.futures.ThreadPoolExecutor(3) as clients:
        first = clients.submit(post, running, "/predict", {"texts": "第一条"})
        assert held.began.wait(30)
        second = clients.submit(post, running, "/predict", {"texts": TEXTS})  # waits
        while running.service.queue.waiting < len(TEXTS):
            time.sleep(0.01)
        response = post(running, "/predict", {"texts": TEXTS})
        assert_error(response, 429, "秒后再试")
        assert int(response.headers["retry-after"]) >= 1
        held.may_go_on.set()
        assert first.result().status_code == second.result().status_code == 200


def test_what_waits_is_computed_together_and_a_bad_request_alone(held):
    with running_server(held) as running, concurrent.futures.ThreadPoolExecutor(8) as clients:
        futures = [clients.submit(post, running, "/predict", {"texts": "第一条"})]
        assert held.began.wait(30)
        held.poison = "坏"
        for text in ("甲", "坏", "乙"):
            futures.append(clients.submit(post, running, "/predict", {"texts": text}))
        while running.service.queue.waiting < 3:
            time.sleep(0.01)
        held.may_go_on.set()
        assert sorted(future.result().status_code for future in futures) == [200, 200, 200, 500]
        assert sorted(map(len, held.asked)) == [1, 1, 1, 1, 3]


def test_nobody_computes_for_a_client_that_has_gone(held):
    with running_server(held) as running, concurrent.futures.ThreadPoolExecutor(2) as clients:
        first = clients.submit(post, running, "/predict", {"texts": "第一条"})
        assert held.began.wait(30)
        body = json.dumps({"texts": "不等了"}).encode()
        with connection(running) as gone:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            gone.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            while running.service.queue.waiting < 1:
                time.sleep(0.01)
        while running.service.in_flight > 1:
            time.sleep(0.01)
        held.may_go_on.set()
        assert first.result().status_code == 200
    assert held.asked == [["第一条"]]


def test_the_end_finishes_what_was_taken_and_refuses_the_rest(held):
    with running_server(held) as running, concurrent.futures.ThreadPoolExecutor(2) as clients:
        first = clients.submit(post, running, "/predict", {"texts": "第一条"})
        assert held.began.wait(30)
        running.service.stopping = True
        for path in ("/predict", "/classify"):
            assert_error(post(running, path, {"texts": "晚了"}), 503, "停止")
        assert_error(httpx.get(running.url + "/health"), 503)
        assert running.thread.is_alive()
        held.may_go_on.set()
        assert first.result().json()["answers"][0]["label"] == "负面"
        running.thread.join(30)
        assert not running.thread.is_alive()


def test_the_queue_itself(held):
    queue = InferenceQueue(held, most_texts=3)
    first = queue.submit(["a"])
    assert held.began.wait(30)
    later = queue.submit(["b", "c"])
    with pytest.raises(QueueFull):
        queue.submit(["d", "e"])
    function = queue.run(lambda: 7)
    held.may_go_on.set()
    assert [len(future.result(30).answers) for future in (first, later)] == [1, 2] and function.result(30) == 7
    assert len(queue.submit(["x"] * 9, patient=True).result(30).answers) == 9
    failing = queue.run(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(30)
    queue.close()
    with pytest.raises(Stopping):
        queue.submit(["late"])
