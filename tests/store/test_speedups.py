"""The compiled part: it writes what Python would write, or nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from itertools import chain
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.asgi import ask
from tests.support.stores import journal_files, locked, stored_events
from usagekit import Identity, Recorder, UsageEvent
from usagekit._clean import Tally
from usagekit._store import record as records
from usagekit._store.engine import journals_of
from usagekit._store.journal import SUFFIX, Journal, Reading
from usagekit.asgi import UsageMiddleware
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.context import Measurement
from usagekit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usagekit._speedups import Pen

speedups = pytest.importorskip(
    "usagekit._speedups",
    reason="usagekit was installed where nothing could be compiled; docs/deploying.md",
)

LONGEST = 4000  # characters of a record that certainly fits


class Page:
    """A file, and the pen that writes to it."""

    def __init__(self, path: Path, *, look_every: int = 2**62, pid: int | None = None) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self.counted = Tally()
        self.pen: Pen = speedups.Pen(self.fd, os.getpid() if pid is None else pid, look_every, self.counted.add)

    def written(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """An empty file with a pen that always writes."""
    made = Page(tmp_path / "page")
    yield made
    os.close(made.fd)


FIELDS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=200).filter(lambda text: text.isprintable()),
)


@given(fields=st.lists(FIELDS, max_size=14), skipped=st.integers(0, 3))
def test_a_record_is_the_one_that_python_writes(
    fields: list[str | int | None], skipped: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Byte for byte: the number, the fields in their notation, the sum and the newlines."""
    page = Page(tmp_path_factory.getbasetemp() / f"page-{os.getpid()}")
    try:
        assert [page.pen.take() for _ in range(skipped)] == list(range(1, skipped + 1))

        number = page.pen.write(*fields)

        shown = ("null" if field is None else field if isinstance(field, str) else str(int(field)) for field in fields)
        payload = f"[{','.join([str(skipped + 1), *shown])}]".encode()
        assert number == skipped + 1
        assert page.counted.value == 1
        assert page.written() == b"\n%08x%b\n" % (crc32(payload), payload)
        assert records.split(page.written()) == ([payload], 0, len(payload) + 10)
    finally:
        os.close(page.fd)


@pytest.mark.parametrize(
    "odd",
    [1.5, b"bytes", "\ud800", 2**63, -(2**63) - 1, object(), (1,), "x" * 4096, "é" * 2048],
    ids=["float", "bytes", "surrogate", "large", "small", "object", "tuple", "long", "long when encoded"],
)
def test_what_is_out_of_the_ordinary_is_left_to_python(odd: object, page: Page) -> None:
    """Nothing is written, nothing is counted, no number is used up, and no error is left behind."""
    assert page.pen.write(1, odd, 2) == 0  # type: ignore[arg-type]

    assert page.written() == b""
    assert page.counted.value == 0
    assert page.pen.write("next") == 1


@pytest.mark.parametrize("length", range(4060, 4100))
def test_the_longest_record_and_one_more(length: int, page: Page) -> None:
    """Whatever the length, a record is whole or left to Python, also where it ends in a number."""
    number = page.pen.write("x" * length, 2**63 - 1, None, "y")

    if number:
        assert len(records.split(page.written())[0]) == 1
        assert page.written().endswith(b",9223372036854775807,null,y]\n")
    else:
        assert length + 40 > LONGEST
        assert page.written() == b""


def test_each_so_manieth_record_is_left_to_whoever_looks(tmp_path: Path) -> None:
    """The number stays free for the caller, who takes it."""
    page = Page(tmp_path / "page", look_every=4)

    told = []
    for _ in range(10):
        told.append(page.pen.write("a"))
        if not told[-1]:
            told.append(-page.pen.take())
    os.close(page.fd)

    assert told == [1, 2, 3, 0, -4, 5, 6, 7, 0, -8, 9, 10]


def test_another_process_writes_nothing(tmp_path: Path) -> None:
    """What a child of a fork is left with belongs to its parent."""
    page = Page(tmp_path / "page", pid=os.getppid())

    assert page.pen.write("a") == 0
    os.close(page.fd)
    assert page.written() == b""


def test_a_child_of_a_fork_writes_nothing(page: Page) -> None:
    """It knows that it is one, without asking for its id each time."""
    assert page.pen.write("a") == 1
    child = os.fork()
    if not child:
        os._exit(page.pen.write("b"))

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert page.pen.write("c") == 2
    assert [payload[-2:] for payload in records.split(page.written())[0]] == [b"a]", b"c]"]


def test_a_pen_that_lends_lets_other_threads_run(page: Page) -> None:
    """Though it keeps the interpreter's lock while it writes, and nobody is to ask for it within a minute."""
    turns: list[int] = []
    done = Event()

    def count() -> None:
        while not done.wait(0.0001):
            turns.append(1)

    other = Thread(target=count)
    page.pen.lending = True
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        other.start()
        before = len(turns)
        for _ in range(30_000):  # tens of milliseconds, also where a record takes half a microsecond
            assert page.pen.write(1)
        after = len(turns)
    finally:
        sys.setswitchinterval(interval)
        done.set()
        other.join()

    assert after >= before + 3


_SLOW = """
import os, threading, time
from usagekit._speedups import Pen

ours, theirs = os.pipe()
pen = Pen(theirs, os.getpid(), 2**62, lambda: None)
taken = []

def drain():
    while chunk := os.read(ours, 4096):
        taken.append(chunk)

if os.fork() == 0:  # a disk that is busy for a while, and takes what filled the pipe until then
    os.close(theirs)
    time.sleep(0.1)
    os.read(ours, 4096)
    os._exit(0)
os.set_blocking(theirs, False)
try:
    while True:
        os.write(theirs, b"-" * 4096)
except BlockingIOError:
    pass
os.set_blocking(theirs, True)
began = time.monotonic()
assert pen.write("x" * 100) == 1
assert time.monotonic() - began > 0.05
os.wait()
# From here on nobody but a thread of this process makes room.
threading.Timer(0.1, threading.Thread(target=drain, daemon=True).start).start()
for number in range(2, 1002):
    assert pen.write("x" * 100) == number
print("written")
"""


def test_a_slow_disk_is_waited_for_without_the_lock() -> None:
    """What takes a microsecond is written with the interpreter's lock; where it took long, others run meanwhile."""
    done = subprocess.run([sys.executable, "-c", _SLOW], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "written\n", done.stderr


def test_a_write_that_fails_is_left_to_python(tmp_path: Path) -> None:
    """A full disk, and a descriptor that is gone: the number is used up, and nothing was accepted."""
    counted = Tally()
    full = os.open("/dev/full", os.O_WRONLY)
    pen = speedups.Pen(full, os.getpid(), 100, counted.add)

    assert pen.write("a") == 0
    os.close(full)
    assert pen.write("a") == 0
    assert pen.take() == 3
    assert counted.value == 0


@pytest.mark.parametrize(
    "arguments", [(), (1, 2, 3), (1, 2, 0, print), (1, 2, -5, print), ("1", 2, 3, print), (1, 2, 2**63, print)]
)
def test_a_pen_of_something_else_is_refused(arguments: tuple[object, ...]) -> None:
    """Mistakes of ours are errors, and no crashes; so is a pen that was never made."""
    with pytest.raises((TypeError, ValueError, OverflowError)):
        speedups.Pen(*arguments)
    unmade = speedups.Pen.__new__(speedups.Pen)
    assert unmade.write("a") == 0
    made = speedups.Pen(1, 2, 3, print)
    with pytest.raises(TypeError, match="made once"):
        made.__init__(1, 2, 3, print)


def test_nothing_is_kept_of_what_was_written(page: Page) -> None:
    """Fields and counter have as many references afterwards as before."""
    text, large, odd = str(b"ab", "ascii"), 2**62 + 1, object()
    before = [sys.getrefcount(each) for each in (text, large, odd, None, page.counted.add)]

    for _ in range(1000):
        page.pen.write(text, large, None)
        page.pen.write(text, large, None, odd)  # type: ignore[arg-type]

    assert [sys.getrefcount(each) for each in (text, large, odd, None, page.counted.add)] == before
    assert page.counted.value == 1000


def test_threads_tear_no_record_and_share_no_number(page: Page) -> None:
    """Whether or not the interpreter's lock is given up while they write."""
    told: list[list[int]] = [[] for _ in range(8)]

    def write(mine: list[int]) -> None:
        mine += [page.pen.write("a" * (n % 90), n) for n in range(2000)]

    threads = [Thread(target=write, args=(mine,)) for mine in told]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    payloads, corrupt, _ = records.split(page.written())
    assert corrupt == 0
    assert sorted(chain.from_iterable(told)) == list(range(1, 16_001))
    assert sorted(int(payload[1:].split(b",")[0]) for payload in payloads) == list(range(1, 16_001))
    assert page.counted.value == 16_000


def test_whoever_may_still_write_keeps_the_file_his_own(tmp_path: Path) -> None:
    """A thread that has the pen in its hand when another one leaves the file: the importer must not take it away."""
    journal = Journal(str(tmp_path))
    journal.append("1")
    assert journal.pen is not None
    name, hand = journal.pen.name, journal.pen.write
    journal.release()

    def is_owned() -> bool:
        with Reading(name, str(tmp_path / (name + SUFFIX))) as reading:
            return reading.owned

    assert is_owned()
    assert hand(7) == 2
    del hand
    assert not is_owned()


def recorded(path: Path) -> list[dict[str, Any]]:
    """Record requests with a model call in each; gives the events without what differs each time."""
    with Recorder(SQLiteBackend(path)) as recorder:

        def complete(prompt: str) -> dict[str, Any]:
            return {"model": "gpt-é", "usage": {"prompt_tokens": 5, "completion_tokens": len(prompt)}}

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            recorder.track_tokens(complete, provider="openai")("Hello")
            await send({"type": "http.response.start", "status": 203, "headers": []})
            await send({"type": "http.response.body", "body": b"four"})

        app = UsageMiddleware(answer, recorder=recorder, identify=lambda _: Identity("ann", "ac\nme"))
        for _ in range(70):
            ask(app)
        assert recorder.flush()
    told = [{name: getattr(event, name) for name in UsageEvent.__dataclass_fields__} for event in stored_events(path)]
    return [{name: value for name, value in event.items() if name not in DIFFERENT} for event in told]


@pytest.mark.parametrize("compiled", ["1", "0"])
@pytest.mark.parametrize("cut", [0, 1, 2, 9, 30, 60])
def test_a_write_that_is_cut_short_counts_once_or_not_at_all(
    cut: int, compiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the caller was told is in the ledger, whatever comes afterwards; a record whole but for its newline too."""
    monkeypatch.setenv("USAGEKIT_COMPILED", compiled)
    path = tmp_path / "usage.db"
    with Recorder(SQLiteBackend(path)) as recorder:

        def accept(number: int) -> bool:
            status, aborted, time_us, size = 200, False, 1_790_000_000_000_000, 1000 + number
            return recorder.record_request(
                Measurement(recorder), "request", status, "GET /", aborted, time_us, 5, 3, size
            )

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with locked(path):  # only the journal shall meet the limit
            told = [accept(0), accept(1)]
            (file,) = journal_files(path)
            length = file.stat().st_size // 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (3 * length - cut, hard))
            try:
                told += [accept(2), accept(3)]
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            told += [accept(4)]
        assert recorder.flush()
        status = recorder.status()

    assert told[:3] == [True, True, cut < 2]
    assert sorted(event.response_bytes - 1000 for event in stored_events(path)) == [n for n in range(5) if told[n]]
    assert (status["accepted"], status["rejected"].get("journal", 0)) == (told.count(True), told.count(False))


def test_a_last_record_without_its_newline_is_imported(tmp_path: Path) -> None:
    """As a write leaves it that was cut by that byte, when its process died before the next record."""
    path = tmp_path / "usage.db"
    with Recorder(SQLiteBackend(path)) as recorder:
        with locked(path):
            assert all(recorder.track("tick", response_bytes=n) for n in range(3))
            (file,) = journal_files(path)
            data = file.read_bytes()
        assert recorder.flush()
    (Path(journals_of(str(path))) / f"{'0' * 24}.journal").write_bytes(data[:-1])

    with Recorder(SQLiteBackend(path)) as recorder:
        assert recorder.flush()
        assert recorder.status()["corrupt"] == 0
    assert sorted(event.response_bytes for event in stored_events(path)) == [0, 0, 1, 1, 2, 2]


DIFFERENT = {"id", "time", "latency_ms", "first_token_ms"}


def test_events_are_the_same_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`USAGEKIT_COMPILED=0` changes the speed alone."""
    monkeypatch.delenv("USAGEKIT_COMPILED", raising=False)
    fast = recorded(tmp_path / "fast.db")
    monkeypatch.setenv("USAGEKIT_COMPILED", "0")
    plain = recorded(tmp_path / "plain.db")

    assert fast == plain
    assert [event["kind"] for event in fast] == ["llm", "request"] * 70
    assert {(event["user"], event["org"], event["output_tokens"]) for event in fast} == {
        ("ann", "ac\ufffdme", 5),
        ("ann", "ac\ufffdme", 0),
    }


def test_the_switch_is_read_when_a_recorder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On where nothing is said; what is neither on nor off is refused before a file is made."""
    monkeypatch.delenv("USAGEKIT_COMPILED", raising=False)
    for value, has_pen in ((None, True), ("1", True), ("0", False)):
        if value is not None:
            monkeypatch.setenv("USAGEKIT_COMPILED", value)
        with Recorder(SQLiteBackend(tmp_path / "usage.db")) as recorder:
            recorder.track("tick")
            journal = recorder._intake.journal
            assert isinstance(journal, Journal)
            assert (journal.pen is not None) == has_pen

    monkeypatch.setenv("USAGEKIT_COMPILED", "perhaps")
    with pytest.raises(ConfigurationError, match="USAGEKIT_COMPILED='perhaps' is neither on nor off"):
        Recorder(SQLiteBackend(tmp_path / "other.db"))
    assert not (tmp_path / "other.db").exists()
