"""Groups as they are put together, from pieces that may share what they read."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from usagekit.query.algebra import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usagekit._reading.rows import Row
    from usagekit._reading.sections import Piece

Key = tuple[Any, ...]
Sums = dict[Key, "Sequence[Any]"]


class Groups:
    """Groups, as they are put together.

    Args:
        keys: how many columns the key has.
        sums: how many columns behind it add up; the rest are extremes.

    Attributes:
        of: sums, and extremes behind them, by key.
    """

    def __init__(self, keys: int, sums: int) -> None:
        self.of: Sums = {}
        self._keys = keys
        self._sums = sums

    def add(self, rows: list[Row]) -> None:
        """Add rows: keys, then sums, then extremes."""
        keys = self._keys
        if not self.of:
            # One pass, without looking: mostly all keys differ.
            self.of.update({row[:keys]: row[keys:] for row in rows if row[keys] is not None})
            if len(self.of) == len(rows):
                return
            self.of.clear()
        for row in rows:
            if row[keys] is not None:  # without a single row there is no group, whatever SQL says
                self.change(row[:keys], row[keys:], operator.add)

    def change(self, key: Key, values: Sequence[Any], change: Callable[[Any, Any], Any]) -> None:
        """Add values to a group, or take them away, by `operator.add` or `operator.sub`; extremes only come."""
        known = self.of.get(key)
        if known is None:
            if change is operator.add:
                self.of[key] = values
                return
            known = (0,) * len(values)  # nothing is taken away from extremes
        if len(values) == self._sums:
            self.of[key] = tuple(map(change, known, values))
            return
        sums = self._sums
        changed = map(change, known[:sums], values[:sums])
        self.of[key] = (*changed, *map(_larger, known[sums:], values[sums:]))


class Ranges:
    """The ranges that some pieces read, each once: what one day lacks at its end, the next one has at its begin.

    Attributes:
        pieces: what to read.
        by: what to group it by.
        also: and what else, as SQL.
    """

    def __init__(self, by: tuple[str, ...], pieces: Sequence[Piece]) -> None:
        self.pieces, self.by = pieces, by
        self.also: tuple[str, ...] = ()
        of: dict[tuple[int, int], list[Piece]] = {}
        for piece in pieces:
            of.setdefault((piece.start, piece.end), []).append(piece)
        self._of = list(of.values())
        if len(of) == len(pieces):
            return
        self.pieces = [some[0]._replace(sign=1, buckets=(n,)) for n, some in enumerate(self._of)]
        self.by = tuple(name for name in by if name not in BUCKETS)
        self.also = ("w.k0",)
        names = [*self.by, *(name for name in by if name in BUCKETS)]
        self._key = operator.itemgetter(*map(names.index, by)) if len(by) > 1 else tuple

    def add_to(self, groups: Groups, rows: list[Row]) -> None:
        """Add what was read to the groups of `by` that the pieces asked for."""
        if not self.also:
            groups.add(rows)
            return
        place = len(self.by)
        for row in rows:
            values = row[place + 1 :]
            for piece in self._of[row[place]]:
                change = operator.add if piece.sign > 0 else operator.sub
                groups.change(self._key(row[:place] + piece.buckets), values, change)


def _larger(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)
