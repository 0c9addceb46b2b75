"""How a ledger is opened, and brought up to date."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

from usagekit._store.file_systems import check_file_system
from usagekit._store.forks import Connection
from usagekit._store.migrations import SCHEMA_VERSION, migrations
from usagekit.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

APPLICATION_ID = 0x75736B74  # "uskt", so that `file` and we can tell a ledger from any other database

BLOCK_ROWS = 256  # sequence numbers per row of `blocks`; a power of two
BLOCK_SHIFT = 8
OFFSET_BIAS = 2**31  # offsets run from -2**31: 71 minutes of events fit four bytes

BUSY_SECONDS = 5.0
_SETUP_SECONDS = 30.0  # eight processes may all want to create the same file


def connect(path: str, *, read_only: bool = False) -> Connection:
    """Open the ledger at `path` with the settings every connection here has; the caller closes it."""
    from urllib.parse import quote

    mode = "ro" if read_only else "rw"
    connection = Connection.opened(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


def prepare(path: str) -> None:
    """Make sure that a usable, up-to-date ledger lies at `path`; creates it and its directory when missing.

    Safe to be called by many processes at once. Raises `StorageError` that says what to do.
    """
    if sqlite3.sqlite_version_info < (3, 37):
        msg = f"SQLite {sqlite3.sqlite_version} has no STRICT tables; usagekit needs SQLite 3.37 or newer under Python"
        raise StorageError(msg)
    directory = os.path.dirname(path)
    check_file_system(directory or ".")
    try:
        os.makedirs(directory or ".", mode=0o700, exist_ok=True)
        _make(path)
    except OSError as error:
        msg = f"cannot write the ledger {path!r}: {error.strerror}; give a path in a directory this process may write"
        raise StorageError(msg) from error
    deadline = time.monotonic() + _SETUP_SECONDS
    while True:
        try:
            _bring_up_to_date(path)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise _explained(path, error) from error
            time.sleep(random.uniform(0.005, 0.05))  # noqa: S311  spreads the retries
        except sqlite3.DatabaseError as error:
            raise _explained(path, error) from error
        else:
            return


def _make(path: str) -> None:
    """Make the file where there is none.

    One that is there is not opened: closing it again would drop the locks that SQLite has on it in this process.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


def _bring_up_to_date(path: str) -> None:
    connection = Connection.opened(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        check_version(connection, path)
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode != "wal":
                msg = (
                    f"the file system of {path!r} cannot hold SQLite's write-ahead log; put the ledger on a local disk"
                )
                raise StorageError(msg)
        if connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
            return
        from sqlite_utils import Database

        connection.execute("PRAGMA synchronous=FULL")
        with Transaction(connection):
            if check_version(connection, path) < SCHEMA_VERSION:
                migrations().apply(Database(connection, execute_plugins=False))
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    finally:
        connection.close()


def check_version(connection: sqlite3.Connection, path: str) -> int:
    """Give the schema version of a ledger, 0 = an empty file; raises `StorageError` for any other database."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    # Last: whoever makes a ledger sets it together with the tables, perhaps between our questions.
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID and (tables or version):
        msg = f"{path!r} is a SQLite database of something else; give the ledger a file of its own"
        raise StorageError(msg)
    if version > SCHEMA_VERSION:
        msg = (
            f"the ledger {path!r} has schema {version}, this usagekit knows {SCHEMA_VERSION}; "
            "upgrade usagekit here, or give it another file"
        )
        raise StorageError(msg)
    return version


class Transaction:
    """`BEGIN IMMEDIATE` to `COMMIT`; rolled back where the block or the commit fails.

    Never a plain `BEGIN`: one that reads and then writes fails as busy at once, whatever the timeout.
    """

    __slots__ = ("_connection", "_settle")

    def __init__(self, connection: sqlite3.Connection, settle: Callable[[bool], None] | None = None) -> None:
        self._connection = connection
        self._settle = settle  # told whether it was committed

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        committed = False
        try:
            if kind is None:
                self._connection.execute("COMMIT")
                committed = True
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if self._settle is not None:
                self._settle(committed)


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether `error` says only that somebody else is at it."""
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _code(error: sqlite3.Error) -> int:
    # Errors that the sqlite3 module itself raises carry no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _explained(path: str, error: sqlite3.Error) -> StorageError:
    if _code(error) == sqlite3.SQLITE_NOTADB:
        return StorageError(f"{path!r} is not a SQLite database; move it away, or give the ledger another file")
    return StorageError(f"cannot use the ledger {path!r}: {error}; check its permissions and its disk")


def register_sinks(path: str, names: tuple[str, ...]) -> None:
    """Remember in the ledger that some recorder delivers to these sinks: nothing is purged before they had it."""
    _remember(path, "sinks", "(name, delivered_seq, delivered) VALUES (?,0,0)", names)


def declare_dimensions(path: str, names: tuple[str, ...]) -> None:
    """Remember in the ledger, in this order, that some recorder declared these own dimensions; writes what is new."""
    _remember(path, "dimensions", "SELECT ?, count(*) FROM dimensions WHERE true", names)


def _remember(path: str, table: str, row: str, names: tuple[str, ...]) -> None:
    try:
        with closing(connect(path)) as connection:
            known = {found[0] for found in connection.execute(f"SELECT name FROM {table}")}
            missing = [(name,) for name in names if name not in known]
            if missing:
                with Transaction(connection):
                    connection.executemany(f"INSERT INTO {table} {row} ON CONFLICT DO NOTHING", missing)
    except sqlite3.Error as error:
        raise _explained(path, error) from error
