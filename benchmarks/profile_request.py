"""Where the time of one request goes: usagekit with more and more of it at work."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.apps import user_of
from benchmarks.measure import Result, Setting, Table, differences, interleaved, wall
from benchmarks.request import PEOPLE, middlewares, server, then, without_threads
from benchmarks.traffic import Traffic
from usagekit import Recorder
from usagekit._guard import Guard
from usagekit._speedups import Pen
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from usagekit.context import Measurement

_ALL = "+ journal: all of it"


class _Stub:
    """Looks like a recorder to a middleware, and records nothing."""

    active = True
    identify: Any = None

    def __init__(self) -> None:
        self.guard = Guard()

    def record_request(self, *_: Any) -> bool:
        return False


class _Asking(_Stub):
    """Asks who it was."""

    identify = staticmethod(user_of)

    def record_request(self, measurement: Measurement, *_: Any) -> bool:
        measurement.identity()
        return False


class _NoPen:
    """Stands for the journal and its compiled pen: takes the fields of a record and forgets them."""

    def __init__(self) -> None:
        self.pen = self

    def write(self, *_: object) -> int:
        return 1


class _NullPen:
    """Writes records where nothing is kept: the line and the system call alone."""

    def __init__(self, stack: ExitStack) -> None:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, descriptor)
        self.pen = Pen(descriptor, os.getpid(), 2**62, int)


def run(setting: Setting) -> Result:
    """Measure each step on both kinds of app."""
    result = Result()
    people = Traffic().who(setting.scaled(PEOPLE, 300))
    loop = asyncio.new_event_loop()
    try:
        for kind in ("ASGI", "WSGI"):
            with ExitStack() as stack:
                _profile(result, kind, server(kind, loop, people), setting, stack)
    finally:
        loop.close()
    return result


def _profile(result: Result, kind: str, serve: Any, setting: Setting, stack: ExitStack) -> None:
    noop, ideal, usage, app = middlewares(kind)
    best = ideal(app)
    variants = {"noop": serve(noop(app)), "noop2": serve(noop(app)), "ideal": then(serve(best), best.events.clear)}
    for name, recorder in _steps(kind, setting.directory, stack):
        wrapped = serve(usage(app, recorder=recorder))
        variants[name] = then(wrapped, recorder.flush) if name == _ALL else wrapped
    timings = interleaved(variants, setting.scaled(60, 10))
    added = {name: median(differences(wall(each), wall(timings["noop"]))) for name, each in timings.items()}
    rows = []
    before = 0.0
    for name, value in added.items():
        steps = name not in {"noop", "noop2", "ideal"}
        rows.append((name, f"{value:.2f}", f"{value - before:+.2f}" if steps else "", f"{value / added['ideal']:.2f}"))
        before = value if steps else 0.0
    result.tables.append(Table(f"{kind}: what each step adds", ("", "us", "step", "x ideal"), rows))
    result.values[kind] = added


def _steps(kind: str, directory: str, stack: ExitStack) -> list[tuple[str, Any]]:
    return [
        ("middleware, switched off", Recorder()),
        ("+ exchange, route", _Stub()),
        ("+ identify", _Asking()),
        ("+ shape, subject", _recorder(f"{directory}/{kind}-nowhere.db", stack, _NoPen())),
        ("+ record, to /dev/null", _recorder(f"{directory}/{kind}-null.db", stack, _NullPen(stack))),
        (_ALL, _recorder(f"{directory}/{kind}-all.db", stack)),
    ]


def _recorder(path: str, stack: ExitStack, journal: Any = None) -> Recorder:
    recorder = stack.enter_context(Recorder(SQLiteBackend(path), identify=user_of))
    without_threads(recorder)
    if journal is not None:
        recorder._intake.journal = journal  # noqa: SLF001  half of it is what is measured
    return recorder
