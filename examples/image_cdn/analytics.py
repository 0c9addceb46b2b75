"""What an owner may ask about their images, and the rows that a table of days, of months and of jobs would hold."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from fastapi import HTTPException, Query

from usagekit import usage

if TYPE_CHECKING:
    from usagekit import Recorder
    from usagekit.backends.sqlite import SQLiteBackend

DEFAULT_DAYS = 30
MOST_DAYS = 90
TOP_IMAGES = 10
EARLIEST, LATEST = date(2000, 1, 1), date(2099, 12, 31)


class Span(NamedTuple):
    """Days of UTC, both ends included."""

    start: date
    end: date


def span_of(
    days: Annotated[int | None, Query(ge=1, le=MOST_DAYS)] = None, start: date | None = None, end: date | None = None
) -> Span:
    """Read a range: the last so many days, today included, or dates; 422 says what is allowed."""
    if days is not None and (start is not None or end is not None):
        raise HTTPException(422, "give either days, or start and end")
    last = datetime.now(UTC).date() if end is None else end
    if not EARLIEST <= last <= LATEST:
        raise HTTPException(422, f"end={last} is not possible; give a date from {EARLIEST} to {LATEST}")
    first = last - timedelta(days=(days or DEFAULT_DAYS) - 1) if start is None else start
    if not 0 <= (last - first).days < MOST_DAYS:
        raise HTTPException(422, f"{first} to {last} is not possible; a range has 1 to {MOST_DAYS} days")
    return Span(first, last)


class Analytics:
    """One owner's figures.

    Args:
        backend: the ledger.
        source: what is asked.
        user: the owner's hashed id.
        origin: `"direct"` or `"backfill"`.
    """

    def __init__(self, backend: SQLiteBackend, source: Recorder, user: str, origin: str) -> None:
        self._backend = backend
        self._source = source
        self._user = user
        self._origin = origin

    def overview(self, span: Span) -> dict[str, Any]:
        """Give totals, most used images, countries, statuses and days."""
        return {
            "start": span.start,
            "end": span.end,
            "origin": self._origin,
            **self._totals(span),
            "top_images": self._by({"image_id": "image"}, span, limit=TOP_IMAGES),
            "countries": self._by({"country": "country"}, span),
            "statuses": self._by({"status": "status"}, span),
            "days": self._by({"date": "day"}, span),
        }

    def image(self, image_id: str, span: Span) -> dict[str, Any]:
        """Give the figures of one image by variant, country and day."""
        own = {"image": image_id}
        return {
            "image_id": image_id,
            "start": span.start,
            "end": span.end,
            "origin": self._origin,
            **self._totals(span, own),
            "variants": self._by({"variant": "variant"}, span, own),
            "countries": self._by({"country": "country"}, span, own),
            "days": self._by({"date": "day"}, span, own),
        }

    def daily(self, span: Span) -> list[dict[str, Any]]:
        """Give `owner, date, image_id, variant, country, requests, bandwidth_bytes` of each that occurred."""
        names = {"owner": "user", "date": "day", "image_id": "image", "variant": "variant", "country": "country"}
        return self._by(names, span)

    def monthly(self) -> list[dict[str, Any]]:
        """Give `owner, year_month, requests, bandwidth_bytes` of each month there is."""
        return self._by({"owner": "user", "year_month": "month"}, None)

    def meta(self) -> list[dict[str, str]]:
        """Give `key, value, updated_at` of the last day that the batch brought in; no row where it never did."""
        brought = self._backend.backfilled()
        if not brought:
            return []
        last = max(brought, key=lambda day: day.day)
        return [
            {
                "key": "last_aggregation_date",
                "value": last.day.isoformat(),
                "updated_at": f"{last.at:%Y-%m-%dT%H:%M:%SZ}",
            }
        ]

    def _totals(self, span: Span, where: dict[str, str] | None = None) -> dict[str, int]:
        (row,) = self._by({}, span, where)
        return {f"total_{name}": value for name, value in row.items()}

    def _by(
        self, names: dict[str, str], span: Span | None, where: dict[str, str] | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Give requests and bytes by some dimensions, under names of our own."""
        report = usage(
            self._source,
            by=list(names.values()),
            measures=["events", "response_bytes"],
            start=None if span is None else span.start,
            end=None if span is None else span.end + timedelta(days=1),
            where={"event": "image", "user": self._user} | (where or {}),
            limit=limit,
            origin=self._origin,
        )
        rows = report.rows if names else [report.totals]
        return [
            {name: row[dimension] for name, dimension in names.items()}
            | {"requests": row["events"], "bandwidth_bytes": row["response_bytes"]}
            for row in rows
        ]
