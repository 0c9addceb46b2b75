"""What a ledger remembers of users who were erased: enough to know a late event of theirs, and not who they were.

A tombstone is a keyed hash of the id, under a random salt of this ledger, and the time of the erasure. Events of that
user from before it, whenever they arrive, are nobody's. What the same id does afterwards counts for it anew.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3

ERASED_PREFIX = "\0erased:"  # of names in `users`; no recorded name begins like that

ERASED_BELOW = "char(1)"
"""SQL: names that are smaller are unknown or erased, so nobody's."""


class Tombstones:
    """The tombstones of one ledger, as its connection sees them; one thread at a time may use it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._seen = 0  # erasures
        self._salt = b""
        self._erased_us: dict[bytes, int] = {}
        self._known: dict[str, int | None] = {}

    def __bool__(self) -> bool:
        return bool(self._erased_us)

    def refresh(self, erasures: int) -> bool:
        """Tell whether somebody was erased since the last time; `erasures`: as `erasures_of` gives it."""
        if erasures == self._seen:
            return False
        self._seen = erasures
        self._salt = salt_of(self._connection)
        self._erased_us = dict(self._connection.execute("SELECT key, erased_us FROM tombstones"))
        self._known.clear()
        return True

    def covers(self, user: str, time_us: int) -> bool:
        """Tell whether an event of `user` at that time is nobody's."""
        if not user:
            return False
        if user not in self._known:
            if len(self._known) >= _KNOWN_LIMIT:
                self._known.clear()
            self._known[user] = self._erased_us.get(key_of(user, self._salt))
        erased_us = self._known[user]
        return erased_us is not None and time_us < erased_us

    def without_erased(self, decoded: list[list[Any]]) -> bool:
        """Make the decoded records that are nobody's nobody's, in place; tells whether there were any."""
        found = False
        for record in decoded:
            user, separator, rest = record[_SUBJECT].partition("\t")
            if self.covers(user, record[_TIME]):
                record[_SUBJECT] = separator + rest
                found = True
        return found


def erasures_of(connection: sqlite3.Connection) -> int:
    """Give how often somebody was erased; within a transaction that stays true to its end."""
    return connection.execute("SELECT value FROM counters WHERE name='erasures'").fetchone()[0]  # type: ignore[no-any-return]


_TIME, _SUBJECT = 1, 3
_KNOWN_LIMIT = 65_536


def salt_of(connection: sqlite3.Connection) -> bytes:
    """Give the ledger's salt; `b""` where there is none, and nobody was erased."""
    row = connection.execute("SELECT value FROM secrets WHERE name='tombstones'").fetchone()
    return b"" if row is None else row[0]


def make_salt(connection: sqlite3.Connection) -> bytes:
    """Give the ledger's salt, made where there is none; in a transaction."""
    connection.execute("INSERT INTO secrets VALUES ('tombstones', ?) ON CONFLICT DO NOTHING", (os.urandom(32),))
    return salt_of(connection)


def key_of(user: str, salt: bytes) -> bytes:
    """Give the keyed hash that stands for a user's id."""
    return blake2b(user.encode("utf-8", "surrogatepass"), key=salt, digest_size=16).digest()


def reason_without(user: str, reason: str) -> str:
    """Give the reason of a dead letter, or what stands for it where it holds the id of its user."""
    return "(removed with the user's id, which it held)" if user in reason else reason
