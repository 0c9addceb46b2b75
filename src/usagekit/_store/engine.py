"""What moves events on: from the journals into the ledger, and from there to each sink.

One `Engine` per recorder. In every process that records it starts one thread for importing and one per sink, when the
first event comes. Nothing depends on them: they only shorten the delay, and any process can do the work of a dead one.
"""

from __future__ import annotations

import atexit
import os
import sqlite3
import threading
from contextlib import contextmanager
from functools import partial
from itertools import count
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from weakref import WeakSet

from usagekit._store.delivery import Backoff, Delivery
from usagekit._store.forks import resting
from usagekit._store.journal import files
from usagekit._store.ledger import Importer
from usagekit._store.memory_journal import MemoryJournal
from usagekit._store.schema import connect, is_busy, prepare
from usagekit.errors import StorageError
from usagekit.event import from_microseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usagekit._guard import Guard
    from usagekit._store.journal import Journal
    from usagekit._store.retention import Retention
    from usagekit.backends import Sink

IMPORT_SECONDS = 0.1  # between looks at the journals
BUSY_RECORDS = 1000  # where a look brings that many, the next one comes at once
ADOPT_SECONDS = 1.0  # between looks for what the dead left
ROLL_UP_SECONDS = 5.0  # rollups lag no longer than that where there is time,
PURGE_SECONDS = 600.0  # between looks for what is too old
ROLL_UP_EVENTS = 8192  # and not much further: readers add up what is left themselves;
ROLL_UP_BUSY_EVENTS = 32_768  # as far as they lag where a look brought much within
QUIET_SECONDS = 1.0  # this time, since importing comes first
DELIVER_SECONDS = 0.2
ELECT_SECONDS = 1.0  # between attempts to become a sink's sender
BUSY_WAIT = 0.005
MEMORY_RECORDS = BUSY_RECORDS  # taken from a queue in memory at a time; no fewer, or a full queue would be waited for
EXIT_SECONDS = 2.0


class Engine:
    """Imports and delivers for one recorder, in whatever process it finds itself in.

    Args:
        path: the ledger; `schema.prepare` has seen it.
        journal: where events are accepted.
        sinks: by the name under which their cursors are kept.
        keeps: whether the ledger keeps its events, or is only the sinks' spool.
        guard: counts and logs what fails.
        on_delivery: told the sink's name, and how many events were settled or what went wrong; on the sink's thread.
        retention: how long events are kept; None = for good.
    """

    def __init__(
        self,
        path: str,
        journal: Journal | MemoryJournal,
        sinks: dict[str, Sink],
        *,
        keeps: bool,
        guard: Guard,
        on_delivery: Callable[[str, int | BaseException], None],
        retention: Retention | None = None,
    ) -> None:
        self.path = path
        self.retention = retention
        self.directory = journals_of(path)
        self.journal = journal
        self.sinks = sinks
        self.keeps = keeps
        self.guard = guard
        self.on_delivery = on_delivery
        self._crews: dict[int, _Crew] = {}
        self._closed = False
        journal.on_begin = self.start
        _engines.add(self)
        resting.add(self)

    def start(self) -> None:
        """Start this process's threads where they do not run yet; every first event does."""
        if not self._closed:
            self._crew().start()

    def flush(self, timeout: float, *, rollups: bool = False) -> bool:
        """Import what every journal holds now; False where `timeout` seconds did not suffice.

        `rollups`: also bring these up to date, as far as there is time.
        """
        crew, deadline = self._crew(), monotonic() + timeout
        done = crew.flush(deadline)
        return done and (not rollups or crew.roll_up(deadline))

    def close(self, timeout: float) -> bool:
        """Stop this process's threads and import what is left; False where `timeout` seconds did not suffice."""
        self._closed = True
        _engines.discard(self)
        return self._crew().close(monotonic() + timeout)

    def pause(self, deadline: float) -> bool:
        """Close the importer's connection until `resume`; see `forks`."""
        crew = self._crews.get(os.getpid())
        return crew is not None and crew.pause(deadline)

    def resume(self) -> None:
        """Import again."""
        self._crew().resume()

    def status(self) -> dict[str, Any]:
        """Give what the ledger says of itself; the same in every process. Raises `StorageError`."""
        return status_of(self.path, tuple(self.sinks))

    def _crew(self) -> _Crew:
        # What a fork's child inherited stays referenced: its connection must neither be used nor closed there.
        pid = os.getpid()
        return self._crews.get(pid) or self._crews.setdefault(pid, _Crew(self))


_engines: WeakSet[Engine] = WeakSet()


@atexit.register
def _close_at_exit() -> None:
    # Only shortens the delay: what is not imported here, the next process imports.
    deadline = monotonic() + EXIT_SECONDS
    for engine in list(_engines):
        engine.close(max(0.0, deadline - monotonic()))


def journals_of(path: str) -> str:
    """Give the directory that holds the journals of the ledger at `path`."""
    return path + "-journals"


class _Crew:
    """The threads of one process, and the one importer they share."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._importer: Importer | None = None
        self._importing = threading.Lock()
        self._advancing = threading.Lock()  # held for one batch at most
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._started = count().__next__
        self._adopted = float("-inf")
        self._busy = float("-inf")
        self._rolled_up = float("-inf")
        self._purged = float("-inf")

    def start(self) -> None:
        if self._started():  # only the first caller is told 0
            return
        jobs: list[tuple[str, Callable[[], None]]] = [("usagekit-import", self._import_until_stopped)]
        for name, sink in self._engine.sinks.items():
            jobs.append((f"usagekit-{name}", _Sender(self._engine, name, sink, self._stop).run))
        for name, job in jobs:
            thread = threading.Thread(target=job, name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                # No thread may be started while the interpreter ends: the next process imports what we accept.
                self._engine.guard.noted("thread", error)
                return
            self._threads.append(thread)

    def flush(self, deadline: float) -> bool:
        if not self._importing.acquire(timeout=max(0.0, deadline - monotonic())):
            return False
        try:
            arrived = self._arrival()
            with self._lending():
                while True:
                    taken = self._advance()
                    if taken == 0 or (taken and arrived()):
                        return True
                    if monotonic() > deadline:
                        return False
                    if taken is None:
                        sleep(BUSY_WAIT)
        finally:
            self._importing.release()

    def roll_up(self, deadline: float) -> bool:
        """Bring what is in the ledger now into the rollups; False where there was not enough time."""
        if not self._engine.keeps:
            return True
        if not self._importing.acquire(timeout=max(0.0, deadline - monotonic())):
            return False
        try:
            end = self._work(Importer.end)
            while (folded := self._work(Importer.roll_up)) != 0:
                if end is not None and self._work(lambda importer: importer.is_rolled_up(end)):
                    return True  # what others record meanwhile has no end
                if monotonic() > deadline:
                    return False
                if folded is None:
                    sleep(BUSY_WAIT)
            return True
        finally:
            self._importing.release()

    def close(self, deadline: float) -> bool:
        self._stop.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - monotonic()))
        self._engine.journal.release()
        done = self.flush(deadline)
        if self._importing.acquire(timeout=max(0.0, deadline - monotonic())):
            if done:
                self._adopt()
            with self._advancing:
                self._drop_importer()
            self._importing.release()
        return done

    def pause(self, deadline: float) -> bool:
        if not self._advancing.acquire(timeout=max(0.0, deadline - monotonic())):
            return False
        self._drop_importer()
        return True

    def resume(self) -> None:
        self._advancing.release()

    def _arrival(self) -> Callable[[], bool]:
        """Give what tells whether everything that waits now was imported."""
        journal = self._engine.journal
        goal = journal.forgotten + journal.queued if isinstance(journal, MemoryJournal) else 0
        sizes = {name: size for name, _, size in files(self._engine.directory)}

        def arrived() -> bool:
            if isinstance(journal, MemoryJournal) and journal.forgotten < goal:
                return False
            importer = self._importer
            return importer is not None and importer.reached(sizes)

        return arrived

    def _import_until_stopped(self) -> None:
        wait = IMPORT_SECONDS
        while not self._stop.wait(wait):
            with self._importing:
                with self._lending():
                    taken = self._advance()
                brought_much = taken is not None and taken >= BUSY_RECORDS
                if brought_much:
                    self._busy = monotonic()
                if monotonic() - self._adopted >= ADOPT_SECONDS:
                    self._adopt()
                if self._engine.keeps and not self._stop.is_set():
                    self._roll_up_when_due()
                    self._purge_when_due()
            importer = self._importer
            self._engine.journal.measure({} if importer is None else importer.imported)
            wait = 0.0 if brought_much else IMPORT_SECONDS

    @contextmanager
    def _lending(self, *, is_lending: bool = True) -> Iterator[None]:
        """Have the app give this thread its turns; for who holds `_importing`."""
        self._engine.journal.lend(is_lending=is_lending)
        try:
            yield
        finally:
            self._engine.journal.lend(is_lending=False)

    def _roll_up_when_due(self) -> None:
        """Take one step where enough events wait for the rollups, or the last was long ago."""
        is_busy = monotonic() - self._busy < QUIET_SECONDS
        due = not is_busy and monotonic() - self._rolled_up >= ROLL_UP_SECONDS
        at_least = ROLL_UP_BUSY_EVENTS if is_busy else 1 if due else ROLL_UP_EVENTS
        with self._lending(is_lending=is_busy):  # there is time where it is not
            rolled_up = self._work(partial(Importer.roll_up, at_least=at_least))
        if rolled_up == 0 and due:
            self._rolled_up = monotonic()

    def _purge_when_due(self) -> None:
        """Take one step of a purge where the last one is long ago."""
        retention = self._engine.retention
        if retention is None or monotonic() - self._purged < PURGE_SECONDS:
            return
        if self._work(partial(Importer.purge, retention=retention)) == 0:
            self._purged = monotonic()

    def _advance(self) -> int | None:
        """Import one batch; returns how many records it held, or None where it could not be done now."""
        return self._work(self._step)

    def _work(self, step: Callable[[Importer], int | None]) -> int | None:
        """Let the importer take a step; None where it could not be done now."""
        with self._advancing:
            return self._work_alone(step)

    def _work_alone(self, step: Callable[[Importer], int | None]) -> int | None:
        try:
            if self._importer is not None and not self._importer.is_current():
                self._engine.guard.noted("ledger", "the file was removed or replaced; going on with what is there")
                self._drop_importer()
            if self._importer is None:
                if not os.path.exists(self._engine.path):
                    prepare(self._engine.path)
                self._importer = Importer(self._engine.path, self._engine.directory)
            return step(self._importer)
        except sqlite3.Error as error:
            if not is_busy(error):
                self._engine.guard.noted("ledger", error)
                self._drop_importer()
        except StorageError as error:
            self._engine.guard.noted("ledger", error)
        except OSError as error:
            self._engine.guard.noted("journal", error)
        except Exception as error:  # noqa: BLE001  a mistake of ours must not end the importing
            self._engine.guard.caught("import", error)
        return None

    def _step(self, importer: Importer) -> int:
        taken = 0
        journal = self._engine.journal
        if isinstance(journal, MemoryJournal):
            payloads = journal.waiting(MEMORY_RECORDS)
            if payloads:
                importer.import_payloads(journal.name, payloads)
                journal.forget(payloads)
            taken = len(payloads)
        # Whatever this recorder writes to, other processes may have left journals.
        return taken + importer.step()

    def _adopt(self) -> None:
        self._adopted = monotonic()
        importer = self._importer
        if importer is None:
            return
        try:
            importer.adopt()
        except (OSError, sqlite3.Error) as error:
            self._engine.guard.noted("journal", error)

    def _drop_importer(self) -> None:
        if self._importer is not None:
            self._importer.close()
            self._importer = None


class _Sender:
    """Delivers to one sink, as long as this process is the one elected for it."""

    def __init__(self, engine: Engine, name: str, sink: Sink, stop: threading.Event) -> None:
        self._engine = engine
        self._name = name
        self._sink = sink
        self._stop = stop
        self._backoff = Backoff()

    def run(self) -> None:
        lock = self._elected()
        if lock is None:
            return
        engine = self._engine
        spool_of = () if engine.keeps else tuple(engine.sinks)
        delivery = Delivery(engine.path, self._name, self._sink, spool_of=spool_of)
        try:
            wait = 0.0
            while not self._stop.wait(wait):
                try:
                    settled = delivery.step()
                except Exception as error:  # noqa: BLE001  a sink may raise anything
                    wait = self._failed(error, of_sink=delivery.is_sending)
                else:
                    self._backoff.succeeded()
                    wait = 0.0 if settled else DELIVER_SECONDS
                    if settled:
                        engine.on_delivery(self._name, settled)
        finally:
            _elected.discard(self._place())
            os.close(lock)

    def _failed(self, error: BaseException, *, of_sink: bool) -> float:
        if isinstance(error, sqlite3.Error) and is_busy(error) and not of_sink:
            return DELIVER_SECONDS
        self._engine.guard.noted(f"sink {self._name}", error)
        self._engine.on_delivery(self._name, error)
        return self._backoff.failed(error)

    def _elected(self) -> int | None:
        """Wait until nobody else delivers to this sink; returns the lock, or None when stopped before."""
        while (lock := self._lock()) is None:
            if self._stop.wait(ELECT_SECONDS):
                return None
        return lock

    def _lock(self) -> int | None:
        import fcntl  # Windows has none

        place = self._place()
        if place in _elected:
            return None  # POSIX locks tell processes apart, and not the recorders of one
        try:
            os.makedirs(self._engine.directory, mode=0o700, exist_ok=True)
            descriptor = os.open(place[1], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._engine.guard.noted(f"sink {self._name}", error)
            return None
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        _elected.add(place)
        return descriptor

    def _place(self) -> tuple[int, str]:
        # A sink's name may hold anything, slashes included.
        return os.getpid(), os.path.join(self._engine.directory, f"{quote(self._name, safe='')}.sender")


_elected: set[tuple[int, str]] = set()
"""Processes and lock files of the senders that run here."""


def status_of(path: str, sink_names: tuple[str, ...]) -> dict[str, Any]:
    """Give what the ledger at `path` says of itself, and what waits beside it; the same in every process."""
    sizes = {name: size for name, _, size in files(journals_of(path))}  # first: what is imported later is not waiting
    connection = connect(path, read_only=True)
    try:
        find = "SELECT name, imported FROM journals WHERE name=?"
        imported = dict(row for name in sizes for row in connection.execute(find, (name,)))
        counters = dict(connection.execute("SELECT name, value FROM counters"))
        dead = dict(connection.execute("SELECT sink, count(*) FROM dead_letters GROUP BY sink"))
        cursors = {row[0]: row[1:] for row in connection.execute("SELECT name, delivered_seq, delivered FROM sinks")}
        jobs = dict(connection.execute("SELECT key, updated_at FROM meta WHERE key LIKE 'last_%' ORDER BY key"))
        pages = connection.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()
    finally:
        connection.close()
    waiting = [size - imported.get(name, 0) for name, size in sizes.items() if size > imported.get(name, 0)]
    durable = counters["next_seq"] - 1
    sinks = {}
    for name in dict.fromkeys((*sink_names, *cursors)):
        seq, delivered = cursors.get(name, (0, 0))
        sinks[name] = {"delivered": delivered, "lag": durable - seq, "dead_letters": dead.get(name, 0)}
    return {
        "durable": durable,
        "corrupt": counters["corrupt"],
        "repeated": counters["repeated"],
        "dead_letters": sum(dead.values()),
        "sinks": sinks,
        "waiting": {"journals": len(waiting), "bytes": sum(waiting)},
        "rollups": {"lag": durable - counters["rolled_seq"], "rebuilding": counters["rebuild_state"] != 0},
        "purged": counters["purged"],
        "complete_from": {
            name: from_microseconds(counters[f"{name}_from_us"]).isoformat() if counters[f"{name}_from_us"] else None
            for name in ("raw", "rollups")
        },
        "jobs": jobs,
        "bytes": pages[0],
    }
