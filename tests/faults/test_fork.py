"""Processes that fork while they record: both sides go on, and each event is in the ledger once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import said_by
from tests.support.stores import journal_files, query
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("story", "at_least"),
    [
        pytest.param("after_the_first_event", 600, id="right after the first event, 200 times"),
        pytest.param("while_others_record", 50 * 20, id="while other threads record, 50 times"),
        pytest.param("while_another_thread_loads", 3, id="while another thread loads what it needs"),
        pytest.param("multiprocessed", 502, id="by multiprocessing"),
        pytest.param("child_outlives_parent", 3, id="and the child outlives its parent"),
        pytest.param("past_the_hooks", 3, id="in C code"),
        pytest.param("beside_a_reader", 3, id="while somebody reads"),
    ],
)
def test_forks_lose_nothing_and_count_nothing_twice(story: str, at_least: int, tmp_path: Path) -> None:
    """What parents and children were told is accepted is in the ledger once; nobody hangs."""
    check(tmp_path / "usage.db", at_least, story)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("story", "times", "each"), [("after_the_first_event", 2000, 3), ("while_others_record", 1000, 20)]
)
def test_thousands_of_forks_lose_nothing_and_count_nothing_twice(
    story: str, times: int, each: int, tmp_path: Path
) -> None:
    """The same, longer."""
    check(tmp_path / "usage.db", times * each, story, times)


def check(path: Path, at_least: int, story: str, *times: int) -> None:
    """Let a story happen, and compare the ledger with what was accepted in it."""
    accepted = Counter(map(int, said_by("forks.py", story, path, *times, seconds=900.0).split()))

    with Recorder(SQLiteBackend(path)) as fresh:
        assert fresh.flush()
    assert Counter(number for (number,) in query(path, "SELECT output FROM events")) == accepted
    assert accepted.total() >= at_least
    assert journal_files(path) == []
