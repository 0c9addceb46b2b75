"""Reading as SQL what Python says of an event."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from usagekit._clean import TIME_LIMIT_US
from usagekit._reading.sources import bucket
from usagekit.query.aggregate import bucket_of


def test_sql_and_python_have_the_same_buckets() -> None:
    """On both sides of every boundary between two widths."""
    edges = {(1 << bits) + beside for bits in range(58) for beside in (-1, 0, 1)}
    durations = sorted(us for us in {*range(1000), *edges, TIME_LIMIT_US} if 0 <= us <= TIME_LIMIT_US)

    with closing(sqlite3.connect(":memory:")) as connection:
        found = [
            connection.execute(f"SELECT {bucket('v.us')} FROM (SELECT ? AS us) v", (us,)).fetchone()[0]
            for us in durations
        ]

    assert found == list(map(bucket_of, durations))
