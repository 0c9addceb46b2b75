"""Users, when there are many: the first few of them, and how many there are.

The first ones are found as Fagin's threshold algorithm does it: who is far down in every week that the range touches
cannot be among them. Who was there at all is told by weeks within the range, and by the latest events of those that it
only touches; the few of whom these do not tell need a look at days, and at the range's edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usagekit._reading.sections import Piece, sections, stretched
from usagekit._reading.sources import latest
from usagekit._reading.state import EVER_US
from usagekit._store.tiers import MEMBER_DAYS, MEMBER_WEEKS, WEEK_US

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usagekit._reading.reading import Reading, Sums
    from usagekit._reading.rows import Row
    from usagekit._reading.sections import Section
    from usagekit._store.tiers import Tier

_DEPTH = 2  # how many times the limit is looked at in each cell, first
_WITHIN = (1,)  # marks the pieces that are wholly within the range


def top_users(
    reading: Reading, columns: Sequence[str], rank: Sequence[str], limit: int
) -> tuple[Sums, set[int]] | None:
    """Give the sums of at least those users who have the `limit` largest of `rank`, and the ids of all users.

    The unknown user is one, too. None where all have to be looked at, or may as well be.
    """
    tiers = _tiers(reading, rank)
    if not tiers or not reading.chain_for(("user",), columns):
        return None
    present = _present(reading, tiers)
    if len(present) <= _DEPTH * limit:
        return None
    ((start, end),) = reading.rolled
    tier = tiers[0] if end - start >= WEEK_US else tiers[-1]  # whole weeks would say little of a day
    places = [columns.index(name) for name in rank]
    tail = reading.tail_sums(("user",), rank, reading.state.frontier_of((tier,)))
    tail.sort(key=lambda row: row[1], reverse=True)
    depth = _DEPTH * limit
    while True:
        leaders, beyond = _leaders(reading, tier, rank, tail, depth)
        with reading.rows.only_users(leaders):
            found = reading.sums(("user",), columns)
        ranks = sorted((sum([values[n] for n in places]) for values in found.values()), reverse=True)
        if beyond is None or (len(ranks) >= limit and ranks[limit - 1] > beyond):
            return found, present
        depth *= 4


def users_present(reading: Reading) -> set[int] | None:
    """Give the ids of all users with events, the unknown one included; None where there is no quick way."""
    tiers = _tiers(reading, ())
    return _present(reading, tiers) if tiers else None


def _tiers(reading: Reading, columns: Sequence[str]) -> list[Tier]:
    """Give the tiers of members that know `columns`, coarsest first; none where looking at everything is as good."""
    state = reading.state
    if reading.is_small or state.exact or state.usable_us < EVER_US or len(reading.rolled) != 1:
        return []
    if state.remade_from_us > reading.earliest_us:
        return []  # cells from before know no latest events
    return [tier for tier in reading.chain_for(("user",), ("events", *columns)) if tier in {MEMBER_WEEKS, MEMBER_DAYS}]


def _section(reading: Reading) -> Section:
    return stretched(sections((), "UTC", reading.rolled), reading.state.first_us, reading.state.last_us)[0]


def _leaders(
    reading: Reading, tier: Tier, rank: Sequence[str], tail: Sequence[Row], depth: int
) -> tuple[set[int], int | None]:
    """Give the users with the `depth` largest of `rank` in any cell that the range touches, or in the tail.

    And an upper bound of what any other user has in the range; None where there is no other.
    """
    start, end = (us - tier.origin_us for us in _section(reading)[:2])
    # Cells are of members: what bounds these bounds a user once for each org.
    some, orgs = reading.rows.users_of_many_orgs(depth)
    leaders = set(some)
    beyond, is_all = 0, True
    for cell in reading.rows.cells_between(tier, start // tier.cell_us, -(-end // tier.cell_us)):
        reading.note([Piece(tier, cell, cell + 1, 1, ())])
        rows = reading.rows.leaders(tier, cell, rank, depth + 1)
        leaders.update(user for user, _ in rows[:depth])
        if len(rows) > depth:
            beyond += rows[depth][1] * orgs
            is_all = False
    leaders.update(user for user, _ in tail[:depth])
    if len(tail) > depth:
        beyond += tail[depth][1]
        is_all = False
    return leaders, None if is_all else beyond


def _present(reading: Reading, tiers: Sequence[Tier]) -> set[int]:
    present = {user for user, _ in reading.tail_sums(("user",), (), reading.state.frontier_of(tiers))}
    ((start, end),) = reading.rolled
    # Of a short time that is past, weeks know little: most of those who were there came again.
    is_past = end <= reading.state.last_us and end - start < WEEK_US
    unsure = None
    for tier in (MEMBER_DAYS,) if is_past else dict.fromkeys((tiers[0], MEMBER_DAYS)):
        with reading.rows.only_users(unsure):
            sure, unsure = _told_by(reading, tier)
        present |= sure
        unsure -= present
        if not unsure:
            return present
    with reading.rows.only_users(unsure):
        present.update(user for (user,) in reading.sums(("user",), ("events",)))
    return present


def _told_by(reading: Reading, tier: Tier) -> tuple[set[int], set[int]]:
    """Give the users that were there, and those that may have been, as far as the cells of a tier tell."""
    section = _section(reading)
    start, end = (us - tier.origin_us for us in section[:2])
    first, inside = start // tier.cell_us, -(-start // tier.cell_us)
    behind, last = end // tier.cell_us, -(-end // tier.cell_us)
    if inside > behind:  # within one cell
        inside = behind = last
    touched = [Piece(tier, *cells, 1, ()) for cells in {(first, inside), (behind, last)} if cells[0] < cells[1]]
    pieces = [*touched, *([Piece(tier, inside, behind, 1, _WITHIN)] if inside < behind else [])]
    reading.note(pieces)
    given = {"since": section.start_us, "until": section.end_us}
    # The latest event of a cell that the range only touches tells, unless it is behind the range.
    event = latest(tier)
    is_there = f"(w.k0 OR ifnull({event} >= :since AND {event} < :until, 0))"
    may_be = f"({is_there} OR ifnull({event} >= :until, 1))"
    told = reading.rows.cells(tier, pieces, ("user",), (), also=(is_there,), condition=may_be, given=given)
    sure = {user for user, is_sure in told if is_sure}
    return sure, {user for user, _ in told} - sure
