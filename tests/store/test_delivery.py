"""From the ledger to sinks: each event at least once, each batch always the same."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from contextlib import ExitStack, closing
from itertools import pairwise
from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import pytest

from tests.support.processes import running, said_by
from tests.support.stores import eventually, locked, query, stored_events
from usagekit import Recorder, UsageEvent
from usagekit._store import delivery as deliveries
from usagekit._store import engine as engines
from usagekit._store import schema
from usagekit._store.delivery import Backoff, Delivery
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import ConfigurationError, Rejected, RetryAfter
from usagekit.query import usage
from usagekit.signals import batch_delivered, delivery_failed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


if TYPE_CHECKING:
    Fault = Callable[["Remote", Sequence[UsageEvent]], None]


class Remote:
    """A sink that keeps what it is given, and fails as it is told; `fault` may raise before or after keeping."""

    max_batch = 50

    def __init__(self, name: str = "remote", fault: Fault | None = None) -> None:
        self.name = name
        self.fault = fault
        self.calls: list[tuple[str, tuple[UsageEvent, ...]]] = []
        self.taken: list[UsageEvent] = []
        self.closed = 0
        self.entered = Lock()

    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        assert self.entered.acquire(blocking=False), "called by two at once"
        try:
            self.calls.append((batch_id, tuple(events)))
            if self.fault is not None:
                self.fault(self, events)
            self.taken += events
        finally:
            self.entered.release()

    def close(self) -> None:
        self.closed += 1

    @property
    def batches(self) -> dict[str, set[tuple[UsageEvent, ...]]]:
        """What came under each id."""
        batches: dict[str, set[tuple[UsageEvent, ...]]] = {}
        for batch_id, events in self.calls:
            batches.setdefault(batch_id, set()).add(events)
        return batches

    def numbers(self) -> list[int]:
        """The numbers of the events it took, in their order."""
        return [event.response_bytes for event in self.taken]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once: how long to wait is a matter of `Backoff`, which has its own test."""
    monkeypatch.setattr(deliveries, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(deliveries, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(engines, "DELIVER_SECONDS", 0.01)


def filled(path: Path, count: int) -> None:
    """Make a ledger of events with numbers."""
    with Recorder(SQLiteBackend(path)) as recorder:
        for n in range(count):
            recorder.track(f"event {n % 3}", user=f"user {n % 5}", response_bytes=n)
        assert recorder.flush()


def settled(path: Path, sink: str, count: int) -> Callable[[], bool]:
    """Give what tells whether a sink has come past that many events."""
    return lambda: query(path, "SELECT 1 FROM sinks WHERE name=? AND delivered_seq >= ?", sink, count) != []


def test_a_sink_that_fails_in_every_way_gets_every_event(path: Path) -> None:
    """It raises, asks for time, loses acknowledgements and rejects poison; every retry is the same batch."""
    chance = random.Random(7)
    poison = {3, 77, 78, 79, 150, 299}

    def fault(sink: Remote, events: Sequence[UsageEvent]) -> None:
        luck = chance.random()
        if luck < 0.06:
            raise ConnectionError("no route")
        if luck < 0.09:
            raise RetryAfter(0.001)
        if any(event.response_bytes in poison for event in events):
            raise Rejected("poison")
        if luck < 0.15:
            sink.taken += events
            raise TimeoutError("the acknowledgement was lost")

    sink = Remote(fault=fault)
    with Recorder(SQLiteBackend(path), sink) as recorder:
        told = [recorder.track("tick", user="ann", response_bytes=n) for n in range(300)]
        assert recorder.flush()
        assert eventually(settled(path, "remote", 300), 60.0)
        status = recorder.status()

    assert told == [True] * 300
    assert set(sink.numbers()) == set(range(300)) - poison
    assert {batch_id: len(versions) for batch_id, versions in sink.batches.items()} == dict.fromkeys(sink.batches, 1)
    assert status["sinks"] == {"remote": {"delivered": 294, "lag": 0, "dead_letters": 6}}
    dead = query(path, "SELECT sink, event_id, event, reason FROM dead_letters")
    stored = {event.response_bytes: event for event in stored_events(path)}
    assert Counter((sink_name, event_id, reason) for sink_name, event_id, _, reason in dead) == Counter(
        ("remote", stored[n].id, "poison") for n in poison
    )
    assert {json.loads(event)["response_bytes"] for _, _, event, _ in dead} == poison
    assert sink.closed == 1
    assert len(stored) == 300


@pytest.mark.parametrize("durability", ["journal", "memory"])
def test_a_sink_that_fails_amid_the_search_for_poison_gets_nothing_twice(
    path: Path, durability: Literal["journal", "memory"]
) -> None:
    """Each half is a batch of its own: what was acknowledged does not come again, whatever happens to its sibling."""
    chance = random.Random(3)
    poison = {0, 21, 22, 49}

    def fault(sink: Remote, events: Sequence[UsageEvent]) -> None:
        if chance.random() < 0.5:
            raise ConnectionError("no route")
        if any(event.response_bytes in poison for event in events):
            raise Rejected("poison")

    sink = Remote(fault=fault)
    options: dict[str, Any] = {"path": path} if durability == "journal" else {"durability": "memory"}
    with Recorder(sink, **options) as recorder:
        for n in range(50):
            recorder.track("tick", response_bytes=n)
        assert eventually(lambda: recorder.status()["sinks"]["remote"]["dead_letters"] == 4)
        assert eventually(lambda: recorder.status()["sinks"]["remote"]["lag"] == 0)

    assert sink.numbers() == [n for n in range(50) if n not in poison]
    assert {len(versions) for versions in sink.batches.values()} == {1}


def test_the_next_process_goes_on_amid_the_search_for_poison(path: Path) -> None:
    """Which halves are left is in the ledger, not in the process that made them."""
    filled(path, 48)
    sink = Remote(fault=_refuse_7)

    steps = [Delivery(str(path), "remote", sink).step() for _ in range(8)]

    assert steps == [6, 1, 1, 1, 3, 12, 24, 0]
    assert sink.numbers() == [n for n in range(48) if n != 7]
    assert query(path, "SELECT delivered_seq, delivered, batch_id, batch_parts FROM sinks") == [(48, 47, None, None)]


def _refuse_7(sink: Remote, events: Sequence[UsageEvent]) -> None:
    if any(event.response_bytes == 7 for event in events):
        raise Rejected("poison")


def test_events_arrive_as_they_are_in_the_ledger(path: Path) -> None:
    """Whole, with their ids, in import order."""
    filled(path, 120)
    sink = Remote()

    delivery = Delivery(str(path), "remote", sink)

    assert [delivery.step() for _ in range(4)] == [50, 50, 20, 0]
    assert sink.taken == stored_events(path)


def test_a_batch_that_was_sent_and_not_acknowledged_comes_again_the_same(path: Path) -> None:
    """Even when the next process has a sink with other limits, and more events are there."""
    filled(path, 30)

    def lost(sink: Remote, events: Sequence[UsageEvent]) -> None:
        raise ConnectionError

    first, second = Remote(fault=lost), Remote()
    with pytest.raises(ConnectionError):
        Delivery(str(path), "remote", first).step()
    filled(path, 40)
    second.max_batch = 7
    delivery = Delivery(str(path), "remote", second)
    while delivery.step():
        pass

    assert second.calls[0] == first.calls[0]
    assert len(first.calls[0][1]) == 30
    assert second.taken == stored_events(path)


def test_a_process_killed_before_the_acknowledgement_sends_the_same_batch_again(tmp_path: Path) -> None:
    """What it had sent is in a file; the next process sends just that."""
    path, sent = tmp_path / "usage.db", tmp_path / "sent"
    with running("deliver.py", path, sent, "hang") as process:
        assert eventually(lambda: sent.exists() and sent.read_text().endswith("\n"))
        process.kill()
        process.wait()
    first = json.loads(sent.read_text())

    said_by("deliver.py", path, sent, "end")

    again, *others = [json.loads(line) for line in sent.read_text().splitlines()[1:]]
    assert again == first
    assert sum(len(batch["events"]) for batch in (again, *others)) == len(stored_events(path)) == 20


def test_one_sink_that_is_down_leaves_the_other_alone(path: Path) -> None:
    """Each has its own cursor; what failed is counted and told, and comes when it is up again."""
    up = Event()
    failures: list[str] = []

    def down(sink: Remote, events: Sequence[UsageEvent]) -> None:
        if not up.is_set():
            raise ConnectionError("down")

    def note(recorder: object, sink: str, **extra: object) -> None:
        failures.append(sink)

    bad, good = Remote("bad", down), Remote("good")
    with delivery_failed.connected_to(note), Recorder(SQLiteBackend(path), bad, good) as recorder:
        for n in range(120):
            recorder.track("tick", response_bytes=n)
        assert eventually(settled(path, "good", 120))
        assert eventually(lambda: bool(failures))
        status = recorder.status()
        assert status["sinks"]["good"] == {"delivered": 120, "lag": 0, "dead_letters": 0}
        assert status["sinks"]["bad"] == {"delivered": 0, "lag": 120, "dead_letters": 0}
        assert good.numbers() == list(range(120))

        up.set()

        assert eventually(settled(path, "bad", 120))
        errors = recorder.status()["errors"]
    assert bad.numbers() == list(range(120))
    assert set(failures) == {"bad"}
    assert errors == {"sink bad": len(failures)}
    assert bad.batches.keys().isdisjoint(good.batches.keys())


def test_what_was_delivered_is_told(path: Path) -> None:
    """A signal for each batch, with the sink's name and how many events were settled."""
    told: list[tuple[str, int]] = []

    def note(recorder: object, sink: str, count: int, **extra: object) -> None:
        told.append((sink, count))

    with batch_delivered.connected_to(note), Recorder(SQLiteBackend(path), Remote()) as recorder:
        recorder.track("tick")
        assert eventually(lambda: told)

    assert told == [("remote", 1)]


def test_a_spool_keeps_only_what_some_sink_still_needs(path: Path) -> None:
    """With remote sinks alone the ledger is no archive."""
    up = Event()

    def down(sink: Remote, events: Sequence[UsageEvent]) -> None:
        if not up.is_set():
            raise ConnectionError("down")

    bad, good = Remote("bad", down), Remote("good")
    with Recorder(bad, good, path=path) as recorder:
        for n in range(700):
            recorder.track("tick", response_bytes=n)
        assert eventually(settled(path, "good", 700))
        assert query(path, "SELECT count(*) FROM events") == [(700,)]

        up.set()

        assert eventually(settled(path, "bad", 700))
        assert query(path, "SELECT count(*) FROM events") == [(0,)]
        for table in ("blocks", "runs"):
            assert query(path, f"SELECT count(*) <= 1 FROM {table}") == [(1,)]
        for n in range(700, 800):
            recorder.track("tick", response_bytes=n)
        assert eventually(settled(path, "bad", 800))
        assert eventually(settled(path, "good", 800))
        assert recorder.status()["durable"] == 800
    assert good.numbers() == bad.numbers() == list(range(800))


def test_remote_sinks_need_a_place_to_wait() -> None:
    """Nothing is lost silently while they are down."""
    with pytest.raises(ConfigurationError, match="remote is remote, so events must wait somewhere"):
        Recorder(Remote())


def test_one_process_at_a_time_sends(tmp_path: Path) -> None:
    """Six processes that record and deliver write into one file; no two of their batches overlap in time."""
    path, sent = tmp_path / "usage.db", tmp_path / "sent"

    output = said_by("senders.py", path, sent, 6, 200)

    batches = [json.loads(line) for line in sent.read_text().splitlines()]
    spans = sorted((batch["began"], batch["ended"]) for batch in batches)
    assert all(ended <= began for (_, ended), (began, _) in pairwise(spans))
    numbers = [number for batch in batches for number in batch["numbers"]]
    assert Counter(numbers) == Counter(map(int, output.split()))
    assert len(numbers) == 1200


@pytest.mark.parametrize("words", ["bad \ud800 text\0", "x" * 100_000])
def test_a_sink_may_say_anything_of_what_it_rejects(path: Path, words: str) -> None:
    """Its words are kept as far as a ledger can hold them, and the next event goes on."""
    filled(path, 2)

    def fault(_: Remote, events: Sequence[UsageEvent]) -> None:
        if events[0].response_bytes == 0:
            raise Rejected(words)

    sink = Remote(fault=fault)
    delivery = Delivery(str(path), "remote", sink)

    while delivery.step():
        pass

    assert sink.numbers() == [1]
    ((reason,),) = query(path, "SELECT reason FROM dead_letters")
    assert reason[:3] == words[:3]
    assert len(reason) <= 4096


def test_what_a_sink_took_is_not_sent_again_as_the_ledger_was_busy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step fails, and the next one notes what was delivered."""
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.01)
    filled(path, 60)
    sink = Remote()
    delivery = Delivery(str(path), "remote", sink)
    with ExitStack() as busy:

        def fault(_: Remote, __: Sequence[UsageEvent]) -> None:
            busy.enter_context(locked(path))

        sink.fault = fault
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            delivery.step()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            delivery.step()
    sink.fault = None

    assert [delivery.step() for _ in range(3)] == [50, 10, 0]

    assert sink.numbers() == list(range(60))
    assert query(path, "SELECT delivered FROM sinks") == [(60,)]


def test_a_sink_whose_own_database_is_locked_has_failed(path: Path) -> None:
    """It is no business of the ledger's: it waits longer each time, and is told of."""
    failures: list[BaseException] = []
    other = path.with_name("other.db")

    def note(_: object, error: BaseException, **__: object) -> None:
        failures.append(error)

    def fault(_: Remote, __: Sequence[UsageEvent]) -> None:
        with locked(other), closing(sqlite3.connect(other, timeout=0)) as own:
            own.execute("BEGIN IMMEDIATE")

    with delivery_failed.connected_to(note), Recorder(SQLiteBackend(path), Remote(fault=fault)) as recorder:
        recorder.track("tick")
        assert eventually(lambda: len(failures) > 2)
        errors = recorder.status()["errors"]

    assert {str(error) for error in failures} == {"database is locked"}
    assert "sink remote" in errors


def test_two_recorders_of_one_process_do_not_both_send(path: Path) -> None:
    """The second takes over when the first is closed; a sink's name may be anything."""
    sink = Remote("https://sink/a b")
    first, second = Recorder(SQLiteBackend(path), sink), Recorder(SQLiteBackend(path), sink)
    for n in range(300):
        (first, second)[n % 2].track("tick", response_bytes=n)
    assert eventually(settled(path, sink.name, 300))
    first.close()
    second.track("tick", response_bytes=300)
    assert eventually(settled(path, sink.name, 301))
    second.close()

    assert sorted(sink.numbers()) == list(range(301))
    assert {len(versions) for versions in sink.batches.values()} == {1}


@pytest.mark.parametrize("in_process", [True, False])
def test_memory_durability_delivers_what_fits(path: Path, *, in_process: bool) -> None:
    """Without a ledger, flush waits for the sinks; there is one attempt after the other, and no event twice."""
    fail = iter([True, True, False])

    def fault(sink: Remote, events: Sequence[UsageEvent]) -> None:
        if next(fail, False):
            raise ConnectionError("down")

    sink: Any = MemoryBackend() if in_process else Remote(fault=fault)
    recorder = Recorder(sink, durability="memory", dimensions=["project"])
    for n in range(500):
        assert recorder.track("tick", response_bytes=n, project="p")

    assert recorder.flush()

    taken = sink.events if in_process else sink.taken
    assert [event.response_bytes for event in taken] == list(range(500))
    assert len({event.id for event in taken}) == 500
    status = recorder.status()
    name = "MemoryBackend" if in_process else "remote"
    assert status["sinks"] == {name: {"delivered": 500, "lag": 0, "dead_letters": 0}}
    assert (status["accepted"], status["rejected"], status["durable"]) == (500, {}, 0)
    recorder.close()


def test_memory_durability_before_a_ledger_imports_everything(path: Path) -> None:
    """A flush ends when the last event of a long queue is in the ledger."""
    with Recorder(SQLiteBackend(path), durability="memory") as recorder:
        for n in range(20_000):
            recorder.track("tick", response_bytes=n)

        assert recorder.flush()

        assert query(path, "SELECT count(*), count(DISTINCT output) FROM events") == [(20_000, 20_000)]
        assert usage(recorder, measures="events").totals == {"events": 20_000}


def test_memory_durability_rejects_at_quota_and_keeps_what_it_took() -> None:
    """A sink that is down fills the queue; afterwards everything accepted arrives."""
    up = Event()

    def down(sink: Remote, events: Sequence[UsageEvent]) -> None:
        if not up.is_set():
            raise ConnectionError("down")

    sink = Remote(fault=down)
    recorder = Recorder(sink, durability="memory", quota_bytes=10_000)
    told = [recorder.track("tick", response_bytes=n) for n in range(1000)]
    assert not recorder.flush(0.05)
    up.set()

    assert recorder.flush()

    taken = told.count(True)
    assert told == [True] * taken + [False] * (1000 - taken)
    assert 50 < taken < 250
    assert sink.numbers() == list(range(taken))
    status = recorder.status()
    assert (status["accepted"], status["rejected"]) == (taken, {"quota": 1000 - taken})
    recorder.close()


def test_waits_grow_with_jitter_and_obey_the_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never above a minute by itself, never above an hour as asked; success begins anew."""
    monkeypatch.undo()
    backoff = Backoff()

    waits = [backoff.failed(OSError()) for _ in range(100)]
    asked = [backoff.failed(RetryAfter(seconds)) for seconds in (0, 5, 1e9, -3)]
    backoff.succeeded()

    assert min(waits) >= 0.25
    assert 20 < max(waits) <= 60
    assert len(set(waits)) > 10
    assert asked == [0, 5, 3600, 0]
    assert backoff.failed(OSError()) == 0.25


def test_closing_ends_a_long_wait(path: Path) -> None:
    """A sink that asked for an hour does not keep the app from ending."""

    def later(sink: Remote, events: Sequence[UsageEvent]) -> None:
        raise RetryAfter(3600)

    sink = Remote(fault=later)
    recorder = Recorder(SQLiteBackend(path), sink)
    recorder.track("tick")
    assert eventually(lambda: sink.calls)
    began = monotonic()

    recorder.close()

    assert monotonic() - began < 2.0
