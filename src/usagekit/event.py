"""The one record that everything here is about: `UsageEvent`."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 # typing.get_type_hints(UsageEvent) must work
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from usagekit import _clean

__all__ = ["UsageEvent"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEvent:
    """One thing that happened: a request, a model call, or something the app named.

    Immutable, flat, and safe: making one never raises, whatever the values are. Strings are capped and
    cleaned, numbers clamped to what a ledger holds, NaN and infinities become None. No field ever holds an
    IP address, a user agent, a prompt, a completion or a body.

    Attributes:
        id: unique across processes and forks: a journal's random id and a sequence number. `""` until accepted.
        time: when it began; aware, UTC, microseconds. Given naive, it is read as UTC; given None, it is now.
        kind: `"request"` (the middlewares), `"llm"` (model calls) or `"named"` (`track`).
        event: event type; by default `"request"`, `"llm"`, or what `track` was told.
        user: whom it counts for; `""` = unknown.
        org: the user's organisation or tenant; `""` = unknown.
        status: HTTP status, 0 to 999. 0 = not HTTP or unknown; 499 = the client went away before a status;
            599 = a model call without an answer; 101 = a websocket.
        latency_ms: milliseconds on a monotonic clock, kept to the microsecond; None = not measured.
        route: method and template, `"GET /items/{id}"`; `"GET (unmatched)"` where no route matched.
        provider: of a model call, `"openai"`; `""` = unknown or no model call.
        model: of a model call, as the provider names it.
        input_tokens: tokens read, cached ones included.
        output_tokens: tokens written, reasoning included.
        cache_read_tokens: those of `input_tokens` that came from a cache.
        cache_write_tokens: those of `input_tokens` that were written to a cache.
        reasoning_tokens: those of `output_tokens` that were spent on reasoning.
        first_token_ms: milliseconds to the first byte or first chunk; None = not measured.
        cost_usd: US dollars, exact to nine decimals; None = unpriced or no cost applies, which is never 0.
        cost_source: `"priced"`, `"reported"` (the provider said so), `"estimated"`, `"unpriced"`, or `""` where
            no cost applies.
        response_bytes: body bytes sent.
        aborted: the client or the caller walked away before the end.
        quantity: metered units of a named event, exact to six decimals; 1 by default.
        weight: how many events this one stands for, 1 to 1,000,000,000; 1 unless sampled.
        attributes: the app's own dimensions, strings by name.
    """

    id: str = ""
    time: datetime = None  # type: ignore[assignment]
    kind: str = "named"
    event: str = ""
    user: str = ""
    org: str = ""
    status: int = 0
    latency_ms: float | None = None
    route: str = ""
    provider: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    first_token_ms: float | None = None
    cost_usd: Decimal | None = None
    cost_source: str = ""
    response_bytes: int = 0
    aborted: bool = False
    quantity: float = 1.0
    weight: int = 1
    attributes: Mapping[str, str] = field(default_factory=lambda: _NO_ATTRIBUTES)

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name, clean in _CLEANERS:
            put(self, name, clean(getattr(self, name)))
        if self.cost_usd is not None and self.cost_source in {"", "unpriced"}:
            put(self, "cost_source", "reported")
        elif self.cost_usd is None and self.cost_source != "":
            put(self, "cost_source", "unpriced")

    def __hash__(self) -> int:
        return hash((self.id, self.time, self.event, self.user))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy does not pickle, and copies are cleaned again at no loss.
        return _rebuilt, (_values(self),)

    def to_dict(self) -> dict[str, Any]:
        """Give all fields by name, as JSON takes them: `time` in ISO 8601, `cost_usd` as a decimal string or None."""
        cost = None if self.cost_usd is None else f"{self.cost_usd:f}"
        return _values(self) | {"time": self.time.isoformat(), "cost_usd": cost}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UsageEvent:
        """Make an equal event of what `to_dict` gave; raises `ValueError` for a time that is none.

        Names that are no fields, as a later version may have written, are passed over; what is missing is unknown.
        """
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return cls(**known | {"time": datetime.fromisoformat(str(values["time"]))} if "time" in known else known)


def _values(event: UsageEvent) -> dict[str, Any]:
    return {f.name: getattr(event, f.name) for f in fields(event)} | {"attributes": dict(event.attributes)}


def _rebuilt(values: dict[str, Any]) -> UsageEvent:
    return UsageEvent(**values)


def of_clean(values: Mapping[str, Any]) -> UsageEvent:
    """Give the event of all its fields by name, each as an event has it: what was an event once is not cleaned again.

    `attributes` may be a dict, which must not be changed any more.
    """
    event = object.__new__(UsageEvent)
    put = object.__setattr__
    for name, value in values.items():
        put(event, name, value)
    attributes = values["attributes"]
    put(event, "attributes", MappingProxyType(attributes) if attributes else _NO_ATTRIBUTES)
    return event


def _time(value: object) -> datetime:
    microseconds = _clean.epoch_microseconds(value)
    return datetime.now(UTC) if microseconds is None else from_microseconds(microseconds)


def from_microseconds(value: int) -> datetime:
    """Give the aware UTC datetime of `value` microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=value)


def to_microseconds(value: datetime) -> int:
    """Give an aware datetime as microseconds since 1970, exactly."""
    return (value - _EPOCH) // timedelta(microseconds=1)


@lru_cache(maxsize=4096)
def dollars(nano: int) -> Decimal:
    """Give nano-dollars as dollars with nine decimals."""
    # From a string: arithmetic would round to the host's decimal context.
    return Decimal(f"{nano}E-9")


def _milliseconds(value: object) -> float | None:
    microseconds = _clean.microseconds(value)
    return None if microseconds is None else microseconds / 1000


def _cost(value: object) -> Decimal | None:
    nano = _clean.nano_dollars(value)
    return None if nano is None else dollars(nano)


def _weight(value: object) -> int:
    return max(1, _clean.whole(value, _clean.WEIGHT_LIMIT, 1))


def _kind(value: object) -> str:
    kind = _clean.text(value, _clean.EVENT_LIMIT)
    return kind if kind in _clean.KINDS else "named"


def _cost_source(value: object) -> str:
    source = _clean.text(value, _clean.EVENT_LIMIT)
    return source if source in _clean.COST_SOURCES else ""


def _flag(value: object) -> bool:
    try:
        return bool(value)
    except Exception:  # noqa: BLE001  the host's own __bool__ may raise anything
        _clean.unreadable.add()
        return False


def _attributes(value: object) -> Mapping[str, str]:
    if value is _NO_ATTRIBUTES:
        return _NO_ATTRIBUTES
    clean = _clean.attributes(value)
    return MappingProxyType(clean) if clean else _NO_ATTRIBUTES


_CLEANERS = (
    ("id", _clean.text),
    ("time", _time),
    ("kind", _kind),
    ("event", lambda value: _clean.text(value, _clean.EVENT_LIMIT)),
    ("user", _clean.text),
    ("org", _clean.text),
    ("status", lambda value: _clean.whole(value, _clean.STATUS_LIMIT)),
    ("latency_ms", _milliseconds),
    ("route", lambda value: _clean.text(value, _clean.ROUTE_LIMIT)),
    ("provider", lambda value: _clean.text(value, _clean.MODEL_LIMIT)),
    ("model", lambda value: _clean.text(value, _clean.MODEL_LIMIT)),
    ("input_tokens", _clean.whole),
    ("output_tokens", _clean.whole),
    ("cache_read_tokens", _clean.whole),
    ("cache_write_tokens", _clean.whole),
    ("reasoning_tokens", _clean.whole),
    ("first_token_ms", _milliseconds),
    ("cost_usd", _cost),
    ("cost_source", _cost_source),
    ("response_bytes", _clean.whole),
    ("aborted", _flag),
    ("quantity", lambda value: _clean.millionths(value) / _clean.MICRO),
    ("weight", _weight),
    ("attributes", _attributes),
)
