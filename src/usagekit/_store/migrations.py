"""The ledger's tables, and the steps that bring an older ledger to what they are now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usagekit._store.exact import add_functions
from usagekit._store.lanes import blob_of, counts_of
from usagekit._store.tiers import (
    HISTOGRAMS,
    LATENCY_DAYS,
    MEMBER_DAYS,
    MEMBER_WEEKS,
    ORG_DAYS,
    ORG_HOURS,
    PACKED,
    QUARTER_US,
    TIERS,
    TYPE_DAYS,
    USER_SETS,
    whole_since,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlite_utils import Database, Migrations

    from usagekit._store.tiers import Tier

_TABLES = """
-- What repeats among events. Ids are never reused.
CREATE TABLE shapes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL, event TEXT NOT NULL, status INTEGER NOT NULL, route TEXT NOT NULL,
    provider TEXT NOT NULL, model TEXT NOT NULL, cost_source TEXT NOT NULL, aborted INTEGER NOT NULL,
    UNIQUE (event, route, model, status, kind, provider, cost_source, aborted)
) STRICT;

-- Whom events count for: `users` 0 and `orgs` 0 are the unknown, `extras` 0 is nothing out of the ordinary.
CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE orgs (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE extras (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    weight INTEGER NOT NULL,
    quantity INTEGER NOT NULL,      -- millionths
    other_output INTEGER NOT NULL,  -- body bytes of a model call, tokens of anything else
    attributes TEXT NOT NULL,       -- the app's own dimensions, JSON with sorted keys
    UNIQUE (attributes, weight, quantity, other_output)
) STRICT;
CREATE TABLE subjects (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user INTEGER NOT NULL, org INTEGER NOT NULL, extra INTEGER NOT NULL,
    UNIQUE (user, org, extra)
) STRICT;

-- The events, in the order they were imported. Only whole ranges are deleted, and nothing is ever changed but this: a
-- row without a cost may get one, `cost_nano`, together with the shape that says where it is from.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    offset_us INTEGER NOT NULL,  -- time, from blocks.base_us
    shape INTEGER NOT NULL,
    subject INTEGER NOT NULL,
    latency_us INTEGER,
    tail_us INTEGER,             -- latency_us minus the time to the first byte
    output INTEGER NOT NULL,     -- tokens of a model call, body bytes of anything else
    input INTEGER NOT NULL,      -- tokens
    cost_nano INTEGER,           -- nano-dollars
    cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    reasoning INTEGER NOT NULL
) STRICT;

-- Smallest and largest time of every 256 sequence numbers: ranges of time are found here, not by an index.
CREATE TABLE blocks (
    block INTEGER PRIMARY KEY,   -- seq / 256
    base_us INTEGER NOT NULL,    -- microseconds since 1970
    first_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL
) STRICT;

-- How far each journal was imported, in the same transaction as its rows.
CREATE TABLE journals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    imported INTEGER NOT NULL    -- bytes
) STRICT;

-- Which record of which journal a row was: number = first_number + seq - first_seq, up to the next run.
CREATE TABLE runs (
    first_seq INTEGER PRIMARY KEY,
    journal INTEGER NOT NULL,
    first_number INTEGER NOT NULL
) STRICT;

-- Idempotency keys that callers gave, hashed.
CREATE TABLE keys (key BLOB PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO counters VALUES ('next_seq', 1), ('corrupt', 0), ('repeated', 0);

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- Own dimensions that some recorder of this ledger declared.
CREATE TABLE dimensions (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;

-- How far each remote sink has come. A batch is fixed here before it is first sent.
CREATE TABLE sinks (
    name TEXT PRIMARY KEY,
    delivered_seq INTEGER NOT NULL,
    delivered INTEGER NOT NULL,  -- events
    batch_id TEXT,
    batch_end INTEGER            -- last seq of the batch
) STRICT, WITHOUT ROWID;

-- Events that a sink will never take, whole, as JSON.
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sink TEXT NOT NULL, event_id TEXT NOT NULL, event TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL
) STRICT;
"""

_ROLLUPS = """
-- What the keys of rollups stand for, besides shapes and orgs.
CREATE TABLE types (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, event TEXT NOT NULL, UNIQUE (event, kind)) STRICT;
CREATE TABLE members (id INTEGER PRIMARY KEY, user INTEGER NOT NULL, org INTEGER NOT NULL, UNIQUE (user, org)) STRICT;
CREATE TABLE attribute_sets (id INTEGER PRIMARY KEY, attributes TEXT NOT NULL UNIQUE) STRICT;

-- Smallest and largest time of every 64 blocks: ranges of time are found here first.
CREATE TABLE spans (span INTEGER PRIMARY KEY, first_us INTEGER NOT NULL, last_us INTEGER NOT NULL) STRICT;

-- rolled_seq: the last event that is in the rollups. rolled_bound: no number in them is larger. rolled_version: changes
-- with everything that changes rollups but following the cursor. raw_from_us, rollups_from_us: what is older may have
-- been purged. rebuild_*: see `rollups`.
INSERT INTO counters VALUES
    ('rolled_seq', 0), ('rolled_bound', 0), ('rolled_version', 0), ('raw_from_us', 0), ('rollups_from_us', 0),
    ('rebuild_state', 0), ('rebuild_from_us', 0), ('rebuild_seq', 0), ('purged', 0);
"""

_ERASED = """
-- Users who were erased: a keyed hash of the id, when, and whether every file is rid of it. See `tombstones`.
CREATE TABLE tombstones (
    key BLOB PRIMARY KEY,
    erased_us INTEGER NOT NULL,  -- microseconds since 1970
    done INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;

INSERT INTO counters VALUES ('erasures', 0);
"""

_CLOUDFLARE = """
-- Where a batch was halved: the ids and last seqs of the parts to come after the present one, JSON.
ALTER TABLE sinks ADD COLUMN batch_parts TEXT;

-- In the order of their first declaration, which decides where they lie in points of Analytics Engine.
ALTER TABLE dimensions ADD COLUMN position INTEGER NOT NULL DEFAULT 0;
UPDATE dimensions SET position = (SELECT count(*) FROM dimensions d WHERE d.name < dimensions.name);

-- What was brought in from elsewhere, summed up by the hour; see `backfill`.
CREATE TABLE backfill (
    source TEXT NOT NULL,        -- the name of the backend it came from
    hour INTEGER NOT NULL,       -- since 1970, UTC
    shape INTEGER NOT NULL,
    subject INTEGER NOT NULL,
    exact INTEGER NOT NULL,      -- whether the source had counted every event
    events INTEGER NOT NULL, succeeded INTEGER NOT NULL, failed INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL,
    cost_nano INTEGER,           -- nano-dollars
    unpriced INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    quantity_millionths INTEGER NOT NULL,
    latency_sum_us INTEGER NOT NULL, latency_count INTEGER NOT NULL, latency_max_us INTEGER,
    last_seen_us INTEGER,        -- microseconds since 1970
    PRIMARY KEY (source, hour, shape, subject)
) STRICT, WITHOUT ROWID;
"""

_FAMILIES = """
-- batch_seq: the end of a batch that only some families of rollups hold. batch_families: how many do; 0 = none.
-- remade_from_us: of what is older org_hours and latency_days have nothing, and member_days no latest events, since it
-- was purged before they were there.
INSERT INTO counters VALUES ('batch_seq', 0), ('batch_families', 0), ('remade_from_us', 0);
DROP TABLE org_hours;
DROP TABLE IF EXISTS latency_days;
"""


def _add_families(db: Database) -> None:
    for statement in (*_statements(_FAMILIES), ORG_HOURS.ddl(), LATENCY_DAYS.ddl()):
        db.execute(statement)
    if "last" not in db["member_days"].columns_dict:
        db.execute("ALTER TABLE member_days ADD COLUMN last INTEGER")
    counters = dict(db.execute("SELECT name, value FROM counters"))
    if not counters["rolled_seq"] and not counters["rebuild_seq"]:
        return
    # All rollups are made anew, from the first week on that is whole in the raw rows.
    since = whole_since(counters["raw_from_us"])
    changed = {
        "remade_from_us": since,
        "rebuild_from_us": max(since, counters["rebuild_from_us"]),
        "rebuild_seq": max(counters["rolled_seq"], counters["rebuild_seq"]),
        "rebuild_state": 1,
        "rolled_version": counters["rolled_version"] + 1,
    }
    for name, value in changed.items():
        db.execute("UPDATE counters SET value = ? WHERE name = ?", (value, name))


def _add_tables(db: Database) -> None:
    for statement in _statements(_TABLES):
        db.execute(statement)
    for table in ("users", "orgs"):
        db.execute(f"INSERT INTO {table} (id, name) VALUES (0, '')")
    db.execute("INSERT INTO extras VALUES (0, 1, 1000000, 0, '{}')")


def _add_rollups(db: Database) -> None:
    for statement in (*_statements(_ROLLUPS), *(tier.ddl() for tier in TIERS)):
        db.execute(statement)


def _add_erased(db: Database) -> None:
    for statement in _statements(_ERASED):
        db.execute(statement)


def _add_cloudflare(db: Database) -> None:
    for statement in _statements(_CLOUDFLARE):
        db.execute(statement)


def _put_time_first(db: Database) -> None:
    # Processes that still know schema 5 look for this whenever they change rollups, and must not: they would leave
    # type_days out. Later ones look at the schema itself.
    db.execute("UPDATE counters SET name = 'rollups_version' WHERE name = 'rolled_version'")
    if not db["type_days"].exists():
        add_functions(db.conn)
        sums = ", ".join(f"exact_sum({name}, 1)" for name in TYPE_DAYS.columns)
        latest = f"max(last + quarter % 96 * {QUARTER_US})"
        groups = f"SELECT quarter / 96, type, {sums}, max(latency_max), {latest} FROM quarters GROUP BY 1, 2"
        db.execute(TYPE_DAYS.ddl())
        db.execute(f"INSERT INTO type_days {groups}")
    for tier in (MEMBER_WEEKS, MEMBER_DAYS, ORG_DAYS):
        if not _is_laid_out(db, tier):
            _lay_out(db, tier)


def _is_laid_out(db: Database, tier: Tier) -> bool:
    """Whether a tier's table is as it is meant to be: new ledgers are made that way."""
    columns = db.execute(f"SELECT name, pk FROM pragma_table_info('{tier.name}') ORDER BY pk").fetchall()
    keys = tuple(name for name, place in columns if place)
    return keys == tier.order and {name for name, _ in columns} >= set(tier.extremes)


def _lay_out(db: Database, tier: Tier) -> None:
    """Make a tier's table anew, in the order of its key."""
    columns = ", ".join([*tier.order, *tier.columns, *tier.extremes])
    db.execute(f"ALTER TABLE {tier.name} RENAME TO old")
    db.execute(tier.ddl())
    db.execute(f"INSERT INTO {tier.name} ({columns}) SELECT {columns} FROM old ORDER BY {', '.join(tier.order)}")
    db.execute("DROP TABLE old")


def _add_blobs(db: Database) -> None:
    # Of what is in the rollups by now, a rebuild makes the cells that are new, if it is asked for.
    last_us = db.execute("SELECT max(last_us) FROM spans").fetchone()[0]
    since = 0 if last_us is None else whole_since(last_us + 1)
    counters = dict(db.execute("SELECT name, value FROM counters"))
    if counters["rebuild_state"] == 1:  # one has begun, and nothing is made yet
        since = min(since, counters["rebuild_from_us"])
    db.execute("INSERT INTO counters VALUES ('hours_from_us', ?)", (since,))
    for tier in (*PACKED, *USER_SETS):
        if not db[tier.name].exists():
            db.execute(tier.ddl())
    if "last" in db["member_weeks"].columns_dict:
        _lay_out(db, MEMBER_WEEKS)
    for tier in HISTOGRAMS:
        cells = db.execute(f"SELECT {tier.clock}, latency, first_token FROM {tier.name}").fetchall()
        db.conn.executemany(
            f"UPDATE {tier.name} SET latency = ?, first_token = ? WHERE {tier.clock} = ?",
            [(*(blob_of(counts_of(_pairs_in(blob))) for blob in blobs), cell) for cell, *blobs in cells],
        )


def _pairs_in(blob: bytes) -> dict[int, int]:
    """Read a histogram of schema 6: distances between buckets, and weights, in turn; as base-128 numbers."""
    counts: dict[int, int] = {}
    numbers: list[int] = []
    number = shift = place = 0
    for byte in blob:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    for distance, count in zip(numbers[::2], numbers[1::2], strict=True):
        place += distance
        counts[place] = count
    return counts


_STEPS: dict[str, Callable[[Database], None]] = {
    "m001_ledger": _add_tables,
    "m002_rollups": _add_rollups,
    "m003_erased": _add_erased,
    "m004_cloudflare": _add_cloudflare,
    "m005_families": _add_families,
    "m006_time_first": _put_time_first,
    "m007_blobs": _add_blobs,
}
"""Never renamed and never taken out: a ledger keeps the names of those it has been through."""


SCHEMA_VERSION = len(_STEPS)


def migrations() -> Migrations:
    """Give all steps; sqlite-utils takes those that a ledger has not been through."""
    from sqlite_utils import Migrations

    steps = Migrations("usagekit")
    for name, step in _STEPS.items():
        steps(name=name)(step)
    return steps


def _statements(script: str) -> list[str]:
    lines = [line.split("--")[0].rstrip() for line in script.splitlines()]
    return [statement for statement in "\n".join(lines).split(";") if statement.strip()]
