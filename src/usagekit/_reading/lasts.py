"""When the latest events of a range were, from cells that know the latest of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usagekit._reading.sections import Piece
from usagekit._reading.sources import RAW_TIME, latest
from usagekit._reading.state import EVER_US
from usagekit._store.tiers import QUARTERS
from usagekit.query.algebra import BUCKETS

if TYPE_CHECKING:
    from usagekit._reading.groups import Key
    from usagekit._reading.reading import Reading
    from usagekit._store.tiers import Tier

_LATEST = [f"max({RAW_TIME})"]


def tier_of_lasts(reading: Reading, by: tuple[str, ...]) -> Tier | None:
    """Give the tier that `lasts` can look into; None where it cannot, or where there is no need to."""
    state = reading.state
    if reading.is_small or len(reading.rolled) != 1 or state.usable_us < EVER_US or any(name in BUCKETS for name in by):
        return None
    chain = reading.chain_for(by, ("events",), ("last",))
    # The edges of quarter-hours are short enough to be read as they are.
    if not chain or chain[-1] is QUARTERS or state.remade_from_us > reading.earliest_us:
        return None
    return chain[-1]


def lasts(reading: Reading, tier: Tier, by: tuple[str, ...]) -> dict[Key, int]:
    """Give for each key of `by` when its latest event was, in microseconds.

    A cell that the range only touches tells as much as one within, as long as its latest event lies in the range. One
    that ends behind the range, and has later events, needs a look at the raw rows.

    Args:
        reading: of the question.
        tier: as `tier_of_lasts` says.
        by: what to group by.
    """
    ((start, end),) = reading.rolled
    frontier = reading.state.frontier_of((tier,))
    outer = Piece(tier, start // tier.cell_us, -(-end // tier.cell_us), 1, ())
    reading.note([outer])
    last = latest(tier)
    columns = [f"max(iif({last} < :until, {last}, NULL))", f"max({last} >= :until)"]
    given = {"since": start, "until": end}
    found: dict[Key, int] = {}
    beyond: set[Key] = set()
    for *names, last_us, is_beyond in reading.rows.cells(
        tier, [outer], by, columns, condition=f"{last} >= :since", given=given
    ):
        key = tuple(names)
        if last_us is not None:
            found[key] = max(last_us, found.get(key, 0))
        if is_beyond:
            beyond.add(key)
    rows = []
    if beyond:
        edge = Piece(None, max(start, end // tier.cell_us * tier.cell_us), end, 1, ())
        reading.note([edge])
        users = {key[by.index("user")] for key in beyond} if "user" in by else None
        with reading.rows.only_users(users):
            rows += [row for row in reading.rows.raw([edge], by, _LATEST, frontier) if row[:-1] in beyond]
    if reading.state.last_seq > frontier:
        rows += reading.rows.raw(reading.everywhere, by, _LATEST, frontier, behind=True)
    for *names, last_us in rows:
        if last_us is not None:
            found[tuple(names)] = max(last_us, found.get(tuple(names), 0))
    return found
