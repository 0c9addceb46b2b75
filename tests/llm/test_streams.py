"""Streams of SDKs stay the objects they are."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.llm.conftest import told
from tests.llm.test_tracking import PRICED, response
from usagekit import track_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.support.capture import Capture

PARTS = [response(usage=None), response(usage=None), response()]


class Stream:
    """A stream as many SDKs make them: iterator, iterable, context manager."""

    def __init__(self, parts: list[Any]) -> None:
        self.rest = iter(parts)
        self.closed = 0
        self.texts = self._texts()

    def __next__(self) -> Any:
        return next(self.rest)

    def __iter__(self) -> Iterator[Any]:
        yield from self.rest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed += 1

    def until_done(self) -> int:
        return sum(1 for _ in self)

    def _texts(self) -> Iterator[str]:
        for part in self:
            yield part["id"]


class SelfIterator(Stream):
    """A stream that is its own iterator."""

    def __iter__(self) -> Iterator[Any]:
        return self


class AsyncStream:
    """The same for asyncio."""

    def __init__(self, parts: list[Any]) -> None:
        self.rest = iter(parts)
        self.closed = 0

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        try:
            return next(self.rest)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aiter__(self) -> AsyncIterator[Any]:
        for part in self.rest:
            await asyncio.sleep(0)
            yield part

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self.closed += 1


class Slotted:
    """A stream whose class cannot be replaced."""

    __slots__ = ("rest",)

    def __init__(self, parts: list[Any]) -> None:
        self.rest = iter(parts)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self.rest)

    def close(self) -> str:
        return "closed"


def open_stream(stream: Any) -> Any:
    """Give a stream as a tracked function gives it."""
    return track_tokens(lambda: stream)()


READERS: dict[str, Callable[[Any], int]] = {
    "for": lambda stream: len(list(stream)),
    "next": lambda stream: sum(1 for _ in iter(lambda: next(stream, None), None)),
    "helper": lambda stream: stream.until_done(),
    "texts": lambda stream: len(list(stream.texts)),
}


@pytest.mark.parametrize("kind", [Stream, SelfIterator])
@pytest.mark.parametrize("way", READERS)
def test_every_way_of_reading_is_seen(capture: Capture, kind: Any, way: str) -> None:
    """The same object, of the same class to whoever asks, read to its end."""
    stream = kind(PARTS)

    got = open_stream(stream)

    assert got is stream
    assert isinstance(got, kind)
    assert type(got).__name__ == kind.__name__
    assert READERS[way](got) == 3
    event = capture.event()
    assert told(event) == PRICED
    assert event.first_token_ms is not None


@pytest.mark.parametrize("leave", ["close", "with", "drop"])
def test_a_stream_left_early_is_aborted_once(capture: Capture, leave: str) -> None:
    """Closed, left or dropped: one event, and the stream was closed as often as its reader did."""
    stream = open_stream(Stream(PARTS))
    next(stream)
    if leave == "close":
        stream.close()
        stream.close()
        assert stream.closed == 2
    elif leave == "with":
        with stream:
            pass
        assert stream.closed == 1
    del stream
    gc.collect()  # its own `texts` refers to it

    assert told(capture.event()) == {
        "status": 200,
        "provider": "openai",
        "model": "gpt-5-mini",
        "cost_source": "unpriced",
        "aborted": True,
    }


def test_closing_after_the_end_changes_nothing(capture: Capture) -> None:
    """A stream that was read and then closed came to its end."""
    with open_stream(Stream(PARTS)) as stream:
        list(stream)

    assert told(capture.event()) == PRICED


def test_a_stream_may_be_read_on_after_a_break(capture: Capture) -> None:
    """Leaving a loop is not leaving the stream."""
    stream = open_stream(Stream(PARTS))
    for _ in stream:
        break

    assert len(list(stream)) == 2
    assert told(capture.event()) == PRICED


def test_a_copy_of_a_stream_does_not_report(capture: Capture) -> None:
    """Some SDKs read from a copy of the stream; when that is dropped, nothing has ended."""
    stream = open_stream(Stream(PARTS))

    copied = copy.copy(stream)
    assert copied.closed == 0
    del copied

    assert len(list(stream)) == 3
    assert told(capture.event()) == PRICED


def test_streams_that_pass_through_count_once(capture: Capture) -> None:
    """The innermost function's stream is watched already."""

    def opening() -> Any:
        return Stream(PARTS)

    outer = track_tokens(track_tokens(opening))

    assert len(list(outer())) == 3
    assert told(capture.event()) == PRICED


def test_a_stand_in_takes_the_place_of_what_cannot_be_watched(capture: Capture) -> None:
    """It says it is the stream, and does what the stream does."""
    stream = open_stream(Slotted(PARTS))

    assert isinstance(stream, Slotted)
    assert next(stream) == PARTS[0]
    assert len(list(stream)) == 2
    assert stream.close() == "closed"
    assert told(capture.event()) == PRICED


def test_a_stream_that_breaks_tells_its_status(capture: Capture) -> None:
    """No tokens are invented; the exception comes as it is."""
    error = OSError("gone")

    class Breaking(Stream):
        def __next__(self) -> Any:
            raise error

    stream = open_stream(Breaking(PARTS))

    with pytest.raises(OSError, match="gone") as raised:
        next(stream)

    assert raised.value is error
    assert told(capture.event()) == {"status": 599}


@pytest.mark.parametrize("way", ["for", "next", "leave", "cancel"])
def test_asynchronous_streams_are_the_same(capture: Capture, way: str) -> None:
    """Read, left or cancelled."""

    async def open_async() -> Any:
        return AsyncStream(PARTS)

    async def main() -> None:
        stream = await track_tokens(open_async)()
        assert isinstance(stream, AsyncStream)
        if way == "for":
            assert len([part async for part in stream]) == 3
        elif way == "next":
            while await anext(stream, None) is not None:
                pass
        elif way == "leave":
            async with stream:
                await anext(stream)
            assert stream.closed == 1
        else:
            task = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())

    event = capture.event()
    assert event.aborted == (way in {"leave", "cancel"})
    assert event.status == (499 if way == "cancel" else 200)


def test_context_managers_that_open_a_stream_are_followed(capture: Capture) -> None:
    """The stream they give is watched."""

    @contextmanager
    def opening() -> Iterator[Stream]:
        yield Stream(PARTS)

    with track_tokens(opening)() as stream:
        assert stream.until_done() == 3

    assert told(capture.event()) == PRICED


def test_context_managers_are_asked_for_what_they_gave_at_their_end(capture: Capture) -> None:
    """A result that fills up while it is read is looked at last."""

    class Result:
        def __init__(self) -> None:
            self.usage: Any = None
            self.model = "gpt-5-mini"

    @asynccontextmanager
    async def opening() -> AsyncIterator[Result]:
        yield Result()

    async def main() -> None:
        async with track_tokens(opening)() as result:
            result.usage = {"prompt_tokens": 10, "completion_tokens": 5}

    asyncio.run(main())

    assert told(capture.event()) == {name: value for name, value in PRICED.items() if name != "provider"}


def test_the_stream_inside_botos_dictionary_is_watched(capture: Capture) -> None:
    """`converse_stream` hands out a dictionary with the stream in it."""

    class EventStream:
        def __init__(self, events: list[Any]) -> None:
            self.events = events

        def __iter__(self) -> Iterator[Any]:
            yield from self.events

        def close(self) -> None:
            pass

    parts = [
        {"messageStart": {"role": "assistant"}},
        {"contentBlockDelta": {"delta": {"text": "hi"}}},
        {"metadata": {"usage": {"inputTokens": 3, "outputTokens": 4}}},
    ]
    answer = {"stream": EventStream(parts), "ResponseMetadata": {"HTTPStatusCode": 200}}

    got = track_tokens(model="amazon.nova-lite-v1:0")(lambda: answer)()

    assert got is answer
    stream: Any = got["stream"]
    assert list(stream) == parts
    assert told(capture.event()) == {
        "status": 200,
        "provider": "aws",
        "model": "amazon.nova-lite-v1:0",
        "input_tokens": 3,
        "output_tokens": 4,
        "cost_source": "priced",
    }


def test_a_stream_open_at_exit_is_recorded(tmp_path: Path) -> None:
    """The process's end leaves it."""
    code = f"""from __future__ import annotations
{inspect.getsource(Stream)}
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend
recorder = Recorder(SQLiteBackend({str(tmp_path / "usage.db")!r}))
stream = recorder.track_tokens(lambda: Stream({PARTS!r}))()
next(stream)
"""
    subprocess.run([sys.executable, "-c", code], check=True)

    from tests.support.capture import capturing

    with capturing(tmp_path / "usage.db") as capture:
        assert capture.event().aborted
