"""Cutting the time that is asked about: into sections of one calendar bucket, and those into cells and what is left.

A *section* is a stretch of time in which every event falls into the same buckets of the question. A *piece* is a range
of a tier's cells, or of raw rows, that is added to or taken away from a section.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usagekit._store.tiers import (
    ATTRIBUTE_DAYS,
    DAY_ORGS,
    DAY_SHAPES,
    DAY_US,
    HOUR_US,
    MEMBER_DAYS,
    MEMBER_WEEKS,
    ORG_DAYS,
    ORG_HOURS,
    QUARTERS,
    SHAPE_DAYS,
    SHAPE_HOURS,
    TYPE_DAYS,
    WEEK_ORIGIN_US,
    WEEK_US,
)
from usagekit.query.periods import bucket_number, offset_changes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usagekit._store.tiers import Tier

Numbers = tuple[int, ...]

_CELL_COSTS = {
    TYPE_DAYS: DAY_US // 16_000,
    QUARTERS: DAY_US // 16_000,
    SHAPE_DAYS: DAY_US // 200,
    DAY_SHAPES: DAY_US // 300,
    SHAPE_HOURS: DAY_US // 300,
    MEMBER_DAYS: DAY_US // 12,
    MEMBER_WEEKS: DAY_US // 10,
    ORG_DAYS: DAY_US // 100,
    DAY_ORGS: DAY_US // 500,
    ORG_HOURS: DAY_US // 200,
    ATTRIBUTE_DAYS: DAY_US // 500,
}
"""What reading one cell of all keys costs, as the time whose raw rows take as long, roughly."""


class Section(NamedTuple):
    """A stretch of time, half-open, and the numbers of the buckets it lies in."""

    start_us: int
    end_us: int
    buckets: Numbers


class Piece(NamedTuple):
    """What is read of one source for one section.

    Attributes:
        tier: where from; None = the raw rows.
        start: the first cell's number; microseconds for raw rows.
        end: the number after the last one's.
        sign: 1, or -1 for what is taken away again.
        buckets: of its section.
    """

    tier: Tier | None
    start: int
    end: int
    sign: int
    buckets: Numbers


def number_of(bucket: str, time_us: int, offset: int) -> int:
    """Give the number by which readers group: hours of one number are told apart by their offset."""
    number = bucket_number(bucket, time_us, offset)
    return number * 200_000 + offset + 100_000 if bucket == "hour" else number


def sections(buckets: Sequence[str], tz: str, windows: Sequence[tuple[int, int]]) -> list[Section]:
    """Cut `windows` (ascending, disjoint) wherever one of `buckets` ends in the zone `tz`."""
    if not buckets:
        return [Section(start, end, ()) for start, end in windows if start < end]
    result: list[Section] = []
    for start, end in windows:
        for one, other, offset in _same_bucket(buckets, tz, start, end):
            numbers = tuple(number_of(bucket, one, offset) for bucket in buckets)
            if result and result[-1].end_us == one and result[-1].buckets == numbers:
                result[-1] = Section(result[-1].start_us, other, numbers)
            else:
                result.append(Section(one, other, numbers))
    return result


def _same_bucket(buckets: Sequence[str], tz: str, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    step = HOUR_US if "hour" in buckets else DAY_US
    changes = offset_changes(tz, start, end)
    for (begin, offset), after in zip(changes, [*(change for change, _ in changes[1:]), end], strict=True):
        shift = offset * 1_000_000
        at = begin
        while at < after:
            until = min(after, ((at + shift) // step + 1) * step - shift)
            yield at, until, offset
            at = until


class Planner:
    """Covers sections with whole cells of the coarsest tier of a chain, and with finer ones at the edges.

    Args:
        chain: tiers, each followed by a finer one; behind the last come the raw rows.
        first_us: no event is earlier.
        last_us: no event is later.
        subtract: whether a cell may be taken whole and what is outside be taken away, where that is less to read.
    """

    def __init__(self, chain: Sequence[Tier], first_us: int, last_us: int, *, subtract: bool) -> None:
        self._chain = tuple(chain)
        self._first_us = first_us
        self._last_us = last_us
        self._subtract = subtract

    def pieces(self, section: Section) -> list[Piece]:
        """Give what to read for a section."""
        return self._cover(section, self._chain)

    def _cover(self, section: Section, chain: Sequence[Tier]) -> list[Piece]:
        start, end, buckets = section
        if start >= end:
            return []
        if not chain:
            return [Piece(None, start, end, 1, buckets)]
        tier, *finer = chain
        first = -(-(start - tier.origin_us) // tier.cell_us)
        last = (end - tier.origin_us) // tier.cell_us
        if first > last:  # within one cell
            return self._edge(section, tier, last, finer)
        left = section._replace(end_us=first * tier.cell_us + tier.origin_us)
        right = section._replace(start_us=last * tier.cell_us + tier.origin_us)
        middle = [Piece(tier, first, last, 1, buckets)] if first < last else []
        return self._edge(left, tier, first - 1, finer) + middle + self._edge(right, tier, last, finer)

    def _edge(self, section: Section, tier: Tier, cell: int, finer: Sequence[Tier]) -> list[Piece]:
        """Cover a part of one cell: from inside, or by the cell and what is outside."""
        inside = self._cover(section, finer)
        if not self._subtract or not inside:
            return inside
        begin = cell * tier.cell_us + tier.origin_us
        outside = self._cover(Section(begin, section.start_us, section.buckets), finer)
        outside += self._cover(Section(section.end_us, begin + tier.cell_us, section.buckets), finer)
        whole = Piece(tier, cell, cell + 1, 1, section.buckets)
        return min(inside, [whole, *(piece._replace(sign=-piece.sign) for piece in outside)], key=self._cost)

    def _cost(self, planned: list[Piece]) -> int:
        cost = 0
        for piece in planned:
            if piece.tier is None:
                cost += max(0, min(piece.end, self._last_us) - max(piece.start, self._first_us))
            else:
                cost += (piece.end - piece.start) * _CELL_COSTS.get(piece.tier, 0)
        return cost


def stretched(found: list[Section], first_us: int, last_us: int) -> list[Section]:
    """Stretch the outer sections to whole weeks where no event lies beyond `first_us` and `last_us`."""
    if not found:
        return found
    head = found[0]
    if head.start_us <= first_us:
        week = (min(first_us, head.start_us) - WEEK_ORIGIN_US) // WEEK_US
        found[0] = head._replace(start_us=week * WEEK_US + WEEK_ORIGIN_US)
    tail = found[-1]
    if tail.end_us > last_us:
        week = -(-(tail.end_us - WEEK_ORIGIN_US) // WEEK_US)
        found[-1] = tail._replace(end_us=week * WEEK_US + WEEK_ORIGIN_US)
    return found
