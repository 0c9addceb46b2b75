"""Many numbers, or many yes-or-no, as one large integer, which Python reads, adds up and ors at once.

An integer of *counts* has 64 bits for each place, the first place in the lowest ones; counts add up as long as none
goes beyond 63 bits. One of *marks* has one bit for each place. Blobs are little-endian and deflated, since most of it
is 0: the latencies of a busy hour take about 1,000 bytes, and are read several times faster than pairs of numbers.
"""

from __future__ import annotations

import sys
from array import array
from zlib import compress, decompress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LARGEST = 2**63 - 1
"""What no count may go beyond."""

_LEVEL = 4  # half as much again to write as 1, and a tenth less to keep


def number_in(blob: bytes) -> int:
    """Give a blob's integer; that of `b""` is 0."""
    return int.from_bytes(decompress(blob), "little") if blob else 0


def blob_of(number: int) -> bytes:
    """Give the blob of an integer."""
    return compress(_whole_lanes(number), _LEVEL)


def counts_of(counts: Mapping[int, int]) -> int:
    """Give the integer of counts by place, from 0 to `LARGEST`."""
    lanes = array("Q", bytes(8 * (max(counts, default=-1) + 1)))
    for place, count in counts.items():
        lanes[place] = count
    return int.from_bytes(swapped(lanes).tobytes(), "little")


def counts_in(number: int) -> dict[int, int]:
    """Give the counts in an integer by place, where they are not 0."""
    lanes = swapped(array("Q", _whole_lanes(number)))
    return {place: count for place, count in enumerate(lanes) if count}


def table_of(rows: Mapping[int, Sequence[int]], width: int) -> int:
    """Give the integer of rows of `width` counts each, by place; raises OverflowError where one is negative."""
    lanes = array("Q", bytes(8 * width * (max(rows, default=-1) + 1)))
    for place, row in rows.items():
        lanes[place * width : (place + 1) * width] = array("Q", row)
    return int.from_bytes(swapped(lanes).tobytes(), "little")


def table_in(number: int, width: int) -> Iterable[tuple[int, ...]]:
    """Give such rows, in order of place; the last ones may be missing."""
    lanes = swapped(array("Q", _whole_lanes(number)))
    lanes.frombytes(bytes(8 * (-len(lanes) % width)))
    return zip(*(lanes[column::width] for column in range(width)), strict=True)


def marks_of(places: Iterable[int], size: int) -> int:
    """Give the integer that marks some of `size` places."""
    marks = bytearray(-(-size // 8))
    for place in places:
        marks[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(marks, "little")


def _whole_lanes(number: int) -> bytes:
    return number.to_bytes(-(-number.bit_length() // 64) * 8, "little")


def swapped(lanes: array[int]) -> array[int]:
    """Turn the machine's order of bytes into that of blobs, or back, in place."""
    if sys.byteorder == "big":
        lanes.byteswap()
    return lanes
