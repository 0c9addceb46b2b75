"""The metrics: HTTP server and GenAI client by semantic convention, and usagekit's own.

Sources of names, units and buckets: https://opentelemetry.io/docs/specs/semconv/http/http-metrics/ (stable), semantic
conventions 1.41 for GenAI names that are shipped today, and https://github.com/open-telemetry/semantic-conventions-genai
for their successors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usagekit.backends.opentelemetry import attributes as conventions
from usagekit.backends.opentelemetry.attributes import Attributes, Capped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from opentelemetry.metrics import Histogram, Meter

    from usagekit.event import UsageEvent

MOST_RECORDED = 1_000  # times that one event of a large weight goes into a histogram, which takes one at a time

HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
CALL_SECONDS = tuple(0.01 * 2**n for n in range(14))
TOKENS = tuple(float(4**n) for n in range(14))

_EVENTS, _MODELS, _ROUTES = 200, 200, 1000  # values of an attribute: apps may name events and models as they like
_LABELS = {"user": "user.id", "org": "usagekit.org.id", "route": "http.route"}
_SUMS = {
    # Named as the measures that `usage` gives, and in their units.
    "events": "{event}",
    "unpriced": "{event}",
    "quantity": "1",
    "response_bytes": "By",
    "input_tokens": "{token}",
    "output_tokens": "{token}",
    "cache_read_tokens": "{token}",
    "cache_write_tokens": "{token}",
    "reasoning_tokens": "{token}",
    "cost_usd": "{USD}",
}
_FIELDS = tuple(_SUMS)[2:]  # of an event; the first two are counted


def _put(histogram: Histogram, value: float, attributes: Attributes, weight: int) -> None:
    for _ in range(min(weight, MOST_RECORDED)):
        histogram.record(value, attributes)


class HttpServer:
    """`http.server.request.duration`, of events of kind `request`.

    Args:
        meter: of the app's provider.
        url_scheme: what `url.scheme` says, which is required and no field of an event.
    """

    def __init__(self, meter: Meter, url_scheme: str) -> None:
        self._url_scheme = url_scheme
        self._routes = Capped(_ROUTES)
        self._duration = meter.create_histogram(
            "http.server.request.duration",
            unit="s",
            description="Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=HTTP_SECONDS,
        )

    def record(self, events: Iterable[UsageEvent]) -> None:
        """Record the requests of a batch; the end of a websocket is none, its beginning is one."""
        for event in events:
            if event.kind == "request" and event.latency_ms is not None and event.event != "websocket_close":
                self._record(event, event.latency_ms / 1000)

    def _record(self, event: UsageEvent, seconds: float) -> None:
        method, template = conventions.method_and_template(event.route)
        attributes: Attributes = {"http.request.method": method, "url.scheme": self._url_scheme}
        if template:
            attributes["http.route"] = self._routes(template)
        if event.status not in {0, conventions.WENT_AWAY}:
            attributes["http.response.status_code"] = event.status
        if error := conventions.request_error(event):
            attributes["error.type"] = error
        _put(self._duration, seconds, attributes, event.weight)


class _Calls:
    """What both generations of GenAI names have in common."""

    def __init__(self) -> None:
        self._models = Capped(_MODELS)
        self._providers = Capped(_MODELS)

    def of(self, event: UsageEvent) -> Attributes:
        """Give the attributes of a call, without its error."""
        attributes: Attributes = {
            "gen_ai.operation.name": conventions.operation_name(event),
            "gen_ai.provider.name": self._providers(conventions.provider_name(event.provider)),
        }
        if event.model:
            model = self._models(event.model)
            attributes |= {"gen_ai.request.model": model, "gen_ai.response.model": model}
        return attributes


def _failed(attributes: Attributes, event: UsageEvent) -> Attributes:
    error = conventions.call_error(event)
    return attributes | {"error.type": error} if error else attributes


def _operation_duration(meter: Meter) -> Histogram:
    return meter.create_histogram(
        "gen_ai.client.operation.duration",
        unit="s",
        description="GenAI operation duration.",
        explicit_bucket_boundaries_advisory=CALL_SECONDS,
    )


class ShippedGenAI:
    """The GenAI client metrics that instrumentations emit, and dashboards read, today."""

    def __init__(self, meter: Meter) -> None:
        self._calls = _Calls()
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._duration = _operation_duration(meter)
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            unit="s",
            description="Time to the first chunk of a streamed answer.",
            explicit_bucket_boundaries_advisory=CALL_SECONDS,
        )

    def record(self, events: Iterable[UsageEvent]) -> None:
        """Record the model calls of a batch; tokens where there are some."""
        for event in events:
            if event.kind == "llm":
                self._record(event)

    def _record(self, event: UsageEvent) -> None:
        attributes = self._calls.of(event)
        for kind, count in (("input", event.input_tokens), ("output", event.output_tokens)):
            if count:
                _put(self._tokens, count, attributes | {"gen_ai.token.type": kind}, event.weight)
        if event.latency_ms is not None:
            _put(self._duration, event.latency_ms / 1000, _failed(attributes, event), event.weight)
        if event.first_token_ms is not None:
            _put(self._first_chunk, event.first_token_ms / 1000, attributes, event.weight)


class NextGenAI:
    """The GenAI client metrics as the conventions' next release names them.

    Args:
        meter: of the app's provider.
        is_alone: whether calls that are no inference keep their duration, under its old name, here.
    """

    def __init__(self, meter: Meter, *, is_alone: bool) -> None:
        self._calls = _Calls()
        durations = {
            "duration": "Duration of inference.",
            "time_to_first_chunk": "Time to the first chunk of a streamed answer.",
        }
        self._durations = {
            name: meter.create_histogram(
                f"gen_ai.client.inference.{name}",
                unit="s",
                description=description,
                explicit_bucket_boundaries_advisory=CALL_SECONDS,
            )
            for name, description in durations.items()
        }
        self._sizes = {
            name: meter.create_histogram(
                f"gen_ai.client.inference.operation.{name}",
                unit="{token}",
                description=f"Number of {name.replace('_', ' ')} of one operation.",
                explicit_bucket_boundaries_advisory=TOKENS,
            )
            for name in ("input_tokens", "output_tokens")
        }
        self._usage = {
            field: meter.create_counter(
                f"gen_ai.client.inference.usage.{name}", unit="{token}", description=f"Number of {name} used."
            )
            for field, name in (
                ("input_tokens", "input_tokens"),
                ("output_tokens", "output_tokens"),
                ("cache_read_tokens", "cache_read.input_tokens"),
                ("cache_write_tokens", "cache_write.input_tokens"),
                ("reasoning_tokens", "reasoning.output_tokens"),
            )
        }
        self._others = _operation_duration(meter) if is_alone else None

    def record(self, events: Iterable[UsageEvent]) -> None:
        """Record the model calls of a batch; a failed one counts 0 tokens, and embeddings are no inference."""
        for event in events:
            if event.kind == "llm":
                self._record(event)

    def _record(self, event: UsageEvent) -> None:
        attributes = self._calls.of(event)
        failed = _failed(attributes, event)
        is_inference = attributes["gen_ai.operation.name"] != "embeddings"
        if event.latency_ms is not None:
            duration = self._durations["duration"] if is_inference else self._others
            if duration is not None:
                _put(duration, event.latency_ms / 1000, failed, event.weight)
        if event.first_token_ms is not None:
            _put(self._durations["time_to_first_chunk"], event.first_token_ms / 1000, attributes, event.weight)
        for name, histogram in self._sizes.items():
            _put(histogram, getattr(event, name), failed, event.weight)
        for name, counter in self._usage.items():
            # What the tokens were, text, audio or images, is no field of an event.
            counter.add(getattr(event, name) * event.weight, failed | {"gen_ai.token.modality": "unknown"})


class Usage:
    """usagekit's own counters, named as the measures that `usage` gives, and exact whatever the weights.

    Args:
        meter: of the app's provider.
        labels: names of dimensions that become attributes, and how many values of each.
    """

    def __init__(self, meter: Meter, labels: Mapping[str, int]) -> None:
        self._counters = {
            name: meter.create_counter(f"usagekit.{name}", unit=unit, description=f"Sum of {name} over events.")
            for name, unit in _SUMS.items()
        }
        self._labels = [(name, _LABELS.get(name, f"usagekit.{name}"), Capped(most)) for name, most in labels.items()]
        self._events, self._models, self._providers = Capped(_EVENTS), Capped(_MODELS), Capped(_MODELS)

    def record(self, events: Sequence[UsageEvent]) -> None:
        """Add a batch to every counter that has something of it; added up first, exactly."""
        sums: dict[tuple[tuple[str, str | int], ...], dict[str, Any]] = {}
        for event in events:
            sum_of = sums.setdefault(tuple(self._attributes(event).items()), dict.fromkeys(_SUMS, 0))
            weight = event.weight
            sum_of["events"] += weight
            sum_of["unpriced"] += weight * (event.cost_source == "unpriced")
            for name in _FIELDS:
                if value := getattr(event, name):
                    sum_of[name] += value * weight
        for key, sum_of in sums.items():
            attributes = dict(key)
            for name, value in sum_of.items():
                if value:
                    self._counters[name].add(float(value) if name == "cost_usd" else value, attributes)

    def _attributes(self, event: UsageEvent) -> Attributes:
        attributes: Attributes = {
            "usagekit.kind": event.kind,
            "usagekit.event": self._events(event.event),
            "usagekit.status_class": conventions.status_class(event.status),
        }
        if event.provider:
            attributes["gen_ai.provider.name"] = self._providers(conventions.provider_name(event.provider))
        if event.model:
            attributes["gen_ai.request.model"] = self._models(event.model)
        for name, attribute, capped in self._labels:
            if value := getattr(event, name) if name in _LABELS else event.attributes.get(name, ""):
                attributes[attribute] = capped(value)
        return attributes
