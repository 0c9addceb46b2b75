"""Adding up what one question needs, from the rollups as far as they can tell, and from raw rows."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from usagekit._reading.groups import Groups, Key, Ranges, Sums
from usagekit._reading.rows import NAME_TABLES, Rows
from usagekit._reading.sections import Piece, Planner, Section, sections, stretched
from usagekit._reading.sources import RAW_DURATIONS, RAW_EXTREMES, SHAPE_KEYS, bucket, chain_for, latest, raw_value
from usagekit._reading.state import EVER_US, State
from usagekit._reading.users import Users
from usagekit._store import lanes
from usagekit._store.tiers import (
    DAY_US,
    HISTOGRAMS,
    MEMBER_DAYS,
    ORG_HOURS,
    PACKED,
    USER_SETS,
    WEEK_US,
)
from usagekit.query.aggregate import bucket_of
from usagekit.query.algebra import BUCKETS
from usagekit.query.periods import intersected, merged

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

    from usagekit._reading.rows import Row
    from usagekit._store.tiers import Tier
    from usagekit.query import UsageQuery

Weights = dict[Key, dict[int, int]]

RAW_ENOUGH = 4096  # events in the windows that are as fast to read as rollups
_MANY_DAYS = 400


class Reading:
    """Adds up what one question needs, from rollups and raw rows; lives within one read transaction.

    Args:
        connection: open, with the functions of `exact`; temporary tables are made in it.
        query: the question.
        raw_enough: read raw rows alone where no more than that many lie in the windows.

    Attributes:
        state: of the ledger.
        rows: what is read with the question's filters.
        windows: when, half-open, in microseconds.
        rolled: the windows as far as there are events up to the frontier.
        is_small: raw rows are as fast to read as rollups, and are all there.
        used: the tiers that were read.
        complete_from_us: what is earlier may be missing from the answer; None = nothing is.
    """

    def __init__(self, connection: sqlite3.Connection, query: UsageQuery, *, raw_enough: int = RAW_ENOUGH) -> None:
        self._connection = connection
        self._tz = query.tz
        self.state = state = State.of(connection)
        self.windows = [
            (0 if start is None else start, EVER_US if end is None else end) for start, end in query.windows_us
        ]
        self.rolled = intersected(self.windows, [(state.first_us, state.last_us + 1)])
        self.rows = Rows(connection, query, self.windows, state)
        self.is_small = state.raw_from_us <= self.earliest_us and self._count(raw_enough) <= raw_enough
        self.used: dict[str, None] = {}
        self.complete_from_us: int | None = None

    # Time.

    @property
    def earliest_us(self) -> int:
        """When what the rollups are asked for begins."""
        return self.rolled[0][0] if self.rolled else EVER_US

    def _count(self, enough: int) -> int:
        """Give how many events up to the frontier lie in blocks that the windows touch; above `enough` roughly."""
        if not self.rolled or not enough:
            return EVER_US if self.rolled else 0
        lo, hi = self.rolled[0][0], self.rolled[-1][1]
        spans = self._connection.execute(
            "SELECT span FROM spans WHERE last_us >= ? AND first_us < ? LIMIT 3", (lo, hi)
        ).fetchall()
        if len(spans) > 2:
            return EVER_US
        count: int = self._connection.execute(
            "SELECT count(*) * 256 FROM json_each(?) i CROSS JOIN blocks b"
            " ON b.block BETWEEN i.value << 6 AND ((i.value + 1) << 6) - 1 AND b.last_us >= ? AND b.first_us < ?",
            (json.dumps([row[0] for row in spans]), lo, hi),
        ).fetchone()[0]
        return count

    def _planned(
        self, chain: Sequence[Tier], buckets: Sequence[str], *, subtract: bool
    ) -> dict[Tier | None, list[Piece]]:
        """Give what to read of the rollups, and of the raw rows up to the frontier, by where from."""
        state = self.state
        planned: list[Piece] = []
        if not chain:
            planned = [Piece(None, start, end, 1, ()) for start, end in self.rolled]
        elif self.rolled:
            before = intersected(self.rolled, [(0, state.usable_us)])
            after = intersected(self.rolled, [(state.usable_us, EVER_US)])
            planned = [Piece(None, start, end, 1, ()) for start, end in after]
            if before:
                planned += self._cells(self._sections(before, buckets), chain, subtract=subtract)
        found: dict[Tier | None, list[Piece]] = {}
        for piece in planned:
            found.setdefault(piece.tier, []).append(piece)
        return found

    def _sections(self, windows: list[tuple[int, int]], buckets: Sequence[str]) -> list[Section]:
        state = self.state
        one_by_one = buckets or not self.rows.allowed.keys().isdisjoint(NAME_TABLES)  # cells, or sections
        if one_by_one and windows[-1][1] - windows[0][0] > _MANY_DAYS * DAY_US:
            windows = intersected(windows, merged(self.rows.days_with_events()))
        found = stretched(sections(buckets, self._tz, windows), state.first_us, state.last_us)
        if state.usable_us < EVER_US and found and found[-1].end_us > state.usable_us:
            found[-1] = found[-1]._replace(end_us=state.usable_us)
        return found

    def _cells(self, found: list[Section], chain: Sequence[Tier], *, subtract: bool) -> list[Piece]:
        state = self.state
        planners = {
            allowed: Planner(chain, state.first_us, state.last_us, subtract=allowed) for allowed in {False, subtract}
        }
        planned: list[Piece] = []
        for section in found:
            # What is outside a cell cannot be taken away where its raw rows are gone.
            allowed = subtract and (not state.raw_from_us or section.start_us >= state.raw_from_us + WEEK_US)
            planned += planners[allowed].pieces(section)
        return planned

    def note(self, pieces: Iterable[Piece]) -> None:
        """Take note of what is read: where from, and whether something may be missing there."""
        for tier, start, end, _, _ in pieces:
            since, first_us, end_us = self.state.raw_from_us, start, end
            if tier is not None:
                self.used[tier.name] = None
                first_us, end_us = (number * tier.cell_us + tier.origin_us for number in (start, end))
                since = self.state.rollups_from_us
            if since > max(0, first_us):
                self.complete_from_us = max(self.complete_from_us or 0, min(end_us, since))

    # Sums.

    def sums(self, by: tuple[str, ...], columns: Sequence[str], extremes: Sequence[str] = ()) -> Sums:
        """Give for each key of `by` the sums of `columns` (of `WIDE`, `events` first), then the `extremes`.

        Groups without events are left out.
        """
        chain = () if self.is_small else self.chain_for(by, columns, extremes)
        frontier = self.state.frontier_of(chain)
        groups = Groups(len(by), len(columns))
        buckets = [name for name in by if name in BUCKETS]
        for tier, some in self._planned(chain, buckets, subtract=not extremes).items():
            self.note(some)
            ranges = Ranges(by, some)
            signed = any(piece.sign < 0 for piece in ranges.pieces)
            if tier is None:
                found = self._raw_sums(
                    ranges.pieces, ranges.by, columns, extremes, frontier, signed=signed, also=ranges.also
                )
            else:
                apart = not self.state.exact and self.rows.is_apart(tier, ranges.pieces, ranges.by)
                values = self._cell_sums(tier, columns, extremes, signed=signed, apart=apart)
                found = self.rows.cells(tier, ranges.pieces, ranges.by, values, also=ranges.also, apart=apart)
                found = list(_with_integers(found, len(ranges.by) + len(ranges.also))) if self.state.exact else found
            ranges.add_to(groups, found)
        if self.state.last_seq > frontier:
            groups.add(self._raw_sums(self.everywhere, by, columns, extremes, frontier, behind=True))
        if any(not values[0] for values in groups.of.values()):
            return {key: values for key, values in groups.of.items() if values[0]}
        return groups.of

    def chain_for(self, by: Iterable[str], columns: Sequence[str], extremes: Sequence[str] = ()) -> tuple[Tier, ...]:
        """Give the smallest chain of tiers that knows all of this, and what the filters need; `()` = raw rows do."""
        dimensions = {name for name in (*by, *self.rows.allowed) if name not in BUCKETS}
        unusable: set[Tier] = set()
        if self.state.exact:
            unusable.update(PACKED)
        if self.state.hours_from_us > self.earliest_us:
            unusable.update(PACKED)
        if self.state.remade_from_us > self.earliest_us:
            unusable.update((ORG_HOURS, MEMBER_DAYS) if extremes else (ORG_HOURS,))
        return chain_for(dimensions, self.rows.own, columns, extremes, unusable=unusable)

    @property
    def everywhere(self) -> list[Piece]:
        """All of the windows, as raw rows."""
        return [Piece(None, start, end, 1, ()) for start, end in self.windows]

    def _cell_sums(
        self, tier: Tier, columns: Sequence[str], extremes: Sequence[str], *, signed: bool, apart: bool
    ) -> list[str]:
        sign = "w.sign" if signed else "1"
        if apart:
            sums = [f"t.{name} * w.sign" if signed else f"t.{name}" for name in columns]
            return sums + ["t.latency_max" if name == "latency_max" else latest(tier) for name in extremes]
        if self.state.exact:
            sums = [f"exact_sum(t.{name}, {sign})" for name in columns]
        else:
            sums = [f"sum(t.{name} * w.sign)" if signed else f"sum(t.{name})" for name in columns]
        return sums + ["max(t.latency_max)" if name == "latency_max" else f"max({latest(tier)})" for name in extremes]

    def _raw_sums(
        self,
        planned: Sequence[Piece],
        by: tuple[str, ...],
        columns: Sequence[str],
        extremes: Sequence[str],
        frontier: int,
        *,
        signed: bool = False,
        behind: bool = False,
        also: Sequence[str] = (),
    ) -> list[Row]:
        extra, keys = self.rows.extra, len(by) + len(also)
        raw = [raw_value(name, extra) for name in columns]
        values, conditions = [value.whole for value in raw], [""] * len(raw)
        if any(name in SHAPE_KEYS for name in by):  # each group is of one shape
            values, conditions = [value.value for value in raw], [value.condition for value in raw]
        largest = [RAW_EXTREMES[name] for name in extremes]
        factors = [extra.weight] * (extra.weight != "1") + ["w.sign"] * signed
        plain = [f"sum({' * '.join([value, *factors])})" for value in values]
        read = partial(self.rows.raw, planned, by, behind=behind, also=also, shape_conditions=conditions)
        try:
            found = read([*plain, *largest], frontier)
            if not any(type(value) is float for row in found for value in row[keys:]):
                return found
        except self._connection.OperationalError as error:
            if "integer overflow" not in str(error):
                raise
        # A product or a sum went beyond 64 bits. Slower, and without that limit.
        exact = [f"exact_sum({value}, {' * '.join(factors) or '1'})" for value in values]
        return list(_with_integers(read([*exact, *largest], frontier), keys))

    def tail_sums(self, by: tuple[str, ...], columns: Sequence[str], frontier: int) -> list[Row]:
        """Give for each key of `by` the sum of all `columns` together, of events behind the frontier."""
        if self.state.last_seq <= frontier:
            return []
        rows = self._raw_sums(self.everywhere, by, ("events", *columns), (), frontier, behind=True)
        return [(*row[: len(by)], sum(row[len(by) + 1 :])) for row in rows]

    # Histograms, and sets of users.

    def weights(self, by: tuple[str, ...], which: str) -> Weights:
        """Give for each key of `by` the weight of each log-bucket of `"latency"` or `"first_token"`."""
        chain: tuple[Tier, ...] = HISTOGRAMS if self._is_plain(by) and not self.state.exact else ()
        if self.state.remade_from_us > self.earliest_us:
            chain = chain[1:]
        frontier = self.state.frontier_of(chain)
        cells: dict[Key, int] = {}
        pieces: list[Piece] = []
        for tier, some in self._planned(chain, by, subtract=False).items():
            self.note(some)
            if tier is None:
                pieces = some
                continue
            for *key, blob in self.rows.blobs(tier, some, (which,), len(by)):
                cells[tuple(key)] = cells.get(tuple(key), 0) + lanes.number_in(blob)
        groups = {key: lanes.counts_in(number) for key, number in cells.items()}
        if pieces:
            self._add_raw_weights(groups, pieces, by, which, frontier)
        if self.state.last_seq > frontier:
            self._add_raw_weights(groups, self.everywhere, by, which, frontier, behind=True)
        return groups

    def users(self, by: tuple[str, ...]) -> dict[Key, Users] | None:
        """Give for each key of `by` who was there; None where the ledger keeps no sets that tell."""
        if not self._is_plain(by) or self.state.hours_from_us > self.earliest_us:
            return None
        frontier = self.state.frontier_of(USER_SETS)
        found: dict[Key, Users] = {}
        for tier, some in self._planned(USER_SETS, by, subtract=False).items():
            self.note(some)
            if tier is None:
                self._add_raw_users(found, some, by, frontier)
                continue
            for *key, part, blob in self.rows.blobs(tier, some, ("part", "users"), len(by)):
                found.setdefault(tuple(key), Users()).add_marks(part, lanes.number_in(blob))
        if self.state.last_seq > frontier:
            self._add_raw_users(found, self.everywhere, by, frontier, behind=True)
        return found

    def _is_plain(self, by: tuple[str, ...]) -> bool:
        """Whether cells that know nothing but their time can tell, and are worth looking for."""
        return not self.is_small and all(name in BUCKETS for name in (*by, *self.rows.allowed))

    def _add_raw_users(
        self, found: dict[Key, Users], planned: list[Piece], by: tuple[str, ...], frontier: int, *, behind: bool = False
    ) -> None:
        rows = self.rows.raw_values(planned, by, ["e.subject"], frontier, behind=behind)
        subjects: dict[Key, set[int]] = {}
        if by:
            for *key, subject in rows:
                subjects.setdefault(tuple(key), set()).add(subject)
        else:
            subjects[()] = set(itertools.chain.from_iterable(rows))
        for shown, some in subjects.items():
            found.setdefault(shown, Users()).add(self.rows.users_of(some))

    def _add_raw_weights(
        self,
        groups: Weights,
        planned: list[Piece],
        by: tuple[str, ...],
        which: str,
        frontier: int,
        *,
        behind: bool = False,
    ) -> None:
        value, extra = RAW_DURATIONS[which], self.rows.extra
        known = f"{value} IS NOT NULL"
        if not by and not extra.join:
            durations = self.rows.raw_values(planned, by, [value], frontier, behind=behind, condition=known)
            counted = Counter(map(bucket_of, itertools.chain.from_iterable(durations)))
            if counted:
                groups[()] = dict(counted + Counter(groups.get((), {})))
            return
        columns = [f"exact_sum(1, {extra.weight})" if extra.join else "count(*)"]
        buckets = (bucket(value),)
        rows = self.rows.raw(planned, by, columns, frontier, behind=behind, condition=known, also=buckets)
        for *key, number, count in rows:
            weights = groups.setdefault(tuple(key), {})
            weights[number] = weights.get(number, 0) + int(count)

    # Names.

    @property
    def nobody(self) -> frozenset[int]:
        """The ids of users that are nobody: the unknown one, and those that were erased."""
        return frozenset((0, *self.state.erased))

    def label_of(self, name: str) -> Callable[[Iterable[int]], dict[int, str]]:
        """Give what turns ids of users or orgs into names."""
        table = NAME_TABLES[name]

        def names(ids: Iterable[int]) -> dict[int, str]:
            listed = json.dumps(list(ids))
            sql = f"SELECT id, name FROM {table} WHERE id IN (SELECT value FROM json_each(?))"
            found = self._connection.execute(sql, (listed,))
            return {number: "" if text[:1] == "\0" else text for number, text in found}

        return names


def _with_integers(rows: Iterable[Row], keys: int) -> Iterable[Row]:
    """Turn sums that are text, since they go beyond 64 bits, into integers."""
    for row in rows:
        sums = (int(value) if type(value) is str else value for value in row[keys:])
        yield (*row[:keys], *sums)
