"""Moving journals into the ledger: exactly once, by whoever comes first.

Rows and the offset up to which a journal was read commit in one transaction, so any process may import the complete
records of any journal at any time. `BEGIN IMMEDIATE` lets one importer in at a time; the others see the offset it left.
"""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from usagekit._store import journal as journals
from usagekit._store import record as records
from usagekit._store.schema import BLOCK_SHIFT, OFFSET_BIAS, Transaction, connect

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES = 128 * 1024  # read from one journal at a time: about a thousand records
STEP_RECORDS = 2000  # a transaction ends when it holds this many
_WHOLE_BYTES = 1024**2  # no record is that long: what has no end within it is damage

_COLUMNS = (
    "seq, offset_us, shape, subject, latency_us, tail_us, output, input, cost_nano, cache_read, cache_write, reasoning"
)
_ROW = "(" + ",".join("?" * 12) + ")"
_NO_TOKENS = (0, None, 0, 0, 0)
_DICTIONARY_LIMIT = 65_536  # ids kept in memory per dictionary


class Importer:
    """Imports the journals of one directory into one ledger, for one process.

    Lives as long as its process cares to import; one thread at a time may use it. `close` it in the process that
    made it, and only there: a connection must not be closed by a fork's child.

    Args:
        path: the ledger, which `schema.prepare` has seen.
        directory: the journals.
    """

    def __init__(self, path: str, directory: str) -> None:
        self._directory = directory
        self._connection = connect(path)
        self._connection.execute("PRAGMA busy_timeout=0")
        self._shapes = _Dictionary(self._find_shape)
        self._subjects = _Dictionary(self._find_subject)
        self.imported: dict[str, int] = {}  # bytes, by journal, as far as this process knows
        self._tail: _Tail | None = None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def pending(self) -> list[tuple[str, str, int]]:
        """Give name, path and size of the journals that hold more than was imported."""
        present = list(journals.files(self._directory))
        if not any(size > self.imported.get(name, 0) for name, _, size in present):
            return []
        # Another process may have been here; a look costs less than a transaction.
        find = "SELECT imported FROM journals WHERE name=?"
        for name, _, _ in present:
            row = self._connection.execute(find, (name,)).fetchone()
            if row is not None:
                self.imported[name] = row[0]
        return [entry for entry in present if entry[2] > self.imported.get(entry[0], 0)]

    def reached(self, sizes: dict[str, int]) -> bool:
        """Tell whether the journals were imported as far as `sizes` says; those that are gone were."""
        present = {name for name, _, _ in journals.files(self._directory)}
        return all(self.imported.get(name, 0) >= size for name, size in sizes.items() if name in present)

    def step(self) -> int:
        """Import one batch in one transaction; returns how many records it took, 0 when there are none.

        Raises `sqlite3.OperationalError` where another process is writing, the disk is full, and so on: nothing has
        happened then, and the same step can be tried again.
        """
        pending = self.pending()
        if not pending:
            return 0
        try:
            return self._step(pending, careful=False)
        except (ValueError, TypeError, KeyError, OverflowError, sqlite3.IntegrityError):
            # A record that passed its CRC and is none of ours. Look at each one, once.
            return self._step(pending, careful=True)

    def _step(self, pending: list[tuple[str, str, int]], *, careful: bool) -> int:
        taken = 0
        progressed: dict[str, int] = {}
        with self._transaction():
            tail = self._current_tail()
            for name, path, _ in pending:
                if taken >= STEP_RECORDS:
                    break
                try:
                    reading = journals.Reading(name, path)
                except FileNotFoundError:
                    continue
                with reading:
                    journal, start = self._journal(name)
                    batch = _read(reading, start)
                    taken += len(batch.payloads) + batch.corrupt
                    self._insert(journal, batch, tail, careful=careful)
                    if batch.end != start:
                        self._connection.execute("UPDATE journals SET imported=? WHERE id=?", (batch.end, journal))
                    progressed[name] = batch.end
            self._save_tail(tail)
        self.imported |= progressed
        return taken

    def import_payloads(self, name: str, payloads: list[bytes]) -> None:
        """Import records that were accepted in memory, as journal `name`; in one transaction, or not at all."""
        with self._transaction():
            tail = self._current_tail()
            journal, _ = self._journal(name)
            self._insert(journal, _Batch(payloads, 0, 0), tail, careful=False)
            self._save_tail(tail)

    def adopt(self) -> int:
        """Remove journals that were imported to their end and whose owner is gone; returns how many were removed.

        A torn record at such an end is counted as corrupt: its writer died in the middle of it, unaccepted.
        """
        removed = 0
        present = list(journals.files(self._directory))
        self.imported = {name: self.imported[name] for name, _, _ in present if name in self.imported}
        for name, path, size in present:
            if size > self.imported.get(name, 0):
                continue
            try:
                with journals.Reading(name, path) as reading:
                    if not reading.owned and reading.length() <= self.imported.get(name, 0):
                        reading.delete()
                        self.imported.pop(name, None)
                        removed += 1
            except FileNotFoundError:
                continue
        journals.sweep_unborn(self._directory)
        return removed

    def _transaction(self) -> Transaction:
        return Transaction(self._connection, self._settle)

    def _settle(self, committed: bool) -> None:  # noqa: FBT001  a callback
        self._shapes.settle(committed=committed)
        self._subjects.settle(committed=committed)
        if not committed:
            self._tail = None
            self.imported = {}

    def _journal(self, name: str) -> tuple[int, int]:
        row = self._connection.execute("SELECT id, imported FROM journals WHERE name=?", (name,)).fetchone()
        if row is not None:
            return row  # type: ignore[no-any-return]
        insert = "INSERT INTO journals (name, imported) VALUES (?, 0) RETURNING id, imported"
        return self._connection.execute(insert, (name,)).fetchone()  # type: ignore[no-any-return]

    def _current_tail(self) -> _Tail:
        """Give the ledger's end: as remembered, or read anew where another process has written since."""
        next_seq = self._connection.execute("SELECT value FROM counters WHERE name='next_seq'").fetchone()[0]
        if self._tail is not None and self._tail.next_seq == next_seq:
            return self._tail
        run = self._connection.execute(
            "SELECT journal, first_number - first_seq FROM runs ORDER BY first_seq DESC LIMIT 1"
        ).fetchone()
        self._tail = _Tail(next_seq, run, self._block(next_seq >> BLOCK_SHIFT))
        return self._tail

    def _block(self, number: int) -> _Block | None:
        row = self._connection.execute(
            "SELECT base_us, first_us, last_us FROM blocks WHERE block=?", (number,)
        ).fetchone()
        return None if row is None else _Block(number, *row)

    def _save_tail(self, tail: _Tail) -> None:
        execute = self._connection.execute
        execute("UPDATE counters SET value=? WHERE name='next_seq'", (tail.next_seq,))
        if tail.corrupt or tail.repeated:
            execute("UPDATE counters SET value=value+? WHERE name='corrupt'", (tail.corrupt,))
            execute("UPDATE counters SET value=value+? WHERE name='repeated'", (tail.repeated,))
            tail.corrupt = tail.repeated = 0
        for block in tail.touched.values():
            execute("INSERT OR REPLACE INTO blocks VALUES (?,?,?,?)", block.row())
        tail.touched.clear()
        for run in tail.new_runs:
            execute("INSERT INTO runs VALUES (?,?,?)", run)
        tail.new_runs.clear()

    def _insert(self, journal: int, batch: _Batch, tail: _Tail, *, careful: bool) -> None:
        decoded, undecodable = records.decode(batch.payloads)
        if careful:
            sound = [record for record in decoded if records.is_sound(record)]
            undecodable += len(decoded) - len(sound)
            decoded = sound
        tail.corrupt += batch.corrupt + undecodable
        # Threads may have written a moment out of turn; in order, whole batches are one run.
        decoded.sort(key=itemgetter(0))
        rows = self._rows(journal, decoded, tail)
        start = 0
        while start < len(rows):
            count = min(512, 1 << (len(rows) - start).bit_length() - 1)
            # One big statement: executemany would hand over the interpreter's lock at every row.
            self._connection.execute(_insert_sql(count), list(chain.from_iterable(rows[start : start + count])))
            start += count

    def _rows(self, journal: int, decoded: list[list[Any]], tail: _Tail) -> list[tuple[Any, ...]]:
        shapes, subjects = self._shapes.ids, self._subjects.ids
        find_shape, find_subject = self._shapes.find, self._subjects.find
        seq, block = tail.next_seq, tail.block
        rows = []
        for record in decoded:
            number, time_us, shape, subject, latency_us, tail_us, output = record[:7]
            if len(record) == records.KEYED and not self._is_new_key(record[12], seq):
                tail.repeated += 1
                continue
            if block is None or block.number != seq >> BLOCK_SHIFT:
                block = _Block(seq >> BLOCK_SHIFT, time_us + OFFSET_BIAS, time_us, time_us)
            block.first_us = min(block.first_us, time_us)
            block.last_us = max(block.last_us, time_us)
            tail.touched[block.number] = block
            if tail.run is None or tail.run[0] != journal or tail.run[1] != number - seq:
                tail.run = (journal, number - seq)
                tail.new_runs.append((seq, journal, number))
            rows.append(
                (
                    seq,
                    time_us - block.base_us,
                    shapes.get(shape) or find_shape(shape),
                    subjects.get(subject) or find_subject(subject),
                    latency_us,
                    tail_us,
                    output,
                    *(record[7:12] or _NO_TOKENS),
                )
            )
            seq += 1
        tail.next_seq, tail.block = seq, block
        return rows

    def _is_new_key(self, key: str, seq: int) -> bool:
        insert = "INSERT INTO keys VALUES (?,?) ON CONFLICT DO NOTHING"
        return self._connection.execute(insert, (bytes.fromhex(key), seq)).rowcount == 1

    def _find_shape(self, text: str) -> int:
        kind, event, status, route, provider, model, cost_source, aborted = text.split(records.SEPARATOR)
        values = {
            "kind": kind,
            "event": event,
            "status": int(status),
            "route": route,
            "provider": provider,
            "model": model,
            "cost_source": cost_source,
            "aborted": int(bool(aborted)),
        }
        return self._id("shapes", values)

    def _find_subject(self, text: str) -> int:
        user, org, *extra = text.split(records.SEPARATOR)
        if extra:
            names = ("weight", "quantity", "other_output", "attributes")
            extra_id = self._id("extras", dict(zip(names, records.parse_extra(extra[0]), strict=True)))
        else:
            extra_id = 0
        values = {"user": self._id("users", {"name": user}), "org": self._id("orgs", {"name": org}), "extra": extra_id}
        return self._id("subjects", values)

    def _id(self, table: str, values: dict[str, Any]) -> int:
        """Give the id of the dictionary entry with these values; made where there is none. Names are literals."""
        where = " AND ".join(f"{name}=:{name}" for name in values)
        row = self._connection.execute(f"SELECT id FROM {table} WHERE {where}", values).fetchone()
        if row is None:
            names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
            insert = f"INSERT INTO {table} ({names}) VALUES ({marks}) RETURNING id"
            row = self._connection.execute(insert, values).fetchone()
        return row[0]  # type: ignore[no-any-return]


class _Batch:
    """Records read from one journal in one go."""

    __slots__ = ("corrupt", "end", "payloads")

    def __init__(self, payloads: list[bytes], corrupt: int, end: int) -> None:
        self.payloads = payloads
        self.corrupt = corrupt
        self.end = end  # the journal's offset behind them


def _read(reading: journals.Reading, start: int) -> _Batch:
    data = reading.read(start, CHUNK_BYTES)
    payloads, corrupt, consumed = records.split(data)
    if consumed == 0 or (not payloads and not corrupt):
        # Only newlines, or the beginning of one record: is it still being written, torn, or damage without an end?
        longer = reading.read(start, _WHOLE_BYTES)
        payloads, corrupt, consumed = records.split(longer)
        torn = not reading.owned and start + len(longer) >= reading.length()
        if not payloads and not corrupt and longer[consumed:] and (torn or len(longer) == _WHOLE_BYTES):
            return _Batch([], 1, start + len(longer))
    return _Batch(payloads, corrupt, start + consumed)


class _Block:
    """One row of `blocks`."""

    __slots__ = ("base_us", "first_us", "last_us", "number")

    def __init__(self, number: int, base_us: int, first_us: int, last_us: int) -> None:
        self.number = number
        self.base_us = base_us
        self.first_us = first_us
        self.last_us = last_us

    def row(self) -> tuple[int, int, int, int]:
        return self.number, self.base_us, self.first_us, self.last_us


class _Tail:
    """The end of the ledger, and what a transaction is about to change there."""

    __slots__ = ("block", "corrupt", "new_runs", "next_seq", "repeated", "run", "touched")

    def __init__(self, next_seq: int, run: tuple[int, int] | None, block: _Block | None) -> None:
        self.next_seq = next_seq
        self.run = run  # journal and number - seq of the last run
        self.block = block
        self.touched: dict[int, _Block] = {}
        self.new_runs: list[tuple[int, int, int]] = []
        self.corrupt = 0
        self.repeated = 0


class _Dictionary:
    """Ids of texts, remembered as long as they are true: what a rolled-back transaction made is forgotten."""

    __slots__ = ("_find", "_fresh", "ids")

    def __init__(self, find: Callable[[str], int]) -> None:
        self._find = find
        self._fresh: list[str] = []
        self.ids: dict[str, int] = {}

    def find(self, text: str) -> int:
        found = self._find(text)
        if len(self.ids) >= _DICTIONARY_LIMIT:
            self.ids.clear()
        self.ids[text] = found
        self._fresh.append(text)
        return found

    def settle(self, *, committed: bool) -> None:
        if not committed:
            for text in self._fresh:
                self.ids.pop(text, None)
        self._fresh.clear()


@lru_cache(maxsize=16)
def _insert_sql(count: int) -> str:
    return f"INSERT INTO events ({_COLUMNS}) VALUES {','.join([_ROW] * count)}"
