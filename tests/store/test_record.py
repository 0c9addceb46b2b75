"""From the event to the journal's line to the ledger's row and back: nothing changes on the way."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.strategies import events as tidy_events
from tests.support.stores import stored_events
from usagekit import Recorder, UsageEvent
from usagekit.backends.sqlite import SQLiteBackend

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Liar(str):
    """A string that says it is another one."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


class Broken:
    """Raises wherever it can."""

    def __str__(self) -> str:
        raise RuntimeError("str")

    __repr__ = __str__

    def __int__(self) -> int:
        raise RuntimeError("int")

    def __float__(self) -> float:
        raise RuntimeError("float")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __iter__(self) -> Any:
        raise RuntimeError("iter")

    def keys(self) -> Any:
        raise RuntimeError("keys")


class BrokenZone(tzinfo):
    """A zone that knows no offset."""

    def utcoffset(self, _: datetime | None, /) -> timedelta | None:
        raise RuntimeError("utcoffset")

    dst = utcoffset

    def tzname(self, _: datetime | None, /) -> str | None:
        raise RuntimeError("tzname")


HOSTILE: tuple[Any, ...] = (
    None,
    "",
    "\x00",
    "a\x00b\tc\nd\x1fe\x7ff\x85g\u2028h",
    "\ud800",
    "\udfffx\ud800y",
    "\U0001f600" * 300,
    "x" * 2000,
    "\t" * 1000,
    '"}\\u0000[',
    b"\xff\x00abc",
    bytearray(b"abc"),
    Broken,
    float("nan"),
    float("inf"),
    float("-inf"),
    -0.0,
    1e308,
    -1,
    2**53 - 1,
    2**53,
    2**63,
    2**64,
    -(10**400),
    True,
    Decimal("0.1234567894"),
    Decimal("NaN"),
    Decimal("sNaN"),
    Decimal("Infinity"),
    Decimal("1E+1000000"),
    Decimal(-1),
    "12.5",
    "1_000",
    "٣",
    [],
    {},
    {"a": "b", 1: 2, None: None, "\x00": "\ud800"},
    {1, 2},
    complex(1, 2),
    NOON,
    datetime.min,  # noqa: DTZ901  apps have naive ones, too
    datetime.max,  # noqa: DTZ901
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))),
    datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-23))),
)

BROKEN: tuple[Any, ...] = (
    Liar("liar"),
    Broken(),
    {"a": Broken(), Broken(): "b"},
    datetime(2026, 1, 1, tzinfo=BrokenZone()),
    "x" * 1_000_000,
    "\ud800" * 1_000_000,
    10**5000,
    {f"attribute {n}": "\U0001f600" * 300 for n in range(40)},
)
"""Not among what Hypothesis tries, which would print them."""

FIELDS = tuple(field.name for field in fields(UsageEvent))


def whatever() -> st.SearchStrategy[Any]:
    """Anything at all that an app may hand over."""
    return st.one_of(
        st.sampled_from(HOSTILE),
        st.text(st.characters(exclude_categories=()), max_size=600),
        st.binary(max_size=50),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.decimals(),
        st.datetimes(timezones=st.none() | st.just(UTC)),
        st.dictionaries(st.text(max_size=20), st.text(max_size=400), max_size=4),
    )


def hostile_events() -> st.SearchStrategy[UsageEvent]:
    """Events made of anything."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, whatever())).map(
        lambda values: UsageEvent(**values)
    )


def round_trip(happened: list[UsageEvent]) -> list[UsageEvent]:
    """Give what the ledger makes of these events, which one recorder took in this order."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "usage.db")
        with Recorder(SQLiteBackend(path)) as recorder:
            assert [recorder.record(event) for event in happened] == [True] * len(happened)
            assert recorder.flush()
            status = recorder.status()
        assert (status["durable"], status["corrupt"], status["errors"]) == (len(happened), 0, {})
        return stored_events(path)


@pytest.mark.parametrize("field", FIELDS)
def test_making_an_event_never_raises(field: str) -> None:
    """Whatever stands in whatever field; and what was cleaned once stays as it is."""
    for value in HOSTILE + BROKEN:
        event = UsageEvent(**{"time": NOON, field: value})

        assert replace(event) == event, repr(type(value))


@given(st.lists(hostile_events(), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_hostile_events_come_back_as_they_were_cleaned(happened: list[UsageEvent]) -> None:
    """Every field but the id, which is the ledger's."""
    stored = round_trip(happened)

    assert [replace(event, id="") for event in stored] == [replace(event, id="") for event in happened]


@given(st.lists(tidy_events(), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_events_come_back_as_they_were(happened: list[UsageEvent]) -> None:
    """Every field but the id, for ordinary events with large numbers."""
    stored = round_trip(happened)

    assert [replace(event, id="") for event in stored] == happened


def test_every_hostile_value_in_every_field_comes_back() -> None:
    """The same, for each known trouble once in each field."""
    happened = [UsageEvent(**{"time": NOON, field: value}) for field in FIELDS for value in HOSTILE + BROKEN]

    stored = round_trip(happened)

    assert [replace(event, id="") for event in stored] == [replace(event, id="") for event in happened]


def test_ids_are_the_journals_name_and_a_number() -> None:
    """They are unique, and count from 1."""
    stored = round_trip([UsageEvent(event=str(n)) for n in range(5)])

    names = {event.id.split("-")[0] for event in stored}
    assert len(names) == 1
    assert [event.id.split("-")[1] for event in stored] == ["1", "2", "3", "4", "5"]
