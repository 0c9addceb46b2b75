"""Keeping SQLite connections out of forks.

SQLite remembers for a whole process which locks it holds on a file. A child that is born while a connection is open
inherits that memory without the locks: what it opens itself is then unprotected, and what it commits is gone when its
parent closes the ledger (https://www.sqlite.org/howtocorrupt.html, section 2.6). So every connection ends before a
fork, and is made anew afterwards when it is wanted. A child that is born past Python's hooks, or beside a connection
that did not end in time, opens no ledger: it records as ever, and others import that.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from usagekit.errors import StorageError

if TYPE_CHECKING:
    from typing import Self

FORK_SECONDS = 2.0  # a fork waits no longer than that for a connection's end


class Resting(Protocol):
    """What keeps a connection open while it does not use it."""

    def pause(self, deadline: float) -> bool:
        """Close the connection and open none until `resume`; False where that was not possible before `deadline`."""

    def resume(self) -> None:
        """Go on; called in the process that was paused."""


resting: WeakSet[Resting] = WeakSet()
"""Told before each fork."""


class _Process:
    """What is open in this process."""

    def __init__(self, inherited: _Process | None = None) -> None:
        self.pid = os.getpid()
        self.changed = threading.Condition()
        self.forks = 0
        self.open: WeakSet[Connection] = WeakSet()
        self.paused: dict[int, list[Resting]] = {}
        # Neither used nor closed, connections of the parent's stay referenced.
        self.inherited: list[Connection] = [] if inherited is None else [*inherited.inherited, *inherited.open]


class Connection(sqlite3.Connection):
    """A connection that forks wait for."""

    process: _Process

    @classmethod
    def opened(cls, database: str, **options: Any) -> Self:
        """Open a connection as `sqlite3.connect` does.

        Raises `StorageError` in a process that was forked beside an open one.
        """
        process = _here()
        with process.changed:
            # For ever would be wrong: the forking thread itself may come here, by somebody else's hook.
            process.changed.wait_for(lambda: not process.forks, FORK_SECONDS)
            if process.inherited:
                raise StorageError(
                    "this process was forked beside an open connection to a ledger, so it must not open one; other "
                    "processes import what it records. Record and ask only after forking, not before"
                )
            connection = sqlite3.connect(database, factory=cls, **options)
            connection.process = process
            process.open.add(connection)
        return connection

    def close(self) -> None:
        """Close it; whoever wants to fork may go on."""
        super().close()
        with self.process.changed:
            self.process.open.discard(self)
            self.process.changed.notify_all()


_process = _Process()


def _here() -> _Process:
    if _process.pid != os.getpid():  # forked by C code, which calls no hooks
        _begin_anew()
    return _process


def _before() -> None:
    deadline = monotonic() + FORK_SECONDS
    process = _here()
    process.paused[threading.get_ident()] = [one for one in list(resting) if one.pause(deadline)]
    with process.changed:
        process.forks += 1
        process.changed.wait_for(lambda: not process.open, max(0.0, deadline - monotonic()))


def _in_parent() -> None:
    process = _here()
    with process.changed:
        process.forks -= 1
        process.changed.notify_all()
    for one in process.paused.pop(threading.get_ident(), ()):
        one.resume()


def _begin_anew() -> None:
    global _process  # noqa: PLW0603  there is one process
    _process = _Process(_process)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_begin_anew)
