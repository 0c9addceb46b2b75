"""The app's own prices, as it gives them: what is no price is refused, with what to write instead."""

from __future__ import annotations

from decimal import Decimal
from typing import cast

from usagekit.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

__all__ = ["checked", "lowered"]

_PARTS = frozenset(
    {"input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning", "request", "unit"},
)
_EXAMPLES = {"above": "above={200_000: {'input': 2.5}}", "tiers": "tiers={'batch': {'input': 0.6}}"}


def lowered(name: object) -> str:
    """Give a name as names are compared."""
    return str(name).strip().lower()


def checked(name: object, price: Any, *, within: tuple[str, ...] = ()) -> Mapping[str, Any] | str:
    """Give a price in decimals, sizes ascending and tiers in lower case; an alias as it is.

    `within` are the parts that the price stands in, the inner last. Raises `ConfigurationError`, which says what to
    write instead.
    """
    if isinstance(price, str):
        return price
    if not hasattr(price, "items"):
        msg = (
            f"the price of {name!r} is {price!r}; give a mapping: prices={{{name!r}: {{'input': 1.25, 'output': 10}}}}"
        )
        raise ConfigurationError(msg)
    checked: dict[str, Any] = {}
    for key, value in price.items():
        if key in within or (key == "unit" and "above" in within):
            msg = f"the price of {name!r} has {key} in {within[-1]}, where it means nothing; leave it out"
            raise ConfigurationError(msg)
        if key == "above":
            sizes = {_size(name, start): one for start, one in _parts(name, key, value)}
            checked["above"] = {start: _differing(name, (*within, key), sizes[start]) for start in sorted(sizes)}
        elif key == "tiers":
            checked["tiers"] = {
                lowered(tier): _differing(name, (*within, key), one) for tier, one in _parts(name, key, value)
            }
        elif key in _PARTS:
            checked[key] = _amount(name, key, value)
        else:
            known = ", ".join(sorted(_PARTS | {"above", "tiers"}))
            msg = f"the price of {name!r} has an unknown part {key!r}; use {known}"
            raise ConfigurationError(msg)
    return checked


def _parts(name: object, key: str, value: Any) -> Iterable[tuple[object, object]]:
    if not hasattr(value, "items"):
        msg = f"the price of {name!r} has {key}={value!r}; give a mapping: {_EXAMPLES[key]}"
        raise ConfigurationError(msg)
    return value.items()  # type: ignore[no-any-return]


def _differing(name: object, within: tuple[str, ...], price: object) -> Mapping[str, Any]:
    if isinstance(price, str):
        key = within[-1]
        msg = f"the price of {name!r} has an alias, {price!r}, in {key}; give what differs: {_EXAMPLES[key]}"
        raise ConfigurationError(msg)
    return cast("Mapping[str, Any]", checked(name, price, within=within))


def _size(name: object, start: Any) -> int:
    try:
        return int(start)  # JSON has text for keys
    except (TypeError, ValueError):
        msg = f"the price of {name!r} has a size {start!r} in above; give a number of tokens: {_EXAMPLES['above']}"
        raise ConfigurationError(msg) from None


def _amount(name: object, key: str, value: Any) -> Decimal:
    try:
        amount = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except (ArithmeticError, TypeError, ValueError):
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        msg = f"the price of {name!r} has {key}={value!r}; give US dollars, 0 or more: {key}=1.25"
        raise ConfigurationError(msg)
    return amount
