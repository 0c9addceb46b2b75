"""The object an app owns: it takes events, hands them to the journal, and answers for them."""

from __future__ import annotations

import os

from usagekit import _clean, context
from usagekit._environment import backends_from_environment, switch
from usagekit._guard import Guard
from usagekit._intake import Intake
from usagekit._loading import loading
from usagekit._options import (
    check_dimensions,
    check_identify,
    check_processors,
    check_recorder,
    check_whole,
    refuse,
)
from usagekit._store.journal import DEFAULT_QUOTA
from usagekit.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime
    from decimal import Decimal
    from types import TracebackType
    from typing import Any, Literal, Self

    from usagekit._store.engine import Engine
    from usagekit._store.queue import QueueEngine
    from usagekit.backends.analytics_engine.layout import Layout
    from usagekit.event import UsageEvent
    from usagekit.llm import ModelCall
    from usagekit.llm.prices import Prices
    from usagekit.processors import Processor
    from usagekit.query import UsageQuery, UsageReport

__all__ = ["Recorder", "default_recorder", "record_tokens", "set_default_recorder", "track"]

READ_FLUSH_SECONDS = 1.0  # how long a question waits for what was accepted just before it
CLOSE_SECONDS = 5.0


class Recorder:
    """Takes usage events in any thread and any process of an app, and answers questions about them.

    One per process, made at import time or at start: making it opens and prepares the ledger, starts no thread and
    survives forks. It lives as long as the app; `close` it, or use it as a context manager, where a test or a script
    must be sure that everything is imported.

    Args:
        backends: where events go; all are written, the first that can be asked answers. None and no
            `USAGEKIT_BACKEND`: a recorder that does nothing, and does it fast.
        path: the ledger's file where no SQLite backend says so; also `USAGEKIT_PATH`.
        identify: called with a view of the request, gives its user id, an `Identity` or None.
        processors: change an event or drop it (None), in order, on the thread that records.
        dimensions: names of the app's own dimensions; others are dropped, counted and warned about once.
        durability: `"journal"`: an accepted event survives the death of the process. `"memory"`: it does not; for
            file systems that cannot be written.
        quota_bytes: when this much waits to be imported, new events are rejected; the default is 1 GiB. Looked at
            every 64 events.
        prices: the app's own prices of models, see `usagekit.llm.prices.Prices`; they win over public ones.

    Attributes:
        active: whether events are recorded: False without backends, when switched off, and once closed.
        backends: as given, or as the environment says.
        dimensions: the declared names.
        guard: counts what failed.
        prices: the app's own prices; None = none.
        record_request: takes a request that ended, from the middlewares; see `Intake.request`.
        record_call: takes a model call that ended, from `usagekit.llm`; see `Intake.call`.

    Raises:
        ConfigurationError: an option that cannot work.
        StorageError: the ledger cannot be used where it should lie.
    """

    def __init__(
        self,
        *backends: Any,
        path: str | os.PathLike[str] | None = None,
        identify: Callable[[Any], object] | None = None,
        processors: Iterable[Processor] = (),
        dimensions: Iterable[str] = (),
        durability: Literal["journal", "memory"] = "journal",
        quota_bytes: int = DEFAULT_QUOTA,
        prices: Mapping[str, object] | None = None,
    ) -> None:
        check_identify(identify)
        check_whole("quota_bytes", quota_bytes, "how many bytes may wait to be imported: quota_bytes=1_000_000_000")
        if path is not None and not isinstance(path, (str, os.PathLike)):
            refuse("path", path, "is no path", "that of the ledger's file: path='usage.db'")
        self.guard = Guard()
        self.prices = None if prices is None else _prices_of(prices)
        self.identify = identify
        self.dimensions = check_dimensions(dimensions)
        self._intake = intake = Intake(self, self.guard, check_processors(processors), self.dimensions)
        # Called by the middlewares and by `usagekit.llm`, often: not a call of ours around each.
        self.record_request, self.record_call = intake.request, intake.call
        self.active = False
        self._closed = False
        is_disabled = switch("USAGEKIT_DISABLED", default=False)
        if not backends and not is_disabled:
            backends = backends_from_environment()
        # One whose credentials are not set is idle: it has said so, and is as good as not given.
        self.backends: tuple[Any, ...] = tuple(
            backend for backend in backends if not (is_disabled or getattr(backend, "idle", False))
        )
        self._engine: Engine | QueueEngine | None = None
        if not self.backends:
            return
        from usagekit._store.opening import open_store

        journal, self._engine = open_store(
            self.backends,
            path=path or os.environ.get("USAGEKIT_PATH") or None,
            durability=durability,
            quota_bytes=quota_bytes,
            dimensions=self.dimensions,
            guard=self.guard,
            on_delivery=self._on_delivery,
        )
        is_off = not switch("USAGEKIT_REALTIME", default=True)
        intake.open(journal, is_off=is_off)
        self.active = journal is not None and not is_off

    @classmethod
    def from_env(cls, **options: Any) -> Recorder:
        """Make a recorder of what the environment says; `options` are those of the class.

        `USAGEKIT_BACKEND` holds backend URLs, separated by commas: `sqlite:///usage.db` (relative),
        `sqlite:////var/lib/app/usage.db` (absolute), `memory://`. Unset or empty: a recorder that does nothing.
        """
        return cls(**options)

    # What records. Nothing from here to `flush` raises, waits or takes a lock.

    def record(self, event: UsageEvent) -> bool:
        """Record a whole event; its `id` is replaced by the one it gets. True = accepted."""
        try:
            return self._intake.take(event, "")
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            return self._intake.failed("record", error)

    def track(
        self,
        event: str,
        *,
        user: object = None,
        org: object = None,
        status: int = 0,
        latency_ms: float | None = None,
        route: str | None = None,
        quantity: float = 1,
        time: datetime | None = None,
        weight: int = 1,
        response_bytes: int = 0,
        event_id: str | None = None,
        **dimensions: object,
    ) -> bool:
        """Record something the app names. What is not given comes from the request or `bound` block in flight.

        Args:
            event: the event type, `"export"`.
            user: whom it counts for; None = as bound.
            org: the organisation; None = as bound.
            status: HTTP status; 0 = not HTTP.
            latency_ms: how long it took, in milliseconds.
            route: method and template; None = that of the request in flight.
            quantity: metered units: images, seconds, pages.
            time: when it began, aware; None = now. Late events are welcome.
            weight: how many events this one stands for.
            response_bytes: body bytes sent.
            event_id: your idempotency key: events with the same key count once, for ever.
            dimensions: values of the declared own dimensions.

        Returns:
            True = accepted. False = rejected and counted, or recording is off.
        """
        if not self.active:
            return self._intake.inactive()
        try:
            return self._intake.named(
                {
                    "kind": "named",
                    "event": event,
                    "status": status,
                    "latency_ms": latency_ms,
                    "quantity": quantity,
                    "time": time,
                    "weight": weight,
                    "response_bytes": response_bytes,
                },
                (user, org, route, dimensions),
                event_id,
            )
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            return self._intake.failed("track", error)

    def record_tokens(
        self,
        *,
        model: str,
        provider: str = "",
        input_tokens: int = 0,
        output_tokens: int = 0,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        reasoning_tokens: int = 0,
        cost_usd: Decimal | float | str | None = None,
        latency_ms: float | None = None,
        first_token_ms: float | None = None,
        status: int = 200,
        event: str = "llm",
        user: object = None,
        org: object = None,
        route: str | None = None,
        time: datetime | None = None,
        weight: int = 1,
        event_id: str | None = None,
        **dimensions: object,
    ) -> bool:
        """Record a model call whose numbers are at hand. What is not given comes from the request in flight.

        Args:
            model: as the provider names it.
            provider: `"openai"`, `"anthropic"`, …; `""` = unknown.
            input_tokens: tokens read, cached ones included.
            output_tokens: tokens written, reasoning included.
            cache_read_tokens: those of the input that came from a cache.
            cache_write_tokens: those of the input that were written to a cache.
            reasoning_tokens: those of the output that were reasoning.
            cost_usd: US dollars as the provider reported them, 0 = free; None = worked out from prices, the recorder's
                own first, else those of genai-prices where that is installed. A model without one is unpriced.
            latency_ms: to the last chunk, in milliseconds.
            first_token_ms: to the first chunk, in milliseconds.
            status: HTTP status; 599 = no answer.
            event: the event type.
            user: whom it counts for; None = as bound.
            org: the organisation; None = as bound.
            route: method and template; None = that of the request in flight.
            time: when it began, aware; None = now. It has the prices of that day.
            weight: how many calls this one stands for.
            event_id: your idempotency key: calls with the same key count once, for ever.
            dimensions: values of the declared own dimensions.

        Returns:
            True = accepted. False = rejected and counted, or recording is off.
        """
        if not self.active:
            return self._intake.inactive()
        try:
            with loading:
                from usagekit.llm.costs import priced_fields

            tokens = (input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens)
            return self._intake.named(
                {
                    "kind": "llm",
                    "event": event,
                    "status": status,
                    "latency_ms": latency_ms,
                    "first_token_ms": first_token_ms,
                    "model": model,
                    "provider": provider,
                    "weight": weight,
                    **priced_fields(self, provider, model, time, status, tokens, cost_usd),
                },
                (user, org, route, dimensions),
                event_id,
            )
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            return self._intake.failed("record_tokens", error)

    def track_tokens(self, function: Any = None, /, **options: Any) -> Any:
        """Record the model calls of a function with this recorder; see `usagekit.track_tokens`."""
        with loading:
            from usagekit.llm import track_tokens

        tracking = track_tokens(recorder=self, **options)
        return tracking if function is None else tracking(function)

    def model_call(
        self,
        *,
        event: object = None,
        provider: object = None,
        model: object = None,
        user: object = None,
        org: object = None,
        stream_usage: bool = True,
        **dimensions: object,
    ) -> ModelCall:
        """Record the model call in a `with` or `async with` block, of what its `see` is shown.

            with recorder.model_call(provider="acme", model="acme-1") as call:
                call.see(client.ask("..."))

        Args:
            event: the event type; None = `"llm"`.
            provider: instead of what the response tells; also where it tells none.
            model: likewise.
            user: whom it counts for; None = as bound.
            org: the organisation; None = as bound.
            stream_usage: whether chat streams of the official openai client are asked for their usage.
            dimensions: values of the declared own dimensions.
        """
        with loading:
            from usagekit.llm.scopes import Settings
            from usagekit.llm.tracking import ModelCall

        settings = Settings(
            event=event,
            provider=provider,
            model=model,
            user=user,
            org=org,
            stream_usage=stream_usage,
            dimensions=dimensions,
        )
        return ModelCall(self, settings)

    def _on_delivery(self, sink: str, outcome: int | BaseException) -> None:
        if isinstance(outcome, int):
            self._intake.send("batch_delivered", sink=sink, count=outcome)
        else:
            self._intake.send("delivery_failed", sink=sink, error=outcome)

    # What asks and manages. These may block, and raise.

    def wake(self) -> None:
        """Start this process's threads now instead of with its first event; ASGI servers' start does it.

        They import what dead processes left and deliver what waits. Only after the last fork; never needed.
        """
        if self._engine is not None and self.active:
            self._engine.start()

    def flush(self, timeout: float = 5.0) -> bool:
        """Import what every journal of the ledger holds, and bring the rollups up to date; waits for no remote sink.

        Without a ledger (`durability="memory"`, a memory backend alone) it waits for the sinks instead.

        Returns:
            False where `timeout` seconds did not suffice; nothing is lost then.
        """
        return True if self._engine is None else self._engine.flush(timeout, rollups=True)

    def read(self, query: UsageQuery, /) -> UsageReport:
        """Answer `query` by the first backend that can be asked; what was accepted before is in it.

        Where that could not be imported within a second, the report says `exact=False`.

        Blocks; under ASGI call it in a thread. A recorder that does nothing gives an empty report.

        Raises:
            QueryError: no backend of this recorder can be asked, or the question cannot.
            QueryTimeout: the backend took longer than `query.timeout`.
        """
        from usagekit.errors import QueryError

        for backend in self.backends:
            if hasattr(backend, "read"):
                seconds = min(READ_FLUSH_SECONDS, query.timeout or READ_FLUSH_SECONDS)
                is_all = self._engine is None or self._engine.flush(seconds)
                report: UsageReport = backend.read(query)
                return report if is_all else report.incomplete()
        if self.backends:
            msg = "none of this recorder's backends can be asked; add SQLiteBackend('usage.db') to it"
            raise QueryError(msg)
        from usagekit.query import empty_report

        return empty_report(query)

    def sql(self, query: str, *, datasets: Mapping[str, Layout] | None = None) -> dict[str, Any]:
        """Answer a statement in the SQL of Cloudflare's Analytics Engine from the ledger of its SQLite backend.

        What was accepted before is in it, as in `read`. Blocks; under ASGI call it in a thread. Needs
        `pip install 'usagekit[analytics-engine]'`.

        Args:
            query: SELECT, SHOW TABLES, SHOW TIMEZONES or SHOW TIMEZONE; a FORMAT in it changes nothing.
            datasets: which layout each table has; None = one table, `usagekit`, with the default layout.

        Returns:
            What Analytics Engine's JSON holds: `meta` (name and type of each column), `data` (a dictionary for each
            row; 64-bit integers are strings, NaN and infinities None) and `rows`, their number.

        Raises:
            QueryError: Analytics Engine refuses the statement, or there is no SQLite backend.
            ConfigurationError: a layout names a dimension that nobody declared.
            MissingDependencyError: sqlglot is not installed.
        """
        from usagekit.backends.analytics_engine.layout import default_datasets
        from usagekit.backends.analytics_engine.sql import run
        from usagekit.errors import QueryError

        ledger = next((backend for backend in self.backends if hasattr(backend, "ledger_path")), None)
        if ledger is None:
            msg = "this recorder keeps no ledger that SQL could ask; add SQLiteBackend('usage.db') to it"
            raise QueryError(msg)
        self.flush(READ_FLUSH_SECONDS)
        if datasets is None:
            datasets = default_datasets(self.dimensions)
        for layout in datasets.values():
            layout.check_dimensions((*self.dimensions, *ledger.dimensions))
        return run(query, ledger.ledger_path, datasets).json()

    def status(self) -> dict[str, Any]:
        """Tell how it goes.

        Returns:
            A dictionary that JSON takes: `offered`, `accepted`, `rejected` (by reason), `errors` (by place), `cleaned`
            and `undeclared` are counts of this process; `durable`, `corrupt`, `repeated`, `dead_letters`, `sinks`
            (for each `delivered`, `lag`, `dead_letters`, in events) and `waiting` (how many `journals` hold something
            to import, and how many `bytes`), `rollups` (their `lag` in events, whether they are `rebuilding`), `purged`
            (events), `complete_from` (when purged: of `raw` events and `rollups`), `jobs` (when each last ran) and
            `bytes` (the file's) are the ledger's, the same in every worker.
        """
        accepted, rejected = self._intake.counts()
        status: dict[str, Any] = {
            "active": self.active,
            "offered": accepted + sum(rejected.values()),
            "accepted": accepted,
            "rejected": rejected,
            "errors": self.guard.counts(),
            "cleaned": {"non_finite": _clean.non_finite.value, "unreadable": _clean.unreadable.value},
            "undeclared": self._intake.undeclared(),
        }
        if self._engine is not None:
            return status | self._engine.status()
        waiting = {"journals": 0, "bytes": 0}
        return status | {"durable": 0, "corrupt": 0, "repeated": 0, "dead_letters": 0, "sinks": {}, "waiting": waiting}

    def erase(self, user: object, *, timeout: float = 30.0) -> bool:
        """Remove a user's id from the ledger, its journals and what waits for sinks; the events stay, as nobody's.

        Totals of others and of organisations are the same before and after. Events of that user from before this
        moment that arrive later are nobody's, too; what is recorded under the id afterwards counts for it anew. What
        remote sinks were sent is theirs. Blocks, while recording goes on; any process may call it.

        Args:
            user: the id as it was recorded; where `hash_users` is in use, what its `hashed` gives.
            timeout: seconds.

        Returns:
            False where nothing was kept under the id: it was never recorded, or was erased before.

        Raises:
            ConfigurationError: no user was named, or this recorder keeps nothing that could be erased.
            StorageError: it could not be completed in time. Nothing is lost; erase the same user again.
        """
        name = _clean.text(user)
        if not name:
            msg = f"erase({user!r}) names nobody; give the id that events were recorded with"
            raise ConfigurationError(msg)
        keeping = [backend for backend in self.backends if hasattr(backend, "erase")]
        path = getattr(self._engine, "path", None)
        if path is None and not keeping:
            raise ConfigurationError("this recorder keeps nothing; erase with the one that has the SQLiteBackend")
        self.flush(timeout)
        found = False
        if path is not None:
            from usagekit._store.erasing import erase_user

            found = erase_user(path, name, timeout)
        for backend in keeping:
            found |= backend.erase(name)
        return found

    def close(self) -> None:
        """Import what was accepted, stop this process's threads and close the backends; later events are rejected."""
        if self._closed:
            return
        self._closed = True
        self._intake.close()
        self.active = False
        if self._engine is not None:
            self._engine.close(CLOSE_SECONDS)
        for backend in self.backends:
            if hasattr(backend, "close"):
                try:
                    backend.close()
                except Exception as error:  # noqa: BLE001  one that cannot end must not keep the others open
                    self.guard.noted("close", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _prices_of(own: Mapping[str, object]) -> Prices:
    from usagekit.llm.prices import Prices

    return Prices(own)


_default: Recorder | None = None


def set_default_recorder(recorder: Recorder | None) -> None:
    """Make `recorder` the one that `track` and the others use outside a request; None takes it away."""
    check_recorder("recorder", recorder)
    global _default  # noqa: PLW0603  the process's default is one by definition
    _default = recorder


def default_recorder() -> Recorder | None:
    """Give the recorder of the request in flight, else the process's default, else None."""
    measurement = context.current.get()
    if measurement is not None and measurement.recorder is not None:
        return measurement.recorder
    return _default


_homeless = Guard()


def recorder_for(what: str) -> Recorder | None:
    """Give the recorder of the request in flight, else the default one; None is said once a minute, for `what`."""
    recorder = default_recorder()
    if recorder is None:
        _homeless.noted(what, "no recorder here, so nothing is recorded; call usagekit.set_default_recorder(recorder)")
    return recorder


def track(event: str, **values: Any) -> bool:
    """Record something the app names, with the request's recorder or the default one; see `Recorder.track`."""
    recorder = recorder_for("track")
    return False if recorder is None else recorder.track(event, **values)


def record_tokens(**values: Any) -> bool:
    """Record a model call, with the request's recorder or the default one; see `Recorder.record_tokens`."""
    recorder = recorder_for("record_tokens")
    return False if recorder is None else recorder.record_tokens(**values)
