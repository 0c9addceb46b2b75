"""The official openai client, watched while a tracked function runs, against a provider on loopback."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import openai
import pydantic
import pytest

from tests.llm.conftest import openai_async, told
from usagekit import track_tokens
from usagekit.llm import clients

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.llm.provider import Provider
    from tests.support.capture import Capture

MESSAGES: Any = [{"role": "user", "content": "a secret prompt"}]
CHAT = {
    "status": 200,
    "provider": "openai",
    "model": "gpt-5-mini",
    "input_tokens": 120,
    "output_tokens": 30,
    "cache_read_tokens": 100,
    "reasoning_tokens": 20,
    "cost_source": "priced",
}


def ask(client: openai.OpenAI, model: str = "gpt-5-mini", **options: Any) -> Any:
    """Ask for a chat completion."""
    return client.chat.completions.create(model=model, messages=MESSAGES, **options)


def test_a_response_comes_back_as_it_is(capture: Capture, client: openai.OpenAI) -> None:
    """The very object; one event, with the time of the call."""
    got = []

    @track_tokens
    def run() -> Any:
        got.append(ask(client))
        return got[0]

    assert run() is got[0]
    event = capture.event()
    assert told(event) == CHAT
    assert event.latency_ms is not None
    assert str(event.cost_usd) == "0.000067500"
    assert event.first_token_ms is None


@pytest.mark.parametrize("way", ["text", "nothing", "responses"])
def test_calls_are_seen_whatever_the_function_returns(capture: Capture, client: openai.OpenAI, way: str) -> None:
    """Most return the text."""

    @track_tokens
    def run() -> Any:
        if way == "responses":
            return client.responses.create(model="gpt-5-mini", input="x").output_text
        text = ask(client).choices[0].message.content
        return text if way == "text" else None

    assert run() == (None if way == "nothing" else "One two three four")
    assert told(capture.event()) == CHAT


def test_every_call_of_a_function_counts(capture: Capture, client: openai.OpenAI) -> None:
    """Also those of other kinds, and those of functions it calls that are tracked themselves."""

    @track_tokens(event="inner")
    def inner() -> Any:
        return ask(client)

    @track_tokens(event="outer")
    def outer() -> Any:
        client.embeddings.create(model="text-embedding-3-small", input="x", encoding_format="float")
        inner()
        return ask(client)

    outer()

    embedding, *chats = capture.events()
    assert [event.event for event in (embedding, *chats)] == ["outer", "inner", "outer"]
    assert told(embedding) == {
        "status": 200,
        "provider": "openai",
        "model": "text-embedding-3-small",
        "input_tokens": 7,
        "cost_source": "priced",
    }
    assert list(map(told, chats)) == [CHAT, CHAT]


def test_audio_is_paid_by_second_and_character(capture: Capture, client: openai.OpenAI) -> None:
    """Neither tells tokens."""

    @track_tokens
    def run() -> None:
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"123"))
        client.audio.speech.create(model="tts-1", input="hello", voice="alloy")

    run()

    heard, spoken = capture.events()
    assert (heard.model, heard.quantity, str(heard.cost_usd)) == ("whisper-1", 60, "0.006000000")
    assert (spoken.model, spoken.quantity, str(spoken.cost_usd)) == ("tts-1", 5, "0.000075000")


# Streams


def test_a_chat_stream_is_asked_for_its_usage_unseen(
    capture: Capture, client: openai.OpenAI, provider: Provider
) -> None:
    """The caller gets the chunks it would have got; the event has the usage."""
    plain = [chunk.model_dump() for chunk in ask(client, stream=True)]

    stream = track_tokens(ask)(client, stream=True)

    assert type(stream).__name__ == "Stream"
    assert isinstance(stream, openai.Stream)
    assert [chunk.model_dump() for chunk in stream] == plain
    assert provider.requests[0][1].get("stream_options") is None
    assert provider.requests[1][1]["stream_options"] == {"include_usage": True}
    event = capture.event()
    assert told(event) == CHAT
    assert event.first_token_ms is not None
    assert event.latency_ms is not None
    assert event.first_token_ms <= event.latency_ms


def test_a_caller_who_asked_gets_the_extra_chunk(capture: Capture, client: openai.OpenAI) -> None:
    """It is theirs."""
    chunks = list(track_tokens(ask)(client, stream=True, stream_options={"include_usage": True}))

    assert (chunks[-1].choices, chunks[-1].usage.prompt_tokens) == ([], 120)
    assert told(capture.event()) == CHAT


@pytest.mark.parametrize(
    "options",
    [{"stream_options": {"include_usage": False}}, {"extra_body": {"stream_options": {"include_obfuscation": False}}}],
)
def test_what_a_caller_says_about_it_stands(
    capture: Capture, client: openai.OpenAI, provider: Provider, options: dict[str, Any]
) -> None:
    """A caller who declines is not asked over."""
    stream = track_tokens(ask)(client, stream=True, **options)

    assert len(list(stream)) == 5
    assert "include_usage" not in str(provider.requests[0][1]) or "False" in str(provider.requests[0][1])
    assert capture.event().cost_source == "estimated"


@pytest.mark.parametrize("switch", ["option", "environment"])
def test_asking_can_be_switched_off(
    capture: Capture, client: openai.OpenAI, provider: Provider, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    """The request goes out as it was made; what it used is estimated and says so."""
    if switch == "environment":
        monkeypatch.setenv("USAGEKIT_STREAM_USAGE", "0")

    list(track_tokens(stream_usage=switch != "option")(ask)(client, stream=True))

    assert "stream_options" not in provider.requests[0][1]
    assert told(capture.event()) == {
        "status": 200,
        "provider": "openai",
        "model": "gpt-5-mini",
        "input_tokens": 4,
        "output_tokens": 5,
        "cost_source": "estimated",
    }


def test_a_server_that_refuses_is_asked_again_without(
    capture: Capture, client: openai.OpenAI, provider: Provider
) -> None:
    """Once; from then on this model of its host is not asked for it."""
    for _ in range(2):
        assert len(list(track_tokens(ask)(client, model="refuses-usage", stream=True))) == 5

    asked = ["stream_options" in body for _, body in provider.requests]
    assert asked == [True, False, False]
    assert [event.status for event in capture.events()] == [200, 200]


def test_a_bad_request_is_no_refusal_of_the_usage(capture: Capture, client: openai.OpenAI, provider: Provider) -> None:
    """It fails as it would have, and what comes after it is asked for its usage as before."""
    stream = track_tokens(ask)

    with pytest.raises(openai.BadRequestError):
        stream(client, stream=True, user="bad")  # nobody knows yet whether it was for what we asked
    list(stream(client, stream=True))
    with pytest.raises(openai.BadRequestError):
        stream(client, stream=True, user="bad")
    list(stream(client, stream=True))

    asked = [("stream_options" in body, body.get("user")) for _, body in provider.requests]
    assert asked == [(True, "bad"), (False, "bad"), (True, None), (True, "bad"), (True, None)]
    refused = {"status": 400, "provider": "openai", "model": "gpt-5-mini"}
    assert [told(event) for event in capture.events()] == [refused, CHAT, refused, CHAT]


def test_an_asynchronous_bad_request_is_no_refusal_either(capture: Capture, provider: Provider) -> None:
    """The same for the other client."""

    @track_tokens
    async def stream(**options: Any) -> list[Any]:
        async with openai_async(provider) as client:
            chunks = await client.chat.completions.create(model="gpt-5-mini", messages=MESSAGES, stream=True, **options)
            return [chunk async for chunk in chunks]

    for _ in range(2):
        assert len(asyncio.run(stream())) == 5
        with pytest.raises(openai.BadRequestError):
            asyncio.run(stream(user="bad"))

    assert ["stream_options" in body for _, body in provider.requests] == [True] * 4
    assert [event.input_tokens for event in capture.events()] == [120, 0, 120, 0]


def test_text_collected_from_a_stream_is_the_text(capture: Capture, client: openai.OpenAI) -> None:
    """A loop that takes `choices[0]` of each chunk does not meet the extra one."""

    @track_tokens
    def run() -> str:
        return "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, stream=True))

    assert run() == "One two three four"
    assert told(capture.event()) == CHAT


@pytest.mark.parametrize("leave", ["close", "with", "drop", "generator"])
def test_a_stream_left_early_is_aborted_once(capture: Capture, client: openai.OpenAI, leave: str) -> None:
    """Closed, left, dropped at once: what it used is estimated, since nothing was reported."""
    gc.disable()  # dropping it suffices

    @track_tokens
    def words() -> Iterator[str]:
        for chunk in ask(client, stream=True):
            yield chunk.choices[0].delta.content or ""

    if leave == "generator":
        generator: Any = words()
        next(generator)
        next(generator)
        generator.close()
    else:
        stream = track_tokens(ask)(client, stream=True)
        next(stream)
        next(stream)
        if leave == "close":
            stream.close()
        elif leave == "with":
            with stream:
                pass
        del stream
    gc.enable()

    assert told(capture.event()) == {
        "status": 200,
        "provider": "openai",
        "model": "gpt-5-mini",
        "input_tokens": 4,
        "output_tokens": 2,
        "cost_source": "estimated",
        "aborted": True,
    }


def test_a_stream_that_breaks_is_a_failed_call(capture: Capture, client: openai.OpenAI) -> None:
    """No tokens are invented."""
    with pytest.raises(openai.APIError):
        list(track_tokens(ask)(client, model="breaks", stream=True))

    assert told(capture.event()) == {"status": 599, "provider": "openai", "model": "breaks"}


def test_responses_streams_tell_their_usage_by_themselves(capture: Capture, client: openai.OpenAI) -> None:
    """Nothing is added to their requests."""
    stream = track_tokens(lambda: client.responses.create(model="gpt-5-mini", input="x", stream=True))()

    assert [event.type for event in stream][-1] == "response.completed"
    assert told(capture.event()) == CHAT


@pytest.mark.parametrize("kind", ["chat", "responses"])
@pytest.mark.parametrize("inside", [True, False])
def test_the_clients_own_stream_helpers_work(capture: Capture, client: openai.OpenAI, kind: str, inside: bool) -> None:  # noqa: FBT001
    """Entered in the function or by its caller; the final result is not a second call."""

    def opening() -> Any:
        if kind == "chat":
            return client.chat.completions.stream(model="gpt-5-mini", messages=MESSAGES)
        return client.responses.stream(model="gpt-5-mini", input="x")

    def finish(manager: Any) -> Any:
        with manager as stream:
            return stream.get_final_completion() if kind == "chat" else stream.get_final_response()

    if inside:
        track_tokens(lambda: finish(opening()))()
    else:
        finish(track_tokens(opening)())

    assert told(capture.event()) == CHAT


# Raw responses


@pytest.mark.parametrize("parses", [True, False])
def test_raw_responses_are_seen_and_stay_as_they_are(capture: Capture, client: openai.OpenAI, parses: bool) -> None:  # noqa: FBT001
    """Whether or not the caller parses them."""
    create = client.chat.completions.with_raw_response.create
    raw: Any = track_tokens(lambda: create(model="gpt-5-mini", messages=MESSAGES))()

    assert raw.headers["content-type"] == "application/json"
    if parses:
        assert raw.parse().usage.prompt_tokens == 120
    assert told(capture.event()) == CHAT


def test_raw_streams_are_seen(capture: Capture, client: openai.OpenAI) -> None:
    """`parse` gives the stream that is watched."""
    create = client.chat.completions.with_raw_response.create
    raw: Any = track_tokens(lambda: create(model="gpt-5-mini", messages=MESSAGES, stream=True))()

    assert len(list(raw.parse())) == 5
    assert told(capture.event()) == CHAT


@pytest.mark.parametrize("way", ["parse", "json", "lines", "nothing"])
def test_responses_that_are_read_by_hand_are_seen(capture: Capture, client: openai.OpenAI, way: str) -> None:
    """As far as there is something to see when they are closed."""

    @track_tokens
    def run() -> None:
        create = client.chat.completions.with_streaming_response.create
        with create(model="gpt-5-mini", messages=MESSAGES) as raw:
            if way == "parse":
                raw.parse()
            elif way == "json":
                raw.json()
            elif way == "lines":
                list(raw.iter_lines())

    run()

    event = capture.event()
    if way in {"parse", "json"}:
        assert told(event) == CHAT
    else:
        assert (event.aborted, event.input_tokens, event.cost_source) == (True, 4, "estimated")


@pytest.mark.parametrize("model", ["gpt-5-mini", "sliced"])
@pytest.mark.parametrize("way", ["streaming", "raw", "bytes"])
def test_streams_that_are_read_by_hand_are_as_they_were(
    capture: Capture, client: openai.OpenAI, provider: Provider, way: str, model: str
) -> None:
    """The caller gets every line it would have got, and no more; the event has the usage."""

    def run() -> list[str]:
        if way == "raw":
            create: Any = client.chat.completions.with_raw_response.create
            return list(create(model=model, messages=MESSAGES, stream=True).http_response.iter_lines())
        create = client.chat.completions.with_streaming_response.create
        with create(model=model, messages=MESSAGES, stream=True) as raw:
            return b"".join(raw.iter_bytes()).decode().splitlines() if way == "bytes" else list(raw.iter_lines())

    plain = run()

    tracked = track_tokens(run)()

    assert "include_usage" in str(provider.requests[1][1])
    assert [line.replace(', "usage": null', "") for line in tracked] == plain
    event = capture.event()
    assert told(event) == CHAT | {"model": model} | ({} if model == "gpt-5-mini" else {"cost_source": "unpriced"})
    assert event.first_token_ms is not None


def test_a_caller_who_chose_an_encoding_is_not_asked_over(
    capture: Capture, client: openai.OpenAI, provider: Provider
) -> None:
    """A compressed body cannot be kept as it was, so nothing is added to it."""

    @track_tokens
    def run() -> None:
        create = client.chat.completions.with_streaming_response.create
        headers = {"Accept-Encoding": "gzip"}
        with create(model="gpt-5-mini", messages=MESSAGES, stream=True, extra_headers=headers) as raw:
            raw.read()

    run()

    assert "stream_options" not in provider.requests[0][1]
    event = capture.event()
    assert (event.input_tokens, event.output_tokens, event.cost_source, event.aborted) == (4, 5, "estimated", False)


def test_asynchronous_streams_read_by_hand_are_the_same(capture: Capture, provider: Provider) -> None:
    """To the end, which `[DONE]` tells too, or until they are left."""

    @track_tokens
    async def run(until: str) -> None:
        async with openai_async(provider) as client:
            create = client.chat.completions.with_streaming_response.create
            async with create(model="gpt-5-mini", messages=MESSAGES, stream=True) as raw:
                async for line in raw.iter_lines():
                    assert '"choices": []' not in line
                    if until in line:
                        break

    for until in ("never", "[DONE]", "two"):
        asyncio.run(run(until))

    *whole, left = map(told, capture.events())
    assert whole == [CHAT, CHAT]
    assert left == {
        "status": 200,
        "provider": "openai",
        "model": "gpt-5-mini",
        "input_tokens": 4,
        "output_tokens": 2,
        "cost_source": "estimated",
        "aborted": True,
    }


@pytest.mark.parametrize("way", ["raw", "streaming"])
def test_a_parsed_stream_outlives_its_raw_response(capture: Capture, client: openai.OpenAI, way: str) -> None:
    """Who parses it gets the watched stream, and no other is told of."""

    @track_tokens
    def run() -> list[Any]:
        if way == "raw":
            create: Any = client.chat.completions.with_raw_response.create
            stream = create(model="gpt-5-mini", messages=MESSAGES, stream=True).parse()
            return list(stream)
        create = client.chat.completions.with_streaming_response.create
        with create(model="gpt-5-mini", messages=MESSAGES, stream=True) as raw:
            return list(raw.parse())

    assert len(run()) == 5
    assert told(capture.event()) == CHAT


def test_an_answer_that_does_not_parse_was_paid_all_the_same(capture: Capture, client: openai.OpenAI) -> None:
    """The tokens were spent before the caller's own model refused the text."""

    class Answer(pydantic.BaseModel):
        number: int

    def parse() -> Any:
        return client.chat.completions.parse(model="gpt-5-mini", messages=MESSAGES, response_format=Answer)

    with pytest.raises(pydantic.ValidationError):
        track_tokens(parse)()

    assert told(capture.event()) == CHAT


# Failures


def test_retries_inside_the_client_are_one_call(capture: Capture, client: openai.OpenAI, provider: Provider) -> None:
    """The last status counts; no tokens, no cost; the exception is the client's own."""
    with pytest.raises(openai.RateLimitError) as raised:
        track_tokens(ask)(client, model="fails-429")

    assert len(provider.requests) == 2
    assert told(capture.event()) == {"status": 429, "provider": "openai", "model": "fails-429"}
    assert raised.value.__cause__ is None


def test_a_call_that_failed_and_the_one_in_its_place_are_two(capture: Capture, client: openai.OpenAI) -> None:
    """Falling back to another model."""

    @track_tokens
    def run() -> Any:
        try:
            return ask(client, model="fails-400")
        except openai.BadRequestError:
            return ask(client)

    run()

    failed, succeeded = capture.events()
    assert told(failed) == {"status": 400, "provider": "openai", "model": "fails-400"}
    assert told(succeeded) == CHAT


def test_without_an_answer_the_status_is_599(capture: Capture) -> None:
    """Nobody listens there."""
    with (
        openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1", max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        track_tokens(ask)(client)

    assert told(capture.event()) == {"status": 599, "provider": "openai", "model": "gpt-5-mini"}


# What runs in the background


def test_a_background_response_counts_once_when_it_is_retrieved(
    capture: Capture, client: openai.OpenAI, provider: Provider
) -> None:
    """Beginning it tells no tokens; however often it is retrieved, it counts once."""
    begun = track_tokens(lambda: client.responses.create(model="gpt-5-mini", input="x", background=True))()
    assert begun.status == "queued"
    assert capture.events() == []

    for _ in range(4):
        track_tokens(lambda: client.responses.retrieve(begun.id))()

    event = capture.event()
    assert told(event) == CHAT
    assert event.time.timestamp() == 1_790_000_000


def test_retrieving_another_response_is_no_call(capture: Capture, client: openai.OpenAI, provider: Provider) -> None:
    """It was counted when it was made."""
    provider.background_polls = 1

    got = track_tokens(lambda: client.responses.retrieve("resp_1"))()

    assert got.usage is not None
    assert capture.events() == []


# Asynchronous


def test_asynchronous_calls_are_the_same(capture: Capture, provider: Provider) -> None:
    """A response, its text, three at once, a raw response."""

    async def main() -> None:
        async with openai_async(provider) as client:

            async def chat() -> Any:
                return await client.chat.completions.create(model="gpt-5-mini", messages=MESSAGES)

            @track_tokens
            async def text() -> str:
                return str((await chat()).choices[0].message.content)

            @track_tokens
            async def three() -> Any:
                return await asyncio.gather(chat(), chat(), chat())

            @track_tokens
            async def raw() -> Any:
                create = client.chat.completions.with_raw_response.create
                return await create(model="gpt-5-mini", messages=MESSAGES)

            await track_tokens(chat)()
            assert await text() == "One two three four"
            await three()
            assert (await raw()).parse().usage.prompt_tokens == 120

    asyncio.run(main())

    assert list(map(told, capture.events())) == [CHAT] * 6


@pytest.mark.parametrize("way", ["read", "close", "drop", "generator"])
def test_asynchronous_streams_are_the_same(capture: Capture, provider: Provider, way: str) -> None:
    """Read to the end, closed, dropped, or read by a tracked generator that is left."""

    async def main() -> None:
        async with openai_async(provider) as client:

            @track_tokens
            async def stream() -> Any:
                return await client.chat.completions.create(model="gpt-5-mini", messages=MESSAGES, stream=True)

            @track_tokens
            async def words() -> AsyncIterator[str]:
                async for chunk in await client.chat.completions.create(
                    model="gpt-5-mini", messages=MESSAGES, stream=True
                ):
                    yield chunk.choices[0].delta.content or ""

            if way == "generator":
                generator: Any = words()
                assert await anext(generator) == "One"
                await generator.aclose()
                return
            chunks = await stream()
            assert isinstance(chunks, openai.AsyncStream)
            if way == "read":
                assert len([chunk async for chunk in chunks]) == 5
            else:
                async for _ in chunks:
                    break
                if way == "close":
                    await chunks.close()
                del chunks
                gc.collect()
                await asyncio.sleep(0)

    asyncio.run(main())

    event = capture.event()
    assert event.aborted == (way != "read")
    assert event.cost_source == ("priced" if way == "read" else "estimated")


def test_a_cancelled_reader_aborts_the_stream(capture: Capture, provider: Provider) -> None:
    """While it waits for the next chunk."""

    async def main() -> None:
        async with openai_async(provider) as client:

            @track_tokens
            async def stream() -> Any:
                return await client.chat.completions.create(model="slow", messages=MESSAGES, stream=True)

            seen = asyncio.Event()

            async def read(chunks: Any) -> None:
                count = 0
                async for _ in chunks:
                    count += 1
                    if count == 3:
                        seen.set()

            task = asyncio.create_task(read(await stream()))
            await seen.wait()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            provider.go_on.set()

    asyncio.run(main())

    event = capture.event()
    assert (event.status, event.aborted, event.output_tokens) == (200, True, 4)


# What it is not


def test_the_client_is_left_alone_outside_tracked_functions(
    capture: Capture, client: openai.OpenAI, provider: Provider
) -> None:
    """No event, no option, no extra class."""
    track_tokens(ask)(client)

    stream = ask(client, stream=True)

    assert type(stream) is openai.Stream
    assert len(list(stream)) == 5
    assert "stream_options" not in provider.requests[-1][1]
    assert len(capture.events()) == 1


def test_clients_are_watched_once_from_any_number_of_threads(capture: Capture, client: openai.OpenAI) -> None:
    """Looking again changes nothing."""
    request = openai.OpenAI.request
    clients.loaded = -1
    threads = [threading.Thread(target=clients.watch_clients) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    track_tokens(ask)(client)

    assert openai.OpenAI.request is request
    assert len(capture.events()) == 1


def test_the_host_names_the_provider(capture: Capture, provider: Provider) -> None:
    """Azure by its class, others by where they are; unknown hosts speak for openai."""
    azure = openai.AzureOpenAI(api_key="k", azure_endpoint=provider.url, api_version="2024-10-21", max_retries=0)
    with azure, pytest.raises(openai.APIError):
        track_tokens(ask)(azure, model="fails-404")
    with openai.OpenAI(api_key="k", base_url="https://openrouter.ai/api/v1") as router:
        assert clients.provider_of(router, "openai") == "openrouter"

    assert capture.event().provider == "azure"


def test_nothing_of_prompts_answers_and_keys_is_kept(
    capture: Capture, client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the ledger nor in a log."""
    track_tokens(ask)(client)
    list(track_tokens(ask)(client, stream=True))
    with pytest.raises(openai.APIError):
        track_tokens(ask)(client, model="fails-400")
    capture.events()

    with sqlite3.connect(capture.path) as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()

    for secret in ("sk-secret", "One two", "three"):
        assert secret not in dump
        assert not any(secret in record.getMessage() for record in caplog.records if record.name == "usagekit")
