"""From an app through its ledger and the ingest Worker to what Analytics Engine is given, in Cloudflare's runtime."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from tests.support.analytics_engine import serving
from tests.support.asgi import Connection
from tests.support.faults import REFUSED, UNREACHABLE, FaultProxy, at_random, faulty
from tests.support.outage import endured, needs_proc
from tests.support.stores import eventually, stored_events
from tests.support.workerd import KEY, Point, Workerd, serving_worker
from usagekit import Recorder, UsageEvent, usage
from usagekit._store import delivery as deliveries
from usagekit.asgi import UsageMiddleware
from usagekit.backends.analytics_engine import sink as sinks
from usagekit.backends.analytics_engine.backend import AnalyticsEngineBackend
from usagekit.backends.analytics_engine.layout import Layout
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.signals import batch_delivered

if TYPE_CHECKING:
    from collections.abc import Iterable
    from email.message import Message
    from pathlib import Path

EVENTS_EACH = 4
SUMS = ("events", "succeeded", "users", "input_tokens", "output_tokens", "cost_usd", "unpriced", "quantity")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once, and give up on silence soon: how long to wait is tested elsewhere."""
    monkeypatch.setattr(deliveries, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(deliveries, "LONGEST_WAIT", 0.02)
    monkeypatch.setattr(sinks, "_ANSWER_SECONDS", 0.5)


def app_of(recorder: Recorder) -> FastAPI:
    """Make an app whose one route makes four events of a request."""
    app = FastAPI()
    app.add_middleware(UsageMiddleware, recorder=recorder, identify=lambda request: request.headers.get("x-user-id"))

    @app.post("/items/{item}")
    async def answer(item: int) -> int:
        recorder.record_tokens(
            model=f"model-{item % 3}", provider="acme", input_tokens=item, output_tokens=7, cost_usd="0.000123"
        )
        recorder.record_tokens(model="embed", provider="acme", input_tokens=3 * item)
        recorder.track("export", org=f"org-{item % 11}", quantity=item / 4, project=f"p{item % 5}")
        return item

    return app


async def _visit(app: FastAPI, requests: Iterable[int]) -> None:
    for number in requests:
        headers = [("x-user-id", f"usr-{number % 97}")]
        connection = Connection(f"/items/{number}", "POST", headers=headers)
        await app(connection.scope, connection.receive, connection.send)
        assert connection.sent[0]["status"] == 200


def expected_points(dataset: str, events: Iterable[UsageEvent]) -> list[Point]:
    """Give the points that these events are, as they come out of the binding."""
    layout = Layout.default(["project"])
    points = []
    for event in events:
        point = layout.point(event)
        blobs, doubles = [*point["blobs"], *[""] * 20][:20], [*point["doubles"], *[0.0] * 20][:20]
        points.append(Point(dataset, point["indexes"][0], tuple(blobs), tuple(doubles)))
    return points


class Mishaps:
    """Between sink and Worker: a bad network, and twice the Worker is killed.

    It is killed when a batch was just written, before its answer gets out: the worst moment that can be told from the
    outside. What came out of it until then is taken away first, as Analytics Engine would have it by then.
    """

    def __init__(self, worker: Workerd, events: int) -> None:
        self._luck = at_random()
        self._worker = worker
        self.proxy = FaultProxy(worker.port, self._choose, self._answered, self._asked)
        self.points: list[Point] = []
        self.sent: dict[str, set[bytes]] = {}
        self.replays = 0
        self._written = 0
        self.unexpected: list[tuple[int, object]] = []
        self._deaths = [events // 3, 2 * events // 3]
        self._absent = 0

    def _asked(self, headers: Message, body: bytes) -> None:
        self.sent.setdefault(headers["usagekit-batch"], set()).add(hashlib.sha256(body).digest())

    def _choose(self) -> str:
        if self._absent:
            self._absent -= 1
            if not self._absent:
                self._worker.start()
                self.proxy.port = self._worker.port
        return self._luck()

    def _answered(self, status: int, body: bytes) -> None:
        answer = json.loads(body)
        if status != 200 or answer["written"] != answer["points"]:
            self.unexpected.append((status, answer))  # an assertion would only end the proxy's thread
            return
        self.replays += answer["replay"]
        self._written += 0 if answer["replay"] else answer["points"]
        if self._deaths and self._written >= self._deaths[0]:
            del self._deaths[0]
            if not eventually(self._is_all_out):
                self.unexpected.append((status, answer))
            self._worker.kill()
            self._absent = 5

    def _is_all_out(self) -> bool:
        self.points += self._worker.take()
        return len(self.points) >= self._written

    def rest(self) -> list[Point]:
        """Give all points that came out of the Worker, at the end."""
        assert eventually(self._is_all_out)
        return self.points


class Delivered:
    """Counts what a recorder tells to be delivered; asking the ledger again and again would slow the senders down."""

    def __init__(self, events: int) -> None:
        self._left = events
        self._all = Event()

    def __call__(self, recorder: object, sink: str, count: int) -> None:
        self._left -= count
        if self._left <= 0:
            self._all.set()

    def wait(self, seconds: float) -> bool:
        """Wait until all are; False where `seconds` did not suffice."""
        return self._all.wait(seconds)


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param(5_000, marks=pytest.mark.timeout(300)),  # seconds, on a machine that does other things as well
        pytest.param(25_000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
def test_events_arrive_once_whatever_happens_on_the_way(tmp_path: Path, requests: int) -> None:
    """An app's events go through a bad network to a Worker that dies; each comes out of its binding, whole and once."""
    path, count = tmp_path / "usage.db", requests * EVENTS_EACH
    with serving_worker(tmp_path / "worker") as worker:
        mishaps = Mishaps(worker, count)
        delivered = Delivered(count)
        with faulty(mishaps.proxy) as proxy, batch_delivered.connected_to(delivered):
            backend = AnalyticsEngineBackend(ingest_url=proxy.url, ingest_key=KEY)
            with Recorder(SQLiteBackend(path), backend, dimensions=["project"]) as recorder:
                asyncio.run(_visit(app_of(recorder), range(requests)))
                assert recorder.flush(60.0)
                assert delivered.wait(count / 80), recorder.status()
                assert recorder.status()["sinks"] == {
                    "analytics-engine:usagekit": {"delivered": count, "lag": 0, "dead_letters": 0}
                }
                totals = usage(recorder).totals
            points = mishaps.rest()

    print("requests at the proxy:", proxy.counts | {"batches": len(mishaps.sent), "replays": mishaps.replays})
    events = stored_events(path)
    assert Counter(points) == Counter(expected_points("usagekit", events))
    assert (len(events), totals["events"]) == (count, count)
    assert _asked_back(tmp_path / "back.db", points) == {name: totals[name] for name in SUMS}
    assert mishaps.unexpected == []
    assert set(map(len, mishaps.sent.values())) == {1}, "a repeat is of a whole frozen batch"
    assert mishaps.replays >= 5
    assert proxy.counts[REFUSED] > len(mishaps.sent) / 4
    assert proxy.counts[UNREACHABLE] >= 2
    assert all(proxy.counts.values()), proxy.counts


@needs_proc
@pytest.mark.soak
def test_a_worker_that_is_down_costs_no_memory(tmp_path: Path) -> None:
    """A hundred thousand further events, with retries all the while, leave a process as large as it was."""
    assert endured(tmp_path / "usage.db", "worker", 100_000) == {"RetryAfter", "ReadError", "ReadTimeout"}


def _asked_back(path: Path, points: Iterable[Point]) -> dict[str, Any]:
    """Put what came out into a local engine, and ask it over HTTP as one asks Cloudflare."""
    layout = Layout.default(["project"])
    with Recorder(SQLiteBackend(path), dimensions=["project"]) as recorder:
        for point in points:
            assert recorder.record(_event_of(point, layout))
    with serving(path, {"usagekit": layout}) as server:
        engine = AnalyticsEngineBackend(account_id="account", api_token="secret", api_url=server.url, layout=layout)
        totals = usage(engine, measures=SUMS).totals
        engine.close()
    return totals


def _event_of(point: Point, layout: Layout) -> UsageEvent:
    texts = {name: value for name, value in zip(layout.blobs, point.blobs, strict=False) if name}
    numbers = {name: value for name, value in zip(layout.doubles, point.doubles, strict=False) if name}
    known = {name: numbers.pop(f"{name}_known") for name in ("latency", "first_token")}
    project, _, _ = texts.pop("project"), texts.pop("id"), numbers.pop("version")
    if texts["cost_source"] in {"", "unpriced"}:
        del numbers["cost_usd"]
    for name in [f"{name}_ms" for name, is_known in known.items() if not is_known]:
        del numbers[name]
    values: dict[str, Any] = texts | numbers | {"time": datetime.fromtimestamp(numbers["time"], UTC)}
    return UsageEvent(attributes={"project": project}, **values)
