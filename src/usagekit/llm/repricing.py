"""Pricing model calls that had no price when they were recorded, once there is one."""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, Any

from usagekit import _clean
from usagekit._store.repricing import reprice_rows
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import ConfigurationError, MissingDependencyError, QueryError, StorageError
from usagekit.event import dollars, to_microseconds
from usagekit.llm.prices import Prices
from usagekit.llm.usage import Usage
from usagekit.query.periods import instant, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import date
    from decimal import Decimal

    from usagekit._store.repricing import Row, Shape
    from usagekit.recorder import Recorder

__all__ = ["Repriced", "reprice"]

_FOR_EVER_US = 2**62


@dataclass(frozen=True, kw_only=True)
class Repriced:
    """What became of one model's unpriced calls. Every call counts as many times as its weight says.

    Attributes:
        provider: whose model; `""` = unknown.
        model: as the provider names it; `""` = unknown.
        priced: calls that have a cost now.
        cost_usd: what those cost together; None where there are none.
        unpriced: calls for which no price is known, or of which nothing is known that could be priced.
        held: calls that have a price and did not get it, since a batch with them is being delivered to a sink.
    """

    provider: str
    model: str
    priced: int
    cost_usd: Decimal | None
    unpriced: int
    held: int


def reprice(
    source: Recorder | SQLiteBackend | str | os.PathLike[str],
    *,
    since: date | str,
    until: date | str | None = None,
    tz: str = "UTC",
    models: Iterable[str] = (),
    prices: Mapping[str, object] | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Repriced]:
    """Price the unpriced calls of a ledger, each as of its own time; those that have a cost keep it.

    Blocks until it is done; any thread may call it, beside a running app and beside itself: no call is priced twice,
    and what is done stays done whatever happens to the process. Only the ledger changes: sinks that have an event
    keep what they were sent. The ledger knows no service tier and counts no audio or searches apart: calls are priced
    as plain ones, and aborted ones as estimates.

    Args:
        source: a recorder, whose own prices are used, its SQLite backend, or the ledger's path.
        since: calls that began then or later: a date in `tz`, or an aware datetime; also as ISO strings.
        until: and before then; None = until now.
        tz: IANA name of the zone for dates.
        models: only these, each as `"gpt-5-mini"` or `"azure/gpt-5-mini"`; empty = all.
        prices: the app's own prices, as `Recorder` takes them; None = those of the recorder.
        dry_run: say what would be priced, and change nothing.
        progress: called with how much of the ledger was looked at, and how much there is.

    Returns:
        One entry for each provider and model that had unpriced calls, by name.

    Raises:
        QueryError: a range that cannot be.
        ConfigurationError: a price that cannot be one, or a source without a ledger.
        MissingDependencyError: there are no prices at all.
        StorageError: there is no ledger, or it cannot be used; what was priced before stays priced.
    """
    first, last = instant("since", since, tz), instant("until", until, tz)
    if first is None:
        raise QueryError("since is None; say from when on calls are to be priced: since='2026-11-01'")
    if last is not None and first >= last:
        raise QueryError(f"since {shown(since)} is not before until {shown(until)}; until is exclusive")
    own = Prices(prices) if prices is not None else getattr(source, "prices", None)
    if own is None and find_spec("genai_prices") is None:
        raise MissingDependencyError(
            "there are no prices to price with; pip install 'usagekit[prices]', or give prices of your own"
        )
    path = _ledger_of(source)
    wanted = frozenset(models)
    pricing = own or Prices()

    def price(shape: Shape, row: Row) -> int | None:
        usage = Usage(quantity=row.quantity / _clean.MICRO)  # without a token, it is only units that can have a price
        totals = Usage(
            input_tokens=row.input,
            output_tokens=row.output,
            cache_read_tokens=row.cache_read,
            cache_write_tokens=row.cache_write,
            reasoning_tokens=row.reasoning,
        ).totals()
        return pricing.nano_dollars(usage, shape.provider, shape.model, row.time_us, totals)

    steps = reprice_rows(
        path,
        since_us=to_microseconds(first),
        until_us=_FOR_EVER_US if last is None else to_microseconds(last),
        is_wanted=lambda shape: not wanted or bool(wanted & {shape.model, f"{shape.provider}/{shape.model}"}),
        price=price,
        dry_run=dry_run,
        progress=progress or _unseen,
    )
    tally = _Tally()
    try:
        for row, shape, cost_nano, is_held in chain.from_iterable(steps):
            tally.add(shape, row.weight, cost_nano, is_held=is_held)
    except sqlite3.Error as error:
        raise StorageError(
            f"cannot go on with the ledger {path!r}: {error}; what was priced stays priced, run it again for the rest"
        ) from error
    return tally.result()


def _ledger_of(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        source = SQLiteBackend(source)
    if hasattr(source, "flush"):
        source.flush()
    paths = [getattr(one, "ledger_path", None) for one in getattr(source, "backends", (source,))]
    path = next(filter(None, paths), None)
    if path is None:
        raise ConfigurationError(f"{source!r} has no ledger; give a recorder with a SQLiteBackend, or a ledger's path")
    _ = SQLiteBackend(path).dimensions  # where there is no ledger, none is to be made
    return str(path)


def _unseen(done: int, total: int) -> None:
    """Show no progress."""


class _Tally:
    """Counts by provider and model: priced, their nano-dollars, unpriced, held."""

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])

    def add(self, shape: Shape, weight: int, cost_nano: int | None, *, is_held: bool) -> None:
        counts = self._counts[shape.provider, shape.model]
        if cost_nano is None:
            counts[2] += weight
        elif is_held:
            counts[3] += weight
        else:
            counts[0] += weight
            counts[1] += weight * cost_nano

    def result(self) -> list[Repriced]:
        return [
            Repriced(
                provider=provider,
                model=model,
                priced=priced,
                cost_usd=dollars(nano) if priced else None,
                unpriced=unpriced,
                held=held,
            )
            for (provider, model), (priced, nano, unpriced, held) in sorted(self._counts.items())
        ]
