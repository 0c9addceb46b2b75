"""What can be chosen, what cannot work, and that nothing is reported twice."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import metrics
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient as StarletteClient

from tests.support.meters import Meters
from tests.support.stores import eventually
from usagekit import Recorder, UsageEvent
from usagekit.asgi import UsageMiddleware
from usagekit.backends import backend_from_url
from usagekit.backends.opentelemetry import OpenTelemetryBackend
from usagekit.backends.opentelemetry.backend import _Emitter
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

REQUEST = UsageEvent(kind="request", status=200, latency_ms=1, route="GET /")
CALL = UsageEvent(kind="llm", status=200, latency_ms=1, input_tokens=5)
DURATION = "http.server.request.duration"


@pytest.fixture
def meters() -> Meters:
    """A provider in memory."""
    return Meters()


def visited(meters: Meters, path: Path, backend: OpenTelemetryBackend, *, reporting: bool = True) -> None:
    """Call a FastAPI app with telemetry of its own, three times, and wait for the backend."""
    app = FastAPI(telemetry={"meter_provider": meters.provider, "metrics": reporting})
    with Recorder(SQLiteBackend(path), backend) as recorder:
        app.add_middleware(UsageMiddleware, recorder=recorder)
        app.get("/")(lambda: "hello")
        with TestClient(app) as client:
            assert [client.get("/").json() for _ in range(3)] == ["hello"] * 3
        assert recorder.flush()
        assert eventually(lambda: recorder.status()["sinks"]["opentelemetry"]["delivered"] == 3)


def test_requests_that_fastapi_reports_are_not_reported_again(meters: Meters, path: Path) -> None:
    """FastAPI's own telemetry has the metric; ours has it only where it is told to."""
    visited(meters, path, OpenTelemetryBackend(meter_provider=meters.provider))

    assert meters.counts(DURATION) == {"fastapi": 3}
    assert "usagekit.events" in meters.names()


def test_requests_are_reported_where_fastapi_is_told_not_to(meters: Meters, path: Path) -> None:
    """With FastAPI's metrics off, ours can be switched on: again each request counts once."""
    visited(meters, path, OpenTelemetryBackend(meter_provider=meters.provider, http="on"), reporting=False)

    assert meters.counts(DURATION) == {"usagekit": 3}


def test_switched_on_beside_fastapi_both_report(meters: Meters, path: Path) -> None:
    """What the other two tests prevent does happen otherwise, under two scopes."""
    visited(meters, path, OpenTelemetryBackend(meter_provider=meters.provider, http="on"))

    assert meters.counts(DURATION) == {"fastapi": 3, "usagekit": 3}


def test_starlettes_middleware_reports_spans_and_no_metric(meters: Meters, path: Path) -> None:
    """Beside it requests are counted here, once."""
    with Recorder(SQLiteBackend(path), OpenTelemetryBackend(meter_provider=meters.provider, http="on")) as recorder:
        app = Starlette(
            routes=[Route("/", lambda _: PlainTextResponse("hello"))],
            middleware=[
                Middleware(OpenTelemetryMiddleware, meter_provider=meters.provider),
                Middleware(UsageMiddleware, recorder=recorder),
            ],
        )
        assert StarletteClient(app).get("/").text == "hello"
        assert recorder.flush()
        assert eventually(lambda: recorder.status()["sinks"]["opentelemetry"]["delivered"] == 1)

    assert meters.counts(DURATION) == {"usagekit": 1}


@pytest.mark.parametrize("module", ["fastapi.telemetry", "opentelemetry.instrumentation.asgi", None])
def test_http_metrics_stand_back_for_who_is_loaded(
    meters: Meters, module: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default they come only where nothing that reports them is loaded."""
    monkeypatch.delitem(sys.modules, "fastapi.telemetry", raising=False)
    if module:
        monkeypatch.setitem(sys.modules, module, ModuleType(module))

    OpenTelemetryBackend(meter_provider=meters.provider).write([REQUEST], batch_id="1")

    assert (DURATION in meters.names()) is (module is None)


@pytest.mark.parametrize("module", ["opentelemetry.instrumentation.openai", None])
def test_gen_ai_metrics_stand_back_for_who_is_loaded(
    meters: Meters, module: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default they are the shipped ones, where no model SDK is instrumented."""
    if module:
        monkeypatch.setitem(sys.modules, module, ModuleType(module))

    OpenTelemetryBackend(meter_provider=meters.provider).write([CALL], batch_id="1")

    shipped = {"gen_ai.client.token.usage", "gen_ai.client.operation.duration"}
    assert {name for name in meters.names() if name.startswith("gen_ai")} == (set() if module else shipped)


def test_all_but_our_own_can_be_switched_off(meters: Meters) -> None:
    """What remains is named usagekit and nothing else."""
    backend = OpenTelemetryBackend(meter_provider=meters.provider, http="off", gen_ai="off")

    backend.write([REQUEST, CALL], batch_id="1")

    names = meters.names()
    assert names
    assert all(name.startswith("usagekit.") for name in names)


def test_providers_are_looked_for_when_the_first_batch_comes(meters: Meters, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend may be made before the app sets up OpenTelemetry."""
    backend = OpenTelemetryBackend()
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: meters.provider)

    backend.write([CALL], batch_id="1")

    assert "usagekit.events" in meters.names()


def test_a_url_says_what_the_class_can(meters: Meters) -> None:
    """The options of the class, but for the objects."""
    backend = backend_from_url("otel://?http=off&gen_ai=both&logs=1&label=org:100&label=plan:20&url_scheme=https")

    assert isinstance(backend, OpenTelemetryBackend)
    assert repr(backend) == "OpenTelemetryBackend(http='off', gen_ai='both', logs=True)"
    assert backend._labels == {"org": 100, "plan": 20}
    assert repr(backend_from_url("otel://")) == "OpenTelemetryBackend(http='auto', gen_ai='auto', logs=False)"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("otel://collector:4318", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("otel://?metrics=1", "cannot use 'otel://?metrics=1'; use otel://, with ?"),
        ("otel://?http=yes", "http='yes' is unknown; use one of auto, on, off"),
        ("otel://?gen_ai=1.41", "gen_ai='1.41' is unknown; use one of auto, shipped, next, both, off"),
        ("otel://?label=org", "label='org' names no limit; use label=org:100"),
        ("otel://?label=org:0", "give the most values, 1 or more"),
    ],
)
def test_what_cannot_work_is_said_at_once(url: str, message: str) -> None:
    """A wrong URL says what was given and what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        backend_from_url(url)

    assert message in str(caught.value)


def test_a_label_must_be_a_dimension(path: Path) -> None:
    """A recorder refuses a label that it does not declare."""
    backend = OpenTelemetryBackend(labels={"plan": 5})
    with pytest.raises(ConfigurationError, match=r"label 'plan' is unknown.*dimensions=\['plan'\]"):
        Recorder(SQLiteBackend(path), backend)

    Recorder(SQLiteBackend(path), backend, dimensions=["plan"]).close()


def test_closing_leaves_the_providers_to_the_app(meters: Meters) -> None:
    """What is recorded after that still counts."""
    backend = OpenTelemetryBackend(meter_provider=meters.provider)

    backend.close()
    backend.close()
    backend.write([CALL], batch_id="1")

    assert "usagekit.events" in meters.names()


def test_metrics_that_held_a_batch_do_not_get_it_again() -> None:
    """A group of instruments fails in the middle of a batch; the retry goes on there."""
    held: list[str] = []

    def first(events: Sequence[UsageEvent]) -> None:
        held.append("first")

    def second(events: Sequence[UsageEvent]) -> None:
        held.append("second")
        if held.count("second") == 1:
            raise OSError("no")

    emitter = _Emitter([first, second], None, None)

    with pytest.raises(OSError, match="no"):
        emitter.emit([], "batch")
    emitter.emit([], "batch")
    emitter.emit([], "next")

    assert held == ["first", "second", "second", "first", "second"]
