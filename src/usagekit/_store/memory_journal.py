"""The accept point where nothing can be written, or nothing is to be: events wait in the process's own memory."""

from __future__ import annotations

import os
from collections import deque
from itertools import count, islice
from os import getpid

from usagekit._store.journal import Offered, ignored, nothing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class _Held:
    """What one process has in a `MemoryJournal`."""

    __slots__ = ("begun", "name", "offered", "queue", "take")

    def __init__(self) -> None:
        self.name = os.urandom(12).hex()
        self.take: Callable[[], int] = count(1).__next__
        self.begun: Callable[[], int] = count().__next__
        self.queue: deque[bytes] = deque()
        self.offered = Offered()


class MemoryJournal:
    """What stands in a journal's place where nothing can be written: a bounded queue in memory.

    Everything in it is lost with the process. Same interface as `Journal`, plus `waiting` and `forget` for the one
    thread that takes from it.
    """

    pen = None  # as of `Journal`: there is no file to write to
    __slots__ = ("_bytes", "_held", "_held_in", "_pid", "_quota", "forgotten", "on_begin", "on_error")

    def __init__(self, quota_bytes: int) -> None:
        self._quota = quota_bytes
        self.on_begin: Callable[[], None] = nothing
        self.on_error: Callable[[OSError], None] = ignored  # as of `Journal`; there is nothing to go wrong here
        self._held_in: dict[int, _Held] = {}
        self._begin_counting()

    def _begin_counting(self) -> None:
        pid = getpid()
        # A fork's child leaves the parent's events to the parent; threads that race here are given the same queue.
        self._held = self._held_in.setdefault(pid, _Held())
        self._bytes = 0
        self.forgotten = 0  # events that are safe elsewhere
        self._pid = pid

    @property
    def name(self) -> str:
        """The first part of its events' ids."""
        return self._held.name

    @property
    def queued(self) -> int:
        """How many events are waiting."""
        return len(self._held.queue)

    def append(self, body: str) -> tuple[str, int] | str:
        """Accept one event, as `Journal.append` does."""
        if self._pid != getpid():
            self._begin_counting()
        held = self._held
        number = held.take()
        payload = f"[{number},{body}]".encode()
        # Racing threads may lose each other's change of this sum; `forget` recounts when the queue is empty.
        self._bytes += len(payload)
        if self._bytes > self._quota:
            self._bytes -= len(payload)
            return held.offered.reject("quota")
        held.queue.append(payload)
        held.offered.accepted.add()
        if not held.begun():  # 0 to the first caller only
            self.on_begin()
        return held.name, number

    def reject(self, reason: str) -> None:
        """Count an event that was rejected before it came here."""
        self._held.offered.reject(reason)

    def waiting(self, limit: int) -> list[bytes]:
        """Give up to `limit` of the oldest payloads; they stay until forgotten."""
        if self._pid != getpid():
            self._begin_counting()
        return list(islice(self._held.queue.copy(), limit))

    def forget(self, payloads: list[bytes]) -> None:
        """Drop the oldest payloads, which are safe elsewhere now."""
        queue = self._held.queue
        for payload in payloads:
            queue.popleft()
            self._bytes -= len(payload)
        if not queue:
            self._bytes = 0
        self.forgotten += len(payloads)

    def counts(self) -> tuple[int, dict[str, int]]:
        """Give how many events this process had accepted, and rejected by reason."""
        if self._pid != getpid():
            self._begin_counting()
        return self._held.offered.counts()

    def lend(self, *, is_lending: bool) -> None:
        """Do nothing: only a compiled pen keeps the interpreter's lock while it writes, and there is none here."""

    def measure(self, imported: Mapping[str, int]) -> None:
        """Do nothing: the queue is its own measure."""

    def release(self) -> None:
        """Do nothing: there is nothing to leave to others."""
