"""`track_tokens` and `model_call`, with responses that are plain dictionaries."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import subprocess
import sys
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any

import pytest

from tests.llm.conftest import told
from usagekit import Recorder, bound, set_default_recorder, track_tokens
from usagekit.llm import Usage, results
from usagekit.llm.usage import extractors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from tests.support.capture import Capture

ONE = {"status": 200, "provider": "openai", "model": "gpt-5-mini", "input_tokens": 10, "output_tokens": 5}
PRICED = ONE | {"cost_source": "priced"}


def response(**changes: Any) -> dict[str, Any]:
    """Make a chat completion as a dictionary."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": "c1", "object": "chat.completion", "model": "gpt-5-mini", "choices": [], "usage": usage} | changes


class Client:
    """Has a method of every kind."""

    @track_tokens
    def method(self, answer: Any) -> Any:
        assert isinstance(self, Client)
        return answer

    @track_tokens
    @classmethod
    def of_class(cls, answer: Any) -> Any:
        assert cls is Client
        return answer

    @classmethod
    @track_tokens
    def of_class_inside(cls, answer: Any) -> Any:
        assert cls is Client
        return answer

    @track_tokens
    @staticmethod
    def static(answer: Any) -> Any:
        return answer

    @track_tokens
    def generator(self, answer: Any) -> Iterator[Any]:
        assert isinstance(self, Client)
        yield answer

    def __call__(self, answer: Any) -> Any:
        return answer


@pytest.mark.parametrize("name", ["method", "of_class", "of_class_inside", "static"])
def test_methods_of_every_kind_give_what_they_gave(capture: Capture, name: str) -> None:
    """The very object comes back, and one event is recorded."""
    answer = response()

    got = getattr(Client(), name)(answer)

    assert got is answer
    assert told(capture.event()) == PRICED


def test_callables_without_code_of_their_own_can_be_tracked(capture: Capture) -> None:
    """Partials and callable objects are functions too."""
    track_tokens(partial(Client(), response()))()
    track_tokens(Client())(response())

    assert list(map(told, capture.events())) == [PRICED, PRICED]


def test_coroutine_functions_stay_coroutine_functions(capture: Capture) -> None:
    """What is awaited is recorded when it is there."""

    @track_tokens
    async def ask() -> Any:
        await asyncio.sleep(0)
        return response()

    assert inspect.iscoroutinefunction(ask)
    assert asyncio.run(ask()) == response()
    assert told(capture.event()) == PRICED


def test_functions_that_return_an_awaitable_are_recorded_when_it_is_awaited(capture: Capture) -> None:
    """A lambda around a coroutine function works too."""

    async def ask() -> Any:
        return response()

    async def main() -> None:
        assert await track_tokens(lambda: ask())() == response()  # noqa: PLW0108  the lambda is what is tested

    asyncio.run(main())
    assert told(capture.event()) == PRICED


def test_futures_are_recorded_when_they_are_done(capture: Capture) -> None:
    """A future stays the future it is."""
    with ThreadPoolExecutor(1) as pool:
        future = track_tokens(lambda: pool.submit(response))()
        assert future.result() == response()

    assert told(capture.event()) == PRICED


def test_a_task_that_is_cancelled_is_aborted(capture: Capture) -> None:
    """As a coroutine function's call would be."""

    async def main() -> None:
        task = track_tokens(lambda: asyncio.ensure_future(asyncio.sleep(60)))()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert told(capture.event()) == {"status": 499, "aborted": True}


def test_asyncio_still_reports_an_exception_that_nobody_retrieves(capture: Capture) -> None:
    """Looking at it is not retrieving it."""
    messages: list[str] = []

    async def failing() -> None:
        raise OSError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: messages.append(about["message"]))
        task = track_tokens(lambda: asyncio.ensure_future(failing()))()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        del task
        gc.collect()

    asyncio.run(main())

    assert messages == ["Task exception was never retrieved"]
    assert told(capture.event()) == {"status": 599}


@pytest.mark.parametrize("way", ["coroutine", "awaitable", "generator", "enter", "exit"])
def test_what_ends_in_another_context_ends_as_it_would(capture: Capture, way: str) -> None:
    """A task that is left behind is closed in another context than its own."""

    @coroutine
    def never() -> Iterator[None]:
        yield

    async def wait() -> None:
        await never()

    @track_tokens
    async def generate() -> AsyncIterator[Any]:
        yield response()
        await wait()

    @asynccontextmanager
    async def manage() -> AsyncIterator[Any]:
        if way == "enter":
            await wait()
        yield response()
        await wait()

    async def run() -> None:
        if way == "coroutine":
            await track_tokens(wait)()
        elif way == "awaitable":
            await track_tokens(lambda: wait())()  # noqa: PLW0108  the lambda is what is tested
        elif way == "generator":
            async for _ in generate():
                pass
        else:
            async with track_tokens(manage)():
                pass

    running = run()
    copy_context().run(running.send, None)

    with pytest.raises(asyncio.CancelledError):
        running.throw(asyncio.CancelledError())
    event = capture.event()
    assert event.status == (200 if way in {"generator", "exit"} else 499)
    assert event.aborted == (way != "exit")


def test_a_raw_response_that_is_parsed_by_awaiting_is_parsed(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a coroutine function gives it or an awaitable, also the first of its kind."""
    monkeypatch.setattr("usagekit._guard.reraise", False)

    class Raw:
        http_response = None

        async def parse(self) -> Any:
            await asyncio.sleep(0)
            return response()

    class Unreadable(Raw):
        async def parse(self) -> Any:
            raise ValueError

    async def ask(kind: type[Raw]) -> Raw:
        return kind()

    async def main() -> None:
        for track in (track_tokens(ask), track_tokens(lambda kind: ask(kind))):  # noqa: PLW0108  the lambda is what is tested
            assert type(await track(Raw)) is Raw
        assert type(await track_tokens(ask)(Unreadable)) is Unreadable

    asyncio.run(main())

    assert list(map(told, capture.events())) == [PRICED, PRICED]
    assert capture.errors() == {"llm: extract": 1}


def test_generators_are_recorded_at_their_end(capture: Capture) -> None:
    """Chunks come through as they are, what is sent and returned too; the last usage counts."""
    sent: list[Any] = []

    @track_tokens
    def stream() -> Generator[Any, Any, str]:
        sent.append((yield response(usage=None)))
        yield response()
        return "done"

    def outer() -> Generator[Any, Any, None]:
        result = yield from stream()
        yield result

    generator = outer()
    parts = [next(generator), generator.send("hello"), next(generator)]

    assert inspect.isgeneratorfunction(stream)
    assert (parts, sent) == ([response(usage=None), response(), "done"], ["hello"])
    event = capture.event()
    assert told(event) == PRICED
    assert event.first_token_ms is not None
    assert event.latency_ms is not None
    assert event.first_token_ms <= event.latency_ms


def test_generator_methods_are_bound(capture: Capture) -> None:
    """A generator method of a class knows its object."""
    assert list(Client().generator(response())) == [response()]
    assert told(capture.event()) == PRICED


def test_exceptions_thrown_into_a_generator_reach_it(capture: Capture) -> None:
    """`throw` goes to the function's own code."""

    @track_tokens
    def stream() -> Iterator[Any]:
        try:
            yield response(usage=None)
        except KeyError:
            yield response()

    generator = stream()
    next(generator)

    assert generator.throw(KeyError("x")) == response()  # type: ignore[attr-defined]
    assert list(generator) == []
    assert told(capture.event()) == PRICED


@pytest.mark.usefixtures("capture")
@pytest.mark.parametrize("is_caught", [True, False])
def test_exceptions_thrown_into_a_generator_are_not_kept(is_caught: bool) -> None:  # noqa: FBT001  a parameter
    """They are gone when their last user is, without the garbage collector."""

    class Thrown(Exception):  # noqa: N818
        pass

    @track_tokens
    def stream() -> Iterator[Any]:
        with suppress(Thrown if is_caught else KeyError):
            yield response(usage=None)
        yield response()

    generator: Any = stream()
    next(generator)
    error = Thrown()
    gone = weakref.ref(error)
    gc.disable()
    try:
        with suppress(Thrown):
            generator.throw(error)
        del error

        assert gone() is None
    finally:
        gc.enable()


@track_tokens
def module_level_stream() -> Iterator[Any]:
    """Give one response."""
    yield response()


@pytest.mark.usefixtures("capture")
def test_generator_functions_can_be_pickled_and_copied() -> None:
    """By their names, as functions are."""
    assert pickle.loads(pickle.dumps(module_level_stream)) is module_level_stream  # noqa: S301  its own
    assert copy.deepcopy(module_level_stream) is module_level_stream


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_generators_left_early_are_aborted_once(capture: Capture, leave: str) -> None:
    """What was known until then is recorded; the output is estimated from the text."""

    @track_tokens
    def stream() -> Iterator[Any]:
        yield {
            "type": "message_start",
            "message": {"model": "claude-sonnet-4-6", "usage": {"input_tokens": 25, "output_tokens": 1}},
        }
        for _ in range(9):
            yield {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "eight by"}}

    generator: Any = stream()
    for _ in range(4):
        next(generator)
    if leave == "close":
        generator.close()
    del generator

    event = capture.event()
    assert told(event) == {
        "status": 200,
        "provider": "anthropic",
        "model": "claude-sonnet-4-6",
        "input_tokens": 25,
        "output_tokens": 6,
        "cost_source": "estimated",
        "aborted": True,
    }


def test_generators_never_begun_are_nothing(capture: Capture) -> None:
    """Who does not read has not called."""

    @track_tokens
    def stream() -> Iterator[Any]:
        yield response()

    stream()

    assert capture.events() == []


def test_generators_returned_by_a_function_are_looked_at_too(capture: Capture) -> None:
    """A function that builds a generator is tracked until that is read."""

    @track_tokens
    def stream() -> Any:
        return (part for part in [response(usage=None), response()])

    assert len(list(stream())) == 2
    assert told(capture.event()) == PRICED


def test_asynchronous_generators_are_recorded_at_their_end(capture: Capture) -> None:
    """They stay asynchronous generators; leaving one early aborts it."""

    @track_tokens
    async def stream() -> AsyncIterator[Any]:
        yield response(usage=None)
        await asyncio.sleep(0)
        yield response()

    async def main() -> int:
        whole = [part async for part in stream()]
        left: Any = stream()
        await anext(left)
        await left.aclose()
        return len(whole)

    assert inspect.isasyncgenfunction(stream)
    assert asyncio.run(main()) == 2
    whole, left = capture.events()
    assert told(whole) == PRICED
    assert (left.aborted, left.cost_source) == (True, "unpriced")


def test_a_response_handed_on_counts_once(capture: Capture) -> None:
    """Nested tracked functions: the innermost that saw it counts it."""

    @track_tokens(event="inner")
    def inner() -> Any:
        return response()

    @track_tokens(event="middle")
    def middle() -> Any:
        return inner()

    @track_tokens(event="outer")
    def outer() -> Any:
        return middle()

    outer()

    assert [event.event for event in capture.events()] == ["inner"]


def test_an_outer_functions_own_call_counts_too(capture: Capture) -> None:
    """Equal responses, also with the same id, are different calls."""

    @track_tokens(event="inner")
    def inner() -> Any:
        return response()

    @track_tokens(event="outer")
    def outer() -> Any:
        inner()
        return response()

    outer()

    assert [event.event for event in capture.events()] == ["inner", "outer"]


def test_an_answer_kept_by_the_app_counts_for_every_call(capture: Capture) -> None:
    """Identity is looked at within one call only."""
    answer = response()

    @track_tokens
    def ask() -> Any:
        return answer

    ask()
    ask()

    assert len(capture.events()) == 2


def test_options_are_values_or_callables_of_the_arguments(capture: Capture) -> None:
    """Each says what the events hold; what the response tells fills the rest."""

    @track_tokens(
        event="summary",
        provider="acme",
        model=lambda *_, size: f"acme-{size}",
        user=lambda text, **_: text,
        org="org_1",
        project=lambda *_, size: f"p{size}",
    )
    def ask(text: str, size: int) -> Any:
        return response(id=text, size=size)

    with bound(user="usr_bound", project="bound"):
        ask("usr_1", size=3)

    event = capture.event()
    assert (event.event, event.provider, event.model) == ("summary", "acme", "acme-3")
    assert (event.user, event.org, dict(event.attributes)) == ("usr_1", "org_1", {"project": "p3"})


def test_an_option_that_raises_says_nothing(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function runs all the same, and the failure is counted."""
    monkeypatch.setattr("usagekit._guard.reraise", False)

    @track_tokens(user=lambda: 1 / 0)
    def ask() -> Any:
        return response()

    assert ask() == response()
    assert capture.event().user == ""
    assert capture.errors() == {"track_tokens option": 1}


def test_whom_it_counts_for_is_taken_when_the_call_begins(capture: Capture) -> None:
    """A stream that is read after its block, in another thread, counts for who asked for it."""

    @track_tokens
    def stream() -> Iterator[Any]:
        yield response()

    with bound(user="usr_1", org="org_1"):
        generator = stream()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(list, generator).result()

    event = capture.event()
    assert (event.user, event.org) == ("usr_1", "org_1")


class SdkError(Exception):
    """An SDK's error."""

    def __init__(self, status_code: int) -> None:
        super().__init__("sk-secret prompt")
        self.status_code = status_code


class BotoError(Exception):
    """An error as botocore makes them."""

    response = {"ResponseMetadata": {"HTTPStatusCode": 424}}  # noqa: RUF012  as there


class GoogleError(Exception):
    """An error as google-genai makes them."""

    code = 403


@pytest.mark.parametrize(
    ("error", "status"),
    [(SdkError(429), 429), (BotoError(), 424), (GoogleError(), 403), (ValueError("x"), 599), (TimeoutError(), 599)],
)
def test_a_failing_call_is_one_event_and_the_exception_is_untouched(
    capture: Capture, error: Exception, status: int
) -> None:
    """The SDK's status, no tokens, no cost; the same exception, with no more than one frame of ours in it."""

    @track_tokens
    def inner() -> Any:
        raise error

    @track_tokens
    def outer() -> Any:
        return inner()

    with pytest.raises(type(error)) as raised:
        outer()

    assert raised.value is error
    assert error.__context__ is None
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][1:] == [
        "tracked",
        "outer",
        "tracked",
        "inner",
    ]
    assert told(capture.event()) == {"status": status}


def test_an_error_made_of_another_counts_once(capture: Capture) -> None:
    """Frameworks wrap what SDKs raise; the status is found underneath."""

    @track_tokens
    def inner() -> Any:
        raise SdkError(503)

    @track_tokens
    def outer() -> Any:
        try:
            return inner()
        except SdkError as error:
            raise RuntimeError from error

    with pytest.raises(RuntimeError):
        outer()

    assert told(capture.event()) == {"status": 503}


def test_errors_of_the_web_framework_are_no_calls(capture: Capture) -> None:
    """A 404 of the app's own says nothing about a model."""
    from starlette.exceptions import HTTPException

    @track_tokens
    def endpoint() -> Any:
        raise HTTPException(404)

    with pytest.raises(HTTPException):
        endpoint()

    assert capture.events() == []


def test_errors_of_the_web_framework_may_be_made_of_a_calls(capture: Capture) -> None:
    """Then that one counts."""
    from starlette.exceptions import HTTPException

    @track_tokens
    def endpoint() -> Any:
        try:
            raise SdkError(529)  # noqa: TRY301  what a client does
        except SdkError as error:
            raise HTTPException(502) from error

    with pytest.raises(HTTPException):
        endpoint()

    assert told(capture.event()) == {"status": 529}


def test_a_cancelled_call_is_aborted(capture: Capture) -> None:
    """Who goes away before an answer leaves a 499."""

    @track_tokens
    async def ask() -> Any:
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(ask())
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert told(capture.event()) == {"status": 499, "aborted": True}


def test_a_function_that_tells_no_usage_is_counted_and_not_recorded(capture: Capture) -> None:
    """It may have been a cache that answered."""

    @track_tokens
    def ask() -> str:
        return "text"

    assert ask() == "text"
    assert capture.events() == []
    assert capture.errors() == {"llm: no usage": 1}


def test_a_function_that_names_its_model_is_a_call_without_usage(capture: Capture) -> None:
    """What it cost is not known, which is not 0."""

    @track_tokens(provider="acme", model="acme-1")
    def ask() -> str:
        return "text"

    ask()

    assert told(capture.event()) == {"status": 200, "provider": "acme", "model": "acme-1", "cost_source": "unpriced"}


def test_a_reported_zero_is_zero(capture: Capture) -> None:
    """Nothing is estimated in its place."""

    @track_tokens
    def stream() -> Iterator[Any]:
        yield response(usage=None, choices=[{"delta": {"content": "some text"}}])
        yield response(usage={"prompt_tokens": 0, "completion_tokens": 0})

    list(stream())

    event = capture.event()
    assert (event.input_tokens, event.output_tokens, event.cost_source) == (0, 0, "priced")
    assert event.cost_usd == 0


def test_an_extractor_that_raises_is_isolated(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets the response, and the failure is counted."""
    monkeypatch.setattr("usagekit._guard.reraise", False)

    class Odd:
        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise OSError

    odd = Odd()

    assert track_tokens(lambda: odd)() is odd
    assert capture.errors() == {"llm: extract": 1}


def test_types_made_at_run_time_are_let_go(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, only the latest are known; what is plain stays so."""
    monkeypatch.setattr(results, "_KINDS", 20)
    known = dict(extractors)

    @track_tokens
    def ask() -> Any:
        return type("Answer", (), {})()

    kinds = [weakref.ref(type(ask())) for _ in range(50)]
    extractors.clear()
    extractors.update(known)
    gc.collect()

    assert sum(kind() is None for kind in kinds) >= 30
    assert track_tokens(str)() == ""
    assert capture.errors() == {"llm: no usage": 51}


def test_without_a_recorder_functions_run_undisturbed() -> None:
    """Also generators, and classes of every kind."""
    set_default_recorder(None)
    answer = response()

    assert track_tokens(lambda: answer)() is answer
    assert list(Client().generator(answer)) == [answer]


def test_a_recorder_that_is_off_leaves_functions_alone(capture: Capture) -> None:
    """A bound tracker of a no-op recorder does nothing at all."""
    answer = response()

    assert Recorder().track_tokens(lambda: answer)() is answer
    assert capture.events() == []


def test_recorders_bind_the_decorator(capture: Capture) -> None:
    """`recorder.track_tokens` takes options too."""
    set_default_recorder(None)

    capture.recorder.track_tokens(response)()
    capture.recorder.track_tokens(event="named")(response)()

    assert [event.event for event in capture.events()] == ["llm", "named"]


def test_importing_usagekit_loads_neither_this_nor_any_sdk() -> None:
    """The decorator is loaded when it is first asked for."""
    code = (
        "import sys, usagekit, usagekit.recorder; heavy = {'usagekit.llm', 'genai_prices', 'openai', 'pydantic'};"
        "assert not heavy & set(sys.modules); usagekit.track_tokens;"
        "assert heavy & set(sys.modules) == {'usagekit.llm'}, heavy & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


# Blocks


def test_a_block_is_one_call(capture: Capture) -> None:
    """What it is shown is recorded at its end, with what its options say."""
    answer = {"usage": {"input_tokens": 3, "output_tokens": 4}}

    with capture.recorder.model_call(provider="acme", model="acme-1", user="usr_1", project="p1") as call:
        assert call.see(answer) is answer

    event = capture.event()
    assert told(event) == {
        "status": 200,
        "provider": "acme",
        "model": "acme-1",
        "input_tokens": 3,
        "output_tokens": 4,
        "cost_source": "unpriced",
    }
    assert (event.user, dict(event.attributes), event.first_token_ms) == ("usr_1", {"project": "p1"}, None)


def test_a_block_takes_usage_at_hand(capture: Capture) -> None:
    """A `Usage` may be shown instead of a response."""
    with capture.recorder.model_call(provider="openai", model="gpt-5-mini") as call:
        call.see(Usage(input_tokens=10, output_tokens=5))

    assert told(capture.event()) == PRICED


def test_chunks_shown_to_a_block_are_one_call(capture: Capture) -> None:
    """Parts of one response are put together."""
    with capture.recorder.model_call() as call:
        call.see(response(usage=None, choices=[{"delta": {"content": "text"}}]))
        call.see(response())

    event = capture.event()
    assert told(event) == PRICED
    assert event.first_token_ms is not None


def test_responses_with_different_ids_are_different_calls(capture: Capture) -> None:
    """A block that is shown two whole responses loses neither."""
    with capture.recorder.model_call() as call:
        call.see(response(id="a"))
        call.see(response(id="b"))

    assert list(map(told, capture.events())) == [PRICED, PRICED]


def test_streams_shown_to_a_block_count_when_they_are_read(capture: Capture) -> None:
    """What `see` gives back is to be read."""
    with capture.recorder.model_call() as call:
        stream = call.see(part for part in [response(usage=None), response()])

    assert len(list(stream)) == 2
    assert told(capture.event()) == PRICED


def test_a_block_around_nothing_is_a_call_where_it_names_a_model(capture: Capture) -> None:
    """Without a name there is nothing to tell."""
    with capture.recorder.model_call(model="acme-1"):
        pass
    with capture.recorder.model_call():
        pass

    assert told(capture.event()) == {"status": 200, "model": "acme-1", "cost_source": "unpriced"}


def test_a_block_that_raises_is_a_failed_call(capture: Capture) -> None:
    """Nested blocks count it once; what was seen before counts as it was."""
    with pytest.raises(SdkError), capture.recorder.model_call(), capture.recorder.model_call():
        raise SdkError(500)
    with suppress(KeyError), capture.recorder.model_call() as call:
        call.see(response())
        raise KeyError

    assert list(map(told, capture.events())) == [{"status": 500}, PRICED]


def test_blocks_can_be_asynchronous(capture: Capture) -> None:
    """`async with` is the same."""

    async def main() -> None:
        async with capture.recorder.model_call() as call:
            call.see(response())

    asyncio.run(main())

    assert told(capture.event()) == PRICED


def test_what_is_recorded_fast_is_what_a_whole_event_would_be(capture: Capture) -> None:
    """The journal's line made without an event holds the same as the one made of an event."""
    event = capture.recorder
    arguments = (
        "llm",
        200,
        "openai",
        "gpt-5-mini",
        "priced",
        True,
        1_790_000_000_000_000,
        1500,
        700,
        (9, 8, 7, 1, 5),
        42,
    )

    event.record_call(None, *arguments, None, None, "")
    event.record_call(None, *arguments, None, 1.0, "")

    fast, whole = capture.events()
    names = [name for name in whole.__slots__ if name != "id"]
    assert {name: getattr(fast, name) for name in names} == {name: getattr(whole, name) for name in names}
