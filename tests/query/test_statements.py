"""One customer's month."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usagekit import QueryError, QueryTimeout, Recorder, UsageEvent, statement, usage
from usagekit._store.waiting import waits_before
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.query.statements import LINES_BY, STATEMENT_MEASURES

if TYPE_CHECKING:
    from pathlib import Path

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",  # -03:30, and until 2011 clocks went back across midnight
    "Asia/Kathmandu",  # +05:45
    "Australia/Lord_Howe",  # half an hour of summer time
    "Pacific/Apia",  # skipped a whole day
    "America/Havana",  # clocks change at midnight
)
MONTHS = ("2009-10", "2009-11", "2011-12", "2026-03", "2026-10", "2026-11")
LATER = datetime(2030, 1, 1, tzinfo=UTC)


def holding(*events: UsageEvent) -> MemoryBackend:
    """Give a reader that holds these events."""
    backend = MemoryBackend()
    backend.write(events, batch_id="1")
    return backend


def at(time: str, **values: Any) -> UsageEvent:
    """Give an event of acme's at an ISO time."""
    known: dict[str, Any] = {"time": datetime.fromisoformat(time), "org": "acme", "user": "ann"}
    return UsageEvent(**known | values)


def test_a_statement_has_lines_and_totals() -> None:
    """By day and route, ascending; of this customer and this month alone, in its zone."""
    source = holding(
        at("2026-09-30T22:00:00Z", kind="request", route="GET /b", status=200),
        at("2026-10-01T10:00:00Z", kind="request", route="GET /a", status=500, response_bytes=10),
        at("2026-10-31T22:59:59.999999Z", kind="llm", model="m", input_tokens=7, cost_usd="0.1", quantity=2.5),
        at("2026-09-30T21:59:59.999999Z", route="before"),
        at("2026-10-31T23:00:00Z", route="after"),
        at("2026-10-10T12:00:00Z", org="globex"),
    )

    answer = statement(source, org="acme", month="2026-10", tz="Europe/Berlin", now=LATER)

    shown = ("day", "route", "events", "failed", "input_tokens", "cost_usd", "quantity")
    assert [tuple(line[name] for name in shown) for line in answer.lines] == [
        ("2026-10-01", "GET /a", 1, 1, 0, None, Decimal(1)),
        ("2026-10-01", "GET /b", 1, 0, 0, None, Decimal(1)),
        ("2026-10-31", "", 1, 0, 7, Decimal("0.1"), Decimal("2.5")),
    ]
    assert list(answer.lines[0]) == ["day", "route", *STATEMENT_MEASURES]
    assert (answer.totals["events"], answer.totals["cost_usd"], answer.totals["quantity"]) == (
        3,
        Decimal("0.1"),
        Decimal("4.5"),
    )
    assert (answer.start, answer.end) == (
        datetime(2026, 9, 30, 22, tzinfo=UTC),
        datetime(2026, 10, 31, 23, tzinfo=UTC),
    )
    assert (answer.org, answer.user, answer.closed, answer.exact, answer.source) == ("acme", None, True, True, "memory")


def test_a_user_has_statements_as_well() -> None:
    """In whatever organisation; by model or event type."""
    source = holding(
        at("2026-10-05T12:00:00Z", kind="llm", event="chat", model="a"),
        at("2026-10-05T13:00:00Z", kind="llm", event="chat", model="b", org="globex"),
        at("2026-10-05T13:00:00Z", user="bob"),
    )

    by_model = statement(source, user="ann", month="2026-10", by="model")
    by_event = statement(source, user="ann", month="2026-10", by="event")

    assert [(line["model"], line["events"]) for line in by_model.lines] == [("a", 1), ("b", 1)]
    assert [(line["event"], line["events"]) for line in by_event.lines] == [("chat", 2)]
    assert (by_model.org, by_model.user) == (None, "ann")


@given(
    seconds=st.lists(st.integers(-3 * 86_400, 34 * 86_400), max_size=30),
    zone=st.sampled_from(ZONES),
    month=st.sampled_from(MONTHS),
    by=st.sampled_from(LINES_BY),
)
@settings(max_examples=80, deadline=None)
def test_lines_add_up_to_what_usage_says(seconds: list[int], zone: str, month: str, by: str) -> None:
    """In every zone, in months with 23, 25 and missing hours: lines, totals and `usage` agree to the last digit."""
    first = datetime.fromisoformat(f"{month}-01T00:00:00Z")
    source = holding(
        *(
            at(
                (first + timedelta(seconds=n)).isoformat(),
                kind="llm",
                route=f"GET /{n % 3}",
                model=f"m{n % 2}",
                event=f"e{n % 4}",
                input_tokens=abs(n),
                cost_usd=Decimal(abs(n) + 1).scaleb(-9),
                quantity=abs(n) / 1_000_000,
                weight=1 + n % 2,
            )
            for n in seconds
        ),
    )

    answer = statement(source, org="acme", month=month, tz=zone, by=by)

    monthly = usage(source, by="month", tz=zone, where={"org": "acme", "month": month}).rows
    expected: dict[str, Any] = monthly[0] if monthly else usage(source, where={"org": []}).totals
    assert {name: answer.totals[name] for name in STATEMENT_MEASURES if name != "quantity"} == {
        name: expected[name] for name in STATEMENT_MEASURES if name != "quantity"
    }
    assert float(answer.totals["quantity"]) == expected["quantity"]
    with localcontext(prec=100):
        for name in STATEMENT_MEASURES:
            known = [line[name] for line in answer.lines if line[name] is not None]
            assert (sum(known) if known else None) == (answer.totals[name] if known else None), name
    assert all(line["day"].startswith(month) for line in answer.lines)


@pytest.mark.parametrize(
    ("now", "closed"),
    [
        ("2026-10-31T14:00:00Z", False),  # November has begun in Apia's zone, but not for an hour
        ("2026-10-31T10:59:59Z", False),
        ("2026-10-31T11:59:59.999999Z", False),
        ("2026-10-31T12:00:00Z", True),
    ],
)
def test_a_month_closes_an_hour_after_its_end_in_its_zone(now: str, closed: bool) -> None:  # noqa: FBT001
    """What began before midnight may end, and be recorded, after it."""
    zone = "UTC" if now == "2026-10-31T14:00:00Z" else "Pacific/Apia"  # UTC+13

    answer = statement(holding(), org="acme", month="2026-10", tz=zone, now=datetime.fromisoformat(now))

    assert answer.closed is closed


def test_a_month_is_open_while_its_events_wait(tmp_path: Path) -> None:
    """Those that a dead process left; what others do later does not matter. A recorder imports them first."""
    path = tmp_path / "usage.db"
    backend = SQLiteBackend(path)
    with Recorder(backend) as recorder:
        recorder.record(at("2026-10-05T12:00:00Z"))
    script = f"""
import os
from datetime import UTC, datetime
from usagekit import Recorder
from usagekit._store import engine
from usagekit.backends.sqlite import SQLiteBackend
engine.IMPORT_SECONDS = 3600
recorder = Recorder(SQLiteBackend({str(path)!r}))
for month in (11, 10):
    recorder.track("export", org="acme", time=datetime(2026, month, 20, tzinfo=UTC))
os.kill(os.getpid(), 9)
"""
    died = subprocess.run([sys.executable, "-c", script], check=False)
    assert died.returncode == -signal.SIGKILL

    september = statement(backend, org="acme", month="2026-09", now=LATER)
    october = statement(backend, org="acme", month="2026-10", now=LATER)
    with Recorder(backend) as recorder:
        imported = statement(recorder, org="acme", month="2026-10", now=LATER)

    assert (september.closed, september.totals["events"]) == (True, 0)
    assert (october.closed, october.totals["events"]) == (False, 1)
    assert (imported.closed, imported.totals["events"]) == (True, 2)
    assert statement(backend, org="acme", month="2026-10", now=LATER) == imported


def test_what_cannot_be_read_counts_as_waiting(tmp_path: Path) -> None:
    """A bill is not closed because a file could not be opened."""
    path = tmp_path / "usage.db"
    Recorder(SQLiteBackend(path)).close()
    directory = tmp_path / "usage.db-journals"
    directory.mkdir(exist_ok=True)
    journal = directory / "0123.journal"
    journal.write_bytes(b"12345678[1,2")
    assert not waits_before(str(path), 2**62)

    journal.unlink()
    os.mkfifo(journal)
    assert not waits_before(str(path), 2**62)  # no journal at all

    journal.unlink()
    journal.write_bytes(b"12345678[1,2")
    (directory / "4567.journal").symlink_to(journal)
    assert not waits_before(str(path), 2**62)


def test_csv_and_json_can_be_read_again() -> None:
    """CSV has the lines, JSON everything; money and quantities are decimals, formulas do not run."""
    source = holding(at("2026-10-05T12:00:00Z", route="=1+1", cost_usd="0.000000001", cost_source="priced"))

    answer = statement(source, org="acme", month="2026-10", tz="Europe/Berlin", now=LATER)
    rows = list(csv.DictReader(io.StringIO(answer.to_csv(), newline="")))
    told = json.loads(answer.to_json())

    assert [(row["day"], row["route"], row["cost_usd"], row["quantity"]) for row in rows] == [
        ("2026-10-05", "'=1+1", "0.000000001", "1.000000"),
    ]
    assert list(rows[0]) == ["day", "route", *STATEMENT_MEASURES]
    assert told["lines"][0]["cost_usd"] == told["totals"]["cost_usd"] == "0.000000001"
    assert (told["start"], told["end"]) == ("2026-10-01T00:00:00+02:00", "2026-11-01T00:00:00+01:00")
    assert (told["org"], told["user"], told["closed"], told["month"]) == ("acme", None, True, "2026-10")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either org or user"),
        ({"org": "a", "user": "b"}, "give either org or user"),
        ({"org": ""}, "org='' is not one customer"),
        ({"user": ["a", "b"]}, r"user=\['a', 'b'\] is not one customer"),
        ({"org": "a", "by": "user"}, "no lines by 'user'; use one of route, model, event"),
        ({"org": "a", "by": ["route"]}, "no lines by"),
        ({"org": "a", "month": "October"}, "bad month 'October'; use year and month"),
        ({"org": "a", "month": "2026-13"}, "bad month '2026-13'"),
        ({"org": "a", "month": ["2026-10", "2026-11"]}, "bad month"),
        ({"org": "a", "month": "9999-12"}, "month '9999-12' cannot hold events"),
        ({"org": "a", "tz": "Mars"}, "unknown time zone 'Mars'"),
        ({"org": "a", "timeout": 0}, "bad timeout 0"),
    ],
)
def test_what_cannot_be_stated_is_refused(options: dict[str, Any], message: str) -> None:
    """With what was given and what is allowed."""
    with pytest.raises(QueryError, match=message):
        statement(holding(), **({"month": "2026-10"} | options))


def test_a_statement_has_a_time_budget() -> None:
    """As every answer."""
    with pytest.raises(QueryTimeout, match="budget"):
        statement(holding(), org="acme", month="2026-10", timeout=1e-9)
