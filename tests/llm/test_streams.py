"""Streams of SDKs stay the objects they are."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import subprocess
import sys
import weakref
from collections.abc import AsyncIterable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.llm.conftest import told
from tests.llm.test_tracking import PRICED, response
from usagekit import track_tokens
from usagekit.llm import results, watching
from usagekit.llm.usage import extractors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator
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

    def __len__(self) -> int:
        return 3

    def close(self) -> str:
        return "closed"


class SlottedAsync:
    """The same for asyncio."""

    __slots__ = ("closed", "rest")

    def __init__(self, parts: list[Any]) -> None:
        self.rest = iter(parts)
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        part = next(self.rest, None)
        if part is None:
            raise StopAsyncIteration
        return part

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self.closed += 1


class Countdown:
    """A stream that can be copied and pickled, and makes others of its kind."""

    def __init__(self, left: int = 3) -> None:
        self.left = left

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return response()

    def again(self) -> Self:
        return type(self)()


class FinalCountdown(Countdown):
    """The same, of a class that refuses to be derived from."""

    def __init_subclass__(cls) -> None:
        msg = "final"
        raise ValueError(msg)


class Request:
    """What begins a call when it is awaited or entered, as the requests of HTTP clients are."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.left = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        yield from asyncio.sleep(0).__await__()
        return self.answer

    async def __aenter__(self) -> Any:
        return await self

    async def __aexit__(self, *error: object) -> None:
        self.left += 1


class SlottedRequest(Coroutine[Any, Any, Any]):
    """The same, as aiohttp makes it: a coroutine, with slots."""

    __slots__ = ("coroutine", "left")

    def __init__(self, answer: Any) -> None:
        self.coroutine = asyncio.sleep(0, answer)
        self.left = 0

    def send(self, value: Any) -> Any:
        return self.coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self.coroutine.throw(*error)

    def close(self) -> None:
        self.coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.coroutine.__await__()

    async def __aenter__(self) -> Any:
        return await self.coroutine

    async def __aexit__(self, *error: object) -> None:
        self.left += 1


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


@pytest.mark.parametrize(
    "make",
    [
        copy.copy,
        copy.deepcopy,
        lambda stream: pickle.loads(pickle.dumps(stream)),  # noqa: S301  its own
        lambda stream: copy.deepcopy([stream])[0],
    ],
    ids=["copy", "deepcopy", "pickle", "within"],
)
@pytest.mark.parametrize("kind", [Countdown, FinalCountdown])
def test_what_is_copied_or_pickled_is_of_the_original_class(capture: Capture, kind: Any, make: Any) -> None:
    """It reports nothing; the stream goes on doing so."""
    stream = open_stream(kind())

    made = make(stream)

    assert type(made) is kind
    assert len(list(made)) == 3
    assert capture.events() == []
    assert len(list(stream)) == 3
    assert told(capture.event()) == PRICED


def test_a_copy_of_the_apps_own_making_is_its_own(capture: Capture) -> None:
    """`__copy__` and `__deepcopy__` of the class see an object of the class."""

    class Own(Countdown):
        def __copy__(self) -> Self:
            assert type(self) is Own
            return type(self)(2)

        def __deepcopy__(self, memo: Any) -> Self:
            return copy.copy(self)

    stream = open_stream(Own())

    assert [type(copy.copy(stream)), type(copy.deepcopy(stream))] == [Own, Own]
    assert len(list(stream)) == 3
    assert told(capture.event()) == PRICED


def test_a_stream_made_by_a_stream_is_as_any_other(capture: Capture, recwarn: pytest.WarningsRecorder) -> None:
    """Of the same class, and told to nobody; until a tracked function returns it."""
    stream = open_stream(Countdown())

    other = stream.again()
    assert len(list(other)) == 3
    del other
    gc.collect()

    assert capture.events() == []
    assert len(list(open_stream(stream.again()))) == 3
    assert told(capture.event()) == PRICED
    assert not recwarn.list


def test_classes_of_streams_made_at_run_time_are_let_go(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, only the latest are known."""
    monkeypatch.setattr(watching, "_REMEMBERED", 10)
    monkeypatch.setattr(results, "_KINDS", 20)
    known = dict(extractors)

    def read_another() -> Any:
        kind: Any = type("Another", (Countdown,), {})
        assert len(list(open_stream(kind()))) == 3
        return weakref.ref(kind)

    kinds = [read_another() for _ in range(30)]
    extractors.clear()
    extractors.update(known)
    gc.collect()

    assert sum(kind() is None for kind in kinds) >= 10
    assert len(capture.events()) == 30


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
    assert not isinstance(stream, AsyncIterable)
    assert not hasattr(stream, "__aenter__")
    assert len(stream) == 3
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


@pytest.mark.parametrize("way", ["for", "with", "leave", "close", "drop"])
def test_a_stand_in_can_be_asynchronous(capture: Capture, way: str) -> None:
    """Read, entered and closed as the stream is."""

    async def open_async() -> Any:
        return SlottedAsync(PARTS)

    async def main() -> None:
        stream = await track_tokens(open_async)()
        if way == "with":
            async with stream as entered:
                assert entered is stream
                assert len([part async for part in entered]) == 3
            assert stream.closed == 1
        elif way == "leave":
            async with stream:
                await anext(stream)
            assert stream.closed == 1
        elif way == "close":
            await anext(stream)
            await stream.aclose()
            assert stream.closed == 1
        elif way == "for":
            assert len([part async for part in stream]) == 3
        else:
            await anext(stream)

    asyncio.run(main())

    event = capture.event()
    assert event.aborted == (way in {"leave", "close", "drop"})
    assert event.input_tokens == (0 if event.aborted else 10)


@pytest.mark.parametrize("kind", [Slotted, SelfIterator, lambda parts: (part for part in parts)])
def test_what_a_future_gives_is_watched(capture: Capture, kind: Any) -> None:
    """Whoever asks for it gets the same, before and after it is looked at."""
    with ThreadPoolExecutor(1) as pool:
        future = track_tokens(track_tokens(lambda: pool.submit(kind, PARTS)))()
        stream = future.result()

    assert future.result() is stream
    assert len(list(stream)) == 3
    assert told(capture.event()) == PRICED


def test_what_a_task_gives_stays_what_it_is(capture: Capture) -> None:
    """A stream that would need a stand-in cannot be seen; that is counted, and no tokens are made up."""

    async def opening(kind: Any) -> Any:
        return kind(PARTS)

    async def main(kind: Any) -> int:
        return len(list(await track_tokens(lambda: asyncio.ensure_future(opening(kind)))()))

    for kind in (SelfIterator, Slotted, lambda parts: (part for part in parts)):
        assert asyncio.run(main(kind)) == 3

    assert told(capture.event()) == PRICED
    assert capture.errors() == {"llm: unwatched": 2}


@pytest.mark.parametrize("kind", [Request, SlottedRequest])
@pytest.mark.parametrize("way", ["await", "enter", "task", "nested"])
def test_what_is_awaited_or_entered_stays_what_it_is(capture: Capture, kind: Any, way: str) -> None:
    """It can be used in every way, and counts once."""
    track = track_tokens(track_tokens(kind)) if way == "nested" else track_tokens(kind)

    async def running(request: Any) -> Any:
        return await request

    async def main() -> None:
        request = track(response())
        assert isinstance(request, kind)
        if way == "enter":
            async with request as answer:
                assert answer == response()
            assert request.left == 1
        elif way == "task":
            task = asyncio.create_task(request if kind is SlottedRequest else running(request))
            assert await task == response()
        else:
            assert await request == response()
            if kind is Request:
                assert await request == response()

    asyncio.run(main())

    assert told(capture.event()) == PRICED


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


def test_context_managers_may_decorate(capture: Capture) -> None:
    """Each call of the function is a use of its own, of the manager that was made for it."""

    @contextmanager
    def opening() -> Iterator[Any]:
        yield response()

    @asynccontextmanager
    async def opening_async() -> AsyncIterator[Any]:
        yield response()

    @track_tokens(opening)()
    def work() -> str:
        return "done"

    @track_tokens(opening_async)()
    async def work_async() -> str:
        return "done"

    assert [work(), work(), asyncio.run(work_async())] == ["done"] * 3
    assert list(map(told, capture.events())) == [PRICED] * 3


def test_an_exit_stack_hands_over_to_another(capture: Capture) -> None:
    """The other is as any other."""
    left: list[str] = []
    with track_tokens(ExitStack)() as stack:
        stack.callback(left.append, "left")
        stack.enter_context(nullcontext())
        other = stack.pop_all()

    assert left == []
    with other:
        pass
    assert left == ["left"]
    assert capture.events() == []


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
