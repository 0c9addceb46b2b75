"""From text to a checked syntax tree: sqlglot's ClickHouse dialect, cut down to what Analytics Engine takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlglot import exp, parse
from sqlglot.dialects.clickhouse import ClickHouse
from sqlglot.errors import SqlglotError
from sqlglot.parsers.clickhouse import ClickHouseParser

from usagekit.backends.analytics_engine.sql.errors import SqlError

__all__ = ["FORMATS", "Statement", "parsed", "shown"]

FORMATS = ("JSON", "JSONEachRow", "TabSeparated")

MAX_BYTES = 100_000  # of a statement
MAX_DEPTH = 100  # of nested brackets, before Python's own recursion ends it

_SHOW = re.compile(r"\s*SHOW\s+(TABLES|TIMEZONES|TIMEZONE)(?:\s+FORMAT\s+(\w+))?\s*;?\s*", re.IGNORECASE)

_CLAUSES = {
    "with_": "WITH",
    "joins": "JOIN",
    "laterals": "LATERAL",
    "distinct": "SELECT DISTINCT",
    "windows": "WINDOW",
    "qualify": "QUALIFY",
    "prewhere": "PREWHERE",
    "settings": "SETTINGS",
    "sample": "SAMPLE",
    "final": "FINAL",
}
_TAKEN = {"expressions", "from_", "where", "group", "having", "order", "limit", "offset", "format"}


class _Dialect(ClickHouse):
    """ClickHouse, in which every function keeps the name it was called by, and only `"` quotes names."""

    class Tokenizer(ClickHouse.Tokenizer):
        IDENTIFIERS: ClassVar = ['"']

    class Parser(ClickHouseParser):
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar = {
            name: parser
            for name, parser in ClickHouseParser.FUNCTION_PARSERS.items()
            if name in {"EXTRACT", "POSITION"}
        }
        NO_PAREN_FUNCTIONS: ClassVar[dict[Any, Any]] = {}
        NO_PAREN_FUNCTION_PARSERS: ClassVar = {"CASE": ClickHouseParser.NO_PAREN_FUNCTION_PARSERS["CASE"]}


@dataclass(frozen=True, slots=True)
class Statement:
    """What was asked: a SELECT, or the name of a SHOW; and the format of the answer."""

    select: exp.Select | None
    show: str
    format: str


def shown(node: exp.Expr) -> str:
    """Give an expression as text, for errors and for the names of columns without one."""
    return node.sql(dialect=_Dialect, comments=False)


def parsed(sql: str) -> Statement:
    """Parse one statement; raises `SqlError` for what is no statement of Analytics Engine."""
    if len(sql.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise SqlError(f"the statement is longer than {MAX_BYTES:,} bytes")
    if "\0" in sql or any(0xD800 <= ord(character) < 0xE000 for character in sql):
        raise SqlError("sql parser error: the statement is no valid text")
    show = _SHOW.fullmatch(sql)
    if show is not None:
        return Statement(None, show[1].upper(), _format(show[2]))
    _check_depth(sql)
    try:
        trees = [tree for tree in parse(sql, read=_Dialect) if tree is not None]
    except (SqlglotError, RecursionError) as error:
        raise SqlError(f"sql parser error: {_explained(sql, error)}") from None
    if len(trees) != 1:
        raise SqlError(f"sql parser error: expected one statement, found {len(trees)}")
    tree = trees[0]
    if isinstance(tree, exp.SetOperation):
        raise SqlError("UNION is not supported")
    if not isinstance(tree, exp.Select):
        raise SqlError(f"unsupported statement: {sql.split(None, 1)[0].upper()}; use SELECT or SHOW TABLES")
    check_select(tree)
    form = tree.args.get("format")
    return Statement(tree, "", _format(None if form is None else form.name))


def check_select(tree: exp.Select) -> None:
    """Raise `SqlError` for a clause that a SELECT of Analytics Engine cannot have."""
    for name, value in tree.args.items():
        if value and name not in _TAKEN:
            raise SqlError(f"{_CLAUSES.get(name, name.upper())} is not supported")
    if not tree.expressions:
        raise SqlError("sql parser error: Expected an expression, found: EOF")
    group = tree.args.get("group")
    if group is not None:
        for name, value in group.args.items():
            if value and name != "expressions":
                raise SqlError(f"GROUP BY ... {name.upper()} is not supported")
    for ordered in () if tree.args.get("order") is None else tree.args["order"].expressions:
        if ordered.args.get("with_fill"):
            raise SqlError("ORDER BY ... WITH FILL is not supported")
    limit = tree.args.get("limit")
    if limit is not None and (
        limit.args.get("expressions") or limit.args.get("offset") or type(limit) is not exp.Limit
    ):
        raise SqlError("LIMIT takes one number; use OFFSET for what to skip")


def _format(name: str | None) -> str:
    if name is None:
        return FORMATS[0]
    if name not in FORMATS:
        raise SqlError(f"unsupported format: {name}; use one of {', '.join(FORMATS)}")
    return name


def _check_depth(sql: str) -> None:
    depth = 0
    for character in sql:
        depth += (character == "(") - (character == ")")
        if depth > MAX_DEPTH:
            raise SqlError(f"sql parser error: more than {MAX_DEPTH} brackets within each other")


def _explained(sql: str, error: SqlglotError | RecursionError) -> str:
    if "`" in sql:
        return "Expected identifier, found: `"
    if isinstance(error, RecursionError):
        return "the statement is nested too deeply"
    where = getattr(error, "errors", None)
    if where:
        found = where[0]
        if "missing for" in found["description"]:  # in words of sqlglot's own classes
            found = found | {"description": "Expected an expression"}
        return f"{found['description']} at Line: {found['line']}, Column {found['col']}, near {found['highlight']!r}"
    return str(error).splitlines()[0]
