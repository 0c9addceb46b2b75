"""The first few of many users, without adding up all of them.

They are found as Fagin's threshold algorithm does it: who is far down in every week that the range touches cannot be
among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usagekit._reading.sections import Piece, sections, stretched
from usagekit._reading.state import EVER_US
from usagekit._reading.users import Users
from usagekit._store.tiers import MEMBER_DAYS, MEMBER_WEEKS, WEEK_US

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usagekit._reading.groups import Sums
    from usagekit._reading.reading import Reading
    from usagekit._reading.rows import Row
    from usagekit._reading.sections import Section
    from usagekit._store.tiers import Tier

_DEPTH = 2  # how many times the limit is looked at in each cell, first


def top_users(reading: Reading, columns: Sequence[str], rank: Sequence[str], limit: int) -> tuple[Sums, Users] | None:
    """Give the sums of at least those users who have the `limit` largest of `rank`, and all users.

    The unknown user is one, too. None where all have to be looked at, or may as well be.
    """
    tiers = _tiers(reading, rank)
    if not tiers or not reading.chain_for(("user",), columns):
        return None
    present = _present(reading)
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


def _tiers(reading: Reading, columns: Sequence[str]) -> list[Tier]:
    """Give the tiers of members that know `columns`, coarsest first; none where looking at everything is as good."""
    state = reading.state
    if reading.is_small or state.exact or state.usable_us < EVER_US or len(reading.rolled) != 1:
        return []
    if state.remade_from_us > reading.earliest_us:
        return []
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


def _present(reading: Reading) -> Users:
    sets = reading.users(())
    if sets is None:
        return Users(user for (user,) in reading.sums(("user",), ("events",)))
    return sets.get((), Users())
