"""Spans of model calls become events, once, with the identity of the request they were begun in."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode, use_span

from tests.llm.conftest import told
from tests.support.capture import Capture, capturing
from usagekit import bound, set_default_recorder, track_tokens
from usagekit.llm import scopes
from usagekit.opentelemetry import UsageSpanProcessor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.trace import Tracer

CHAT: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-5-mini",
}
USED: dict[str, Any] = {"gen_ai.usage.input_tokens": 12, "gen_ai.usage.output_tokens": 9}
COUNTED = {
    "status": 200,
    "provider": "openai",
    "model": "gpt-5-mini",
    "input_tokens": 12,
    "output_tokens": 9,
    "cost_source": "priced",
}
RESPONSE = {"object": "chat.completion", "model": "gpt-5-mini", "usage": {"prompt_tokens": 12, "completion_tokens": 9}}


@pytest.fixture
def capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Capture]:
    """Record into a ledger by the default recorder."""
    monkeypatch.setattr("usagekit._guard.reraise", True)
    monkeypatch.setattr(scopes, "spans_watcher", None)
    with capturing(tmp_path / "usage.db", dimensions=["project"]) as capture:
        set_default_recorder(capture.recorder)
        yield capture
    set_default_recorder(None)


@pytest.fixture
def tracer() -> Iterator[Tracer]:
    """Trace with OpenTelemetry's own SDK, into our processor alone."""
    provider = TracerProvider()
    provider.add_span_processor(UsageSpanProcessor())
    yield provider.get_tracer("tests")
    assert provider.force_flush()
    provider.shutdown()


def span(tracer: Tracer, attributes: dict[str, Any], name: str = "chat gpt-5-mini") -> None:
    """Make a span that told everything at its end, as instrumentations do."""
    with tracer.start_as_current_span(name, kind=SpanKind.CLIENT) as one:
        one.set_attributes(attributes)


def test_a_finished_span_is_an_event_of_its_request(capture: Capture, tracer: Tracer) -> None:
    """Whom it counts for was in flight when it began, wherever it ends; times are the span's."""
    with bound(user="ann", org="acme", project="p1"):
        one = tracer.start_span("chat", attributes=CHAT, start_time=1_790_000_000_000_000_000)
    one.set_attributes({**USED, "gen_ai.response.model": "gpt-5-mini", "gen_ai.response.time_to_first_chunk": 0.25})
    thread = Thread(target=one.end, args=(1_790_000_001_500_000_000,))
    thread.start()
    thread.join()

    event = capture.event()
    assert told(event) == COUNTED
    assert (event.user, event.org, event.attributes) == ("ann", "acme", {"project": "p1"})
    assert event.time.isoformat() == "2026-09-21T14:13:20+00:00"
    assert (event.latency_ms, event.first_token_ms) == (1500.0, 250.0)
    assert event.cost_usd == Decimal("0.000021")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {
                **USED,
                "gen_ai.usage.cache_read.input_tokens": 4,
                "gen_ai.usage.cache_write.input_tokens": 2,
                "gen_ai.usage.reasoning.output_tokens": 5,
            },
            {"cache_read_tokens": 4, "cache_write_tokens": 2, "reasoning_tokens": 5},
        ),
        (
            {
                **USED,
                "gen_ai.usage.cache_read_input_tokens": 4,
                "gen_ai.usage.cache_creation.input_tokens": 2,
                "gen_ai.usage.reasoning_tokens": 5,
            },
            {"cache_read_tokens": 4, "cache_write_tokens": 2, "reasoning_tokens": 5},
        ),
        (
            {
                "gen_ai.usage.prompt_tokens": 12,
                "gen_ai.usage.completion_tokens": 9,
                "gen_ai.usage.details.reasoning_tokens": 5,
            },
            {"reasoning_tokens": 5},
        ),
        (
            {**USED, "gen_ai.usage.cache_read.input_tokens": 40, "gen_ai.usage.cache_creation.input_tokens": 20},
            {"input_tokens": 72, "cache_read_tokens": 40, "cache_write_tokens": 20},
        ),
        (
            {**USED, "gen_ai.provider.name": "az.ai.openai", "gen_ai.response.model": "gpt-5-mini-2025-08-07"},
            {"provider": "azure", "model": "gpt-5-mini-2025-08-07"},
        ),
        ({**USED, "operation.cost": 0.5}, {"cost_source": "reported"}),
        ({**USED, "gen_ai.usage.input_tokens": 0}, {"input_tokens": None}),
        ({"gen_ai.usage.input_tokens": 12, "gen_ai.operation.name": "embeddings"}, {"output_tokens": None}),
    ],
    ids=["new", "shipped", "old", "apart", "azure", "cost", "zero", "embeddings"],
)
def test_names_of_all_ages_have_one_meaning(
    capture: Capture, tracer: Tracer, attributes: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Input includes caches and output includes reasoning, whatever an instrumentation calls them."""
    span(tracer, {**CHAT, **attributes})

    event = told(capture.event())
    assert event == {name: value for name, value in (COUNTED | expected).items() if value is not None}


def test_spans_without_an_operation_count_where_they_tell_of_a_call(capture: Capture, tracer: Tracer) -> None:
    """OpenLLMetry once said it otherwise, and others not at all."""
    old = {"gen_ai.system": "OpenAI", "gen_ai.request.model": "gpt-5-mini", **USED}
    span(tracer, {**old, "llm.request.type": "chat"})
    span(tracer, old)
    span(tracer, {**old, "gen_ai.agent.name": "an agent, which sums up"})
    span(tracer, {"gen_ai.request.model": "gpt-5-mini"})

    assert [told(event) for event in capture.events()] == [COUNTED, COUNTED]


@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        ({"error.type": "openai.RateLimitError"}, 429),
        ({"error.type": "503"}, 503),
        ({"error.type": "APIStatusError", "http.response.status_code": 418}, 418),
        ({"error.type": "TimeoutError"}, 599),
        ({"error.type": "asyncio.exceptions.CancelledError"}, 499),
        ({}, 599),
    ],
)
def test_failures_have_the_status_that_the_span_tells(
    capture: Capture, tracer: Tracer, attributes: dict[str, Any], status: int
) -> None:
    """By number, by the name of the client's exception, or 599."""
    one = tracer.start_span("chat", attributes=CHAT | attributes)
    one.set_status(Status(StatusCode.ERROR))
    one.end()

    event = capture.event()
    assert (event.status, event.input_tokens, event.cost_source) == (status, 0, "")
    assert event.aborted is (status == 499)


def test_an_exception_noted_on_a_span_tells_its_status(capture: Capture, tracer: Tracer) -> None:
    """Where there is no `error.type`."""

    class RateLimitError(Exception):
        pass

    with pytest.raises(RateLimitError), tracer.start_as_current_span("chat", attributes=CHAT):
        raise RateLimitError

    assert capture.event().status == 429


def test_only_model_calls_count(capture: Capture, tracer: Tracer) -> None:
    """Agents, workflows and tools sum up or surround the calls; a fetched response counted before."""
    with tracer.start_as_current_span("agent", attributes={"gen_ai.operation.name": "invoke_agent"}) as agent:
        agent.set_attributes({**CHAT, **USED, "gen_ai.operation.name": "invoke_agent"})
        for operation in ("chat", "execute_tool", "invoke_workflow", "create_agent", "fetch_response", "chat"):
            span(tracer, {**CHAT, **USED, "gen_ai.operation.name": operation}, name=operation)
    span(tracer, {"http.request.method": "GET"}, name="GET")

    assert [told(event) for event in capture.events()] == [COUNTED, COUNTED]


def test_two_instrumentations_of_one_call_count_once(capture: Capture, tracer: Tracer) -> None:
    """The inner one, unless only the outer one knows what was used; an embedding inside is a call of its own."""
    with tracer.start_as_current_span("outer", attributes=CHAT | USED):
        span(tracer, CHAT | USED)
    with tracer.start_as_current_span("outer", attributes=CHAT | USED):
        span(tracer, CHAT)
    with tracer.start_as_current_span("outer", attributes=CHAT | USED):
        span(tracer, {**CHAT, "gen_ai.operation.name": "embeddings", "gen_ai.usage.input_tokens": 3})

    assert [event.input_tokens for event in capture.events()] == [12, 12, 3, 12]


@pytest.mark.parametrize(
    "between",
    [
        {"gen_ai.operation.name": "execute_tool"},
        {"gen_ai.operation.name": "invoke_agent"},
        {"gen_ai.tool.name": "weather"},
        {"traceloop.span.kind": "tool"},
    ],
    ids=str,
)
@pytest.mark.parametrize("how", ["span", "tracked"])
def test_a_call_that_a_tool_makes_is_another(
    capture: Capture, tracer: Tracer, between: dict[str, Any], how: str
) -> None:
    """The call that asked for the tool counts too."""
    asking = {**CHAT, **USED, "gen_ai.operation.name": "generate_content", "gen_ai.usage.input_tokens": 1000}

    with (
        tracer.start_as_current_span("asking", attributes=asking),
        tracer.start_as_current_span("tool", attributes=between),
        tracer.start_as_current_span("GET /weather"),
    ):
        if how == "span":
            span(tracer, CHAT | USED)
        else:
            track_tokens(lambda: RESPONSE)()

    assert [event.input_tokens for event in capture.events()] == [12, 1000]


def test_a_first_chunk_after_the_end_is_unknown(capture: Capture, tracer: Tracer) -> None:
    """Milliseconds where seconds belong, most likely."""
    one = tracer.start_span("chat", attributes=CHAT | USED, start_time=1_790_000_000_000_000_000)
    one.set_attribute("gen_ai.response.time_to_first_chunk", 250)
    one.end(1_790_000_001_500_000_000)

    event = capture.event()
    assert (event.latency_ms, event.first_token_ms) == (1500.0, None)


def test_a_span_around_a_tracked_call_is_that_call(capture: Capture, tracer: Tracer) -> None:
    """An instrumentation around a decorated function tells nothing new."""

    @track_tokens
    def ask() -> dict[str, Any]:
        return RESPONSE

    with tracer.start_as_current_span("chat", attributes=CHAT | USED):
        ask()
    with tracer.start_as_current_span("invoke_agent", attributes={"gen_ai.operation.name": "invoke_agent"}):
        ask()

    assert len(capture.events()) == 2


@pytest.mark.parametrize("told_by_span", [USED, {}, {**USED, "gen_ai.usage.output_tokens": 10}])
def test_a_span_in_a_tracked_call_is_that_call(capture: Capture, tracer: Tracer, told_by_span: dict[str, Any]) -> None:
    """Also where it counts otherwise than the response, or not at all."""

    @track_tokens
    def ask() -> dict[str, Any]:
        span(tracer, CHAT | told_by_span)
        return RESPONSE

    ask()
    ask()

    assert [told(event) for event in capture.events()] == [COUNTED, COUNTED]


def test_calls_of_a_tracked_function_that_only_spans_tell_of_count(capture: Capture, tracer: Tracer) -> None:
    """A client that nobody watches, and a function that returns its text: with the function's options."""

    @track_tokens(event="chat", user="bob")
    def ask() -> str:
        span(tracer, CHAT | USED)
        span(tracer, CHAT | {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 1})
        return "text"

    assert ask() == "text"

    events = capture.events()
    assert [(event.event, event.user, event.input_tokens) for event in events] == [
        ("chat", "bob", 12),
        ("chat", "bob", 5),
    ]
    assert capture.errors() == {}


def test_of_two_calls_the_one_that_is_returned_counts_once(capture: Capture, tracer: Tracer) -> None:
    """What is returned is one of the calls that spans tell of; the other one counts by its span."""

    @track_tokens
    def ask() -> dict[str, Any]:
        span(tracer, CHAT | {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 1})
        span(tracer, CHAT | USED)
        return RESPONSE

    ask()

    assert sorted(event.input_tokens for event in capture.events()) == [5, 12]


def test_a_failed_call_in_a_tracked_function_counts_once(capture: Capture, tracer: Tracer) -> None:
    """The exception and the span tell of the same call."""

    @track_tokens
    def ask() -> None:
        with tracer.start_as_current_span("chat", attributes=CHAT):
            raise ConnectionError

    with pytest.raises(ConnectionError):
        ask()

    assert told(capture.event()) == {"status": 599}


def test_a_stream_and_its_span_count_once(capture: Capture, tracer: Tracer) -> None:
    """Whichever of the two ends first."""

    @track_tokens
    def inside() -> Iterator[dict[str, Any]]:
        with use_span(tracer.start_span("chat", attributes=CHAT | USED), end_on_exit=True):
            yield RESPONSE

    @track_tokens
    def outside() -> Iterator[dict[str, Any]]:
        yield RESPONSE
        span(tracer, CHAT | USED)

    assert list(inside()) == [RESPONSE]
    assert list(outside()) == [RESPONSE]

    events = capture.events()
    assert [event.input_tokens for event in events] == [12, 12]


def test_asynchronous_calls_side_by_side_count_each_for_their_own(capture: Capture, tracer: Tracer) -> None:
    """Spans of concurrent tasks are told apart."""

    async def ask(user: str) -> None:
        with bound(user=user), tracer.start_as_current_span("chat", attributes=CHAT) as one:
            await asyncio.sleep(0)
            one.set_attributes(USED)

    async def main() -> None:
        await asyncio.gather(*(ask(f"user {number}") for number in range(5)))

    asyncio.run(main())

    assert sorted(capture.users()) == [f"user {number}" for number in range(5)]


def test_junk_in_attributes_harms_nobody(capture: Capture, tracer: Tracer) -> None:
    """What is no count is none, what is no text is none, and what is too long is cut."""
    span(
        tracer,
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": 7,
            "gen_ai.response.model": "m" * 5000,
            "gen_ai.usage.input_tokens": "many",
            "gen_ai.usage.output_tokens": -5,
            "gen_ai.usage.cache_read.input_tokens": float("nan"),
            "gen_ai.usage.reasoning_tokens": [1, 2],
            "gen_ai.response.time_to_first_chunk": float("inf"),
            "operation.cost": float("nan"),
            "error.type": "",
        },
    )
    span(tracer, {"gen_ai.operation.name": ["chat"]})
    span(tracer, {"gen_ai.operation.name": 5})

    event = capture.event()
    assert (event.provider, event.input_tokens, event.output_tokens, event.cost_usd) == ("", 0, 0, None)
    assert len(event.model) == 256
    assert event.first_token_ms is None


def test_what_is_no_span_harms_nobody(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something went wrong before: it is counted, and nothing reaches the tracer."""
    monkeypatch.setattr("usagekit._guard.reraise", False)
    processor = UsageSpanProcessor()

    processor.on_start(None)
    processor.on_end(object())

    assert capture.errors() == {"UsageSpanProcessor": 2}


def test_spans_that_never_end_are_forgotten(capture: Capture, tracer: Tracer) -> None:
    """A process that leaks spans does not leak here too; a span that was forgotten counts for nobody."""
    processor = UsageSpanProcessor(capture.recorder)
    provider = TracerProvider()
    provider.add_span_processor(processor)
    leaking = provider.get_tracer("tests")
    with bound(user="ann"):
        first = leaking.start_span("chat", attributes=CHAT | USED)
        spans = [leaking.start_span("never ended") for _ in range(9000)]

    first.end()

    assert capture.event().user == ""
    assert len(processor._live) <= 8192
    del spans


def test_after_shutdown_nothing_is_recorded(capture: Capture) -> None:
    """As the specification asks: later spans are ignored."""
    provider = TracerProvider()
    provider.add_span_processor(UsageSpanProcessor())
    provider.shutdown()

    span(provider.get_tracer("tests"), CHAT | USED)

    assert capture.events() == []


def test_without_a_recorder_spans_go_by() -> None:
    """Nothing is recorded, and nothing raised."""
    provider = TracerProvider()
    provider.add_span_processor(UsageSpanProcessor())

    span(provider.get_tracer("tests"), CHAT | USED)
