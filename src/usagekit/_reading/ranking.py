"""Users, when there are many: the first few of them, and how many there are.

Whole weeks, or days, are a quick way to bound what a user can have within a range, and to see that most were there at
all. Only those at the top, and those who were not seen within, need a look at the range's edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usagekit._reading.sections import Piece, sections, stretched
from usagekit._reading.state import EVER_US
from usagekit._store.tiers import DAY_US, MEMBER_DAYS, MEMBER_WEEKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from usagekit._reading.reading import Reading, Sums
    from usagekit._reading.rows import Row
    from usagekit._reading.sections import Section
    from usagekit._store.tiers import Tier

    Bounds = dict[int, tuple[int, bool]]

_MARGIN = 2  # how many times the limit is looked at first


def top_users(reading: Reading, columns: Sequence[str], rank: Sequence[str], limit: int) -> tuple[Sums, int] | None:
    """Give the sums of at least those users who have the `limit` largest of `rank`, and how many users there are.

    The unknown user is one, too. None where such bounds do not help; then all have to be looked at.
    """
    bounds = _user_bounds(reading, rank)
    if bounds is None or len(bounds) <= _MARGIN * limit:
        return None
    best = sorted(bounds, key=lambda user: bounds[user][0], reverse=True)
    places = [columns.index(name) for name in rank]
    count = _MARGIN * limit
    while True:
        with reading.rows.only_users(best[:count]):
            found = reading.sums(("user",), columns)
        ranks = sorted((sum([values[n] for n in places]) for values in found.values()), reverse=True)
        if count >= len(best) or (len(ranks) >= limit and ranks[limit - 1] > bounds[best[count]][0]):
            return found, len(_present(reading, bounds))
        count *= 4


def users_present(reading: Reading) -> set[int] | None:
    """Give the ids of all users with events, the unknown one included; None where such bounds do not help."""
    bounds = _user_bounds(reading, ())
    return None if bounds is None else _present(reading, bounds)


def _present(reading: Reading, bounds: Bounds) -> set[int]:
    present = {user for user, (_, is_seen) in bounds.items() if is_seen}
    unseen = bounds.keys() - present
    if unseen:
        with reading.rows.only_users(unseen):
            present.update(key[0] for key in reading.sums(("user",), ("events",)))
    return present


def _user_bounds(reading: Reading, columns: Sequence[str]) -> Bounds | None:
    """Give for each user an upper bound of the sum of `columns`, and whether events are known to be in the range.

    From whole weeks, or days, that the range touches, and what the rollups do not hold yet. None where that is no
    quick way.
    """
    state = reading.state
    if reading.is_small or state.exact or state.usable_us < EVER_US or len(reading.rolled) != 1:
        return None
    section = stretched(sections((), "UTC", reading.rolled), state.first_us, state.last_us)[0]
    for tier in reading.chain_for(("user",), ("events", *columns)):
        if tier in {MEMBER_WEEKS, MEMBER_DAYS}:
            cells = _bounding_cells(reading, tier, section, columns)
            if cells is not None:
                return _with_tail(reading, tier, cells, columns)
    return None


def _bounding_cells(reading: Reading, tier: Tier, section: Section, columns: Sequence[str]) -> Iterable[Row] | None:
    """Give user, bound and whether seen by whole cells of a tier; None where no week lies within the range."""
    start, end = (us - tier.origin_us for us in section[:2])
    first, behind = -(-start // tier.cell_us), end // tier.cell_us
    if tier is MEMBER_WEEKS and first >= behind:
        return None
    outer = Piece(tier, start // tier.cell_us, -(-end // tier.cell_us), 1, ())
    reading.note([outer])
    given: dict[str, Any] = {"inside": first, "behind": behind}
    is_seen = f"t.{tier.clock} >= :inside AND t.{tier.clock} < :behind"
    if tier is MEMBER_DAYS:
        # A day that the range only touches tells by its latest event.
        last = f"t.last + t.day * {DAY_US}"
        is_seen = f"({is_seen}) OR ({last} >= :since AND {last} < :until)"
        given |= {"since": start, "until": end}
    summed = " + ".join(f"t.{name}" for name in columns) or "t.events"
    return reading.rows.cells(tier, [outer], ("user",), [f"sum({summed})", f"max(ifnull({is_seen}, 0))"], given=given)


def _with_tail(reading: Reading, tier: Tier, cells: Iterable[Row], columns: Sequence[str]) -> Bounds:
    found: Bounds = {}
    for user, bound, seen in cells:
        known = found.get(user)
        found[user] = (bound, bool(seen)) if known is None else (known[0] + bound, known[1] or bool(seen))
    for user, bound in reading.tail_sums(("user",), columns, reading.state.frontier_of((tier,))):
        found[user] = found.get(user, (0, False))[0] + bound, True
    return found
