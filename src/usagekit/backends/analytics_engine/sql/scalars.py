"""The functions that SQLite calls for what its own SQL cannot say. All are pure; None is NaN and stays it."""

from __future__ import annotations

import math
import re
import struct
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from usagekit.backends.analytics_engine.sql.errors import SqlError
from usagekit.backends.analytics_engine.sql.types import width, zone_of
from usagekit.errors import QueryError
from usagekit.query.periods import time_zone

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SCALARS", "check_template", "datetime_text", "float_text", "known_zone", "text_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1)
_DAY = 86_400


# Zones and times.


@lru_cache(maxsize=256)
def _zone(name: str) -> tzinfo:
    try:
        return time_zone(name)
    except QueryError:
        raise SqlError(f"unknown timezone: {name}") from None


def known_zone(name: str) -> str:
    """Give the name of a zone back; raises `SqlError` where there is none of this name."""
    _zone(name)
    return name


def _local(seconds: float, zone: str) -> datetime:
    try:
        return (_EPOCH + timedelta(seconds=int(seconds))).astimezone(_zone(zone))
    except OverflowError:
        raise SqlError(f"{seconds} is beyond what a DateTime holds") from None


def datetime_text(seconds: float, zone: str) -> str:
    """Give a DateTime as it is shown, `YYYY-MM-DD hh:mm:ss` in its zone."""
    return f"{_local(seconds, zone):%Y-%m-%d %H:%M:%S}"


def _seconds(local: datetime) -> int:
    return (local - _EPOCH) // timedelta(seconds=1)


_DATETIME = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[ T](\d{2}):(\d{2}):(\d{2}))?")


def _datetime(text: str, zone: str) -> int:
    if text.isascii() and text.isdigit() and 5 <= len(text) <= 10:
        return int(text)
    match = _DATETIME.fullmatch(text)
    try:
        if match is not None:
            return _seconds(datetime(*(int(part or 0) for part in match.groups()), tzinfo=_zone(zone)))  # type: ignore[misc,arg-type]
    except (ValueError, OverflowError):
        pass
    raise SqlError(f"cannot parse DateTime from {text!r}; use 'YYYY-MM-DD hh:mm:ss'")


def _midnight(days: int, zone: str) -> int:
    day = _day(days)
    return _seconds(datetime(day.year, day.month, day.day, tzinfo=_zone(zone)))


_PARTS: dict[str, Callable[[datetime], int]] = {
    "year": lambda local: local.year,
    "month": lambda local: local.month,
    "day": lambda local: local.day,
    "hour": lambda local: local.hour,
    "minute": lambda local: local.minute,
    "second": lambda local: local.second,
    "dayofweek": lambda local: local.isoweekday(),
    "yyyymm": lambda local: local.year * 100 + local.month,
}


def _part(seconds: int, part: str, zone: str) -> int:
    return _PARTS[part](_local(seconds, zone))


def _start(seconds: int, count: int, unit: str, zone: str) -> int:
    local = _local(seconds, zone)
    if unit == "YEAR":
        return (date(max(1, local.year - local.year % count), 1, 1) - _EPOCH_DAY).days
    if unit == "MONTH":
        number = (local.year - 1900) * 12 + local.month - 1
        number -= number % count
        return (date(1900 + number // 12, number % 12 + 1, 1) - _EPOCH_DAY).days
    days = (local.date() - _EPOCH_DAY).days
    if unit == "WEEK":
        return days - (days + 3) % (7 * count)
    if unit == "DAY":
        return _midnight(days - days % count, zone)
    if unit == "HOUR":
        # A day begins anew, however many hours are left of the last interval.
        started = local.replace(hour=local.hour - local.hour % count, minute=0, second=0)
        return _seconds(started)
    step = count * (60 if unit == "MINUTE" else 1)
    offset = 0 if local.utcoffset() is None else local.utcoffset() // timedelta(seconds=1)  # type: ignore[operator]
    return seconds - (seconds + offset) % step


def _add(seconds: int, count: int, unit: str, zone: str) -> int:
    local = _local(seconds, zone)
    months = count * (12 if unit == "YEAR" else 1) + local.year * 12 + local.month - 1
    year, month = divmod(months, 12)
    if not 1 <= year <= 9999:
        raise SqlError("an interval leads beyond what a DateTime holds")
    last = (date(year + month // 11, (month + 1) % 12 + 1, 1) - timedelta(days=1)).day if year < 9999 else 28
    return _seconds(local.replace(year=year, month=month + 1, day=min(local.day, last)))


_DIRECTIVES: dict[str, Callable[[datetime], str]] = {
    "a": lambda t: f"{t:%a}",
    "b": lambda t: f"{t:%b}",
    "c": lambda t: f"{t:%m}",
    "C": lambda t: f"{t.year // 100:02}",
    "d": lambda t: f"{t:%d}",
    "D": lambda t: f"{t:%m/%d/%y}",
    "e": lambda t: str(t.day),
    "f": lambda _: "000000",
    "F": lambda t: f"{t:%Y-%m-%d}",
    "g": lambda t: f"{t.isocalendar().year % 100:02}",
    "G": lambda t: f"{t.isocalendar().year:04}",
    "h": lambda t: f"{t:%I}",
    "H": lambda t: f"{t:%H}",
    "i": lambda t: f"{t:%M}",
    "I": lambda t: f"{t:%I}",
    "j": lambda t: f"{t:%j}",
    "k": lambda t: f"{t:%H}",
    "l": lambda t: f"{t:%I}",
    "m": lambda t: f"{t:%m}",
    "M": lambda t: f"{t:%B}",
    "n": lambda _: "\n",
    "p": lambda t: "AM" if t.hour < 12 else "PM",
    "Q": lambda t: str((t.month + 2) // 3),
    "r": lambda t: f"{t:%I:%M} {'AM' if t.hour < 12 else 'PM'}",
    "R": lambda t: f"{t:%H:%M}",
    "s": lambda t: f"{t:%S}",
    "S": lambda t: f"{t:%S}",
    "t": lambda _: "\t",
    "T": lambda t: f"{t:%H:%M:%S}",
    "u": lambda t: str(t.isoweekday()),
    "V": lambda t: f"{t.isocalendar().week:02}",
    "w": lambda t: str(t.isoweekday() % 7),
    "W": lambda t: f"{t:%A}",
    "y": lambda t: f"{t:%y}",
    "Y": lambda t: f"{t.year:04}",
    "z": lambda t: f"{t:%z}",
    "%": lambda _: "%",
}


def _format_datetime(seconds: int, pattern: str, zone: str) -> str:
    local = _local(seconds, zone)

    def shown(match: re.Match[str]) -> str:
        directive = _DIRECTIVES.get(match[1])
        if directive is None:
            raise SqlError(f"formatDateTime does not know %{match[1]}")
        return directive(local)

    return re.sub(r"%(.?)", shown, pattern, flags=re.DOTALL)


# Texts.


def float_text(value: float) -> str:
    """Give a Float64 as ClickHouse writes it: the shortest that reads back the same, no point where it is whole."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    text = repr(value)
    if 1e-6 <= abs(value) < 1e21 and "e" in text:
        from decimal import Decimal

        text = format(Decimal(text), "f")
    mantissa, e, exponent = text.partition("e")
    mantissa = mantissa.removesuffix(".0")
    return f"{mantissa}{e}{int(exponent)}" if e else mantissa


def text_of(value: Any, kind: str) -> str:
    """Give a value of a type as text, as TabSeparated shows it."""
    if value is None:
        return "nan"
    if kind == "Float64":
        return float_text(float(value))
    if kind.startswith("DateTime"):
        return datetime_text(value, zone_of(kind))
    if kind == "Date":
        return _day(value).isoformat()
    if kind == "Bool":
        return "true" if value else "false"
    if kind == "String":
        return str(value)
    # SQLite's integers are signed, and its products of large ones are not integers.
    return str(int(value) % 2**64 if kind == "UInt64" else int(value))


def _day(days: int) -> date:
    try:
        return _EPOCH_DAY + timedelta(days=int(days))
    except OverflowError:
        raise SqlError(f"{days} is beyond what a Date holds") from None


def check_template(template: str, count: int) -> None:
    """Raise `SqlError` where a template of `format` does not fit `count` values."""
    wanted = re.findall(r"\{(\d*)\}", template)
    if re.sub(r"\{\d*\}", "", template).strip("{}") != re.sub(r"\{\d*\}", "", template):
        raise SqlError("argument 1 of FORMAT() has a { or } that is no placeholder")
    if "" in wanted and any(wanted):
        raise SqlError("argument 1 of FORMAT() mixes {} and numbered placeholders")
    if (len(wanted) if "" in wanted else max(map(int, wanted), default=-1) + 1) > count:
        raise SqlError(f"argument 1 of FORMAT() has more placeholders than the {count} values")


def _format(template: str, *values: str) -> str:
    left = iter(values)
    return re.sub(r"\{(\d*)\}", lambda match: values[int(match[1])] if match[1] else next(left), template)


def _substring(text: str, start: int, length: int | None = None) -> str:
    if start == 0:
        return ""
    first = start - 1 if start > 0 else max(0, len(text) + start)
    if length is None:
        return text[first:]
    return text[first : first + length] if length >= 0 else text[first:length]


@lru_cache(maxsize=256)
def _pattern(like: str, flags: int) -> re.Pattern[str]:
    parts = re.findall(r"\\.|.", like, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    found = [re.escape(part[1]) if len(part) == 2 else wild.get(part) or re.escape(part) for part in parts]
    return re.compile("".join(found), flags | re.DOTALL)


def _like(text: str, like: str) -> int:
    return _pattern(like, 0).fullmatch(text) is not None


def _ilike(text: str, like: str) -> int:
    return _pattern(like, re.IGNORECASE).fullmatch(text) is not None


# Numbers.


def _div(left: float | None, right: float | None) -> float | None:
    if left is None or right is None:
        return None
    if right:
        return left / right
    return None if not left else math.copysign(math.inf, left)


def _int_div(left: Any, right: Any) -> int:
    if not right or left is None or not math.isfinite(left):
        raise SqlError("division by zero")
    if isinstance(left, float) or isinstance(right, float):
        return int(left / right)
    found: int = abs(left) // abs(right)  # towards zero, as in C
    return found if (left < 0) == (right < 0) else -found


def _mod(left: float | None, right: float | None) -> float | None:
    if left is None or right is None:
        return None
    if isinstance(left, int) and isinstance(right, int):
        if right == 0:
            raise SqlError("division by zero")
        return int(math.copysign(abs(left) % abs(right), left))
    return math.fmod(left, right) if right and math.isfinite(left) else None


def _log(value: float | None) -> float | None:
    if value is None or value < 0:
        return None
    return math.log(value) if value else -math.inf


def _pow(base: float | None, exponent: float | None) -> float | None:
    if base is None or exponent is None:
        return None
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf
    except ValueError:
        return math.inf if base == 0 else None


def _rounded(how: Callable[[float], float]) -> Callable[[float | None, int], float | None]:
    def rounded(value: float | None, digits: int) -> float | None:
        if value is None or not math.isfinite(value):
            return value
        if isinstance(value, int):
            scale = 10 ** max(0, -digits)
            return value if scale == 1 else _whole_rounded(how, value, scale)
        scaled = value * 10.0**digits if digits >= 0 else value / 10.0**-digits
        if not math.isfinite(scaled):
            return value
        found = float(how(scaled))
        return found / 10.0**digits if digits >= 0 else found * 10.0**-digits

    return rounded


def _ties_to_even(value: float) -> float:
    return float(round(value))


def _whole_rounded(how: Callable[[float], float], value: int, scale: int) -> int:
    if how is not _ties_to_even:
        return int(how(value / scale)) * scale
    found = (abs(value) + scale // 2) // scale * scale  # of whole numbers, ties go away from zero
    return found if value >= 0 else -found


def _unsigned(value: float | str | None, bits: int) -> int:
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit()):
            raise SqlError(f"cannot parse {value!r} as UInt{bits}")
        value = int(value)
    if value is None or not math.isfinite(value):
        return 0
    return int(value) % (1 << bits)


# Bits. Values come as SQLite has them: UInt64 beyond 2**63 is negative.


def _of_type(value: int, kind: str) -> int:
    """Give the low bits of `value` as SQLite holds a value of the type."""
    bits, signed = width(kind)
    low = value % (1 << bits)
    return low - (1 << bits) if (signed or bits == 64) and low >> (bits - 1) else low


def _low(value: int, kind: str) -> int:
    return value % (1 << width(kind)[0])


def _rotated(value: int, by: int, kind: str) -> int:
    bits = width(kind)[0]
    low, by = _low(value, kind), by % bits
    return _of_type(low << by | low >> (bits - by), kind)


def _bytes(value: Any, kind: str) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if kind == "Float64":
        return struct.pack("<d", math.nan if value is None else value)
    bits = width(kind)[0]
    whole = _low(value, kind).to_bytes(bits // 8, "big")
    return whole.lstrip(b"\0") or b"\0"


def _bit_count(value: Any, kind: str) -> int:
    return sum(byte.bit_count() for byte in _bytes(value, kind))


SCALARS: dict[str, tuple[int, Callable[..., Any]]] = {
    "ae_datetime": (2, _datetime),
    "ae_midnight": (2, _midnight),
    "ae_part": (3, _part),
    "ae_start": (4, _start),
    "ae_add": (4, _add),
    "ae_format_datetime": (3, _format_datetime),
    "ae_text": (2, text_of),
    "ae_format": (-1, _format),
    "ae_substring": (-1, _substring),
    "ae_lower": (1, str.lower),
    "ae_upper": (1, str.upper),
    "ae_ends": (2, lambda text, end: text.endswith(end)),
    "ae_like": (2, _like),
    "ae_ilike": (2, _ilike),
    "ae_div": (2, _div),
    "ae_int_div": (2, _int_div),
    "ae_mod": (2, _mod),
    "ae_log": (1, _log),
    "ae_pow": (2, _pow),
    "ae_round": (2, _rounded(_ties_to_even)),
    "ae_floor": (2, _rounded(math.floor)),
    "ae_ceil": (2, _rounded(math.ceil)),
    "ae_unsigned": (2, _unsigned),
    "ae_bit_and": (3, lambda left, right, kind: _of_type(left & right, kind)),
    "ae_bit_or": (3, lambda left, right, kind: _of_type(left | right, kind)),
    "ae_bit_xor": (3, lambda left, right, kind: _of_type(left ^ right, kind)),
    "ae_bit_distance": (3, lambda left, right, kind: _low(left ^ right, kind).bit_count()),
    "ae_bit_test": (3, lambda value, place, kind: _low(value, kind) >> place & 1 if place >= 0 else 0),
    "ae_bit_not": (2, lambda value, kind: _of_type(~value, kind)),
    "ae_bit_count": (2, _bit_count),
    "ae_shift_left": (3, lambda value, by, kind: _of_type(value << by, kind) if 0 <= by < 64 else 0),
    "ae_shift_right": (3, lambda value, by, kind: _of_type(_low(value, kind) >> by, kind) if 0 <= by < 64 else 0),
    "ae_rotate_left": (3, _rotated),
    "ae_rotate_right": (3, lambda value, by, kind: _rotated(value, -by, kind)),
    "ae_bin": (2, lambda value, kind: "".join(f"{byte:08b}" for byte in _bytes(value, kind))),
    "ae_hex": (2, lambda value, kind: _bytes(value, kind).hex().upper()),
}
"""By the name that SQLite knows them under: number of arguments (-1 = any) and function."""
