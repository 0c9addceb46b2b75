"""From the journals into the ledger: once, in any number of tries."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.processes import said_by
from tests.support.stores import journal_files, locked, query, stored_events
from usagekit import Recorder, UsageEvent
from usagekit._store import record as records
from usagekit._store.delivery import read_events
from usagekit._store.engine import journals_of
from usagekit._store.journal import Journal
from usagekit._store.ledger import Importer
from usagekit._store.schema import connect, is_busy, prepare
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.event import from_microseconds


def drained(path: Path) -> None:
    """Import all there is, and remove the journals of the dead."""
    importer = Importer(str(path), journals_of(str(path)))
    while importer.step():
        pass
    importer.adopt()
    importer.close()


def counter(path: Path, name: str) -> int:
    """Give one of the ledger's own counts."""
    return query(path, "SELECT value FROM counters WHERE name=?", name)[0][0]  # type: ignore[no-any-return]


class Store(RuleBasedStateMachine):
    """Recorders that write, rotate and die, importers that come, stop halfway and go, in any order.

    The model: what was accepted, by id; which keys were seen; how many records were torn; what the ledger held so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self._directory = TemporaryDirectory()
        self.path = Path(self._directory.name, "usage.db")
        prepare(str(self.path))
        self.journals_directory = journals_of(str(self.path))
        self.journals = [Journal(self.journals_directory) for _ in range(3)]
        self.importers: list[Importer] = []
        self.accepted: dict[str, int] = {}
        self.keyed: dict[str, set[str]] = {}
        self.torn = 0
        self.stored: set[str] = set()
        self.looked_at = 0

    @initialize()
    def first_importer(self) -> None:
        self.importers.append(Importer(str(self.path), self.journals_directory))

    @rule(
        journal=st.integers(0, 2), count=st.sampled_from((1, 2, 40, 2500)), key=st.none() | st.sampled_from("abcdefgh")
    )
    def record(self, journal: int, count: int, key: str | None) -> None:
        for n in range(1 if key else count):
            number = len(self.accepted)
            event = UsageEvent(
                event=f"event {n % 5}", user=f"user {n % 7}", time=from_microseconds(n * 10**9), response_bytes=number
            )
            answer = self.journals[journal].append(records.body_of(event, key or ""))
            assert not isinstance(answer, str)
            event_id = f"{answer[0]}-{answer[1]}"
            self.accepted[event_id] = number
            if key:
                self.keyed.setdefault(key, set()).add(event_id)

    @rule(journal=st.integers(0, 2))
    def rotate(self, journal: int) -> None:
        self.journals[journal].release()

    @precondition(lambda self: any(journal._segment for journal in self.journals))
    @rule(part=st.integers(2, 30), journal=st.integers(0, 2))
    def die_while_writing(self, part: int, journal: int) -> None:
        segment = self.journals[journal]._segment
        if segment is None:
            return
        payload = records.body_of(UsageEvent(event="torn")).encode()
        os.write(segment.fd, (b"\n%08x%b" % (crc32(payload), payload))[:part])
        self.torn += 1
        del segment
        self.journals[journal].release()

    @rule()
    def another_importer(self) -> None:
        self.importers.append(Importer(str(self.path), self.journals_directory))

    @precondition(lambda self: self.importers)
    @rule(data=st.data())
    def import_a_batch(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.importers)).step()

    @precondition(lambda self: self.importers)
    @rule(data=st.data(), instructions=st.integers(1, 3000))
    def stop_halfway(self, data: st.DataObject, instructions: int) -> None:
        importer = data.draw(st.sampled_from(self.importers))
        connection = importer._connection
        calls = iter(range(instructions))
        connection.set_progress_handler(lambda: next(calls, None) is None, 10)
        try:
            importer.step()
        except sqlite3.OperationalError as error:
            assert "interrupted" in str(error)  # noqa: PT017  it need not come
        # A process that fails so begins anew, as one that dies does.
        importer.close()
        self.importers.remove(importer)

    @precondition(lambda self: self.importers)
    @rule(data=st.data())
    def adopt(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.importers)).adopt()

    @invariant()
    def nothing_is_there_twice_or_invented(self) -> None:
        with closing(connect(str(self.path))) as connection:
            imported = read_events(connection, self.looked_at, 2**60)
            (count,) = connection.execute("SELECT count(*) FROM events").fetchone()
        for seq, event in imported:
            assert event.id not in self.stored
            assert event.response_bytes == self.accepted[event.id]
            self.stored.add(event.id)
            self.looked_at = seq
        assert count == len(self.stored)

    def teardown(self) -> None:
        for journal in self.journals:
            journal.release()
        drained(self.path)

        stored = {event.id: event.response_bytes for event in stored_events(self.path)}
        for ids in self.keyed.values():
            assert len(ids & stored.keys()) == 1
        repeated = {event_id for ids in self.keyed.values() for event_id in ids - stored.keys()}
        assert stored == {event_id: number for event_id, number in self.accepted.items() if event_id not in repeated}
        assert (counter(self.path, "corrupt"), counter(self.path, "repeated")) == (self.torn, len(repeated))
        assert journal_files(self.path) == []
        for importer in self.importers:
            importer.close()
        self._directory.cleanup()


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)


@pytest.mark.soak
def test_any_order_of_recording_importing_and_dying_for_minutes() -> None:
    """The same, longer."""
    run_state_machine_as_test(Store, settings=settings(max_examples=300, stateful_step_count=60, deadline=None))


def test_importers_killed_at_any_moment_import_each_record_once(tmp_path: Path) -> None:
    """30,000 records in 12 journals; two importers at a time, killed in the middle of what they do."""
    told = json.loads(said_by("importers.py", tmp_path / "usage.db", 30_000, 12, 2))

    stored = stored_events(tmp_path / "usage.db")
    assert {event.id: event.response_bytes for event in stored} == told["written"]
    assert len(stored) == 30_000
    assert told["killed"] >= 10
    assert journal_files(tmp_path / "usage.db") == []
    assert query(tmp_path / "usage.db", "PRAGMA integrity_check") == [("ok",)]


def test_a_locked_ledger_stops_no_recording(path: Path) -> None:
    """Events are accepted, flush gives up when it should, and everything is imported when the lock is gone."""
    recorder = Recorder(SQLiteBackend(path))
    with locked(path):
        told = [recorder.track("tick", response_bytes=n) for n in range(2000)]

        assert not recorder.flush(0.2)

        assert query(path, "SELECT count(*) FROM events") == [(0,)]
    assert recorder.flush()

    assert told == [True] * 2000
    assert [event.response_bytes for event in stored_events(path)] == list(range(2000))
    assert recorder.status()["errors"] == {}
    recorder.close()


def test_a_busy_importer_says_so_and_can_try_again(path: Path) -> None:
    """A step that could not begin has done nothing."""
    prepare(str(path))
    journal = Journal(journals_of(str(path)))
    journal.append(records.body_of(UsageEvent(event="tick")))
    importer = Importer(str(path), journals_of(str(path)))

    with locked(path), pytest.raises(sqlite3.OperationalError) as caught:
        importer.step()

    assert is_busy(caught.value)
    assert [importer.step(), importer.step()] == [1, 0]
    importer.close()


def test_a_key_counts_once_for_ever(path: Path) -> None:
    """In the same batch, in another one, in another recorder's; and what is dropped is counted."""
    with Recorder(SQLiteBackend(path)) as recorder:
        assert recorder.track("first", event_id="key")
        assert recorder.track("second", event_id="key")
        assert recorder.flush()
        assert recorder.record_tokens(model="m", event_id="key")
        assert recorder.track("other", event_id="other key")
    with Recorder(SQLiteBackend(path)) as recorder:
        assert recorder.track("third", event_id="key")
        assert recorder.flush()

        assert (recorder.status()["durable"], recorder.status()["repeated"]) == (2, 3)

    assert [event.event for event in stored_events(path)] == ["first", "other"]


def test_only_what_is_new_uses_up_an_id(path: Path) -> None:
    """Sets of users are laid out by id: importers that look up whom others have met leave no gaps."""
    for _ in range(3):
        with Recorder(SQLiteBackend(path)) as recorder:
            for number in range(40):
                recorder.track("tick", user=f"user-{number}", org=f"org-{number % 4}")

    used = dict(query(path, "SELECT name, seq FROM sqlite_sequence"))
    assert {name: used[name] for name in ("users", "orgs", "subjects", "shapes")} == {
        name: query(path, f"SELECT count(*) FROM {name} WHERE id > 0")[0][0]
        for name in ("users", "orgs", "subjects", "shapes")
    }


def test_a_file_that_is_no_journal_of_ours_stops_nothing(path: Path) -> None:
    """Not even one whose name cannot be written down."""
    with Recorder(SQLiteBackend(path)) as recorder:
        assert recorder.track("tick")
        strange = os.fsencode(journals_of(str(path))) + b"/\xff.journal"
        with open(strange, "wb") as file:  # noqa: PTH123  pathlib takes no bytes
            file.write(b"x")

        assert recorder.flush()

    assert [event.event for event in stored_events(path)] == ["tick"]
    assert os.path.exists(strange)  # noqa: PTH110


def framed(payload: bytes) -> bytes:
    """Give a record as a journal holds it."""
    record = b"\n%08x%b\n" % (crc32(payload), payload)
    assert records.split(record) == ([payload], 0, len(record))
    return record


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(("", "\ud800", "a\tb", "named\tx\t0\t\t\t\t\t", "z" * 32, "0" * 32, "\t\t[1,2,3,{}]", "\x00"))
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=14) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


def _nearly_records() -> st.SearchStrategy[list[Any]]:
    sound = [
        7, 1, "named\tx\t0\t\t\t\t\t", "u\to", None, None, 0, 1, None, 0, 0, 0, "0123456789abcdef0123456789abcdef"
    ]  # fmt: skip
    return st.builds(
        lambda length, changes: [changes.get(n, value) for n, value in enumerate(sound[:length])],
        st.sampled_from((7, 12, 13)),
        st.dictionaries(st.integers(0, 12), _JSON, min_size=1, max_size=2),
    )


def _with(place: int, value: object) -> list[list[Any]]:
    sound: list[Any] = [7, 1, "named\tx\t0\t\t\t\t\t", "u\to", None, None, 0, 1, None, 0, 0, 0, "0" * 32]
    return [[*sound[:place], value, *sound[place + 1 :]]]


@given(st.lists(_nearly_records() | _JSON, min_size=1, max_size=5))
@example(_with(0, 2**63))
@example(_with(1, 2**62))
@example(_with(2, "named\t\ud800\t0\t\t\t\t\t"))
@example(_with(2, "named\tx\t٣\t\t\t\t\t"))
@example(_with(3, "\udfff\t"))
@example(_with(3, 'u\to\t[1,1,0,{"a":"\ud800"}]'))
@example(_with(3, 'u\to\t[1,1,0,{"a":1}]'))
@example(_with(3, 'u\to\t[1,1,0,["ab"]]'))
@example(_with(3, "u\to\t[1.5,1,0,{}]"))
@example(_with(3, "u\to\t" + "[" * 100_000))
@example([*_with(2, "named\tx\t7\t\t\t\t\t"), *_with(2, "named\tx\t07\t\t\t\t\t")])
@example(_with(3, "u\to\t[NaN,1,0,{}]"))
@example(_with(3, "u\to\t[1e400,1,0,{}]"))
@example(_with(3, 'u\to\t[1,1,0,{"a":"\\ud800"}]'))
@example(_with(3, "u\0x\to"))
@example(_with(2, "named\tx\0y\t0\t\t\t\t\t"))
@example(_with(4, 2**63 - 1))
@example(_with(5, -(2**63)))
@example(_with(12, None))
@example(_with(12, "z" * 32))
@example(_with(12, "٣" * 32))
@example(_with(12, "0" * 31))
@settings(max_examples=40, deadline=None)
def test_what_is_no_record_of_ours_stops_nothing(strange: list[Any]) -> None:
    """Lines with a right checksum and a wrong content: those beside them are imported."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "usage.db")
        prepare(str(path))
        journal = Journal(journals_of(str(path)))
        journal.append(records.body_of(UsageEvent(event="before")))
        segment = journal._segment
        assert segment is not None
        for content in strange:
            os.write(segment.fd, framed(json.dumps(content).encode()))
        journal.append(records.body_of(UsageEvent(event="behind")))
        del segment
        journal.release()

        drained(path)

        stored = [name for (name,) in query(path, "SELECT s.event FROM events e JOIN shapes s ON s.id=e.shape")]
        assert {"before", "behind"} <= set(stored)
        assert len(stored) + counter(path, "corrupt") + counter(path, "repeated") == len(strange) + 2
        assert journal_files(path) == []
