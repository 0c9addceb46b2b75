"""Forks while it records; each function is one story, and prints the numbers that were accepted.

Usage: forks.py STORY LEDGER [TIMES]. Numbers travel as body sizes, and from children through a pipe.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import signal
import sys
from contextlib import closing
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from threading import Barrier, Event, Semaphore, Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING

from usagekit import Recorder
from usagekit._store import forks
from usagekit._store.schema import connect
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

WATCHDOG_SECONDS = 5.0


def accept(recorder: Recorder, number: int) -> None:
    """Record one event and tell of it; lines are short enough never to be mixed up."""
    if recorder.track("tick", response_bytes=number):
        os.write(sys.stdout.fileno(), b"%d\n" % number)


def forked(run: Callable[[], None]) -> int:
    """Run a function in a child that ends without any clean-up; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run()
    except BaseException:  # noqa: BLE001  a child must not come back
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def ended_well(pid: int) -> None:
    """Wait for a child, but not for ever."""
    deadline = monotonic() + WATCHDOG_SECONDS
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            sys.exit("a child hangs")
        sleep(0.001)
    if status:
        sys.exit(f"a child ended with {status}")


def after_the_first_event(path: Path, times: int = 200) -> None:
    """Fork when the importing thread is just about to begin."""
    numbers = count(1)
    for _ in range(times):
        recorder = Recorder(SQLiteBackend(path))
        accept(recorder, next(numbers))
        mine, childs = next(numbers), next(numbers)
        pid = forked(lambda recorder=recorder, number=childs: accept(recorder, number))  # type: ignore[misc]
        accept(recorder, mine)
        ended_well(pid)
        recorder.close()


def while_others_record(path: Path, times: int = 50) -> None:
    """Fork at moments when other threads record and import; children record with threads of their own.

    For each child the others record so much that they are at it when it is born, and no more: it imports all of it.
    """
    recorder = Recorder(SQLiteBackend(path))
    numbers = count(1)
    due = Semaphore(0)
    enough = Event()

    def record_on() -> None:
        while due.acquire() and not enough.is_set():
            accept(recorder, next(numbers))

    threads = [Thread(target=record_on, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for child in range(1, times + 1):
        due.release(500)
        sleep(random.uniform(0, 0.004))  # any moment
        ended_well(forked(lambda child=child: _record_at_once(recorder, child)))  # type: ignore[misc]
    enough.set()
    due.release(len(threads))
    for thread in threads:
        thread.join()
    recorder.close()


def _record_at_once(recorder: Recorder, child: int, threads: int = 4, each: int = 5) -> None:
    ready = Barrier(threads)

    def record(thread: int) -> None:
        ready.wait()
        for n in range(each):
            accept(recorder, child * 1_000_000_000 + thread * 1000 + n)

    recording = [Thread(target=record, args=(n,)) for n in range(threads)]
    for one in recording:
        one.start()
    for one in recording:
        one.join()
    if not recorder.flush(WATCHDOG_SECONDS / 2):
        sys.exit("a child cannot flush")
    if (counted := recorder.status()["accepted"]) != threads * each:
        sys.exit(f"a child counts {counted} events instead of {threads * each}")


def multiprocessed(path: Path) -> None:
    """Record in multiprocessing's children, which end in their own way."""
    recorder = Recorder(SQLiteBackend(path))
    accept(recorder, 1)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_record_some, args=(recorder, n * 1000)) for n in range(1, 6)]
    for child in children:
        child.start()
    accept(recorder, 2)
    for child in children:
        child.join(WATCHDOG_SECONDS)
        if child.exitcode != 0:
            sys.exit(f"a child ended with {child.exitcode}")
    recorder.close()


def _record_some(recorder: Recorder, first: int) -> None:
    for number in range(first, first + 100):
        accept(recorder, number)


def child_outlives_parent(path: Path) -> None:
    """Let a child, born when the ledger was open, import on when its parent has closed the ledger."""
    recorder = Recorder(SQLiteBackend(path))
    accept(recorder, 1)
    recorder.flush()
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()

    def live_on() -> None:
        accept(recorder, 2)
        recorder.flush()
        os.write(to_parent, b".")
        os.read(from_parent, 1)
        accept(recorder, 3)
        recorder.close()

    child = forked(live_on)
    os.read(from_child, 1)
    recorder.close()
    os.write(to_child, b".")
    ended_well(child)


def past_the_hooks(path: Path) -> None:
    """Fork as C code does, which tells Python nothing, while the importer has the ledger open."""
    recorder = Recorder(SQLiteBackend(path))
    accept(recorder, 1)
    recorder.flush()
    child = ctypes.PyDLL(None).fork()
    if not child:
        _record_without_a_ledger(recorder)
    ended_well(child)
    accept(recorder, 3)
    recorder.close()


def beside_a_reader(path: Path) -> None:
    """Fork while a long question is being answered, which a fork does not wait for for ever."""
    recorder = Recorder(SQLiteBackend(path))
    accept(recorder, 1)
    forks.FORK_SECONDS = 0.1
    with closing(connect(str(path), read_only=True)):
        child = os.fork()
        if not child:
            _record_without_a_ledger(recorder)
        ended_well(child)
    accept(recorder, 3)
    recorder.close()


def _record_without_a_ledger(recorder: Recorder) -> None:
    try:
        accept(recorder, 2)
        if recorder.flush(0.2):
            sys.exit("the child imports beside a connection that is not its own")
        try:
            recorder.status()
        except StorageError as error:
            if "Record and ask only after forking" not in str(error):
                raise
        else:
            sys.exit("the child reads beside a connection that is not its own")
    except BaseException:  # noqa: BLE001  a child must not come back
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


class _Slow:
    """An importer that takes its time, and tells when it begins."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.begun: SimpleQueue[str] = SimpleQueue()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Find nothing, slowly."""
        if name in self.names:
            self.begun.put(name)
            sleep(0.1)  # what a slow disk takes


def while_another_thread_loads(path: Path) -> None:
    """Fork whenever the first event of another thread needs a module that is not there yet."""
    recorder = Recorder(SQLiteBackend(path))
    slow = _Slow({"fcntl", "genai_prices", "usagekit.llm.costs"})
    sys.meta_path.insert(0, slow)

    def call(number: int) -> None:
        if recorder.record_tokens(provider="openai", model="gpt-4o", input_tokens=1, output_tokens=number):
            os.write(sys.stdout.fileno(), b"%d\n" % number)

    def first() -> None:
        call(1)
        slow.begun.put("")

    thread = Thread(target=first)
    thread.start()
    child = 1
    while slow.begun.get():
        child += 1
        ended_well(forked(lambda number=child: call(number)))  # type: ignore[misc]
    thread.join()
    recorder.close()


STORIES: dict[str, Callable[..., None]] = {
    story.__name__: story
    for story in (
        after_the_first_event,
        while_others_record,
        while_another_thread_loads,
        multiprocessed,
        child_outlives_parent,
        past_the_hooks,
        beside_a_reader,
    )
}

if __name__ == "__main__":
    STORIES[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))
