"""Many numbers, or many yes-or-no, in one blob: what Python reads and adds up as one large integer, at once.

A blob of *counts* has 64 bits for each place, the first place in the lowest ones; it stays right as long as no sum of
a place goes beyond 63 bits. A blob of *marks* has one bit for each place. Both are little-endian and deflated, since
most of it is 0: the latencies of a busy hour take about 1,000 bytes, and are added to others several times faster than
pairs of bucket and weight are.
"""

from __future__ import annotations

import sys
from array import array
from zlib import compress, decompress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LARGEST = 2**63 - 1
_LEVEL = 1


def number_of(blob: bytes) -> int:
    """Give a blob as an integer; `b""` is 0. Those of counts can be added, those of marks or-ed."""
    return int.from_bytes(decompress(blob), "little") if blob else 0


def counts_in(number: int) -> dict[int, int]:
    """Give what an integer of counts holds: by place, where it is not 0."""
    counts = _lanes(number.to_bytes(-(-number.bit_length() // 64) * 8, "little"))
    return {place: count for place, count in enumerate(counts) if count}


def with_counts(blob: bytes, added: Mapping[int, int]) -> bytes:
    """Give a blob of counts with some added, which may be negative; what would be below 0 or too large stops there."""
    counts = _lanes(decompress(blob) if blob else b"")
    counts.frombytes(bytes(8 * max(0, max(added, default=-1) + 1 - len(counts))))
    for place, count in added.items():
        counts[place] = min(max(0, counts[place] + count), _LARGEST)
    if sys.byteorder == "big":
        counts.byteswap()
    return compress(counts.tobytes(), _LEVEL)


def with_marks(blob: bytes, places: Iterable[int]) -> bytes:
    """Give a blob of marks with some places marked, too."""
    marks = bytearray(decompress(blob) if blob else b"")
    for place in places:
        if place >> 3 >= len(marks):
            marks.extend(bytes((place >> 3) + 1 - len(marks)))
        marks[place >> 3] |= 1 << (place & 7)
    return compress(bytes(marks), _LEVEL)


def _lanes(content: bytes) -> array[int]:
    counts = array("q", content)
    if sys.byteorder == "big":
        counts.byteswap()
    return counts
