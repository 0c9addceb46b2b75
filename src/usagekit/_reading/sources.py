"""What rows and cells are read from, as SQL: how to reach them, what they can be grouped by, what they add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usagekit._clean import TIME_LIMIT_US
from usagekit._store.schema import BLOCK_SHIFT
from usagekit._store.tiers import (
    ATTRIBUTE_DAYS,
    DAY_ORGS,
    DAY_SHAPES,
    MEMBER_DAYS,
    MEMBER_WEEKS,
    ORG_DAYS,
    ORG_HOURS,
    QUARTERS,
    SHAPE_DAYS,
    SHAPE_HOURS,
    SPAN_SHIFT,
    TYPE_DAYS,
    WIDE,
    Tier,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

SHAPE_KEYS = {
    "kind": "s.kind",
    "event": "s.event",
    "route": "s.route",
    "status": "s.status",
    "status_class": "CASE WHEN s.status = 0 THEN 'none' ELSE (s.status / 100) || 'xx' END",
    "provider": "s.provider",
    "model": "s.model",
    "cost_source": "s.cost_source",
    "aborted": "s.aborted",
}

RAW_KEYS = {**SHAPE_KEYS, "user": "p.user", "org": "p.org"}
"""Grouping expressions. Users and orgs are grouped by their ids and named afterwards."""

RAW_TIME = "(b.base_us + e.offset_us)"

_EVENTS_OF_BLOCK = f"e.seq >= b.block << {BLOCK_SHIFT} AND e.seq < (b.block + 1) << {BLOCK_SHIFT}"

# Every event of some pieces that is in the rollups, too: spans come first and blocks second, so that only those blocks
# are read that the pieces touch.
RAW_PIECES = f"""
FROM temp.pieces w
CROSS JOIN spans i ON i.last_us >= w.lo AND i.first_us < w.hi
CROSS JOIN blocks b ON b.block BETWEEN i.span << {SPAN_SHIFT} AND ((i.span + 1) << {SPAN_SHIFT}) - 1
    AND b.last_us >= w.lo AND b.first_us < w.hi
CROSS JOIN events e ON {_EVENTS_OF_BLOCK} AND {RAW_TIME} >= w.lo AND {RAW_TIME} < w.hi AND +e.seq <= :frontier
"""

# And those that the rollups have not reached.
RAW_TAIL = f"""
FROM blocks b
CROSS JOIN temp.pieces w ON b.last_us >= w.lo AND b.first_us < w.hi
CROSS JOIN events e ON {_EVENTS_OF_BLOCK} AND {RAW_TIME} >= w.lo AND {RAW_TIME} < w.hi AND +e.seq > :frontier
"""
TAIL_BLOCKS = f"b.block >= :frontier >> {BLOCK_SHIFT}"

RAW_JOINS = {
    "s.": "CROSS JOIN shapes s ON s.id = e.shape\n",
    "p.": "CROSS JOIN subjects p ON p.id = e.subject\n",
}
"""What raw rows are joined with where an expression has this prefix."""

EXTRAS = "CROSS JOIN extras x ON x.id = p.extra\n"

_CALL = "s.kind = 'llm'"
_MOST_SHIFTED = TIME_LIMIT_US.bit_length() - 7  # no sound record has a longer duration


class Extra(NamedTuple):
    """What the extras say about a raw row, as SQL; constants where the ledger has no extras at all."""

    join: str
    weight: str
    quantity: str
    other_output: str


NO_EXTRAS = Extra("", "1", "1000000", "0")
WITH_EXTRAS = Extra(EXTRAS, "x.weight", "x.quantity", "x.other_output")


class RawValue(NamedTuple):
    """What one raw row adds to a column of `WIDE`, before its weight, as SQL.

    Attributes:
        value: of the row.
        condition: on its shape alone: the rows of other shapes add nothing; `""` = all do.
    """

    value: str
    condition: str = ""

    @property
    def whole(self) -> str:
        """Both in one."""
        return f"iif({self.condition}, {self.value}, 0)" if self.condition else self.value


def raw_value(column: str, extra: Extra) -> RawValue:
    """Give what one raw row adds to a column."""
    output = RawValue("e.output", _CALL), RawValue("e.output", f"NOT ({_CALL})")
    if extra.join:
        output = (
            RawValue(f"iif({_CALL}, e.output, {extra.other_output})"),
            RawValue(f"iif({_CALL}, {extra.other_output}, e.output)"),
        )
    return {
        "events": RawValue("1"),
        "failed": RawValue("1", "s.status >= 400"),
        "other": RawValue("1", "s.status = 0"),
        "input": RawValue("e.input"),
        "output": output[0],
        "cost": RawValue("coalesce(e.cost_nano, 0)"),
        "costed": RawValue("(e.cost_nano IS NOT NULL)"),
        "cache_read": RawValue("e.cache_read"),
        "cache_write": RawValue("e.cache_write"),
        "reasoning": RawValue("e.reasoning"),
        "unpriced": RawValue("1", "s.cost_source = 'unpriced'"),
        "bytes": output[1],
        "quantity": RawValue(f"({extra.quantity} - 1000000)"),
        "latency": RawValue("coalesce(e.latency_us, 0)"),
        "unmeasured": RawValue("(e.latency_us IS NULL)"),
    }[column]


def latest(tier: Tier) -> str:
    """Give when the latest event of a cell `t` was, in microseconds, as SQL."""
    return f"(t.last + t.{tier.clock} * {tier.cell_us} + {tier.origin_us})"


RAW_EXTREMES = {"latency_max": "max(e.latency_us)", "last": f"max({RAW_TIME})"}
RAW_DURATIONS = {"latency": "e.latency_us", "first_token": "max(coalesce(e.latency_us, 0) - e.tail_us, 0)"}


def bucket(value: str) -> str:
    """Give the log-bucket of a duration as SQL, as `aggregate.bucket_of` does it: by halving what it may lie in."""

    def within(least: int, most: int) -> str:
        if least == most:
            return value if least == 0 else f"{least << 6} + ({value} >> {least})"
        middle = (least + most + 1) // 2
        return f"iif({value} < {64 << middle}, {within(least, middle - 1)}, {within(middle, most)})"

    return within(0, _MOST_SHIFTED)


class Dictionary(NamedTuple):
    """What the ids in a tier's column stand for.

    Attributes:
        table: where that is looked up; `""` = the ids themselves are asked for.
        alias: of that table in SQL.
        keys: expressions by dimension; `None` for the app's own.
    """

    table: str
    alias: str
    keys: dict[str | None, str]


DICTIONARIES: dict[str, Dictionary] = {
    "shape": Dictionary("shapes", "s", dict(SHAPE_KEYS.items())),
    "type": Dictionary("types", "y", {"kind": "y.kind", "event": "y.event"}),
    "member": Dictionary("members", "m", {"user": "m.user", "org": "m.org"}),
    "org": Dictionary("", "g", {"org": "g.org"}),
    "attributes": Dictionary("attribute_sets", "a", {None: "a.attributes"}),
}
"""By the columns of the tiers' keys."""

SUBJECTS = Dictionary("subjects", "p", {"user": "p.user", "org": "p.org"})
"""What the raw rows have in the place of members."""

CHAINS: tuple[tuple[Tier, ...], ...] = (
    (TYPE_DAYS, QUARTERS),
    (DAY_SHAPES, SHAPE_HOURS),
    (SHAPE_DAYS,),
    (DAY_ORGS, ORG_HOURS),
    (ORG_DAYS, ORG_HOURS),
    (ORG_DAYS,),
    (ATTRIBUTE_DAYS,),
    (MEMBER_WEEKS, MEMBER_DAYS),
    (MEMBER_DAYS,),
)
"""What may answer a question, smallest first: whole cells of the first tier, the edges from those behind it."""


def chain_for(
    dimensions: Iterable[str],
    own: Iterable[str],
    columns: Iterable[str],
    extremes: Iterable[str] = (),
    *,
    unusable: Collection[Tier] = (),
) -> tuple[Tier, ...]:
    """Give the smallest chain that knows all of this; `()` where only raw rows do.

    `own` are those of `dimensions` that the app declared; `unusable` tiers know nothing.
    """
    asked = {None if name in set(own) else name for name in dimensions}
    wanted, extreme = set(columns) & set(WIDE), set(extremes)
    for chain in CHAINS:
        if all(tier not in unusable and _knows(tier, asked, wanted, extreme) for tier in chain):
            return chain
    return ()


def _knows(tier: Tier, asked: set[str | None], wanted: set[str], extremes: set[str]) -> bool:
    known = {name for column in tier.key for name in DICTIONARIES[column].keys}
    if not asked <= known or not wanted <= set(tier.columns) or not extremes <= set(tier.extremes):
        return False
    # A change of an event's price moves it to another shape, and leaves the extremes of the first one.
    return not extremes or "cost_source" not in asked
