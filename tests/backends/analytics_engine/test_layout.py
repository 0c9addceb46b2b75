"""What lies where in a data point, and what is refused before Analytics Engine would drop it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from usagekit.backends.analytics_engine.layout import Layout, check_point, index_of
from usagekit.errors import ConfigurationError, Rejected
from usagekit.event import UsageEvent

NOON = datetime(2026, 11, 20, 12, 0, 0, 250_001, tzinfo=UTC)

CALL = UsageEvent(
    id="7f3a-12",
    time=NOON,
    kind="llm",
    event="summarise",
    user="ann",
    org="acme",
    status=200,
    latency_ms=840.5,
    route="POST /summaries",
    provider="openai",
    model="gpt-5-mini",
    input_tokens=1200,
    output_tokens=300,
    cache_read_tokens=1000,
    cache_write_tokens=100,
    reasoning_tokens=200,
    first_token_ms=220,
    cost_usd=Decimal("0.0009"),
    cost_source="priced",
    response_bytes=512,
    aborted=True,
    quantity=2.5,
    weight=3,
    attributes={"project": "alpha"},
)


def test_the_default_layout_holds_all_of_an_event() -> None:
    """Every field, the declared dimensions from blob 11 on, and the version in the last double."""
    point = Layout.default(["country", "project"]).point(CALL)

    assert point == {
        "indexes": ["ann"],
        "blobs": [
            "7f3a-12",
            "llm",
            "summarise",
            "ann",
            "acme",
            "POST /summaries",
            "openai",
            "gpt-5-mini",
            "priced",
            "",
            "",
            "alpha",
        ],
        "doubles": [
            1795176000.250001,
            3,
            840.5,
            220,
            1200,
            300,
            1000,
            100,
            200,
            0.0009,
            512,
            2.5,
            200,
            1,
            1,
            1,
            0,
            0,
            0,
            1,
        ],
    }


def test_what_is_unknown_is_empty_or_zero() -> None:
    """And said to be unknown where 0 could be meant."""
    layout = Layout(index="org", blobs=["model", "project"], doubles=["latency_ms", "latency_known", "cost_usd"])

    assert layout.point(UsageEvent(time=NOON)) == {"indexes": [""], "blobs": ["", ""], "doubles": [0, 0, 0]}
    assert layout.point(UsageEvent(time=NOON, latency_ms=0))["doubles"] == [0, 1, 0]


def test_columns_name_what_lies_where() -> None:
    """Without the slots left empty."""
    layout = Layout(index="user", blobs=["event", None, "plan"], doubles=[None, "total_tokens"])

    assert layout.columns == {"index1": "user", "blob1": "event", "blob3": "plan", "double2": "total_tokens"}
    assert (layout.blob("plan"), layout.blob("user")) == ("blob3", None)
    assert (layout.double("total_tokens"), layout.double("time")) == ("double2", None)
    assert layout.dimensions == ("plan",)
    assert layout.point(CALL) == {"indexes": ["ann"], "blobs": ["summarise", "", ""], "doubles": [0, 1500]}


def test_numbers_may_be_texts_where_they_name_something() -> None:
    """Status, its class, whether it was aborted, and the second it began."""
    layout = Layout(blobs=["status", "status_class", "aborted", "time"])

    assert layout.point(CALL) == {
        "indexes": [],
        "blobs": ["200", "2xx", "true", "2026-11-20 12:00:00"],
        "doubles": [],
    }


@pytest.mark.parametrize("filler", ["x", "é", "🦊"])
def test_a_long_index_is_hashed_and_kept_whole_in_a_blob(filler: str) -> None:
    """96 bytes fit, whatever characters they are; more become a beginning and a hash, the same for the same id."""
    fits = filler * (96 // len(filler.encode()))
    long, other = f"{fits}y", f"{fits}z"

    assert index_of(fits) == fits
    assert 80 < len(index_of(long).encode()) <= 96
    assert index_of(long) == index_of(long) != index_of(other)
    assert index_of(long).startswith(filler * 10)
    holding = Layout(index="user", blobs=["user"])
    spilling = Layout(index="user", blobs=["event"])
    event = UsageEvent(time=NOON, user=long, event="e")
    assert holding.point(event) == {"indexes": [index_of(long)], "blobs": [long], "doubles": []}
    assert spilling.point(event) == {"indexes": [index_of(long)], "blobs": ["e", long], "doubles": []}
    assert spilling.point(CALL)["blobs"] == ["summarise"]
    assert (holding.spill, spilling.spill) == (None, "blob2")


def test_the_hash_of_an_index_never_changes() -> None:
    """What was written years ago is still found."""
    assert index_of("u" * 97) == "u" * 79 + "~" + "d9af26cb26412e7b"


def test_a_layout_takes_what_where_says() -> None:
    """Values are cleaned as in any question; several filters keep what passes all."""
    calls = Layout(blobs=["model"], where={"kind": "llm", "status_class": ["2XX", "4xx"], "project": "alpha"})

    assert calls.takes(CALL)
    assert not calls.takes(UsageEvent(kind="llm", status=500, attributes={"project": "alpha"}))
    assert not calls.takes(UsageEvent(kind="request", status=200, attributes={"project": "alpha"}))
    assert not calls.takes(UsageEvent(kind="llm", status=200))
    assert Layout().takes(UsageEvent())
    assert calls.dimensions == ("project",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blobs": [f"d{n}" for n in range(21)]}, "blobs has 21 slots; a data point has 20"),
        ({"doubles": [None] * 21}, "doubles has 21 slots; a data point has 20"),
        ({"blobs": "user"}, "blobs='user' is no list of names; give one: blobs=['user']"),
        ({"doubles": ["user"]}, "a double cannot hold 'user'; use one of weight, latency_ms"),
        ({"doubles": ["time", "time"]}, "doubles names 'time' more than once"),
        ({"blobs": ["latency_ms"]}, "blobs cannot hold 'latency_ms', it is a number: put it into doubles"),
        ({"blobs": ["users"]}, "blobs cannot hold 'users', no event has it"),
        ({"blobs": ["not a name"]}, "blobs names 'not a name', which is no name"),
        ({"blobs": [7]}, "blobs names 7, which is no name"),
        ({"index": "day"}, "index cannot hold 'day', no event has it"),
        ({"index": "user", "blobs": [f"d{n}" for n in range(20)]}, "index 'user' is in no blob, and all 20 are taken"),
        ({"where": {"day": "2026-11-20"}}, "names a time bucket"),
        ({"where": {"latency_ms_max": 7}}, "unknown dimension 'latency_ms_max'"),
        ({"where": {"status": "many"}}, "bad status 'many'"),
        ({"where": "llm"}, "bad where 'llm'"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    """When it is made, with what is wrong."""
    with pytest.raises(ConfigurationError) as refused:
        Layout(**options)

    assert message in str(refused.value)


def test_undeclared_dimensions_are_found() -> None:
    """A layout alone cannot know what the app declared; whoever uses it asks."""
    layout = Layout(index="user", blobs=["user", "plan"], where={"tier": "gold"})

    layout.check_dimensions(["plan", "tier"])

    with pytest.raises(ConfigurationError, match=r"names 'tier', which no event has; .*dimensions="):
        layout.check_dimensions(["plan"])


def test_json_gives_the_same_layout_back() -> None:
    """As a file for the command line."""
    layout = Layout(index="user", blobs=["user", None, "plan"], doubles=["cost_usd"], where={"kind": "llm"})

    again = Layout.from_json(layout.to_json())

    assert again == layout
    assert json.loads(layout.to_json())["where"] == {"kind": ["llm"]}
    for text in ("nonsense", "[]", '{"blob": []}'):
        with pytest.raises(ConfigurationError, match="layout is"):
            Layout.from_json(text)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"indexes": ["a", "b"]}, "at most 1 index"),
        ({"blobs": [""] * 21}, "20 blobs"),
        ({"doubles": [0.0] * 21}, "20 doubles"),
        ({"indexes": ["é" * 49]}, "an index has at most 96 bytes; this has 98"),
        ({"blobs": ["x" * 8000, "é" * 4001]}, "at most 16,000 bytes; these have 16,002"),
        ({"doubles": [float("nan")]}, "finite number; this is nan"),
        ({"doubles": [float("inf")]}, "finite number; this is inf"),
        ({"doubles": ["1"]}, "finite number; this is '1'"),
        ({"doubles": [True]}, "finite number; this is True"),
        ({"blobs": [7]}, "is a string; this is 7"),
        ({"blobs": [None]}, "is a string; this is None"),
        ({"blobs": ["\ud83d"]}, "without lone surrogates"),
    ],
)
def test_a_point_that_would_be_lost_is_rejected(point: dict[str, list[Any]], message: str) -> None:
    """Local runtimes drop it without a word, production throws."""
    with pytest.raises(Rejected) as rejected:
        check_point(point)

    assert message in str(rejected.value)


def test_the_limits_themselves_are_fine() -> None:
    """96 bytes, 16,000 bytes, twenty of each."""
    check_point({"indexes": ["é" * 48], "blobs": ["x" * 800] * 20, "doubles": [1e308] * 20})


def test_an_event_with_too_long_texts_is_rejected() -> None:
    """Only one whose texts are long throughout and outside ASCII comes so far."""
    names = [f"d{n}" for n in range(10)]
    huge = UsageEvent(
        time=NOON,
        user="🦊" * 256,
        org="🦊" * 256,
        route="🦊" * 512,
        model="🦊" * 256,
        provider="🦊" * 256,
        attributes=dict.fromkeys(names, "🦊" * 256),
    )

    with pytest.raises(Rejected, match="at most 16,000 bytes"):
        Layout.default(names).point(huge)
