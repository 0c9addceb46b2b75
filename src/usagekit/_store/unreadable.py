"""What is wrong with a ledger that SQLite cannot open, in words that say what to do."""

from __future__ import annotations

import os
import sqlite3
import stat

from usagekit.errors import StorageError

_ELSEWHERE = "give the path that the app's recorder has"
_AS_THE_APP = "run this as the user the app runs as"


def unreadable(path: str, error: sqlite3.Error) -> StorageError:
    """Give the error to raise for the ledger at `path`, which SQLite refused with `error`."""
    why, advice = _reason(path, error)
    return StorageError(f"cannot read the ledger {path!r}: {why}; {advice}")


def not_opened_yet(path: str) -> StorageError:
    """Give the error to raise for a file that is empty, or a ledger of an older version."""
    why = "no recorder of this version of usagekit has opened it yet"
    what = f"start the app with it once, or run `usagekit drain` on it, or {_ELSEWHERE}"
    return StorageError(f"cannot read the ledger {path!r}: {why}; {what}")


def _reason(path: str, error: sqlite3.Error) -> tuple[str, str]:
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        return "this user may not look into its directory", _AS_THE_APP
    except OSError:
        return "it does not exist", _ELSEWHERE
    if stat.S_ISDIR(mode):
        return "it is a directory", _ELSEWHERE
    if not os.access(path, os.R_OK):
        return "this user may not read it", _AS_THE_APP
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN} and not os.access(path, os.W_OK):
        return "SQLite's readers write beside it, and this user may not", f"read a copy, or {_AS_THE_APP}"
    return str(error), _ELSEWHERE
