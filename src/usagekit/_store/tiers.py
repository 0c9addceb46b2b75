"""The rollups' tables: which there are, what they hold, and how their cells cover time.

A *tier* is one small pre-aggregated table. Each of its rows is a *cell*: what some events of one stretch of time, a
whole number of quarter-hours of UTC, add up to. Every offset a zone has today is whole quarter-hours, so the finer
tiers cut anywhere a calendar does. There are several narrow tiers instead of one wide one, since a table with all
dimensions in its key would have hardly fewer rows than there are events.
"""

from __future__ import annotations

from typing import NamedTuple

QUARTER_US = 900_000_000
HOUR_US = 4 * QUARTER_US
DAY_US = 24 * HOUR_US
WEEK_US = 7 * DAY_US
WEEK_ORIGIN_US = -3 * DAY_US  # 1970-01-01 was a Thursday; weeks begin on Mondays


def whole_since(raw_from_us: int) -> int:
    """Give the begin of the first week of which all raw rows are there, where those before `raw_from_us` were purged.

    0 where none were.
    """
    weeks = -(-(raw_from_us - WEEK_ORIGIN_US) // WEEK_US)
    return max(0, weeks * WEEK_US + WEEK_ORIGIN_US) if raw_from_us else 0


CORE = ("events", "failed", "input", "output", "cost", "costed")
"""Columns that even the narrowest tiers have; all are weighted sums, `cost` in nano-dollars.

`costed` counts the events whose cost is known: a sum of 0 may be "free" or "nothing is known".
"""

WIDE = (
    *CORE,
    "other",  # events whose status is neither success nor failure
    "cache_read",
    "cache_write",
    "reasoning",
    "unpriced",
    "bytes",
    "quantity",  # millionths, less one unit for each event: mostly 0, which takes no room
    "latency",  # microseconds
    "unmeasured",  # events without a latency
)
"""All columns that add up."""

BILLED = tuple(name for name in WIDE if name not in {"latency", "unmeasured"})
"""What bills and limits are about: for the tier that has most rows."""

ADDED = tuple(name for name in BILLED if name != "quantity")
"""Those of them that are never negative."""

EXTREMES = ("latency_max", "last")
"""Largest latency in microseconds, or NULL; latest event, in microseconds from the cell's begin."""


class Tier(NamedTuple):
    """One table.

    Attributes:
        name: of the table; what `report.source` says.
        clock: the column that says which cell: whole numbers of `cell_us` since `origin_us`.
        key: the other columns of the key, by what they refer to.
        order: the primary key.
        columns: those of `WIDE` it has.
        extremes: those of `EXTREMES` it has.
    """

    name: str
    clock: str
    cell_us: int
    origin_us: int
    key: tuple[str, ...]
    order: tuple[str, ...]
    columns: tuple[str, ...]
    extremes: tuple[str, ...]

    def ddl(self) -> str:
        """Give the statement that creates it."""
        if self in HISTOGRAMS:
            columns = "latency BLOB NOT NULL, first_token BLOB NOT NULL, latency_max INTEGER"
            return f"CREATE TABLE {self.name} ({self.clock} INTEGER PRIMARY KEY, {columns}) STRICT"
        if self in PACKED or self in USER_SETS:
            keys = "".join(f"{name} INTEGER NOT NULL, " for name in self.order)
            blob = "sums" if self in PACKED else "users"
            return (
                f"CREATE TABLE {self.name} ({keys}{blob} BLOB NOT NULL, PRIMARY KEY ({', '.join(self.order)})) STRICT"
            )
        numbers = "".join(f", {name} ANY NOT NULL" for name in self.columns)
        extremes = "".join(f", {name} INTEGER" for name in self.extremes)
        keys = ", ".join(f"{name} INTEGER NOT NULL" for name in self.order)
        return f"CREATE TABLE {self.name} ({keys}{numbers}{extremes}, PRIMARY KEY ({', '.join(self.order)})) {_OPTIONS}"


_OPTIONS = "STRICT, WITHOUT ROWID"


def _tier(
    name: str,
    clock: str,
    cell_us: int,
    order: tuple[str, ...],
    columns: tuple[str, ...],
    *,
    extremes: tuple[str, ...] = (),
) -> Tier:
    key = tuple(column for column in order if column != clock)
    return Tier(name, clock, cell_us, WEEK_ORIGIN_US if clock == "week" else 0, key, order, columns, extremes)


QUARTERS = _tier("quarters", "quarter", QUARTER_US, ("quarter", "type"), WIDE, extremes=EXTREMES)
TYPE_DAYS = _tier("type_days", "day", DAY_US, ("day", "type"), WIDE, extremes=EXTREMES)
SHAPE_DAYS = _tier("shape_days", "day", DAY_US, ("day", "shape"), WIDE, extremes=EXTREMES)
MEMBER_DAYS = _tier("member_days", "day", DAY_US, ("day", "member", "type"), BILLED, extremes=("last",))
MEMBER_WEEKS = _tier("member_weeks", "week", WEEK_US, ("week", "member"), CORE)
ORG_DAYS = _tier("org_days", "day", DAY_US, ("day", "org", "type"), WIDE, extremes=EXTREMES)
DAY_ORGS = _tier("day_orgs", "day", DAY_US, ("day", "org"), CORE)
ORG_HOURS = _tier("org_hours", "hour", HOUR_US, ("hour", "org", "type"), BILLED)
ATTRIBUTE_DAYS = _tier("attribute_days", "day", DAY_US, ("day", "attributes", "type"), WIDE, extremes=EXTREMES)

LATENCY_DAYS = _tier("latency_days", "day", DAY_US, ("day",), ())
LATENCY_HOURS = _tier("latency_hours", "hour", HOUR_US, ("hour",), ())
HISTOGRAMS = (LATENCY_DAYS, LATENCY_HOURS)
"""Cells of how many events fell into which log-bucket; see `lanes` for what the blobs hold."""

DAY_SHAPES = Tier("day_shapes", "day", DAY_US, 0, ("shape",), ("day", "part"), ADDED, ())
SHAPE_HOURS = Tier("shape_hours", "hour", HOUR_US, 0, ("shape",), ("hour", "part"), ADDED, ())
PACKED = (DAY_SHAPES, SHAPE_HOURS)
"""Tiers of which each row is of many shapes: ids `part << SHAPE_SHIFT` and on, with `PACKED_SUMS` of each.

What else they know, a shape tells: all of its events failed, or none. Half of what rows would take; see `lanes`.
"""

SHAPE_SHIFT = 8
PACKED_SUMS = tuple(name for name in ADDED if name not in {"failed", "other", "unpriced"})

USER_DAYS = _tier("user_days", "day", DAY_US, ("day", "part"), ())
USER_HOURS = _tier("user_hours", "hour", HOUR_US, ("hour", "part"), ())
USER_SETS = (USER_DAYS, USER_HOURS)
"""Cells of who was there, the unknown user too: ids `part << PART_SHIFT` and on; see `lanes`."""

PART_SHIFT = 15  # users in a cell: 4 KiB before it is deflated

FAMILIES = (
    (QUARTERS, TYPE_DAYS, ATTRIBUTE_DAYS),
    (SHAPE_DAYS, DAY_SHAPES, SHAPE_HOURS),
    (ORG_DAYS, DAY_ORGS, ORG_HOURS),
    (MEMBER_DAYS, MEMBER_WEEKS),
    (*HISTOGRAMS, *USER_SETS),
)
"""Tiers that are brought up to date together: those that one answer is put together from."""

FAMILY_OF = {tier: number for number, family in enumerate(FAMILIES) for tier in family}

TIERS = tuple(FAMILY_OF)

SPAN_SHIFT = 6  # blocks per row of `spans`: 64
