"""What importing costs a process at its start."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.measure import Result, Setting, Stopwatch, Table, Target, Timing, interleaved, ratio_of_each, wall

if TYPE_CHECKING:
    from collections.abc import Callable

_WHAT = {
    "python": "pass",
    "python2": "pass",
    "usagekit": "import usagekit",
    "its names": "from usagekit import Recorder, track, bind",
    "a backend": "from usagekit.backends.sqlite import SQLiteBackend",
}
_LIMITS = {"usagekit": 1.5, "its names": 3.0}
_SHOWN = 25


def run(setting: Setting) -> Result:
    """Start processes, and list what the second import loads."""
    result = Result()
    # Compiled once, in the round that is thrown away, whatever the caller's environment says.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = setting.directory
    variants: dict[str, Callable[[], Timing]] = {
        name: partial(_start, code, environment) for name, code in _WHAT.items()
    }
    timings = interleaved(variants, setting.scaled(40, 5))
    base = wall(timings["python"])
    rows = []
    for name, each in timings.items():
        times = ratio_of_each(wall(each), base)
        rows.append((_WHAT[name], f"{median(wall(each)) / 1000:.1f}", str(times)))
        result.values[name] = {"ms": median(wall(each)) / 1000, "times_python": times}
        if name in _LIMITS:
            result.targets.append(Target(_WHAT[name], times, _LIMITS[name]))
    result.tables.append(Table("process from start to end", ("", "ms", "x python (95 %)"), rows))
    loaded = _loaded(_WHAT["its names"], environment)
    result.values["modules"] = loaded
    slowest = sorted(loaded.items(), key=lambda item: -item[1])[:_SHOWN]
    result.tables.append(
        Table(
            f"{_WHAT['its names']}: {len(loaded)} modules, the slowest by themselves",
            ("", "us"),
            [(name, str(microseconds)) for name, microseconds in slowest],
        )
    )
    return result


def _start(code: str, environment: dict[str, str]) -> Timing:
    with Stopwatch() as watch:
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return watch.timing


def _loaded(code: str, environment: dict[str, str]) -> dict[str, int]:
    """Give the modules that `code` loads and a bare interpreter does not, with their own microseconds."""
    bare = _import_times("pass", environment)
    return {name: own for name, own in _import_times(code, environment).items() if name not in bare}


def _import_times(code: str, environment: dict[str, str]) -> dict[str, int]:
    command = [sys.executable, "-X", "importtime", "-c", code]
    report = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stderr
    times = {}
    for line in report.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        name = rest.partition("|")[2].strip()
        if own.strip().isdecimal():
            times[name] = int(own)
    return times
