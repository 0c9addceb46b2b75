"""Some of the ledger's events, as they are read for the rollups: column by column."""

from __future__ import annotations

import json
from operator import mul
from typing import TYPE_CHECKING, Any, NamedTuple

from usagekit._store.schema import BLOCK_SHIFT, Transaction
from usagekit._store.steps import columns_of
from usagekit._store.tiers import DAY_US, HOUR_US, QUARTER_US

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

RANGE = (
    f"blocks b CROSS JOIN events e ON b.block BETWEEN :after >> {BLOCK_SHIFT} AND :last >> {BLOCK_SHIFT}"
    f" AND e.seq >= b.block << {BLOCK_SHIFT} AND e.seq < (b.block + 1) << {BLOCK_SHIFT}"
    # With a sign, as only one of two bounds would be used to find the rows: the one that spans all blocks.
    " AND +e.seq > :after AND +e.seq <= :last"
)
"""The events with `after < seq <= last`."""

LISTED = f"json_each(:seqs) l CROSS JOIN events e ON e.seq = l.value JOIN blocks b ON b.block = e.seq >> {BLOCK_SHIFT}"
"""The events whose numbers are in the JSON list `seqs`."""

_EVENT = (
    "b.base_us + e.offset_us",
    *("e.shape", "e.subject"),
    *("e.latency_us", "e.tail_us"),
    *("e.output", "e.input", "e.cost_nano", "e.cache_read", "e.cache_write", "e.reasoning"),
)
_NOT_SKIPPED = "NOT (e.seq <= :skip_seq AND b.base_us + e.offset_us < :skip_us)"

_SHAPE = ("s.id", "t.id", "s.kind = 'llm'", "s.status >= 400", "s.status = 0", "s.cost_source = 'unpriced'")
_SHAPES = """
FROM json_each(:ids) l CROSS JOIN shapes s ON s.id = l.value LEFT JOIN types t ON t.event = s.event AND t.kind = s.kind
"""

_NEW_TYPES = """
INSERT INTO types (kind, event) SELECT DISTINCT s.kind, s.event
FROM json_each(:ids) l CROSS JOIN shapes s ON s.id = l.value WHERE true ON CONFLICT DO NOTHING
"""

_SUBJECT = ("p.id", "m.id", "p.user", "p.org", "p.extra")
_SUBJECTS = """
FROM json_each(:ids) l CROSS JOIN subjects p ON p.id = l.value LEFT JOIN members m ON m.user = p.user AND m.org = p.org
"""

_NEW_MEMBERS = """
INSERT INTO members (user, org) SELECT p.user, p.org
FROM json_each(:ids) l CROSS JOIN subjects p ON p.id = l.value WHERE true ON CONFLICT DO NOTHING
"""

_EXTRA = ("x.id", "a.id", "x.attributes <> '{}'", "x.weight", "x.quantity", "x.other_output")
_EXTRAS = """
FROM json_each(:ids) l CROSS JOIN extras x ON x.id = l.value LEFT JOIN attribute_sets a ON a.attributes = x.attributes
"""

_NEW_ATTRIBUTES = """
INSERT INTO attribute_sets (attributes) SELECT x.attributes
FROM json_each(:ids) l CROSS JOIN extras x ON x.id = l.value WHERE true ON CONFLICT DO NOTHING
"""

_QUARTERS_AN_HOUR = HOUR_US // QUARTER_US
_QUARTERS_A_DAY = DAY_US // QUARTER_US
_ONE = 1_000_000  # a quantity of one, in millionths, which sums leave out


class _Shape(NamedTuple):
    """What the events of a shape have in common."""

    id: int
    type: int
    is_call: int
    failed: int
    other: int  # neither success nor failure
    unpriced: int


class _Subject(NamedTuple):
    """Whom events count for."""

    id: int
    member: int
    user: int
    org: int
    extra: int


class _Extra(NamedTuple):
    """What is out of the ordinary about events."""

    id: int
    attributes: int
    has_attributes: int
    weight: int
    quantity: int
    other_output: int


class _Known(NamedTuple):
    """What is known of the ids in a batch."""

    shapes: Sequence[_Shape]
    subjects: Sequence[_Subject]
    extras: Mapping[int, _Extra]

    def shapes_that_are(self, name: str) -> set[int]:
        return {shape.id for shape in self.shapes if getattr(shape, name)}


class Portion:
    """Some events, column by column; at least one.

    Attributes:
        times: microseconds since 1970.
        quarters: since 1970, and so `hours` and `days`.
        shapes: ids, and so `types`, `members`, `users`, `orgs` and `attributes`.
        has_attributes: whether any event has own dimensions.
        latencies: microseconds; None = unknown.
        first_tokens: microseconds to the first token or byte; None = unknown.
        factors: what each event counts for, negative where it is taken away; None = 1 each.
        columns: those of `WIDE` that hold anything, without the factors.
    """

    def __init__(self, columns: Sequence[Sequence[Any]], known: _Known, sign: int) -> None:
        self.times, self.shapes, subjects, self.latencies, tails, outputs, inputs, costs, *cached = columns
        self.quarters = [time // QUARTER_US for time in self.times]
        self.hours = [quarter // _QUARTERS_AN_HOUR for quarter in self.quarters]
        self.days = [quarter // _QUARTERS_A_DAY for quarter in self.quarters]
        self.types = _looked_up(self.shapes, {shape.id: shape.type for shape in known.shapes})
        self.members = _looked_up(subjects, {subject.id: subject.member for subject in known.subjects})
        self.users = _looked_up(subjects, {subject.id: subject.user for subject in known.subjects})
        self.orgs = _looked_up(subjects, {subject.id: subject.org for subject in known.subjects})
        self.first_tokens: list[int | None] = [
            None if tail is None else (latency or 0) - tail for latency, tail in zip(self.latencies, tails, strict=True)
        ]

        def by_extra(name: str) -> list[int]:
            of = {number: getattr(extra, name) for number, extra in known.extras.items()}
            if len(set(of.values())) == 1:
                return [next(iter(of.values()))] * len(subjects)
            return _looked_up(subjects, {subject.id: of[subject.extra] for subject in known.subjects})

        self.attributes = by_extra("attributes")
        self.has_attributes = any(by_extra("has_attributes"))
        factors = [weight * sign for weight in by_extra("weight")]
        self.factors = factors if factors.count(1) < len(factors) else None
        calls = known.shapes_that_are("is_call")
        both = [
            (output, other) if shape in calls else (other, output)
            for shape, output, other in zip(self.shapes, outputs, by_extra("other_output"), strict=True)
        ]
        sums: dict[str, Sequence[int]] = {
            "events": [1] * len(self.times),
            "latency": [latency or 0 for latency in self.latencies],
            "unmeasured": [latency is None for latency in self.latencies] if None in self.latencies else (),
            "quantity": [quantity - _ONE for quantity in by_extra("quantity")],
        }
        sums["output"], sums["bytes"] = zip(*both, strict=True)
        if costs.count(None) < len(costs):
            sums["cost"] = [cost or 0 for cost in costs]
            sums["costed"] = [cost is not None for cost in costs]
        sums |= zip(("input", "cache_read", "cache_write", "reasoning"), (inputs, *cached), strict=True)
        for name in ("failed", "other", "unpriced"):
            those = known.shapes_that_are(name)
            sums[name] = [shape in those for shape in self.shapes] if those else ()
        self.columns = {name: column for name, column in sums.items() if any(column)}

    @property
    def bound(self) -> int:
        """What no sum of these events, of one or of several columns, can go beyond."""
        columns: Iterable[Iterable[int]] = self.columns.values()
        if self.factors is not None:
            columns = [map(mul, column, self.factors) for column in columns]
        return sum(sum(map(abs, column)) for column in columns)


def portion(
    connection: sqlite3.Connection, rows: str, values: Mapping[str, Any], *, own_transaction: bool
) -> Portion | None:
    """Read some events; None where there are none. See `Fold.take`."""
    columns = columns_of(connection, _EVENT, f"FROM {rows} WHERE {_NOT_SKIPPED}", values)
    _, shapes, subjects, *_ = columns
    if not shapes:
        return None
    known = _learned(connection, set(shapes), set(subjects), own_transaction=own_transaction)
    return Portion(columns, known, values["sign"])


def _learned(
    connection: sqlite3.Connection, shape_ids: set[int], subject_ids: set[int], *, own_transaction: bool
) -> _Known:
    """Look up the ids in a batch; types, members and sets of attributes get theirs where they have none."""

    def look_up(parts: Sequence[str], rows: str, insert: str, ids: Iterable[int]) -> list[tuple[Any, ...]]:
        bound = {"ids": json.dumps(sorted(ids))}
        columns = columns_of(connection, parts, rows, bound)
        if None in columns[1]:
            if own_transaction:
                with Transaction(connection):
                    connection.execute(insert, bound)
            else:
                connection.execute(insert, bound)
            columns = columns_of(connection, parts, rows, bound)
        return list(zip(*columns, strict=True))

    shapes = look_up(_SHAPE, _SHAPES, _NEW_TYPES, shape_ids)
    subjects = [_Subject(*row) for row in look_up(_SUBJECT, _SUBJECTS, _NEW_MEMBERS, subject_ids)]
    extras = look_up(_EXTRA, _EXTRAS, _NEW_ATTRIBUTES, {subject.extra for subject in subjects})
    return _Known([_Shape(*row) for row in shapes], subjects, {row[0]: _Extra(*row) for row in extras})


def _looked_up(ids: Sequence[int], values: Mapping[int, int]) -> list[int]:
    return list(map(values.__getitem__, ids))
