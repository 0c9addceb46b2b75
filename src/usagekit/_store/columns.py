"""Adding events up by key: each event, and each cell, is one large integer, so that adding cells adds all their sums.

An integer holds a sum in each of its *lanes*, the first in the lowest bits. A sum may be negative: what it borrows from
the lane above is given back when the integer is taken apart.
"""

from __future__ import annotations

from array import array
from operator import mul
from typing import TYPE_CHECKING, NamedTuple

from usagekit._store.lanes import swapped
from usagekit._store.tiers import WIDE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Column = Sequence[int]
    Gaps = Sequence[int | None]  # a column in which some are unknown

# What nearly every event has comes first, since high lanes that hold nothing take no room.
_ORDER = ("events", "latency", "bytes", "failed", "unmeasured")
_LANES = _ORDER + tuple(name for name in WIDE if name not in _ORDER)

_BITS = 64
_SAFE = 2**62  # what no sum of a batch may reach in lanes of 64 bits
_WIDE_BITS = 256  # enough for any sum of numbers of 64 bits, times weights


class Layout(NamedTuple):
    """Which sums the integers of a batch hold, and how.

    Attributes:
        names: of the lanes: columns of `WIDE`.
        bits: of a lane.
    """

    names: tuple[str, ...]
    bits: int

    @classmethod
    def of(cls, names: Iterable[str], largest: int) -> Layout:
        """Give one for columns of these names; `largest`: no sum will be further from 0."""
        held = set(names)
        return cls(tuple(name for name in _LANES if name in held), _BITS if largest < _SAFE else _WIDE_BITS)

    def packed(self, columns: Mapping[str, Column], factors: Column | None) -> list[int]:
        """Give the integer of each row; a column that is missing is one of zeros. `factors`: of each row; None = 1."""
        size = len(columns["events"])
        numbers = self._joined(columns, size) if self.bits == _BITS else self._shifted(columns, size)
        return numbers if factors is None else list(map(mul, numbers, factors))

    def sums(self, numbers: Sequence[int]) -> dict[str, list[int]]:
        """Take integers apart: the sums of each by name, but for columns of zeros."""
        width = len(self.names)
        if self.bits == _BITS:
            sign, size = self._sign, width * _BITS // 8
            lanes = array("q")
            lanes.frombytes(b"".join([((number + sign) ^ sign).to_bytes(size, "little") for number in numbers]))
            flat: Sequence[int] = swapped(lanes)
        else:
            flat = [lane for number in numbers for lane in self._lanes_in(number)]
        columns = {name: list(flat[place::width]) for place, name in enumerate(self.names)}
        return {name: column for name, column in columns.items() if any(column)}

    def _joined(self, columns: Mapping[str, Column], size: int) -> list[int]:
        width = len(self.names)
        lanes = array("q", bytes(8 * width * size))
        for place, name in enumerate(self.names):
            if name in columns:
                lanes[place::width] = array("q", columns[name])
        flat, step, number_in = swapped(lanes).tobytes(), 8 * width, int.from_bytes
        numbers = [number_in(flat[at : at + step], "little") for at in range(0, len(flat), step)]
        if all(min(column) >= 0 for column in columns.values()):
            return numbers
        sign = self._sign
        return [(number ^ sign) - sign for number in numbers]

    def _shifted(self, columns: Mapping[str, Column], size: int) -> list[int]:
        numbers = [0] * size
        for place, name in enumerate(self.names):
            shift = place * self.bits
            for row, value in enumerate(columns.get(name, ())):
                numbers[row] += value << shift
        return numbers

    def _lanes_in(self, number: int) -> Iterable[int]:
        half = 1 << self.bits - 1
        for _ in self.names:
            lane = (number + half & 2 * half - 1) - half
            number = number - lane >> self.bits
            yield lane

    @property
    def _sign(self) -> int:
        """The integer in which the sign of each lane is set."""
        return sum(1 << self.bits * place + self.bits - 1 for place in range(len(self.names)))


class Cells(NamedTuple):
    """What some rows add up to by key.

    Attributes:
        keys: columns.
        numbers: the sums of each cell.
        largest: the largest value in each cell by name, None where there is none.
    """

    keys: Sequence[Column]
    numbers: Sequence[int]
    largest: Mapping[str, Gaps]

    def by(self, *keys: Column, largest: bool = True) -> Cells:
        """Add them up by coarser keys; `largest`: whether the largest values are wanted."""
        return grouped(keys, self.numbers, self.largest if largest else {})


def grouped(keys: Sequence[Column], numbers: Sequence[int], largest: Mapping[str, Gaps]) -> Cells:
    """Add rows up by key, of columns of integers from 0 on; cells come in the order of their keys."""
    # One integer for each key: compared, hashed and sorted in half the time of a tuple.
    bits = [max(column, default=0).bit_length() for column in keys[1:]]
    rows: Column = keys[0]
    for column, width in zip(keys[1:], bits, strict=True):
        rows = [high << width | low for high, low in zip(rows, column, strict=True)]
    cells = sorted(set(rows))
    places = list(map({key: place for place, key in enumerate(cells)}.__getitem__, rows))
    totals = [0] * len(cells)
    for place, number in zip(places, numbers, strict=True):
        totals[place] += number
    columns = []
    for width in reversed(bits):
        mask = (1 << width) - 1
        columns.append([key & mask for key in cells])
        cells = [key >> width for key in cells]
    most = {name: _largest(places, len(totals), values) for name, values in largest.items()}
    return Cells([cells, *reversed(columns)], totals, most)


def _largest(places: Column, size: int, values: Gaps) -> list[int | None]:
    found: list[int | None] = [None] * size
    for place, value in zip(places, values, strict=True):
        if value is not None and ((known := found[place]) is None or value > known):
            found[place] = value
    return found
