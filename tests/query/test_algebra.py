"""What can be asked."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from uuid import UUID

import pytest

from usagekit.backends.memory import MemoryBackend
from usagekit.errors import QueryError
from usagekit.query import BUCKETS, DIMENSIONS, MEASURES, UsageQuery, usage


def test_the_default_question_is_everything() -> None:
    """All measures, no groups, no range, UTC, this app's own events."""
    query = UsageQuery.build()

    assert query == UsageQuery()
    assert (query.by, query.measures, query.start, query.end, query.tz) == ((), MEASURES, None, None, "UTC")
    assert (query.where, query.spans, query.order, query.limit, query.origin) == (
        {},
        None,
        None,
        None,
        "direct",
    )
    assert query.windows_us == ((None, None),)


def test_names_are_a_string_or_any_list() -> None:
    """One or several, each once, in the order given."""
    query = UsageQuery.build(by="user", measures=iter(["events", "users", "events"]))

    assert (query.by, query.measures) == (("user",), ("events", "users"))
    assert UsageQuery.build(by=["day", "user", "day"], measures=()).by == ("day", "user")


def test_an_unknown_dimension_says_what_is_allowed() -> None:
    """The built-in ones, the buckets, the declared ones, and how to declare another."""
    with pytest.raises(QueryError) as refused:
        UsageQuery.build(by=["user", "client"], dimensions=["project"])

    assert str(refused.value) == (
        f"unknown dimension 'client'; use one of {', '.join((*DIMENSIONS, *BUCKETS, 'project'))}, "
        "or declare it: Recorder(dimensions=['client'])"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": 3}, "bad by 3; use a name or a list of names"),
        ({"by": [3]}, "bad name 3 in by"),
        ({"by": {"user": 1}}, "bad by"),
        ({"by": b"user"}, "bad by"),
        ({"by": "user,event"}, "unknown dimension 'user,event'"),
        ({"by": "x" * 10_000}, "unknown dimension 'xxx"),
        ({"by": "events", "dimensions": ["events"]}, "unknown dimension 'events'"),
        ({"measures": ["cost"]}, "unknown measure 'cost'; use one of events, succeeded"),
        ({"measures": "user"}, "unknown measure 'user'"),
        ({"where": {"client": "x"}}, "unknown dimension 'client'"),
        ({"where": {"events": 1}}, "unknown dimension 'events'"),
        ({"where": {3: "x"}}, "unknown dimension 3"),
        ({"where": "org=x"}, "bad where 'org=x'; use a mapping"),
        ({"where": {"org": None}}, r"where\['org'\] is None"),
        ({"where": {"org": ["a", None]}}, r"where\['org'\] is None"),
        ({"where": {"status": "ok"}}, "bad status 'ok'"),
        ({"where": {"status": "²"}}, "bad status"),
        ({"where": {"status": "-1"}}, "bad status"),
        ({"where": {"status": True}}, "bad status True"),
        ({"where": {"status": "9" * 5000}}, "bad status"),
        ({"where": {"status": 2.5}}, "bad status 2.5"),
        ({"where": {"status_class": "20x"}}, "bad status_class '20x'"),
        ({"where": {"status_class": 2}}, "bad status_class 2"),
        ({"where": {"aborted": "yes"}}, "bad aborted 'yes'; use true or false"),
        ({"where": {"aborted": 2}}, "bad aborted 2"),
        ({"where": {"aborted": 0.0}}, "bad aborted 0.0"),
        ({"order": "user"}, "cannot order by 'user'; use a measure"),
        ({"order": "-user", "by": "org"}, "cannot order by '-user'; use org or a measure"),
        ({"order": "--events"}, "cannot order by '--events'"),
        ({"order": ""}, "cannot order by ''"),
        ({"order": 3}, "cannot order by 3"),
        ({"order": ["events"]}, "cannot order by"),
        ({"limit": 0}, "bad limit 0"),
        ({"limit": -1}, "bad limit -1"),
        ({"limit": True}, "bad limit True"),
        ({"limit": "5"}, "bad limit '5'"),
        *(
            ({"timeout": timeout}, "bad timeout .*; use seconds, more than 0, or None")
            for timeout in (0, -1, float("nan"), float("inf"), 10**400, True, "5")
        ),
        ({"origin": "both"}, "unknown origin 'both'"),
        ({"origin": ["direct"]}, "unknown origin"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict[str, Any], message: str) -> None:
    """With what was given and what is allowed."""
    with pytest.raises(QueryError, match=message) as refused:
        UsageQuery.build(**options)

    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("user", "ann", ("ann",)),
        ("user", ["ann", "bob", "ann"], ("ann", "bob")),
        ("user", (), ()),
        ("user", {"ann": 1}.keys(), ("ann",)),
        ("user", iter(["ann"]), ("ann",)),
        ("user", b"ann", ("ann",)),
        ("user", 42, ("42",)),
        ("user", UUID(int=1), ("00000000-0000-0000-0000-000000000001",)),
        ("project", "a\x00b", ("a\ufffdb",)),
        ("status", HTTPStatus.NOT_FOUND, (404,)),
        ("status", ["200", 0, 5000], (200, 0, 999)),
        ("status_class", ["2XX", "none"], ("2xx", "none")),
        ("aborted", ["true", 0, "FALSE", True], (True, False)),
    ],
)
def test_filter_values_take_the_form_of_the_events(name: str, given: object, expected: tuple[object, ...]) -> None:
    """Cleaned, of the dimension's own type, each once."""
    query = UsageQuery.build(where={name: given}, dimensions=["project"])

    assert query.where == {name: expected}
    assert [type(value) for value in query.where[name]] == [type(value) for value in expected]


def test_a_query_says_what_a_reader_must_compute() -> None:
    """The measures shown, and the one the order needs."""
    shown = UsageQuery.build(by="user", measures=["users"])
    ordered = UsageQuery.build(by="user", measures=["users"], order="-cost_usd")
    by_key = UsageQuery.build(by="user", measures=["users"], order="user")

    assert (shown.order_by, shown.measures_needed) == (None, ("users", "events"))
    assert (ordered.order_by, ordered.measures_needed) == (("cost_usd", True), ("users", "cost_usd"))
    assert (by_key.order_by, by_key.measures_needed) == (("user", False), ("users",))


def test_equal_questions_are_equal_keys() -> None:
    """Whatever the order of their filters."""
    one = UsageQuery.build(where={"org": "a", "user": "b"})
    other = UsageQuery.build(where={"user": "b", "org": "a"})

    assert one == other
    assert len({one, other}) == 1


def test_usage_asks_readers_only() -> None:
    """A hint instead of an attribute error."""
    with pytest.raises(QueryError, match="cannot ask a str; give a Recorder"):
        usage("usage.db")  # type: ignore[arg-type]


def test_usage_counts_back_from_the_clock() -> None:
    """Without a range there is none; a period ends now."""
    reader = MemoryBackend()

    always, lately = usage(reader).query, usage(reader, period="24h").query

    assert (always.start, always.end) == (None, None)
    assert lately.start is not None
    assert lately.end is not None
    assert (lately.end - lately.start).total_seconds() == 86_400
