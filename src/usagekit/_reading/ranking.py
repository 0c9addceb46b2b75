"""Users, when there are many: the first few of them, and how many there are.

Whole weeks, or days, are a quick way to bound what a user can have within a range, and to see that most were there at
all. Only those at the top, and those who were not seen within, need a look at the range's edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usagekit._reading.reading import Reading, Sums

_MARGIN = 2  # how many times the limit is looked at first


def top_users(reading: Reading, columns: Sequence[str], rank: Sequence[str], limit: int) -> tuple[Sums, int] | None:
    """Give the sums of at least those users who have the `limit` largest of `rank`, and how many users there are.

    The unknown user is one, too. None where such bounds do not help; then all have to be looked at.
    """
    bounds = reading.user_bounds(rank)
    if bounds is None or len(bounds) <= _MARGIN * limit:
        return None
    best = sorted(bounds, key=lambda user: bounds[user][0], reverse=True)
    places = [columns.index(name) for name in rank]
    count = _MARGIN * limit
    while True:
        with reading.only_users(best[:count]):
            found = reading.sums(("user",), columns)
        ranks = sorted((sum([values[n] for n in places]) for values in found.values()), reverse=True)
        if count >= len(best) or (len(ranks) >= limit and ranks[limit - 1] > bounds[best[count]][0]):
            return found, len(_present(reading, bounds))
        count *= 4


def users_present(reading: Reading) -> set[int] | None:
    """Give the ids of all users with events, the unknown one included; None where such bounds do not help."""
    bounds = reading.user_bounds(())
    return None if bounds is None else _present(reading, bounds)


def _present(reading: Reading, bounds: dict[int, tuple[int, bool]]) -> set[int]:
    present = {user for user, (_, is_seen) in bounds.items() if is_seen}
    unseen = bounds.keys() - present
    if unseen:
        with reading.only_users(unseen):
            present.update(key[0] for key in reading.sums(("user",), ("events",)))
    return present
