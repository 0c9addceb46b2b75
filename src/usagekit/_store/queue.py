"""Delivery without a disk: events wait in a bounded queue in memory until every sink has them."""

from __future__ import annotations

import atexit
import os
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from usagekit._store import record as records
from usagekit._store.delivery import Backoff, halves
from usagekit._store.engine import DELIVER_SECONDS, EXIT_SECONDS
from usagekit.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from usagekit._guard import Guard
    from usagekit._store.memory_journal import MemoryJournal
    from usagekit.backends import Sink
    from usagekit.event import UsageEvent

_queues: WeakSet[QueueEngine]


class QueueEngine:
    """Stands in for `Engine` where there is no ledger: same methods, and everything ends with the process.

    Delivers what this process accepted, on one thread per sink. `flush` waits for the sinks, as there is nothing else
    to flush to.
    """

    def __init__(
        self,
        journal: MemoryJournal,
        sinks: dict[str, Sink],
        *,
        guard: Guard,
        on_delivery: Callable[[str, int | BaseException], None],
    ) -> None:
        self.journal = journal
        self.sinks = sinks
        self.guard = guard
        self.on_delivery = on_delivery
        self._closed = False
        self._begin()
        journal.on_begin = self._start
        _queues.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._senders = {name: _QueueSender(self, name, sink) for name, sink in self.sinks.items()}
        self._forgotten = 0

    def start(self) -> None:
        """Do nothing before the first event: there is nothing that others left."""

    def _start(self) -> None:
        if self._pid != os.getpid():
            self._begin()
        for sender in self._senders.values():
            thread = threading.Thread(target=sender.run, name=f"usagekit-{sender.name}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self.guard.noted("thread", error)

    @property
    def closed(self) -> bool:
        """Whether the senders should end."""
        return self._closed

    def settled(self) -> None:
        """Drop what every sink has; called by senders."""
        with self._changed:
            everywhere = min(sender.position for sender in self._senders.values())
            self.journal.forget(self.journal.waiting(everywhere - self._forgotten))
            self._forgotten = everywhere
            self._changed.notify_all()

    def waiting(self, position: int, limit: int) -> list[bytes]:
        """Give the payloads behind the first `position` ones of this process."""
        with self._changed:
            skip = position - self._forgotten
            return self.journal.waiting(skip + limit)[skip:]

    def flush(self, timeout: float, *, rollups: bool = False) -> bool:
        """Wait until every sink has what was accepted; False where `timeout` seconds did not suffice."""
        if self._pid != os.getpid():
            return True  # this process accepted nothing yet
        target = self.journal.counts()[0]
        deadline = monotonic() + timeout
        for sender in self._senders.values():
            sender.hurry.set()
        with self._changed:
            while any(sender.position < target for sender in self._senders.values()):
                if not self._changed.wait(deadline - monotonic()):
                    return False
        return True

    def close(self, timeout: float) -> bool:
        """Deliver what is left, then end the threads."""
        done = self.flush(timeout)
        self._closed = True
        for sender in self._senders.values():
            sender.hurry.set()
        return done

    def status(self) -> dict[str, Any]:
        """Give this process's deliveries."""
        if self._pid != os.getpid():
            self._begin()  # what the parent delivered is the parent's
        accepted = self.journal.counts()[0]
        sinks = {
            name: {"delivered": s.position - s.dead, "lag": accepted - s.position, "dead_letters": s.dead}
            for name, s in self._senders.items()
        }
        dead = sum(sender.dead for sender in self._senders.values())
        waiting = {"journals": 0, "bytes": 0}  # there are none
        return {"durable": 0, "corrupt": 0, "repeated": 0, "dead_letters": dead, "sinks": sinks, "waiting": waiting}


class _QueueSender:
    """Delivers the queue to one sink."""

    def __init__(self, engine: QueueEngine, name: str, sink: Sink) -> None:
        self.name = name
        self.position = 0  # payloads settled since this process began
        self.dead = 0
        self.hurry = threading.Event()
        self._engine = engine
        self._sink = sink

    def run(self) -> None:
        wait = 0.0
        while not self._engine.closed:
            self.hurry.wait(wait)
            self.hurry.clear()
            payloads = self._engine.waiting(self.position, max(1, self._sink.max_batch))
            wait = DELIVER_SECONDS
            if not payloads:
                continue
            decoded, _ = records.decode(payloads)
            name = self._engine.journal.name
            events = [records.event_of(name, fields) for fields in decoded]
            if self._send(events):
                self.position += len(payloads)
                self._engine.on_delivery(self.name, len(payloads))
                self._engine.settled()
                wait = 0.0

    def _send(self, events: list[UsageEvent]) -> bool:
        """Send a batch until the sink has all of it that it will ever take; False where the engine closed before."""
        backoff = Backoff()
        parts = [(events[0].id, events)]
        while parts and not self._engine.closed:
            batch_id, part = parts[0]
            try:
                self._sink.write(part, batch_id=batch_id)
            except Rejected:
                if len(part) > 1:
                    (first, size), (second, _) = halves(batch_id, len(part))
                    parts[:1] = [(first, part[:size]), (second, part[size:])]
                    continue
                self.dead += 1
            except Exception as error:  # noqa: BLE001  a sink may raise anything
                self._engine.guard.noted(f"sink {self.name}", error)
                self._engine.on_delivery(self.name, error)
                self.hurry.wait(backoff.failed(error))
                self.hurry.clear()
                continue
            backoff.succeeded()
            del parts[0]
        return not parts


_queues = WeakSet()


@atexit.register
def _close_at_exit() -> None:
    deadline = monotonic() + EXIT_SECONDS
    for queue in list(_queues):
        queue.close(max(0.0, deadline - monotonic()))
