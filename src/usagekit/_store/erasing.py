"""Erasing a user: the id goes from every file of a ledger, the events stay as nobody's.

The ledger has each id once, in `users`; that row is blanked and its number kept. Journals hold ids as well, also those
that were imported: what was imported of them is overwritten. Each step can be done again, so an erasure that was cut
short is completed by the next one of the same id.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from time import monotonic, sleep, time_ns
from typing import TYPE_CHECKING, TypeVar

from usagekit._store import journal as journals
from usagekit._store.engine import BUSY_WAIT, journals_of
from usagekit._store.ledger import Importer
from usagekit._store.schema import Transaction, connect, is_busy, prepare
from usagekit._store.tombstones import ERASED_PREFIX, key_of, make_salt, reason_without
from usagekit.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from usagekit._store.forks import Connection

_T = TypeVar("_T")
_BUSY_MS = 20


def erase_user(path: str, user: str, timeout: float) -> bool:
    """Erase `user`, a cleaned id, from the ledger at `path`; False where it held none, or none any more.

    Blocks for up to about `timeout` seconds. Raises `StorageError` where that was not enough: then some of it may be
    done, and another call completes it.
    """
    prepare(path)
    deadline = monotonic() + timeout
    try:
        _import_all(path, deadline)
        with closing(_connection(path)) as connection:
            connection.execute("PRAGMA temp_store=MEMORY")  # a copy of the ids must not come to lie in a file
            found = _retried(lambda: _bury(connection, user), deadline)
        _import_all(path, deadline)
        _blank_journals(path)
        with closing(_connection(path)) as connection:
            _truncate_log(connection, deadline)
            _retried(lambda: _settle(connection, user), deadline)
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"the erasure is not complete: {error}; nothing is lost, erase the same user again to complete it"
        ) from error
    return found


def _connection(path: str) -> Connection:
    connection = connect(path)
    # Waiting for readers, a checkpoint keeps writers waiting: rather try often.
    connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    return connection


def _import_all(path: str, deadline: float) -> None:
    """Import what every journal holds at this moment: what lies in one that was not imported cannot be removed."""
    directory = journals_of(path)
    sizes = {name: size for name, _, size in journals.files(directory)}
    with closing(Importer(path, directory)) as importer:
        while not importer.reached(sizes):
            if not _retried(importer.step, deadline) and not importer.pending():
                break  # what is left there is the beginning of a record
        importer.adopt()


def _retried(step: Callable[[], _T], deadline: float) -> _T:
    """Give what `step` gives, tried again as long as somebody else is writing."""
    while True:
        try:
            return step()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or monotonic() > deadline:
                raise
        sleep(BUSY_WAIT)


def _bury(connection: sqlite3.Connection, user: str) -> bool:
    """Blank the id in the tables and set its tombstone; tells whether there was something to blank, or left undone."""
    execute = connection.execute
    with Transaction(connection):
        key = key_of(user, make_salt(connection))
        undone = execute("SELECT 1 FROM tombstones WHERE key=? AND NOT done", (key,)).fetchone() is not None
        execute("INSERT OR REPLACE INTO tombstones VALUES (?,?,0)", (key, time_ns() // 1000))
        execute("UPDATE counters SET value=value+1 WHERE name='erasures'")
        blanked = execute("UPDATE users SET name=? || id WHERE name=?", (ERASED_PREFIX, user)).rowcount
        if blanked:
            _rewrite(connection, "users")
        letters = _clear_dead_letters(connection, user)
        if letters:
            _rewrite(connection, "dead_letters")
    return undone or blanked > 0 or letters > 0


def _clear_dead_letters(connection: sqlite3.Connection, user: str) -> int:
    cleared = []
    for number, text, reason in connection.execute("SELECT id, event, reason FROM dead_letters"):
        event = json.loads(text)
        if event["user"] == user:
            cleared.append((json.dumps(event | {"user": ""}), reason_without(user, reason), number))
    connection.executemany("UPDATE dead_letters SET event=?, reason=? WHERE id=?", cleared)
    return len(cleared)


def _rewrite(connection: sqlite3.Connection, table: str) -> None:
    """Write a table and its indexes to zeroed pages.

    `secure_delete` overwrites what is deleted, and not the copies that splitting a page leaves in its unused part.
    """
    connection.execute(f"CREATE TEMP TABLE rewritten AS SELECT * FROM main.{table}")
    connection.execute(f"DELETE FROM main.{table}")
    connection.execute(f"INSERT INTO main.{table} SELECT * FROM temp.rewritten")
    connection.execute("DROP TABLE temp.rewritten")


def _blank_journals(path: str) -> None:
    """Overwrite what was imported of the journals that are still there."""
    with closing(connect(path, read_only=True)) as connection:
        for name, file, _ in journals.files(journals_of(path)):
            row = connection.execute("SELECT imported FROM journals WHERE name=?", (name,)).fetchone()
            if row is not None:
                try:
                    with journals.Reading(name, file) as reading:
                        reading.blank(0, row[0])
                except FileNotFoundError:
                    continue  # imported and removed by another process meanwhile


def _truncate_log(connection: sqlite3.Connection, deadline: float) -> None:
    """Move the write-ahead log into the ledger and empty it: it holds older pages."""
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if monotonic() > deadline:
            raise StorageError(
                "the erasure is not complete: somebody reads the ledger all the time, so its write-ahead log cannot be "
                "emptied; erase the same user again, with a longer timeout, to complete it"
            )
        sleep(BUSY_WAIT)


def _settle(connection: sqlite3.Connection, user: str) -> None:
    with Transaction(connection):
        key = key_of(user, make_salt(connection))
        connection.execute("UPDATE tombstones SET done=1 WHERE key=?", (key,))
