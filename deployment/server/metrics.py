"""Counters and histograms of a server for Prometheus (`GET /metrics`)."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one server; each server has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        where: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("sentiment_requests", "请求数，按路径和状态码", ["path", "status"], **where)
        self.latency = Histogram(
            "sentiment_request_seconds", "从请求到答完的秒数，按路径", ["path"], buckets=SECONDS, **where
        )
        self.texts = Counter("sentiment_texts", "答过的评论数", **where)
        self.batch_texts = Histogram("sentiment_batch_texts", "一起计算的评论数", buckets=TEXTS, **where)
        self.batch_seconds = Histogram("sentiment_batch_seconds", "一起计算所用的秒数", buckets=SECONDS, **where)
        self.queue_texts = Gauge("sentiment_queue_texts", "正在排队的评论数", **where)

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        """From now on the length of the queue is what `waiting` says."""
        self.queue_texts.set_function(waiting)

    def observe_batch(self, texts: int, seconds: float) -> None:
        """Count one batch of the model."""
        self.texts.inc(texts)
        self.batch_texts.observe(texts)
        self.batch_seconds.observe(seconds)

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """Count one request that has been answered."""
        self.requests.labels(path, str(status)).inc()
        self.latency.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
