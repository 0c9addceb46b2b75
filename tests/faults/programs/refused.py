"""Prints the error that a user without rights gets: refused.py LEDGER."""

from __future__ import annotations

import os
import sys

import sqlite_utils  # noqa: F401  loaded before the rights are gone: Python itself may lie in root's home

from usagekit import Recorder
from usagekit._store import opening  # noqa: F401  likewise
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import StorageError

if __name__ == "__main__":
    backend = SQLiteBackend(sys.argv[1])
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        Recorder(backend)
    except StorageError as error:
        print(f"{type(error).__name__}: {error}")
