"""Model calls that take a while, from their beginning to their event: a watched client's requests, and streams."""

from __future__ import annotations

import atexit
import os
import sys
from time import perf_counter_ns
from typing import TYPE_CHECKING

from usagekit.llm.failures import NO_ANSWER, WENT_AWAY, chain_of, status_of
from usagekit.llm.scopes import KEPT_COUNTS
from usagekit.llm.usage import BYTES_PER_TOKEN, Usage, extractor_of, extractors, fields_of

if TYPE_CHECKING:
    from typing import Any

    from usagekit.llm.scopes import Scope

__all__ = ["Call", "Yields", "forget", "is_open"]

_open_calls: dict[int, Call] = {}
"""Streams that have not come to an end; taking one out decides who ends it."""


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
        elif len(tapped) >= KEPT_COUNTS:
            tapped.pop(0)
        tapped.append((usage.provider, input_tokens, output_tokens))
        if "litellm" in sys.modules and not scope.is_over:  # it reports a cost on the object it makes of this one
            scope.wait(self)
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
        if part is self.last and type(part) is not str:  # equal texts are often one object
            return False
        self.last = part
        self.last_ns = perf_counter_ns()
        if self.first_ns is None:
            self.first_ns = self.last_ns
        try:
            kind = type(part)
            if kind is str:
                self.usage.wrote(part)
            elif (extractors.get(kind) or extractor_of(kind))(part, self.usage):
                self.is_known = True
                return self.hides and not getattr(part, "choices", None) and _is_usage_alone(part)
        except Exception as error:  # noqa: BLE001  an extractor reads other people's objects
            self.scope.recorder.guard.caught("llm: extract", error)
        return False

    def ended(self) -> None:
        """Record a stream that came to its end."""
        if _open_calls.pop(id(self), None) is not None:
            self._end(200, aborted=False, is_certain=False)

    def left(self) -> None:
        """Record a stream that nobody reads any further, if it had not come to its end."""
        if _open_calls.pop(id(self), None) is None:
            return
        raw, self.raw = self.raw, None
        if raw is not None:
            self._read_raw(raw)
            self._end(200, aborted=not self.is_known)
        else:
            self._end(200, aborted=True, is_certain=False)

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

    def _is_call(self, *, aborted: bool) -> bool:
        """Tell whether the stream is a model's; a file, say, or a list's iterator is none, once it was read."""
        is_unread = aborted and not self.last_ns
        return self.is_watched or self.is_known or is_unread or self.scope.settings.names_a_model

    def _end(self, status: int, *, aborted: bool, is_certain: bool = True) -> None:
        try:
            if is_certain or self._is_call(aborted=aborted):
                self._record_stream(status, aborted=aborted)
            else:
                self.scope.recorder.guard.counted("llm: no usage")
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            self.scope.recorder.guard.caught("llm: stream", error)
        finally:
            self.last = self.request = None
            if self.scope.spans is not None and self.scope.is_over:
                self.scope.settle_spans()

    def _record_stream(self, status: int, *, aborted: bool) -> None:
        scope, usage = self.scope, self.usage
        if usage.is_pending or (self.is_lookup and not usage.key):
            return
        estimate = self._estimate(aborted=aborted) if status < 400 else None
        last_ns = perf_counter_ns() if aborted or not self.last_ns else self.last_ns
        if self.is_watched and usage.is_reported:
            input_tokens, output_tokens, *_ = usage.totals()
            scope.tapped = [*(scope.tapped or ())[-KEPT_COUNTS:], (usage.provider, input_tokens, output_tokens)]
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
        if self.scope.streams:
            for call in self.scope.streams:
                if call.last is part:
                    return False
        return Call.saw(self, part)

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


def is_open(scope: Scope) -> bool:
    """Tell whether a stream that was begun in a scope has not come to its end."""
    return any(call.scope is scope for call in list(_open_calls.values()))


def forget(call: Call) -> None:
    """Take a call that was waiting for a raw response to be read out of the open ones."""
    _open_calls.pop(id(call), None)


@atexit.register
def _leave_all() -> None:
    for call in list(_open_calls.values()):
        call.left()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_calls.clear)  # what the parent has open, the parent ends
