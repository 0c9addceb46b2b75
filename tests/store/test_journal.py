"""The accept point: what was accepted can be read again, whatever happened to the file around it."""

from __future__ import annotations

import os
import random
import resource
from pathlib import Path
from threading import Barrier, Thread
from time import monotonic

import pytest

from tests.support.stores import eventually, journal_files, locked, query, stored_events
from usagekit import Recorder, UsageEvent
from usagekit._store import journal as journals
from usagekit._store import record as records
from usagekit._store.engine import journals_of
from usagekit._store.journal import Journal
from usagekit._store.ledger import Importer
from usagekit._store.memory_journal import MemoryJournal
from usagekit._store.schema import prepare
from usagekit.backends.sqlite import SQLiteBackend

RECORDS = 6


def written(directory: str, count: int = RECORDS) -> tuple[bytes, list[tuple[int, int]]]:
    """Write a journal of different records and take it away; gives its bytes, and where each record begins and ends."""
    journal = Journal(directory)
    spans = []
    name, end = "", 0
    for n in range(count):
        accepted = journal.append(records.body_of(UsageEvent(event=f"event {n}", user="é" * n, response_bytes=n)))
        assert not isinstance(accepted, str)
        name = accepted[0]
        start, end = end, Path(directory, name + ".journal").stat().st_size
        spans.append((start, end))
    journal.release()
    file = Path(directory, name + ".journal")
    data = file.read_bytes()
    file.unlink()
    return data, spans


def imported(path: Path, contents: dict[str, bytes]) -> dict[str, list[int]]:
    """Import journals of the dead with these contents; gives the numbers of the records found in each."""
    directory = journals_of(str(path))
    for name, content in contents.items():
        Path(directory, name + ".journal").write_bytes(content)
    importer = Importer(str(path), directory)
    while importer.step():
        pass
    assert importer.adopt() == len(contents)
    importer.close()
    found: dict[str, list[int]] = {name: [] for name in contents}
    for event in stored_events(path):
        name, number = event.id.split("-")
        assert event.event == f"event {event.response_bytes}"
        assert event.response_bytes == int(number) - 1
        found[name].append(int(number))
    return found


def corrupt(path: Path) -> int:
    """Give how many records were found damaged."""
    return query(path, "SELECT value FROM counters WHERE name='corrupt'")[0][0]  # type: ignore[no-any-return]


@pytest.fixture
def directory(path: Path) -> str:
    """Make an empty ledger; gives the directory of its journals."""
    prepare(str(path))
    Path(journals_of(str(path))).mkdir(mode=0o700)
    return journals_of(str(path))


def test_a_journal_cut_at_any_byte_gives_all_records_before_the_cut(path: Path, directory: str) -> None:
    """The torn record at a dead owner's end is counted, once; one that lacks its last newline alone is whole."""
    data, spans = written(directory)

    found = imported(path, {f"{cut:024x}": data[:cut] for cut in range(len(data) + 1)})

    assert found == {
        f"{cut:024x}": [n + 1 for n, (_, end) in enumerate(spans) if end - 1 <= cut] for cut in range(len(data) + 1)
    }
    # One byte of a record is only the newline before it: nothing is torn yet.
    assert corrupt(path) == sum(start + 1 < cut < end - 1 for start, end in spans for cut in range(len(data) + 1))


def test_a_flipped_bit_costs_one_record_at_most(path: Path, directory: str) -> None:
    """The record with the damaged byte, and it is counted; never one beside it."""
    data, spans = written(directory)
    flipped = {
        f"{at:020x}{bit:04x}": data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        for at in range(len(data))
        for bit in range(8)
    }

    found = imported(path, flipped)

    everything = list(range(1, RECORDS + 1))
    lost = 0
    for name, numbers in found.items():
        hit = next(n + 1 for n, (start, end) in enumerate(spans) if start <= int(name[:20], 16) < end)
        assert numbers in (everything, [number for number in everything if number != hit]), name
        lost += len(numbers) < RECORDS
    assert 0 < lost <= corrupt(path)


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\x00" * 4096, id="a block of NULs"),
        pytest.param(b"\n" * (2**20 - 40), id="a million newlines"),
        pytest.param(b"x" * 2_000_000, id="2 MB without a newline"),
        pytest.param(random.Random(1).randbytes(2_000_000), id="2 MB of anything"),
        pytest.param(b"\n00000000\n\n" * 1000, id="empty records"),
        pytest.param(b"\nffffffff" + b"[" * 100_000 + b"\n", id="deep brackets"),
    ],
)
def test_garbage_between_records_costs_none_of_them(garbage: bytes, path: Path, directory: str) -> None:
    """What lies before and behind it is found, and soon."""
    data, spans = written(directory)
    middle = spans[2][1]
    began = monotonic()

    found = imported(path, {"a": data[:middle] + garbage + data[middle:], "b": garbage + data, "c": data + garbage})

    assert found == {name: list(range(1, RECORDS + 1)) for name in "abc"}
    assert monotonic() - began < 10.0
    assert bool(corrupt(path)) == (garbage.strip(b"\n") != b"")


def test_a_block_of_nuls_over_records_costs_only_those(path: Path, directory: str) -> None:
    """As a file system may leave it after a power cut."""
    data, spans = written(directory)
    start, end = spans[2][0] + 10, spans[3][0] + 10

    found = imported(path, {"a": data[:start] + bytes(end - start) + data[end:]})

    assert found == {"a": [1, 2, 5, 6]}


def test_eight_threads_write_one_file_without_tearing_a_record(path: Path, directory: str) -> None:
    """Each record that was accepted is there once, whoever wrote at the same time."""
    journal = Journal(directory)
    ready = Barrier(8)
    accepted: list[list[tuple[str, int] | str]] = [[] for _ in range(8)]

    def write(thread: int) -> None:
        ready.wait()
        for n in range(1500):
            event = UsageEvent(event="tick", response_bytes=thread * 10_000 + n, user="u" * (n % 200))
            accepted[thread].append(journal.append(records.body_of(event)))

    threads = [Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.release()

    importer = Importer(str(path), directory)
    while importer.step():
        pass
    importer.close()
    stored = {event.id: event.response_bytes for event in stored_events(path)}
    assert stored == {
        f"{answer[0]}-{answer[1]}": thread * 10_000 + n
        for thread, answers in enumerate(accepted)
        for n, answer in enumerate(answers)
    }
    assert (journal.counts(), corrupt(path)) == ((12_000, {}), 0)


def test_nothing_is_rejected_before_the_directory_was_measured(directory: str) -> None:
    """Looking at thousands of files takes one thread some time, in which the others record on."""
    for n in range(5000):
        Path(directory, f"{n}.journal").touch()
    journal = Journal(directory)
    body = records.body_of(UsageEvent(event="tick"))

    def write() -> None:
        while journal._segment is None:  # the other thread makes it, and then looks
            pass
        for _ in range(1000):
            journal.append(body)

    thread = Thread(target=write)
    thread.start()
    journal.append(body)
    thread.join()

    assert journal.counts() == (1001, {})


def test_files_are_for_their_owner_only(path: Path) -> None:
    """The ledger and the journals 0600, their directory 0700, whatever was asked of new files before."""
    before = os.umask(0)
    try:
        with Recorder(SQLiteBackend(path)) as recorder:
            recorder.track("tick")

            modes = {
                file.name.split(".")[-1]: file.stat().st_mode & 0o777
                for file in (*path.parent.glob("usage.db*"), *journal_files(path))
            }
    finally:
        os.umask(before)

    assert modes.pop("db-journals") == 0o700
    assert modes.pop("db") == modes.pop("journal") == 0o600
    assert set(modes.values()) <= {0o600}


def test_other_things_in_the_directory_are_left_alone(path: Path, directory: str) -> None:
    """A link, a directory or a pipe with a journal's name is none, and stops nothing."""
    Path(directory, "link.journal").symlink_to("/etc/passwd")
    Path(directory, "directory.journal").mkdir()
    os.mkfifo(Path(directory, "pipe.journal"))

    with Recorder(SQLiteBackend(path)) as recorder:
        assert recorder.track("tick")
        assert recorder.flush()
        assert (recorder.status()["durable"], recorder.status()["errors"]) == (1, {})

    assert [file.name for file in journal_files(path)] == ["directory.journal", "link.journal", "pipe.journal"]


def test_files_that_were_never_named_are_swept_away(directory: str) -> None:
    """After a minute; their makers died before they could write."""
    old, new = (Path(directory, name + ".journal.new") for name in ("old", "new"))
    for file in (old, new):
        file.touch()
    os.utime(old, (0, 0))

    journals.sweep_unborn(directory)

    assert list(Path(directory).iterdir()) == [new]


def test_a_file_that_may_not_grow_is_left_and_nothing_is_lost(path: Path) -> None:
    """A write that fails or is cut short is a rejected event; the next goes into a new file."""
    recorder = Recorder(SQLiteBackend(path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with locked(path):  # only the journal shall meet the limit
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            told = [recorder.track("tick", response_bytes=n) for n in range(1000)]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert recorder.flush()
    status = recorder.status()
    assert (status["accepted"], status["rejected"]) == (told.count(True), {"journal": told.count(False)})
    assert 0 < told.count(False) < 20
    assert sorted(event.response_bytes for event in stored_events(path)) == [n for n in range(1000) if told[n]]
    recorder.close()


def test_one_event_too_large_is_rejected_and_counted(path: Path) -> None:
    """A record the importer could not tell from damage must not be accepted."""
    with Recorder(SQLiteBackend(path)) as recorder:
        huge = UsageEvent(attributes={f"attribute {n}": "\U0001f600" * 300 for n in range(1000)})

        told = [recorder.record(huge), recorder.record(UsageEvent())]

        assert recorder.flush()
        status = recorder.status()
    assert (told, status["rejected"], status["durable"], status["corrupt"]) == ([False, True], {"size": 1}, 1, 0)


def test_memory_counts_what_it_takes_and_what_not() -> None:
    """The queue in memory keeps the oldest, and takes new ones when there is room."""
    queue = MemoryJournal(1000)
    body = records.body_of(UsageEvent(event="tick"))

    told = [queue.append(body) for _ in range(100)]
    kept = queue.waiting(1000)
    queue.forget(kept[:1])
    after = [queue.append(body) for _ in range(2)]

    taken = len(kept)
    assert 5 < taken < 20
    assert told[taken:] == ["quota"] * (100 - taken)
    assert [isinstance(answer, tuple) for answer in after] == [True, False]
    assert queue.counts() == (taken + 1, {"quota": 101 - taken})


def test_counts_are_exact_while_others_look() -> None:
    """Any number of threads may ask for the counts at any time."""
    queue = MemoryJournal(10**9)
    body = records.body_of(UsageEvent(event="tick"))
    asked = [0] * 4

    def look(thread: int) -> None:
        while asked[thread] >= 0:
            asked[thread] = max(queue.counts()[0], asked[thread])
            if asked[thread] >= 20_000:
                return

    threads = [Thread(target=look, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20_000):
        queue.append(body)
    for thread in threads:
        thread.join()

    assert (queue.counts(), asked) == ((20_000, {}), [20_000] * 4)


def test_quota_rejects_the_newest_and_recovers(path: Path) -> None:
    """With the importer blocked: what was accepted stays, the rest is counted; afterwards there is room again."""
    recorder = Recorder(SQLiteBackend(path), quota_bytes=100_000)
    with locked(path):
        told = [recorder.track("tick", response_bytes=n) for n in range(5000)]

    taken = told.count(True)
    assert told == [True] * taken + [False] * (5000 - taken)
    assert 500 < taken < 2500
    assert recorder.flush()
    assert [event.response_bytes for event in stored_events(path)] == list(range(taken))
    assert eventually(lambda: recorder.track("later"), 2.0)
    status = recorder.status()
    assert status["accepted"] == taken + 1
    assert status["rejected"].keys() == {"quota"}
    recorder.close()
    assert len(stored_events(path)) == taken + 1
