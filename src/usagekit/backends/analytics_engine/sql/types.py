"""The types of expressions, by their ClickHouse names, and which type comes out of what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from usagekit.backends.analytics_engine.sql.errors import SqlError

__all__ = ["Typed", "arithmetic", "common", "family", "integer", "is_integer", "is_number", "zone_of"]

UTC = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """One translated expression.

    In SQLite a DateTime is whole seconds since 1970 UTC, a Date whole days, a Bool 1 or 0, an Array a JSON text.

    Attributes:
        sql: what SQLite evaluates.
        type: the ClickHouse type; `"Interval"` and `"Unit"` never leave an argument list.
        free: columns in it that no aggregate function and no grouping key covers.
        aggregate: whether an aggregate function is in it.
        value: of a literal, its value; of an interval, number and unit. None = no literal.
    """

    sql: str
    type: str
    free: frozenset[str] = frozenset()
    aggregate: bool = False
    value: Any = None


_INTEGERS = {f"{sign}Int{bits}": (bits, not sign) for sign in ("U", "") for bits in (8, 16, 32, 64)}
_FAMILIES = {"Float64": "Double", "String": "String", "Bool": "Boolean", "Date": "Date", "Interval": "Interval"}


def integer(bits: int, *, signed: bool) -> str:
    """Give the name of an integer type."""
    return f"{'' if signed else 'U'}Int{min(bits, 64)}"


def width(name: str) -> tuple[int, bool]:
    """Give bits and signedness of an integer, or of what is one inside."""
    return _INTEGERS.get(name, (8, False) if name == "Bool" else (32, False))


def family(name: str) -> str:
    """Give the kind of a type in the words of Analytics Engine's errors: `Integer`, `Double`, `String` and so on."""
    if name in _INTEGERS:
        return "Integer"
    return _FAMILIES.get(name) or name.partition("(")[0]


def is_integer(name: str) -> bool:
    """Tell whether it is a whole number; a Bool is one."""
    return name in _INTEGERS or name == "Bool"


def is_number(name: str) -> bool:
    """Tell whether one can calculate with it."""
    return is_integer(name) or name == "Float64"


def is_datetime(name: str) -> bool:
    """Tell whether it is a DateTime, of whatever zone."""
    return name.startswith("DateTime")


def zone_of(name: str) -> str:
    """Give the zone in which a DateTime is shown."""
    return name.split("'")[1] if "'" in name else UTC


def smallest(value: int) -> str:
    """Give the type of an integer literal."""
    for bits in (8, 16, 32, 64):
        if 0 <= value < 2**bits:
            return integer(bits, signed=False)
        if -(2 ** (bits - 1)) <= value < 0:
            return integer(bits, signed=True)
    return "Float64"


def negated(name: str) -> str:
    """Give the type of minus this."""
    if name == "Float64":
        return name
    bits, signed = width(name)
    return name if signed else integer(bits * 2, signed=True)


def common(left: str, right: str) -> str:
    """Give the type that holds both, which are of one family."""
    if left == right or family(left) != "Integer":
        return left
    (left_bits, left_signed), (right_bits, right_signed) = width(left), width(right)
    signed = left_signed or right_signed
    bits = max(
        left_bits if left_signed or not signed else left_bits * 2,
        right_bits if right_signed or not signed else right_bits * 2,
    )
    return integer(bits, signed=signed)


def wider(left: str, right: str) -> str:
    """Give the type of a bit operation of both."""
    (left_bits, left_signed), (right_bits, right_signed) = width(left), width(right)
    return integer(max(left_bits, right_bits), signed=left_signed or right_signed)


def arithmetic(operator: str, left: str, right: str) -> str:
    """Give the type of `left operator right` of two numbers; operators are `+ - * / % div`."""
    if operator == "/":
        return "Float64"
    (left_bits, left_signed), (right_bits, right_signed) = width(left), width(right)
    signed = left_signed or right_signed
    if operator == "div":
        whole = "Float64" in {left, right}
        return "Int64" if left == "Float64" else integer(left_bits, signed=signed or whole)
    if "Float64" in {left, right}:
        return "Float64"
    if operator == "%":
        return integer(right_bits * 2 if left_signed and not right_signed else right_bits, signed=left_signed)
    return integer(max(left_bits, right_bits) * 2, signed=signed or operator == "-")


def needs(function: str, position: int, argument: Typed, *families: str) -> None:
    """Raise `SqlError` where an argument is of no type that the function takes."""
    if family(argument.type) not in families:
        raise SqlError(
            f"argument {position} of {function.upper()}() must be {' or '.join(families)} "
            f"but instead had {family(argument.type)}"
        )
