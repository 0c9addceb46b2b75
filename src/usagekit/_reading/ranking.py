"""Users, when there are many: the first few of them, and how many there are.

Whole weeks, or days, are a quick way to bound what a user can have within a range, and their latest events to see who
was there at all. Only those at the top, and the few of whom these do not tell, need a look at the range's edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usagekit._reading.sections import Piece, sections, stretched
from usagekit._reading.sources import latest
from usagekit._reading.state import EVER_US
from usagekit._store.tiers import MEMBER_DAYS, MEMBER_WEEKS, WEEK_US

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usagekit._reading.reading import Reading, Sums
    from usagekit._store.tiers import Tier

_NO, _MAYBE, _YES = 0, 1, 2
_MARGIN = 2  # how many times the limit is looked at first, at the least
_CAUTION = 0.9


class _Bounds(NamedTuple):
    """What cells tell of users, by id: how much they have at the most, and whether they are in the range at all."""

    most: dict[int, int]
    present: dict[int, int]  # `_NO`, `_MAYBE` or `_YES`
    tier: Tier
    share: float  # of their time that is within the range


def top_users(
    reading: Reading, columns: Sequence[str], rank: Sequence[str], limit: int
) -> tuple[Sums, set[int]] | None:
    """Give the sums of at least those users who have the `limit` largest of `rank`, and the ids of all users.

    The unknown user is one, too. None where such bounds do not help; then all have to be looked at.
    """
    bounds = _bounds(reading, rank)
    if bounds is None or len(bounds.most) <= _MARGIN * limit:
        return None
    best = sorted(bounds.most, key=bounds.most.__getitem__, reverse=True)
    places = [columns.index(name) for name in rank]
    likely = bounds.most[best[limit - 1]] * bounds.share * _CAUTION  # what the last of the first has, if all are alike
    count = max(_MARGIN * limit, sum(most >= likely for most in bounds.most.values()))
    while True:
        with reading.rows.only_users(best[:count]):
            found = reading.sums(("user",), columns)
        ranks = sorted((sum([values[n] for n in places]) for values in found.values()), reverse=True)
        if count >= len(best) or (len(ranks) >= limit and ranks[limit - 1] > bounds.most[best[count]]):
            return found, _present(reading, bounds)
        count *= 4


def users_present(reading: Reading) -> set[int] | None:
    """Give the ids of all users with events, the unknown one included; None where such bounds do not help."""
    bounds = _bounds(reading, ())
    return None if bounds is None else _present(reading, bounds)


def _present(reading: Reading, bounds: _Bounds) -> set[int]:
    present = {user for user, found in bounds.present.items() if found == _YES}
    for tier in (MEMBER_DAYS, None) if bounds.tier is MEMBER_WEEKS else (None,):
        unsure = {user for user, found in bounds.present.items() if found == _MAYBE} - present
        if not unsure:
            break
        with reading.rows.only_users(unsure):
            if tier is not None:
                bounds = _told_by(reading, tier, ())
                present.update(user for user, found in bounds.present.items() if found == _YES)
            else:
                present.update(key[0] for key in reading.sums(("user",), ("events",)))
    return present


def _bounds(reading: Reading, columns: Sequence[str]) -> _Bounds | None:
    """Give bounds of the sum of `columns` for each user; None where that is no quick way."""
    state = reading.state
    if reading.is_small or state.exact or state.usable_us < EVER_US or len(reading.rolled) != 1:
        return None
    tiers = [tier for tier in reading.chain_for(("user",), ("events", *columns)) if tier in {MEMBER_WEEKS, MEMBER_DAYS}]
    if not tiers:
        return None
    ((start, end),) = reading.rolled
    is_short = end - start < WEEK_US  # the weeks that it touches would bound little
    tier = tiers[-1] if columns and is_short else tiers[0]
    bounds = _told_by(reading, tier, columns)
    for user, bound in reading.tail_sums(("user",), columns, state.frontier_of((tier,))):
        bounds.most[user] = bounds.most.get(user, 0) + bound
        bounds.present[user] = _YES
    return bounds


def _told_by(reading: Reading, tier: Tier, columns: Sequence[str]) -> _Bounds:
    """Give what all the cells of a tier tell that the range touches."""
    section = stretched(sections((), "UTC", reading.rolled), reading.state.first_us, reading.state.last_us)[0]
    start, end = (us - tier.origin_us for us in section[:2])
    first, inside, behind, last = (
        start // tier.cell_us,
        -(-start // tier.cell_us),
        end // tier.cell_us,
        -(-end // tier.cell_us),
    )
    if inside > behind:  # within one cell
        inside = behind = last
    pieces = [
        Piece(tier, first, inside, 1, ()),
        Piece(tier, inside, behind, 1, (_YES,)),
        Piece(tier, behind, last, 1, ()),
    ]
    pieces = [piece for piece in pieces if piece.start < piece.end]
    reading.note(pieces)
    # The latest event of a cell that the range only touches tells, unless it is behind the range.
    event = latest(tier)
    touched = f"iif({event} >= :since AND {event} < :until, {_YES}, iif(ifnull({event} >= :until, 1), {_MAYBE}, {_NO}))"
    wanted = [
        f"max(ifnull(w.k0, {touched}))",
        *(f"sum({' + '.join(f't.{name}' for name in columns)})" for _ in columns[:1]),
    ]
    given = {"since": section.start_us, "until": section.end_us}
    most: dict[int, int] = {}
    present: dict[int, int] = {}
    for user, is_there, *bound in reading.rows.cells(tier, pieces, ("user",), wanted, given=given):
        most[user] = most.get(user, 0) + sum(bound)
        present[user] = max(present.get(user, _NO), is_there)
    return _Bounds(most, present, tier, (end - start) / ((last - first) * tier.cell_us))
