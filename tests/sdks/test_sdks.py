"""What `@track_tokens` records of each real SDK, and that its caller notices nothing of it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from tests.sdks.drivers import MODULES
from tests.support.matrix import SDKS, cells_of, collected, matrix, page

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sdks.drivers import Driver
    from usagekit import Recorder, UsageEvent
    from usagekit.backends.memory import MemoryBackend
    from usagekit.testing import ProviderServer

USAGE = {
    "input_tokens": 1200,
    "output_tokens": 300,
    "cache_read_tokens": 1000,
    "cache_write_tokens": 100,
    "reasoning_tokens": 200,
}
TEXT = "The answer has forty-two words, or nearly so."
BLOCKING_ONLY = ("boto3",)
PARTLY = defaultdict(lambda: {"estimated", "unpriced"}, {"google": {"priced"}})
"""Where the cost of half a stream comes from: Google reports as it goes."""
OWN_WARNINGS = {
    # Where aiohttp is installed, as beside LiteLLM, google-genai awaits with it.
    "google-genai": [
        pytest.mark.filterwarnings(
            "ignore:Inheritance class AiohttpClientSession from ClientSession:DeprecationWarning"
        )
    ],
    "litellm": [pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict:UserWarning")],
}
"""What an SDK warns of by itself."""
NOTHING = dict.fromkeys(USAGE, 0)


def each_sdk(behaviour: str, *, without: tuple[str, ...] = (), **notes: str) -> pytest.MarkDecorator:
    """Run a test with each SDK, and claim the cells of docs/sdks.md; underscores in the names of `notes` are dashes."""
    said = {name.replace("_", "-"): note for name, note in notes.items()}
    return pytest.mark.parametrize(
        "driver",
        [
            pytest.param(name, marks=[matrix(name, behaviour, said.get(name, "yes")), *OWN_WARNINGS.get(name, ())])
            for name in MODULES
            if name not in without
        ],
        indirect=True,
    )


@pytest.fixture(autouse=True)
def _default(server: ProviderServer) -> None:
    server.default = server.next(text=TEXT, usage=USAGE)
    server.reset()


def told(driver: Driver, usage: dict[str, int] = USAGE) -> dict[str, int]:
    """Give the counts that an event of this SDK has."""
    return {name: 0 if name in driver.untold else count for name, count in usage.items()}


def counts(event: UsageEvent) -> dict[str, int]:
    """Give an event's token counts."""
    return {name: getattr(event, name) for name in USAGE}


def one_event(recorder: Recorder, backend: MemoryBackend) -> UsageEvent:
    """Give the only event there is."""
    assert recorder.flush()
    (event,) = backend.events
    assert recorder.status()["errors"] == {}
    return event


def assert_whole(driver: Driver, event: UsageEvent, *, is_streamed: bool = False) -> None:
    """The event says all that there is to say about a call that went well."""
    assert (event.kind, event.event) == ("llm", "llm")
    assert (event.provider, event.model) == (driver.provider, driver.model)
    assert (event.status, event.aborted) == (200, False)
    assert counts(event) == told(driver)
    assert event.latency_ms is not None
    assert event.latency_ms > 0
    if is_streamed:
        assert event.first_token_ms is not None
        assert 0 < event.first_token_ms <= event.latency_ms
    else:
        assert event.first_token_ms is None


def parts_of(stream: Any) -> list[Any]:
    """Read a stream to its end; botocore hands it out inside a dictionary."""
    return list(stream["stream"] if isinstance(stream, dict) else stream)


def alike(driver: Driver, parts: list[Any]) -> list[object]:
    """Give what of a stream is the same in two runs."""
    return [driver.content(part) for part in parts]


def first_text(driver: Driver, stream: Any) -> Any:
    """Read a stream up to its first text, and give what is left of it."""
    left = iter(stream["stream"] if isinstance(stream, dict) else stream)
    for part in left:
        if driver.text(part):
            return left
    raise AssertionError("the stream has no text")


def leave(stream: Any) -> None:
    """Close a stream, as a caller does who has read enough."""
    held = stream["stream"] if isinstance(stream, dict) else stream
    if hasattr(held, "close"):
        held.close()


@each_sdk("plain")
def test_plain(driver: Driver, server: ProviderServer, recorder: Recorder, backend: MemoryBackend) -> None:
    """One event with everything the response tells; the response is the one that comes without us."""
    expected = driver.ask()
    server.reset()

    response = recorder.track_tokens(driver.ask)()

    assert driver.text(response) == TEXT
    assert driver.content(response) == driver.content(expected)
    assert_whole(driver, one_event(recorder, backend))
    assert len(server.requests) == 1


@each_sdk("streamed")
def test_streamed(driver: Driver, server: ProviderServer, recorder: Recorder, backend: MemoryBackend) -> None:
    """One event when the stream ends; the caller reads the same parts from the same kind of object."""
    bare = driver.stream()
    expected = alike(driver, parts_of(bare))
    server.reset()

    stream = recorder.track_tokens(driver.stream)()
    parts = parts_of(stream)

    assert isinstance(stream, type(bare))
    assert "".join(map(driver.text, parts)) == TEXT
    assert alike(driver, parts) == expected
    assert_whole(driver, one_event(recorder, backend), is_streamed=True)
    assert len(server.requests) == 1


@each_sdk("async", without=BLOCKING_ONLY)
def test_async(
    driver: Driver, server: ProviderServer, recorder: Recorder, backend: MemoryBackend, runner: asyncio.Runner
) -> None:
    """Awaited, it is the same."""

    async def both() -> tuple[Any, Any]:
        expected = await driver.ask_async()
        server.reset()
        return expected, await recorder.track_tokens(driver.ask_async)()

    expected, response = runner.run(both())

    assert driver.content(response) == driver.content(expected)
    assert_whole(driver, one_event(recorder, backend))


@each_sdk("async stream", without=BLOCKING_ONLY)
def test_async_stream(
    driver: Driver, server: ProviderServer, recorder: Recorder, backend: MemoryBackend, runner: asyncio.Runner
) -> None:
    """One event when the asynchronous stream ends."""

    async def both() -> tuple[list[Any], list[Any]]:
        expected = [part async for part in await driver.stream_async()]
        server.reset()
        return expected, [part async for part in await recorder.track_tokens(driver.stream_async)()]

    expected, parts = runner.run(both())

    assert "".join(map(driver.text, parts)) == TEXT
    assert alike(driver, parts) == alike(driver, expected)
    assert_whole(driver, one_event(recorder, backend), is_streamed=True)


def ended(server: ProviderServer) -> str:
    """Wait for the end of the first answer; a stream that is dropped may be held by its SDK for a while."""
    for _ in range(100):
        gc.collect()
        if server.requests[0].wait(0.05):
            break
    return server.requests[0].outcome


@each_sdk("left early", litellm="when it is dropped: its streams have no `close`")
def test_left_early(driver: Driver, server: ProviderServer, recorder: Recorder, backend: MemoryBackend) -> None:
    """A stream that is closed after its first text is one aborted event, and its connection is closed."""
    server.next(hold=threading.Event(), text=TEXT, usage=USAGE)

    stream = recorder.track_tokens(driver.stream)()
    left = first_text(driver, stream)
    leave(stream)
    del stream, left
    outcome = ended(server)

    event = one_event(recorder, backend)
    assert (event.provider, event.status, event.aborted) == (driver.provider, 200, True)
    assert 0 < event.output_tokens < USAGE["output_tokens"]
    assert event.cost_source in PARTLY[driver.provider]
    assert outcome == "left"


@each_sdk("async stream cancelled", without=BLOCKING_ONLY)
def test_cancelled(
    driver: Driver, server: ProviderServer, recorder: Recorder, backend: MemoryBackend, runner: asyncio.Runner
) -> None:
    """A task that is cancelled while it reads is one aborted event."""
    server.next(hold=threading.Event(), text=TEXT, usage=USAGE)

    async def read(has_begun: asyncio.Event) -> None:
        async for part in await recorder.track_tokens(driver.stream_async)():
            if driver.text(part):
                has_begun.set()

    async def cancelled() -> None:
        has_begun = asyncio.Event()
        task = asyncio.create_task(read(has_begun))
        begun = asyncio.create_task(has_begun.wait())
        await asyncio.wait({task, begun}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert has_begun.is_set(), task
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    runner.run(cancelled())

    event = one_event(recorder, backend)
    assert (event.provider, event.status, event.aborted) == (driver.provider, 200, True)


def raised(function: Callable[[], Any]) -> BaseException:
    """Call a function that must raise, and give what it raised."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  each SDK has its own; they are compared
        function()
    return caught.value


@each_sdk("error")
def test_error(driver: Driver, server: ProviderServer, recorder: Recorder, backend: MemoryBackend) -> None:
    """A refusal is one event with its status, however often the SDK tries; the same exception is raised."""
    server.next(status=429, times=driver.tries, retry_after=0)
    expected = raised(driver.ask)
    server.reset()
    server.next(status=429, times=driver.tries, retry_after=0)

    error = raised(recorder.track_tokens(driver.ask))

    assert (type(error), str(error)) == (type(expected), str(expected))
    event = one_event(recorder, backend)
    assert (event.status, event.aborted, event.cost_usd) == (429, False, None)
    assert counts(event) == NOTHING
    assert len(server.requests) == driver.tries


@each_sdk("connection lost")
def test_connection_lost(driver: Driver, server: ProviderServer, recorder: Recorder, backend: MemoryBackend) -> None:
    """A stream that breaks off is one event with status 599; the same exception is raised."""
    server.next(break_after=1, text=TEXT, usage=USAGE)
    expected = raised(lambda: parts_of(driver.stream()))
    server.next(break_after=1, text=TEXT, usage=USAGE)

    error = raised(lambda: parts_of(recorder.track_tokens(driver.stream)()))

    assert type(error) is type(expected)
    event = one_event(recorder, backend)
    assert (event.provider, event.status, event.aborted) == (driver.provider, 599, False)


@each_sdk(
    "function gives only the text",
    without=("boto3", "cohere", "google-genai", "mistralai", "ollama"),
)
def test_only_text(driver: Driver, recorder: Recorder, backend: MemoryBackend) -> None:
    """Clients that are watched need not be returned from the function."""

    @recorder.track_tokens
    def summarise() -> str:
        return driver.text(driver.ask())

    assert summarise() == TEXT
    assert_whole(driver, one_event(recorder, backend))


def test_the_page_says_what_the_tests_claim(request: pytest.FixtureRequest) -> None:
    """docs/sdks.md holds every cell, and where the whole suite was collected, no other: else `make matrix`."""
    cells, is_whole = collected(request.config, SDKS)

    text = SDKS.path.read_text("utf-8")

    assert cells.items() <= cells_of(text).items()
    assert not is_whole or text == page(cells, SDKS)
