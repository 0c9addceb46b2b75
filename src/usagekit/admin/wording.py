"""How numbers, money and times are written on the page."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ago", "bucket_name", "count", "counted", "format_of", "measure_name", "percent", "short", "value_name"]

UNKNOWN = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"

MEASURE_NAMES = {
    "events": "Events",
    "users": "Users",
    "success_rate": "Success",
    "total_tokens": "Tokens",
    "cost_usd": "Cost",
    "latency_ms_p95": "p95",
    "last_seen": "Last seen",
}

_UNKNOWN_NAMES = {"user": "(unattributed)", "org": "(unattributed)", "route": "(outside requests)"}


def measure_name(name: str) -> str:
    """Give the title of a measure's column."""
    return MEASURE_NAMES[name]


def value_name(dimension: str, value: object) -> str:
    """Give how a value of a dimension is shown."""
    if value == "" or value is None:
        return _UNKNOWN_NAMES.get(dimension, "(none)")
    if dimension == "status" and value == 0:
        return "(no status)"
    return str(value).lower() if isinstance(value, bool) else str(value)


def count(number: int | None) -> str:
    """Give `"12,345"`."""
    return UNKNOWN if number is None else f"{number:,}"


def counted(number: int, what: str) -> str:
    """Give `"1 event"`, `"2,000 events"`."""
    return f"{number:,}{_SPACE}{what}{'' if number == 1 else 's'}"


def short(number: float | None) -> str:
    """Give a number in a few characters: `"12,345"`, `"1.23M"`."""
    if number is None:
        return UNKNOWN
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if number >= size:
            scaled = number / size
            return f"{scaled:,.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{letter}"
    return f"{number:,.0f}" if number == int(number) else f"{number:,.3g}"


def money(amount: Any) -> str:
    """Give US dollars: two digits after the point from ten cents on, four below."""
    if amount is None:
        return UNKNOWN
    if amount >= 1_000_000:
        return f"${short(float(amount))}"
    if amount == 0 or amount >= Decimal("0.1"):
        return f"${amount:,.2f}"
    text = f"${amount:,.4f}"
    return f"<{_SPACE}$0.0001" if text == "$0.0000" else text


def percent(share: float | None) -> str:
    """Give a share of 1 as `"99.5 %"`; never 100 % where something is missing, nor 0 % where something is there."""
    if share is None:
        return UNKNOWN
    digits = f"{100 * share:.1f}"
    if (digits == "100.0") != (share == 1) or (digits == "0.0") != (share == 0):
        return f">{_SPACE}99.9{_SPACE}%" if share > 0.5 else f"<{_SPACE}0.1{_SPACE}%"
    return f"{'0' if share == 0 else '100' if share == 1 else digits}{_SPACE}%"


def milliseconds(time: float | None) -> str:
    """Give a duration."""
    if time is None:
        return UNKNOWN
    if time < 10:
        return f"{time:.1f}{_SPACE}ms"
    return f"{time:,.0f}{_SPACE}ms" if time < 1000 else f"{time / 1000:,.1f}{_SPACE}s"


def ago(seen: str | None, now: datetime) -> str:
    """Give how long an instant, ISO 8601, is in the past."""
    if seen is None:
        return UNKNOWN
    seconds = (now - datetime.fromisoformat(seen)).total_seconds()
    for size, letter in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)}{_SPACE}{letter} ago"
    return "now"


def format_of(measure: str, now: datetime) -> Callable[[Any], str]:
    """Give how values of a measure are shown."""
    formats: dict[str, Callable[[Any], str]] = {
        "cost_usd": money,
        "success_rate": percent,
        "latency_ms_p95": milliseconds,
        "last_seen": lambda value: ago(value, now),
        "total_tokens": short,
    }
    return formats.get(measure, count)


def bucket_name(bucket: str, value: str, *, is_long: bool = False) -> str:
    """Give a time bucket's value as people write it: `"14:00"`, `"20 Nov"`; the long form names the day."""
    if bucket == "hour":
        hour = datetime.fromisoformat(value)
        return f"{hour:%a} {hour.day} {hour:%b, %H:%M}" if is_long else f"{hour:%H:%M}"
    if bucket == "week":
        monday = date.fromisocalendar(int(value[:4]), int(value[6:]), 1)
        return f"Week of {monday.day} {monday:%b %Y}" if is_long else f"{monday.day} {monday:%b}"
    day = date.fromisoformat(value)
    return f"{day:%a} {day.day} {day:%b %Y}" if is_long else f"{day.day} {day:%b}"
