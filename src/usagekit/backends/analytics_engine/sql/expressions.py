"""Expressions: one node of the syntax tree to one typed piece of SQLite's SQL."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  a dataclass reads it
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from sqlglot import exp

from usagekit.backends.analytics_engine.sql.aggregates import AGGREGATES
from usagekit.backends.analytics_engine.sql.errors import SqlError
from usagekit.backends.analytics_engine.sql.functions import DATE_PARTS, FUNCTIONS, quoted, seconds_of
from usagekit.backends.analytics_engine.sql.parse import shown
from usagekit.backends.analytics_engine.sql.types import (
    Typed,
    arithmetic,
    family,
    is_datetime,
    is_number,
    needs,
    negated,
    smallest,
    zone_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Scope", "Translator", "conditional"]

_UNITS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400, "WEEK": 604_800, "MONTH": 0, "YEAR": 0}
_DOCUMENTED_UNITS = ("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND")

# What a node may consist of: anything else in it would be left out without a word.
_ARGUMENTS = frozenset("this expression expressions low high unit substr params is_string negate".split())

_ARITHMETIC: dict[type[exp.Expr], str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%"}
_COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}


@dataclass(frozen=True, slots=True)
class Scope:
    """What names mean: aliases of the SELECT where they may be used, and columns."""

    columns: Mapping[str, Typed]
    aliases: Mapping[str, exp.Expr]


def conditional(place: str, condition: Typed) -> str:
    """Give the SQL of a condition; raises `SqlError` where it is no truth value."""
    if family(condition.type) not in {"Integer", "Boolean"}:
        raise SqlError(f"the condition of {place.upper()} must be Boolean but instead had {family(condition.type)}")
    return condition.sql


class Translator:
    """Translates the expressions of one clause. `keys` is the SQL of what is grouped by: it covers its columns."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self.keys: frozenset[str] = frozenset()

    def typed(self, node: exp.Expr) -> Typed:
        """Translate `node`; raises `SqlError` for what Analytics Engine does not take."""
        translate = self._NODES.get(type(node))
        if translate is None or any(value and name not in _ARGUMENTS for name, value in node.args.items()):
            raise SqlError(f"unsupported expression type: {shown(node)}")
        found = translate(self, node)
        if node.args.get("negate"):
            found = replace(found, sql=f"(NOT {found.sql})")
        return replace(found, free=frozenset()) if found.free and found.sql in self.keys else found

    def _made(self, parts: Sequence[Typed], sql: str, kind: str) -> Typed:
        free = frozenset().union(*(part.free for part in parts))
        return Typed(sql=sql, type=kind, free=free, aggregate=any(part.aggregate for part in parts))

    # Names and literals.

    def _column(self, node: exp.Expr) -> Typed:
        name = node.name
        if name in self._scope.aliases:
            # What an alias stands for is made of columns alone.
            behind = Translator(Scope(self._scope.columns, {}))
            behind.keys = self.keys
            return behind.typed(self._scope.aliases[name])
        if name not in self._scope.columns:
            raise SqlError(f"unable to find type of column: {name}")
        return self._scope.columns[name]

    def _literal(self, node: exp.Expr) -> Typed:
        text = node.name
        if node.is_string:
            return Typed(sql=quoted(text), type="String", value=text)
        if text.isascii() and text.isdigit():
            value = int(text)
            if smallest(value) != "Float64":
                sql = text if value < 2**63 else str(value - 2**64)
                return Typed(sql=sql, type=smallest(value), value=value)
        try:
            number = float(text)
        except ValueError:
            raise SqlError(f"sql parser error: {text} is no number") from None
        return Typed(sql="9e999" if number == float("inf") else repr(number), type="Float64", value=number)

    def _boolean(self, node: exp.Expr) -> Typed:
        return Typed(sql=str(int(node.this)), type="Bool", value=bool(node.this))

    def _interval(self, node: exp.Expr) -> Typed:
        number, unit = node.this, node.args.get("unit")
        unit = "" if unit is None else unit.name.upper()
        text = number.name if isinstance(number, exp.Literal) else ""
        if not (text.isascii() and text.isdigit() and len(text) < 10) or unit not in _DOCUMENTED_UNITS:
            raise SqlError(
                f"unsupported interval: {shown(node)}; use INTERVAL '42' and one of {', '.join(_DOCUMENTED_UNITS)}"
            )
        return Typed(sql="", type="Interval", value=(int(text), unit))

    def _paren(self, node: exp.Expr) -> Typed:
        return self.typed(node.this)  # whatever is made here binds more closely than any operator

    # Operators.

    def _neg(self, node: exp.Expr) -> Typed:
        value = self.typed(node.this)
        needs("-", 1, value, "Integer", "Double", "Boolean")
        if isinstance(value.value, int) and not isinstance(value.value, bool):
            return Typed(sql=f"(-{value.value})", type=smallest(-value.value), value=-value.value)
        return self._made([value], f"(-{value.sql})", negated(value.type))

    def _not(self, node: exp.Expr) -> Typed:
        value = self.typed(node.this)
        return self._made([value], f"(NOT {conditional('not', value)})", _truth(value))

    def _connector(self, node: exp.Binary) -> Typed:
        left, right = self.typed(node.left), self.typed(node.right)
        word = "AND" if isinstance(node, exp.And) else "OR"
        sql = f"({conditional(word, left)} {word} {conditional(word, right)})"
        return self._made([left, right], sql, _truth(left, right))

    def _calculation(self, node: exp.Binary) -> Typed:
        operator = _ARITHMETIC[type(node)]
        left, right = self.typed(node.left), self.typed(node.right)
        parts = [left, right]
        if is_number(left.type) and is_number(right.type):
            kind = arithmetic(operator, left.type, right.type)
            if operator in "/%":
                return self._made(parts, f"{'ae_div' if operator == '/' else 'ae_mod'}({left.sql}, {right.sql})", kind)
            return self._made(parts, f"({left.sql} {operator} {right.sql})", kind)
        if operator == "+" and right.type != "Interval" and not is_number(right.type):
            left, right = right, left
        if operator in "+-" and family(left.type) in {"DateTime", "Date"}:
            return self._of_time(operator, left, right, parts, node)
        raise SqlError(f"operator {operator} cannot take {family(left.type)} and {family(right.type)}: {shown(node)}")

    def _of_time(self, operator: str, left: Typed, right: Typed, parts: list[Typed], node: exp.Expr) -> Typed:
        if right.type == "Interval":
            return self._shifted(left, right, operator, parts)
        if is_number(right.type):
            return self._made(parts, f"({left.sql} {operator} CAST({right.sql} AS INTEGER))", left.type)
        if operator == "-" and family(left.type) == family(right.type):
            return self._made(parts, f"({left.sql} - {right.sql})", "Int32")
        raise SqlError(f"operator {operator} cannot take {family(left.type)} and {family(right.type)}: {shown(node)}")

    def _shifted(self, time: Typed, interval: Typed, operator: str, parts: list[Typed]) -> Typed:
        count, unit = interval.value
        in_days = time.type == "Date" and unit in {"DAY", "MONTH", "YEAR"}
        kind = "DateTime" if time.type == "Date" and not in_days else time.type
        seconds = seconds_of("interval", time)
        if _UNITS[unit]:
            sql = f"({seconds} {operator} {count * _UNITS[unit]})"
        else:
            sql = f"ae_add({seconds}, {operator}{count}, '{unit}', {quoted(zone_of(time.type))})"
        return self._made(parts, f"({sql} / 86400)" if in_days else sql, kind)

    def _comparison(self, node: exp.Binary) -> Typed:
        left, right = self.typed(node.left), self.typed(node.right)
        first, second = _comparable(left, right, node)
        return self._made([left, right], f"({first} {_COMPARISONS[type(node)]} {second})", "UInt8")

    def _between(self, node: exp.Expr) -> Typed:
        parts = [self.typed(node.args[name]) for name in ("this", "low", "high")]
        value, low = _comparable(parts[0], parts[1], node)
        _, high = _comparable(parts[0], parts[2], node)
        return self._made(parts, f"({value} BETWEEN {low} AND {high})", "UInt8")

    def _in(self, node: exp.Expr) -> Typed:
        listed = node.expressions
        if not listed:
            raise SqlError(f"unsupported expression type: {shown(node)}")
        parts = [self.typed(one) for one in (node.this, *listed)]
        options = [_comparable(parts[0], part, node)[1] for part in parts[1:]]
        return self._made(parts, f"({parts[0].sql} IN ({', '.join(options)}))", "UInt8")

    def _like(self, node: exp.Expr) -> Typed:
        name = "like" if isinstance(node, exp.Like) else "ilike"
        text, pattern = self.typed(node.this), self.typed(node.expression)
        for position, part in enumerate((text, pattern), 1):
            needs(name, position, part, "String")
        return self._made([text, pattern], f"ae_{name}({text.sql}, {pattern.sql})", "UInt8")

    def _position(self, node: exp.Expr) -> Typed:
        text, part = self.typed(node.this), self.typed(node.args["substr"])
        for position, one in enumerate((part, text), 1):
            needs("position", position, one, "String")
        return self._made([text, part], f"instr({text.sql}, {part.sql})", "UInt64")

    def _extract(self, node: exp.Expr) -> Typed:
        part, time = node.name.lower(), self.typed(node.expression)
        if part.upper() not in _DOCUMENTED_UNITS:
            raise SqlError(f"extract does not know {node.name}; use one of {', '.join(_DOCUMENTED_UNITS)}")
        seconds = seconds_of("extract", time)
        return self._made([time], f"ae_part({seconds}, '{part}', {quoted(zone_of(time.type))})", DATE_PARTS[part])

    # Functions.

    def _function(self, node: exp.Expr) -> Typed:
        name = node.name
        parameters: Sequence[exp.Expr] = ()
        given: Sequence[exp.Expr] = node.expressions
        if isinstance(node, exp.ParameterizedAgg):
            parameters, given = node.expressions, node.args["params"]
        if name.lower() == "quantileweighted" and len(given) == 3:
            name, parameters, given = "quantileExactWeighted", given[:1], given[1:]
        if name.lower() in AGGREGATES:
            return self._aggregation(node, name, parameters, given)
        if name.lower() not in FUNCTIONS or parameters:
            raise SqlError(f"unknown function call: {name.upper()}")
        arguments = [self._argument(name, one, len(given)) for one in given]
        sql, kind = FUNCTIONS[name.lower()](name, arguments)
        if kind == "Interval":
            raise SqlError(f"unsupported expression type: {shown(node)}")
        return self._made(arguments, sql, kind)

    def _argument(self, name: str, node: exp.Expr, count: int) -> Typed:
        if isinstance(node, (exp.Star, exp.Distinct)):
            raise SqlError(f"unsupported expression type: {name.upper()}({shown(node)}) of {count}")
        return self.typed(node)

    def _aggregation(
        self, node: exp.Expr, name: str, parameters: Sequence[exp.Expr], given: Sequence[exp.Expr]
    ) -> Typed:
        distinct = len(given) == 1 and isinstance(given[0], exp.Distinct)
        if distinct:
            given = given[0].expressions
        elif name.lower() == "count" and given:
            raise SqlError(f"COUNT() function must have 0 arguments: {len(given)}")
        keys, self.keys = self.keys, frozenset()
        arguments = [self._argument(name, one, len(given)) for one in given]
        self.keys = keys
        if any(argument.type == "Interval" for argument in arguments):
            raise SqlError(f"{name.upper()}() cannot take an Interval: {shown(node)}")
        if any(argument.aggregate for argument in arguments):
            raise SqlError(f"an aggregate function cannot be within {name.upper()}()")
        sql, kind = AGGREGATES[name.lower()](
            name, [_number(name, one) for one in parameters], arguments, distinct=distinct
        )
        return Typed(sql=sql, type=kind, aggregate=True)

    # What an expression can be made of; everything else is refused.
    _NODES: ClassVar[dict[type[exp.Expr], Callable[[Any, Any], Typed]]] = {
        exp.Column: _column,
        exp.Literal: _literal,
        exp.Boolean: _boolean,
        exp.Interval: _interval,
        exp.Paren: _paren,
        exp.Neg: _neg,
        exp.Not: _not,
        exp.And: _connector,
        exp.Or: _connector,
        exp.Between: _between,
        exp.In: _in,
        exp.Like: _like,
        exp.ILike: _like,
        exp.StrPosition: _position,
        exp.Extract: _extract,
        exp.Anonymous: _function,
        exp.AnonymousAggFunc: _function,
        exp.CombinedAggFunc: _function,
        exp.ParameterizedAgg: _function,
        exp.CombinedParameterizedAgg: _function,
        **dict.fromkeys(_ARITHMETIC, _calculation),
        **dict.fromkeys(_COMPARISONS, _comparison),
    }


def _truth(*parts: Typed) -> str:
    return "Bool" if any(part.type == "Bool" for part in parts) else "UInt8"


def _comparable(left: Typed, right: Typed, node: exp.Expr) -> tuple[str, str]:
    if (left.type == right.type != "Interval") or (is_number(left.type) and is_number(right.type)):
        return left.sql, right.sql
    families = {family(left.type), family(right.type)}
    if families == {"DateTime"}:
        return left.sql, right.sql
    if families == {"DateTime", "Date"}:
        return seconds_of("=", left), seconds_of("=", right)
    if "DateTime" in families and families & {"Integer", "Double"}:
        return left.sql, right.sql
    hint = "; use toDateTime()" if {"DateTime", "String"} == families or is_datetime(left.type) else ""
    raise SqlError(f"cannot compare {family(left.type)} and {family(right.type)}: {shown(node)}{hint}")


def _number(name: str, node: exp.Expr) -> float:
    if isinstance(node, exp.Literal) and not node.is_string:
        return int(node.name) if node.name.isdigit() else float(node.name)
    raise SqlError(f"a parameter of {name.upper()}() must be a number: {shown(node)}")
