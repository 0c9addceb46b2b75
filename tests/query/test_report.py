"""The answer, and its forms."""

from __future__ import annotations

import csv
import io
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from usagekit.query import UsageQuery, UsageReport, empty_report
from usagekit.query.aggregate import Aggregate


def report_of(groups: dict[tuple[Any, ...], Aggregate], **options: Any) -> UsageReport:
    """Give the report on these groups; their merged sums are the totals."""
    query = UsageQuery.build(dimensions=["project"], **options)
    totals = Aggregate()
    for group in groups.values():
        totals.merge(group)
    return UsageReport.build(query, groups.items(), totals, source="test", exact=True)


def test_csv_is_rfc_4180_with_a_header() -> None:
    """Quotes where needed, CRLF, empty cells for what is unknown, plain numbers."""
    groups = {
        ('a "b", c', True): Aggregate(events=2, cost_nano=1, quantity_millionths=1_500_000, latency_count=0),
        ("", False): Aggregate(events=1),
    }

    text = report_of(groups, by=["user", "aborted"], measures=["events", "cost_usd", "quantity"]).to_csv()

    assert text == ('user,aborted,events,cost_usd,quantity\r\n"a ""b"", c",true,2,0.000000001,1.5\r\n,false,1,,0.0\r\n')


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_csv_runs_nothing_in_a_spreadsheet(start: str) -> None:
    """A text that begins like a formula is made one that does not."""
    text = report_of({(f"{start}1+1",): Aggregate()}, by="project", measures=[]).to_csv()

    assert list(csv.reader(io.StringIO(text, newline=""))) == [["project"], [f"'{start}1+1"]]


def test_csv_of_nothing_is_its_header() -> None:
    """So that whoever reads it knows the columns."""
    assert report_of({}, by="user", measures="events").to_csv() == "user,events\r\n"


def test_json_is_one_object() -> None:
    """Money as text without exponent, times in the zone, unknown as null."""
    query = UsageQuery.build(
        by=["status"], measures=["events", "cost_usd", "last_seen"], tz="Europe/Berlin", start="2026-11-20"
    )
    seen = 1_795_176_000_000_000
    groups = [
        ((200,), Aggregate(events=2**70, cost_nano=1, last_seen_us=seen)),
        ((0,), Aggregate(events=1)),
    ]
    totals = Aggregate(events=2**70 + 1, cost_nano=1, last_seen_us=seen)

    report = UsageReport.build(
        query,
        groups,
        totals,
        source="test",
        exact=False,
        complete_from=datetime(2026, 11, 1, tzinfo=UTC),
    )

    assert json.loads(report.to_json()) == {
        "rows": [
            {
                "status": 200,
                "events": 2**70,
                "cost_usd": "0.000000001",
                "last_seen": "2026-11-20T13:00:00.000000+01:00",
            },
            {"status": 0, "events": 1, "cost_usd": None, "last_seen": None},
        ],
        "totals": {
            "events": 2**70 + 1,
            "cost_usd": "0.000000001",
            "last_seen": "2026-11-20T13:00:00.000000+01:00",
        },
        "groups": 2,
        "exact": False,
        "source": "test",
        "complete_from": "2026-11-01T01:00:00+01:00",
        "period": {"start": "2026-11-20T00:00:00+01:00", "end": None, "tz": "Europe/Berlin"},
    }


def test_json_refuses_what_json_is_not() -> None:
    """A reader's NaN or odd object fails here, not at the other end."""
    nan = report_of({}, measures="users")
    nan.rows[0]["users"] = float("nan")
    odd = report_of({}, measures="users")
    odd.rows[0]["users"] = object()

    with pytest.raises(ValueError, match="not JSON compliant"):
        nan.to_json()
    with pytest.raises(TypeError, match="object has no JSON form"):
        odd.to_json()


def test_without_groups_the_one_row_is_the_totals() -> None:
    """Whatever a reader gave as groups, as SQL does without GROUP BY."""
    report = report_of({}, measures=["events", "cost_usd"])

    assert report.rows == [{"events": 0, "cost_usd": None}]
    assert report.rows[0] is not report.totals


def test_measures_are_computed_for_shown_rows_only() -> None:
    """Of many groups and a small limit, the order's measure alone is computed for the others."""
    hidden = Aggregate(events=1, latency_buckets={0: -1})  # a quantile of it raises
    groups = {("many",): Aggregate(events=5, latency_buckets={3: 1}), ("few",): hidden}
    query = UsageQuery.build(by="user", measures=["latency_ms_p50"], limit=1)

    report = UsageReport.build(query, groups.items(), groups["many",], source="test", exact=True)

    assert report.rows == [{"user": "many", "latency_ms_p50": 0.003}]


def test_unknown_keys_of_a_foreign_reader_are_last() -> None:
    """Ours use an empty text; a reader that gives None is ordered all the same."""
    groups = {key: Aggregate(events=1) for key in ((None,), ("b",), ("a",))}

    up = report_of(groups, by="user", order="user", measures=[])
    down = report_of(groups, by="user", order="-user", measures=[])

    assert [row["user"] for row in up.rows] == ["a", "b", None]
    assert [row["user"] for row in down.rows] == ["b", "a", None]


def test_an_empty_report_answers_any_question() -> None:
    """As a recorder without a backend does."""
    query = UsageQuery.build(by="day", measures="events", limit=3)

    report = empty_report(query)

    assert (report.rows, report.totals, report.query) == ([], {"events": 0}, query)
    assert (report.source, report.exact, report.complete_from) == ("none", True, None)


def test_a_report_can_be_cached() -> None:
    """It pickles, with its question."""
    report = report_of({("ann",): Aggregate(events=1, cost_nano=5)}, by="user", where={"org": "x"})

    assert pickle.loads(pickle.dumps(report)) == report  # noqa: S301  our own bytes
