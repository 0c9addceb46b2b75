"""How events get into the journal: cleaned, shaped into lines, and shown to processors and receivers on the way."""

from __future__ import annotations

from usagekit import _clean, context
from usagekit._store import record as records
from usagekit.errors import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from usagekit._guard import Guard
    from usagekit._store.journal import Journal
    from usagekit._store.memory_journal import MemoryJournal
    from usagekit.event import UsageEvent
    from usagekit.processors import Processor

__all__ = ["Intake"]


class Intake:
    """Takes the events of one recorder, in any thread; nothing in it raises, waits or takes a lock.

    Lives as long as its recorder. Before `open` and after `close` it takes nothing.

    Args:
        sender: the recorder, of which signals are sent.
        guard: counts what failed.
        processors: change an event or drop it, in order.
        dimensions: the declared names; others are dropped, counted and warned about once.
    """

    def __init__(
        self, sender: object, guard: Guard, processors: tuple[Processor, ...], dimensions: tuple[str, ...]
    ) -> None:
        self._sender = sender
        self._guard = guard
        self._processors = processors
        self._declared = frozenset(dimensions)
        self._undeclared: dict[str, _clean.Tally] = {}
        self._shapes = records.RequestShapes()
        self._call_shapes = records.CallShapes()
        self._subjects = records.Subjects()
        self.journal: Journal | MemoryJournal | None = None
        self._is_off = False
        self._is_closed = False
        self._is_indirect = bool(processors)  # events are not written straight to the journal

    def open(self, journal: Journal | MemoryJournal | None, *, is_off: bool) -> None:
        """Take events from now on; `is_off`: recording is switched off, and none is taken."""
        self.journal = journal
        self._is_off = is_off
        self._is_indirect = self._is_indirect or is_off

    def close(self) -> None:
        """Reject every later event."""
        self._is_closed = self._is_indirect = True

    def counts(self) -> tuple[int, dict[str, int]]:
        """Give how many events this process accepted, and how many it rejected, by reason."""
        return (0, {}) if self.journal is None else self.journal.counts()

    def undeclared(self) -> dict[str, int]:
        """Give how often values of undeclared dimensions were dropped, by name."""
        return {name: tally.value for name, tally in list(self._undeclared.items())}

    def named(
        self,
        values: dict[str, Any],
        attribution: tuple[object, object, str | None, dict[str, object]],
        event_id: str | None,
    ) -> bool:
        """Take an event of these fields for whom `attribution` and the request in flight say.

        Args:
            values: fields of the event, but for the attribution.
            attribution: user, org, route and own dimensions; None = as the request in flight says.
            event_id: the caller's idempotency key; None = none.
        """
        from usagekit.event import UsageEvent

        user, org, route, dimensions = attribution
        measurement = context.current.get()
        # None is "as bound", as it is for user and org.
        attributes: Mapping[str, object] = {name: value for name, value in dimensions.items() if value is not None}
        if measurement is not None:
            bound_user, bound_org, bound_attributes = measurement.identity()
            user = bound_user if user is None else user
            org = bound_org if org is None else org
            route = measurement.route() if route is None else route
            if bound_attributes:
                attributes = {**bound_attributes, **attributes}
        if attributes:
            values["attributes"] = self._declared_only(attributes)
        event = UsageEvent(**values | {"user": user, "org": org, "route": route})
        return self.take(event, "" if event_id is None else _clean.plain(event_id))

    def request(  # noqa: PLR0917  the hot path: positional arguments are a measurable part of it
        self,
        measurement: context.Measurement,
        event: object,
        status: int,
        route: str,
        aborted: bool,  # noqa: FBT001
        time_us: int,
        latency_us: int,
        tail_us: int | None,
        response_bytes: int,
        weight: int = 1,
    ) -> bool:
        """Record a request; called by the middlewares when it ended.

        Args:
            measurement: whom it counts for; `identify` is asked here at the latest.
            event: the event type.
            status: HTTP status, 499 = the client went away before one.
            route: method and template.
            aborted: the client went away before the end.
            time_us: when it began, microseconds since 1970.
            latency_us: to the last body byte.
            tail_us: from the first body byte to the last; None where no byte was sent.
            response_bytes: body bytes sent.
            weight: how many requests this one stands for.
        """
        journal = self.journal
        if journal is None:
            return False
        try:
            user, org, attributes = measurement.identity()
            if attributes or self._is_indirect or weight != 1 or context.receivers_of is not None:
                identity = (user, org, attributes)
                return self._whole_request(
                    identity, event, status, route, aborted, time_us, latency_us, tail_us, response_bytes, weight
                )
            if type(event) is not str:
                event = _clean.text(event)
            if type(user) is not str:
                user = _clean.text(user)
            if type(org) is not str:
                org = "" if org is None else _clean.text(org)
            shape, subject = self._shapes[event, status, route, aborted], self._subjects[user, org]
            pen = journal.pen
            if pen is not None:
                number = pen.write(time_us, shape, subject, latency_us, tail_us, response_bytes)
                if number:
                    return number > 0 or self._torn(journal)
            tail = "null" if tail_us is None else tail_us
            accepted = journal.append(f"{time_us},{shape},{subject},{latency_us},{tail},{response_bytes}")
            return type(accepted) is tuple
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            return self.failed("record_request", error)

    def _whole_request(  # noqa: PLR0917
        self,
        identity: tuple[object, object, dict[str, object] | None],
        event: object,
        status: int,
        route: str,
        aborted: bool,  # noqa: FBT001
        time_us: int,
        latency_us: int,
        tail_us: int | None,
        response_bytes: int,
        weight: int,
    ) -> bool:
        """Record a request for which somebody wants the whole event."""
        from usagekit.event import UsageEvent, from_microseconds

        user, org, attributes = identity
        values: dict[str, Any] = {"event": event, "user": user, "org": org}
        if attributes:
            values["attributes"] = self._declared_only(attributes)
        whole = UsageEvent(
            kind="request",
            status=status,
            route=route,
            aborted=aborted,
            time=from_microseconds(time_us),
            latency_ms=latency_us / 1000,
            first_token_ms=None if tail_us is None else (latency_us - tail_us) / 1000,
            response_bytes=response_bytes,
            weight=weight,
            **values,
        )
        return self.take(whole, "")

    def call(  # noqa: PLR0917  the hot path: positional arguments are a measurable part of it
        self,
        measurement: context.Measurement | None,
        event: object,
        status: int,
        provider: object,
        model: object,
        cost_source: str,
        aborted: bool,  # noqa: FBT001
        time_us: int,
        latency_us: int,
        tail_us: int | None,
        tokens: tuple[int, int, int, int, int],
        cost_nano: int | None,
        attribution: tuple[object, object, Mapping[str, object] | None] | None,
        quantity: float | None,
        key: str,
    ) -> bool:
        """Record a model call; called by `usagekit.llm` when it ended.

        Args:
            measurement: whom it counts for; None = outside a request.
            event: the event type.
            status: HTTP status, 599 = no answer.
            provider: of the call.
            model: of the call.
            cost_source: `"unpriced"` where a cost applies and none is known.
            aborted: the caller went away before the end.
            time_us: when it began, microseconds since 1970.
            latency_us: to the last chunk.
            tail_us: from the first chunk to the last; None where it was not streamed.
            tokens: input, output, cache read, cache write, reasoning.
            cost_nano: nano-dollars; None = unpriced, or no cost applies.
            attribution: user, org and own dimensions that win over the measurement's; None = none of them.
            quantity: metered units other than tokens; None = none.
            key: an idempotency key; `""` = none.
        """
        journal = self.journal
        if journal is None:
            return False
        try:
            user = org = attributes = None
            if measurement is None:
                route = ""
            else:
                user, org, attributes = measurement.identity()
                route = measurement.route()
            if attribution is not None:
                user = user if attribution[0] is None else attribution[0]
                org = org if attribution[1] is None else attribution[1]
                given = {name: value for name, value in (attribution[2] or {}).items() if value is not None}
                attributes = {**(attributes or {}), **given}
            if attributes or key or quantity is not None or self._is_indirect or context.receivers_of is not None:
                return self._whole_call(
                    {"user": user, "org": org, "event": event, "status": status, "route": route}
                    | {"provider": provider, "model": model, "cost_source": cost_source, "aborted": aborted},
                    attributes,
                    (time_us, latency_us, tail_us),
                    tokens,
                    cost_nano,
                    quantity,
                    key,
                )
            if user is None and org is None:
                subject = records.NOBODY
            else:
                subject = self._subjects[
                    user if type(user) is str else _clean.text(user), org if type(org) is str else _clean.text(org)
                ]
            try:
                shape = self._call_shapes[event, status, route, provider, model, cost_source, aborted]
            except TypeError:  # a value that cannot be looked up, such as a list
                event, provider, model = _clean.plain(event), _clean.plain(provider), _clean.plain(model)
                shape = self._call_shapes[event, status, route, provider, model, cost_source, aborted]
            input_tokens, output_tokens, cache_read, cache_write, reasoning = tokens
            pen = journal.pen
            if pen is not None:
                number = pen.write(
                    time_us,
                    shape,
                    subject,
                    latency_us,
                    tail_us,
                    output_tokens,
                    input_tokens,
                    cost_nano,
                    cache_read,
                    cache_write,
                    reasoning,
                )
                if number:
                    return number > 0 or self._torn(journal)
            accepted = journal.append(
                "%d,%s,%s,%d,%s,%d,%d,%s,%d,%d,%d"  # noqa: UP031  a fifth faster, and True becomes 1
                % (
                    time_us,
                    shape,
                    subject,
                    latency_us,
                    "null" if tail_us is None else tail_us,
                    output_tokens,
                    input_tokens,
                    "null" if cost_nano is None else cost_nano,
                    cache_read,
                    cache_write,
                    reasoning,
                )
            )
            return type(accepted) is tuple
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            return self.failed("record_call", error)

    def _whole_call(  # noqa: PLR0917
        self,
        values: dict[str, Any],
        attributes: Mapping[str, object] | None,
        times_us: tuple[int, int, int | None],
        tokens: tuple[int, int, int, int, int],
        cost_nano: int | None,
        quantity: float | None,
        key: str,
    ) -> bool:
        """Record a model call for which somebody wants the whole event, or that is out of the ordinary."""
        from usagekit.event import UsageEvent, dollars, from_microseconds

        time_us, latency_us, tail_us = times_us
        if attributes:
            values["attributes"] = self._declared_only(attributes)
        if quantity is not None:
            values["quantity"] = quantity
        whole = UsageEvent(
            kind="llm",
            time=from_microseconds(time_us),
            latency_ms=latency_us / 1000,
            first_token_ms=None if tail_us is None else (latency_us - tail_us) / 1000,
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            cache_read_tokens=tokens[2],
            cache_write_tokens=tokens[3],
            reasoning_tokens=tokens[4],
            cost_usd=None if cost_nano is None else dollars(cost_nano),
            **values,
        )
        return self.take(whole, key)

    def take(self, event: UsageEvent, key: str) -> bool:
        """Take a whole event through processors, the journal and signals; `key` is hashed, `""` = none."""
        journal = self.journal
        if journal is None or self._is_off:
            return False
        processed: UsageEvent | None = event
        for processor in self._processors:
            try:
                processed = processor(event)
                if not isinstance(processed, type(event) | None):
                    _refuse_result(processed)
            except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
                self._guard.caught("processor", error)
                continue
            if processed is None:
                return False
            event = processed
        if self._is_closed:
            return self._reject("closed")
        body = records.body_of(event, key)
        if len(body) > records.BODY_LIMIT:
            return self._reject("size")
        accepted = journal.append(body)
        if isinstance(accepted, str):
            self.send("event_rejected", reason=accepted)
            return False
        if context.receivers_of is not None and context.receivers_of["event_recorded"].receivers:
            from dataclasses import replace

            self.send("event_recorded", event=replace(event, id=f"{accepted[0]}-{accepted[1]}"))
        return True

    def inactive(self) -> bool:
        """Count an event that comes after the end; gives False."""
        return self._reject("closed") if self._is_closed else False

    def failed(self, place: str, error: Exception) -> bool:
        """Count a failure that must not reach the host, and the event it cost; gives False."""
        self._guard.caught(place, error)
        return self._reject("error")

    def _torn(self, journal: Journal | MemoryJournal) -> bool:
        """Leave a file that ends in a part of a record, and count the event it cost; gives False."""
        journal.release()
        return self._reject("journal")

    def _reject(self, reason: str) -> bool:
        if self.journal is not None:
            self.journal.reject(reason)
            self.send("event_rejected", reason=reason)
        return False

    def _declared_only(self, attributes: Mapping[str, object]) -> dict[str, object]:
        known = {name: value for name, value in attributes.items() if name in self._declared}
        if len(known) < len(attributes):
            for name in attributes:
                if name not in self._declared:
                    self._note_undeclared(_clean.text(name, _clean.EVENT_LIMIT))
        return known

    def _note_undeclared(self, name: str) -> None:
        if name not in self._undeclared:
            if len(self._undeclared) >= 100:
                name = "(others)"
            else:
                from logging import getLogger

                getLogger("usagekit").warning(
                    "dimension %r is dropped: it is not declared; use Recorder(dimensions=[%r])", name, name
                )
        self._undeclared.setdefault(name, _clean.Tally()).add()

    def send(self, name: str, **values: object) -> None:
        """Send a signal to those who listen; what they raise is counted."""
        if context.receivers_of is None:
            return
        signal = context.receivers_of[name]
        for receiver in signal.receivers_for(self._sender) if signal.receivers else ():
            try:
                receiver(self._sender, **values)
            except Exception as error:  # noqa: BLE001  the app's own receiver may raise anything
                self._guard.caught(f"receiver of {name}", error)


def _refuse_result(processed: object) -> None:
    if hasattr(processed, "close"):
        processed.close()  # a coroutine, or Python warns that it was never awaited
    msg = f"a processor returned a {type(processed).__name__}; return a UsageEvent, or None to drop it"
    raise RefusedError(msg)
