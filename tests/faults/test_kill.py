"""Processes that die at any moment: what they were told is accepted is in the ledger, once."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import ExitStack
from functools import partial
from time import sleep
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import running
from tests.support.stores import eventually, journal_files, query
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = 4
THREADS = 2
ROUND_SECONDS = (0.1, 1.2)  # from the first acknowledged event to the death of a process


def all_begun(files: list[Path]) -> bool:
    """Tell whether every producer was told of an accepted event."""
    return all(file.exists() and file.stat().st_size for file in files)


def acknowledged_numbers(files: list[Path]) -> list[int]:
    """Give what the producers were told is accepted; a line that was cut off belongs to an event in flight."""
    lines = [line for file in files for line in file.read_text().splitlines(keepends=True)]
    return [int(line) for line in lines if line.endswith("\n")]


def stored_numbers(path: Path) -> Counter[int]:
    """Give how often each number is in the ledger."""
    sql = """
        SELECT CASE s.kind WHEN 'named' THEN e.output ELSE CAST(u.name AS INTEGER) END
        FROM events e JOIN shapes s ON s.id=e.shape JOIN subjects p ON p.id=e.subject JOIN users u ON u.id=p.user
    """
    return Counter(number for (number,) in query(path, sql))


def kill_again_and_again(tmp_path: Path, *, rounds: int, at_least: int) -> None:
    """Let four processes record and import, kill each at a moment of its own, and do it again; then compare."""
    path = tmp_path / "usage.db"
    files: list[Path] = []
    done = 0
    while done < rounds or sum(file.stat().st_size for file in files) < 11 * at_least:
        done += 1
        assert done < 10 * rounds, "the producers hardly produce"
        with ExitStack() as producers:
            started = []
            for _ in range(PROCESSES):
                files.append(tmp_path / f"{len(files)}.acknowledged")
                started.append(producers.enter_context(running("produce.py", path, len(files), files[-1])))
            mine = files[-PROCESSES:]
            assert eventually(partial(all_begun, mine))
            elapsed = 0.0
            for moment, producer in sorted((random.uniform(*ROUND_SECONDS), n) for n in range(PROCESSES)):
                sleep(moment - elapsed)  # the load's duration
                elapsed = moment
                assert started[producer].poll() is None, started[producer].communicate()
                started[producer].kill()

    with Recorder(SQLiteBackend(path)) as fresh:
        assert fresh.flush(timeout=60.0)

    acknowledged, stored = acknowledged_numbers(files), stored_numbers(path)
    lost = [number for number in acknowledged if number not in stored]
    twice = [number for number, times in stored.items() if times > 1]
    assert (lost, twice) == ([], [])
    assert len(acknowledged) >= at_least
    assert len(stored) - len(acknowledged) <= THREADS * len(files)
    assert journal_files(path) == []


def test_kill_nine_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    """At least 50,000 accepted events of 20 processes, each of which was killed while it recorded and imported."""
    kill_again_and_again(tmp_path, rounds=5, at_least=50_000)


@pytest.mark.soak
def test_kill_nine_for_minutes_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    """The same, longer."""
    kill_again_and_again(tmp_path, rounds=30, at_least=500_000)
