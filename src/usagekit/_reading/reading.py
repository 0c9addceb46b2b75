"""Answering one question over one connection."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from usagekit._reading.sections import Piece, Planner, Section, sections, stretched
from usagekit._reading.sources import (
    NO_EXTRAS,
    RAW_DURATIONS,
    RAW_EXTREMES,
    RAW_JOINS,
    RAW_KEYS,
    RAW_PIECES,
    RAW_TAIL,
    RAW_TIME,
    SHAPE_KEYS,
    SOURCES,
    TAIL_BLOCKS,
    WITH_EXTRAS,
    chain_for,
    raw_value,
)
from usagekit._reading.state import EVER_US, State
from usagekit._store import histograms
from usagekit._store.tiers import (
    DAY_US,
    HISTOGRAMS,
    HOUR_US,
    MEMBER_DAYS,
    MEMBER_WEEKS,
    ORG_HOURS,
    SHAPE_DAYS,
    WEEK_US,
    Tier,
)
from usagekit.query.algebra import BUCKETS, DIMENSIONS
from usagekit.query.periods import intersected, merged, offset_changes

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator

    from usagekit.query import UsageQuery

Key = tuple[Any, ...]
Sums = dict[Key, Sequence[Any]]
Weights = dict[Key, dict[int, int]]

RAW_ENOUGH = 4096  # events in the windows that are as fast to read as rollups
_MANY_DAYS = 400
_SHAPES = frozenset(("e.shape", "t.shape"))  # a number is grouped by faster than texts are; several may have the same
_NAME_TABLES = {"user": "users", "org": "orgs"}


class Reading:
    """Adds up what one question needs, from rollups and raw rows; lives within one read transaction.

    Args:
        connection: open, with the functions of `exact` and `bucket_of`; temporary tables are made in it.
        query: the question.
        raw_enough: read raw rows alone where no more than that many lie in the windows.

    Attributes:
        used: the tiers that were read.
        complete_from_us: what is earlier may be missing from the answer; None = nothing is.
    """

    def __init__(self, connection: sqlite3.Connection, query: UsageQuery, *, raw_enough: int = RAW_ENOUGH) -> None:
        self._connection = connection
        self._query = query
        self._state = State.of(connection)
        self._frontier = self._state.frontier  # of what is being read
        self._own = tuple(name for name in (*query.by, *query.where) if name not in DIMENSIONS and name not in BUCKETS)
        self._windows = [
            (0 if start is None else start, EVER_US if end is None else end) for start, end in query.windows_us
        ]
        self._rolled = self._rolled_windows()
        self._few = self._state.raw_from_us <= self._earliest() and self._count(raw_enough) <= raw_enough
        self._extra = WITH_EXTRAS if self._state.has_extras else NO_EXTRAS
        self._allowed = {name: self._ids(name, values) for name, values in query.where.items()}
        self.used: dict[str, None] = {}
        self.complete_from_us: int | None = None

    @property
    def condition(self) -> tuple[str, dict[str, Any]]:
        """What a raw row must fulfil, as SQL on blocks `b`, events `e` and dictionaries, and the values bound in it."""
        values: dict[str, Any] = {}
        conditions = ["0"]
        if self._windows:
            values |= {"first": self._windows[0][0], "behind": self._windows[-1][1]}
            conditions = [
                f"b.last_us >= :first AND b.first_us < :behind AND {RAW_TIME} >= :first AND {RAW_TIME} < :behind"
            ]
        if len(self._windows) > 1:
            values["windows"] = json.dumps(self._windows)
            conditions.append(
                f"EXISTS (SELECT 1 FROM json_each(:windows) i WHERE {RAW_TIME} >= json_extract(i.value, '$[0]')"
                f" AND {RAW_TIME} < json_extract(i.value, '$[1]'))"
            )
        conditions += [self._filter(self._raw_key(name, values), name, values) for name in self._query.where]
        return " AND ".join(conditions), values

    # Time.

    def _rolled_windows(self) -> list[tuple[int, int]]:
        """Give the windows as far as there are events up to the frontier."""
        state = self._state
        return intersected(self._windows, [(state.first_us, state.last_us + 1)])

    def _earliest(self) -> int:
        return self._rolled[0][0] if self._rolled else EVER_US

    def _count(self, enough: int) -> int:
        """Give how many events up to the frontier lie in blocks that the windows touch; above `enough` roughly."""
        if not self._rolled or not enough:
            return EVER_US if self._rolled else 0
        lo, hi = self._rolled[0][0], self._rolled[-1][1]
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

    def _planned(self, chain: Sequence[Tier], buckets: Sequence[str], *, subtract: bool) -> list[Piece]:
        """Give what to read of the rollups, and of the raw rows up to the frontier."""
        state = self._state
        if not self._rolled:
            return []
        if not chain:
            return [Piece(None, start, end, 1, ()) for start, end in self._rolled]
        before = intersected(self._rolled, [(0, state.usable_us)])
        after = intersected(self._rolled, [(state.usable_us, EVER_US)])
        planned = [Piece(None, start, end, 1, ()) for start, end in after]
        if before:
            if (buckets or "org" in self._allowed) and before[-1][1] - before[0][0] > _MANY_DAYS * DAY_US:
                before = intersected(before, self._days_with_events())
            found = stretched(sections(buckets, self._query.tz, before), state.first_us, state.last_us)
            if state.usable_us < EVER_US and found and found[-1].end_us > state.usable_us:
                found[-1] = found[-1]._replace(end_us=state.usable_us)
            planned += self._cells(found, chain, subtract=subtract)
        return planned

    def _cells(self, found: list[Section], chain: Sequence[Tier], *, subtract: bool) -> list[Piece]:
        state = self._state
        planners = {
            allowed: Planner(chain, state.first_us, state.last_us, subtract=allowed) for allowed in {False, subtract}
        }
        planned: list[Piece] = []
        for section in found:
            # What is outside a cell cannot be taken away where its raw rows are gone.
            allowed = subtract and (not state.raw_from_us or section.start_us >= state.raw_from_us + WEEK_US)
            planned += planners[allowed].pieces(section)
        return planned

    def _days_with_events(self) -> list[tuple[int, int]]:
        days = self._connection.execute("SELECT DISTINCT quarter / 96 FROM quarters ORDER BY 1")
        return merged((day * DAY_US, (day + 1) * DAY_US) for (day,) in days)

    def _note(self, piece: Piece) -> None:
        tier = piece.tier
        start, end, since = piece.start, piece.end, self._state.raw_from_us
        if tier is not None:
            self.used[tier.name] = None
            start, end = (number * tier.cell_us + tier.origin_us for number in (start, end))
            since = self._state.rollups_from_us
        if since > max(0, start):
            self.complete_from_us = max(self.complete_from_us or 0, min(end, since))

    # Sums.

    def sums(self, by: tuple[str, ...], columns: Sequence[str], extremes: Sequence[str] = ()) -> Sums:
        """Give for each key of `by` the sums of `columns` (of `WIDE`, `events` first), then the `extremes`.

        Groups without events are left out.
        """
        dimensions = {name for name in (*by, *self._allowed) if name not in BUCKETS}
        chain = () if self._few else chain_for(dimensions, self._own, columns, extremes)
        if self._state.remade_from_us > self._earliest():
            chain = () if extremes and MEMBER_DAYS in chain else tuple(tier for tier in chain if tier is not ORG_HOURS)
        buckets = [name for name in by if name in BUCKETS]
        groups: Sums = {}
        add = _adder(groups, len(by), len(columns))
        planned = self._planned(chain, buckets, subtract=not extremes)
        self._frontier = self._state.frontier_of(chain)
        for tier, some in _by_tier(planned):
            self._load(_single_cells(some) if self._seeks(tier) else some)
            for piece in some:
                self._note(piece)
            if tier is None:
                add(self._raw_sums(RAW_PIECES, "1", by, columns, extremes, signed=any(p.sign < 0 for p in some)))
            else:
                cells = self._tier_sums(tier, some, by, columns, extremes)
                add(_with_integers(cells, len(by)) if self._state.exact else cells)
        if self._state.last_seq > self._frontier:
            self._load_tail()
            add(self._raw_sums(RAW_TAIL, TAIL_BLOCKS, by, columns, extremes, signed=False))
        if any(not values[0] for values in groups.values()):
            return {key: values for key, values in groups.items() if values[0]}
        return groups

    # Users.

    @contextmanager
    def only_users(self, users: Iterable[int]) -> Iterator[None]:
        """Leave all but these users, by id, out of what is read in a block."""
        before = self._allowed
        asked = before.get("user")
        self._allowed = {**before, "user": [user for user in users if asked is None or user in asked]}
        try:
            yield
        finally:
            self._allowed = before

    def user_bounds(self, columns: Sequence[str]) -> dict[int, tuple[int, bool]] | None:
        """Give for each user an upper bound of the sum of `columns`, and whether events are known to be in the range.

        From whole weeks, or days, that the range touches, and what the rollups do not hold yet. None where that is no
        quick way.
        """
        state = self._state
        if self._few or state.exact or state.usable_us < EVER_US or len(self._rolled) != 1:
            return None
        chain = chain_for({"user", *self._allowed}, self._own, ("events", *columns))
        section = stretched(sections((), "UTC", self._rolled), state.first_us, state.last_us)[0]
        for tier in chain:
            if tier in {MEMBER_WEEKS, MEMBER_DAYS}:
                bounds = self._bounds_by(tier, section, columns)
                if bounds is not None:
                    return self._with_tail(bounds, columns)
        return None

    def _bounds_by(self, tier: Tier, section: Section, columns: Sequence[str]) -> dict[int, tuple[int, bool]] | None:
        """Give the bounds by whole cells of a tier; None where no week lies within the range."""
        start, end = (us - tier.origin_us for us in section[:2])
        inner = -(-start // tier.cell_us), end // tier.cell_us
        if tier is MEMBER_WEEKS and inner[0] >= inner[1]:
            return None
        outer = Piece(tier, start // tier.cell_us, -(-end // tier.cell_us), 1, inner)
        self._load([outer])
        self._note(outer)
        self._frontier = self._state.frontier_of((tier,))
        values: dict[str, Any] = {}
        where = [self._filter(key, name, values) for name, key in self._tier_filters(tier, values)]
        summed = " + ".join(f"t.{name}" for name in columns) or "t.events"
        is_seen = f"t.{tier.clock} >= w.k0 AND t.{tier.clock} < w.k1"
        if tier is MEMBER_DAYS:
            # A day that the range only touches tells by its latest event.
            last = f"t.last + t.day * {DAY_US}"
            is_seen = f"({is_seen}) OR ({last} >= :since AND {last} < :until)"
            values |= {"since": start, "until": end}
        rows = self._connection.execute(
            f"SELECT d.user, sum({summed}), max(ifnull({is_seen}, 0)) {self._joined(tier, ())}"
            f" WHERE {' AND '.join(['1', *where])} GROUP BY d.id",
            values,
        )
        found: dict[int, tuple[int, bool]] = {}
        for user, bound, seen in rows:
            known = found.get(user, (0, False))
            found[user] = known[0] + bound, known[1] or bool(seen)
        return found

    def tells_last(self, by: tuple[str, ...]) -> bool:
        """Whether `lasts` knows a way."""
        state = self._state
        if self._few or len(self._rolled) != 1 or state.usable_us < EVER_US or any(name in BUCKETS for name in by):
            return False
        return bool(self._tiers_of_last(by)) and state.remade_from_us <= self._earliest()

    def _tiers_of_last(self, by: tuple[str, ...]) -> tuple[Tier, ...]:
        return chain_for({*by, *self._allowed}, self._own, ("events",), ("last",))[:1]

    def lasts(self, by: tuple[str, ...]) -> dict[Key, int]:
        """Give for each key of `by` when its latest event was, in microseconds; asked only where `tells_last`.

        A cell that the range only touches tells as much as one within, as long as its latest event lies in the range.
        One that ends behind the range, and has later events, needs a look at the raw rows.
        """
        (tier,) = self._tiers_of_last(by)
        (start, end) = self._rolled[0]
        outer = Piece(tier, start // tier.cell_us, -(-end // tier.cell_us), 1, ())
        self._load(_single_cells([outer]) if self._seeks(tier) else [outer])
        self._note(outer)
        values: dict[str, Any] = {"since": start, "until": end}
        keys = self._tier_keys(tier, by, values)
        where = [self._filter(expression, name, values) for name, expression in self._tier_filters(tier, values)]
        last = f"t.last + t.{tier.clock} * {tier.cell_us}"
        rows = self._connection.execute(
            f"SELECT {', '.join([*keys, f'max(iif({last} < :until, {last}, 0))', f'max({last} >= :until)'])}"
            f" {self._joined(tier, by)} WHERE {' AND '.join([f'{last} >= :since', *where])}"
            f"{' GROUP BY ' * bool(keys)}{', '.join(dict.fromkeys(keys))}",
            values,
        )
        found: dict[Key, int] = {}
        beyond: set[Key] = set()
        for *key, latest, is_beyond in self._shaped(by, keys, rows):
            if latest:
                found[tuple(key)] = max(latest, found.get(tuple(key), 0))
            if is_beyond:
                beyond.add(tuple(key))
        self._frontier = self._state.frontier_of((tier,))
        if beyond:
            self._look_at_edge(
                Piece(None, max(start, end // tier.cell_us * tier.cell_us), end, 1, ()), by, beyond, found
            )
        if self._state.last_seq > self._frontier:
            self._load_tail()
            for *key, latest in self._raw_rows(RAW_TAIL, TAIL_BLOCKS, by, [f"max({RAW_TIME})"]):
                if latest is not None:
                    found[tuple(key)] = max(latest, found.get(tuple(key), 0))
        return found

    def _look_at_edge(self, edge: Piece, by: tuple[str, ...], keys: set[Key], found: dict[Key, int]) -> None:
        users = {key[by.index("user")] for key in keys} if "user" in by else None
        with nullcontext() if users is None else self.only_users(users):
            self._load([edge])
            self._note(edge)
            for *key, latest in self._raw_rows(RAW_PIECES, "1", by, [f"max({RAW_TIME})"]):
                if latest is not None and tuple(key) in keys:
                    found[tuple(key)] = max(latest, found.get(tuple(key), 0))

    def _with_tail(self, found: dict[int, tuple[int, bool]], columns: Sequence[str]) -> dict[int, tuple[int, bool]]:
        if self._state.last_seq > self._frontier:
            self._load_tail()
            asked = ("events", *columns)
            for user, *sums in self._raw_sums(RAW_TAIL, TAIL_BLOCKS, ("user",), asked, (), signed=False):
                found[user] = found.get(user, (0, False))[0] + sum(sums[1:]), True
        return found

    def _tier_sums(
        self, tier: Tier, planned: list[Piece], by: tuple[str, ...], columns: Sequence[str], extremes: Sequence[str]
    ) -> Iterable[tuple[Any, ...]]:
        source = SOURCES[tier]
        values: dict[str, Any] = {}
        keys = self._tier_keys(tier, by, values)
        signed = any(piece.sign < 0 for piece in planned)
        sign = "w.sign" if signed else "1"
        if self._state.exact:
            sums = [f"exact_sum(t.{name}, {sign})" for name in columns]
        else:
            sums = [f"sum(t.{name} * w.sign)" if signed else f"sum(t.{name})" for name in columns]
        sums += [
            "max(t.latency_max)" if name == "latency_max" else f"max(t.last + t.{tier.clock} * {tier.cell_us})"
            for name in extremes
        ]
        where = [self._filter(expression, name, values) for name, expression in self._tier_filters(tier, values)]
        group = list(dict.fromkeys(keys))
        if any(name in source.head for name in by):
            group = ["d.id", *(key for name, key in zip(by, keys, strict=True) if name not in source.head)]
        sql = f"SELECT {', '.join([*keys, *sums])} {self._joined(tier, by)} WHERE {' AND '.join(['1', *where])}"
        if group:
            sql += f" GROUP BY {', '.join(group)}"
        return self._shaped(by, keys, self._connection.execute(sql, values))

    def _shaped(
        self, by: tuple[str, ...], keys: Sequence[str], rows: Iterable[tuple[Any, ...]]
    ) -> Iterable[tuple[Any, ...]]:
        """Give rows with what the question asks for in the place of shapes, where the keys have these."""
        return self._with_shapes(by, list(rows)) if _SHAPES.intersection(keys) else rows

    def _seeks(self, tier: Tier | None) -> bool:
        """Whether cells of a tier are found one by one: those of the orgs that are asked for."""
        return tier is not None and "org" in self._allowed and bool(SOURCES[tier].single)

    def _joined(self, tier: Tier, by: Iterable[str]) -> str:
        source = SOURCES[tier]
        named = (name for name in by if tier is not SHAPE_DAYS)  # its keys are shapes, whose names come later
        asked = {source.keys[self._known(name)] for name in (*named, *self._allowed) if name not in BUCKETS}
        joins = [join for prefix, join in source.joins.items() if any(prefix in expression for expression in asked)]
        return (source.single if self._seeks(tier) else source.rows) + "".join(joins)

    def _known(self, name: str) -> str | None:
        return None if name in self._own else name

    def _tier_keys(self, tier: Tier, by: Iterable[str], values: dict[str, Any]) -> list[str]:
        keys, buckets = [], 0
        for name in by:
            if name in BUCKETS:
                keys.append(f"w.k{buckets}")
                buckets += 1
            elif tier is SHAPE_DAYS:
                keys.append("t.shape")
            else:
                keys.append(self._tier_key(tier, name, values))
        return keys

    def _tier_key(self, tier: Tier, name: str, values: dict[str, Any]) -> str:
        expression = SOURCES[tier].keys[self._known(name)]
        return _attribute(expression, name, values) if name in self._own else expression

    def _tier_filters(self, tier: Tier, values: dict[str, Any]) -> Iterable[tuple[str, str]]:
        for name in self._allowed:
            yield name, self._tier_key(tier, name, values)

    def _raw_sums(
        self,
        rows: str,
        condition: str,
        by: tuple[str, ...],
        columns: Sequence[str],
        extremes: Sequence[str],
        *,
        signed: bool,
    ) -> list[tuple[Any, ...]]:
        largest = [RAW_EXTREMES[name] for name in extremes]
        weight = f"({self._extra.weight} * w.sign)" if signed else self._extra.weight
        plain = [f"sum({raw_value(name, self._extra)} * {weight})" for name in columns]
        try:
            found = self._raw_rows(rows, condition, by, [*plain, *largest])
            if not any(type(value) is float for row in found for value in row[len(by) :]):
                return found
        except self._connection.OperationalError as error:
            if "integer overflow" not in str(error):
                raise
        # A product or a sum went beyond 64 bits. Slower, and without that limit.
        exact = [f"exact_sum({raw_value(name, self._extra)}, {weight})" for name in columns]
        return list(_with_integers(self._raw_rows(rows, condition, by, [*exact, *largest]), len(by)))

    def _raw_rows(
        self, rows: str, condition: str, by: Sequence[str], columns: Sequence[str], first: int = 0
    ) -> list[tuple[Any, ...]]:
        """Give the groups of raw rows; the `first` columns are grouped by, too. A key may come several times."""
        values: dict[str, Any] = {"frontier": self._frontier}
        buckets = [name for name in by if name in BUCKETS]
        # What is taken away from a section lies outside of its buckets.
        names = tuple(by)
        keys = [
            f"coalesce(w.k{buckets.index(name)}, {self._raw_bucket(name)})"
            if name in BUCKETS
            else "e.shape"
            if name in SHAPE_KEYS
            else self._raw_key(name, values)
            for name in names
        ]
        where = [*self._early_filters(values)]
        where += [self._filter(self._raw_key(name, values), name, values) for name in self._allowed]
        grouped = [str(n + 1) for n in range(len(keys) + first)]
        wanted = f"{', '.join([*keys, *columns])}"
        filtered = f"{self._extra.join} WHERE {' AND '.join([condition, *where])}"
        joins = [join for prefix, join in RAW_JOINS.items() if re.search(rf"\b{prefix[0]}\.", wanted + filtered)]
        group = f" GROUP BY {', '.join(grouped)}" if grouped else ""
        sql = f"SELECT {wanted} {rows} {''.join(joins)}{filtered}{group}"
        found = self._connection.execute(sql, values).fetchall()
        return list(self._shaped(names, keys, found))

    def _with_shapes(self, by: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Put what the question asks for in the place of shapes; keys may come several times then."""
        places = [place for place, name in enumerate(by) if name in SHAPE_KEYS]
        used = json.dumps(list({row[places[0]] for row in rows}))
        expressions = ", ".join(SHAPE_KEYS[by[place]] for place in places)
        sql = f"SELECT s.id, {expressions} FROM shapes s WHERE s.id IN (SELECT value FROM json_each(?))"
        values = {number: texts for number, *texts in self._connection.execute(sql, (used,))}
        named = []
        for row in rows:
            changed = list(row)
            for place, text in zip(places, values[row[places[0]]], strict=True):
                changed[place] = text
            named.append(tuple(changed))
        return named

    def _early_filters(self, values: dict[str, Any]) -> Iterable[str]:
        """Give conditions on a row's own columns, so that most rows need no look into the dictionaries."""
        for table, column, keys in (("subjects", "subject", ("user", "org")), ("shapes", "shape", tuple(SHAPE_KEYS))):
            where = [
                self._filter(RAW_KEYS[name].replace("p.", "f.").replace("s.", "f."), name, values)
                for name in self._allowed
                if name in keys
            ]
            if where:
                yield f"e.{column} IN (SELECT f.id FROM {table} f WHERE {' AND '.join(where)})"

    def _raw_key(self, name: str, values: dict[str, Any]) -> str:
        if name in self._own:
            return _attribute("x.attributes", name, values) if self._state.has_extras else "''"
        return RAW_KEYS[name]

    def _raw_bucket(self, name: str) -> str:
        local = f"({RAW_TIME} + {self._offset()} * 1000000)"
        # Times are never before 1970; one day more keeps divisions of local times from rounding towards zero.
        day = f"(({local} + {DAY_US}) / {DAY_US} - 1)"
        if name == "hour":
            return f"(({local} + {DAY_US}) / {HOUR_US} - 24) * 200000 + ({self._offset()} + 100000)"
        if name == "day":
            return day
        if name == "week":
            return f"({day} + 3) / 7"
        return f"strftime('%Y', {day} * 86400, 'unixepoch') * 12 + strftime('%m', {day} * 86400, 'unixepoch')"

    def _offset(self) -> str:
        first_us, last_us = self._connection.execute("SELECT min(first_us), max(last_us) FROM blocks").fetchone()
        if first_us is None or not self._windows:
            return "0"
        # Only where both data and question are: a wrong clock may have left events in a far future.
        start = max(first_us, self._windows[0][0])
        end = min(last_us + 1, self._windows[-1][1])
        changes = offset_changes(self._query.tz, start, max(start, end))
        if len(changes) == 1:
            return str(changes[0][1])
        cases = " ".join(f"WHEN {RAW_TIME} < {after} THEN {offset}" for (_, offset), (after, _) in pairwise(changes))
        return f"CASE {cases} ELSE {changes[-1][1]} END"

    # Histograms.

    def weights(self, by: tuple[str, ...], which: str) -> Weights:
        """Give for each key of `by` the weight of each log-bucket of `"latency"` or `"first_token"`."""
        dimensions = {name for name in (*by, *self._allowed) if name not in BUCKETS}
        chain: tuple[Tier, ...] = () if self._few or dimensions else HISTOGRAMS
        if self._state.remade_from_us > self._earliest():
            chain = chain[1:]
        groups: Weights = {}
        planned = self._planned(chain, by, subtract=False)
        self._frontier = self._state.frontier_of(chain)
        for tier, some in _by_tier(planned):
            self._load(some)
            for piece in some:
                self._note(piece)
            if tier is None:
                self._add_raw_weights(groups, RAW_PIECES, "1", by, which)
                continue
            keys = "".join(f"w.k{n}, " for n in range(len(by)))
            sql = f"SELECT {keys}t.{which} FROM temp.pieces w CROSS JOIN {tier.name} t ON t.{tier.clock} >= w.lo"
            for *key, blob in self._connection.execute(f"{sql} AND t.{tier.clock} < w.hi"):
                histograms.add_packed(groups.setdefault(tuple(key), {}), (blob,))
        if self._state.last_seq > self._frontier:
            self._load_tail()
            self._add_raw_weights(groups, RAW_TAIL, TAIL_BLOCKS, by, which)
        return groups

    def _add_raw_weights(self, groups: Weights, rows: str, condition: str, by: tuple[str, ...], which: str) -> None:
        value = RAW_DURATIONS[which]
        weight = f"exact_sum(1, {self._extra.weight})" if self._state.has_extras else "count(*)"
        columns = [f"bucket_of(max({value}, 0))", weight]
        for *key, number, count in self._raw_rows(rows, f"{condition} AND {value} IS NOT NULL", by, columns, first=1):
            weights = groups.setdefault(tuple(key), {})
            weights[number] = weights.get(number, 0) + int(count)

    # Names.

    @property
    def nobody(self) -> frozenset[int]:
        """The ids of users that are nobody: the unknown one, and those that were erased."""
        return frozenset((0, *self._state.erased))

    def label_of(self, name: str) -> Callable[[Iterable[int]], dict[int, str]]:
        """Give what turns ids of users or orgs into names."""
        table = _NAME_TABLES[name]

        def names(ids: Iterable[int]) -> dict[int, str]:
            listed = json.dumps(list(ids))
            sql = f"SELECT id, name FROM {table} WHERE id IN (SELECT value FROM json_each(?))"
            found = self._connection.execute(sql, (listed,))
            return {number: "" if text[:1] == "\0" else text for number, text in found}

        return names

    def _ids(self, name: str, values: Iterable[Any]) -> list[Any]:
        """Give what a filter allows, users and orgs as ids."""
        allowed = list(values)
        if name not in _NAME_TABLES:
            return allowed
        sql = f"SELECT id FROM {_NAME_TABLES[name]} WHERE name IN (SELECT value FROM json_each(?))"
        ids = [row[0] for row in self._connection.execute(sql, (json.dumps(allowed),))]
        return [*ids, *(self._state.erased if name == "user" and "" in allowed else ())]

    def _filter(self, expression: str, name: str, values: dict[str, Any]) -> str:
        # One parameter however many values: SQLite looks named ones up one by one.
        listed = f"allowed_{name}"
        values[listed] = json.dumps(self._allowed[name])
        return f"{expression} IN (SELECT value FROM json_each(:{listed}))"

    # Pieces.

    def _load(self, planned: Iterable[Piece]) -> None:
        self._connection.execute("DROP TABLE IF EXISTS temp.pieces")
        self._connection.execute("CREATE TEMP TABLE pieces (lo, hi, sign, k0, k1, k2, k3)")
        self._connection.executemany(
            "INSERT INTO temp.pieces VALUES (?,?,?,?,?,?,?)",
            [
                (piece.start, piece.end, piece.sign, *piece.buckets, *(None,) * (4 - len(piece.buckets)))
                for piece in planned
            ],
        )

    def _load_tail(self) -> None:
        self._load(Piece(None, start, end, 1, ()) for start, end in self._windows)


def _by_tier(planned: Iterable[Piece]) -> Iterable[tuple[Tier | None, list[Piece]]]:
    found: dict[Tier | None, list[Piece]] = {}
    for piece in planned:
        found.setdefault(piece.tier, []).append(piece)
    return found.items()


def _single_cells(planned: Iterable[Piece]) -> Iterable[Piece]:
    for piece in planned:
        for cell in range(piece.start, piece.end):
            yield piece._replace(start=cell, end=cell + 1)


def _attribute(expression: str, name: str, values: dict[str, Any]) -> str:
    values[f"path_{name}"] = f'$."{name}"'
    return f"coalesce(json_extract({expression}, :path_{name}), '')"


def _adder(groups: Sums, keys: int, sums: int) -> Callable[[Iterable[tuple[Any, ...]]], None]:
    """Give what adds rows to `groups`: `keys`, then `sums` that add up, then extremes."""

    def add(rows: Iterable[tuple[Any, ...]]) -> None:
        rows = list(rows)
        if not groups:
            # One pass, without looking: mostly all keys differ.
            groups.update({row[:keys]: row[keys:] for row in rows if row[keys] is not None})
            if len(groups) == len(rows):
                return
            groups.clear()
        for row in rows:
            if row[keys] is None:
                continue  # without a single row there is no group, whatever SQL says
            key, values = row[:keys], row[keys:]
            known = groups.get(key)
            if known is None:
                groups[key] = values
            elif len(values) == sums:
                groups[key] = tuple(map(operator.add, known, values))
            else:
                added = map(operator.add, known[:sums], values[:sums])
                groups[key] = (*added, *map(_larger, known[sums:], values[sums:]))

    return add


def _larger(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def _with_integers(rows: Iterable[tuple[Any, ...]], keys: int) -> Iterable[tuple[Any, ...]]:
    """Turn sums that are text, since they go beyond 64 bits, into integers."""
    for row in rows:
        sums = (int(value) if type(value) is str else value for value in row[keys:])
        yield (*row[:keys], *sums)
