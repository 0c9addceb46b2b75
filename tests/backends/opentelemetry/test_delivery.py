"""From an app through its ledger and the SDK to a collector: nothing is lost, and nothing half repeated."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime
from itertools import cycle
from threading import Event
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.backends.opentelemetry.conftest import Providers, providing
from tests.support.faults import LOST, PASSED, REFUSED, RESET, STALLED, FaultProxy, faulty
from tests.support.outage import endured, needs_proc, record
from tests.support.stores import eventually, locked, stored_events
from usagekit import Recorder, UsageEvent, usage
from usagekit._store import schema
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.opentelemetry import Acknowledged, NotAcknowledged, OpenTelemetryBackend
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.otlp import Collector

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def caught_up(recorder: Recorder, sink: str = "opentelemetry") -> bool:
    """Tell whether the sink has everything that was recorded."""
    status = recorder.status()
    return bool(status["durable"] >= status["accepted"] and status["sinks"][sink]["lag"] == 0)


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_through_a_bad_network_nothing_is_lost_and_batches_repeat_whole(
    path: Path, collector: Collector, count: int
) -> None:
    """It refuses, stalls, resets and swallows answers: each record arrives, metrics equal the ledger's answers."""
    fates = [PASSED] * 40 + [REFUSED, LOST, RESET] * 3 + [STALLED]
    random.Random(11).shuffle(fates)
    port = int(collector.url.rpartition(":")[2])
    with faulty(FaultProxy(port, cycle(fates).__next__)) as proxy, providing(proxy.url, timeout=0.2) as providers:
        with Recorder(SQLiteBackend(path), providers.backend(logs=True, labels={"org": 20})) as recorder:
            record(recorder, range(count))
            assert recorder.flush(60)
            assert eventually(lambda: caught_up(recorder), 60 + count / 200)
            report = usage(recorder, by="org", measures=["events", "quantity", "input_tokens", "cost_usd"])
        proxy.choose = lambda: PASSED
        assert providers.reader.force_flush()

    print("requests at the proxy:", proxy.counts | {"batches": len(collector.batches)})
    assert all(proxy.counts[fate] for fate in (PASSED, REFUSED, LOST, RESET, STALLED)), proxy.counts
    times = Counter(event_id for batch in collector.batches for event_id in batch)
    assert len(times) == count
    frozen = {tuple(batch) for batch in collector.batches}
    assert sum(map(len, frozen)) == count, "a repeat is of a whole frozen batch"
    sums = {
        name: collector.sums(f"usagekit/usagekit.{name}", "usagekit.org.id")
        for name in ("events", "quantity", "input_tokens", "cost_usd")
    }
    for row in report.rows:
        key = (row["org"] or None,)
        assert sums["events"][key] == row["events"]
        assert sums["quantity"][key] == row["quantity"]
        assert sums["input_tokens"].get(key, 0) == row["input_tokens"]
        assert sums["cost_usd"].get(key, 0) == pytest.approx(float(row["cost_usd"] or 0))
    assert set(sums["events"]) == {(row["org"] or None,) for row in report.rows}


@needs_proc
@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_a_sink_that_is_down_costs_no_memory(path: Path, count: int) -> None:
    """Further events, with retries all the while, leave a process as large as it was."""
    assert endured(path, "opentelemetry", count) == {"NotAcknowledged"}


def test_a_sink_that_fails_leaves_another_alone(path: Path) -> None:
    """Two remote sinks beside a ledger: one never works, the other has everything, and the ledger answers."""
    reader = InMemoryMetricReader()
    working = OpenTelemetryBackend(meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    working.name = "working"
    with providing("http://127.0.0.1:9", timeout=0.1) as providers:
        backends = (SQLiteBackend(path), providers.backend(logs=True), working)
        with Recorder(*backends) as recorder:
            record(recorder, range(2000))
            assert recorder.flush(30)
            assert eventually(lambda: caught_up(recorder, "working"), 30)
            assert eventually(lambda: recorder.status()["errors"].get("sink opentelemetry"), 30)
            status = recorder.status()
            answered = usage(recorder, measures="events").totals

    assert status["sinks"] == {
        "opentelemetry": {"delivered": 0, "lag": 2000, "dead_letters": 0},
        "working": {"delivered": 2000, "lag": 0, "dead_letters": 0},
    }
    assert (status["accepted"], status["rejected"], answered) == (2000, {}, {"events": 2000})
    data = reader.get_metrics_data()
    assert data is not None
    points = [
        point.value  # type: ignore[union-attr]
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "usagekit.events"
        for point in metric.data.data_points
    ]
    assert sum(points) == 2000


def test_a_ledger_that_is_kept_busy_leaves_the_sink_alone(
    path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program writes to it when a batch has just gone out: recording goes on, and nothing counts twice."""
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.05)
    arrived, held = Event(), Event()

    def choose() -> str:
        arrived.set()
        return PASSED if held.wait(10) else REFUSED

    with (
        faulty(FaultProxy(int(collector.url.rpartition(":")[2]), choose)) as proxy,
        providing(proxy.url) as providers,
        Recorder(SQLiteBackend(path), providers.backend(logs=True)) as recorder,
    ):
        record(recorder, range(400))
        assert recorder.flush(30)
        assert arrived.wait(10)
        with locked(path):
            held.set()
            assert eventually(lambda: collector.batches)  # and it cannot be noted yet
            record(recorder, range(400, 1000))
        assert recorder.flush(30)
        assert eventually(lambda: caught_up(recorder), 30)
        status = recorder.status()
        answered = usage(recorder, measures="events").totals

    assert (status["accepted"], status["rejected"], answered) == (1000, {}, {"events": 1000})
    assert status["sinks"] == {"opentelemetry": {"delivered": 1000, "lag": 0, "dead_letters": 0}}
    assert sum(collector.sums("usagekit/usagekit.events").values()) == 1000
    assert sum(map(len, collector.batches)) == 1000


def test_a_retry_counts_once_in_metrics_and_again_in_records(collector: Collector) -> None:
    """The batch whose export failed is in memory already; its records are not, and come again under the same ids."""
    events = [UsageEvent(id="j-1", time=NOON, event="tick"), UsageEvent(id="j-2", time=NOON, event="tick")]
    port = int(collector.url.rpartition(":")[2])
    with faulty(FaultProxy(port, lambda: LOST)) as proxy, providing(proxy.url, timeout=0.3) as providers:
        backend = providers.backend(logs=True)

        with pytest.raises(NotAcknowledged, match="an exporter failed"):
            backend.write(events, batch_id="one")
        proxy.choose = lambda: PASSED
        backend.write(events, batch_id="one")
        backend.write(events[:1], batch_id="two")

    assert collector.sums("usagekit/usagekit.events") == {(): 3}
    assert set(map(tuple, collector.batches)) == {("j-1", "j-2"), ("j-1",)}
    assert collector.batches.count(["j-1", "j-2"]) >= 2


def test_records_say_who_and_when(collector: Collector, providers: Providers) -> None:
    """The time is the event's own, money is exact, the id tells repeats apart, and what is unknown is absent."""
    late = UsageEvent(
        id="j-7",
        time=datetime(2026, 11, 19, 23, 59, 59, 123456, tzinfo=UTC),
        kind="llm",
        event="summarise",
        user="ann",
        org="acme",
        status=200,
        provider="azure",
        model="gpt-5-mini",
        route="POST /summaries",
        input_tokens=12,
        cost_usd="0.000000001",  # type: ignore[arg-type]
        attributes={"plan": "free"},
    )

    providers.backend(logs=True).write([late], batch_id="1")

    ((time, values),) = collector.records
    assert time == 1_795_132_799_123_456_000
    assert values == {
        "usagekit.event.id": "j-7",
        "usagekit.kind": "llm",
        "usagekit.event": "summarise",
        "usagekit.weight": 1,
        "usagekit.quantity": 1.0,
        "usagekit.cost_usd": "0.000000001",
        "usagekit.cost_source": "reported",
        "usagekit.dimension.plan": "free",
        "user.id": "ann",
        "usagekit.org.id": "acme",
        "http.response.status_code": 200,
        "http.request.method": "POST",
        "http.route": "/summaries",
        "gen_ai.provider.name": "azure.ai.openai",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.usage.input_tokens": 12,
        "body": "summarise",
    }


def test_events_wait_until_a_provider_is_set(path: Path) -> None:
    """The API's stand-in throws everything away, so nothing is handed to it."""
    with Recorder(SQLiteBackend(path), OpenTelemetryBackend(), MemoryBackend()) as recorder:
        recorder.track("export")
        assert eventually(lambda: recorder.status()["errors"].get("sink opentelemetry"))
        status = recorder.status()

    assert status["sinks"]["opentelemetry"]["lag"] == len(stored_events(path)) == 1


def test_a_reader_with_another_exporter_is_told(providers: Providers) -> None:
    """An exporter that its reader does not use never says anything: the message says what to give."""
    backend = OpenTelemetryBackend(
        meter_provider=providers.meter_provider, flush={providers.reader: Acknowledged(object())}
    )

    with pytest.raises(NotAcknowledged, match="give flush= each reader with the exporter"):
        backend.write([UsageEvent(event="tick")], batch_id="1")
