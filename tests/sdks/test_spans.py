"""What `UsageSpanProcessor` records of the spans that real instrumentations make of real SDKs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.sdks.drivers import PROMPT
from tests.sdks.instrumented import EACH, instrumented
from usagekit import bound
from usagekit.llm import scopes
from usagekit.opentelemetry import UsageSpanProcessor

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import TracerProvider

    from tests.sdks.drivers import Driver
    from usagekit import Recorder
    from usagekit.backends.memory import MemoryBackend
    from usagekit.testing import ProviderServer

USAGE = {
    "input_tokens": 1200,
    "output_tokens": 300,
    "cache_read_tokens": 1000,
    "cache_write_tokens": 100,
    "reasoning_tokens": 200,
}
UNTOLD = {
    "opentelemetry-instrumentation-openai": {"cache_write_tokens"},
    "opentelemetry-instrumentation-anthropic": {"reasoning_tokens"},
}
"""What an instrumentation does not pass on."""


@pytest.fixture(autouse=True)
def _default(server: ProviderServer) -> None:
    server.default = server.next(text="The answer.", usage=USAGE)
    server.reset()


@pytest.fixture
def tracing(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    """Trace into our processor alone."""
    from opentelemetry.sdk.trace import TracerProvider  # not in the environment of LiteLLM

    monkeypatch.setattr(scopes, "spans_watcher", None)
    provider = TracerProvider()
    provider.add_span_processor(UsageSpanProcessor(recorder))
    yield provider
    provider.shutdown()


@pytest.fixture
def instrumentation(request: pytest.FixtureRequest) -> str:
    """The name of an instrumentation."""
    return str(request.param)


@pytest.fixture
def traced(
    instrumentation: str, tracing: TracerProvider, server: ProviderServer, runner: asyncio.Runner
) -> Iterator[Driver]:
    """The client of the SDK that it traces."""
    with instrumented(instrumentation, server, runner, tracer_provider=tracing) as driver:
        yield driver


each = pytest.mark.parametrize("instrumentation", EACH, indirect=True)


def counts(backend: MemoryBackend, recorder: Recorder) -> list[dict[str, int]]:
    """Give the tokens of all events."""
    assert recorder.flush()
    assert recorder.status()["errors"] == {}
    return [{name: getattr(event, name) for name in USAGE} for event in backend.events]


@each
def test_traced_calls_need_no_decorator(
    traced: Driver, instrumentation: str, recorder: Recorder, backend: MemoryBackend
) -> None:
    """Everything that the instrumentation passes on, for the user that was bound."""
    with bound(user="ann"):
        traced.ask()

    untold = UNTOLD.get(instrumentation, set())
    assert counts(backend, recorder) == [{name: 0 if name in untold else count for name, count in USAGE.items()}]
    (event,) = backend.events
    assert (event.user, event.provider, event.model, event.status) == ("ann", traced.provider, traced.model, 200)
    assert event.latency_ms
    assert event.cost_usd is not None or event.cost_source == "unpriced"


@each
def test_traced_and_decorated_calls_count_once(traced: Driver, recorder: Recorder, backend: MemoryBackend) -> None:
    """The decorator knows more, and so it counts; plain and streamed, whatever the function returns."""

    @recorder.track_tokens
    def text() -> str:
        return traced.text(traced.ask())

    @recorder.track_tokens
    def stream() -> Any:
        return traced.stream()

    assert text() == "The answer."
    recorder.track_tokens(traced.ask)()
    assert "".join(traced.text(part) for part in stream() if getattr(part, "choices", part)) == "The answer."

    assert counts(backend, recorder) == [USAGE, USAGE, USAGE]


@each
def test_a_traced_failure_is_one_event(
    traced: Driver, server: ProviderServer, recorder: Recorder, backend: MemoryBackend
) -> None:
    """With the status that the exception's name stands for; decorated or not."""
    for ask in (traced.ask, recorder.track_tokens(traced.ask)):
        server.next(status=429)
        with pytest.raises(Exception, match="429"):
            ask()

    assert counts(backend, recorder) == [dict.fromkeys(USAGE, 0)] * 2
    assert [event.status for event in backend.events] == [429, 429]


@pytest.mark.parametrize("driver", ["pydantic-ai-slim"], indirect=True)
@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("decorated", [False, True])
def test_agents_count_their_calls_and_not_themselves(
    decorated: bool,  # noqa: FBT001
    tracing: TracerProvider,
    server: ProviderServer,
    recorder: Recorder,
    backend: MemoryBackend,
    runner: asyncio.Runner,
) -> None:
    """pydantic-ai traces agent, calls and tools by itself."""
    import openai
    from pydantic_ai import Agent
    from pydantic_ai.capabilities.instrumentation import Instrumentation
    from pydantic_ai.models.instrumented import InstrumentationSettings
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.models.test import TestModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = openai.AsyncOpenAI(base_url=server.openai, api_key="test-key", max_retries=0)
    real = OpenAIChatModel("gpt-5-mini", provider=OpenAIProvider(openai_client=client))
    instrumented = [Instrumentation(settings=InstrumentationSettings(tracer_provider=tracing))]
    agent = Agent(real, capabilities=instrumented)
    made_up = Agent(TestModel(), capabilities=instrumented)

    def add(one: int, other: int) -> int:
        return one + other

    made_up.tool_plain(add)

    def run() -> Any:
        return agent.run_sync(PROMPT).output

    def run_made_up() -> Any:
        return made_up.run_sync(PROMPT)

    with bound(user="ann"):
        assert (recorder.track_tokens(run) if decorated else run)() == "The answer."
        (recorder.track_tokens(run_made_up) if decorated else run_made_up)()
    runner.run(client.close())

    first, *others = counts(backend, recorder)
    assert first == USAGE
    assert len(others) == (1 if decorated else 2)  # decorated, the run as a whole is what is seen
    assert all(event.user == "ann" for event in backend.events)
