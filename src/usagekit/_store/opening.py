"""Putting a recorder's store together: which journal, which engine, and what cannot work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from usagekit._environment import switch
from usagekit._store.engine import Engine, journals_of
from usagekit._store.journal import Journal
from usagekit._store.memory_journal import MemoryJournal
from usagekit._store.queue import QueueEngine
from usagekit._store.schema import declare_dimensions, prepare, register_sinks
from usagekit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from usagekit._guard import Guard
    from usagekit.backends import Sink


def open_store(
    backends: tuple[Any, ...],
    *,
    path: str | os.PathLike[str] | None,
    durability: str,
    quota_bytes: int,
    dimensions: tuple[str, ...],
    guard: Guard,
    on_delivery: Callable[[str, int | BaseException], None],
) -> tuple[Journal | MemoryJournal | None, Engine | QueueEngine | None]:
    """Give where events are accepted and what moves them on; None and None where nothing is written at all.

    The ledger is the SQLite backend's; with remote sinks alone it lies at `path`, as their spool. Sinks in this very
    process need none.

    Raises:
        ConfigurationError: the options do not go together.
        StorageError: the ledger cannot be used.
    """
    _check(backends, durability)
    compiled = switch("USAGEKIT_COMPILED", default=True)
    for backend in backends:
        if hasattr(backend, "declare"):
            backend.declare(dimensions)
    sinks = _named_sinks(backends)
    remote = [name for name, sink in sinks.items() if not getattr(sink, "in_process", False)]
    ledgers = [backend.ledger_path for backend in backends if hasattr(backend, "ledger_path")]
    ledger: str | None = ledgers[0] if ledgers else None if path is None else os.path.realpath(path)
    if ledger is None and not sinks:
        return None, None
    if ledger is None and remote and durability != "memory":
        raise ConfigurationError(
            f"{remote[0]} is remote, so events must wait somewhere until it has them; "
            "give Recorder(path='usage.db') or USAGEKIT_PATH, or durability='memory' to risk losing them"
        )
    if ledger is not None and os.name != "posix":
        raise ConfigurationError(
            "usagekit records on Linux and macOS only, since ledgers and journals need POSIX file locks; "
            "set USAGEKIT_DISABLED=1 here"
        )
    if durability == "memory" and (ledger is not None or remote):
        guard.noted("durability", "events are accepted in memory only: a process that dies loses them")
    if ledger is None:
        queue = MemoryJournal(quota_bytes)
        return queue, QueueEngine(queue, sinks, guard=guard, on_delivery=on_delivery)
    prepare(ledger)
    declare_dimensions(ledger, dimensions)
    register_sinks(ledger, tuple(sinks))
    journal: Journal | MemoryJournal
    if durability == "memory":
        journal = MemoryJournal(quota_bytes)
    else:
        journal = Journal(journals_of(ledger), quota_bytes, compiled=compiled)
    journal.on_error = lambda error: guard.noted("journal", error)
    retention = next((backend.retention for backend in backends if hasattr(backend, "retention")), None)
    engine = Engine(
        ledger, journal, sinks, keeps=bool(ledgers), guard=guard, on_delivery=on_delivery, retention=retention
    )
    return journal, engine


def _check(backends: tuple[Any, ...], durability: str) -> None:
    if durability not in {"journal", "memory"}:
        msg = f"durability={durability!r} is unknown; use 'journal' or 'memory'"
        raise ConfigurationError(msg)
    for backend in backends:
        if isinstance(backend, type):
            msg = f"{backend.__name__} is a class; give one that is made of it: Recorder(SQLiteBackend('usage.db'))"
            raise ConfigurationError(msg)
        if not hasattr(backend, "write") and not hasattr(backend, "read"):
            msg = f"{backend!r} is no backend: it has neither write nor read; give SQLiteBackend('usage.db')"
            raise ConfigurationError(msg)
    if sum(hasattr(backend, "ledger_path") for backend in backends) > 1:
        msg = "two SQLite backends were given; a recorder has one ledger"
        raise ConfigurationError(msg)


def _named_sinks(backends: tuple[Any, ...]) -> dict[str, Sink]:
    sinks: dict[str, Sink] = {}
    for backend in backends:
        if hasattr(backend, "write"):
            base = name = str(getattr(backend, "name", "") or type(backend).__name__)
            number = 1
            while name in sinks:
                number += 1
                name = f"{base}-{number}"
            sinks[name] = backend
    return sinks
