"""Added time per request, on apps that do nothing else: the ideal, usagekit, asgi-correlation-id."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from asgi_correlation_id import CorrelationIdMiddleware

from benchmarks.apps import (
    AsgiIdeal,
    AsgiNoop,
    WsgiIdeal,
    WsgiNoop,
    asgi_app,
    asgi_slice,
    environs_of,
    scopes_of,
    user_and_org_of,
    user_of,
    wsgi_app,
    wsgi_slice,
)
from benchmarks.measure import (
    Estimate,
    Result,
    Setting,
    Table,
    Target,
    Timing,
    cpu,
    differences,
    interleaved,
    ratio,
    wall,
)
from benchmarks.traffic import Traffic
from usagekit import Recorder
from usagekit.asgi import UsageMiddleware as AsgiUsage
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.wsgi import UsageMiddleware as WsgiUsage

if TYPE_CHECKING:
    from collections.abc import Callable

    Slice = Callable[[], Timing]

PEOPLE = 750  # requests in a slice
TIMES_IDEAL = 4.0
TIMES_IDEAL_AT_MOST = 5.0

_IDENTIFIES = {"user": user_of, "user+org": user_and_org_of}


def run(setting: Setting) -> Result:
    """Measure both kinds of app, first by short slices with nothing to import, then while importing goes on."""
    result = Result()
    people = Traffic().who(setting.scaled(PEOPLE, 300))
    rounds = setting.scaled(80, 15)
    loop = asyncio.new_event_loop()
    try:
        for kind in ("ASGI", "WSGI"):
            with ExitStack() as stack:
                serve = server(kind, loop, people)
                variants = _variants(kind, serve, setting.directory, stack)
                _report(result, kind, interleaved(variants, rounds))
            with ExitStack() as stack:
                serve = server(kind, loop, people, times=setting.scaled(80, 40))
                variants = _importing(kind, serve, setting.directory, stack)
                _report_importing(result, kind, interleaved(variants, setting.scaled(12, 4)))
    finally:
        loop.close()
    return result


def server(
    kind: str, loop: asyncio.AbstractEventLoop, people: list[tuple[str, str]], times: int = 1
) -> Callable[[Any], Slice]:
    """Give what makes a slice of a wrapped app: requests of these people."""
    if kind == "ASGI":
        scopes = scopes_of(people)
        return lambda app: partial(asgi_slice, loop, app, scopes, times)
    environs = environs_of(people)
    return lambda app: partial(wsgi_slice, app, environs, times)


def _variants(kind: str, serve: Callable[[Any], Slice], directory: str, stack: ExitStack) -> dict[str, Slice]:
    noop, ideal, usage, app = middlewares(kind)
    best = ideal(app)
    variants = {
        "noop": serve(noop(app)),
        "noop2": serve(noop(app)),
        "ideal": then(serve(best), best.events.clear),
    }
    for name, identify in _IDENTIFIES.items():
        for threads in (True, False):
            path = f"{directory}/{kind}-{name}-{threads}.db"
            recorder = stack.enter_context(Recorder(SQLiteBackend(path)))
            if not threads:
                without_threads(recorder)
            wrapped = usage(app, recorder=recorder, identify=identify)
            label = f"usagekit {name}" if threads else f"usagekit {name}, no threads"
            variants[label] = then(serve(wrapped), partial(recorder.flush, 60.0))
    recorder = stack.enter_context(uncompiled(f"{directory}/{kind}-uncompiled.db"))
    wrapped = usage(app, recorder=recorder, identify=user_and_org_of)
    variants["usagekit user+org, not compiled"] = then(serve(wrapped), partial(recorder.flush, 60.0))
    if kind == "ASGI":
        variants["asgi-correlation-id"] = serve(CorrelationIdMiddleware(app))
    return variants


def _importing(kind: str, serve: Callable[[Any], Slice], directory: str, stack: ExitStack) -> dict[str, Slice]:
    noop, _, usage, app = middlewares(kind)
    variants = {"noop": serve(noop(app)), "noop2": serve(noop(app))}
    for threads in (True, False):
        recorder = stack.enter_context(Recorder(SQLiteBackend(f"{directory}/{kind}-long-{threads}.db")))
        if not threads:
            without_threads(recorder)
        label = "usagekit user, importing" if threads else "usagekit user, no threads"
        wrapped = usage(app, recorder=recorder, identify=user_of)
        variants[label] = then(serve(wrapped), partial(recorder.flush, 60.0))
    return variants


def middlewares(kind: str) -> tuple[Any, Any, Any, Any]:
    """Give the no-op, the ideal, usagekit and the app."""
    if kind == "ASGI":
        return AsgiNoop, AsgiIdeal, AsgiUsage, asgi_app
    return WsgiNoop, WsgiIdeal, WsgiUsage, wsgi_app


def uncompiled(path: str) -> Recorder:
    """Make a recorder that records with Python alone."""
    os.environ["USAGEKIT_COMPILED"] = "0"
    try:
        return Recorder(SQLiteBackend(path))
    finally:
        del os.environ["USAGEKIT_COMPILED"]


def without_threads(recorder: Recorder) -> None:
    """Keep a recorder from importing by itself; `flush` still does."""
    journal = recorder._intake.journal  # noqa: SLF001  no app wants this, so there is no option for it
    assert journal is not None
    journal.on_begin = lambda: None


def then(serve: Slice, clean: Callable[[], object]) -> Slice:
    """Add what is done after each slice, untimed."""

    def sliced() -> Timing:
        timing = serve()
        clean()
        return timing

    return sliced


def _report(result: Result, kind: str, timings: dict[str, list[Timing]]) -> None:
    base = {"wall": wall(timings["noop"]), "cpu": cpu(timings["noop"])}
    added = {
        name: {"wall": differences(wall(each), base["wall"]), "cpu": differences(cpu(each), base["cpu"])}
        for name, each in timings.items()
    }
    times_ideal: dict[str, dict[str, Estimate]] = {
        name: {clock: ratio(values[clock], added["ideal"][clock]) for clock in values}
        for name, values in added.items()
        if not name.startswith("noop")
    }
    rows = []
    for name, values in added.items():
        times = times_ideal.get(name)
        rows.append(
            (
                name,
                f"{median(values['wall']):.2f}",
                "" if times is None else str(times["wall"]),
                f"{median(values['cpu']):.2f}",
                "" if times is None else str(times["cpu"]),
            )
        )
        result.values[f"{kind} {name}"] = {
            "added_us": median(values["wall"]),
            "added_cpu_us": median(values["cpu"]),
            "times_ideal": times,
        }
    title = f"{kind}: added to a request of {median(base['wall']):.2f} us (processor time {median(base['cpu']):.2f} us)"
    columns = ("", "us", "x ideal (95 %)", "processor us", "x ideal (95 %)")
    result.tables.append(Table(title, columns, rows))
    for name in _IDENTIFIES:
        measured = f"usagekit {name}"
        estimate = times_ideal[measured]["wall"]
        result.targets += [
            Target(f"{kind} {measured}, x ideal", estimate, TIMES_IDEAL),
            Target(f"{kind} {measured}, x ideal, never more", estimate, TIMES_IDEAL_AT_MOST),
        ]
        if kind == "ASGI":
            against = ratio(added[measured]["wall"], added["asgi-correlation-id"]["wall"])
            result.targets.append(Target(f"{kind} {measured}, x asgi-correlation-id", against, 1.0))


def _report_importing(result: Result, kind: str, timings: dict[str, list[Timing]]) -> None:
    base = wall(timings["noop"])
    rows = []
    for name, each in timings.items():
        added, times = differences(wall(each), base), ratio(wall(each), base)
        rows.append(
            (name, f"{median(added):.2f}", str(times), f"{median(cpu(each)) - median(cpu(timings['noop'])):.2f}")
        )
        result.values[f"{kind} long {name}"] = {"added_us": median(added), "request_time_ratio": times}
    title = f"{kind}: long slices at full speed, so that the importing thread is always at work"
    result.tables.append(Table(title, ("", "us added", "request time ratio (95 %)", "processor us added"), rows))
