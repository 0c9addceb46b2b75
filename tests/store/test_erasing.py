"""Erasing a user: the id goes from every file, the events stay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stores import eventually, query, stored_events
from usagekit import ConfigurationError, Recorder, Rejected, StorageError, usage
from usagekit._store.schema import connect
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usagekit import UsageEvent

USER = "zoë-🦊-usr_4711@example.org"
LAST_YEAR = datetime.now(UTC) - timedelta(days=365)


def forms(user: str) -> list[bytes]:
    """Give the bytes as which an id may lie in a file: as it is, and as JSON in ASCII."""
    return [user.encode(), json.dumps(user)[1:-1].encode(), *([b"usr_4711"] if user == USER else [])]


def files_with(path: Path, user: str) -> list[str]:
    """Give the names of the files of a ledger that hold the id in any form.

    Another process reads them: closing a file here would drop the locks that this process has on it.
    """
    needles = [word for form in forms(user) for word in (b"-e", form)]
    command = [b"grep", b"-rlaF", *needles, os.fsencode(path.parent)]
    found = subprocess.run(command, check=False, capture_output=True, env={"LC_ALL": "C", "PATH": os.environ["PATH"]})
    assert found.returncode < 2, found.stderr
    return [Path(name).name for name in found.stdout.decode().splitlines()]


def answers(path: Path, **options: Any) -> list[dict[str, Any]]:
    """Give what must be the same before and after: all by org and event type, and others by user."""
    backend = SQLiteBackend(path)
    measures = [name for name in usage(backend).totals if name != "users"]
    return [
        *usage(backend, by=["org", "event"], measures=measures, order="event", **options).rows,
        *(row for row in usage(backend, by=["user", "org"], **options).rows if row["user"] in {"bob", "cid"}),
    ]


def fill(recorder: Recorder) -> None:
    """Record a little of everybody."""
    for n in range(30):
        recorder.track("export", user=USER, org="acme", latency_ms=n, quantity=n, weight=1 + n % 2)
        recorder.track("export", user="bob", org="acme", project="alpha")
        recorder.record_tokens(model="m", user="cid", org="globex", cost_usd="0.01", input_tokens=n)
    recorder.track("login", user=USER, org="globex", project="beta")
    recorder.track("visit")


def program(path: Path, code: str) -> subprocess.Popen[str]:
    """Start a process with a recorder of the ledger that does as told and says when it is done."""
    script = f"""
import os, sys
from datetime import UTC, datetime, timedelta
from usagekit import Recorder
from usagekit._store import engine
from usagekit.backends.sqlite import SQLiteBackend
recorder = Recorder(SQLiteBackend({str(path)!r}), dimensions=["project"])
USER = {USER!r}
{textwrap.dedent(code)}
"""
    return subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def killed(path: Path, code: str) -> None:
    """Run code in a process that imports nothing, and is killed."""
    with program(path, f"engine.IMPORT_SECONDS = 3600\n{code}\nos.kill(os.getpid(), 9)") as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_nothing_remains_but_the_events(path: Path) -> None:
    """In no file, while the recorder lives; totals of others and of the organisations are as before."""
    with Recorder(SQLiteBackend(path), dimensions=["project"]) as recorder:
        fill(recorder)
        assert recorder.flush()
        before = answers(path)
        users = usage(recorder, measures="users").totals["users"]
        assert files_with(path, USER)

        found = recorder.erase(USER)

        assert found
        assert files_with(path, USER) == []
        assert answers(path) == before
        assert usage(recorder, measures="users").totals["users"] == users - 1
        assert usage(recorder, by="user", measures="events", order="user").rows == [
            {"user": "", "events": 47},
            {"user": "bob", "events": 30},
            {"user": "cid", "events": 30},
        ]
        assert usage(recorder, where={"user": USER}, measures="events").totals == {"events": 0}
        assert usage(recorder, where={"user": ""}, measures=["events", "users"]).totals == {"events": 47, "users": 0}
    assert {event.user for event in stored_events(path)} == {"", "bob", "cid"}
    assert files_with(path, USER) == []


def test_twice_is_a_no_op_and_strangers_are_unknown(path: Path) -> None:
    """Both give False; neither changes an answer."""
    with Recorder(SQLiteBackend(path), dimensions=["project"]) as recorder:
        fill(recorder)
        assert recorder.erase(USER)
        before = answers(path)

        again, stranger = recorder.erase(USER), recorder.erase("nobody-knows")

        assert (again, stranger) == (False, False)
        assert answers(path) == before
        assert usage(recorder, where={"user": ["bob", "cid"]}, measures="events").totals == {"events": 60}


def test_what_dead_and_living_processes_hold_is_erased(path: Path) -> None:
    """Waiting journals are imported first; a living one's file is overwritten while it goes on."""
    Recorder(SQLiteBackend(path)).close()
    killed(path, "for n in range(50): recorder.track('late', user=USER, org='acme')")
    living = program(
        path,
        """
        engine.IMPORT_SECONDS = 3600
        for n in range(50):
            recorder.track("alive", user=USER, org="acme")
        print("recorded", flush=True)
        sys.stdin.readline()
        for n in range(50):
            recorder.track("alive", user="bob", org="acme")
        print(recorder.status()["rejected"], recorder.flush(), flush=True)
        """,
    )
    with living, Recorder(SQLiteBackend(path)) as recorder:
        assert living.stdout is not None
        assert living.stdout.readline() == "recorded\n"
        assert files_with(path, USER)

        assert recorder.erase(USER)

        assert files_with(path, USER) == []
        assert living.communicate("go on\n")[0] == "{} True\n"
        assert usage(recorder, by=["event", "user"], measures="events", order="user").rows == [
            {"event": "alive", "user": "", "events": 50},
            {"event": "late", "user": "", "events": 50},
            {"event": "alive", "user": "bob", "events": 50},
        ]
        assert recorder.status()["corrupt"] == 0


def test_late_arrivals_are_nobodys_and_a_new_beginning_is_theirs(path: Path) -> None:
    """What happened before the erasure, whoever records it after; what happens after it counts anew."""
    with Recorder(SQLiteBackend(path)) as recorder:
        recorder.track("first", user=USER, org="acme")
        assert recorder.erase(USER)

        recorder.track("late", user=USER, org="acme", time=LAST_YEAR)
        recorder.track("late", user=USER, org="acme", time=LAST_YEAR, event_id="key")
        killed(path, "recorder.track('late', user=USER, org='acme', time=datetime.now(UTC) - timedelta(days=1))")
        assert recorder.flush()

        assert usage(recorder, by=["user"], measures="events").rows == [{"user": "", "events": 4}]
        assert files_with(path, USER) == []

        recorder.track("anew", user=USER, org="acme")
        assert usage(recorder, by=["user", "event"], measures="events").rows == [
            {"user": "", "event": "late", "events": 3},
            {"user": "", "event": "first", "events": 1},
            {"user": USER, "event": "anew", "events": 1},
        ]
        assert recorder.erase(USER)

        assert usage(recorder, by=["user"], measures=["events", "users"]).rows == [
            {"user": "", "events": 5, "users": 0}
        ]
        assert files_with(path, USER) == []


def test_importers_that_live_elsewhere_know_at_once(path: Path) -> None:
    """A process that has long known the id records a late event: nobody's, and not in its journal either."""
    worker = program(
        path,
        """
        recorder.track("before", user=USER, org="acme")
        print(recorder.flush(), flush=True)
        sys.stdin.readline()
        recorder.track("late", user=USER, org="acme", time=datetime.now(UTC) - timedelta(days=1))
        recorder.track("anew", user="new-" + USER[:3], org="acme")
        print(recorder.flush(), flush=True)
        sys.stdin.readline()
        """,
    )
    with worker:
        assert worker.stdout is not None
        assert worker.stdin is not None
        assert worker.stdout.readline() == "True\n"
        with Recorder(SQLiteBackend(path)) as recorder:
            assert recorder.erase(USER)

            worker.stdin.write("\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == "True\n"

            assert usage(recorder, by="user", measures="events").rows == [
                {"user": "", "events": 2},
                {"user": "new-zoë", "events": 1},
            ]
            assert files_with(path, USER) == []
        worker.communicate("\n")


class Failing:
    """A sink that fails until told otherwise, and refuses poison, saying whose it was."""

    max_batch = 100
    name = "failing"

    def __init__(self) -> None:
        self.works = False
        self.tried = 0
        self.taken: list[UsageEvent] = []

    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        if any(event.event == "poison" for event in events):
            raise Rejected(f"no poison from {events[0].user}")
        if not self.works:
            self.tried += 1
            raise ConnectionError
        self.taken += events

    def close(self) -> None: ...


def test_pending_batches_and_dead_letters_hold_nobody(path: Path) -> None:
    """A batch fixed before the erasure is sent without the id; dead letters and their reasons lose it."""
    sink = Failing()
    with Recorder(SQLiteBackend(path), sink) as recorder:
        recorder.track("poison", user=USER)
        recorder.track("poison", user="bob")
        assert eventually(lambda: recorder.status()["dead_letters"] == 2)
        recorder.track("export", user=USER)
        assert eventually(lambda: sink.tried)

        assert recorder.erase(USER)

        assert files_with(path, USER) == []
        sink.works = True
        assert eventually(lambda: sink.taken)
    assert [(event.event, event.user) for event in sink.taken] == [("export", "")]
    assert query(path, 'SELECT event LIKE \'%"user": ""%\', reason FROM dead_letters ORDER BY id') == [
        (1, "(removed with the user's id, which it held)"),
        (0, "no poison from bob"),
    ]


def test_a_sink_that_refuses_during_the_erasure_leaves_no_id(path: Path) -> None:
    """The events were read before, the dead letters are written after."""
    erased = []

    class Late(Failing):
        def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
            erased.append(recorder.erase(USER))
            super().write(events, batch_id=batch_id)

    with Recorder(SQLiteBackend(path), Late()) as recorder:
        recorder.track("poison", user=USER)
        assert eventually(lambda: recorder.status()["dead_letters"] == 1)
    assert erased == [True]
    assert query(path, "SELECT reason FROM dead_letters") == [("(removed with the user's id, which it held)",)]
    assert files_with(path, USER) == []


STEPS = ("_import_all", "_bury", "_blank_journals", "_truncate_log", "_settle")


@pytest.mark.parametrize("step", STEPS)
def test_an_erasure_that_was_killed_is_completed_by_the_next(path: Path, step: str) -> None:
    """Before each of its steps, and whatever it had done by then."""
    with Recorder(SQLiteBackend(path)) as recorder:
        for n in range(30):
            recorder.track("export", user=USER, org="acme", quantity=n)
            recorder.track("export", user="bob", org="acme")
    before = answers(path, where={"event": "export"})
    code = f"""
from usagekit._store import erasing
for n in range(30): recorder.track("waiting", user=USER, org="acme")
erasing.{step} = lambda *given: os.kill(os.getpid(), 9)
recorder.erase(USER)
"""
    with program(path, code) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL

    with Recorder(SQLiteBackend(path)) as recorder:
        found = recorder.erase(USER)

        assert found
        assert files_with(path, USER) == []
        assert usage(recorder, by="user", measures="events", order="user").rows == [
            {"user": "", "events": 60},
            {"user": "bob", "events": 30},
        ]
        assert answers(path, where={"event": "export"}) == before
        assert not recorder.erase(USER)


def test_a_reader_that_does_not_end_is_named(path: Path) -> None:
    """The write-ahead log cannot be emptied then; once it can, another call completes it."""
    with Recorder(SQLiteBackend(path)) as recorder:
        recorder.track("export", user=USER)
        assert recorder.flush()
        with closing(connect(str(path), read_only=True)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM users").fetchall()
            with pytest.raises(
                StorageError, match=r"somebody reads the ledger all the time.*erase the same user again"
            ):
                recorder.erase(USER, timeout=0.2)
        assert usage(recorder, by="user", measures="events").rows == [{"user": "", "events": 1}]

        assert recorder.erase(USER)

        assert files_with(path, USER) == []


def test_many_users_leave_no_copies(path: Path) -> None:
    """Pages that were split hold copies in what they do not use, beyond what SQLite's secure_delete overwrites."""
    with Recorder(SQLiteBackend(path)) as recorder:
        users: list[str] = []
        worst = ""
        while not worst:
            fresh = [f"<{os.urandom(8).hex()}>" for _ in range(5000)]
            with closing(connect(str(path))) as connection:
                for start in range(0, len(fresh), 250):
                    values = ",".join(f"('{user}')" for user in fresh[start : start + 250])
                    connection.execute(f"INSERT INTO users (name) VALUES {values}")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            users += fresh
            worst = next((user for user, copies in copies_of(path).items() if copies > 2), "")
            assert worst or len(users) < 100_000

        assert recorder.erase(worst)

        assert files_with(path, worst) == []
        assert set(copies_of(path)) == set(users) - {worst}


def copies_of(path: Path) -> dict[str, int]:
    """Count how often each random id is in the ledger: once in the table and once in its index, or more.

    An id begins and ends with what is no digit: the end of one and the remains of another can lie side by side.
    """
    found = subprocess.run(["grep", "-oaE", "<[0-9a-f]{16}>", path], check=True, capture_output=True, text=True)
    return dict(Counter(found.stdout.split()))


def test_ids_are_cleaned_as_they_were_recorded(path: Path) -> None:
    """A number, a huge id, control characters."""
    odd = [42, "x" * 5000, "a\x00b\ud83d"]
    with Recorder(SQLiteBackend(path)) as recorder:
        for user in odd:
            recorder.track("export", user=user)

        assert [recorder.erase(user) for user in odd] == [True, True, True]

        assert usage(recorder, by="user", measures="events").rows == [{"user": "", "events": 3}]


def test_in_memory_events_are_erased_as_well(path: Path) -> None:
    """A memory backend in this process, alone or beside a ledger; and a queue on its way to one."""
    backend = MemoryBackend()
    with Recorder(backend) as recorder:
        recorder.track("export", user=USER)
        assert (recorder.erase(USER), recorder.erase(USER)) == (True, False)
    assert [event.user for event in backend.events] == [""]

    with Recorder(SQLiteBackend(path), durability="memory") as recorder:
        recorder.track("export", user=USER)
        assert recorder.erase(USER)
        recorder.track("late", user=USER, time=LAST_YEAR)
        assert recorder.flush()
        assert usage(recorder, by="user", measures="events").rows == [{"user": "", "events": 2}]
    assert files_with(path, USER) == []


@pytest.mark.parametrize("user", ["", None])
def test_nobody_cannot_be_erased(path: Path, user: str | None) -> None:
    """An app that lost the id must not believe it was done."""
    with Recorder(SQLiteBackend(path)) as recorder, pytest.raises(ConfigurationError, match="names nobody"):
        recorder.erase(user)
    with pytest.raises(ConfigurationError, match="keeps nothing"):
        Recorder().erase("ann")


def test_a_ledger_from_before_there_was_erasing_is_brought_up_to_date(path: Path) -> None:
    """With what it holds, when a recorder opens it."""
    with Recorder(SQLiteBackend(path)) as recorder:
        recorder.track("export", user=USER)
    for undo in (
        "DROP TABLE tombstones",
        "DROP TABLE secrets",
        "DELETE FROM counters WHERE name='erasures'",
        "DELETE FROM _sqlite_migrations WHERE name='m003_erased'",
        "PRAGMA user_version=1",
    ):
        query(path, undo)

    with Recorder(SQLiteBackend(path)) as recorder:
        assert recorder.erase(USER)

    assert files_with(path, USER) == []
