"""Calls that had no price when they were recorded get one, once, and nothing else of the ledger changes."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from time import sleep
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import running
from tests.support.rolled import cells, roll_up
from tests.support.stores import eventually, locked, query, stored_events
from usagekit import ConfigurationError, QueryError, Recorder, StorageError, UsageEvent, usage
from usagekit._store import repricing as steps
from usagekit._store import schema
from usagekit._store.engine import journals_of
from usagekit._store.journal import Journal
from usagekit._store.ledger import Importer
from usagekit._store.record import body_of
from usagekit._store.rollups import Rollups
from usagekit._store.schema import connect
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.llm import Repriced, reprice
from usagekit.query import UsageQuery

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAY = datetime(2025, 5, 1, 12, tzinfo=UTC)
JULY = datetime(2025, 7, 1, 12, tzinfo=UTC)
BEGINNING = "2025-01-01"
MILLION = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger lies."""
    return tmp_path / "usage.db"


def recorded(path: Path, *calls: dict[str, Any], **options: Any) -> None:
    """Record calls before anything has a price, of acme's model and in July where they do not say otherwise."""
    with Recorder(SQLiteBackend(path), **options) as recorder:
        for call in calls:
            recorder.record(unpriced(**{"provider": "acme", "model": "acme-1", "time": JULY} | call))


def unpriced(**values: Any) -> UsageEvent:
    """Give a call as it is recorded where no price is known."""
    return UsageEvent(kind="llm", event="llm", status=200, cost_source="unpriced", **values)


def only_imported(path: Path, *calls: dict[str, Any]) -> None:
    """Bring calls into the ledger as `recorded` does, and leave its rollups behind."""
    journal = Journal(journals_of(str(path)))
    for call in calls:
        assert isinstance(journal.append(body_of(unpriced(**{"provider": "acme"} | call))), tuple)
    journal.release()
    with closing(Importer(str(path), journals_of(str(path)))) as importer:
        while importer.step():
            pass


def costs(path: Path) -> list[tuple[Decimal | None, str]]:
    """Give what each event costs, and where that is from."""
    return [(event.cost_usd, event.cost_source) for event in stored_events(path)]


def outcome(model: str = "acme-1", provider: str = "acme", **values: Any) -> Repriced:
    """Give what is expected of a model."""
    nothing: dict[str, Any] = {"priced": 0, "cost_usd": None, "unpriced": 0, "held": 0}
    return Repriced(provider=provider, model=model, **nothing | values)


def test_prices_are_those_of_each_calls_date(path: Path) -> None:
    """To the nano-dollar; a cost that is there stays, and what has no price stays without."""
    recorded(
        path,
        {"provider": "openai", "model": "o3", "time": MAY, **MILLION},
        {"provider": "openai", "model": "o3", **MILLION},
        {"provider": "openai", "model": "o3", "input_tokens": 1, "cost_usd": "0.5"},
        {"input_tokens": 7},
    )
    before = stored_events(path)

    told = reprice(path, since=BEGINNING)

    assert told == [outcome(unpriced=1), outcome("o3", "openai", priced=2, cost_usd=Decimal(60))]
    assert costs(path) == [
        (Decimal(50), "priced"),
        (Decimal(10), "priced"),
        (Decimal("0.5"), "reported"),
        (None, "unpriced"),
    ]
    assert [replace(event, cost_usd=None, cost_source="") for event in stored_events(path)] == [
        replace(event, cost_usd=None, cost_source="") for event in before
    ]


def test_a_second_run_finds_nothing_left(path: Path) -> None:
    """What was priced is not priced again, also by other prices."""
    recorded(path, {"input_tokens": 1000})

    reprice(path, since=BEGINNING, prices={"acme-1": {"input": 1}})
    told = reprice(path, since=BEGINNING, prices={"acme-1": {"input": 5}})

    assert told == []
    assert costs(path) == [(Decimal("0.001"), "priced")]


def test_own_prices_have_sizes_caches_aliases_and_units(path: Path) -> None:
    """They are those that a recorder takes, and win over public ones; sizes may be text, as in JSON."""
    recorded(
        path,
        {"input_tokens": 1000, "cache_read_tokens": 400, "cache_write_tokens": 100, "output_tokens": 50},
        {"input_tokens": 20_000},
        {"input_tokens": 200_000, "weight": 3},
        {"model": "deployment", "output_tokens": 10, "reasoning_tokens": 4},
        {"provider": "openai", "model": "o3", "input_tokens": 1},
    )
    price = {
        "input": 2,
        "cache_read": "0.2",
        "cache_write": 3,
        "output": 8,
        "reasoning": 9,
        "above": {"100000": {"input": 5}, "9000": {"input": 4}},
    }

    told = reprice(path, since=BEGINNING, prices={"acme-1": price, "deployment": "acme/acme-1", "o3": {"input": 1}})

    assert costs(path) == [
        (Decimal("0.00178"), "priced"),
        (Decimal("0.08"), "priced"),
        (Decimal(1), "priced"),
        (Decimal("0.000084"), "priced"),
        (Decimal("0.000001"), "priced"),
    ]
    assert told[0] == outcome(priced=5, cost_usd=Decimal("3.08178"))


def test_calls_without_tokens_need_a_price_by_the_unit(path: Path) -> None:
    """Nothing is known of them otherwise, and unknown is not free."""
    recorded(path, {}, {"model": "acme-voice"})

    told = reprice(path, since=BEGINNING, prices={"acme-1": {"input": 1}, "acme-voice": {"unit": "0.25"}})

    assert told == [outcome(unpriced=1), outcome("acme-voice", priced=1, cost_usd=Decimal("0.25"))]
    assert costs(path) == [(None, "unpriced"), (Decimal("0.25"), "priced")]


def test_a_stream_that_was_left_is_an_estimate(path: Path) -> None:
    """As it would have been with a price from the start."""
    with Recorder(SQLiteBackend(path)) as recorder:

        @recorder.track_tokens
        def stream() -> Any:
            yield {"model": "acme-1", "choices": [{"delta": {"content": "eight letters and so on"}}]}
            yield {"model": "acme-1", "choices": [{"delta": {"content": "never read"}}]}

        part = stream()
        next(part)
        part.close()
        assert recorder.flush()

        reprice(recorder, since=BEGINNING, prices={"acme-1": {"output": 1_000_000}})

    ((cost, source),) = costs(path)
    assert (cost, source) == (Decimal(6), "estimated")


def test_a_recorder_prices_by_its_own(path: Path) -> None:
    """And what it has accepted is imported before."""
    recorded(path, {"input_tokens": 500})
    with Recorder(SQLiteBackend(path), prices={"acme-1": {"input": 2}}) as recorder:
        recorder.record(unpriced(provider="acme", model="acme-1", input_tokens=1000))

        told = reprice(recorder, since=BEGINNING)
        report = usage(recorder, measures=["events", "cost_usd", "unpriced"])

    assert told == [outcome(priced=2, cost_usd=Decimal("0.003"))]
    assert report.totals == {"events": 2, "cost_usd": Decimal("0.003"), "unpriced": 0}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"since": "2025-07-01"}, [2, 3]),
        ({"since": "2025-07-01", "until": "2025-07-02"}, [2]),
        ({"since": date(2025, 5, 1), "until": JULY}, [0, 1]),
        ({"since": JULY, "until": "2025-07-01T12:00:00.000001Z"}, [2]),
        ({"since": "2025-07-02", "tz": "Asia/Tokyo"}, [3]),
        ({"since": "2025-07-02", "tz": "America/New_York"}, []),
        ({"since": BEGINNING, "models": ["acme-2", "acme/acme-3"]}, [1, 3]),
        ({"since": BEGINNING, "models": ["else/acme-3", "acme"]}, []),
    ],
)
def test_only_what_was_asked_for_is_priced(path: Path, options: dict[str, Any], expected: list[int]) -> None:
    """A half-open range of time in a zone, and models with or without their provider."""
    late = datetime(2025, 7, 2, 3, tzinfo=UTC)
    recorded(
        path,
        {"time": MAY, "input_tokens": 1},
        {"time": MAY, "model": "acme-2", "input_tokens": 1},
        {"time": JULY, "input_tokens": 1},
        {"time": late, "model": "acme-3", "input_tokens": 1},
    )

    reprice(path, prices={f"acme-{n}": {"input": 1} for n in (1, 2, 3)}, **options)

    assert [number for number, (cost, _) in enumerate(costs(path)) if cost is not None] == expected


def test_a_dry_run_says_the_same_and_changes_nothing(path: Path) -> None:
    """Not even the dictionaries."""
    recorded(path, {"input_tokens": 1_000_000})
    before = query(path, "SELECT * FROM shapes"), query(path, "SELECT * FROM events")

    dry = reprice(path, since=BEGINNING, prices={"acme-1": {"input": 2}}, dry_run=True)

    assert (query(path, "SELECT * FROM shapes"), query(path, "SELECT * FROM events")) == before
    assert dry == reprice(path, since=BEGINNING, prices={"acme-1": {"input": 2}})


def test_transactions_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step commits by itself, and tells how far it has come."""
    monkeypatch.setattr(steps, "STEP_ROWS", schema.BLOCK_ROWS)
    recorded(path, *[{"input_tokens": 1}] * 1000)
    seen = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total, query(path, "SELECT count(cost_nano) FROM events")[0][0]))

    reprice(path, since=BEGINNING, prices={"acme-1": {"input": 1}}, progress=progress)

    assert seen == [(1, 4, 255), (2, 4, 511), (3, 4, 767), (4, 4, 1000)]


@pytest.mark.parametrize("rolled", [0, 400, 1000])
def test_answers_are_the_same_with_rollups_and_without(path: Path, rolled: int) -> None:
    """However far the rollups have come, and after a rebuild."""
    begin = datetime(2025, 6, 1, tzinfo=UTC)
    calls: list[dict[str, Any]] = [
        {
            "time": begin + timedelta(hours=number),
            "model": f"acme-{number % 3}",
            "user": f"user {number % 5}",
            "input_tokens": number,
            "weight": 1 + number % 2,
        }
        for number in range(1000)
    ]
    recorded(path, *calls[:rolled])
    roll_up(path)
    only_imported(path, *calls[rolled:])
    with closing(connect(str(path))) as connection:
        assert Rollups(connection).is_due(1000 - rolled)
        assert not Rollups(connection).is_due(1001 - rolled)

    reprice(path, since="2025-06-10", prices={"acme-1": {"input": 1}, "acme-2": {"input": "0.333"}})

    assert_rollups_are_right(path)
    assert (
        usage(SQLiteBackend(path), measures="unpriced", where={"model": ["acme-1", "acme-2"]}).totals["unpriced"] < 300
    )


def assert_rollups_are_right(path: Path) -> None:
    """What they hold is what they hold made anew, and every answer is that of the events themselves."""
    roll_up(path)
    held = cells(path)
    reference = MemoryBackend()
    reference.write(stored_events(path), batch_id="1")
    for by in ("model", ("user", "cost_source"), "day"):
        question = UsageQuery.build(by=by, measures=("events", "users", "total_tokens", "cost_usd", "unpriced"))
        answer, expected = SQLiteBackend(path)._answer(question, raw_enough=0), reference.read(question)
        assert (answer.rows, answer.totals) == (expected.rows, expected.totals)
    with closing(connect(str(path))) as connection:
        Rollups(connection).begin_rebuild()
    roll_up(path)
    assert cells(path) == held


def test_many_at_once_that_die_price_every_call_once(path: Path) -> None:
    """Killed at any moment, beside an app that records: in the end each call has its cost, and no other."""
    count = 2500
    recorded(path, *[{"input_tokens": number + 1, "user": f"user {number % 9}"} for number in range(count)])
    with Recorder(SQLiteBackend(path)) as app, running("repricers.py", path, 3) as repricers:
        while repricers.poll() is None:
            app.record_tokens(provider="acme", model="acme-2", input_tokens=5)
            sleep(0.001)  # the load's pace
        killed, errors = repricers.communicate()
        assert app.flush()

    events = stored_events(path)
    assert (repricers.returncode, errors) == (0, "")
    assert int(killed) >= 1
    assert [event.cost_usd for event in events[:count]] == [Decimal(n + 1).scaleb(-6) for n in range(count)]
    assert {(event.model, event.cost_source) for event in events} == {("acme-1", "priced"), ("acme-2", "unpriced")}
    assert_rollups_are_right(path)


class Stuck:
    """A sink that fails until it is told otherwise; `sent` is what each of its batches held."""

    name = "stuck"
    max_batch = 2

    def __init__(self) -> None:
        self.fails = True
        self.sent: list[tuple[str, tuple[UsageEvent, ...]]] = []

    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        self.sent.append((batch_id, tuple(events)))
        if self.fails:
            raise ConnectionError

    def close(self) -> None:
        """Nothing is open."""


def test_a_batch_that_is_being_sent_stays_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every retry is the same batch; its calls are priced when it was delivered, and the sink keeps what it has."""
    monkeypatch.setattr("usagekit._store.delivery.FIRST_WAIT", 0.01)
    monkeypatch.setattr("usagekit._store.delivery.LONGEST_WAIT", 0.02)
    monkeypatch.setattr("usagekit._guard.reraise", False)
    prices = {"acme-1": {"input": 1}}
    sink = Stuck()
    with Recorder(SQLiteBackend(path), sink) as recorder:
        for _ in range(3):
            recorder.record_tokens(provider="acme", model="acme-1", input_tokens=1)
        assert recorder.flush()
        assert eventually(lambda: sink.sent)

        first = reprice(path, since=BEGINNING, prices=prices)
        tries = len(sink.sent)
        assert eventually(lambda: len(sink.sent) > tries)
        sink.fails = False
        assert eventually(lambda: not recorder.status()["sinks"]["stuck"]["lag"])
        second = reprice(path, since=BEGINNING, prices=prices)

    batches = dict(sink.sent)
    assert len(set(sink.sent)) == len(batches)
    assert sum(one.priced for one in (*first, *second)) == 3
    assert (first[0].held, second[0].held) == (len(sink.sent[0][1]), 0)
    assert sink.sent[0][1][0].cost_source == "unpriced"
    assert [source for _, source in costs(path)] == ["priced"] * 3


def test_what_cannot_be_is_said(path: Path) -> None:
    """Before anything is changed, and no ledger is made where none is."""
    recorded(path, {"input_tokens": 1})
    wrong: Any = None

    with pytest.raises(QueryError, match="since is None; say from when"):
        reprice(path, since=wrong)
    with pytest.raises(QueryError, match="bad since 'yesterday'"):
        reprice(path, since="yesterday")
    with pytest.raises(QueryError, match="is not before until '2025-01-01'"):
        reprice(path, since=BEGINNING, until=BEGINNING)
    with pytest.raises(ConfigurationError, match="price of 'acme-1'"):
        reprice(path, since=BEGINNING, prices={"acme-1": {"inputs": 1}})
    with pytest.raises(ConfigurationError, match="has no ledger"):
        reprice(MemoryBackend(), since=BEGINNING)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="does not exist"):
        reprice(path.with_name("nope.db"), since=BEGINNING)
    assert not path.with_name("nope.db").exists()


def test_a_ledger_that_somebody_holds_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After waiting; what was priced stays priced."""
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.01)
    recorded(path, {"input_tokens": 1})

    with locked(path), pytest.raises(StorageError, match="run it again for the rest"):
        reprice(path, since=BEGINNING, prices={"acme-1": {"input": 1}})

    assert costs(path) == [(None, "unpriced")]


def test_without_any_prices_it_says_which_to_install(path: Path) -> None:
    """Own ones are enough."""
    recorded(path, {"input_tokens": 1})
    program = f"""
import sys
sys.modules["genai_prices"] = None
from usagekit import MissingDependencyError
from usagekit.llm import reprice
try:
    reprice({str(path)!r}, since="2025-01-01")
except MissingDependencyError as error:
    print(error)
print(reprice({str(path)!r}, since="2025-01-01", prices={{"acme-1": {{"input": 1}}}})[0].priced)
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "there are no prices to price with; pip install 'usagekit[prices]', or give prices of your own\n1\n"
    )
