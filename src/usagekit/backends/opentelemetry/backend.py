"""`OpenTelemetryBackend`: a sink that speaks through the app's own OpenTelemetry providers."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from usagekit.backends.opentelemetry import instruments, records
from usagekit.backends.opentelemetry.acknowledged import NotAcknowledged
from usagekit.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry._logs import Logger, LoggerProvider
    from opentelemetry.metrics import Meter, MeterProvider

    from usagekit.backends.opentelemetry.acknowledged import Acknowledged
    from usagekit.event import UsageEvent

__all__ = ["OpenTelemetryBackend"]

SCOPE = "usagekit"  # the instrumentation scope of all that is emitted here

_HTTP = ("auto", "on", "off")
_GEN_AI = ("auto", "shipped", "next", "both", "off")
_LABELS = ("user", "org", "route")  # what may be a label besides declared dimensions
_URL_OPTIONS = frozenset({"http", "gen_ai", "url_scheme", "logs", "label"})

# Who reports `http.server.request.duration` and the GenAI metrics by themselves.
_HTTP_REPORTERS = (
    "fastapi.telemetry",
    *(f"opentelemetry.instrumentation.{name}" for name in "aiohttp_server asgi pyramid tornado wsgi".split()),
)
_GEN_AI_REPORTERS = tuple(
    f"opentelemetry.instrumentation.{name}"
    for name in (
        "anthropic bedrock cohere genai google_genai google_generativeai groq langchain mistralai ollama openai"
        " openai_v2 vertexai"
    ).split()
)


class OpenTelemetryBackend:
    """Writes events as metrics, and on request as log records, to OpenTelemetry providers of the app.

    A sink only. Metrics carry no user and no organisation unless `labels` says so, and every attribute has a limit of
    values. It is written to by one background thread of one process at a time, which looks for the providers when its
    first batch comes; what it emits in a forked worker is that worker's. It closes no provider.

    Args:
        meter_provider: where metrics go; None = the global one. Until one is set, events wait in the ledger.
        logger_provider: where log records go; None = the global one.
        http: `"on"`: `http.server.request.duration`; `"off"`: without; `"auto"`: unless FastAPI's own telemetry or an
            instrumentation that reports it is loaded in this process when the first batch comes.
        gen_ai: `"shipped"`: GenAI metrics as instrumentations name them today; `"next"`: as the conventions' next
            release does; `"both"`; `"off"`; `"auto"`: the shipped ones, unless an instrumentation of a model SDK is
            loaded.
        labels: names of dimensions (`user`, `org`, `route`, declared ones) that become attributes of the `usagekit.*`
            metrics, and how many values of each; later ones are `"other"`. None = none.
        logs: whether each event is also one log record, with user and organisation, in event time.
        url_scheme: `url.scheme` of HTTP metrics, which a convention requires and an event does not know.
        flush: readers and processors to flush after every batch, and the `Acknowledged` exporter of each: a batch is
            delivered when each exporter succeeded. None = when the SDK has it in memory.

    Attributes:
        max_batch: events per batch, few enough for the queue of a log processor.
        name: under which the ledger keeps how far it has come.

    Raises:
        ConfigurationError: an option that cannot work.
        MissingDependencyError: opentelemetry-api is not installed.
    """

    max_batch = 500
    name = "opentelemetry"

    def __init__(
        self,
        *,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        http: Literal["auto", "on", "off"] = "auto",
        gen_ai: Literal["auto", "shipped", "next", "both", "off"] = "auto",
        labels: Mapping[str, int] | None = None,
        logs: bool = False,
        url_scheme: str = "http",
        flush: Mapping[Any, Acknowledged] | None = None,
    ) -> None:
        _check_choice("http", http, _HTTP)
        _check_choice("gen_ai", gen_ai, _GEN_AI)
        if find_spec("opentelemetry") is None:
            raise MissingDependencyError("OpenTelemetry needs the extra: pip install 'usagekit[otel]'")
        self._meter_provider = meter_provider
        self._logger_provider = logger_provider
        self._http = http
        self._gen_ai = gen_ai
        self._labels = _checked_labels(labels or {})
        self._logs = logs
        self._url_scheme = url_scheme
        self._flush = dict(flush or {})
        self._emitters: dict[int, _Emitter] = {}  # by process: a fork's child has batches of its own

    @classmethod
    def from_url(cls, url: str) -> OpenTelemetryBackend:
        """Make it of `otel://` or `otel://?http=off&gen_ai=both&logs=1&label=org:100&label=project:20`."""
        parts = urlsplit(url)
        given = parse_qsl(parts.query, keep_blank_values=True)
        if parts.netloc or parts.path.strip("/") or {name for name, _ in given} - _URL_OPTIONS:
            raise ConfigurationError(
                f"cannot use {url!r}; use otel://, with ?{', '.join(sorted(_URL_OPTIONS))}; "
                "where to is what the SDK's own variables say, such as OTEL_EXPORTER_OTLP_ENDPOINT"
            )
        options: dict[str, Any] = dict(given)
        options["logs"] = options.get("logs", "0") not in {"", "0"}
        options.pop("label", None)
        return cls(**options, labels=dict(_label(value) for name, value in given if name == "label"))

    def __repr__(self) -> str:
        return f"OpenTelemetryBackend(http={self._http!r}, gen_ai={self._gen_ai!r}, logs={self._logs!r})"

    def declare(self, dimensions: Iterable[str]) -> None:
        """Take the names declared on the recorder; raises `ConfigurationError` where a label is none of them."""
        known = (*_LABELS, *dimensions)
        for name in self._labels:
            if name not in known:
                raise ConfigurationError(
                    f"label {name!r} is unknown; use one of {', '.join(known)}, or declare it: "
                    f"Recorder(dimensions=[{name!r}])"
                )

    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        """Record a batch; a retry of one that was recorded in this process is only flushed again.

        Raises:
            NotAcknowledged: no provider is set, or an exporter did not succeed.
            Exception: what a provider or reader raises.
        """
        emitter = self._emitters.get(os.getpid())
        if emitter is None:
            emitter = self._emitters[os.getpid()] = self._emitter()
        before = {exporter: exporter.counts() for exporter in self._flush.values()}
        emitter.emit(events, batch_id)
        for pipe in self._flush:
            if pipe.force_flush() is False:
                raise NotAcknowledged(f"{type(pipe).__name__} could not be flushed; the batch is tried again")
        for exporter, (succeeded, failed) in before.items():
            now_succeeded, now_failed = exporter.counts()
            if now_failed > failed:
                raise NotAcknowledged("an exporter failed, the SDK's log says why; the batch is tried again")
            if now_succeeded == succeeded:
                raise NotAcknowledged(
                    "nothing was exported; give flush= each reader with the exporter that it was made with"
                )

    def close(self) -> None:
        """Do nothing: the providers are the app's, which shuts them down."""

    def _emitter(self) -> _Emitter:
        meter = self._meter()
        metrics: list[Callable[[Sequence[UsageEvent]], None]] = [instruments.Usage(meter, self._labels).record]
        if self._http == "on" or (self._http == "auto" and not _loaded(_HTTP_REPORTERS)):
            metrics.append(instruments.HttpServer(meter, self._url_scheme).record)
        names = self._gen_ai
        if names == "auto":
            names = "off" if _loaded(_GEN_AI_REPORTERS) else "shipped"
        if names in {"shipped", "both"}:
            metrics.append(instruments.ShippedGenAI(meter).record)
        if names in {"next", "both"}:
            metrics.append(instruments.NextGenAI(meter, is_alone=names == "next").record)
        return _Emitter(metrics, *(self._logger() if self._logs else (None, None)))

    def _meter(self) -> Meter:
        from opentelemetry import metrics

        from usagekit import __version__

        provider: MeterProvider = _set("meter", self._meter_provider or metrics.get_meter_provider())
        return provider.get_meter(SCOPE, __version__)

    def _logger(self) -> tuple[Logger, LoggerProvider]:
        from opentelemetry import _logs

        from usagekit import __version__

        provider = _set("logger", self._logger_provider or _logs.get_logger_provider())
        return provider.get_logger(SCOPE, __version__), provider


class _Emitter:
    """What one process writes to, and which batch its metrics hold already."""

    def __init__(
        self,
        metrics: list[Callable[[Sequence[UsageEvent]], None]],
        logger: Logger | None,
        provider: LoggerProvider | None,
    ) -> None:
        self._metrics = metrics
        self._logger = logger
        self._provider = provider
        self._batch = ""
        self._recorded = 0  # how many groups of metrics hold it

    def emit(self, events: Sequence[UsageEvent], batch_id: str) -> None:
        """Record what is not yet recorded; log records go out again, since a failed export has lost them."""
        if self._batch != batch_id:
            self._batch, self._recorded = batch_id, 0
        for record in self._metrics[self._recorded :]:
            record(events)
            self._recorded += 1
        if self._logger is None:
            return
        for event in events:
            records.emit(self._logger, event)
        # Or else a backlog would overflow the queue of a batch processor, which drops the oldest records.
        flush = getattr(self._provider, "force_flush", None)
        if flush is not None and flush() is False:
            raise NotAcknowledged("the logger provider could not be flushed; the batch is tried again")


def _set(kind: str, provider: Any) -> Any:
    """Give back a provider that is not the API's stand-in for none, which throws everything away."""
    if type(provider).__name__.lstrip("_").startswith("Proxy"):
        raise NotAcknowledged(
            f"no {kind} provider is set, so events wait; set one as OpenTelemetry says, or give {kind}_provider="
        )
    return provider


def _loaded(reporters: tuple[str, ...]) -> bool:
    return any(name in sys.modules for name in reporters)


def _check_choice(name: str, given: object, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise ConfigurationError(f"{name}={given!r} is unknown; use one of {', '.join(choices)}")


def _checked_labels(labels: Mapping[str, int]) -> dict[str, int]:
    for name, most in labels.items():
        if type(most) is not int or most < 1:
            raise ConfigurationError(f"labels={{{name!r}: {most!r}}} is no limit; give the most values, 1 or more")
    return dict(labels)


def _label(given: str) -> tuple[str, int]:
    name, _, most = given.partition(":")
    if not name or not most.isdecimal():
        raise ConfigurationError(f"label={given!r} names no limit; use label=org:100")
    return name, int(most)
