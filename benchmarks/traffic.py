"""Made-up traffic that looks like some app's: a few users do most, ids and sizes have the lengths of real ones."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import TYPE_CHECKING

from usagekit import UsageEvent
from usagekit._store.journal import Journal
from usagekit._store.record import body_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

USERS = 10_000
ORGS = 500
PER_DAY = 10_000_000 / 90
START = datetime(2026, 1, 5, tzinfo=UTC)

_RESOURCES = ("items", "users", "orgs", "orders", "invoices", "files", "projects", "reports", "chats", "prompts")
_ROUTES = tuple(
    route
    for name in _RESOURCES
    for route in (f"GET /{name}", f"GET /{name}/{{id}}", f"POST /{name}", f"DELETE /{name}/{{id}}")
)
_STATUSES = {200: 90, 201: 3, 204: 2, 304: 1, 400: 1, 401: 0.5, 404: 2, 422: 0.3, 500: 0.2}
_MODELS = (
    *(("openai", f"gpt-5{size}") for size in ("", "-mini", "-nano", ".1", ".1-codex")),
    *(("anthropic", f"claude-{size}") for size in ("opus-4-5", "sonnet-4-5", "haiku-4-5", "sonnet-4-6")),
    *(("google", f"gemini-{size}") for size in ("3-pro-preview", "2.5-pro", "2.5-flash", "2.5-flash-lite")),
    *(("mistral", f"mistral-{size}-latest") for size in ("large", "medium", "small")),
)


class Traffic:
    """Events in the order of their time, at the rate of 10 million in 90 days; the same for the same seed."""

    def __init__(self, seed: int = 1) -> None:
        self._rng = random.Random(seed)
        names = random.Random(0)  # the same people, whatever they do
        users = [f"usr_{names.getrandbits(64):016x}" for _ in range(USERS)]
        orgs = [f"org_{names.getrandbits(48):012x}" for _ in range(ORGS)]
        self._people = [(user, names.choices(orgs, cum_weights=_zipf(ORGS))[0]) for user in users]
        self._time = START

    def requests(self, count: int) -> Iterator[UsageEvent]:
        """Give requests: 40 routes, mostly good, some streamed."""
        rng = self._rng
        statuses = rng.choices(list(_STATUSES), weights=list(_STATUSES.values()), k=count)
        routes = rng.choices(_ROUTES, cum_weights=_zipf(len(_ROUTES)), k=count)
        for (user, org), status, route in zip(self.who(count), statuses, routes, strict=True):
            latency_ms = rng.lognormvariate(3, 1)
            streamed = rng.random() < 0.05
            tail_ms = latency_ms * rng.random() if streamed else min(latency_ms, rng.lognormvariate(-3.5, 0.7))
            yield UsageEvent(
                kind="request",
                event="request",
                time=self._next_time(),
                user=user,
                org=org,
                status=status,
                route=route,
                latency_ms=latency_ms,
                first_token_ms=latency_ms - tail_ms,
                response_bytes=0 if status in {204, 304} else int(rng.lognormvariate(7, 1.3)),
            )

    def calls(self, count: int) -> Iterator[UsageEvent]:
        """Give model calls with everything a provider reports; half of them read a cache, a fifth writes one."""
        rng = self._rng
        models = rng.choices(_MODELS, cum_weights=_zipf(len(_MODELS)), k=count)
        routes = rng.choices(_ROUTES[-8:], k=count)
        for (user, org), (provider, model), route in zip(self.who(count), models, routes, strict=True):
            tokens = min(200_000, 20 + int(rng.lognormvariate(7.3, 1.1)))
            cached = int(tokens * rng.uniform(0.2, 0.95)) if rng.random() < 0.5 else 0
            written = int((tokens - cached) * rng.random()) if rng.random() < 0.2 else 0
            output = 1 + int(rng.lognormvariate(5.5, 1))
            reasoning = int(output * rng.random()) if rng.random() < 0.5 else 0
            latency_ms = 200 + output * rng.lognormvariate(2.5, 0.3)
            yield UsageEvent(
                kind="llm",
                event="llm",
                time=self._next_time(),
                user=user,
                org=org,
                status=200 if rng.random() < 0.99 else 429,
                route=route,
                provider=provider,
                model=model,
                latency_ms=latency_ms,
                first_token_ms=min(latency_ms, rng.lognormvariate(6.2, 0.5)),
                input_tokens=tokens,
                output_tokens=output,
                cache_read_tokens=cached,
                cache_write_tokens=written,
                reasoning_tokens=reasoning,
                cost_usd=Decimal((tokens - cached) * 1250 + cached * 125 + output * 10_000) / 10**9,
                cost_source="priced",
            )

    def who(self, count: int) -> list[tuple[str, str]]:
        """Give user and org of so many events."""
        return self._rng.choices(self._people, cum_weights=_zipf(USERS), k=count)

    def _next_time(self) -> datetime:
        self._time += timedelta(days=self._rng.expovariate(PER_DAY))
        return self._time


def _zipf(count: int) -> list[float]:
    return list(accumulate(1 / rank**1.07 for rank in range(1, count + 1)))


def write_journals(directory: str, events: Iterable[UsageEvent]) -> int:
    """Write `events` as a process does that accepts them, and leave the files to the importer; returns the bytes."""
    journal = Journal(directory, quota_bytes=8 * 1024**3)
    written = 0
    for event in events:
        body = body_of(event)
        written += len(body)
        if journal.append(body) is None:
            msg = f"the journals in {directory} take no more events: is the disk full?"
            raise OSError(msg)
    journal.release()
    return written
