"""Sets of users, as the rollups keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usagekit._store.lanes import marks_of
from usagekit._store.tiers import PART_SHIFT

if TYPE_CHECKING:
    from collections.abc import Iterable

_PART = 1 << PART_SHIFT


class Users:
    """Users by their ids, as marks in a large integer for each part of all ids; the unknown user is one, too."""

    def __init__(self, users: Iterable[int] = ()) -> None:
        self._parts: dict[int, int] = {}
        self.add(users)

    def __len__(self) -> int:
        return sum(marks.bit_count() for marks in self._parts.values())

    def add_marks(self, part: int, marks: int) -> None:
        """Add those with a mark in a cell of `USER_SETS`."""
        self._parts[part] = self._parts.get(part, 0) | marks

    def add(self, users: Iterable[int]) -> None:
        """Add some by their ids."""
        parts: dict[int, list[int]] = {}
        for user in users:
            parts.setdefault(user >> PART_SHIFT, []).append(user & _PART - 1)
        for part, places in parts.items():
            self.add_marks(part, marks_of(places, _PART))

    def merge(self, other: Users) -> Users:
        """Add those of another set; gives this one."""
        for part, marks in other._parts.items():
            self.add_marks(part, marks)
        return self

    def count_without(self, users: Iterable[int]) -> int:
        """Give how many there are besides some, of whom each is named once."""
        return len(self) - sum(self._parts.get(user >> PART_SHIFT, 0) >> (user & _PART - 1) & 1 for user in users)
