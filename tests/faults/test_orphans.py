"""What the dead left behind: the living take it over, and so does whoever comes next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.support.processes import running
from tests.support.stores import eventually, journal_files, query
from usagekit import Recorder
from usagekit.asgi import UsageMiddleware
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from pathlib import Path

TAKEOVER_SECONDS = 2.0


def orphaned(path: Path, count: int) -> list[Path]:
    """Let a process record and be killed before it imported anything; gives its journals."""
    before = journal_files(path)
    with running("abandon.py", path, count) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "recorded\n"
        process.kill()
        process.wait()
    return [file for file in journal_files(path) if file not in before]


def test_a_living_process_imports_what_a_dead_one_left_and_removes_it(tmp_path: Path) -> None:
    """Within two seconds, though nothing happens in it any more."""
    path = tmp_path / "usage.db"
    living = Recorder(SQLiteBackend(path))
    living.track("first", response_bytes=1000)
    assert eventually(lambda: query(path, "SELECT count(*) FROM events") == [(1,)])

    left = orphaned(path, 300)

    assert len(left) == 1
    assert eventually(lambda: not any(file.exists() for file in left), TAKEOVER_SECONDS)
    assert query(path, "SELECT output FROM events ORDER BY output") == [(n,) for n in (*range(300), 1000)]
    living.close()


def test_a_restarted_app_imports_what_was_left_before_its_first_request(tmp_path: Path) -> None:
    """An ASGI server's start is enough."""
    path = tmp_path / "usage.db"
    left = orphaned(path, 300)
    recorder = Recorder(SQLiteBackend(path))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        """An app that has nothing to do at its start."""

    asyncio.run(UsageMiddleware(app, recorder=recorder)({"type": "lifespan"}, app, app))

    assert eventually(lambda: not any(file.exists() for file in left), TAKEOVER_SECONDS)
    assert query(path, "SELECT count(*) FROM events") == [(300,)]
    recorder.close()


def test_the_journal_of_a_living_process_stays_though_all_of_it_was_imported(tmp_path: Path) -> None:
    """Its owner goes on writing to it."""
    path = tmp_path / "usage.db"
    with running("abandon.py", path, 100) as process, Recorder(SQLiteBackend(path)) as other:
        assert process.stdin is not None
        assert process.stdout is not None
        for rounds in range(1, 4):
            assert process.stdout.readline() == "recorded\n"
            files = journal_files(path)
            assert other.flush()
            with Recorder(SQLiteBackend(path)):
                pass  # which looks for orphans when it is closed
            assert query(path, "SELECT output FROM events ORDER BY output") == [(n,) for n in range(100 * rounds)]
            assert journal_files(path) == files
            process.stdin.write("again\n")
            process.stdin.flush()


def test_a_flush_imports_what_the_dead_left_when_nobody_lives(tmp_path: Path) -> None:
    """A recorder that records nothing by itself does as well."""
    path = tmp_path / "usage.db"
    left = [*orphaned(path, 300), *orphaned(path, 200)]
    assert query(path, "SELECT count(*) FROM events") == [(0,)]

    with Recorder(SQLiteBackend(path)) as fresh:
        assert fresh.flush()
        assert query(path, "SELECT count(*) FROM events") == [(500,)]

    assert len(left) == 2
    assert journal_files(path) == []
