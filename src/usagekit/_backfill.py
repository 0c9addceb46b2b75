"""Bringing a day of another backend into a ledger, and telling how far the two are apart."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from usagekit import _clean
from usagekit._store.backfill import key_of, replace_day
from usagekit._store.schema import declare_dimensions, prepare
from usagekit.errors import QueryError
from usagekit.event import to_microseconds
from usagekit.query import DIMENSIONS, MEASURES, usage
from usagekit.query.aggregate import Aggregate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from usagekit.event import UsageEvent
    from usagekit.query import Reader

__all__ = ["COMPARED", "Brought", "Drift", "backfill_day", "drift_of", "source_name", "yesterday"]

COMPARED = ("events", "input_tokens", "output_tokens", "cost_usd")
"""The measures that are compared."""

_NOT_BY = {"status_class"}  # it follows from status
_MEASURES = tuple(
    name for name in MEASURES if not name.endswith(("_p50", "_p95", "_p99")) and name not in {"users", "success_rate"}
)
_COUNTS = ("events", "succeeded", "failed", "unpriced", *(name for name in MEASURES if name.endswith("_tokens")))


class Brought(NamedTuple):
    """What became of one day.

    Attributes:
        events: how many the source told of.
        rows: how many combinations of hour and dimensions they are.
        exact: whether the source counted every event.
        kept: whether the source had nothing, and what the ledger has of that day stayed.
    """

    events: int
    rows: int
    exact: bool
    kept: bool


class Drift(NamedTuple):
    """What ledger and source say of one key.

    Attributes:
        key: the values of `by`.
        ledger: each of `COMPARED` as the ledger has it; None = no known cost.
        source: likewise.
    """

    key: tuple[Any, ...]
    ledger: dict[str, Any]
    source: dict[str, Any]

    @property
    def percent(self) -> float:
        """The largest difference of a measure, in percent of the ledger's; infinite where the ledger has 0."""
        return max(_percent(float(self.ledger[name] or 0), float(self.source[name] or 0)) for name in COMPARED)


def source_name(reader: object) -> str:
    """Give the name under which what comes from `reader` is kept."""
    return str(getattr(reader, "name", "") or type(reader).__name__)


def dimensions_of(reader: object) -> tuple[str, ...]:
    """Give all that can be grouped by without losing anything."""
    return (*(name for name in DIMENSIONS if name not in _NOT_BY), *getattr(reader, "dimensions", ()))


def backfill_day(
    path: str, reader: Reader, day: date, *, by: Iterable[str] | None = None, per: str | None = None
) -> Brought:
    """Bring what `reader` has of a day (UTC) into the ledger at `path`, in the place of what was brought in before.

    Blocks until it is there. Nothing of it is added to what the app recorded: it has the origin `"backfill"`.

    Args:
        path: the ledger; made where there is none.
        reader: what is asked.
        day: of UTC.
        by: the dimensions to keep; the others are summed up. None = all that the reader has.
        per: a dimension, `"org"`: one question for each of its values, so that no answer is large, and none is sampled
            for the sake of others. None = one question for the whole day.

    Raises:
        QueryError: the reader has no such dimension, or cannot answer.
        StorageError: the ledger cannot be used.
    """
    if day == date.max:
        raise QueryError(f"the day {day} has no end that a calendar knows; give an earlier one")
    prepare(path)
    names = dimensions_of(reader) if by is None else tuple(by)
    names = names if per is None or per in names else (*names, per)
    span = {"start": day, "end": day + timedelta(days=1)}
    filters: Sequence[dict[str, object]] = [{}]
    if per is not None:
        filters = [{per: row[per]} for row in usage(reader, by=[per], measures="events", where=None, **span).rows]  # type: ignore[arg-type]
    rows: list[tuple[UsageEvent, Aggregate]] = []
    exact = True
    for where in filters:
        report = usage(reader, by=("hour", *names), measures=_MEASURES, where=where, **span)  # type: ignore[arg-type]
        exact = exact and report.exact
        rows += [(_key(row, names), _sums(row)) for row in report.rows]
    declare_dimensions(path, tuple(name for name in names if name not in DIMENSIONS))
    replaced = replace_day(path, source_name(reader), day, rows, exact=exact)
    return Brought(sum(sums.events for _, sums in rows), len(rows), exact, not replaced)


def _key(row: dict[str, Any], names: tuple[str, ...]) -> UsageEvent:
    own = {name: row[name] for name in names if name not in DIMENSIONS}
    built_in = {name: row[name] for name in names if name in DIMENSIONS}
    return key_of(datetime.fromisoformat(row["hour"]), built_in, own)


def _sums(row: dict[str, Any]) -> Aggregate:
    sums = Aggregate(
        cost_nano=None if row["cost_usd"] is None else int(row["cost_usd"].scaleb(9)),
        response_bytes=row["response_bytes"],
        quantity_millionths=round(row["quantity"] * _clean.MICRO),
        last_seen_us=to_microseconds(datetime.fromisoformat(row["last_seen"])),
    )
    for name in _COUNTS:
        if name != "total_tokens":
            setattr(sums, name, row[name])
    if row["latency_ms_avg"] is not None:
        sums.latency_count = row["events"]
        sums.latency_sum_us = round(row["latency_ms_avg"] * 1000 * row["events"])
        sums.latency_max_us = round(row["latency_ms_max"] * 1000)
    return sums


def drift_of(
    ledger: Reader,
    reader: Reader,
    days: Sequence[date],
    by: Iterable[str],
    *,
    taken: Mapping[str, Any] | None = None,
) -> list[Drift]:
    """Compare what both have of some days (UTC), by day and dimensions; the largest difference first.

    `taken` filters the ledger as `where` does: which of its events the reader was given at all. None = all.

    Raises `QueryError` where one of them does not have a dimension.
    """
    names = ("day", *(name for name in by if name != "day"))
    found: list[dict[tuple[Any, ...], dict[str, Any]]] = []
    span = {"start": min(days), "end": max(days) + timedelta(days=1)}
    for side, where in ((ledger, taken or {}), (reader, {})):
        report = usage(side, by=names, measures=COMPARED, where={**where, "day": days}, **span)  # type: ignore[arg-type]
        found.append({tuple(row[name] for name in names): row for row in report.rows})
    nothing = dict.fromkeys(COMPARED, 0) | {"cost_usd": None}
    keys = dict.fromkeys((*found[0], *found[1]))
    drifts = [
        Drift(key, *({name: side.get(key, nothing)[name] for name in COMPARED} for side in found)) for key in keys
    ]
    return sorted(drifts, key=lambda drift: -drift.percent)


def _percent(ledger: float, source: float) -> float:
    if ledger == source:
        return 0.0
    return abs(source - ledger) * 100 / ledger if ledger else float("inf")


def yesterday() -> date:
    """Give the last whole day of UTC."""
    return datetime.now(UTC).date() - timedelta(days=1)
