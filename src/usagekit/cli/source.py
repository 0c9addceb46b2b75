"""Which ledger or other reader a command works on, and what is wrong with it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from usagekit.backends import backend_from_url
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator


def ledger(db: str | None) -> str:
    """Give the path of the ledger that was meant."""
    if db is None:
        ledgers = [backend.ledger_path for backend in _backends() if hasattr(backend, "ledger_path")]
        db = ledgers[0] if ledgers else os.environ.get("USAGEKIT_PATH")
    if not db:
        raise ConfigurationError(
            "no ledger was named; give --db PATH, or set USAGEKIT_BACKEND=sqlite:///usage.db or USAGEKIT_PATH"
        )
    return os.path.abspath(db)  # noqa: PTH100  as the store names it: links are not resolved


def reader(db: str | None) -> Any:
    """Give what answers: the first backend of the environment that can, or the ledger that was meant."""
    backends = _backends() if db is None else []
    for backend in backends:
        if hasattr(backend, "read") and not getattr(backend, "in_process", False):
            return backend
    if backends:
        raise ConfigurationError(
            f"USAGEKIT_BACKEND={os.environ['USAGEKIT_BACKEND']!r} names nothing that another process can ask; "
            "give --db PATH, or add sqlite:///usage.db to it"
        )
    return SQLiteBackend(ledger(db))


def check(path: str) -> None:
    """Raise `StorageError` where no ledger lies at `path`."""
    _ = SQLiteBackend(path).dimensions


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn what SQLite and the file system say about the ledger at `path` into an error that helps."""
    try:
        yield
    except StorageError:
        raise
    except PermissionError as error:
        raise StorageError(
            f"cannot use the ledger {path!r}: this user may not open {error.filename!r}; "
            "run this as the user the app runs as"
        ) from error
    except sqlite3.Error as error:
        raise StorageError(
            f"cannot use the ledger {path!r}: {error}; give the path that the app's recorder has, "
            "and run this as the user the app runs as"
        ) from error


def _backends() -> list[Any]:
    urls = [url.strip() for url in os.environ.get("USAGEKIT_BACKEND", "").split(",")]
    return [backend_from_url(url) for url in urls if url]
