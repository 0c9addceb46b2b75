"""What the SDKs can do beside chat: other endpoints, helpers, raw answers, and what providers tell apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.matrix import matrix
from usagekit import Recorder, usage
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.sdks.drivers import Driver
    from usagekit import UsageEvent
    from usagekit.backends.memory import MemoryBackend
    from usagekit.testing import ProviderServer

    Use = Callable[[Any], Any]

USAGE = {
    "input_tokens": 1200,
    "output_tokens": 300,
    "cache_read_tokens": 1000,
    "cache_write_tokens": 100,
    "reasoning_tokens": 200,
}
PROMPT: list[Any] = [{"role": "user", "content": "Say something."}]
CHAT: dict[str, Any] = {"model": "gpt-5-mini", "messages": PROMPT}
MESSAGES: dict[str, Any] = {"model": "claude-sonnet-4-6", "messages": PROMPT, "max_tokens": 100}
RESPONSE: dict[str, Any] = {"model": "gpt-5-mini", "input": "Say something."}
SPEECH = ("speech.wav", b"RIFF")


def case(sdk: str, behaviour: str, use: Use, model: str, note: str = "yes", **counts: int) -> Any:
    """Give a parameter: what is done with an SDK's client, and what the one event says; no counts = all of USAGE."""
    expected = dict.fromkeys(USAGE, 0) | counts if counts else USAGE
    return pytest.param(sdk, use, model, expected, marks=matrix(sdk, behaviour, note), id=f"{sdk}-{behaviour}")


def read_helper(manager: Any, final: str) -> Any:
    """Read a stream of a helper to its end, and ask it for the whole."""
    with manager as stream:
        for _ in stream:
            pass
        return getattr(stream, final)()


CASES = [
    case("openai", "responses", lambda c: c.responses.create(**RESPONSE), "gpt-5-mini"),
    case("openai", "responses streamed", lambda c: list(c.responses.create(**RESPONSE, stream=True)), "gpt-5-mini"),
    case(
        "openai",
        "responses stream helper",
        lambda c: read_helper(c.responses.stream(**RESPONSE), "get_final_response"),
        "gpt-5-mini",
    ),
    case(
        "openai",
        "stream helper",
        lambda c: read_helper(c.chat.completions.stream(**CHAT), "get_final_completion"),
        "gpt-5-mini",
    ),
    case("openai", "raw response", lambda c: c.chat.completions.with_raw_response.create(**CHAT), "gpt-5-mini"),
    case(
        "openai",
        "embeddings",
        lambda c: c.embeddings.create(model="text-embedding-3-small", input="one"),
        "text-embedding-3-small",
        input_tokens=1200,
    ),
    case(
        "openai",
        "images",
        lambda c: c.images.generate(model="gpt-image-1", prompt="a dot"),
        "gpt-image-1",
        input_tokens=1200,
        output_tokens=300,
    ),
    case(
        "openai",
        "transcription",
        lambda c: c.audio.transcriptions.create(model="gpt-4o-transcribe", file=SPEECH),
        "gpt-4o-transcribe",
        input_tokens=1200,
        output_tokens=300,
    ),
    case(
        "openai",
        "transcription streamed",
        lambda c: list(c.audio.transcriptions.create(model="gpt-4o-transcribe", file=SPEECH, stream=True)),
        "gpt-4o-transcribe",
        input_tokens=1200,
        output_tokens=300,
    ),
    case(
        "anthropic",
        "stream helper",
        lambda c: read_helper(c.messages.stream(**MESSAGES), "get_final_message"),
        "claude-sonnet-4-6",
    ),
    case("anthropic", "raw response", lambda c: c.messages.with_raw_response.create(**MESSAGES), "claude-sonnet-4-6"),
    case(
        "groq",
        "raw response",
        lambda c: c.chat.completions.with_raw_response.create(**CHAT),
        "gpt-5-mini",
        input_tokens=1200,
        output_tokens=300,
        cache_read_tokens=1000,
        reasoning_tokens=200,
    ),
    case(
        "google-genai",
        "embeddings",
        lambda c: c.models.embed_content(model="gemini-embedding-001", contents="one"),
        "",
        "the answer names no model",
        input_tokens=1200,
    ),
    case(
        "mistralai",
        "embeddings",
        lambda c: c.embeddings.create(model="mistral-embed", inputs=["one"]),
        "mistral-embed",
        input_tokens=1200,
        cache_read_tokens=1000,
    ),
    case(
        "cohere",
        "embeddings",
        lambda c: c.embed(model="embed-v4.0", texts=["one"], input_type="search_query", embedding_types=["float"]),
        "",
        "the answer names no model",
        input_tokens=1200,
    ),
    case("ollama", "embeddings", lambda c: c.embed(model="all-minilm", input="one"), "all-minilm", input_tokens=1200),
    case(
        "ollama",
        "generate",
        lambda c: c.generate(model="llama3.2", prompt="Say something."),
        "llama3.2",
        input_tokens=1200,
        output_tokens=300,
    ),
    case(
        "ollama",
        "generate streamed",
        lambda c: c.generate(model="llama3.2", prompt="Say something.", stream=True),
        "llama3.2",
        input_tokens=1200,
        output_tokens=300,
    ),
]


def the_event(recorder: Recorder, backend: MemoryBackend) -> UsageEvent:
    """Give the only event there is."""
    assert recorder.flush()
    (event,) = backend.events
    assert recorder.status()["errors"] == {}
    return event


@pytest.mark.parametrize(("driver", "use", "model", "expected"), CASES, indirect=["driver"])
def test_endpoints(
    driver: Driver,
    use: Use,
    model: str,
    expected: dict[str, int],
    server: ProviderServer,
    recorder: Recorder,
    backend: MemoryBackend,
) -> None:
    """One event, with what this endpoint tells."""
    server.next(usage=USAGE)

    result = recorder.track_tokens(use)(driver._client)  # type: ignore[attr-defined]  # each has one
    if hasattr(result, "__next__"):
        list(result)

    event = the_event(recorder, backend)
    assert (event.provider, event.model, event.status, event.aborted) == (driver.provider, model, 200, False)
    assert {name: getattr(event, name) for name in USAGE} == expected


@pytest.mark.parametrize(
    "driver", [pytest.param("cohere", marks=matrix("cohere", "rerank", "searches, as `quantity`"))], indirect=True
)
def test_rerank(driver: Any, recorder: Recorder, backend: MemoryBackend) -> None:
    """Searches are metered, not tokens."""
    recorder.track_tokens(driver._client.rerank)(model="rerank-v3.5", query="one", documents=["one", "two"])

    event = the_event(recorder, backend)
    assert (event.provider, event.input_tokens, event.output_tokens, event.quantity) == ("cohere", 0, 0, 1.0)


@pytest.mark.parametrize(
    "driver",
    [pytest.param("openai", marks=matrix("openai", "transcription by time", "seconds, as `quantity`"))],
    indirect=True,
)
def test_transcription_by_time(driver: Any, server: ProviderServer, recorder: Recorder, backend: MemoryBackend) -> None:
    """Seconds are metered, not tokens."""
    server.next(usage={"seconds": 12.5})

    recorder.track_tokens(driver._client.audio.transcriptions.create)(model="whisper-1", file=SPEECH)

    event = the_event(recorder, backend)
    assert (event.model, event.input_tokens, event.quantity) == ("whisper-1", 0, 12.5)


@pytest.mark.parametrize(
    "driver", [pytest.param("openai", marks=matrix("openai", "background response"))], indirect=True
)
def test_background_responses_count_once(driver: Any, server: ProviderServer, tmp_path: Path) -> None:
    """When they are retrieved, however often: the ledger knows them by their id."""
    server.next(usage=USAGE, times=3)
    ledger = Recorder(SQLiteBackend(tmp_path / "usage.db"))

    @ledger.track_tokens
    def ask() -> None:
        queued = driver._client.responses.create(**RESPONSE, background=True)
        assert queued.usage is None
        for _ in range(2):
            assert driver._client.responses.retrieve(queued.id).usage.input_tokens == 1200

    ask()

    assert usage(ledger, by=["provider", "model"], measures=["events", *USAGE]).rows == [
        {"provider": "openai", "model": "gpt-5-mini", "events": 1, **USAGE}
    ]
    ledger.close()


@pytest.mark.parametrize(
    "driver", [pytest.param("openai", marks=matrix("openai", "server that refuses `stream_options`"))], indirect=True
)
def test_a_refused_question_for_usage(
    driver: Any, server: ProviderServer, recorder: Recorder, backend: MemoryBackend
) -> None:
    """The request is made again without; the caller sees nothing of it, and the tokens are estimated."""
    server.refuses.add("stream_options")
    server.next(text="Eight by four is thirty-two.")

    parts = list(recorder.track_tokens(driver.stream)())

    assert "".join(map(driver.text, parts)) == "Eight by four is thirty-two."
    event = the_event(recorder, backend)
    assert (event.status, event.output_tokens) == (200, 7)
    assert event.cost_source in {"estimated", "unpriced"}
    assert ["stream_options" in request.body for request in server.requests] == [True, False]


@pytest.mark.parametrize(
    "driver",
    [
        pytest.param("openai", marks=matrix("openai", "usage asked for by the caller")),
    ],
    indirect=True,
)
def test_usage_that_the_caller_asked_for(
    driver: Any, server: ProviderServer, recorder: Recorder, backend: MemoryBackend
) -> None:
    """Then the chunk that tells it is the caller's too."""
    server.next(usage=USAGE)

    stream = recorder.track_tokens(driver._client.chat.completions.create)(
        **CHAT, stream=True, stream_options={"include_usage": True}
    )
    *_, last = stream

    assert (last.choices, last.usage.total_tokens) == ([], 1500)
    event = the_event(recorder, backend)
    assert {name: getattr(event, name) for name in USAGE} == USAGE


@pytest.mark.parametrize(
    "driver",
    [
        pytest.param(name, marks=matrix(name, "error within a stream"))
        for name in ("openai", "anthropic", "ollama", "boto3")
    ],
    indirect=True,
)
def test_an_error_within_a_stream(
    driver: Driver, server: ProviderServer, recorder: Recorder, backend: MemoryBackend
) -> None:
    """One event that says it failed; the SDK's own exception is raised."""
    server.next(fail_after=1)

    stream: Any = recorder.track_tokens(driver.stream)()
    with pytest.raises(Exception) as caught:  # noqa: PT011  each SDK has its own
        list(stream["stream"] if isinstance(stream, dict) else stream)
    if isinstance(stream, dict):
        stream["stream"].close()  # botocore leaves it open

    event = the_event(recorder, backend)
    assert type(caught.value).__module__.partition(".")[0] in {"openai", "anthropic", "ollama", "botocore"}
    assert (event.provider, event.aborted) == (driver.provider, False)
    assert event.status >= 400
