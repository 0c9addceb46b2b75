"""From a checked syntax tree to SQLite's SQL and the types of its columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from usagekit.backends.analytics_engine.sql.dataset import COLUMNS, source
from usagekit.backends.analytics_engine.sql.errors import SqlError
from usagekit.backends.analytics_engine.sql.expressions import Scope, Translator, conditional
from usagekit.backends.analytics_engine.sql.parse import check_select, shown
from usagekit.backends.analytics_engine.sql.types import Typed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from usagekit.backends.analytics_engine.layout import Layout

__all__ = ["Plan", "translated"]


@dataclass(slots=True)
class Plan:
    """What SQLite is asked, and what comes out: the columns' names and ClickHouse types."""

    sql: str
    columns: list[tuple[str, str]]
    values: dict[str, Any] = field(default_factory=dict)


def translated(select: exp.Select, datasets: Mapping[str, Layout]) -> Plan:
    """Translate a statement on these datasets; raises `SqlError`."""
    values: dict[str, Any] = {}
    try:
        plan = _Select(select, datasets, values, 0).plan()
    except RecursionError:
        raise SqlError("the statement is nested too deeply") from None
    plan.values = values
    return plan


class _Select:
    """One SELECT, or one of its subqueries, while it is being translated."""

    def __init__(self, tree: exp.Select, datasets: Mapping[str, Layout], values: dict[str, Any], depth: int) -> None:
        self._tree = tree
        self._datasets = datasets
        self._values = values
        self._depth = depth
        self._inner: Plan | None = None
        self._table: str | None = None
        self._columns = self._from()

    def _from(self) -> dict[str, Typed]:
        """Give the columns there are to choose from, by name."""
        found = self._tree.args.get("from_")
        if found is None:
            return {}
        table = found.this
        _only(table, {"this"}, "table aliases and table options are not supported")
        if isinstance(table, exp.Subquery) and isinstance(table.this, exp.Select):
            check_select(table.this)
            if table.this.args.get("format") is not None:
                raise SqlError("FORMAT is not supported in a subquery")
            self._inner = _Select(table.this, self._datasets, self._values, self._depth + 1).plan()
            return {
                name: _column(f'"@{self._depth + 1}.{n}"', kind) for n, (name, kind) in enumerate(self._inner.columns)
            }
        if not isinstance(table, exp.Table) or not isinstance(table.this, exp.Identifier):
            raise SqlError(f"unsupported table: {shown(table)}")
        self._table = table.name
        if self._table not in self._datasets:
            raise SqlError(f"unknown table: {self._table}")
        return _TABLE

    def plan(self) -> Plan:
        """Give the SELECT of SQLite."""
        projected = self._projected()
        aliases = {node.alias: node.this for _, node in projected if isinstance(node, exp.Alias)}
        translator = Translator(Scope(self._columns, {}))
        behind = Translator(Scope(self._columns, aliases))
        keys = [self._key(behind, node) for node in self._list("group")]
        translator.keys = behind.keys = frozenset(keys)
        found = [(name, translator.typed(_bare(node))) for name, node in projected]
        for name, one in found:
            if one.type == "Interval":
                raise SqlError(f"unsupported expression type: {name}")
        outputs = dict(found)
        where = self._condition(behind, "where", aggregates=False)
        having = self._condition(behind, "having", aggregates=True)
        order = self._order(outputs, [name for name, _ in found])
        grouped = bool(keys) or any(one.aggregate for _, one in found) or having is not None
        uncovered: set[str] = set().union(*(one.free for one in (*outputs.values(), *([having] if having else []))))
        for column in sorted(uncovered) if grouped else ():
            raise SqlError(f"column {column} is not under aggregate function and not in GROUP BY keys")
        listed = ", ".join(f'{one.sql} AS "@{self._depth}.{n}"' for n, (_, one) in enumerate(found))
        sql = [
            f"SELECT {listed}",
            self._source(),
            "" if where is None else f"WHERE {where.sql}",
            f"GROUP BY {', '.join(keys)}" if keys else "",
            "" if having is None else f"HAVING {having.sql}",
            f"ORDER BY {', '.join(order)}" if order else "",
            self._window(),
        ]
        return Plan(" ".join(part for part in sql if part), [(name, one.type) for name, one in found])

    def _projected(self) -> list[tuple[str, exp.Expr]]:
        found: list[tuple[str, exp.Expr]] = []
        for node in self._tree.expressions:
            if isinstance(node, exp.Star):
                _only(node, set(), "* takes no options")
                if not self._columns:
                    raise SqlError("* needs a FROM")
                found += [(name, exp.column(exp.to_identifier(name, quoted=True))) for name in self._columns]
            else:
                found.append((node.alias if isinstance(node, exp.Alias) else _name(node), node))
        return found

    def _list(self, clause: str) -> Sequence[exp.Expr]:
        node = self._tree.args.get(clause)
        return () if node is None else node.expressions

    def _key(self, behind: Translator, node: exp.Expr) -> str:
        key = behind.typed(node)
        if key.type == "Interval":
            raise SqlError(f"unsupported expression type: {shown(node)}")
        if key.aggregate:
            raise SqlError(f"an aggregate function cannot be grouped by: {shown(node)}")
        if isinstance(node, exp.Literal):
            raise SqlError(f"cannot group by {shown(node)}; name the column")
        return f"({key.sql} + 0)" if key.sql.isdigit() else key.sql  # SQLite would take it for the place of a column

    def _condition(self, behind: Translator, clause: str, *, aggregates: bool) -> Typed | None:
        node = self._tree.args.get(clause)
        if node is None:
            return None
        condition = behind.typed(node.this)
        if condition.aggregate and not aggregates:
            raise SqlError(f"aggregate functions are not allowed in WHERE: {shown(node.this)}; use HAVING")
        conditional(clause, condition)
        return condition

    def _order(self, outputs: Mapping[str, Typed], names: Sequence[str]) -> list[str]:
        """Give the terms; Analytics Engine looks for names among the columns of the answer, and only there."""
        results = Translator(Scope(outputs, {}))
        terms = []
        for ordered in self._list("order"):
            node = ordered.this
            if isinstance(node, exp.Literal):
                raise SqlError(f"cannot order by {shown(node)}; name the column")
            if isinstance(node, exp.Column) and not node.table and node.name in outputs:
                sql = f'"@{self._depth}.{names.index(node.name)}"'
            else:
                sql = results.typed(node).sql
            terms.append(f"{sql}{' DESC' if ordered.args.get('desc') else ''} NULLS LAST")
        return terms

    def _source(self) -> str:
        if self._inner is not None:
            return f"FROM ({self._inner.sql})"
        if self._table is None:
            return ""
        used = {column for node in self._tree.walk() if isinstance(node, exp.Column) for column in (node.name,)}
        if any(isinstance(node, exp.Star) for node in self._tree.expressions):
            used = set(COLUMNS)
        return f"FROM ({source(self._table, self._datasets[self._table], used, self._values)})"

    def _window(self) -> str:
        limit, offset = (self._tree.args.get(clause) for clause in ("limit", "offset"))
        number = "-1" if limit is None else _count("LIMIT", limit.expression)
        skipped = "0" if offset is None else _count("OFFSET", offset.expression)
        return "" if limit is None and offset is None else f"LIMIT {number} OFFSET {skipped}"


def _column(sql: str, kind: str) -> Typed:
    return Typed(sql=sql, type=kind, free=frozenset([sql.strip('"')]))


_TABLE = {name: _column(f'"{name}"', kind) for name, kind in COLUMNS.items()}


def _bare(node: exp.Expr) -> exp.Expr:
    return node.this if isinstance(node, exp.Alias) else node


def _name(node: exp.Expr) -> str:
    return node.name if isinstance(node, exp.Column) else shown(node)


def _only(node: exp.Expr, allowed: set[str], text: str) -> None:
    if any(value for name, value in node.args.items() if name not in allowed):
        raise SqlError(text)


def _count(clause: str, node: exp.Expr) -> str:
    if clause == "LIMIT" and isinstance(node, exp.Column) and node.name.upper() == "ALL":
        return "-1"
    if isinstance(node, exp.Literal) and not node.is_string and node.name.isdigit() and len(node.name) < 19:
        return node.name
    raise SqlError(f"{clause} takes a whole number: {shown(node)}")
