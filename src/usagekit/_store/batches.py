"""Reading a journal in pieces: whole records, and what was damaged among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usagekit._store import record as records

if TYPE_CHECKING:
    from usagekit._store.journal import Reading

CHUNK_BYTES = 128 * 1024  # read from one journal at a time: about a thousand records
_WHOLE_BYTES = 1024**2  # no record is that long: what has no end within it is damage


class Batch:
    """Records read from one journal in one go."""

    __slots__ = ("corrupt", "end", "payloads")

    def __init__(self, payloads: list[bytes], corrupt: int, end: int) -> None:
        self.payloads = payloads
        self.corrupt = corrupt
        self.end = end  # the journal's offset behind them


def read_batch(reading: Reading, start: int) -> Batch:
    """Give the records of a journal from `start` on, as many as one look brings; `end` is `start` where it ends."""
    size = CHUNK_BYTES
    while True:
        data = reading.read(start, size)
        payloads, corrupt, consumed = records.split(data)
        start += consumed
        if payloads or corrupt or not data:
            return Batch(payloads, corrupt, start)
        if consumed:
            continue  # nothing but newlines so far
        # The beginning of one record: is it longer, still being written, torn, or damage without an end?
        if len(data) < size:
            if reading.owned:
                return Batch([], 0, start)
            whole = records.last_of(data)  # a write that lacked its last newline alone was accepted
            return Batch([] if whole is None else [whole], whole is None, start + len(data))
        if size == _WHOLE_BYTES:
            return Batch([], 1, start + size)
        size = _WHOLE_BYTES
