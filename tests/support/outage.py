"""What a process has to pay for a sink that is down: nothing but room in the ledger."""

from __future__ import annotations

import json
import sys
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import REFUSED, RESET, STALLED, FaultProxy, faulty
from tests.support.processes import said_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usagekit import Recorder

WARM = 20_000  # events until every cache is full
MOST_BYTES = 5_000_000

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: its /proc says how large a process is")
"""Marks a test of memory."""


def record(recorder: Recorder, numbers: Sequence[int]) -> None:
    """Record a named event or a model call per number."""
    for n in numbers:
        if n % 4:
            assert recorder.track("export", user=f"usr-{n % 97}", org=f"org-{n % 11}", quantity=n / 4)
        else:
            assert recorder.record_tokens(
                model=f"m-{n % 3}", provider="acme", input_tokens=n, output_tokens=7, cost_usd="0.000123"
            )


def endured(path: Path, kind: str, count: int) -> set[str]:
    """Let a process record `WARM` events and `count` further ones while nothing gets through to its sink.

    Asserts that they all wait in the ledger at `path` and that the further ones left the process as large as it was;
    returns what the sink raised.
    """
    fates = cycle([REFUSED, RESET, REFUSED, RESET, REFUSED, RESET, STALLED])
    root = Path(__file__).parents[2]
    with faulty(FaultProxy(9, fates.__next__)) as proxy:
        told = said_by("sink_down.py", path, count, kind, proxy.url, seconds=900, PYTHONPATH=str(root))
    found = json.loads(told)
    print(kind, count, found)
    assert list(found["sinks"].values()) == [{"delivered": 0, "lag": WARM + count, "dead_letters": 0}]
    assert found["grown"] < MOST_BYTES
    return set(found["failures"])
