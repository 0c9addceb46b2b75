"""Added time per model call, per chunk of a stream and per price, on a function that answers at once."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial, wraps
from statistics import median
from typing import TYPE_CHECKING, Any

from openai import Stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from prometheus_client import CollectorRegistry, Counter, Histogram

from benchmarks.measure import (
    Result,
    Setting,
    Stopwatch,
    Table,
    Target,
    Timing,
    cpu,
    differences,
    interleaved,
    ratio,
    wall,
)
from benchmarks.request import then, without_threads
from usagekit import Recorder, bound
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.llm import Usage
from usagekit.llm.prices import Prices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openai.types import CompletionUsage

    Slice = Callable[[], Timing]
    Function = Callable[..., Any]

CALLS = 1500  # in a slice
CHUNKS = 400  # in a stream
ADDED_US = 3.0
TIMES_PROMETHEUS = 0.25
PRICE_US = 1.0
CHUNK_US = 1.0

_PRICED, _UNPRICED = "gpt-5-mini-2025-08-07", "a-model-without-a-price"
_TIME_US = 1_790_000_000_000_000


def run(setting: Setting) -> Result:
    """Measure calls first, then chunks, then prices."""
    result = Result()
    rounds = setting.scaled(80, 12)
    with ExitStack() as stack:
        _report_calls(result, interleaved(_calls(setting, stack), rounds))
    with ExitStack() as stack:
        timings = interleaved(_streams(setting, stack), rounds)
        for plain, tracked in (("plain stream", "watched stream"), ("plain generator", "decorated generator")):
            pair = {name: timings[name] for name in (plain, tracked)}
            _report(result, "chunk", pair, base=plain, limited={tracked: CHUNK_US})
    _report(result, "price", interleaved(_prices(setting), rounds), base="nothing", limited={"a known model": PRICE_US})
    return result


# A call


def _response(model: str) -> ChatCompletion:
    return ChatCompletion.model_validate(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_790_000_000,
            "model": model,
            "service_tier": "default",
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Here it is."}}
            ],
            "usage": {
                "prompt_tokens": 1200,
                "completion_tokens": 300,
                "total_tokens": 1500,
                "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 128, "audio_tokens": 0},
            },
        }
    )


def _calls(setting: Setting, stack: ExitStack) -> dict[str, Slice]:
    count = setting.scaled(CALLS, 300)
    unpriced, priced = _response(_UNPRICED), _response(_PRICED)

    def answer(_question: str) -> ChatCompletion:
        return unpriced

    def answer_priced(_question: str) -> ChatCompletion:
        return priced

    variants: dict[str, Slice] = {name: partial(_call, _noop(answer), count) for name in ("noop", "noop2")}
    variants["prometheus_client"] = partial(_call, _prometheus(answer), count)
    for name, function in (("track_tokens", answer), ("track_tokens, priced", answer_priced)):
        for where, serve in (("", _call), (", in a bound block", _call_bound)):
            recorder = _recorder(f"{setting.directory}/{name}{where}.db", stack)
            tracked = recorder.track_tokens(function)
            variants[name + where] = then(partial(serve, tracked, count), partial(recorder.flush, 60.0))
    return variants


def _recorder(path: str, stack: ExitStack) -> Recorder:
    # Importing goes on between slices, as everywhere else: `make bench ARGS=loop` shows what it takes.
    recorder = stack.enter_context(Recorder(SQLiteBackend(path)))
    without_threads(recorder)
    return recorder


def _noop(function: Function) -> Function:
    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapped


def _prometheus(function: Function) -> Function:
    """Give what one writes by hand: tokens in, tokens out and the time, by provider and model."""
    from time import perf_counter

    registry = CollectorRegistry()
    labels = ("provider", "model")
    read = Counter("input_tokens", "Tokens read.", labels, registry=registry)
    written = Counter("output_tokens", "Tokens written.", labels, registry=registry)
    seconds = Histogram("call_seconds", "Duration.", labels, registry=registry)

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        began = perf_counter()
        response = function(*args, **kwargs)
        passed = perf_counter() - began
        usage: CompletionUsage = response.usage
        read.labels("openai", response.model).inc(usage.prompt_tokens)
        written.labels("openai", response.model).inc(usage.completion_tokens)
        seconds.labels("openai", response.model).observe(passed)
        return response

    return wrapped


def _call(function: Function, count: int) -> Timing:
    for _ in range(50):
        function("why?")
    with Stopwatch() as watch:
        for _ in range(count):
            function("why?")
    return watch.timing.per(count)


def _call_bound(function: Function, count: int) -> Timing:
    with bound(user="usr_1", org="org_1"):
        return _call(function, count)


def _report_calls(result: Result, timings: dict[str, list[Timing]]) -> None:
    _report(result, "call", timings, base="noop", limited={"track_tokens": ADDED_US})
    base = wall(timings["noop"])
    prometheus = differences(wall(timings["prometheus_client"]), base)
    for name in ("track_tokens", "track_tokens, priced"):
        times = ratio(differences(wall(timings[name]), base), prometheus)
        result.targets.append(Target(f"{name}, x prometheus_client", times, TIMES_PROMETHEUS))
        result.values[f"call {name}, x prometheus_client"] = times


# A chunk


def _chunks(count: int) -> list[ChatCompletionChunk]:
    shape = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_790_000_000, "model": _PRICED}
    usage = _response(_PRICED).usage
    assert usage is not None
    parts: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": "some text"}, "finish_reason": None}]} for _ in range(count)
    ]
    parts.append({"choices": [], "usage": usage.model_dump()})
    return [ChatCompletionChunk.model_validate(shape | part) for part in parts]


class _Chunks(Stream[ChatCompletionChunk]):
    """OpenAI's own stream class, of chunks that are there already."""

    def __init__(self, chunks: list[ChatCompletionChunk]) -> None:
        self._iterator = iter(chunks)


def _streams(setting: Setting, stack: ExitStack) -> dict[str, Slice]:
    count = setting.scaled(10, 3)
    chunks = _chunks(CHUNKS)
    recorder = _recorder(f"{setting.directory}/streams.db", stack)

    def stream() -> Stream[ChatCompletionChunk]:
        return _Chunks(chunks)

    def generator() -> Iterator[ChatCompletionChunk]:
        yield from chunks

    functions: dict[str, Function] = {
        "plain stream": stream,
        "watched stream": recorder.track_tokens(stream),
        "plain generator": generator,
        "decorated generator": recorder.track_tokens(generator),
    }
    return {
        name: then(partial(_read, function, count), partial(recorder.flush, 60.0))
        for name, function in functions.items()
    }


def _read(function: Function, count: int) -> Timing:
    with Stopwatch() as watch:
        for _ in range(count):
            for _ in function():
                pass
    return watch.timing.per(count * (CHUNKS + 1))


# A price


def _prices(setting: Setting) -> dict[str, Slice]:
    prices, count = Prices(), setting.scaled(CALLS, 300)
    usage = Usage(context={"service_tier": "default"})
    totals = (1200, 300, 1024, 0, 128)

    def price() -> int | None:
        return prices.nano_dollars(usage, "openai", _PRICED, _TIME_US, totals)

    def nothing() -> int | None:
        return None

    assert price()
    return {"nothing": partial(_repeat, nothing, count), "a known model": partial(_repeat, price, count)}


def _repeat(function: Callable[[], object], count: int) -> Timing:
    with Stopwatch() as watch:
        for _ in range(count):
            function()
    return watch.timing.per(count)


def _report(
    result: Result, what: str, timings: dict[str, list[Timing]], *, base: str, limited: dict[str, float]
) -> None:
    plain, plain_cpu = wall(timings[base]), cpu(timings[base])
    rows = []
    for name, each in timings.items():
        added, added_cpu = differences(wall(each), plain), differences(cpu(each), plain_cpu)
        rows.append((name, f"{median(added):.2f}", f"{median(added_cpu):.2f}"))
        result.values[f"{what} {name}"] = {"added_us": median(added), "added_cpu_us": median(added_cpu)}
        if name in limited:
            estimate = ratio(added, [1.0] * len(added))
            result.targets.append(Target(f"{what}: {name}, us added", estimate, limited[name]))
    title = f"added to a {what} of {median(plain):.2f} us ({base})"
    result.tables.append(Table(title, ("", "us", "processor us"), rows))
