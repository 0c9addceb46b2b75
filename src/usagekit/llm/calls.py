"""Model calls, from their beginning to their event.

A `Scope` is a tracked function or block while it runs: it knows whom its calls count for and which of them are known.
A `Call` is one model call in it. Calls come to light in two ways: the clients of known SDKs are watched while a scope
is open (`usagekit.llm.clients`), and what a tracked function returns, yields or shows to `see` is looked at. A response
that was seen the one way is not counted the other way again.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextvars import ContextVar
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING

from usagekit import _clean, context
from usagekit.llm.prices import Prices
from usagekit.llm.usage import BYTES_PER_TOKEN, Usage, extractor_of, extractors, fields_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from usagekit.recorder import Recorder

__all__ = ["Call", "Scope", "Settings", "Yields", "active"]

NO_ANSWER = 599
WENT_AWAY = 499
_KEPT = 64  # responses and counts a scope remembers, so that what passes through it counts once

active: ContextVar[Scope | None] = ContextVar("usagekit_llm", default=None)

_open_calls: dict[int, Call] = {}
"""Streams that have not come to an end; taking one out decides who ends it."""

_public_prices = Prices()


class Settings:
    """What the options of `track_tokens` or `model_call` say; None = nothing. Immutable once made."""

    __slots__ = ("dimensions", "event", "is_dynamic", "model", "org", "provider", "stream_usage", "user")

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
        "streams",
        "tapped",
    )

    def __init__(self, recorder: Recorder, measurement: context.Measurement | None, settings: Settings) -> None:
        self.recorder = recorder
        self.measurement = measurement
        self.settings = settings
        self.begun_ns = perf_counter_ns()
        self.outer: Scope | None = active.get()
        self.is_busy = False  # a call came to light in it or beneath it
        self.is_over = False
        self.seen: dict[int, object] | None = None  # responses that count already, shared among nested scopes
        self.tapped: list[tuple[str, int, int]] | None = None  # provider, input, output of calls of watched clients
        self.streams: list[Call] | None = None  # those of watched clients that may still be open
        self.pending: Call | None = None

    # What comes to light

    def knows(self, response: object) -> bool:
        """Tell whether this very response counts already, here or in a scope around or within."""
        scope: Scope | None = self
        while scope is not None:
            if scope.seen is not None and scope.seen.get(id(response)) is response:
                return True
            scope = scope.outer
        return False

    def remember(self, response: object) -> None:
        """Note, here and in every scope around, that this response counts already."""
        scope: Scope | None = self
        while scope is not None:
            scope.is_busy = True
            if not scope.is_over:
                seen = scope.seen
                if seen is None:
                    seen = scope.seen = {}
                elif len(seen) >= _KEPT:
                    seen.pop(next(iter(seen)), None)
                seen[id(response)] = response
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
                if self.pending is not None and usage.cost_usd is not None:
                    self.pending.usage.cost_usd = usage.cost_usd
                return True
        if not usage.is_wrapped or not calls:
            return False
        # What sums up several calls, or tells of one less than its own client did.
        self.tapped = [call for call in self.tapped or () if call not in calls]
        return True

    def settle(self) -> None:
        """Record what waited for something that knows more."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.record()

    def end(self) -> None:
        """Record what waited, and forget what passed through: exceptions refer to the frames that refer to us."""
        if self.pending is not None:
            self.settle()
        self.seen = None
        self.is_over = True

    def said_nothing(self) -> None:
        """Note that a tracked function ended and no model call came to light.

        Where its options name a model or a provider it was one, with unknown usage; otherwise it may have been a
        cache that answered, so it is only counted.
        """
        if self.is_busy:
            return
        if self.settings.names_a_model:
            self.record(Usage(), self.begun_ns, perf_counter_ns())
        else:
            self.recorder.guard.counted("llm: no usage")

    def failed(self, error: BaseException) -> None:
        """Record the call that `error` ended, unless it is recorded already or was none."""
        status = None
        for cause in chain_of(error):
            its_status = None if _is_of_a_framework(cause) else status_of(cause)
            if self.knows(cause) and status in {None, its_status}:
                return
            if status is None:
                status = its_status
        aborted = not isinstance(error, Exception)
        if status is None:
            if self.is_busy or _is_of_a_framework(error):
                return
            status = WENT_AWAY if aborted else NO_ANSWER
        self.record(Usage(), self.begun_ns, perf_counter_ns(), status=status, aborted=aborted)
        self.remember(error)

    # What is recorded

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
        cost = None
        if usage.cost_usd is not None:
            cost, source = _clean.nano_dollars(usage.cost_usd), "reported"
        elif estimate is None and not usage.is_reported and usage.details is None:
            source = "" if status >= 400 else "unpriced"
        else:
            source = "priced" if estimate is None else "estimated"
            try:
                cost = (self.recorder.prices or _public_prices).nano_dollars(
                    usage,
                    provider if type(provider) is str else _text(provider),
                    model if type(model) is str else _text(model),
                    time_us,
                    totals,
                )
            except Exception as error:  # noqa: BLE001  a price that fails must not cost the tokens
                self.recorder.guard.caught("llm: price", error)
        self.recorder.record_call(
            self.measurement,
            settings.event or "llm",
            status,
            provider,
            model,
            source if cost is not None or not source else "unpriced",
            aborted,
            time_us,
            (ended_ns - begun_ns) // 1000,
            None if first_ns is None else (ended_ns - first_ns) // 1000,
            totals,
            cost,
            None
            if settings.user is None and settings.org is None and settings.dimensions is None
            else (settings.user, settings.org, settings.dimensions),
            usage.quantity,
            usage.key,
        )


def _text(value: object) -> str:
    return _clean.text(value, _clean.MODEL_LIMIT)


class Call:
    """One model call that is under way: a request of a watched client, or a stream. Ends once, whoever ends it.

    Attributes:
        scope: where it was begun.
        usage: what it used, as far as it is known.
        hides: the chunk that only tells the usage was asked for by us, and is kept from the caller.
        request: the request's body while the call is under way: an estimate is made of its size; None = unknown.
        last: the part seen last.
        raw: the HTTP response of a raw response that is read later; None = none.
        is_watched: a request of a watched client.
        is_lookup: an answer that was made before is retrieved; it counts only under its key, and so only once.
    """

    __slots__ = (
        "_ended_ns",
        "begun_ns",
        "first_ns",
        "hides",
        "is_known",
        "is_lookup",
        "is_watched",
        "last",
        "last_ns",
        "raw",
        "request",
        "scope",
        "usage",
    )

    def __init__(self, scope: Scope, begun_ns: int | None = None) -> None:
        self.scope = scope
        self.usage = Usage()
        self.begun_ns = perf_counter_ns() if begun_ns is None else begun_ns
        self.first_ns: int | None = None
        self.last_ns = 0
        self._ended_ns = 0
        self.last: object = None
        self.hides = False
        self.is_known = False  # some part was a model's
        self.is_lookup = False
        self.is_watched = False
        self.request: object = None
        self.raw: Any = None

    # As one response

    def answered(self, response: object) -> None:
        """Take the whole response of a watched client's request, and record it."""
        scope = self.scope
        scope.remember(response)
        self.request = None
        usage = self.usage
        extractor_of(type(response))(response, usage)
        if usage.is_pending or (self.is_lookup and not usage.key):
            return
        self._ended_ns = perf_counter_ns()
        input_tokens, output_tokens, *_ = usage.totals()
        tapped = scope.tapped
        if tapped is None:
            tapped = scope.tapped = []
        elif len(tapped) >= _KEPT:
            tapped.pop(0)
        tapped.append((usage.provider, input_tokens, output_tokens))
        if "litellm" in sys.modules and not scope.is_over:  # it reports a cost on the object it makes of this one
            scope.settle()
            scope.pending = self
        else:
            self.record()

    def record(self) -> None:
        """Record a call that was answered."""
        self.scope.record(self.usage, self.begun_ns, self._ended_ns)

    def failed(self, error: BaseException) -> None:
        """Record that a watched client's request failed."""
        self.request = None
        status = status_of(error)
        aborted = not isinstance(error, Exception)
        if status is None:
            status = WENT_AWAY if aborted else NO_ANSWER
        self.scope.record(self.usage, self.begun_ns, perf_counter_ns(), status=status, aborted=aborted)
        self.scope.remember(error)

    def record_seen(self, *, is_streamed: bool) -> None:
        """Record what a block was shown, in one part or several."""
        if not is_streamed:
            self.first_ns = None
        self._end(200, aborted=False)

    # As a stream

    def open(self) -> None:
        """Begin to be a stream, which must come to an end."""
        scope = self.scope
        scope.came_to_light()
        _open_calls[id(self)] = self
        if self.is_watched:
            scope.streams = [self, *(call for call in scope.streams or () if id(call) in _open_calls)]

    def saw(self, part: object) -> bool:
        """Take one part of the stream; True = keep it from the caller. Never raises."""
        if part is self.last:
            return False
        self.last = part
        self.last_ns = now_ns = perf_counter_ns()
        if self.first_ns is None:
            self.first_ns = now_ns
        try:
            kind = type(part)
            if kind is str:
                self.usage.wrote(part)
            elif (extractors.get(kind) or extractor_of(kind))(part, self.usage):
                self.is_known = True
                return self.hides and _is_usage_alone(part)
        except Exception as error:  # noqa: BLE001  an extractor reads other people's objects
            self.scope.recorder.guard.caught("llm: extract", error)
        return False

    def ended(self) -> None:
        """Record a stream that came to its end."""
        if _open_calls.pop(id(self), None) is not None:
            self._end(200, aborted=False)

    def left(self) -> None:
        """Record a stream that nobody reads any further, if it had not come to its end."""
        if _open_calls.pop(id(self), None) is None:
            return
        raw, self.raw = self.raw, None
        if raw is not None:
            self._read_raw(raw)
            self._end(200, aborted=not self.is_known)
        else:
            self._end(200, aborted=True)

    def _read_raw(self, raw: Any) -> None:
        """Look into the body of a raw response that its caller read but did not parse."""
        try:
            self.is_known = extractor_of(dict)(raw.json(), self.usage)
        except Exception:  # noqa: BLE001  not read to its end, or no JSON
            self.is_known = False

    def broke(self, error: BaseException) -> None:
        """Record a stream that raised."""
        if _open_calls.pop(id(self), None) is None:
            return
        if isinstance(error, Exception):
            self.scope.remember(error)
            self._end(status_of(error) or NO_ANSWER, aborted=False)
        else:
            self._end(200 if self.last_ns else WENT_AWAY, aborted=True)

    def _end(self, status: int, *, aborted: bool) -> None:
        try:
            self._record_stream(status, aborted=aborted)
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            self.scope.recorder.guard.caught("llm: stream", error)
        finally:
            self.last = self.request = None

    def _record_stream(self, status: int, *, aborted: bool) -> None:
        scope, usage = self.scope, self.usage
        if usage.is_pending or (self.is_lookup and not usage.key):
            return
        estimate = self._estimate(aborted=aborted) if status < 400 else None
        last_ns = perf_counter_ns() if aborted or not self.last_ns else self.last_ns
        if self.is_watched and usage.is_reported:
            input_tokens, output_tokens, *_ = usage.totals()
            scope.tapped = [*(scope.tapped or ())[-_KEPT:], (usage.provider, input_tokens, output_tokens)]
        scope.record(
            usage,
            self.begun_ns,
            last_ns,
            status=status,
            first_ns=self.first_ns,
            aborted=aborted,
            estimate=estimate,
        )

    def _estimate(self, *, aborted: bool) -> tuple[int, int] | None:
        """Estimate, of texts' sizes, what a stream did not report: four bytes of UTF-8 are a token.

        What Anthropic reports at the beginning of a stream counts only what was written until then.
        """
        usage = self.usage
        output_tokens = -(-usage.written_bytes // BYTES_PER_TOKEN)
        if usage.is_reported:
            if not aborted or output_tokens <= (usage.output_tokens or 0):
                return None
            return 0, output_tokens
        input_tokens = -(-_text_bytes(self.request) // BYTES_PER_TOKEN)
        return (input_tokens, output_tokens) if input_tokens or output_tokens else None


class Yields(Call):
    """What a tracked generator yields: chunks of a model's stream, text made of them, or anything else."""

    __slots__ = ()

    def begin(self) -> None:
        """Begin, now that somebody reads."""
        _open_calls[id(self)] = self

    def saw(self, part: object) -> bool:
        """Take what was yielded, unless it is a chunk that a watched client gave."""
        for call in self.scope.streams or ():
            if call.last is part:
                return False
        return super().saw(part)

    def finished(self) -> None:
        """Record what the generator yielded, at its end."""
        if _open_calls.pop(id(self), None) is not None:
            if self._counts():
                self._end(200, aborted=False)
            else:
                self.scope.said_nothing()
            self.scope.end()

    def dropped(self) -> None:
        """Record what it yielded until it was closed."""
        if _open_calls.pop(id(self), None) is not None:
            if self._counts():
                self._end(200, aborted=True)
            self.scope.end()

    left = dropped

    def raised(self, error: BaseException) -> None:
        """Record what it yielded until it raised."""
        if _open_calls.get(id(self)) is None:
            return
        if self._counts() and not any(map(self.scope.knows, chain_of(error))):
            self.broke(error)
        else:
            _open_calls.pop(id(self), None)
            self.scope.failed(error)
        self.scope.end()

    def _counts(self) -> bool:
        """Tell whether what was yielded is a call of its own."""
        scope, usage = self.scope, self.usage
        if scope.is_busy and (not usage.is_reported or scope.is_tapped(usage)):
            return False
        return self.is_known or (scope.settings.names_a_model and usage.written_bytes > 0)


def _is_usage_alone(part: object) -> bool:
    fields = fields_of(part)
    return fields.get("choices") == [] and fields.get("usage") is not None


_TEXTS = frozenset({"messages", "input", "prompt", "system", "instructions", "content", "text", "arguments", "tools"})


def _text_bytes(value: object, depth: int = 0) -> int:
    """Give how many bytes of text a request holds, images and files apart."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace")) if depth else 0
    if depth > 8:
        return 0
    if isinstance(value, dict):
        return sum(_text_bytes(one, depth + 1) for name, one in value.items() if name in _TEXTS)
    if isinstance(value, (list, tuple)):
        return sum(_text_bytes(one, depth + 1) for one in value)
    return 0


def forget(call: Call) -> None:
    """Take a call that was waiting for a raw response to be read out of the open ones."""
    _open_calls.pop(id(call), None)


# What an exception tells


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Give an exception and, as far as they show, those it was made of."""
    cause: BaseException | None = error
    for _ in range(8):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def status_of(error: BaseException) -> int | None:
    """Give the HTTP status that an SDK's exception carries; None = none."""
    response: Any = getattr(error, "response", None)
    held = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}  # botocore
    for status in (
        getattr(error, "status_code", None),
        getattr(response, "status_code", None),
        held.get("HTTPStatusCode"),
        getattr(error, "code", None),  # google-genai
        getattr(error, "status", None),  # aiohttp
    ):
        if type(status) is int and 400 <= status <= 599:
            return status
    return None


_FRAMEWORKS = frozenset(
    {"bottle", "django", "falcon", "fastapi", "flask", "litestar", "ninja", "quart", "starlette", "werkzeug"},
)


def _is_of_a_framework(error: BaseException) -> bool:
    """Tell a web framework's own exceptions, which answer a request and say nothing about a model."""
    return any(base.__module__.partition(".")[0] in _FRAMEWORKS for base in type(error).__mro__)


@atexit.register
def _leave_all() -> None:
    for call in list(_open_calls.values()):
        call.left()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_calls.clear)  # what the parent has open, the parent ends
