"""The official anthropic client, against a provider on loopback."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import anthropic
import pytest

from tests.llm.conftest import anthropic_async, told
from usagekit import track_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.llm.provider import Provider
    from tests.support.capture import Capture

MODEL = "claude-sonnet-4-6"
REQUEST: Any = {"model": MODEL, "max_tokens": 99, "messages": [{"role": "user", "content": "hello"}]}
MESSAGE = {
    "status": 200,
    "provider": "anthropic",
    "model": MODEL,
    "input_tokens": 120,
    "output_tokens": 30,
    "cache_read_tokens": 60,
    "cache_write_tokens": 40,
    "cost_source": "priced",
}


def test_a_message_counts_its_caches_as_input(capture: Capture, claude: anthropic.Anthropic) -> None:
    """20 + 60 + 40 tokens in; writes of an hour cost more than those of minutes."""
    message = track_tokens(lambda: claude.messages.create(**REQUEST))()

    assert type(message) is anthropic.types.Message
    event = capture.event()
    assert told(event) == MESSAGE
    # 20 at 3, 60 at 0.3, 30 at 3.75, 10 at 6 and 30 at 15 dollars a million
    assert str(event.cost_usd) == "0.000700500"


def test_the_text_alone_is_enough(capture: Capture, claude: anthropic.Anthropic) -> None:
    """The call is seen, not the result."""
    text = track_tokens(lambda: claude.messages.create(**REQUEST).content[0].text)()

    assert text == "One two three four"
    assert told(capture.event()) == MESSAGE


def test_a_stream_is_put_together(capture: Capture, claude: anthropic.Anthropic) -> None:
    """The caller gets every event, as without us."""
    plain = [event.type for event in claude.messages.create(**REQUEST, stream=True)]

    stream = track_tokens(lambda: claude.messages.create(**REQUEST, stream=True))()

    assert isinstance(stream, anthropic.Stream)
    assert [event.type for event in stream] == plain
    event = capture.event()
    assert told(event) == MESSAGE
    assert event.first_token_ms is not None


READERS: dict[str, Callable[[Any], str]] = {
    "text_stream": lambda stream: "".join(stream.text_stream),
    "until_done": lambda stream: (stream.until_done(), stream.get_final_text())[1],
    "get_final_message": lambda stream: stream.get_final_message().content[0].text,
    "events": lambda stream: "".join(event.text for event in stream if event.type == "text"),
}


@pytest.mark.parametrize("way", READERS)
@pytest.mark.parametrize("inside", [True, False])
def test_stream_helpers_work_wherever_they_are_entered(
    capture: Capture,
    claude: anthropic.Anthropic,
    way: str,
    inside: bool,  # noqa: FBT001
) -> None:
    """In the function, or by its caller, who asks the API only then."""

    def run(manager: Any) -> Any:
        with manager as stream:
            return READERS[way](stream)

    if inside:
        text = track_tokens(lambda: run(claude.messages.stream(**REQUEST)))()
    else:
        text = run(track_tokens(lambda: claude.messages.stream(**REQUEST))())

    assert text == "One two three four"
    assert told(capture.event()) == MESSAGE


def test_a_generator_of_events_or_text_counts_once(capture: Capture, claude: anthropic.Anthropic) -> None:
    """What it hands on is what the client's stream told already."""

    @track_tokens
    def events() -> Iterator[Any]:
        with claude.messages.stream(**REQUEST) as stream:
            yield from stream

    @track_tokens
    def text() -> Iterator[str]:
        with claude.messages.stream(**REQUEST) as stream:
            yield from stream.text_stream

    assert len(list(events())) == 13
    assert "".join(text()) == "One two three four"
    assert list(map(told, capture.events())) == [MESSAGE, MESSAGE]


@pytest.mark.parametrize("leave", ["close", "drop", "generator"])
def test_a_stream_left_early_knows_its_input(capture: Capture, claude: anthropic.Anthropic, leave: str) -> None:
    """The start reported it; of the output it reported only the first token, so the rest is estimated."""
    gc.disable()

    @track_tokens
    def text() -> Iterator[str]:
        with claude.messages.stream(**REQUEST) as stream:
            yield from stream.text_stream

    if leave == "generator":
        generator: Any = text()
        for _ in range(3):
            next(generator)
        generator.close()
    else:
        stream = track_tokens(lambda: claude.messages.create(**REQUEST, stream=True))()
        for _ in range(5):
            next(stream)
        if leave == "close":
            stream.close()
        del stream
    gc.enable()

    assert told(capture.event()) == MESSAGE | {"output_tokens": 4, "cost_source": "estimated", "aborted": True}


def test_counting_tokens_is_no_call(capture: Capture, claude: anthropic.Anthropic) -> None:
    """It is free."""
    counted = track_tokens(lambda: claude.messages.count_tokens(model=MODEL, messages=REQUEST["messages"]))()

    assert counted.input_tokens == 9
    assert capture.events() == []


@pytest.mark.parametrize("status", [400, 404, 429, 500, 529])
def test_failures_have_the_providers_status(capture: Capture, claude: anthropic.Anthropic, status: int) -> None:
    """Without tokens, without cost."""
    with pytest.raises(anthropic.APIStatusError):
        track_tokens(lambda: claude.messages.create(**REQUEST | {"model": f"fails-{status}"}))()

    assert told(capture.event()) == {"status": status, "provider": "anthropic", "model": f"fails-{status}"}


def test_raw_responses_are_seen(capture: Capture, claude: anthropic.Anthropic) -> None:
    """And parsed by the caller as ever."""
    raw = track_tokens(lambda: claude.messages.with_raw_response.create(**REQUEST))()

    assert raw.parse().usage.output_tokens == 30
    assert told(capture.event()) == MESSAGE


def test_a_stream_that_is_read_by_hand_is_seen(capture: Capture, claude: anthropic.Anthropic) -> None:
    """Its lines tell what its events would have told."""

    def run() -> list[str]:
        with claude.messages.with_streaming_response.create(**REQUEST, stream=True) as raw:
            return list(raw.iter_lines())

    plain = run()

    assert track_tokens(run)() == plain
    assert told(capture.event()) == MESSAGE


def test_asynchronous_calls_and_streams_are_the_same(capture: Capture, provider: Provider) -> None:
    """A message, its stream, the helper's text, a generator, a raw response."""

    async def main() -> None:
        async with anthropic_async(provider) as claude:

            @track_tokens
            async def message() -> Any:
                return await claude.messages.create(**REQUEST)

            @track_tokens
            async def stream() -> Any:
                return await claude.messages.create(**REQUEST, stream=True)

            @track_tokens
            async def final_text() -> str:
                async with claude.messages.stream(**REQUEST) as stream:
                    return await stream.get_final_text()

            @track_tokens
            async def text() -> AsyncIterator[str]:
                async with claude.messages.stream(**REQUEST) as stream:
                    async for word in stream.text_stream:
                        yield word

            @track_tokens
            async def raw() -> Any:
                return await claude.messages.with_raw_response.create(**REQUEST)

            await message()
            assert len([event async for event in await stream()]) == 9
            assert await final_text() == "One two three four"
            assert [word async for word in text()] == ["One", " two", " three", " four"]
            assert (await (await raw()).parse()).usage.output_tokens == 30
            async with track_tokens(lambda: claude.messages.stream(**REQUEST))() as opened:
                await opened.until_done()

    asyncio.run(main())

    assert list(map(told, capture.events())) == [MESSAGE] * 6
