"""Carrying events from the ledger to a sink, at least once, one frozen batch at a time.

The end of a batch and its id are in the ledger before it is first sent, so every retry, by this process or the next,
is the same batch. What a sink will never take is found by halving and parked as a dead letter; the rest goes on. The
halves are in the ledger before they are sent, too, so that a sink that fails amid the search gets no part twice.
"""

from __future__ import annotations

import json
import os
import random
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from usagekit import _clean
from usagekit._store.events import EVENT_COLUMNS, EVENT_NAMES, fields_of_columns, last_seq
from usagekit._store.schema import BLOCK_SHIFT, Transaction, connect
from usagekit._store.tombstones import Tombstones, erasures_of, reason_without
from usagekit.errors import Rejected, RetryAfter

if TYPE_CHECKING:
    import sqlite3

    from usagekit.backends import Sink
    from usagekit.event import UsageEvent

FIRST_WAIT = 0.25  # seconds after the first failure
LONGEST_WAIT = 60.0
LONGEST_ASKED = 3600.0  # a sink may ask for this long
_REASON_CHARACTERS = 4096  # kept of why an event was rejected

_EVENTS = f"""
SELECT {EVENT_COLUMNS}
FROM events e
JOIN blocks b ON b.block = e.seq >> :shift
{EVENT_NAMES}
WHERE e.seq > :after AND e.seq <= :end
ORDER BY e.seq
LIMIT :limit
"""


def read_events(connection: sqlite3.Connection, after: int, end: int, limit: int = -1) -> list[tuple[int, UsageEvent]]:
    """Give the events with `after < seq <= end` and their sequence numbers, in import order."""
    values = {"shift": BLOCK_SHIFT, "after": after, "end": end, "limit": limit}
    from usagekit.event import of_clean

    rows = map(fields_of_columns, connection.execute(_EVENTS, values))
    return [(seq, of_clean(fields)) for seq, fields in rows]


class Backoff:
    """How long to wait before the next try: growing, jittered, and as the sink asks."""

    def __init__(self) -> None:
        self._wait = 0.0

    def succeeded(self) -> None:
        """Begin anew."""
        self._wait = 0.0

    def failed(self, error: BaseException) -> float:
        """Give the seconds to wait after `error`."""
        if isinstance(error, RetryAfter):
            return min(max(0.0, error.seconds), LONGEST_ASKED)
        spread = random.uniform(FIRST_WAIT, max(FIRST_WAIT, self._wait * 3))  # noqa: S311  jitter
        self._wait = min(LONGEST_WAIT, spread)
        return self._wait


def halves(batch_id: str, size: int) -> tuple[tuple[str, int], tuple[str, int]]:
    """Give the id and the size of the two parts of a batch of `size` events, 2 or more, that was rejected as a whole.

    The ids follow from the whole's, so that whoever halves it again comes to the same parts.
    """
    return (f"{batch_id}.0", size // 2), (f"{batch_id}.1", size - size // 2)


class _Batch(NamedTuple):
    """What is sent next, and again and again until it is settled: the events with `after < seq <= end`."""

    id: str
    after: int
    end: int
    parts: tuple[tuple[str, int], ...]  # what comes then, as ids and ends, where a batch was halved

    @classmethod
    def of_row(cls, row: tuple[str, int, int, str | None]) -> _Batch:
        return cls(row[0], row[1], row[2], tuple((part, end) for part, end in json.loads(row[3] or "[]")))


class Delivery:
    """One sink's way through the ledger, for one process. One thread at a time may use it.

    Args:
        path: the ledger.
        name: under which the sink's cursor is kept; the same in every process and after every restart.
        sink: where to.
        spool_of: where the ledger is nothing but the spool of some sinks, the names of all of them: events that each
            of them has are dropped. Empty where the ledger keeps its events.

    Attributes:
        is_sending: whether the last step ended within the sink: what it raised is the sink's, and not the ledger's.
    """

    def __init__(self, path: str, name: str, sink: Sink, *, spool_of: tuple[str, ...] = ()) -> None:
        self.name = name
        self._sink = sink
        self._spool_of = spool_of
        self._path = path
        self.is_sending = False
        self._unsettled: tuple[_Batch, list[UsageEvent], Rejected | None] | None = None  # taken, and not yet noted

    def step(self) -> int:
        """Send one batch, or the first part of it that is not rejected; returns how many events were settled.

        0 = none are waiting. Raises what the sink raised: the next step sends the same again. Or `sqlite3.Error`: the
        next step goes on where this one was, and sends nothing again that the sink has taken.
        """
        self.is_sending = False
        if self._unsettled is not None:
            # The ledger could not be written after the sink had taken it: a busy ledger must send nothing twice.
            return self._settled(*self._unsettled)
        while True:
            # No connection is open while the sink takes its time: a fork would have to wait for it.
            with closing(connect(self._path)) as connection:
                batch = self._frozen_batch(connection)
                if batch is None:
                    return 0
                events = read_events(connection, batch.after, batch.end)
            dead = None
            try:
                if events:
                    self.is_sending = True
                    self._sink.write([event for _, event in events], batch_id=batch.id)
                    self.is_sending = False
            except Rejected as verdict:
                self.is_sending = False
                if len(events) > 1:
                    with closing(connect(self._path)) as connection:
                        self._split(connection, batch, [seq for seq, _ in events])
                    continue
                dead = verdict
            return self._settled(batch, [event for _, event in events], dead)

    def _settled(self, batch: _Batch, events: list[UsageEvent], dead: Rejected | None) -> int:
        """Note that a batch is done with; where that fails, the next step begins with it."""
        self._unsettled = batch, events, dead
        with closing(connect(self._path)) as connection:
            self._settle(connection, batch, events, dead)
        self._unsettled = None
        return batch.end - batch.after

    def _frozen_batch(self, connection: sqlite3.Connection) -> _Batch | None:
        execute = connection.execute
        find = "SELECT batch_id, delivered_seq, batch_end, batch_parts FROM sinks WHERE name=?"
        row = execute(find, (self.name,)).fetchone()
        if row is not None and row[0] is not None:
            return _Batch.of_row(row)
        after = 0 if row is None else row[1]
        end = min(last_seq(connection), after + max(1, self._sink.max_batch))
        if end <= after:
            return None
        with Transaction(connection):
            execute(
                "INSERT INTO sinks (name, delivered_seq, delivered) VALUES (?,0,0) ON CONFLICT DO NOTHING", (self.name,)
            )
            execute(
                "UPDATE sinks SET batch_id=?, batch_end=? WHERE name=? AND batch_id IS NULL AND delivered_seq=?",
                (os.urandom(12).hex(), end, self.name, after),
            )
            row = execute(find, (self.name,)).fetchone()
        # Another process may have been here in between; then there may be nothing left to do.
        return None if row[0] is None else _Batch.of_row(row)

    def _split(self, connection: sqlite3.Connection, batch: _Batch, seqs: list[int]) -> None:
        """Put two halves in the place of a rejected batch, before either is sent: each is frozen like any other."""
        (first, size), (second, _) = halves(batch.id, len(seqs))
        parts = ((second, batch.end), *batch.parts)
        with Transaction(connection):
            connection.execute(
                "UPDATE sinks SET batch_id=?, batch_end=?, batch_parts=? WHERE name=? AND batch_id=?",
                (first, seqs[size - 1], json.dumps(parts), self.name, batch.id),
            )

    def _settle(
        self, connection: sqlite3.Connection, batch: _Batch, events: list[UsageEvent], dead: Rejected | None
    ) -> None:
        execute = connection.execute
        (next_id, next_end), *others = batch.parts or ((None, None),)
        with Transaction(connection):
            settled = execute(
                "UPDATE sinks SET delivered_seq=?, delivered=delivered+?, batch_id=?, batch_end=?, batch_parts=?"
                " WHERE name=? AND batch_id=?",
                (
                    batch.end,
                    0 if dead else len(events),
                    next_id,
                    next_end,
                    json.dumps(others) if others else None,
                    self.name,
                    batch.id,
                ),
            ).rowcount
            if not settled:
                return  # the same batch was sent, and settled, by another process
            letters = [] if dead is None else [(events[0], dead)]
            for event, reason in _without_erased(connection, letters):
                execute(
                    "INSERT INTO dead_letters (sink, event_id, event, reason, at) VALUES (?,?,?,?,?)",
                    (
                        self.name,
                        event.id,
                        json.dumps(event.to_dict(), allow_nan=False),
                        reason,
                        datetime.now(UTC).isoformat(),
                    ),
                )
            if self._spool_of:
                self._drop_delivered(connection)

    def _drop_delivered(self, connection: sqlite3.Connection) -> None:
        execute = connection.execute
        marks = ",".join("?" * len(self._spool_of))
        known, everywhere = execute(
            f"SELECT count(*), min(delivered_seq) FROM sinks WHERE name IN ({marks})",
            self._spool_of,
        ).fetchone()
        if known < len(self._spool_of):
            return
        execute("DELETE FROM events WHERE seq <= ?", (everywhere,))
        execute("DELETE FROM blocks WHERE block < (? + 1) >> ?", (everywhere, BLOCK_SHIFT))
        execute(
            "DELETE FROM runs WHERE first_seq < (SELECT max(first_seq) FROM runs WHERE first_seq <= ?)", (everywhere,)
        )


def _without_erased(
    connection: sqlite3.Connection, dead: list[tuple[UsageEvent, Rejected]]
) -> list[tuple[UsageEvent, str]]:
    """Give dead letters and their reasons; nobody's where the user was erased while they were under way."""
    from usagekit.event import to_microseconds

    tombstones = Tombstones(connection)
    if not dead or not tombstones.refresh(erasures_of(connection)):
        return [(event, _clean.text(verdict, _REASON_CHARACTERS)) for event, verdict in dead]
    letters = []
    for event, verdict in dead:
        reason = _clean.text(verdict, _REASON_CHARACTERS)  # a sink's words may come from anywhere
        if tombstones.covers(event.user, to_microseconds(event.time)):
            letters.append((replace(event, user=""), reason_without(event.user, reason)))
        else:
            letters.append((event, reason))
    return letters
