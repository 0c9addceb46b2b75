"""Adding events up: one accumulator of integers for every reader, so that all give the same numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from usagekit import _clean
from usagekit.event import from_microseconds, to_microseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import tzinfo

    from usagekit.event import UsageEvent

__all__ = ["Aggregate", "bucket_of", "microseconds_of", "quantile_us", "seen_at"]


def bucket_of(microseconds: int) -> int:
    """Give the log-bucket of a duration of whole microseconds, 0 or more.

    Exact below 128 µs; above, each power of two is split into 64 equal buckets, so that the bucket's middle
    is within 1/128 (0.79 %) of every duration in it. Integers only: the same on every platform, and faster
    than a logarithm.
    """
    shift = microseconds.bit_length() - 7
    return microseconds if shift <= 0 else (shift << 6) + (microseconds >> shift)


def microseconds_of(bucket: int) -> float:
    """Give the duration that stands for a log-bucket: its middle, in microseconds."""
    if bucket < 128:
        return float(bucket)
    shift = (bucket >> 6) - 1
    return (((bucket & 63) + 64) << shift) + ((1 << shift) - 1) / 2


def quantile_us(buckets: Mapping[int, int], percent: int) -> float | None:
    """Give the nearest-rank quantile of weights by log-bucket, in microseconds; None where there are none."""
    total = sum(buckets.values())
    if total == 0:
        return None
    left = max(1, -(-total * percent // 100))
    for bucket in sorted(buckets):
        left -= buckets[bucket]
        if left <= 0:
            return microseconds_of(bucket)
    raise ValueError("weights are never negative")


@dataclass(slots=True, kw_only=True)
class Aggregate:
    """What is known of the events of one group; lives while one query is answered, in one thread.

    A reader either calls `add` for each event, or fills the fields from its own store. All are integers and
    weighted (an event of weight 3 counts three times), except `latency_max_us`, `last_seen_us` and `users`.

    Attributes:
        events: how many.
        succeeded: those with status 1 to 399.
        failed: those with status 400 and above.
        input_tokens: cached ones included.
        output_tokens: reasoning included.
        cache_read_tokens: a part of `input_tokens`.
        cache_write_tokens: a part of `input_tokens`.
        reasoning_tokens: a part of `output_tokens`.
        cost_nano: nano-dollars of what is known; None where nothing is (as SQL's SUM says it).
        unpriced: events whose `cost_source` is `"unpriced"`.
        response_bytes: body bytes.
        quantity_millionths: metered units.
        latency_sum_us: microseconds, of those measured.
        latency_count: how many were measured.
        latency_max_us: None where none was measured.
        latency_buckets: weight by `bucket_of` the latency.
        first_token_buckets: weight by `bucket_of` the time to the first token.
        users: the distinct known users; any hashable stand-ins, such as a store's ids; not `""`.
        last_seen_us: the latest time, microseconds since 1970 UTC; None where there is no event.
        given: measures, by name, that a store computed itself (a quantile, a distinct count); they win.
    """

    events: int = 0
    succeeded: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int | None = None
    unpriced: int = 0
    response_bytes: int = 0
    quantity_millionths: int = 0
    latency_sum_us: int = 0
    latency_count: int = 0
    latency_max_us: int | None = None
    latency_buckets: dict[int, int] = field(default_factory=dict)
    first_token_buckets: dict[int, int] = field(default_factory=dict)
    users: set[Any] = field(default_factory=set)
    last_seen_us: int | None = None
    given: dict[str, int | float | None] = field(default_factory=dict)

    def add(self, event: UsageEvent) -> None:
        """Count one event, `weight` times."""
        weight = event.weight
        self.events += weight
        if event.status >= 400:
            self.failed += weight
        elif event.status >= 1:
            self.succeeded += weight
        if event.user:
            self.users.add(event.user)
        for name in _WEIGHTED:
            setattr(self, name, getattr(self, name) + getattr(event, name) * weight)
        if event.cost_usd is not None:
            nano = _clean.nano_dollars(event.cost_usd) or 0
            self.cost_nano = (self.cost_nano or 0) + nano * weight
        if event.cost_source == "unpriced":
            self.unpriced += weight
        self.quantity_millionths += _clean.millionths(event.quantity) * weight
        latency = _clean.microseconds(event.latency_ms)
        if latency is not None:
            self.latency_sum_us += latency * weight
            self.latency_count += weight
            self.latency_max_us = _latest(self.latency_max_us, latency)
            _count(self.latency_buckets, bucket_of(latency), weight)
        first_token = _clean.microseconds(event.first_token_ms)
        if first_token is not None:
            _count(self.first_token_buckets, bucket_of(first_token), weight)
        self.last_seen_us = _latest(self.last_seen_us, to_microseconds(event.time))

    def merge(self, other: Aggregate) -> None:
        """Count what `other` counted, too; raises ValueError where one has `given` measures."""
        if self.given or other.given:
            raise ValueError(f"measures given as values do not add up: {sorted(self.given | other.given)}")
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.cost_nano is not None:
            self.cost_nano = (self.cost_nano or 0) + other.cost_nano
        self.latency_max_us = _latest(self.latency_max_us, other.latency_max_us)
        self.last_seen_us = _latest(self.last_seen_us, other.last_seen_us)
        self.users |= other.users
        for mine, theirs in (
            (self.latency_buckets, other.latency_buckets),
            (self.first_token_buckets, other.first_token_buckets),
        ):
            for bucket, weight in theirs.items():
                _count(mine, bucket, weight)

    def measure(self, name: str, zone: tzinfo) -> Any:
        """Give the value of a measure of `MEASURES`; `zone` is for `last_seen`. Raises KeyError."""
        return self.given[name] if name in self.given else _MEASURES[name](self, zone)


_WEIGHTED = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "response_bytes",
)

_MERGED_OTHERWISE = {
    "cost_nano",
    "latency_max_us",
    "latency_buckets",
    "first_token_buckets",
    "users",
    "last_seen_us",
    "given",
}
_SUMMED = tuple(f.name for f in fields(Aggregate) if f.name not in _MERGED_OTHERWISE)


def _latest(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def _count(buckets: dict[int, int], bucket: int, weight: int) -> None:
    buckets[bucket] = buckets.get(bucket, 0) + weight


def _success_rate(group: Aggregate, _: tzinfo) -> float | None:
    known = group.succeeded + group.failed
    return group.succeeded / known if known else None


def _cost(group: Aggregate, _: tzinfo) -> Decimal | None:
    # From a string, so that neither the host's decimal context nor any precision rounds it.
    return None if group.cost_nano is None else Decimal(f"{group.cost_nano}E-9")


def _latency_avg(group: Aggregate, _: tzinfo) -> float | None:
    return group.latency_sum_us / (group.latency_count * 1000) if group.latency_count else None


def _latency_quantile(percent: int) -> Callable[[Aggregate, tzinfo], float | None]:
    def quantile(group: Aggregate, _: tzinfo) -> float | None:
        value = quantile_us(group.latency_buckets, percent)
        if value is None:
            return None
        # The middle of the last bucket may lie above the slowest event in it.
        return (value if group.latency_max_us is None else min(value, group.latency_max_us)) / 1000

    return quantile


def _first_token_p50(group: Aggregate, _: tzinfo) -> float | None:
    value = quantile_us(group.first_token_buckets, 50)
    return None if value is None else value / 1000


def seen_at(time_us: int | None, zone: tzinfo) -> str | None:
    """Give the value of `last_seen`: an instant as it is shown in a zone."""
    return None if time_us is None else from_microseconds(time_us).astimezone(zone).isoformat(timespec="microseconds")


def _plain(name: str) -> Callable[[Aggregate, tzinfo], int]:
    return lambda group, _: getattr(group, name)


_MEASURES: dict[str, Callable[[Aggregate, tzinfo], Any]] = {
    name: _plain(name) for name in ("events", "succeeded", "failed", "unpriced", *_WEIGHTED)
} | {
    "success_rate": _success_rate,
    "users": lambda group, _: len(group.users),
    "total_tokens": lambda group, _: group.input_tokens + group.output_tokens,
    "cost_usd": _cost,
    "quantity": lambda group, _: group.quantity_millionths / _clean.MICRO,
    "latency_ms_avg": _latency_avg,
    "latency_ms_p50": _latency_quantile(50),
    "latency_ms_p95": _latency_quantile(95),
    "latency_ms_p99": _latency_quantile(99),
    "latency_ms_max": lambda group, _: None if group.latency_max_us is None else group.latency_max_us / 1000,
    "first_token_ms_p50": _first_token_p50,
    "last_seen": lambda group, zone: seen_at(group.last_seen_us, zone),
}
