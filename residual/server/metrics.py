"""Counters and histograms of a server, in the text format of Prometheus."""

import time
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/", "/predict", "/explain", "/model", "/health", "/metrics", "/docs")


class Metrics:
    """The metrics of one server."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """`waiting` counts the pictures that are accepted and not answered."""
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "residual_requests", "Requests.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "residual_request_seconds", "Seconds of a request.", ["path"], registry=registry
        )
        self.pictures = Counter("residual_pictures", "Predicted pictures.", registry=registry)
        self.batch = Histogram(
            "residual_batch_pictures",
            "Pictures in a forward pass.",
            buckets=[2**i for i in range(9)],
            registry=registry,
        )
        Gauge(
            "residual_waiting_pictures", "Pictures that wait for an answer.", registry=registry
        ).set_function(waiting)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class RequestMetrics:
    """ASGI middleware: counts requests and measures their seconds."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"] if scope["path"] in PATHS else "other"
        try:
            await self.app(scope, receive, record)
        finally:
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)
