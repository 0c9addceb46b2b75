"""What a question reads, as SQL: raw rows, or cells of a tier, filtered and grouped as the question says.

Both are grouped by the ids of dictionaries, which is faster than by texts, and named afterwards. A key may therefore
come several times: two routes may have the same status.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from usagekit._reading.grouping import grouped, named_by
from usagekit._reading.sources import (
    DICTIONARIES,
    NO_EXTRAS,
    RAW_JOINS,
    RAW_KEYS,
    RAW_PIECES,
    RAW_TAIL,
    RAW_TIME,
    SHAPE_KEYS,
    SUBJECTS,
    TAIL_BLOCKS,
    WITH_EXTRAS,
    Dictionary,
)
from usagekit._reading.unpacking import unpack
from usagekit._store.tiers import DAY_US, HOUR_US, PACKED
from usagekit.query.algebra import BUCKETS, DIMENSIONS
from usagekit.query.periods import offset_changes

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from usagekit._reading.sections import Piece
    from usagekit._reading.state import State
    from usagekit._store.tiers import Tier
    from usagekit.query import UsageQuery

    Row = tuple[Any, ...]

NAME_TABLES = {"user": "users", "org": "orgs"}

_SOUGHT = frozenset({"member", "org"})  # columns whose cells are found one by one where few are asked for
_FEW = 16  # one in so many
_MANY_CELLS = 400


class Rows:
    """Reads over one connection, in one transaction, what a question's filters leave; makes a temporary table there.

    Args:
        connection: open, with the functions of `exact`.
        query: the question.
        windows: when, half-open, in microseconds; ascending and disjoint.
        state: of the ledger.

    Attributes:
        own: those of the question's dimensions that the app declared.
        allowed: what its filters let through, by dimension; users and orgs as ids.
        extra: how raw rows say what is out of the ordinary.
    """

    def __init__(
        self, connection: sqlite3.Connection, query: UsageQuery, windows: Sequence[tuple[int, int]], state: State
    ) -> None:
        self._connection = connection
        self._windows = windows
        self._tz = query.tz
        self._state = state
        self.own = tuple(name for name in (*query.by, *query.where) if name not in DIMENSIONS and name not in BUCKETS)
        self.extra = WITH_EXTRAS if state.has_extras else NO_EXTRAS
        self.allowed = {name: self._ids(name, values) for name, values in query.where.items()}

    def _ids(self, name: str, values: Iterable[Any]) -> list[Any]:
        """Give what a filter allows, users and orgs as ids."""
        allowed = list(values)
        if name not in NAME_TABLES:
            return allowed
        sql = f"SELECT id FROM {NAME_TABLES[name]} WHERE name IN (SELECT value FROM json_each(?))"
        ids = [row[0] for row in self._connection.execute(sql, (json.dumps(allowed),))]
        return [*ids, *(self._state.erased if name == "user" and "" in allowed else ())]

    @contextmanager
    def only_users(self, users: Iterable[int] | None) -> Iterator[None]:
        """Leave all but these users, by id, out of what is read in a block; None = leave none out."""
        before = self.allowed
        if users is None:
            yield
            return
        asked = set(users)
        self.allowed = {**before, "user": list(asked.intersection(before.get("user", asked)))}
        try:
            yield
        finally:
            self.allowed = before

    def _filter(self, expression: str, name: str, values: dict[str, Any]) -> str:
        return f"{expression} IN ({self._listed(name, values)})"

    def _listed(self, name: str, values: dict[str, Any]) -> str:
        # One parameter however many values: SQLite looks named ones up one by one.
        listed = f"allowed_{name}"
        values[listed] = json.dumps(self.allowed[name])
        return f"SELECT value FROM json_each(:{listed})"

    # Cells.

    def cells(
        self,
        tier: Tier,
        planned: Sequence[Piece],
        by: Sequence[str],
        columns: Sequence[str],
        *,
        condition: str = "1",
        given: Mapping[str, Any] | None = None,
        also: Sequence[str] = (),
        apart: bool = False,
    ) -> list[Row]:
        """Give the groups of the cells of some pieces.

        Args:
            tier: the pieces' own.
            planned: which cells.
            by: what to group by.
            columns: aggregates, as SQL on cells `t` and pieces `w`.
            condition: which of the cells to take, as SQL.
            given: values bound in them.
            also: what to group by, too, as SQL; it comes before the columns.
            apart: give cell by cell, without adding up; columns are no aggregates then.
        """
        values = dict(given or {})
        filters = self._cell_filters(tier, values)
        if self._is_sought(tier, filters, values):
            self._load(self._single_cells(tier, planned))
            at = f"t.{tier.clock} = w.lo"
        else:
            self._load(planned)
            at = f"t.{tier.clock} >= w.lo AND t.{tier.clock} < w.hi"
        table = tier.name
        if tier in PACKED:
            unpack(self._connection, tier)
            table, at = "temp.unpacked", "t.piece = w.rowid"
        where = [condition, *(f"t.{column} IN ({allowed})" for column, allowed in filters.items())]
        ids: dict[str, str] = {}  # what is grouped by, and its name
        names: list[str] = []
        joins: dict[str, None] = {}
        buckets = [name for name in by if name in BUCKETS]
        for name in by:
            if name in BUCKETS:
                bucket = f"k{buckets.index(name)}"
                ids[f"w.{bucket}"] = bucket
                names.append(f"g.{bucket}")
                continue
            column, dictionary = self._looked_up(tier, name)
            ids[f"t.{column}"] = column
            names.append(self._key(dictionary, name, values))
            joins[named_by(dictionary, column)] = None
        for number, expression in enumerate(also):
            ids[expression] = f"a{number}"
            names.append(f"g.a{number}")
        rows = f"FROM temp.pieces w CROSS JOIN {table} t ON {at} WHERE {' AND '.join(where)}"
        sql = grouped(rows, ids, columns, names, "".join(joins), apart=apart)
        return self._connection.execute(sql, values).fetchall()

    def is_apart(self, tier: Tier, planned: Iterable[Piece], by: Sequence[str]) -> bool:
        """Whether hardly any cells of some pieces would be added up, so that grouping them is not worth the sorting."""
        columns = {self._looked_up(tier, name)[0] for name in by if name not in BUCKETS}
        return columns == set(tier.key) and all(piece.end - piece.start == 1 for piece in planned)

    def _looked_up(self, tier: Tier, name: str) -> tuple[str, Dictionary]:
        """Give the column of a tier's key that knows a dimension, and what its ids stand for."""
        wanted = None if name in self.own else name
        return next((column, DICTIONARIES[column]) for column in tier.key if wanted in DICTIONARIES[column].keys)

    def _key(self, dictionary: Dictionary, name: str, values: dict[str, Any]) -> str:
        if name in self.own:
            return _attribute(dictionary.keys[None], name, values)
        return dictionary.keys[name]

    def _cell_filters(self, tier: Tier, values: dict[str, Any]) -> dict[str, str]:
        """Give SELECTs of the ids that the question's filters allow, by column of the tier's key."""
        filters: dict[str, str] = {}
        for name in self.allowed:
            column, dictionary = self._looked_up(tier, name)
            table, alias, _ = dictionary
            if not table:
                filters[column] = self._listed(name, values)
                continue
            before = filters.get(column, f"SELECT {alias}.id FROM {table} {alias} WHERE 1")
            filters[column] = f"{before} AND {self._filter(self._key(dictionary, name, values), name, values)}"
        return filters

    def _is_sought(self, tier: Tier, filters: Mapping[str, str], values: Mapping[str, Any]) -> bool:
        """Whether cells are found one by one, by their whole key: where filters leave few in each stretch of time."""
        column = tier.order[1] if len(tier.order) > 1 else ""
        if column not in _SOUGHT or column not in filters:
            return False
        table = DICTIONARIES[column].table or NAME_TABLES[column]
        sql = f"SELECT (SELECT count(*) FROM ({filters[column]})), (SELECT max(id) FROM {table})"
        found, of = self._connection.execute(sql, values).fetchone()
        return bool(found <= 1 or found * _FEW <= (of or 0))

    def _single_cells(self, tier: Tier, planned: Sequence[Piece]) -> Iterable[Piece]:
        for piece in planned:
            for cell in self.cells_between(tier, piece.start, piece.end):
                yield piece._replace(start=cell, end=cell + 1)

    def cells_between(self, tier: Tier, start: int, end: int) -> Sequence[int]:
        """Give the numbers of the cells of a stretch of time; of a very long one, those of days with events."""
        if end - start <= _MANY_CELLS:
            return range(start, end)
        days = ((first - tier.origin_us, behind - tier.origin_us) for first, behind in self.days_with_events())
        cells = (range(first // tier.cell_us, -(-behind // tier.cell_us)) for first, behind in days)
        return [cell for cell in dict.fromkeys(chain.from_iterable(cells)) if start <= cell < end]

    def days_with_events(self) -> list[tuple[int, int]]:
        """Give the days of UTC in which the rollups have events: begin and end, in microseconds, ascending."""
        days = self._connection.execute("SELECT DISTINCT day FROM type_days ORDER BY day")
        return [(day * DAY_US, (day + 1) * DAY_US) for (day,) in days]

    def blobs(self, tier: Tier, planned: Iterable[Piece], columns: Sequence[str], buckets: int) -> list[Row]:
        """Give the buckets and some columns of each cell of a tier whose cells are blobs."""
        self._load(planned)
        wanted = ", ".join([*(f"w.k{number}" for number in range(buckets)), *(f"t.{name}" for name in columns)])
        return self._connection.execute(
            f"SELECT {wanted} FROM temp.pieces w CROSS JOIN {tier.name} t"
            f" ON t.{tier.clock} >= w.lo AND t.{tier.clock} < w.hi"
        ).fetchall()

    def leaders(self, tier: Tier, cell: int, columns: Sequence[str], most: int) -> list[tuple[int, int]]:
        """Give the members with the largest sum of `columns` in all that one time's cells hold: users and sums.

        Args:
            tier: one whose cells are of members.
            cell: its number.
            columns: of the tier.
            most: how many at the most; the largest come first.
        """
        values: dict[str, Any] = {"cell": cell, "most": most}
        where = [f"t.{column} IN ({allowed})" for column, allowed in self._cell_filters(tier, values).items()]
        total = " + ".join(f"t.{name}" for name in columns)
        # Of one time alone, cells are in the order of members: nothing has to be sorted to be grouped.
        total, group = (total, "") if tier.key == ("member",) else (f"sum({total})", " GROUP BY 1")
        best = (
            f"SELECT t.member, {total} AS total FROM {tier.name} t"
            f" WHERE {' AND '.join([f't.{tier.clock} = :cell', *where])}{group} ORDER BY total DESC LIMIT :most"
        )
        sql = f"SELECT m.user, g.total FROM ({best}) g CROSS JOIN members m ON m.id = g.member ORDER BY total DESC"
        return self._connection.execute(sql, values).fetchall()

    def users_of_many_orgs(self, most: int) -> tuple[list[int], int]:
        """Give at most so many users, those of the most orgs; and of how many orgs any other is at the most."""
        sql = "SELECT user, count(*) FROM members GROUP BY user HAVING count(*) > 1 ORDER BY 2 DESC LIMIT ?"
        found = self._connection.execute(sql, (most + 1,)).fetchall()
        return [user for user, _ in found[:most]], found[most][1] if len(found) > most else 1

    # Raw rows.

    def raw(
        self,
        planned: Iterable[Piece],
        by: Sequence[str],
        columns: Sequence[str],
        frontier: int,
        *,
        behind: bool = False,
        condition: str = "1",
        also: Sequence[str] = (),
        shape_conditions: Sequence[str] = (),
    ) -> list[Row]:
        """Give the groups of the raw rows of some pieces, of events up to the frontier.

        Args:
            planned: which stretches of time.
            by: what to group by.
            columns: aggregates, as SQL on raw rows `e`, their dictionaries and pieces `w`.
            frontier: the last event that is looked at.
            behind: look at the events behind it instead.
            condition: which of the rows to take, as SQL.
            also: what to group by, too, as SQL; it comes before the columns.
            shape_conditions: SQL on shapes `s`, for each of the first columns: where it is false the column is 0;
                `""` = no condition. Only where `by` has something that shapes tell: each group is of one shape then.
        """
        return self._raw(
            planned,
            by,
            columns,
            frontier,
            behind=behind,
            condition=condition,
            also=also,
            shape_conditions=shape_conditions,
        ).fetchall()

    def raw_values(
        self,
        planned: Iterable[Piece],
        by: Sequence[str],
        columns: Sequence[str],
        frontier: int,
        *,
        behind: bool = False,
        condition: str = "1",
    ) -> Iterable[Row]:
        """Give the same row by row, in no order and without adding up: columns are no aggregates."""
        return self._raw(planned, by, columns, frontier, behind=behind, condition=condition, apart=True)

    def _raw(
        self,
        planned: Iterable[Piece],
        by: Sequence[str],
        columns: Sequence[str],
        frontier: int,
        *,
        behind: bool,
        condition: str,
        also: Sequence[str] = (),
        shape_conditions: Sequence[str] = (),
        apart: bool = False,
    ) -> sqlite3.Cursor:
        self._load(planned)
        rows, where = (RAW_TAIL, [TAIL_BLOCKS]) if behind else (RAW_PIECES, [])
        values: dict[str, Any] = {"frontier": frontier}
        ids: dict[str, str] = {}
        names: list[str] = []
        named: dict[str, None] = {}
        buckets = [name for name in by if name in BUCKETS]
        for name in by:
            # With extras, there may be a subject for nearly each event.
            if name in SHAPE_KEYS or (name in RAW_KEYS and not self._state.has_extras):
                column, dictionary = ("shape", DICTIONARIES["shape"]) if name in SHAPE_KEYS else ("subject", SUBJECTS)
                ids[f"e.{column}"] = column
                names.append(RAW_KEYS[name])
                named[named_by(dictionary, column)] = None
                continue
            if name in BUCKETS:
                # What is taken away from a section lies outside of its buckets.
                expression = f"coalesce(w.k{buckets.index(name)}, {self._bucket(name)})"
            else:
                expression = self._raw_key(name, values)
            # Two may be the same: own dimensions are, where no event has any.
            names.append(f"g.{ids.setdefault(expression, f'i{len(ids)}')}")
        for number, expression in enumerate(also):
            ids[expression] = f"a{number}"
            names.append(f"g.a{number}")
        own = [self._filter(self._raw_key(name, values), name, values) for name in self.allowed if name in self.own]
        # A row needs a look into those dictionaries alone that something is taken from.
        used = " ".join([*ids, *columns, condition, *own, self.extra.join])
        joins = [join for prefix, join in RAW_JOINS.items() if re.search(rf"\b{prefix[0]}\.", used)]
        where += [condition, *self._early_filters(values), *own]
        rows += f" {''.join(joins)}{self.extra.join} WHERE {' AND '.join(where)}"
        sql = grouped(rows, ids, columns, names, "".join(named), shape_conditions, apart=apart)
        return self._connection.execute(sql, values)

    def users_of(self, subjects: Iterable[int]) -> Iterable[int]:
        """Give the users that raw rows of some subjects count for; one may come several times."""
        sql = "SELECT user FROM subjects WHERE id IN (SELECT value FROM json_each(?))"
        return (user for (user,) in self._connection.execute(sql, (json.dumps(list(subjects)),)))

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
        conditions += [self._filter(self._raw_key(name, values), name, values) for name in self.allowed]
        return " AND ".join(conditions), values

    def _early_filters(self, values: dict[str, Any]) -> Iterable[str]:
        """Give conditions on a row's own columns, so that most rows need no look into the dictionaries."""
        for column, dictionary in (("subject", SUBJECTS), ("shape", DICTIONARIES["shape"])):
            table, alias, keys = dictionary
            where = [self._filter(keys[name], name, values) for name in self.allowed if name in keys]
            if where:
                yield f"e.{column} IN (SELECT {alias}.id FROM {table} {alias} WHERE {' AND '.join(where)})"

    def _raw_key(self, name: str, values: dict[str, Any]) -> str:
        if name in self.own:
            return _attribute("x.attributes", name, values) if self._state.has_extras else "''"
        return RAW_KEYS[name]

    def _bucket(self, name: str) -> str:
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
        # Only where both data and question are: a wrong clock may have left events in a far future.
        of_tail = f"SELECT min(first_us), max(last_us) FROM blocks b WHERE {TAIL_BLOCKS}"
        first_us, last_us = self._connection.execute(of_tail, {"frontier": self._state.frontier}).fetchone()
        if self._state.last_us >= 0:
            first_us = min(self._state.first_us, self._state.first_us if first_us is None else first_us)
            last_us = max(self._state.last_us, last_us or 0)
        if first_us is None or not self._windows:
            return "0"
        start = max(first_us, self._windows[0][0])
        end = min(last_us + 1, self._windows[-1][1])
        changes = offset_changes(self._tz, start, max(start, end))
        if len(changes) == 1:
            return str(changes[0][1])
        cases = " ".join(f"WHEN {RAW_TIME} < {after} THEN {offset}" for (_, offset), (after, _) in pairwise(changes))
        return f"CASE {cases} ELSE {changes[-1][1]} END"

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


def _attribute(expression: str, name: str, values: dict[str, Any]) -> str:
    values[f"path_{name}"] = f'$."{name}"'
    return f"coalesce(json_extract({expression}, :path_{name}), '')"
