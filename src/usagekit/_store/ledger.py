"""Moving journals into the ledger: exactly once, by whoever comes first.

Rows and the offset up to which a journal was read commit in one transaction, so any process may import the complete
records of any journal at any time. `BEGIN IMMEDIATE` lets one importer in at a time; the others see the offset it left.
"""

from __future__ import annotations

import json
import os
import sqlite3
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from usagekit._store import journal as journals
from usagekit._store import record as records
from usagekit._store.batches import Batch, read_batch
from usagekit._store.dictionaries import Dictionaries
from usagekit._store.schema import BLOCK_SHIFT, OFFSET_BIAS, Transaction, connect
from usagekit._store.steps import columns_of, most_rows, write
from usagekit._store.tombstones import Tombstones

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usagekit._store.retention import Purge, Retention
    from usagekit._store.rollups import Rollups

STEP_RECORDS = 8192  # a transaction ends when it holds this many

_INSERT = (
    "INSERT INTO events (seq, offset_us, shape, subject, latency_us, tail_us, output, input, cost_nano, cache_read,"
    " cache_write, reasoning) VALUES"
)
_BEGUN = (
    "SELECT (SELECT value FROM counters WHERE name = 'erasures'), (SELECT value FROM counters WHERE name = 'next_seq')"
)
_SHORT_ROW = "(?,?,?,?,?,?,?,0,NULL,0,0,0)"
_LONG_ROW = "(?,?,?,?,?,?,?,?,?,?,?,?)"
_NO_TOKENS: list[Any] = [0, None, 0, 0, 0]
_NUMBER, _SHAPE, _SUBJECT = map(itemgetter, (0, 2, 3))
_BLOCK_ROWS = 1 << BLOCK_SHIFT


class Importer:
    """Imports the journals of one directory into one ledger, for one process.

    Lives as long as its process cares to import; one thread at a time may use it. `close` it in the process that
    made it, and only there: a connection must not be closed by a fork's child.

    Args:
        path: the ledger, which `schema.prepare` has seen.
        directory: the journals.
    """

    def __init__(self, path: str, directory: str) -> None:
        self._path = path
        self._directory = directory
        self._connection = connect(path)
        self._connection.execute("PRAGMA busy_timeout=0")
        found = os.stat(path)
        self._identity = (found.st_dev, found.st_ino)
        self._dictionaries = Dictionaries(self._connection)
        self.imported: dict[str, int] = {}  # bytes, by journal, as far as this process knows
        self._tail: _Tail | None = None
        self._tombstones = Tombstones(self._connection)
        self._rollups: Rollups | None = None
        self._purge: Purge | None = None

    def roll_up(self, at_least: int = 1) -> int | None:
        """Fold the next events into the rollups, where `at_least` so many wait.

        Returns how many it were, 0 when there is nothing to do, None while another process is at it. Raises as `step`.
        """
        rollups = self._rolling()
        if not rollups.is_due(at_least):
            return 0
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        with OneAtATime(os.path.join(self._directory, "rollups.lock")) as elected:
            return rollups.step() if elected else None

    def end(self) -> int:
        """Give the last sequence number there is, what a caller of `roll_up` may wait for."""
        return self._rolling().end()

    def is_rolled_up(self, seq: int) -> bool:
        """Tell whether the rollups hold everything up to a sequence number."""
        return self._rolling().reach(seq)

    def rebuild_rollups(self) -> None:
        """Begin to make the rollups anew, where the raw rows still are; `roll_up` does it."""
        self._rolling().begin_rebuild()

    def purge(self, retention: Retention) -> int | None:
        """Remove a few of the events that are too old; 0 when none is left, None while another process is at it."""
        from usagekit._store.retention import Purge

        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        with OneAtATime(os.path.join(self._directory, "purge.lock")) as elected:
            if not elected:
                return None
            if self._purge is None:
                self._purge = Purge(self._connection, *retention.limits_us())
            if self._purge.step():
                return 1
            if self._purge.events:
                self._purge.finish()
            self._purge = None
        return 0

    def _rolling(self) -> Rollups:
        if self._rollups is None:
            from usagekit._store.rollups import Rollups

            self._rollups = Rollups(self._connection)
        return self._rollups

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def pending(self) -> list[tuple[str, str, int]]:
        """Give name, path and size of the journals that hold more than was imported."""
        longer = [entry for entry in journals.files(self._directory) if entry[2] > self.imported.get(entry[0], 0)]
        if longer:
            # Another process may have been here; a look costs less than a transaction.
            self.imported |= {name: imported for name, (_, imported) in self._journals(longer).items()}
        return [entry for entry in longer if entry[2] > self.imported.get(entry[0], 0)]

    def is_current(self) -> bool:
        """Tell whether the file that is open is still the one at the ledger's path."""
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def reached(self, sizes: dict[str, int]) -> bool:
        """Tell whether the journals were imported as far as `sizes` says; those that are gone were."""
        present = {name for name, _, _ in journals.files(self._directory)}
        return all(self.imported.get(name, 0) >= size for name, size in sizes.items() if name in present)

    def step(self) -> int:
        """Import one batch in one transaction; returns how many records it took, 0 when there are none.

        Raises `sqlite3.OperationalError` where another process is writing, the disk is full, and so on: nothing has
        happened then, and the same step can be tried again. What a record holds must raise something else: only then
        is each one looked at.
        """
        pending = self.pending()
        if not pending:
            return 0
        try:
            return self._step(pending, careful=False)
        except (OSError, sqlite3.OperationalError):
            raise
        except Exception:  # noqa: BLE001  a record that passed its CRC and is none of ours may fail anywhere
            # Look at each one, once.
            return self._step(pending, careful=True)

    def _step(self, pending: list[tuple[str, str, int]], *, careful: bool) -> int:
        taken = 0
        progressed: dict[str, int] = {}
        unreadable: OSError | None = None
        late: list[tuple[str, str, int, int]] = []
        with self._transaction():
            tail = self._begin()
            known, ends = self._journals(pending), {}
            for name, path, _ in pending:
                if taken >= STEP_RECORDS:
                    break
                try:
                    reading = journals.Reading(name, path)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    unreadable = error  # not ours to read: the others can still be imported
                    continue
                with reading:
                    journal, start = known.get(name) or self._new_journal(name)
                    end, has_late = start, False
                    while taken < STEP_RECORDS:
                        # Small pieces: each is decoded in one go, during which no other thread of the app runs.
                        batch = read_batch(reading, end)
                        if batch.end == end:
                            break
                        end = batch.end
                        taken += len(batch.payloads) + batch.corrupt
                        has_late |= self._insert(journal, batch, tail, careful=careful)
                    progressed[name] = ends[journal] = end
                    if has_late:
                        late.append((name, path, start, end))
            self._save_tail(tail)
            self._connection.execute(
                "UPDATE journals SET imported = n.value FROM json_each(?) n WHERE journals.id = CAST(n.key AS INTEGER)",
                (json.dumps(ends),),
            )
        self.imported |= progressed
        _blank(late)
        if unreadable is not None:
            raise unreadable
        return taken

    def import_payloads(self, name: str, payloads: list[bytes]) -> None:
        """Import records that were accepted in memory, as journal `name`; in one transaction, or not at all."""
        with self._transaction():
            tail = self._begin()
            journal, _ = self._journals([(name,)]).get(name) or self._new_journal(name)
            self._insert(journal, Batch(payloads, 0, 0), tail, careful=False)
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
            except OSError:
                continue  # removed by another process, or not ours
        journals.sweep_unborn(self._directory)
        return removed

    def _begin(self) -> _Tail:
        """Give the ledger's end, in a new transaction; know who was erased, so that none of them comes back."""
        erasures, next_seq = self._connection.execute(_BEGUN).fetchone()
        if self._tombstones.refresh(erasures):
            self._dictionaries.forget_subjects()
        return self._current_tail(next_seq)

    def _transaction(self) -> Transaction:
        return Transaction(self._connection, self._settle)

    def _settle(self, committed: bool) -> None:  # noqa: FBT001  a callback
        self._dictionaries.settle(committed=committed)
        if not committed:
            self._tail = None
            self.imported = {}

    def _journals(self, entries: Sequence[tuple[str, *tuple[object, ...]]]) -> dict[str, tuple[int, int]]:
        """Give id and imported bytes of journals, by name, that the ledger knows."""
        names = {"names": json.dumps([name for name, *_ in entries])}
        rows = "FROM journals WHERE name IN (SELECT value FROM json_each(:names))"
        found, *known = columns_of(self._connection, ("name", "id", "imported"), rows, names)
        return dict(zip(found, zip(*known, strict=True), strict=True))

    def _new_journal(self, name: str) -> tuple[int, int]:
        insert = "INSERT INTO journals (name, imported) VALUES (?, 0) RETURNING id, imported"
        return self._connection.execute(insert, (name,)).fetchone()  # type: ignore[no-any-return]

    def _current_tail(self, next_seq: int) -> _Tail:
        """Give the ledger's end: as remembered, or read anew where another process has written since."""
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
        self._write_rows(tail)
        execute = self._connection.execute
        execute("UPDATE counters SET value=? WHERE name='next_seq'", (tail.next_seq,))
        if tail.corrupt or tail.repeated:
            execute("UPDATE counters SET value=value+? WHERE name='corrupt'", (tail.corrupt,))
            execute("UPDATE counters SET value=value+? WHERE name='repeated'", (tail.repeated,))
            tail.corrupt = tail.repeated = 0
        if tail.touched:
            rows = [block.row() for block in tail.touched.values()]
            write(self._connection, "INSERT OR REPLACE INTO blocks VALUES", "(?,?,?,?)", "", rows)
        tail.touched.clear()
        write(self._connection, "INSERT INTO runs VALUES", "(?,?,?)", "", tail.new_runs)
        tail.new_runs.clear()

    def _insert(self, journal: int, batch: Batch, tail: _Tail, *, careful: bool) -> bool:
        """Insert a batch; tells whether it held late events of users who were erased."""
        decoded, undecodable = records.decode(batch.payloads)
        if careful:
            sound = [record for record in decoded if records.is_sound(record)]
            undecodable += len(decoded) - len(sound)
            decoded = sound
        tail.corrupt += batch.corrupt + undecodable
        has_late = bool(self._tombstones) and self._tombstones.without_erased(decoded)
        # Threads may have written a moment out of turn; in order, whole batches are one run.
        decoded.sort(key=_NUMBER)
        widths = set(map(len, decoded))
        if records.KEYED in widths:
            decoded = [record[:12] for record in self._without_repeated(decoded, tail)]
        _continue_runs(tail, journal, list(map(_NUMBER, decoded)))
        short = widths == {records.SHORT}
        if len(widths) > 1:
            decoded = [record if len(record) > records.SHORT else record + _NO_TOKENS for record in decoded]
        due = tail.rows[_SHORT_ROW if short else _LONG_ROW]
        due += self._rows(decoded, tail, short=short)
        self._write_rows(tail, whole=True)
        return has_late

    def _write_rows(self, tail: _Tail, *, whole: bool = False) -> None:
        """Write rows that are due; `whole`: but for those that fill no statement, as the next batch will fill it."""
        for row, due in tail.rows.items():
            count = len(due) - len(due) % most_rows(row) if whole else len(due)
            write(self._connection, _INSERT, row, "", due[:count])
            del due[:count]

    def _without_repeated(self, decoded: list[list[Any]], tail: _Tail) -> list[list[Any]]:
        insert = "INSERT INTO keys VALUES (?,?) ON CONFLICT DO NOTHING"
        kept: list[list[Any]] = []
        for record in decoded:
            if len(record) == records.KEYED:
                values = (bytes.fromhex(record[-1]), tail.next_seq + len(kept))
                if self._connection.execute(insert, values).rowcount == 0:
                    tail.repeated += 1
                    continue
            kept.append(record)
        return kept

    def _rows(self, decoded: list[list[Any]], tail: _Tail, *, short: bool) -> list[tuple[Any, ...]]:
        shapes, subjects = self._dictionaries.shapes, self._dictionaries.subjects
        shapes.learn(map(_SHAPE, decoded))
        subjects.learn(map(_SUBJECT, decoded))
        rows: list[tuple[Any, ...]] = []
        while decoded:
            seq = tail.next_seq
            room = _BLOCK_ROWS - seq % _BLOCK_ROWS
            chunk, decoded = decoded[:room], decoded[room:]
            base = tail.block_for([record[1] for record in chunk]).base_us
            if short:
                rows += [
                    (number, time_us - base, shapes[shape], subjects[subject], latency_us, tail_us, output)
                    for number, (_, time_us, shape, subject, latency_us, tail_us, output) in enumerate(chunk, seq)
                ]
            else:
                rows += [
                    (number, time_us - base, shapes[shape], subjects[subject], a, b, c, d, e, f, g, h)
                    for number, (_, time_us, shape, subject, a, b, c, d, e, f, g, h) in enumerate(chunk, seq)
                ]
            tail.next_seq = seq + len(chunk)
        return rows


class OneAtATime:
    """A context manager that tells whether nobody else, in any process, is within one for the same file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> bool:
        from fcntl import LOCK_EX, LOCK_NB, flock

        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            flock(self._descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _blank(imported: list[tuple[str, str, int, int]]) -> None:
    """Overwrite parts of journals, given by name, path, start and end, that hold ids of erased users."""
    for name, path, start, end in imported:
        try:
            with journals.Reading(name, path) as reading:
                reading.blank(start, end)
        except FileNotFoundError:
            continue  # removed by another process


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

    __slots__ = ("block", "corrupt", "new_runs", "next_seq", "repeated", "rows", "run", "touched")

    def __init__(self, next_seq: int, run: tuple[int, int] | None, block: _Block | None) -> None:
        self.next_seq = next_seq
        self.run = run  # journal and number - seq of the last run
        self.block = block
        self.touched: dict[int, _Block] = {}
        self.new_runs: list[tuple[int, int, int]] = []
        self.rows: dict[str, list[tuple[Any, ...]]] = {
            _SHORT_ROW: [],
            _LONG_ROW: [],
        }  # to be written, within one transaction
        self.corrupt = 0
        self.repeated = 0

    def block_for(self, times_us: list[int]) -> _Block:
        """Give the block of the next event, made or widened for events at these times."""
        number = self.next_seq >> BLOCK_SHIFT
        first_us, last_us = min(times_us), max(times_us)
        if self.block is None or self.block.number != number:
            self.block = _Block(number, times_us[0] + OFFSET_BIAS, first_us, last_us)
        self.block.first_us = min(self.block.first_us, first_us)
        self.block.last_us = max(self.block.last_us, last_us)
        self.touched[number] = self.block
        return self.block


def _continue_runs(tail: _Tail, journal: int, numbers: list[int]) -> None:
    """Note where the numbers of the next events begin anew; `numbers` are ascending."""
    if not numbers:
        return
    seq = tail.next_seq
    whole = numbers[-1] - numbers[0] == len(numbers) - 1
    for number in numbers[:1] if whole else numbers:
        if tail.run != (journal, number - seq):
            tail.run = (journal, number - seq)
            tail.new_runs.append((seq, journal, number))
        seq += 1
