"""What a ledger says of its rollups at the moment of a question."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usagekit._store.exact import SAFE_BOUND
from usagekit._store.tiers import FAMILY_OF
from usagekit._store.tombstones import ERASED_BELOW

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from usagekit._store.tiers import Tier

EVER_US = 2**62
"""Later than any event, in microseconds since 1970."""


class State(NamedTuple):
    """What the ledger says of itself, at the moment of the question."""

    frontier: int  # the last event that all rollups hold
    batch_seq: int  # and the last that the first few families hold: so many of them
    batch_families: int
    last_seq: int
    usable_us: int  # cells that begin here or later are being made anew
    raw_from_us: int
    rollups_from_us: int
    remade_from_us: int  # what is earlier is not in tiers as they are now, but as they were
    hours_from_us: int  # what is earlier may not be in packed tiers, nor in sets of users
    exact: bool  # sums may go beyond 64 bits
    first_us: int  # of what is up to the frontier
    last_us: int
    has_extras: bool
    erased: tuple[int, ...]  # users whose names are gone

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> State:
        execute = connection.execute
        counters = dict(execute("SELECT name, value FROM counters"))
        first_us, last_us = execute("SELECT min(first_us), max(last_us) FROM spans").fetchone()
        return cls(
            frontier=max(counters["rolled_seq"], counters["rebuild_seq"]),
            batch_seq=counters["batch_seq"],
            batch_families=counters["batch_families"],
            last_seq=counters["next_seq"] - 1,
            usable_us=counters["rebuild_from_us"] if counters["rebuild_state"] else EVER_US,
            raw_from_us=counters["raw_from_us"],
            rollups_from_us=counters["rollups_from_us"],
            remade_from_us=counters["remade_from_us"],
            hours_from_us=counters["hours_from_us"],
            exact=counters["rolled_bound"] >= SAFE_BOUND,
            first_us=first_us or 0,
            last_us=-1 if last_us is None else last_us,
            has_extras=bool(execute("SELECT max(id) > 0 FROM extras").fetchone()[0]),
            erased=tuple(row[0] for row in execute("SELECT id FROM users WHERE name > '' AND name < " + ERASED_BELOW)),
        )

    def frontier_of(self, chain: Sequence[Tier]) -> int:
        """Give the last event that tiers of one family hold; without any, one up to which raw rows are read in turn."""
        if chain and FAMILY_OF[chain[0]] < self.batch_families:
            return max(self.batch_seq, self.frontier)
        return self.frontier
