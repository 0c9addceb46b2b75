"""Opening a ledger: by many at once, and where it cannot be; every refusal says what to do."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.processes import said_by
from tests.support.rolled import cells, roll_up, shown, write_events
from tests.support.stores import locked, query
from usagekit import Recorder
from usagekit._store import schema
from usagekit._store.file_systems import check_file_system
from usagekit._store.lanes import counts_in, number_in
from usagekit._store.retention import Retention, purge_until_done
from usagekit._store.rollups import Rollups
from usagekit._store.schema import connect, prepare
from usagekit._store.tiers import HISTOGRAMS, TIERS
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import StorageError
from usagekit.query import UsageQuery

LOCAL = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /srv rw - xfs /dev/vdb rw
"""

_NEW_IN_7 = {"user_days", "user_hours", "day_shapes", "shape_hours"}
_BACK_TO_6 = """
DROP TABLE user_days;
DROP TABLE user_hours;
DROP TABLE day_shapes;
DROP TABLE shape_hours;
DELETE FROM counters WHERE name = 'hours_from_us';
ALTER TABLE member_weeks ADD COLUMN last INTEGER;
DELETE FROM _sqlite_migrations WHERE name >= 'm007';
PRAGMA user_version = 6;
"""

_BACK_TO_5 = """
DROP TABLE type_days;
UPDATE counters SET name = 'rolled_version' WHERE name = 'rollups_version';
ALTER TABLE member_weeks DROP COLUMN last;
DELETE FROM _sqlite_migrations WHERE name >= 'm006';
PRAGMA user_version = 5;
"""
_KEYS_OF_5 = {
    "member_days": ("member", "day", "type"),
    "member_weeks": ("member", "week"),
    "org_days": ("org", "day", "type"),
}

_BACK_TO_4 = """
DELETE FROM counters WHERE name IN ('batch_seq', 'batch_families', 'remade_from_us');
DROP TABLE latency_days;
DROP TABLE org_hours;
CREATE TABLE org_hours (
    hour INTEGER NOT NULL, org INTEGER NOT NULL, events ANY NOT NULL, failed ANY NOT NULL, input ANY NOT NULL,
    output ANY NOT NULL, cost ANY NOT NULL, costed ANY NOT NULL, PRIMARY KEY (hour, org)
) STRICT, WITHOUT ROWID;
ALTER TABLE member_days DROP COLUMN last;
DELETE FROM _sqlite_migrations WHERE name >= 'm005';
PRAGMA user_version = 4;
"""


def test_eight_processes_make_a_fresh_ledger_at_once(tmp_path: Path) -> None:
    """Forty times, and each of them uses it at once."""
    assert said_by("openers.py", tmp_path, 40, 8, seconds=110.0) == "0 failed\n"

    for n in range(40):
        assert query(tmp_path / str(n) / "usage.db", "SELECT count(*) FROM events") == [(8,)]


def test_a_ledger_that_is_up_to_date_is_opened_while_another_writes(path: Path) -> None:
    """Opening needs no lock, unless there is something to write."""
    prepare(str(path))

    with locked(path):
        recorder = Recorder(SQLiteBackend(path))
        assert recorder.track("tick")

    recorder.close()
    assert query(path, "SELECT count(*) FROM events") == [(1,)]


def test_a_second_recorder_leaves_the_locks_of_the_first(path: Path) -> None:
    """They go when any descriptor of the file is closed; without them another process deletes the first one's log."""
    first = Recorder(SQLiteBackend(path))
    first.track("before")
    assert first.flush()

    second = Recorder(SQLiteBackend(path))

    code = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]); "
        "connection.execute('SELECT * FROM events').fetchall(); connection.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert path.with_name("usage.db-wal").exists()
    first.track("behind")
    assert first.flush()
    assert query(path, "SELECT count(*) FROM events") == [(2,)]
    second.close()
    first.close()


def test_new_dimensions_wait_for_a_writer_and_then_say_why_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that stays locked is a storage error, not SQLite's own."""
    prepare(str(path))
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.1)

    with locked(path), pytest.raises(StorageError, match=r"cannot use the ledger .*usage\.db': database is locked"):
        Recorder(SQLiteBackend(path), dimensions=["project"])


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """And left as it is."""
    path.write_text("notes " * 1000)

    with pytest.raises(StorageError, match=r"usage\.db' is not a SQLite database; move it away, or give the ledger"):
        Recorder(SQLiteBackend(path))

    assert path.read_text() == "notes " * 1000


def test_a_database_of_something_else_is_refused(path: Path) -> None:
    """And left as it is."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (name)")

    with pytest.raises(StorageError, match="is a SQLite database of something else; give the ledger a file of its own"):
        Recorder(SQLiteBackend(path))

    assert query(path, "SELECT name FROM sqlite_schema") == [("customers",)]
    assert query(path, "PRAGMA journal_mode") == [("delete",)]


def test_a_ledger_of_the_future_is_refused(path: Path) -> None:
    """An older usagekit beside a newer one must not write what that does not expect."""
    prepare(str(path))
    query(path, "PRAGMA user_version=99")

    with pytest.raises(StorageError, match=r"has schema 99, this usagekit knows \d; upgrade usagekit here, or give it"):
        Recorder(SQLiteBackend(path))


def test_a_directory_in_the_ledgers_place_is_refused(path: Path) -> None:
    """The message names the path and what the system said."""
    path.mkdir()

    with pytest.raises(StorageError, match=r"cannot write the ledger .*usage\.db': Is a directory; give a path in"):
        Recorder(SQLiteBackend(path))


@pytest.mark.parametrize("existing", [False, True])
def test_a_read_only_directory_is_refused(*, existing: bool) -> None:
    """Whether the ledger is to be made there, or would have to be written."""
    # Below a directory that any user may enter: the test's own may belong to root alone.
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        place.chmod(0o755)
        path = place / "closed" / "usage.db"
        path.parent.mkdir()
        if existing:
            prepare(str(path))
        for file in (path, path.parent):
            if file.exists():
                file.chmod(0o555)

        message = said_by("refused.py", path)
    finally:
        shutil.rmtree(place)

    assert message.startswith(f"StorageError: cannot write the ledger '{path}': Permission denied; give a path")


@pytest.mark.parametrize(
    ("mount", "kind"),
    [
        ("31 22 0:27 / /data rw - nfs4 server:/export rw", "nfs4"),
        ("31 22 0:27 / /data rw,relatime shared:3 master:1 - cifs //server/share rw", "cifs"),
        ("31 22 0:27 / /data rw - fuse.sshfs me@server: rw", "fuse.sshfs"),
        ("31 22 0:27 / /data rw - fuse.unheard-of x rw", "fuse.unheard-of"),
        ("31 22 0:27 / /data rw - fuse x rw", "fuse"),
        ("31 22 0:27 / /data rw - 9p drvfs rw", "9p"),
        ("31 22 0:27 / / rw - overlay overlay rw\n32 31 0:28 / /data rw - smb3 x rw", "smb3"),
    ],
)
def test_a_network_file_system_is_refused(mount: str, kind: str, tmp_path: Path) -> None:
    """SQLite's shared memory is not shared there."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(LOCAL + mount + "\n")

    with pytest.raises(StorageError, match=f"lies on a {kind} mount, where .* put the ledger on a local disk"):
        check_file_system("/data/app", str(mounts))


@pytest.mark.parametrize(
    "mounts",
    [
        pytest.param(LOCAL, id="a local disk"),
        pytest.param(LOCAL + "31 22 0:27 / /dat rw - nfs4 x rw\n", id="a mount beside it with a similar name"),
        pytest.param(LOCAL + "31 22 0:27 / /data rw - nfs x rw\n32 31 0:28 / /data/app rw - ext4 x rw\n", id="in it"),
        pytest.param(LOCAL + "31 22 0:27 / /data rw - nfs x rw\n32 31 0:28 / /data rw - ext4 x rw\n", id="over it"),
        pytest.param(LOCAL + "31 22 0:27 / /data rw - fuse.fuse-overlayfs x rw\n", id="a container without root"),
        pytest.param(LOCAL + "31 22 0:27 / /data rw - fuseblk /dev/sda1 rw\n", id="an NTFS disk"),
        pytest.param("", id="nothing is known"),
        pytest.param("no sense - at all\n-\n - \n\n", id="a table of another kind"),
    ],
)
def test_other_file_systems_are_taken(mounts: str, tmp_path: Path) -> None:
    """What counts is the innermost, latest mount."""
    file = tmp_path / "mountinfo"
    file.write_text(mounts)

    check_file_system("/data/app", str(file))
    check_file_system("/data/app", str(tmp_path / "none"))


@pytest.mark.parametrize("name", [b"a b", b"gr\xc3\xb6\xc3\x9fe", b"caf\xe9", b"back\\slash", b"tab\there", b"#1"])
def test_mount_points_may_have_any_name(name: bytes, tmp_path: Path) -> None:
    """The table escapes some characters as octal numbers, and holds all others as they are."""
    escaped = b"".join(b"\\%03o" % c if c in b" \t\n\\#" else bytes([c]) for c in name)
    file = tmp_path / "mountinfo"
    file.write_bytes(LOCAL.encode() + b"31 22 0:27 / /mnt/" + escaped + b" rw - nfs x rw\n")

    check_file_system("/data", str(file))
    with pytest.raises(StorageError, match="lies on a nfs mount"):
        check_file_system(os.fsdecode(b"/mnt/" + name + b"/app"), str(file))


@pytest.mark.parametrize("name", [b"100%.db", b"a?b#c.db", b"gr\xc3\xb6\xc3\x9fe.db", b"caf\xe9.db", b" .db"])
def test_a_ledger_may_have_any_name(name: bytes, tmp_path: Path) -> None:
    """Its path becomes part of a URI."""
    path = tmp_path / os.fsdecode(name)

    with Recorder(SQLiteBackend(path)) as recorder:
        assert recorder.track("tick")
        assert recorder.flush()

    assert query(path, "SELECT count(*) FROM events") == [(1,)]


@pytest.mark.parametrize("purged", [False, True])
def test_a_ledger_of_schema_4_gets_new_rollups(path: Path, *, purged: bool) -> None:
    """They are made anew of the events there are; of what was purged, the others still answer what they did."""
    write_events(path, 600, days=60)
    roll_up(path)
    backend = SQLiteBackend(path)
    middle = datetime.now(UTC) - timedelta(days=30)
    if purged:
        assert purge_until_done(str(path), Retention(days=30)) == 255  # the first block
    since = middle + timedelta(days=8) if purged else None
    by_hour = UsageQuery.build(by=("org", "event", "day"), start=since, tz="Europe/Berlin", measures="cost_usd")
    by_day = UsageQuery.build(by=("org", "event", "day"), measures=("events", "cost_usd"))
    before = [shown(backend._answer(asked, raw_enough=0)) for asked in (by_hour, by_day)]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        back_to_6(connection)
        connection.executescript(_BACK_TO_5)
        connection.executescript(_BACK_TO_4)

    prepare(str(path))
    while_made = backend._answer(by_hour, raw_enough=0)
    roll_up(path)

    after = [backend._answer(asked, raw_enough=0) for asked in (by_hour, by_day)]
    assert shown(while_made) == before[0]
    assert list(map(shown, after)) == before
    assert "org_hours" not in while_made.source
    assert "org_hours" in after[0].source
    assert query(path, "SELECT value > 0 FROM counters WHERE name = 'remade_from_us'") == [(purged,)]
    assert query(path, "SELECT value > 0 FROM counters WHERE name = 'hours_from_us'") == [(purged,)]
    whole = backend._answer(UsageQuery.build(by=("org", "day"), tz="Europe/Berlin", measures="events"), raw_enough=0)
    assert ("org_hours" in whole.source) is not purged
    assert (whole.complete_from is None) is not purged


@pytest.mark.parametrize("rebuilding", [False, True])
def test_a_ledger_of_schema_5_keeps_its_rollups(path: Path, *, rebuilding: bool) -> None:
    """In another order; a rebuild that was under way goes on."""
    write_events(path, 600, days=60)
    roll_up(path)
    before = _cells_of_6(path)
    asked = UsageQuery.build(by=("user", "day"), tz="Europe/Berlin", measures=("events", "cost_usd", "last_seen"))
    answered = shown(SQLiteBackend(path)._answer(asked, raw_enough=0))
    with closing(connect(str(path))) as connection:
        if rebuilding:
            Rollups(connection).begin_rebuild()
        back_to_6(connection)
        for name, keys in _KEYS_OF_5.items():
            ((sql,),) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,)).fetchall()
            connection.execute(f"ALTER TABLE {name} RENAME TO before")
            connection.execute(re.sub(r"PRIMARY KEY \(.*?\)", f"PRIMARY KEY ({', '.join(keys)})", sql))
            connection.execute(f"INSERT INTO {name} SELECT * FROM before")
            connection.execute("DROP TABLE before")
        connection.executescript(_BACK_TO_5)
    assert {name: _key(path, name) for name in _KEYS_OF_5} == _KEYS_OF_5

    prepare(str(path))

    assert {tier.name: _key(path, tier.name) for tier in TIERS} == {tier.name: tier.order for tier in TIERS}
    assert _cells_of_6(path) == before
    roll_up(path)
    assert _cells_of_6(path) == before
    assert shown(SQLiteBackend(path)._answer(asked, raw_enough=0)) == answered
    assert query(path, "SELECT value FROM counters WHERE name = 'rebuild_state'") == [(0,)]


def _key(path: Path, table: str) -> tuple[str, ...]:
    columns = query(path, f"SELECT name FROM pragma_table_info('{table}') WHERE pk > 0 ORDER BY pk")
    return tuple(name for (name,) in columns)


@pytest.mark.parametrize("purged", [False, True])
def test_a_ledger_of_schema_6_gets_sets_of_users(path: Path, *, purged: bool) -> None:
    """Of what is new at once, of what is old with the next rebuild; the answers are the same all the time."""
    write_events(path, 600, days=60)
    roll_up(path)
    backend = SQLiteBackend(path)
    if purged:
        assert purge_until_done(str(path), Retention(days=30)) == 255  # the first block
    asked = UsageQuery.build(by="day", tz="Asia/Kathmandu", measures=("users", "latency_ms_p95"))
    before = cells(path)
    answered = shown(backend._answer(asked, raw_enough=0))
    with closing(connect(str(path))) as connection:
        back_to_6(connection)

    prepare(str(path))

    assert _cells_of_6(path) == {name: before[name] for name in before if name not in _NEW_IN_7}
    upgraded = backend._answer(asked, raw_enough=0)
    assert "user_days" not in upgraded.source
    assert purged or shown(upgraded) == answered
    with closing(connect(str(path))) as connection:
        Rollups(connection).begin_rebuild()
    roll_up(path)
    rebuilt = backend._answer(asked, raw_enough=0)
    assert ("user_days" in rebuilt.source) is not purged
    assert shown(rebuilt) == shown(upgraded)
    assert purged or cells(path) == before
    since = datetime.now(UTC) - timedelta(days=14)
    latest = UsageQuery.build(start=since, measures="users")
    assert "user_days" in backend._answer(latest, raw_enough=0).source


def _cells_of_6(path: Path) -> dict[str, list[tuple[object, ...]]]:
    return {name: rows for name, rows in cells(path).items() if name not in _NEW_IN_7}


def back_to_6(connection: sqlite3.Connection) -> None:
    """Lay a ledger out as schema 6 had it."""
    connection.executescript(_BACK_TO_6)
    for tier in HISTOGRAMS:
        for cell, *blobs in connection.execute(
            f"SELECT {tier.clock}, latency, first_token FROM {tier.name}"
        ).fetchall():
            old = [_pairs(counts_in(number_in(blob))) for blob in blobs]
            connection.execute(
                f"UPDATE {tier.name} SET latency = ?, first_token = ? WHERE {tier.clock} = ?", (*old, cell)
            )


def _pairs(counts: dict[int, int]) -> bytes:
    """Give distances between places, and counts, in turn; each as a base-128 number, low bits first."""
    distances = [place - before for before, place in zip([0, *counts], counts, strict=False)]
    numbers = [number for pair in zip(distances, counts.values(), strict=True) for number in pair]
    return b"".join(
        bytes([*(number >> shift & 127 | 128 for shift in range(0, _last_of(number), 7)), number >> _last_of(number)])
        for number in numbers
    )


def _last_of(number: int) -> int:
    return max(0, number.bit_length() - 1) // 7 * 7
