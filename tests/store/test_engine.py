"""The threads that move events on: nothing depends on them, and nothing ends them before their time."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from tests.support.processes import said_by
from tests.support.stores import eventually, journal_files, query, stored_events
from usagekit import Recorder
from usagekit._store.engine import journals_of
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.query import UsageQuery
from usagekit.signals import event_rejected

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


def our_threads() -> list[str]:
    """Give the names of the threads that usagekit runs now."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("usagekit"))


@contextmanager
def unreadable_journal(directory: Path) -> Iterator[Path]:
    """Put a journal there that nobody may open for writing, root included: a program that runs."""
    file = directory / "unreadable.journal"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", file)
    file.chmod(0o700)
    with subprocess.Popen([str(file), "60"]) as process:
        yield file
        process.kill()


def test_no_thread_runs_before_the_first_event_and_none_after_close(path: Path) -> None:
    """Making a recorder is safe before a fork."""
    others = our_threads()  # of recorders that live as long as some module's tests
    recorder = Recorder(SQLiteBackend(path))
    before = our_threads()

    recorder.track("tick")
    during = our_threads()
    recorder.close()

    assert (before, during, our_threads()) == (others, [*others, "usagekit-import"], others)


def test_events_are_durable_soon_without_anyone_asking(path: Path) -> None:
    """Normally within a quarter of a second; a busy machine may take longer."""
    with Recorder(SQLiteBackend(path)) as recorder:
        recorder.track("tick")

        assert eventually(lambda: query(path, "SELECT count(*) FROM events") == [(1,)], 2.0)


def test_a_recorder_that_was_not_used_closes_without_a_word(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is no journal, and no directory of journals."""
    with caplog.at_level(logging.DEBUG, "usagekit"), Recorder(SQLiteBackend(path)) as recorder:
        assert recorder.flush()

    assert (recorder.status()["errors"], caplog.records) == ({}, [])


def test_closing_again_does_nothing(path: Path) -> None:
    """Nor does recording afterwards, which is counted."""
    others = our_threads()
    recorder = Recorder(SQLiteBackend(path))
    recorder.track("tick")
    recorder.close()
    recorder.close()

    assert not recorder.track("late")

    status = recorder.status()
    assert (status["accepted"], status["rejected"], status["durable"]) == (1, {"closed": 1}, 1)
    assert our_threads() == others


def test_a_closed_recorder_keeps_nobody_from_ending(tmp_path: Path) -> None:
    """Even when its ledger is gone by then."""
    code = (
        "import sys, shutil; from usagekit import Recorder; from usagekit.backends.sqlite import SQLiteBackend\n"
        "recorder = Recorder(SQLiteBackend(sys.argv[1] + '/usage.db')); recorder.track('tick'); recorder.close()\n"
        "shutil.rmtree(sys.argv[1])"
    )
    began = monotonic()

    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == ("", "")
    assert monotonic() - began < 1.9


def test_a_journal_that_cannot_be_opened_holds_up_no_other(path: Path) -> None:
    """It is counted, flush says that not all is imported, and everything else is."""
    recorder = Recorder(SQLiteBackend(path))
    Path(journals_of(str(path))).mkdir()
    with unreadable_journal(Path(journals_of(str(path)))) as file:
        for n in range(3000):
            assert recorder.track("tick", response_bytes=n)

        assert not recorder.flush(1.0)

        assert [event.response_bytes for event in stored_events(path)] == list(range(3000))
        assert recorder.status()["errors"].keys() == {"journal"}
        file.unlink()
    assert recorder.flush()
    recorder.close()
    assert journal_files(path) == []


def test_without_free_descriptors_recording_goes_on(tmp_path: Path) -> None:
    """What is accepted meanwhile is imported, by the same thread, when there are some again."""
    told = json.loads(said_by("descriptors.py", tmp_path / "usage.db", 3000))

    assert told == {"accepted": 3001, "rejected": {}, "imported": True, "raised": 0}


def test_a_rejected_event_is_told_with_its_reason(path: Path) -> None:
    """Once for each, on the thread that recorded."""
    told: list[str] = []

    def note(recorder: object, reason: str, **extra: object) -> None:
        told.append(reason)

    with event_rejected.connected_to(note):
        recorder = Recorder(SQLiteBackend(path), quota_bytes=2000)
        recorder.close()
        recorder.track("late")

    assert told == ["closed"]


def test_two_recorders_of_one_ledger_share_it(path: Path) -> None:
    """In one process, in threads; closing one leaves the other at work."""
    first, second = Recorder(SQLiteBackend(path)), Recorder(SQLiteBackend(path))
    for n in range(0, 2000, 2):
        first.track("tick", response_bytes=n)
        second.track("tick", response_bytes=n + 1)
    first.close()
    for n in range(2000, 3000):
        second.track("tick", response_bytes=n)
    second.close()

    assert sorted(event.response_bytes for event in stored_events(path)) == list(range(3000))
    assert journal_files(path) == []


def test_questions_see_what_was_accepted_before(path: Path) -> None:
    """Whoever recorded it in this process."""
    with Recorder(SQLiteBackend(path)) as recorder:
        for n in range(50):
            recorder.track("tick")
            assert recorder.read(_everything()).totals == {"events": n + 1}


def _everything() -> UsageQuery:
    return UsageQuery.build(measures="events")
