"""One middleware in a process of its own, around every kind of app: `python -m benchmarks.peer NAME PEOPLE DIRECTORY`.

Nothing else that patches is loaded here, as with somebody who chose it. `peers` says when to time which app and when to
end; at the end the middleware must have counted every request of the apps' route.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.request import ProxyHandler, build_opener

from benchmarks.apps import (
    WARM_UP,
    AsgiNoop,
    WsgiNoop,
    asgi_app,
    asgi_slice,
    environs_of,
    receive,
    scopes_of,
    user_and_org_of,
    wsgi_app,
    wsgi_slice,
)
from benchmarks.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measure import Timing

SINK = "BENCHMARKS_SINK"  # the URL that takes what is exported, and tells how many requests it was told of
ASGI, WSGI = ("raw ASGI", "Starlette"), ("raw WSGI", "Flask")

_TEMPLATES = {"/items/{item_id}", "/items/<item_id>"}
_ITEM = {"name": "an item", "price": 9.5}
_SLICE_US = 20_000
_LEAST = 100  # requests in a slice


@dataclass(frozen=True, slots=True)
class Subject:
    """What is timed."""

    apps: dict[str, Any]
    """By kind; without those it has no middleware for."""
    counted: Callable[[], int] | None = None
    """How many requests it has counted, all kinds together; None: counting is not what it is for."""
    clean: Callable[[], object] = int
    """Done after each slice, untimed."""


class _Slices:
    """Requests of one app, about as long as those of any other: load on the machine hits all alike."""

    def __init__(self, kind: str, app: Any, people: int) -> None:
        self.served = 0
        self._kind = kind
        self._app = app
        self._loop = asyncio.new_event_loop()
        who = Traffic().who(people)
        self._requests = scopes_of(who) if kind in ASGI else environs_of(who)
        if kind == "raw ASGI":
            # Where prometheus-fastapi-instrumentator, made for Starlette's apps, looks for templates.
            routed = _starlette()
            for scope in self._requests:
                scope["app"] = routed
        one = self._timed(self._requests[:_LEAST]).wall_us
        self._requests = self._requests[: max(_LEAST, int(_SLICE_US / one))]

    def __call__(self) -> Timing:
        gc.collect()
        return self._timed(self._requests)

    def _timed(self, requests: list[dict[str, Any]]) -> Timing:
        self.served += WARM_UP + len(requests)
        if self._kind in ASGI:
            return asgi_slice(self._loop, self._app, requests)
        return wsgi_slice(self._app, requests)


def main() -> None:
    """Do what standard input says."""
    name, people, directory = sys.argv[1:]
    subject = SUBJECTS[name](directory)
    slices = {kind: _Slices(kind, app, int(people)) for kind, app in subject.apps.items()}
    subject.clean()
    gc.collect()
    gc.freeze()
    print(",".join(slices), flush=True)
    for line in sys.stdin:
        if line == "end\n":
            break
        timing = slices[line.removesuffix("\n")]()
        subject.clean()
        print(timing.wall_us, timing.cpu_us, flush=True)
    served = sum(each.served for each in slices.values())
    print(served, served if subject.counted is None else subject.counted(), flush=True)


# Apps


def _starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def item(request: Any) -> JSONResponse:
        return JSONResponse({"id": request.path_params["item_id"], **_ITEM})

    return Starlette(routes=[Route("/items/{item_id}", item)])


def _flask() -> Any:
    from flask import Flask

    app = Flask("benchmarks")

    @app.get("/items/<item_id>")
    def item(item_id: str) -> dict[str, object]:
        return {"id": item_id, **_ITEM}

    return app


def _around_asgi(middleware: Callable[[Any], Any]) -> dict[str, Any]:
    app = _starlette()
    app.add_middleware(middleware)
    return {"raw ASGI": middleware(asgi_app), "Starlette": app}


def _around_wsgi(middleware: Callable[[Any], Any]) -> dict[str, Any]:
    app = _flask()
    app.wsgi_app = middleware(app.wsgi_app)
    return {"raw WSGI": middleware(wsgi_app), "Flask": app}


# Middlewares, each put in as its documentation says


def _noop(_directory: str) -> Subject:
    return Subject(_around_asgi(AsgiNoop) | _around_wsgi(WsgiNoop))


def _usagekit(directory: str) -> Subject:
    import usagekit.flask
    from usagekit import Recorder, usage
    from usagekit.asgi import UsageMiddleware as AsgiUsage
    from usagekit.backends.sqlite import SQLiteBackend
    from usagekit.wsgi import UsageMiddleware as WsgiUsage

    recorder = Recorder(SQLiteBackend(f"{directory}/{os.getpid()}.db"), identify=user_and_org_of)
    flask = _flask()
    usagekit.flask.init_app(flask, recorder)

    def counted() -> int:
        assert recorder.flush(60)
        rows = usage(recorder, by=["route", "user", "org"]).rows
        return sum(
            row["events"]
            for row in rows
            if row["route"].removeprefix("GET ") in _TEMPLATES and row["user"] and row["org"]
        )

    apps = _around_asgi(partial(AsgiUsage, recorder=recorder))
    apps |= {"raw WSGI": WsgiUsage(wsgi_app, recorder=recorder), "Flask": flask}
    return Subject(apps, counted, partial(recorder.flush, 60.0))


def _correlation_id(_directory: str) -> Subject:
    from asgi_correlation_id import CorrelationIdMiddleware

    async def names_of_headers(app: Any) -> set[bytes]:
        names: set[bytes] = set()

        async def send(message: dict[str, Any]) -> None:
            names.update(name.lower() for name, _ in message.get("headers", ()))

        await app(scopes_of([("user", "org")])[0], receive, send)
        return names

    apps = _around_asgi(CorrelationIdMiddleware)
    for app in apps.values():
        assert b"x-request-id" in asyncio.run(names_of_headers(app))
    return Subject(apps)


def _prometheus(_directory: str) -> Subject:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_fastapi_instrumentator import Instrumentator
    from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware

    other = CollectorRegistry()  # one registry takes one app's metrics
    app = _starlette()
    Instrumentator().instrument(app).expose(app)
    labels = {"handler": "/items/{item_id}", "method": "GET", "status": "2xx"}
    return Subject(
        {"raw ASGI": PrometheusInstrumentatorMiddleware(asgi_app, registry=other), "Starlette": app},
        lambda: sum(int(each.get_sample_value("http_requests_total", labels) or 0) for each in (REGISTRY, other)),
    )


def _opentelemetry(_directory: str) -> Subject:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as AsgiTelemetry
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as WsgiTelemetry
    from opentelemetry.metrics import set_meter_provider
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader

    reader = InMemoryMetricReader()
    set_meter_provider(MeterProvider(metric_readers=[reader]))

    def counted() -> int:
        data = reader.get_metrics_data()
        assert data is not None
        points = [
            (scope.scope.name, point)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "http.server.duration" and isinstance(metric.data, Histogram)
            for point in metric.data.data_points
        ]
        # Under WSGI it knows no templates.
        return sum(
            point.count
            for scope, point in points
            if scope.endswith("wsgi") or (point.attributes or {}).get("http.target") in _TEMPLATES
        )

    return Subject(_around_asgi(AsgiTelemetry) | _around_wsgi(WsgiTelemetry), counted)


def _apitally(_directory: str) -> Subject:
    os.environ["APITALLY_OTLP_ENDPOINT"] = os.environ[SINK]
    import apitally
    from apitally.shared import activation

    apps = {"Starlette": _starlette(), "Flask": _flask()}
    for app in apps.values():
        apitally.init(app, write_token="apt_" + "0" * 24, env="dev")

    def counted() -> int:
        activation.shutdown()
        with build_opener(ProxyHandler({})).open(os.environ[SINK], timeout=30) as answer:
            return int(answer.read())

    return Subject(apps, counted)


def _sentry(_directory: str) -> Subject:
    import sentry_sdk
    from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
    from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
    from sentry_sdk.transport import Transport

    class Nowhere(Transport):  # type: ignore[misc]  # not installed where types are checked
        transactions: ClassVar[Counter[str]] = Counter()

        def capture_envelope(self, envelope: Any) -> None:
            event = envelope.get_transaction_event()
            if event is not None:
                self.transactions[event["transaction"]] += 1

    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", traces_sample_rate=1.0, transport=Nowhere)
    apps = {
        "raw ASGI": SentryAsgiMiddleware(asgi_app),
        "Starlette": _starlette(),  # these two it patches by itself
        "raw WSGI": SentryWsgiMiddleware(wsgi_app),
        "Flask": _flask(),
    }
    return Subject(apps, Nowhere.transactions.total)


SUBJECTS: dict[str, Callable[[str], Subject]] = {
    "noop": _noop,
    "noop2": _noop,
    "usagekit": _usagekit,
    "asgi-correlation-id": _correlation_id,
    "prometheus-fastapi-instrumentator": _prometheus,
    "OpenTelemetry, metrics": _opentelemetry,
    "apitally": _apitally,
    "sentry, traces": _sentry,
}

if __name__ == "__main__":
    main()
