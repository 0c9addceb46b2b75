"""An event loop that is never idle, and one that has time: what the importing thread takes from it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.apps import AsgiNoop, receive, scopes_of, send, user_and_org_of
from benchmarks.measure import (
    Result,
    Setting,
    Stopwatch,
    Table,
    Target,
    Timing,
    interleaved,
    percentile,
    ratio,
    ratio_of_each,
    wall,
)
from benchmarks.traffic import Traffic
from usagekit import Recorder
from usagekit.asgi import UsageMiddleware
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

SATURATED_RATIO = 2.5
DURABLE_SHARE = 0.9
PACE = 2000  # requests per second

_TURN = 50  # requests between two turns of the loop


async def _item(request: Request) -> JSONResponse:
    return JSONResponse({"id": request.path_params["item_id"], "name": "an item", "price": 9.5})


def run(setting: Setting) -> Result:
    """Measure the saturated loop first, then the paced one."""
    result = Result()
    app = Starlette(routes=[Route("/items/{item_id:int}", _item)])
    loop = asyncio.new_event_loop()
    try:
        with ExitStack() as stack:
            recorders = [
                stack.enter_context(Recorder(SQLiteBackend(f"{setting.directory}/{name}.db")))
                for name in ("saturated", "paced")
            ]
            wrapped = [UsageMiddleware(app, recorder=recorder, identify=user_and_org_of) for recorder in recorders]
            _saturated(result, loop, app, (wrapped[0], recorders[0]), setting)
            _paced(result, loop, app, (wrapped[1], recorders[1]), setting)
    finally:
        loop.close()
    return result


def _saturated(
    result: Result, loop: asyncio.AbstractEventLoop, app: Any, usage: tuple[Any, Recorder], setting: Setting
) -> None:
    scopes = scopes_of(Traffic().who(2000))
    seconds = setting.scaled(2000, 500) / 1000
    wrapped, recorder = usage
    shares: list[float] = []

    def served(target: Any) -> Callable[[], Timing]:
        return lambda: loop.run_until_complete(_serve(target, scopes, seconds))

    def recorded() -> Timing:
        before = recorder.status()
        timing = loop.run_until_complete(_serve(wrapped, scopes, seconds))
        after = recorder.status()
        shares.append((after["durable"] - before["durable"]) / (after["accepted"] - before["accepted"]))
        assert recorder.flush(60)
        return timing

    timings = interleaved(
        {"noop": served(AsgiNoop(app)), "noop2": served(AsgiNoop(app)), "usagekit": recorded},
        setting.scaled(7, 3),
    )
    del shares[0]  # the round that is thrown away
    rows = []
    for name, each in timings.items():
        times = ratio_of_each(wall(each), wall(timings["noop"]))
        rows.append((name, f"{median(wall(each)):.1f}", str(times)))
        result.values[f"saturated {name}"] = {"us_per_request": median(wall(each)), "request_time_ratio": times}
        if name == "usagekit":
            result.targets.append(Target("saturated: request time, x no-op", times, SATURATED_RATIO))
    result.tables.append(Table("loop never idle: Starlette, one route", ("", "us per request", "x noop (95 %)"), rows))
    result.values["saturated durable"] = shares
    result.tables.append(
        Table(
            "share of a round's accepted events that are in the ledger at its end",
            ("", "median", "least", "most"),
            [("usagekit", *(f"{value:.2f}" for value in (median(shares), min(shares), max(shares))))],
        )
    )
    share = ratio(shares, [1.0] * len(shares))
    result.targets.append(Target("saturated: share in the ledger", share, DURABLE_SHARE, at_least=True))


async def _serve(app: Any, scopes: list[dict[str, Any]], seconds: float) -> Timing:
    served = 0
    end = perf_counter_ns() + int(seconds * 1e9)
    with Stopwatch() as watch:
        while perf_counter_ns() < end:
            for index in range(served, served + _TURN):
                await app(scopes[index % len(scopes)].copy(), receive, send)
            served += _TURN
            await asyncio.sleep(0)
    return watch.timing.per(served)


@dataclass(slots=True)
class _Latencies:
    """Microseconds of every request, of all rounds but the first."""

    values: list[float]
    rounds: int = 0


def _paced(
    result: Result, loop: asyncio.AbstractEventLoop, app: Any, usage: tuple[Any, Recorder], setting: Setting
) -> None:
    scopes = scopes_of(Traffic().who(2000))
    seconds = setting.scaled(2000, 500) / 1000
    wrapped, recorder = usage
    latencies = {name: _Latencies([]) for name in ("noop", "noop2", "usagekit")}

    def paced(name: str, target: Any, clean: Callable[[], object]) -> Callable[[], Timing]:
        def slice_() -> Timing:
            found = loop.run_until_complete(_serve_paced(target, scopes, seconds))
            clean()
            if latencies[name].rounds:
                latencies[name].values += found
            latencies[name].rounds += 1
            return Timing(median(found), 0)

        return slice_

    interleaved(
        {
            "noop": paced("noop", AsgiNoop(app), int),
            "noop2": paced("noop2", AsgiNoop(app), int),
            "usagekit": paced("usagekit", wrapped, recorder.flush),
        },
        setting.scaled(5, 2),
    )
    rows = []
    for name, each in latencies.items():
        found = {f"p{percent:g}": percentile(each.values, percent) for percent in (50, 90, 99, 99.9)}
        rows.append((name, *(f"{value:.0f}" for value in found.values())))
        result.values[f"paced {name}"] = found
    title = f"{PACE:,} requests per second: from the start of a request to its end, us"
    result.tables.append(Table(title, ("", "p50", "p90", "p99", "p99.9"), rows))


async def _serve_paced(app: Any, scopes: list[dict[str, Any]], seconds: float) -> list[float]:
    latencies = []
    started = perf_counter_ns()
    for index in range(int(PACE * seconds)):
        due = started + index * 1_000_000_000 // PACE
        wait = due - perf_counter_ns()
        if wait > 0:
            await asyncio.sleep(wait / 1e9)
        began = perf_counter_ns()
        await app(scopes[index % len(scopes)].copy(), receive, send)
        latencies.append((perf_counter_ns() - began) / 1000)
    return latencies
