"""A real Prometheus server scrapes the app's metrics, and answers in PromQL what the ledger answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, start_http_server

from tests.support.prometheus import EXECUTABLE, MISSING, scraping
from tests.support.stores import eventually
from usagekit import Recorder, usage
from usagekit.asgi import UsageMiddleware
from usagekit.backends.opentelemetry import OpenTelemetryBackend
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from pathlib import Path

SUMS = ("events", "quantity", "response_bytes", "input_tokens", "output_tokens", "cost_usd")


def app_of(recorder: Recorder) -> FastAPI:
    """Make an app whose handler also calls a model and meters something."""
    app = FastAPI(telemetry={"metrics": False})
    app.add_middleware(UsageMiddleware, recorder=recorder, identify=lambda request: request.headers.get("x-user-id"))

    @app.get("/items/{item}")
    def answer(item: int) -> int:
        recorder.record_tokens(
            model=f"m-{item % 3}", provider="acme", input_tokens=item, output_tokens=7, cost_usd="0.000123"
        )
        recorder.track("export", org=f"org-{item % 4}", quantity=item / 4, weight=1 + item % 2)
        return item

    return app


@pytest.mark.skipif(EXECUTABLE is None, reason=MISSING)
def test_promql_answers_equal_usage(path: Path, tmp_path: Path) -> None:
    """Sums by org and by model, requests by route and status, and quantiles within a bucket."""
    registry = CollectorRegistry()
    provider = MeterProvider([PrometheusMetricReader(registry=registry)], shutdown_on_exit=False)
    backend = OpenTelemetryBackend(meter_provider=provider, http="on", gen_ai="shipped", labels={"org": 10})
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        with Recorder(SQLiteBackend(path), backend) as recorder, TestClient(app_of(recorder)) as client:
            for item in range(60):
                assert client.get(f"/items/{item}", headers={"x-user-id": f"usr-{item % 5}"}).json() == item
            assert client.get("/nowhere").status_code == 404
            assert recorder.flush()
            by_org = usage(recorder, by="org", measures=SUMS)
            by_model = usage(recorder, by="model", measures=SUMS, where={"kind": "llm"})
            requests = usage(recorder, by=["route", "status"], measures="events", where={"kind": "request"})
            with scraping(server.server_port, tmp_path) as prometheus:
                total = by_org.totals["events"]
                assert eventually(lambda: prometheus.ask("sum(usagekit_events_total)") == {(): total}, 30)
                told = {
                    name: prometheus.ask(f"sum by (usagekit_org_id) (usagekit_{name}_total)", "usagekit_org_id")
                    for name in SUMS
                }
                tokens = prometheus.ask(
                    "sum by (gen_ai_request_model, gen_ai_token_type) (gen_ai_client_token_usage_sum)",
                    "gen_ai_request_model",
                    "gen_ai_token_type",
                )
                answered = prometheus.ask(
                    "sum by (http_request_method, http_route, http_response_status_code)"
                    " (http_server_request_duration_seconds_count)",
                    "http_request_method",
                    "http_route",
                    "http_response_status_code",
                )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

    for name in SUMS:
        expected = {(row["org"],): float(row[name]) for row in by_org.rows if row[name]}
        assert told[name] == pytest.approx(expected), name
    assert tokens == {
        (row["model"], kind): row[f"{kind}_tokens"] for row in by_model.rows for kind in ("input", "output")
    }
    assert answered == {("GET", "/items/{item}", "200"): 60, ("GET", "", "404"): 1}
    assert {(row["route"], row["status"]): row["events"] for row in requests.rows} == {
        ("GET /items/{item}", 200): 60,
        ("GET (unmatched)", 404): 1,
    }
