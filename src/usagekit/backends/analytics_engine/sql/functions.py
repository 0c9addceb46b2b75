"""The scalar functions of Analytics Engine: what each takes, its type, and the SQLite expression it becomes.

Each entry of `FUNCTIONS` says how many arguments there may be and has a builder that gets them translated. What SQLite
cannot say is a function of `scalars.py`, which the engine registers as `ae_...`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from usagekit.backends.analytics_engine.sql import scalars
from usagekit.backends.analytics_engine.sql.errors import SqlError
from usagekit.backends.analytics_engine.sql.types import (
    Typed,
    arithmetic,
    common,
    family,
    is_datetime,
    is_number,
    needs,
    wider,
    zone_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["DATE_PARTS", "FUNCTIONS", "Function", "as_text", "quoted", "seconds_of"]

Built = tuple[str, str]
"""SQL and type."""

_TIMES = ("DateTime", "Date")
_NUMBERS = ("Integer", "Double", "Boolean")


@dataclass(frozen=True, slots=True)
class Function:
    """How many arguments a function takes, and how it is built of them; `most` None = any number."""

    build: Callable[[str, Sequence[Typed]], Built]
    least: int
    most: int | None

    def __call__(self, name: str, arguments: Sequence[Typed]) -> Built:
        """Give SQL and type; raises `SqlError` for arguments that it does not take."""
        count = len(arguments)
        if count < self.least or (self.most is not None and count > self.most):
            wanted = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most or 'any number of'}"
            raise SqlError(f"{name.upper()}() function must have {wanted} arguments: {count}")
        return self.build(name, arguments)


def quoted(text: str) -> str:
    """Give `text` as a SQLite literal."""
    return "'" + text.replace("'", "''") + "'"


def seconds_of(name: str, argument: Typed) -> str:
    """Give the seconds since 1970 of a DateTime or a Date."""
    needs(name, 1, argument, *_TIMES)
    return argument.sql if is_datetime(argument.type) else f"({argument.sql} * 86400)"


def as_text(argument: Typed) -> str:
    """Give the text of a value of any type, as a column of the answer would show it."""
    if argument.type == "String":
        return argument.sql
    if argument.type == "Interval":
        return quoted(str(argument.value[0]))
    return f"ae_text({argument.sql}, {quoted(argument.type)})"


def _zone(name: str, position: int, arguments: Sequence[Typed], default: str) -> str:
    if len(arguments) < position:
        return default
    zone = arguments[position - 1]
    if not isinstance(zone.value, str):
        raise SqlError(f"argument {position} of {name.upper()}() must be a timezone string")
    return scalars.known_zone(zone.value)


def _with_zone(zone: str, *, given: bool) -> str:
    return f"DateTime('{zone}')" if given or zone != "UTC" else "DateTime"


# Text.


def _text(template: str, result: str, *positions: int) -> Function:
    """A function of texts; `template` gets their SQL."""
    count = len(positions)

    def build(name: str, arguments: Sequence[Typed]) -> Built:
        for position, argument in enumerate(arguments, 1):
            needs(name, position, argument, "String")
        return template.format(*(arguments[position].sql for position in positions)), result

    return Function(build, count, count)


def _substring(name: str, arguments: Sequence[Typed]) -> Built:
    needs(name, 1, arguments[0], "String")
    for position, argument in enumerate(arguments[1:], 2):
        needs(name, position, argument, "Integer")
    return f"ae_substring({', '.join(argument.sql for argument in arguments)})", "String"


def _format(_: str, arguments: Sequence[Typed]) -> Built:
    template = arguments[0].value
    if not isinstance(template, str):
        raise SqlError("argument 1 of FORMAT() must be a string")
    scalars.check_template(template, len(arguments) - 1)
    return f"ae_format({', '.join((quoted(template), *map(as_text, arguments[1:])))})", "String"


# Numbers.


def _int_div(name: str, arguments: Sequence[Typed]) -> Built:
    left, right = arguments
    for position, argument in enumerate(arguments, 1):
        needs(name, position, argument, *_NUMBERS)
    return f"ae_int_div({left.sql}, {right.sql})", arithmetic("div", left.type, right.type)


def _to_double(function: str, count: int) -> Function:
    def build(name: str, arguments: Sequence[Typed]) -> Built:
        for position, argument in enumerate(arguments, 1):
            needs(name, position, argument, *_NUMBERS)
        return f"{function}({', '.join(argument.sql for argument in arguments)})", "Float64"

    return Function(build, count, count)


def _rounding(function: str) -> Function:
    def build(name: str, arguments: Sequence[Typed]) -> Built:
        needs(name, 1, arguments[0], *_NUMBERS)
        if len(arguments) == 2:
            needs(name, 2, arguments[1], "Integer")
        digits = arguments[1].sql if len(arguments) == 2 else "0"
        return f"{function}({arguments[0].sql}, {digits})", arguments[0].type

    return Function(build, 1, 2)


def _to_unsigned(bits: int) -> Function:
    def build(name: str, arguments: Sequence[Typed]) -> Built:
        value = arguments[0]
        needs(name, 1, value, *_NUMBERS, "String", *_TIMES)
        return f"ae_unsigned({value.sql}, {bits})", f"UInt{bits}"

    return Function(build, 1, 1)


def _if(_: str, arguments: Sequence[Typed]) -> Built:
    condition, first, second = arguments
    needs("if", 1, condition, "Integer", "Boolean")
    if family(first.type) != family(second.type):
        raise SqlError(
            "the 2nd and 3rd arguments to IF() function must have the same type but instead had "
            f"{family(first.type)} and {family(second.type)}"
        )
    return f"CASE WHEN {condition.sql} THEN {first.sql} ELSE {second.sql} END", common(first.type, second.type)


# Bits and encodings.


def _bits(function: str, result: str | None = None) -> Function:
    """A function of two integers; `result` None = the wider of both."""

    def build(name: str, arguments: Sequence[Typed]) -> Built:
        for position, argument in enumerate(arguments, 1):
            needs(name, position, argument, "Integer", "Boolean")
        left, right = arguments
        kind = wider(left.type, right.type)
        return f"{function}({left.sql}, {right.sql}, {quoted(kind)})", result or kind

    return Function(build, 2, 2)


def _shift(function: str) -> Function:
    def build(name: str, arguments: Sequence[Typed]) -> Built:
        for position, argument in enumerate(arguments, 1):
            needs(name, position, argument, "Integer", "Boolean")
        value, by = arguments
        return f"{function}({value.sql}, {by.sql}, {quoted(value.type)})", value.type

    return Function(build, 2, 2)


def _one_of_bits(function: str, result: str | None = None, *families: str) -> Function:
    def build(name: str, arguments: Sequence[Typed]) -> Built:
        value = arguments[0]
        needs(name, 1, value, "Integer", "Boolean", *families)
        return f"{function}({value.sql}, {quoted(value.type)})", result or value.type

    return Function(build, 1, 1)


# Dates and times.


def _now(_: str, __: Sequence[Typed]) -> Built:
    return ":now", "DateTime"


def _today(_: str, __: Sequence[Typed]) -> Built:
    return "(:now / 86400)", "Date"


def _to_datetime(name: str, arguments: Sequence[Typed]) -> Built:
    value = arguments[0]
    zone = _zone(name, 2, arguments, zone_of(value.type))
    result = _with_zone(zone, given=len(arguments) == 2)
    if is_datetime(value.type):
        return value.sql, result
    if value.type == "Date":
        return f"ae_midnight({value.sql}, {quoted(zone)})", result
    if is_number(value.type):
        return f"CAST({value.sql} AS INTEGER)", result
    needs(name, 1, value, "String", *_NUMBERS, *_TIMES)
    return f"ae_datetime({value.sql}, {quoted(zone)})", result


def _format_datetime(name: str, arguments: Sequence[Typed]) -> Built:
    seconds = seconds_of(name, arguments[0])
    pattern = arguments[1].value
    if not isinstance(pattern, str):
        raise SqlError(f"argument 2 of {name.upper()}() must be a format string")
    zone = _zone(name, 3, arguments, zone_of(arguments[0].type))
    return f"ae_format_datetime({seconds}, {quoted(pattern)}, {quoted(zone)})", "String"


def _to_unix_timestamp(name: str, arguments: Sequence[Typed]) -> Built:
    return seconds_of(name, arguments[0]), "UInt32"


DATE_PARTS = {
    "year": "UInt16",
    "month": "UInt8",
    "day": "UInt8",
    "hour": "UInt8",
    "minute": "UInt8",
    "second": "UInt8",
    "dayofweek": "UInt8",
    "yyyymm": "UInt32",
}
"""What a number of a date can be, by the name that `ae_part` takes, and its type."""


def _part(part: str) -> Function:
    def build(name: str, arguments: Sequence[Typed]) -> Built:
        seconds = seconds_of(name, arguments[0])
        return f"ae_part({seconds}, '{part}', {quoted(zone_of(arguments[0].type))})", DATE_PARTS[part]

    return Function(build, 1, 1)


_STEPS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400}
_DATES = frozenset({"WEEK", "MONTH", "YEAR"})  # what begins with one of these is a Date


def _start(seconds: str, count: int, unit: str, zone: str) -> str:
    """Give the beginning of an interval: days for weeks, months and years, seconds for the others."""
    step = _STEPS.get(unit)
    if step is not None and zone in {"UTC", "Etc/UTC"} and (count == 1 or unit != "HOUR"):
        return f"({seconds} - {seconds} % {step * count})"
    return f"ae_start({seconds}, {count}, '{unit}', {quoted(zone)})"


def _start_of(unit: str, count: int = 1) -> Function:
    def build(name: str, arguments: Sequence[Typed]) -> Built:
        zone = zone_of(arguments[0].type)
        kind = "Date" if unit in _DATES else _with_zone(zone, given=False)
        return _start(seconds_of(name, arguments[0]), count, unit, zone), kind

    return Function(build, 1, 1)


def _start_of_interval(name: str, arguments: Sequence[Typed]) -> Built:
    needs(name, 2, arguments[1], "Interval")
    zone = _zone(name, 3, arguments, zone_of(arguments[0].type))
    count, unit = arguments[1].value
    if count < 1:
        raise SqlError(f"argument 2 of {name.upper()}() must be a positive interval")
    kind = "Date" if unit in _DATES else _with_zone(zone, given=len(arguments) == 3)
    return _start(seconds_of(name, arguments[0]), count, unit, zone), kind


_LOWER_UTF8 = _text("ae_lower({0})", "String", 0)
_UPPER_UTF8 = _text("ae_upper({0})", "String", 0)
_LOG = _to_double("ae_log", 1)

FUNCTIONS: dict[str, Function] = {
    "length": _text("length({0})", "UInt64", 0),
    "empty": _text("({0} = '')", "UInt8", 0),
    "lower": _text("lower({0})", "String", 0),
    "lowerutf8": _LOWER_UTF8,
    "tolower": _LOWER_UTF8,
    "upper": _text("upper({0})", "String", 0),
    "upperutf8": _UPPER_UTF8,
    "toupper": _UPPER_UTF8,
    "startswith": _text("(substr({0}, 1, length({1})) = {1})", "UInt8", 0, 1),
    "endswith": _text("ae_ends({0}, {1})", "UInt8", 0, 1),
    "substring": Function(_substring, 2, 3),
    "format": Function(_format, 1, None),
    "intdiv": Function(_int_div, 2, 2),
    "log": _LOG,
    "ln": _LOG,
    "pow": _to_double("ae_pow", 2),
    "round": _rounding("ae_round"),
    "floor": _rounding("ae_floor"),
    "ceil": _rounding("ae_ceil"),
    "touint8": _to_unsigned(8),
    "touint32": _to_unsigned(32),
    "if": Function(_if, 3, 3),
    "bitand": _bits("ae_bit_and"),
    "bitor": _bits("ae_bit_or"),
    "bitxor": _bits("ae_bit_xor"),
    "bithammingdistance": _bits("ae_bit_distance", "UInt8"),
    "bittest": _bits("ae_bit_test", "UInt8"),
    "bitnot": _one_of_bits("ae_bit_not"),
    "bitcount": _one_of_bits("ae_bit_count", "UInt8", "Double"),
    "bitshiftleft": _shift("ae_shift_left"),
    "bitshiftright": _shift("ae_shift_right"),
    "bitrotateleft": _shift("ae_rotate_left"),
    "bitrotateright": _shift("ae_rotate_right"),
    "bin": _one_of_bits("ae_bin", "String", "Double", "String", "DateTime"),
    "hex": _one_of_bits("ae_hex", "String", "Double", "String", "DateTime"),
    "now": Function(_now, 0, 0),
    "today": Function(_today, 0, 0),
    "todatetime": Function(_to_datetime, 1, 2),
    "formatdatetime": Function(_format_datetime, 2, 3),
    "tounixtimestamp": Function(_to_unix_timestamp, 1, 1),
    "toyear": _part("year"),
    "tomonth": _part("month"),
    "todayofmonth": _part("day"),
    "todayofweek": _part("dayofweek"),
    "tohour": _part("hour"),
    "tominute": _part("minute"),
    "tosecond": _part("second"),
    "toyyyymm": _part("yyyymm"),
    "tostartofinterval": Function(_start_of_interval, 2, 3),
    "tostartofyear": _start_of("YEAR"),
    "tostartofmonth": _start_of("MONTH"),
    "tostartofweek": _start_of("WEEK"),
    "tostartofday": _start_of("DAY"),
    "tostartofhour": _start_of("HOUR"),
    "tostartoffifteenminutes": _start_of("MINUTE", 15),
    "tostartoftenminutes": _start_of("MINUTE", 10),
    "tostartoffiveminutes": _start_of("MINUTE", 5),
    "tostartofminute": _start_of("MINUTE"),
}
"""By lower-case name; Analytics Engine's are case-insensitive. Operators, `position` and `extract` are syntax."""
