"""Normalising whatever an app hands over into values a ledger can hold; nothing here raises.

What was recorded must be found again: recording, `bind`, filters and erasing go through the same functions.
Kept free of imports that cost start-up time, since every recorder loads it.
"""

from __future__ import annotations

from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ID_LIMIT = 256  # characters: user, org and attribute values
EVENT_LIMIT = 128
ROUTE_LIMIT = 512
MODEL_LIMIT = 256  # also provider
KEY_LIMIT = 512  # an idempotency key

COUNT_LIMIT = 2**53 - 1  # exact in every JSON reader, and in a double
WEIGHT_LIMIT = 1_000_000_000
STATUS_LIMIT = 999
TIME_LIMIT_US = 253_370_764_800_000_000  # 9999-01-01, so that any zone's local time is still a datetime

NANO = 1_000_000_000
MICRO = 1_000_000

KINDS = frozenset({"request", "llm", "named"})
COST_SOURCES = frozenset({"priced", "reported", "estimated", "unpriced", ""})

_HASH_LENGTH = 16  # hex digits that keep two long ids apart


class Tally:
    """A counter that any thread may add to without a lock.

    `itertools.count` advances atomically; how far it is can be seen without advancing it only in its repr.
    """

    __slots__ = ("_count", "add")

    def __init__(self) -> None:
        self._count = count()
        self.add: Callable[[], int] = self._count.__next__

    @property
    def value(self) -> int:
        """How often `add` was called; any thread may look."""
        return int(repr(self._count)[len("count(") : -1])


non_finite = Tally()
"""NaN and infinities that became None (or the default) in this process."""

unreadable = Tally()
"""Values whose `str()` or `int()` raised, in this process."""


def _replaced(character: str) -> str:
    code = ord(character)
    return "\ufffd" if code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 else character


def text(value: object, limit: int = ID_LIMIT) -> str:
    """Give `value` as a string without control characters and lone surrogates, at most `limit` long.

    None is `""`. Bytes are read as UTF-8. A longer string keeps its beginning and ends in a hash of the
    whole, so that two long ids stay distinct and recognisable.
    """
    if type(value) is not str:
        value = plain(value)
    if len(value) <= limit and value.isprintable():
        return value
    original = value
    if not value.isprintable():
        value = "".join(map(_replaced, value[: 4 * limit]))
    if len(original) > limit:
        from hashlib import blake2b

        digest = blake2b(original.encode("utf-8", "surrogatepass"), digest_size=_HASH_LENGTH // 2).hexdigest()
        value = f"{value[: limit - _HASH_LENGTH - 1]}~{digest}"
    return value


def plain(value: object) -> str:
    """Give `value` as a string of any length, as it is; what cannot be read is `""`."""
    if value is None:
        return ""
    try:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value).decode("utf-8", "replace")
        # str subclasses (enums, lazy translations) may lie about themselves; a plain copy cannot.
        return "".join(str.__str__(value)) if isinstance(value, str) else str(value)
    except Exception:  # noqa: BLE001  the host's own __str__ may raise anything
        unreadable.add()
        return ""


def number(value: object) -> float | None:
    """Give `value` as a finite float, or None."""
    if value is None:
        return None
    try:
        result = float(value)  # type: ignore[arg-type]
    except OverflowError:
        non_finite.add()
        return None
    except Exception:  # noqa: BLE001  any type may stand here
        unreadable.add()
        return None
    if result - result != 0:  # NaN and the infinities alone
        non_finite.add()
        return None
    return result


def whole(value: object, limit: int = COUNT_LIMIT, default: int = 0) -> int:
    """Give `value` as an integer in [0, limit]; what is no number is `default`."""
    if value is None:
        return default
    found: int
    if type(value) is int:
        found = value
    else:
        # Never int(): of a Decimal with a large exponent it would take for ever. Below 2**53 floats are as exact.
        try:
            found = type(value).__index__(value)  # type: ignore[attr-defined]
        except AttributeError:
            as_float = number(value)
            found = default if as_float is None else int(as_float)
        except Exception:  # noqa: BLE001  any type may stand here
            unreadable.add()
            return default
    return min(max(found, 0), limit)


def _scaled(value: float, factor: int, limit: int = COUNT_LIMIT) -> int:
    # The product of a finite float may be infinite.
    return limit if value >= limit / factor else whole(round(max(value, 0.0) * factor), limit)


def microseconds(milliseconds: object) -> int | None:
    """Give a duration in milliseconds as whole microseconds, never negative; None stays None."""
    value = number(milliseconds)
    return None if value is None else _scaled(value, 1000)


def nano_dollars(value: object) -> int | None:
    """Give an amount in US dollars as whole nano-dollars in [0, 2**53), rounded half to even; None stays None."""
    if value is None:
        return None
    from decimal import Decimal, localcontext

    try:
        with localcontext() as exact:
            exact.prec = 60
            # repr of a float is what its author wrote: 0.1 means a tenth, not its binary neighbour.
            amount = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)  # type: ignore[arg-type]
            if not amount.is_finite():
                non_finite.add()
                return None
            if amount >= COUNT_LIMIT // NANO:
                return COUNT_LIMIT
            return max(0, int((amount * NANO).to_integral_value()))
    except Exception:  # noqa: BLE001  decimal signals, and whatever the value's own type raises
        unreadable.add()
        return None


def millionths(quantity: object) -> int:
    """Give metered units as whole millionths; what is no number counts as one unit."""
    value = number(quantity)
    return MICRO if value is None else _scaled(value, MICRO)


def epoch_microseconds(value: object) -> int | None:
    """Give a point in time as microseconds since 1970 UTC; None where `value` is none.

    Takes datetimes and ISO 8601 (without an offset both are read as UTC), and seconds since 1970 as a number.
    """
    if value is None:
        return None
    from datetime import UTC, datetime, timedelta

    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            unreadable.add()
            return None
    if isinstance(value, datetime):
        try:
            aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
            # timedelta arithmetic is exact, timestamp() is a float.
            since = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        except Exception:  # noqa: BLE001  a tzinfo is the host's code
            unreadable.add()
            return None
        return whole(since, TIME_LIMIT_US)
    seconds = number(value)
    return None if seconds is None else _scaled(seconds, MICRO, TIME_LIMIT_US)


def attributes(values: object) -> dict[str, str]:
    """Give an app's own dimensions as clean strings, sorted by name; None values are left out."""
    try:
        pairs = [(text(name, EVENT_LIMIT), text(value)) for name, value in dict(values).items() if value is not None]  # type: ignore[call-overload]
    except Exception:  # noqa: BLE001  any mapping of the host's
        if values is not None:
            unreadable.add()
        return {}
    return dict(sorted(pairs))


_TEXT_LIMITS = {
    "kind": EVENT_LIMIT,
    "event": EVENT_LIMIT,
    "route": ROUTE_LIMIT,
    "provider": MODEL_LIMIT,
    "model": MODEL_LIMIT,
    "cost_source": EVENT_LIMIT,
}


def dimension_text(name: str, value: Any) -> str:
    """Clean a value the way events clean the text dimension `name`, so that filters find what was recorded."""
    return text(value, _TEXT_LIMITS.get(name, ID_LIMIT))
