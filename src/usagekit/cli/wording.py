"""How values and counts are written for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def counted(number: int, what: str) -> str:
    """Give "1 event", "2,000 events"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def shown_key(name: str, value: object) -> str:
    """Give how `value` of a dimension or time bucket is shown."""
    if value == "" and name in {"user", "org"}:
        return "(unattributed)"
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value in {None, ""} else str(value)


def format_of(name: str, values: list[Any]) -> Callable[[Any], str]:
    """Give how values of one measure are shown, all of a column alike."""
    if name == "last_seen":
        return lambda value: f"{value[:10]} {value[11:19]}"
    if name == "success_rate":
        return lambda value: f"{value:.1%}"
    if name == "cost_usd":
        return _cents if all(value >= 1 or value == 0 for value in values) else _small_money
    if name == "quantity":
        return lambda value: f"{value:,.6f}".rstrip("0").rstrip(".")
    if "_ms" in name:
        return lambda value: f"{value:,.1f}"
    return lambda value: f"{value:,}"


def _cents(value: Any) -> str:
    return f"${value:,.2f}"


def _small_money(value: Any) -> str:
    text = f"${value:,.4f}"
    return "<$0.0001" if value > 0 and text == "$0.0000" else text
