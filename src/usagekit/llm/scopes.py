"""A tracked function or block while it runs: whom its model calls count for, and which of them are known.

Calls come to light in two ways: the clients of known SDKs are watched while a scope is open (`usagekit.llm.clients`),
and what a tracked function returns, yields or shows to `see` is looked at. A response that was seen the one way is not
counted the other way again.
"""

from __future__ import annotations

from contextvars import ContextVar
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from usagekit import _clean, context
from usagekit.llm.costs import cost_of, public_prices
from usagekit.llm.failures import NO_ANSWER, WENT_AWAY, chain_of, is_of_a_framework, status_of
from usagekit.llm.spans import Known, unknown_among
from usagekit.llm.usage import Usage, extractor_of, extractors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from usagekit.llm.calls import Call
    from usagekit.llm.spans import Told
    from usagekit.llm.usage import Plain
    from usagekit.recorder import Recorder

__all__ = ["KEPT_COUNTS", "Scope", "Settings", "active", "record_span", "watch_spans"]

KEPT = 64  # responses a scope keeps alive, and told spans it keeps back, so that what passes through it counts once
KEPT_COUNTS = 4096  # calls of watched clients of which it knows the numbers

active: ContextVar[Scope | None] = ContextVar("usagekit_llm", default=None)

spans_watcher: Callable[[Scope], bool] | None = None
"""Told of every recorded call; whether the span that is present is that very call. None = no spans are read."""


def watch_spans(watcher: Callable[[Scope], bool]) -> None:
    """Have a processor of spans told of what is recorded; the latest one, where a process has several."""
    global spans_watcher  # noqa: PLW0603  one process, one tracer as a rule
    spans_watcher = watcher


class Settings:
    """What the options of `track_tokens` or `model_call` say; None = nothing. Immutable once made."""

    __slots__ = ("attribution", "dimensions", "event", "is_dynamic", "model", "org", "provider", "stream_usage", "user")

    def __init__(
        self,
        *,
        event: object = None,
        provider: object = None,
        model: object = None,
        user: object = None,
        org: object = None,
        stream_usage: bool = True,
        dimensions: Mapping[str, object] | None = None,
    ) -> None:
        self.event = event
        self.provider = provider
        self.model = model
        self.user = user
        self.org = org
        self.stream_usage = stream_usage
        self.dimensions = dict(dimensions) if dimensions else None
        is_attributed = not (user is None and org is None and self.dimensions is None)
        self.attribution = (user, org, self.dimensions) if is_attributed else None
        self.is_dynamic = any(map(callable, (event, provider, model, user, org, *(dimensions or {}).values())))

    @property
    def names_a_model(self) -> bool:
        """Whether the options say that this is a model call."""
        return self.model is not None or self.provider is not None

    def resolved(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Settings:
        """Ask what is callable, with the call's own arguments; one that raises says nothing, and is counted."""

        def asked(value: object) -> object:
            if not callable(value):
                return value
            try:
                return value(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
                recorder.guard.caught("track_tokens option", error)
                return None

        return Settings(
            event=asked(self.event),
            provider=asked(self.provider),
            model=asked(self.model),
            user=asked(self.user),
            org=asked(self.org),
            stream_usage=self.stream_usage,
            dimensions={name: asked(value) for name, value in (self.dimensions or {}).items()},
        )


class Scope:
    """A tracked function or block while it runs, and as long as its streams do.

    Whom its calls count for is taken when it begins, since a stream may end in another thread or context.
    """

    is_over: bool
    outer: Scope | None

    __slots__ = (
        "begun_ns",
        "is_busy",
        "is_over",
        "measurement",
        "outer",
        "pending",
        "recorder",
        "seen",
        "settings",
        "spans",
        "streams",
        "tapped",
    )

    def __init__(self, recorder: Recorder, measurement: context.Measurement | None, settings: Settings) -> None:
        self.recorder = recorder
        self.measurement = measurement
        self.settings = settings
        self.begun_ns = perf_counter_ns()
        outer: Scope | None = active.get()
        while outer is not None and outer.is_over:  # a task or timer that outlived it
            outer = outer.outer
        self.outer = outer
        self.is_busy = False  # a call came to light in it or beneath it
        self.is_over = False
        self.seen: _Seen | None = None  # responses that count already
        self.tapped: list[tuple[str, int, int]] | None = None  # provider, input, output of calls of watched clients
        self.streams: list[Call] | None = None  # those of watched clients that may still be open
        self.pending: list[Call] = []  # the last one waits for something that knows more
        self.spans: _Spans | None = None  # what spans begun in it told, once there are any

    # What comes to light

    def knows(self, response: object) -> bool:
        """Tell whether this very response counts already, here or in a scope around or within."""
        scope: Scope | None = self
        while scope is not None:
            if scope.seen is not None and response in scope.seen:
                return True
            scope = scope.outer
        return False

    def remember(self, response: object) -> None:
        """Note, here and in every scope around, that this response counts already."""
        scope: Scope | None = self
        while scope is not None:
            scope.is_busy = True
            if not scope.is_over:
                if scope.seen is None:
                    scope.seen = _Seen()
                scope.seen.add(response)
            scope = scope.outer

    def came_to_light(self) -> None:
        """Note, here and in every scope around, that a model was called."""
        scope: Scope | None = self
        while scope is not None and not scope.is_busy:
            scope.is_busy = True
            scope = scope.outer

    def returned(self, result: object) -> bool:
        """Record the call that a response tells about; False where it is no response."""
        if (self.seen is not None or self.outer is not None) and self.knows(result):
            return True
        usage = Usage()
        kind = type(result)
        if not (extractors.get(kind) or extractor_of(kind))(result, usage):
            return False
        if usage.is_pending or (self.tapped is not None and (not usage.is_reported or self.is_tapped(usage))):
            self.came_to_light()
            return True
        self.record(usage, self.begun_ns, perf_counter_ns())
        if self.outer is not None:
            self.remember(result)
        return True

    def returned_safely(self, result: object) -> bool:
        """Do what `returned` does; an extractor that raises is counted."""
        try:
            return self.returned(result)
        except Exception as error:  # noqa: BLE001  an extractor reads other people's objects
            self.recorder.guard.caught("llm: extract", error)
            return True

    def is_tapped(self, usage: Usage) -> bool:
        """Tell whether a watched client saw this call already, of which another object tells here."""
        input_tokens, output_tokens, *_ = usage.totals()
        calls = [
            call for call in self.tapped or () if call[0] == usage.provider or (usage.is_wrapped and not usage.provider)
        ]
        for call in calls:
            if call[1:] == (input_tokens, output_tokens):
                self.tapped.remove(call)  # type: ignore[union-attr]
                if self.pending and usage.cost_usd is not None:
                    self.pending[-1].usage.cost_usd = usage.cost_usd
                return True
        if not usage.is_wrapped or not calls:
            return False
        # What sums up several calls, or tells of one less than its own client did.
        self.tapped = [call for call in self.tapped or () if call not in calls]
        return True

    def wait(self, call: Call) -> None:
        """Record a call only when the next one comes, or at the end: something that knows more may come to light."""
        self.pending.append(call)
        self.settle(but=0 if self.is_over else 1)  # it may have ended in another thread meanwhile

    def settle(self, *, but: int = 0) -> None:
        """Record what waited, but for the last so many; other threads may be at it, too."""
        while len(self.pending) > but:
            try:
                call = self.pending.pop(0)
            except IndexError:
                return
            call.record()

    def end(self) -> None:
        """Record what waited, and forget what passed through: exceptions refer to the frames that refer to us."""
        self.is_over = True
        if self.pending:
            self.settle()
        self.seen = None
        if self.spans is not None:
            self.settle_spans()

    # What spans tell

    def expect_spans(self) -> None:
        """Begin to keep apart what spans tell and what is recorded: a span was begun in here."""
        if self.spans is None:
            self.spans = _Spans()

    def told_by_span(self, told: Told) -> None:
        """Take what a span told of a call, which may be known, or come to light by itself until the scope's end."""
        self.expect_spans()
        if self.spans is not None:
            self.spans.told.append(told)
            if len(self.spans.told) > 2 * KEPT:
                self._record_unknown(self.spans, but=KEPT)
        if self.is_over:
            self.settle_spans()

    def settle_spans(self) -> None:
        """Record the calls that only spans told of, unless a stream is still open that may be one of them."""
        from usagekit.llm.calls import is_open

        spans = self.spans
        if spans is None or not spans.told or is_open(self):
            return
        self._record_unknown(spans)

    def _record_unknown(self, spans: _Spans, *, but: int = 0) -> None:
        """Record the calls that only spans told of, but for the last so many spans, whose calls may come to light."""
        end = len(spans.told) - but
        told, spans.told = spans.told[:end], spans.told[end:]
        for one in unknown_among(told, spans.known):
            self._record_span(one)

    def _record_span(self, told: Told) -> None:
        self.record(
            told.usage,
            0,
            told.passed_ns,
            status=told.status,
            first_ns=told.first_ns,
            aborted=told.is_aborted,
            is_told=True,
        )

    def _known(self, usage: Usage, time_us: int, passed_ns: int, totals: tuple[int, int, int, int, int]) -> None:
        if spans_watcher is not None and not spans_watcher(self) and self.spans is not None:
            self.spans.know(Known(time_us, passed_ns // 1000, totals[:2], usage.is_wrapped))

    def said_nothing(self) -> None:
        """Note that a tracked function ended and no model call came to light.

        Where its options name a model or a provider it was one, with unknown usage; otherwise it may have been a
        cache that answered, so it is only counted.
        """
        if self.is_busy or (self.spans is not None and self.spans.told):
            return
        if self.settings.names_a_model:
            self.record(Usage(), self.begun_ns, perf_counter_ns())
        else:
            self.recorder.guard.counted("llm: no usage")

    def failed(self, error: BaseException) -> None:
        """Record the call that `error` ended, unless it is recorded already or was none."""
        status = None
        for cause in chain_of(error):
            its_status = None if is_of_a_framework(cause) else status_of(cause)
            if self.knows(cause) and status in {None, its_status}:
                return
            if status is None:
                status = its_status
        aborted = not isinstance(error, Exception)
        if status is None:
            if self.is_busy or is_of_a_framework(error):
                return
            status = WENT_AWAY if aborted else NO_ANSWER
        self.record(Usage(), self.begun_ns, perf_counter_ns(), status=status, aborted=aborted)
        self.remember(error)

    # What is recorded

    def record_plain(self, plain: Plain) -> None:
        """Do what `record` does for the only call of a function that nothing surrounds, which just ended."""
        self.is_busy = self.is_over = True
        recorder, settings = self.recorder, self.settings
        provider, model, about, totals = plain
        if settings.provider is not None:
            provider = _text(settings.provider)
        if settings.model is not None:
            model = _text(settings.model)
        ended_ns = perf_counter_ns()
        passed_ns = ended_ns - self.begun_ns
        time_us = (time_ns() - passed_ns) // 1000
        cost = None
        try:
            cost = (recorder.prices or public_prices).plain_nano_dollars(provider, model, about, time_us, totals)
        except Exception as error:  # noqa: BLE001  a price that fails must not cost the tokens
            recorder.guard.caught("llm: price", error)
        recorder.record_call(
            self.measurement,
            settings.event or "llm",
            200,
            provider,
            model,
            "unpriced" if cost is None else "priced",
            False,  # noqa: FBT003  positional, as all of them
            time_us,
            passed_ns // 1000,
            None,
            totals,
            cost,
            settings.attribution,
            None,
            "",
        )
        if spans_watcher is not None:
            self._known(_NOTHING, time_us, passed_ns, totals)
            self.end()

    def record(
        self,
        usage: Usage,
        begun_ns: int,
        ended_ns: int,
        *,
        status: int = 200,
        first_ns: int | None = None,
        aborted: bool = False,
        estimate: tuple[int, int] | None = None,
        is_told: bool = False,
    ) -> None:
        """Hand a call to the recorder.

        Args:
            usage: what it used.
            begun_ns: when it began, by the performance counter.
            ended_ns: when it ended, or its last chunk came.
            status: HTTP status.
            first_ns: when its first chunk came; None = not streamed.
            aborted: the caller walked away.
            estimate: input and output tokens where none were reported; None = as reported.
            is_told: only a span told of it.
        """
        self.is_busy = True
        if self.outer is not None:
            self.outer.came_to_light()
        settings = self.settings
        provider = usage.provider if settings.provider is None else settings.provider
        model = usage.model if settings.model is None else settings.model
        created = usage.created
        if created is None:
            time_us = (time_ns() - perf_counter_ns() + begun_ns) // 1000
        else:
            time_us = _clean.epoch_microseconds(created) or 0
        totals = usage.totals()
        if estimate is not None:
            totals = max(totals[0], estimate[0]), max(totals[1], estimate[1]), *totals[2:]
        cost, source = cost_of(
            self.recorder,
            usage,
            provider if type(provider) is str else _text(provider),
            model if type(model) is str else _text(model),
            time_us,
            totals,
            status,
            is_estimated=estimate is not None,
        )
        self.recorder.record_call(
            self.measurement,
            settings.event or "llm",
            status,
            provider,
            model,
            source,
            aborted,
            time_us,
            (ended_ns - begun_ns) // 1000,
            None if first_ns is None else (ended_ns - first_ns) // 1000,
            totals,
            cost,
            settings.attribution,
            usage.quantity,
            usage.key,
        )
        if spans_watcher is not None and not is_told:
            self._known(usage, time_us, ended_ns - begun_ns, totals)


class _Spans:
    """What spans of a scope told, and what was recorded there without them."""

    __slots__ = ("known", "told")

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.known: list[Known] = []

    def know(self, known: Known) -> None:
        """Note a call; its span ends with it or soon after, if it has one."""
        self.known.append(known)
        if len(self.known) > 4 * KEPT:
            del self.known[: 2 * KEPT]


class _Seen:
    """Responses that count already, by identity: as long as they live, or the latest of those that cannot tell."""

    __slots__ = ("_alive", "_kept")

    def __init__(self) -> None:
        self._alive: WeakValueDictionary[int, object] = WeakValueDictionary()
        self._kept: dict[int, object] = {}

    def __contains__(self, response: object) -> bool:
        number = id(response)
        return self._alive.get(number) is response or self._kept.get(number) is response

    def add(self, response: object) -> None:
        try:
            self._alive[id(response)] = response
        except TypeError:  # a dictionary, say
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)), None)
            self._kept[id(response)] = response


_NOTHING = Usage()
_NO_SETTINGS = Settings()


def record_span(recorder: Recorder, measurement: context.Measurement | None, told: Told) -> None:
    """Record a call that a span outside any tracked function told of."""
    scope = Scope(recorder, measurement, _NO_SETTINGS)
    scope.outer = None
    scope._record_span(told)  # noqa: SLF001  its own


def _text(value: object) -> str:
    return _clean.text(value, _clean.MODEL_LIMIT)
