"""Spans in: an app whose model calls are traced by OpenTelemetry needs no decorator.

`UsageSpanProcessor` turns the finished spans of model calls into events. It reads the attributes of the GenAI semantic
conventions, of their earlier and their coming names, and nothing else of a span: no prompt, no answer.

Source of the names: https://github.com/open-telemetry/semantic-conventions-genai and
https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/
"""

from __future__ import annotations

from usagekit import context
from usagekit import recorder as recorders
from usagekit._options import check_recorder
from usagekit.llm import scopes
from usagekit.llm.failures import NO_ANSWER, WENT_AWAY
from usagekit.llm.spans import Told
from usagekit.llm.usage import Usage, count, provider_named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from opentelemetry.sdk.trace import SpanProcessor

    from usagekit.recorder import Recorder
else:
    SpanProcessor = object  # the SDK asks for no more than the methods; whoever has spans brings it along

__all__ = ["UsageSpanProcessor"]

_KEPT = 8192  # unfinished spans; what is older is taken for never finished
_ANCESTORS = 32  # spans around a call that are looked at

# Of agents, workflows and tools the spans sum up, or surround, those of model calls; a fetched response counted before.
_OPERATIONS = {
    "chat": "text",
    "completion": "text",
    "text_completion": "text",
    "generate_content": "text",
    "embeddings": "embeddings",
    "embedding": "embeddings",
}
_BETWEEN = ("agent", "tool", "workflow")  # as OpenLLMetry's decorators name them
_INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
_CACHE_READ = ("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens")
_CACHE_WRITE = (
    "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.cache_creation_input_tokens",
)
_REASONING = (
    "gen_ai.usage.reasoning.output_tokens",
    "gen_ai.usage.reasoning_tokens",
    "gen_ai.usage.details.reasoning_tokens",
)
_PROVIDER = ("gen_ai.provider.name", "gen_ai.system")
_MODEL = ("gen_ai.response.model", "gen_ai.request.model")
_TIER = ("openai.response.service_tier", "gen_ai.openai.response.service_tier")
_FIRST_CHUNK = ("gen_ai.response.time_to_first_chunk", "gen_ai.client.operation.time_to_first_chunk")
_STATUS = ("http.response.status_code", "http.status_code")
_STATUSES = {  # the clients' exceptions by their names, and the status that each stands for
    "BadRequestError": 400,
    "AuthenticationError": 401,
    "PermissionDeniedError": 403,
    "NotFoundError": 404,
    "RequestTooLargeError": 413,
    "ConflictError": 409,
    "UnprocessableEntityError": 422,
    "RateLimitError": 429,
    "ThrottlingException": 429,
    "InternalServerError": 500,
    "ServiceUnavailableError": 503,
    "OverloadedError": 529,
}
_CANCELLED = frozenset({"CancelledError", "GeneratorExit", "KeyboardInterrupt"})


class _Live:
    """A span that has not ended: whom it counts for, and what was counted within it."""

    __slots__ = ("counted", "measurement", "parent", "scope", "span")

    def __init__(
        self, span: Any, parent: int | None, scope: scopes.Scope | None, measurement: context.Measurement | None
    ) -> None:
        self.span = span
        self.parent = parent
        self.scope = scope
        self.measurement = measurement
        self.counted: str | None = None  # "any": by the decorator; else the kind of operation of a span within

    def kind(self) -> str | None:
        """Give what kind of model call it is, as far as it says so by now."""
        return _kind_of(_attributes_of(self.span))


class UsageSpanProcessor(SpanProcessor):
    """Records the model calls that OpenTelemetry's spans tell about; for `TracerProvider.add_span_processor`.

    Each finished span of a model call (`chat`, `text_completion`, `generate_content`, `embeddings`) is one event, with
    the identity of the request or `bound` block that it was begun in. Spans of agents and tools are none. A call that
    `track_tokens` recorded, and one that two instrumentations tell of, counts once; those within a tool's or an agent's
    span are others than the one around it. Spans that the tracer samples out
    are never seen. Any thread may begin and end spans; nothing here raises, blocks or keeps a finished span.

    Args:
        recorder: which records; None = the request's, else the default one. Without any nothing is recorded.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        check_recorder("recorder", recorder)
        self._recorder = recorder
        self._live: dict[int, _Live] = {}
        self._is_shut = False
        scopes.watch_spans(self._mark_current)

    def on_start(self, span: Any, parent_context: object = None) -> None:
        """Note, in the context of the caller, whom a span would count for."""
        if self._is_shut:
            return
        try:
            scope = scopes.active.get()
            if scope is not None and scope.is_over:
                scope = None
            measurement = context.current.get() if scope is None else scope.measurement
            live = self._live
            if len(live) >= _KEPT:
                live.pop(next(iter(live)), None)
            parent = getattr(span, "parent", None)
            live[span.context.span_id] = _Live(span, getattr(parent, "span_id", None), scope, measurement)
            if scope is not None:
                scope.expect_spans()
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            self._caught(error)

    def on_end(self, span: Any) -> None:
        """Record a span that was a model call, unless it is counted."""
        if self._is_shut:
            return
        try:
            live = self._live.pop(span.context.span_id, None)
            attributes = _attributes_of(span)
            kind = _kind_of(attributes)
            if kind is not None:
                self._take(span, attributes, kind, live or _Live(span, None, None, None))
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            self._caught(error)

    def _on_ending(self, span: object) -> None:
        """Do nothing: the span may still change."""

    def shutdown(self) -> None:
        """Record nothing any more."""
        self._is_shut = True
        self._live.clear()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: an event is recorded as soon as its span ends."""
        return True

    def _take(self, span: Any, attributes: Mapping[str, Any], kind: str, live: _Live) -> None:
        if live.counted in {"any", kind}:
            return
        told = _told(span, attributes)
        around = self._around(live.parent)
        if not told.usage.is_reported and told.status < 400 and any(one.kind() == kind for one in around):
            return  # the span around it tells of the same call, and may know more
        for one in around:
            if one.counted is None:
                one.counted = kind
        if live.scope is not None:
            live.scope.told_by_span(told)
            return
        recorder = self._recorder
        if recorder is None and live.measurement is not None:
            recorder = live.measurement.recorder
        if recorder is None:
            recorder = recorders.recorder_for("UsageSpanProcessor")
        if recorder is not None and recorder.active:
            scopes.record_span(recorder, live.measurement, told)

    def _around(self, parent: int | None) -> list[_Live]:
        """Give the unfinished spans around one that may tell of the same call, from the inside out."""
        found: list[_Live] = []
        while parent is not None and len(found) < _ANCESTORS:
            live = self._live.get(parent)
            if live is None or _is_between_calls(_attributes_of(live.span)):
                break
            found.append(live)
            parent = live.parent
        return found

    def _mark_current(self, scope: scopes.Scope) -> bool:
        """Note that a call was counted within the present span; True = the very call that this span is."""
        from opentelemetry.trace import get_current_span

        around = self._around(get_current_span().get_span_context().span_id)
        for live in around:
            live.counted = "any"
        return any(live.scope is scope and live.kind() is not None for live in around)

    def _caught(self, error: Exception) -> None:
        recorder = self._recorder or recorders.default_recorder()
        if recorder is not None:
            recorder.guard.caught("UsageSpanProcessor", error)


def _attributes_of(span: Any) -> Mapping[str, Any]:
    return getattr(span, "attributes", None) or {}


def _kind_of(attributes: Mapping[str, Any]) -> str | None:
    """Tell what kind of model call a span is; None = none."""
    operation = attributes.get("gen_ai.operation.name")
    if operation is None:
        operation = attributes.get("llm.request.type")  # OpenLLMetry, before it followed the conventions
    if type(operation) is str:
        return _OPERATIONS.get(operation)
    # Without an operation: only what names a model that was asked, and tells what that used.
    is_call = _first(attributes, _INPUT) is not None and "gen_ai.request.model" in attributes
    return "text" if operation is None and is_call and "gen_ai.agent.name" not in attributes else None


def _is_between_calls(attributes: Mapping[str, Any]) -> bool:
    """Tell a tool's or an agent's span: what calls a model in there is another call than the one around."""
    operation = attributes.get("gen_ai.operation.name")
    if type(operation) is str:
        return operation not in _OPERATIONS
    return attributes.get("traceloop.span.kind") in _BETWEEN or "gen_ai.tool.name" in attributes


def _first(attributes: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        value = attributes.get(name)
        if value is not None:
            return value
    return None


def _count(attributes: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return count(_first(attributes, names))


def _text(attributes: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((value for value in map(attributes.get, names) if type(value) is str and value), "")


def _told(span: Any, attributes: Mapping[str, Any]) -> Told:
    began_ns, ended_ns = (value if type(value) is int else 0 for value in (span.start_time, span.end_time))
    status = _status_of(span, attributes)
    passed_ns = max(0, ended_ns - began_ns)
    first = _first(attributes, _FIRST_CHUNK)
    first_ns = int(first * 1e9) if type(first) in {int, float} and 0 <= first < 1e6 else None
    return Told(
        usage=_usage_of(attributes, began_ns),
        began_us=began_ns // 1000,
        passed_ns=passed_ns,
        first_ns=None if first_ns is None or first_ns > passed_ns else first_ns,  # in other units, say
        status=status,
        is_aborted=status == WENT_AWAY,
    )


def _usage_of(attributes: Mapping[str, Any], began_ns: int) -> Usage:
    usage = Usage()
    usage.provider = provider_named(_text(attributes, _PROVIDER).lower())
    usage.model = _text(attributes, _MODEL)
    usage.created = began_ns / 1e9
    usage.input_tokens = _count(attributes, _INPUT)
    usage.output_tokens = _count(attributes, _OUTPUT)
    usage.cache_read_tokens = _count(attributes, _CACHE_READ)
    usage.cache_write_tokens = _count(attributes, _CACHE_WRITE)
    usage.reasoning_tokens = _count(attributes, _REASONING)
    cached = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    if usage.input_tokens is not None and usage.input_tokens < cached:
        usage.uncached_tokens = usage.input_tokens  # as Anthropic counts, and those who pass on what it says
    tier = _text(attributes, _TIER)
    if tier:
        usage.context = {"service_tier": tier}
    cost = attributes.get("operation.cost")  # pydantic-ai and Logfire; there is no convention
    if type(cost) in {int, float}:
        usage.cost_usd = cost
    return usage


def _status_of(span: Any, attributes: Mapping[str, Any]) -> int:
    """Give the HTTP status that a span tells of, or that its error stands for; 200 where it tells of none."""
    error = attributes.get("error.type")
    failed = getattr(getattr(span.status, "status_code", None), "name", "") == "ERROR"
    if error is None and not failed:
        return 200
    for value in map(str, (*map(attributes.get, _STATUS), error)):
        if len(value) == 3 and value.isdecimal() and 400 <= int(value) <= 599:
            return int(value)
    name = str(error or _exception_of(span)).rpartition(".")[2]
    return WENT_AWAY if name in _CANCELLED else _STATUSES.get(name, NO_ANSWER)


def _exception_of(span: Any) -> object:
    """Give the type of the exception that a span noted last."""
    types = [(event.attributes or {}).get("exception.type") for event in getattr(span, "events", None) or ()]
    return next((name for name in reversed(types) if name), "")
