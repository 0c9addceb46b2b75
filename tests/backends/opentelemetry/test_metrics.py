"""Events as metrics: the names of the conventions, and sums equal to what the ledger answers."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from usagekit import UsageEvent

if TYPE_CHECKING:
    from tests.backends.opentelemetry.conftest import Providers
    from tests.support.otlp import Collector

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
REQUEST = UsageEvent(
    id="r-1",
    time=NOON,
    kind="request",
    event="request",
    user="ann",
    org="acme",
    status=200,
    latency_ms=125,
    route="GET /items/{id}",
    response_bytes=2048,
    weight=3,
)
CALL = UsageEvent(
    id="c-1",
    time=NOON,
    kind="llm",
    event="summarise",
    user="bob",
    org="acme",
    status=200,
    latency_ms=840,
    provider="google",
    model="gemini-3-flash",
    input_tokens=1200,
    output_tokens=300,
    cache_read_tokens=1000,
    cache_write_tokens=100,
    reasoning_tokens=200,
    first_token_ms=220,
    cost_usd=Decimal("0.0012"),
    cost_source="priced",
)
FAILED = UsageEvent(id="c-2", time=NOON, kind="llm", event="llm", status=599, latency_ms=50, provider="acme", model="m")
EMBEDDED = UsageEvent(
    id="c-3",
    time=NOON,
    kind="llm",
    event="llm",
    status=200,
    latency_ms=10,
    provider="openai",
    model="text-embedding-3-small",
    input_tokens=8,
)


def test_requests_are_http_server_metrics(collector: Collector, providers: Providers) -> None:
    """Seconds in the recommended buckets, by method, template and status; a weight counts so often."""
    crashed = UsageEvent(time=NOON, kind="request", status=500, latency_ms=1, route="POST (unmatched)")
    gone = UsageEvent(time=NOON, kind="request", status=499, latency_ms=7, route="BREW /pot")
    closed = UsageEvent(time=NOON, kind="request", event="websocket_close", status=101, latency_ms=9, route="GET /live")

    providers.backend(http="on").write([REQUEST, crashed, gone, closed], batch_id="1")

    name = "usagekit/http.server.request.duration"
    metric = collector.metrics[name]
    keys = ("http.request.method", "http.route", "http.response.status_code", "error.type", "url.scheme", "user.id")
    assert (metric.unit, list(metric.histogram.data_points[0].explicit_bounds)) == (
        "s",
        [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0],
    )
    assert collector.histograms(name, *keys) == {
        ("GET", "/items/{id}", 200, None, "http", None): (3, 0.125 * 3),
        ("POST", None, 500, "500", "http", None): (1, 0.001),
        ("_OTHER", "/pot", None, "client_disconnected", "http", None): (1, 0.007),
    }


def test_calls_are_gen_ai_metrics_as_shipped_today(collector: Collector, providers: Providers) -> None:
    """Tokens by type, durations with errors, time to the first chunk, providers by their names in the conventions."""
    providers.backend(gen_ai="shipped").write([CALL, FAILED, EMBEDDED, REQUEST], batch_id="1")

    keys = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model")
    gemini, acme = ("chat", "gcp.gemini", "gemini-3-flash"), ("chat", "acme", "m")
    embedding = ("embeddings", "openai", "text-embedding-3-small")
    assert collector.histograms("usagekit/gen_ai.client.token.usage", *keys, "gen_ai.token.type") == {
        (*gemini, "input"): (1, 1200.0),
        (*gemini, "output"): (1, 300.0),
        (*embedding, "input"): (1, 8.0),
    }
    assert collector.histograms("usagekit/gen_ai.client.operation.duration", *keys, "error.type") == {
        (*gemini, None): (1, 0.84),
        (*acme, "_OTHER"): (1, 0.05),
        (*embedding, None): (1, 0.01),
    }
    assert collector.histograms("usagekit/gen_ai.client.operation.time_to_first_chunk", *keys) == {gemini: (1, 0.22)}
    tokens = collector.metrics["usagekit/gen_ai.client.token.usage"].histogram.data_points[0]
    seconds = collector.metrics["usagekit/gen_ai.client.operation.duration"].histogram.data_points[0]
    assert (tokens.explicit_bounds[0], tokens.explicit_bounds[1], tokens.explicit_bounds[-1]) == (1, 4, 67_108_864)
    assert (seconds.explicit_bounds[0], seconds.explicit_bounds[-1]) == (0.01, 81.92)
    assert not any("inference" in name for name in collector.metrics)


def test_calls_by_the_next_names_count_tokens_apart(collector: Collector, providers: Providers) -> None:
    """Counters with modality, a failed call counts 0, and embeddings keep the old name of their duration."""
    providers.backend(gen_ai="next").write([CALL, FAILED, EMBEDDED], batch_id="1")

    prefix = "usagekit/gen_ai.client.inference"
    used = {
        name: collector.sums(f"{prefix}.usage.{name}", "gen_ai.request.model", "gen_ai.token.modality", "error.type")
        for name in ("input_tokens", "cache_write.input_tokens", "reasoning.output_tokens")
    }
    gemini, failed = ("gemini-3-flash", "unknown", None), ("m", "unknown", "_OTHER")
    embedding = ("text-embedding-3-small", "unknown", None)
    assert used == {
        "input_tokens": {gemini: 1200, failed: 0, embedding: 8},
        "cache_write.input_tokens": {gemini: 100, failed: 0, embedding: 0},
        "reasoning.output_tokens": {gemini: 200, failed: 0, embedding: 0},
    }
    model = "gen_ai.request.model"
    assert collector.histograms(f"{prefix}.duration", model) == {("gemini-3-flash",): (1, 0.84), ("m",): (1, 0.05)}
    assert collector.histograms(f"{prefix}.time_to_first_chunk", model) == {("gemini-3-flash",): (1, 0.22)}
    assert collector.histograms("usagekit/gen_ai.client.operation.duration", model) == {
        ("text-embedding-3-small",): (1, 0.01)
    }
    assert "usagekit/gen_ai.client.token.usage" not in collector.metrics


def test_both_generations_of_names_count_each_duration_once(collector: Collector, providers: Providers) -> None:
    """What both have under one name, the duration of embeddings, is there once."""
    providers.backend(gen_ai="both").write([CALL, EMBEDDED], batch_id="1")

    duration = collector.histograms("usagekit/gen_ai.client.operation.duration", "gen_ai.request.model")
    assert duration == {("gemini-3-flash",): (1, 0.84), ("text-embedding-3-small",): (1, 0.01)}
    assert "usagekit/gen_ai.client.inference.duration" in collector.metrics


def test_own_counters_are_named_as_measures_and_weighted(collector: Collector, providers: Providers) -> None:
    """Sums of what `usage` sums, by kind and event type, and by nobody."""
    unpriced = UsageEvent(time=NOON, kind="llm", event="llm", status=200, cost_source="unpriced", weight=5)
    images = UsageEvent(time=NOON, event="image", quantity=2.5, weight=1_000_000)

    providers.backend().write([REQUEST, CALL, unpriced, images], batch_id="1")

    sums = {name.removeprefix("usagekit/"): collector.sums(name) for name in collector.metrics if "usagekit." in name}
    assert sums == {
        "usagekit.events": {(): 1_000_009},
        "usagekit.quantity": {(): 2_500_009},
        "usagekit.response_bytes": {(): 6144},
        "usagekit.input_tokens": {(): 1200},
        "usagekit.output_tokens": {(): 300},
        "usagekit.cache_read_tokens": {(): 1000},
        "usagekit.cache_write_tokens": {(): 100},
        "usagekit.reasoning_tokens": {(): 200},
        "usagekit.cost_usd": {(): pytest.approx(0.0012)},
        "usagekit.unpriced": {(): 5},
    }
    assert collector.sums("usagekit/usagekit.events", "usagekit.kind", "usagekit.event", "usagekit.status_class") == {
        ("request", "request", "2xx"): 3,
        ("llm", "summarise", "2xx"): 1,
        ("llm", "llm", "2xx"): 5,
        ("named", "image", "none"): 1_000_000,
    }
    assert collector.sums("usagekit/usagekit.events", "user.id", "usagekit.org.id") == {(None, None): 1_000_009}


def test_labels_are_opted_in_and_capped(collector: Collector, providers: Providers) -> None:
    """The first so many users are themselves, the others one; who is unknown has no attribute."""
    backend = providers.backend(labels={"user": 2, "plan": 10})
    events = [UsageEvent(time=NOON, event="tick", user=user, attributes={"plan": "free"}) for user in "abcab"]

    backend.write([*events, UsageEvent(time=NOON, event="tick")], batch_id="1")

    assert collector.sums("usagekit/usagekit.events", "user.id", "usagekit.plan") == {
        ("a", "free"): 2,
        ("b", "free"): 2,
        ("other", "free"): 1,
        (None, None): 1,
    }


def test_names_an_app_makes_up_are_capped_too(collector: Collector, providers: Providers) -> None:
    """However many event types, models and routes there are, their attributes have an end."""
    events = [
        event
        for n in range(1100)
        for event in (
            UsageEvent(time=NOON, kind="request", event=f"e{n}", status=200, latency_ms=1, route=f"GET /{n}"),
            UsageEvent(time=NOON, kind="llm", model=f"m{n}", provider=f"p{n}", status=200, latency_ms=1),
        )
    ]

    providers.backend(http="on", gen_ai="shipped").write(events, batch_id="1")

    assert len(collector.sums("usagekit/usagekit.events", "usagekit.event")) == 201
    assert len(collector.histograms("usagekit/http.server.request.duration")) == 1
    routes = collector.histograms("usagekit/http.server.request.duration", "http.route")
    assert (len(routes), routes[("other",)][0]) == (1001, 100)
    models = collector.histograms("usagekit/gen_ai.client.operation.duration", "gen_ai.request.model")
    assert (len(models), models[("other",)][0]) == (201, 900)
