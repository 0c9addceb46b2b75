"""What some events add up to, cell by cell: worked out in memory, then added to the rollups.

The first half takes no lock on the ledger, but where a type, a member or a set of attributes is seen for the first
time. The second, `add_to`, runs in the caller's transaction, one family of tiers at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from usagekit._store.blob_cells import blob_cells
from usagekit._store.columns import Cells, Layout, grouped
from usagekit._store.exact import SAFE_BOUND, add_functions, fitting
from usagekit._store.portion import portion
from usagekit._store.steps import write
from usagekit._store.tiers import (
    ATTRIBUTE_DAYS,
    DAY_ORGS,
    DAY_US,
    FAMILIES,
    HOUR_US,
    MEMBER_DAYS,
    MEMBER_WEEKS,
    ORG_DAYS,
    ORG_HOURS,
    QUARTER_US,
    QUARTERS,
    SHAPE_DAYS,
    TYPE_DAYS,
    Tier,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

_STATEMENT_ROWS = 512  # the longest statements: larger ones are no faster, and are kept, one for each tier

_HOURS_A_DAY = DAY_US // HOUR_US
_QUARTERS_A_DAY = DAY_US // QUARTER_US


class _Upsert(NamedTuple):
    """What is written to a tier: the parts of a statement and its rows; see `steps.write`."""

    before: str
    row: str
    after: str
    rows: Sequence[Sequence[Any]]
    idle: Sequence[Any]


class Fold:
    """Sums of one batch of events after another, over one connection, in one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._upserts: dict[Tier, _Upsert] = {}
        add_functions(connection)

    def take(
        self,
        rows: str,
        values: Mapping[str, Any],
        before: int,
        *,
        is_bounded: bool = False,
        own_transaction: bool = True,
    ) -> int:
        """Work out what a batch adds up to; gives a bound: no sum in the rollups can be larger then.

        Args:
            rows: which events, `RANGE` or `LISTED`.
            values: those bound in it, and `sign`, `skip_seq` and `skip_us`: events up to that number are passed over
                where they are of before that time.
            before: the bound so far.
            is_bounded: whether it bounds the sums with this batch already, since some families hold it.
            own_transaction: whether to begin one where something has to be written; no if the caller has.
        """
        self.forget()
        events = portion(self._connection, rows, values, own_transaction=own_transaction)
        if events is None:
            return before
        added = events.bound
        bound = before if is_bounded else min(2**63 - 1, before + added)
        layout, exact = Layout.of(events.columns, added), bound >= SAFE_BOUND
        numbers = layout.packed(events.columns, events.factors)
        largest = {"latency_max": events.latencies, "last": events.times}
        shapes = grouped((events.quarters, events.shapes, events.types), numbers, largest)
        orgs = grouped((events.hours, events.orgs, events.types), numbers, largest)
        members = grouped((events.days, events.members, events.types), numbers, {"last": events.times})
        cells = _type_tiers(shapes) | _org_tiers(orgs) | _member_tiers(members)
        if events.has_attributes:
            cells[ATTRIBUTE_DAYS] = grouped((events.days, events.attributes, events.types), numbers, largest)
        else:
            cells[ATTRIBUTE_DAYS] = _with_attributes(cells[TYPE_DAYS], events.attributes[0])
        self._upserts = {tier: _upsert(tier, each, layout, exact=exact) for tier, each in cells.items()}
        blobs = blob_cells(self._connection, events, layout, shapes, exact=exact)
        self._upserts |= {tier: _replacing(tier, each) for tier, each in blobs.items()}
        return bound

    def add_to(self, family: int) -> None:
        """Add the batch to the tiers of one of `FAMILIES`, in the caller's transaction."""
        for tier in FAMILIES[family]:
            if tier in self._upserts:
                before, row, after, rows, idle = self._upserts[tier]
                write(self._connection, before, row, after, rows, most=_STATEMENT_ROWS, idle=idle)

    def forget(self) -> None:
        """Free what was worked out."""
        self._upserts = {}


def _type_tiers(shapes: Cells) -> dict[Tier, Cells]:
    each_quarter, each_shape, each_type = shapes.keys
    quarters = shapes.by(each_quarter, each_type)
    return {
        QUARTERS: quarters,
        TYPE_DAYS: quarters.by(_coarser(quarters.keys[0], _QUARTERS_A_DAY), quarters.keys[1]),
        SHAPE_DAYS: shapes.by(_coarser(each_quarter, _QUARTERS_A_DAY), each_shape),
    }


def _with_attributes(days: Cells, attributes: int) -> Cells:
    each_day, each_type = days.keys
    return days._replace(keys=[each_day, [attributes] * len(each_day), each_type])


def _org_tiers(hours: Cells) -> dict[Tier, Cells]:
    each_hour, each_org, each_type = hours.keys
    days = hours.by(_coarser(each_hour, _HOURS_A_DAY), each_org, each_type)
    return {ORG_HOURS: hours, ORG_DAYS: days, DAY_ORGS: days.by(*days.keys[:2])}


def _member_tiers(days: Cells) -> dict[Tier, Cells]:
    each_day, each_member, _ = days.keys
    # 1970-01-01 was a Thursday, and weeks begin on Mondays.
    return {MEMBER_DAYS: days, MEMBER_WEEKS: days.by([(day + 3) // 7 for day in each_day], each_member)}


def _coarser(clocks: Sequence[int], times: int) -> list[int]:
    return [clock // times for clock in clocks]


def _upsert(tier: Tier, cells: Cells, layout: Layout, *, exact: bool) -> _Upsert:
    """Add cells to those that are there; sums that are not in the layout are 0."""
    sums = {name: column for name, column in layout.sums(cells.numbers).items() if name in tier.columns}
    values: list[Sequence[int | str | None]] = [*cells.keys]
    values += [list(map(fitting, column)) for column in sums.values()] if exact else sums.values()
    values += [cells.largest[name] for name in tier.extremes]
    if "last" in tier.extremes:
        clocks = cells.keys[tier.order.index(tier.clock)]
        values[-1] = [
            None if last is None else last - (clock * tier.cell_us + tier.origin_us)
            for last, clock in zip(cells.largest["last"], clocks, strict=True)
        ]
    columns = [*tier.order, *sums, *tier.extremes]
    zeros = [name for name in tier.columns if name not in columns]
    changes = [
        f"{name} = exact_add({name}, excluded.{name})" if exact else f"{name} = {name} + excluded.{name}"
        for name in sums
    ]
    changes += [
        f"{name} = max(ifnull({name}, excluded.{name}), ifnull(excluded.{name}, {name}))" for name in tier.extremes
    ]
    rows = list(zip(*values, strict=True))
    return _Upsert(
        f"INSERT INTO {tier.name} ({', '.join(columns + zeros)}) VALUES",
        f"({', '.join(['?'] * len(columns) + ['0'] * len(zeros))})",
        f"ON CONFLICT DO UPDATE SET {', '.join(changes)}",
        rows,
        [*rows[-1][: len(cells.keys)], *([0] * len(sums)), *([None] * len(tier.extremes))],
    )


def _replacing(tier: Tier, rows: Sequence[Sequence[Any]]) -> _Upsert:
    marks = ", ".join("?" * len(rows[0])) if rows else ""
    # The last one replaces itself, so it can be written again.
    return _Upsert(f"INSERT OR REPLACE INTO {tier.name} VALUES", f"({marks})", "", rows, rows[-1] if rows else ())
