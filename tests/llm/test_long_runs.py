"""What runs for long, or makes very many calls: nothing grows, and each call counts once."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from usagekit import track_tokens
from usagekit.llm import Usage, scopes, usage
from usagekit.llm.calls import Call
from usagekit.opentelemetry import UsageSpanProcessor

if TYPE_CHECKING:
    import openai

    from tests.support.capture import Capture

MANY = 2 * scopes.KEPT + 10


def response(**changes: Any) -> dict[str, Any]:
    """Make a chat completion as a dictionary."""
    return {"object": "chat.completion", "model": "gpt-5-mini", "usage": {"prompt_tokens": 10}} | changes


class Answer(dict[str, Any]):
    """A response that can tell whether it lives, as those of SDKs can."""


def test_functions_that_schedule_their_successors_make_no_chain(capture: Capture) -> None:
    """A timer copies its context, so each would begin within the one before."""
    left, done = 300, asyncio.Event()
    depths = set()

    @track_tokens
    def turn() -> Any:
        nonlocal left
        left -= 1
        scope, depth = scopes.active.get(), 0
        while scope is not None:
            scope, depth = scope.outer, depth + 1
        depths.add(depth)
        if left:
            asyncio.get_running_loop().call_soon(turn)
        else:
            done.set()
        return response()

    async def main() -> None:
        turn()
        await done.wait()

    asyncio.run(main())

    assert depths == {1}
    assert len(capture.events()) == 300


def test_the_first_of_many_responses_may_be_handed_on(capture: Capture) -> None:
    """It is known for as long as it lives, and keeps no other alive."""
    alive: list[weakref.ref[Answer]] = []

    @track_tokens
    def ask(size: int) -> Any:
        return Answer(response(usage={"prompt_tokens": size}))

    @track_tokens
    def agent() -> Any:
        first = ask(1000)
        alive.extend(weakref.ref(ask(size)) for size in range(MANY))
        return first

    agent()

    assert len(capture.events()) == MANY + 1
    assert not any(one() for one in alive)


def test_threads_of_one_function_lose_no_call(
    capture: Capture, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where each call waits for LiteLLM, which may know its cost."""
    monkeypatch.setitem(sys.modules, "litellm", ModuleType("litellm"))
    interval = sys.getswitchinterval()
    question: Any = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hi"}]}

    @track_tokens
    def work() -> None:
        with ThreadPoolExecutor(8) as pool:
            asked = [
                pool.submit(contextvars.copy_context().run, partial(client.chat.completions.create, **question))
                for _ in range(120)
            ]
        for one in asked:
            one.result()

    sys.setswitchinterval(1e-6)
    try:
        work()
    finally:
        sys.setswitchinterval(interval)

    assert len(capture.events()) == 120


def test_calls_that_wait_are_recorded_by_whoever_comes_next(capture: Capture) -> None:
    """Each once, however many threads are at it."""
    scope = scopes.Scope(capture.recorder, None, scopes.Settings())
    recorded: list[int] = []

    class Waiting:
        def __init__(self, number: int) -> None:
            self.number = number

        def record(self) -> None:
            recorded.append(self.number)

    def wait(first: int) -> None:
        for number in range(first, first + 500):
            scope.wait(Waiting(number))  # type: ignore[arg-type]

    threads = [threading.Thread(target=wait, args=(500 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scope.end()

    assert sorted(recorded) == list(range(2000))


def test_a_call_that_would_wait_after_the_end_is_recorded(capture: Capture) -> None:
    """Its thread outlived the function."""
    scope = scopes.Scope(capture.recorder, None, scopes.Settings())
    call = Call(scope)
    scope.end()

    scope.wait(call)

    assert len(capture.events()) == 1


def test_what_only_spans_tell_is_recorded_while_the_function_runs(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may be one function that never ends."""
    monkeypatch.setattr(scopes, "spans_watcher", None)
    provider = TracerProvider()
    provider.add_span_processor(UsageSpanProcessor())
    tracer = provider.get_tracer("tests")
    told: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.usage.input_tokens": 3,
    }
    meanwhile = 0

    @track_tokens
    def work() -> Any:
        nonlocal meanwhile
        for _ in range(MANY):
            with tracer.start_as_current_span("chat gpt-5-mini", attributes=told):
                pass
        meanwhile = len(capture.events())

    work()
    provider.shutdown()

    assert meanwhile >= MANY - 2 * scopes.KEPT
    assert len(capture.events()) == MANY


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"input_tokens": "12"}, 12),
        ({"input_tokens": 2**60}, 2**53 - 1),
        ({"input_tokens": 5, "cache_read_tokens": -50}, 5),
        ({"input_tokens": 5.0, "reasoning_tokens": -4}, 5),
        ({"input_tokens": 1, "aside": Usage(input_tokens=-3, output_tokens=1)}, 1),
    ],
)
def test_numbers_of_the_apps_own_are_brought_to_ones_that_can_be(
    capture: Capture, told: dict[str, Any], expected: int
) -> None:
    """As those are that it gives to `record`."""
    with capture.recorder.model_call(provider="acme", model="acme-1") as call:
        call.see(Usage(output_tokens=3, **told))

    event = capture.event()

    assert event.input_tokens == expected
    assert (event.cache_read_tokens, event.reasoning_tokens) == (0, 0)
    assert capture.errors() == {}


def test_equal_texts_are_counted_each(capture: Capture) -> None:
    """Short ones are often the same object."""

    @track_tokens(model="acme-1")
    def speak() -> Any:
        yield from ["a"] * 400

    list(speak())

    assert capture.event().output_tokens == 100


@pytest.mark.parametrize("make", [lambda: iter([1, 2]), lambda: map(str, [1, 2]), lambda: iter(())], ids=range(3))
def test_an_iterator_of_something_else_is_no_call(capture: Capture, make: Any) -> None:
    """As a list of it is none; it is counted."""

    @track_tokens
    def listed() -> Any:
        return make()

    list(listed())

    assert capture.events() == []
    assert capture.errors() == {"llm: no usage": 1}


def test_types_made_at_run_time_are_not_kept_for_ever(capture: Capture) -> None:
    """Structured outputs may make a type for each request."""

    def answer_of_a_new_type() -> Any:
        return type("Answer", (dict,), {})(response())

    ask = track_tokens(answer_of_a_new_type)
    for _ in range(usage._TYPES + 100):
        usage.extractor_of(type(answer_of_a_new_type()))

    assert len(usage.extractors) <= usage._TYPES
    ask()
    assert capture.event().input_tokens == 10
