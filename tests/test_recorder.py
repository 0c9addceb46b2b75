"""The recorder's own promises: what it says of itself, whom it isolates, and what the world may do to its files."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stores import eventually, query
from usagekit import Recorder, bound, usage
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usagekit import UsageEvent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give where the ledger lies."""
    return tmp_path / "usage.db"


@pytest.fixture
def recorder(path: Path) -> Iterator[Recorder]:
    """Give a recorder with a dimension of its own."""
    with Recorder(SQLiteBackend(path), dimensions=["größe"]) as made:
        yield made


def test_offered_is_accepted_and_rejected(recorder: Recorder) -> None:
    """Also once it is closed."""
    recorder.track("a")
    recorder.close()

    assert recorder.track("b") is False
    status = recorder.status()
    assert (status["offered"], status["accepted"], status["rejected"]) == (2, 1, {"closed": 1})


@pytest.mark.parametrize("value", ["1", "true", "YES", " on "])
def test_disabled_means_off_however_it_is_spelt(value: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch that protects privacy must not fail open."""
    monkeypatch.setenv("USAGEKIT_DISABLED", value)

    recorder = Recorder(SQLiteBackend(path))

    assert recorder.track("a") is False
    assert not path.exists()


def test_a_switch_that_is_neither_on_nor_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what was given."""
    monkeypatch.setenv("USAGEKIT_DISABLED", "perhaps")

    with pytest.raises(ConfigurationError, match="USAGEKIT_DISABLED='perhaps' is neither on nor off"):
        Recorder()


@pytest.mark.parametrize("name", ["users", "cost_usd", "events", "org", "day", "limit", "input_tokens", "a b", ""])
def test_a_dimension_must_be_a_name_of_its_own(name: str) -> None:
    """One that could never be asked for is refused at once."""
    with pytest.raises(ConfigurationError, match="dimension"):
        Recorder(MemoryBackend(), dimensions=[name])


def test_a_dimension_may_be_named_in_any_language(recorder: Recorder) -> None:
    """What was recorded is found."""
    recorder.track("a", größe="L")

    report = usage(recorder, by="größe", measures="events", where={"größe": "L"})

    assert report.rows == [{"größe": "L", "events": 1}]


@pytest.mark.parametrize("junk", [True, {"event": "a"}, "text"])
def test_a_processor_that_returns_junk_is_passed_over(junk: Any, path: Path) -> None:
    """The event is kept as it was, and the mistake counted."""
    with Recorder(SQLiteBackend(path), processors=[lambda _: junk]) as recorder:
        assert recorder.track("a") is True
        assert recorder.status()["errors"] == {"processor": 1}


class Unclosable:
    """A sink that cannot end."""

    max_batch = 10
    in_process = True

    def write(self, events: Any, /, *, batch_id: str) -> None:
        """Take everything."""

    def close(self) -> None:
        raise OSError


class Closable(Unclosable):
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def test_a_backend_that_cannot_close_keeps_no_other_open() -> None:
    """Nor does the host hear of it."""
    other = Closable()
    recorder = Recorder(Unclosable(), other)

    recorder.close()

    assert other.is_closed
    assert recorder.status()["errors"] == {"close": 1}


def test_a_report_says_when_something_could_not_be_imported_in_time(recorder: Recorder, path: Path) -> None:
    """Another process holds the ledger: the answer is not exact."""
    recorder.track("a")
    assert recorder.flush()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    recorder.track("b")

    report = usage(recorder, measures="events")

    assert (report.totals["events"], report.exact) == (1, False)
    other.execute("ROLLBACK")
    other.close()
    assert usage(recorder, measures="events").exact


def test_a_journal_that_somebody_removed_is_noticed(recorder: Recorder, path: Path) -> None:
    """Events go into a new file, and the loss is told."""
    recorder.track("a")
    assert recorder.flush()
    for file in path.with_name("usage.db-journals").glob("*.journal"):
        file.unlink()
    assert eventually(lambda: "journal" in recorder.status()["errors"])

    recorder.track("b")

    assert recorder.flush()
    assert query(path, "SELECT count(*) FROM events") == [(2,)]


def test_a_ledger_that_somebody_removed_is_made_anew(recorder: Recorder, path: Path) -> None:
    """What comes after it is kept where everybody looks."""
    recorder.track("a")
    assert recorder.flush()
    for name in ("usage.db", "usage.db-wal", "usage.db-shm"):
        path.with_name(name).unlink(missing_ok=True)

    recorder.track("b")

    assert eventually(path.exists)
    assert recorder.flush()
    assert {row["event"] for row in usage(recorder, by="event").rows} >= {"b"}
    assert "ledger" in recorder.status()["errors"]


def test_a_link_to_a_ledger_is_that_ledger(tmp_path: Path) -> None:
    """Journals lie beside the file itself, so every process finds them."""
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "usage.db").symlink_to(tmp_path / "usage.db")
    linked = SQLiteBackend(tmp_path / "release" / "usage.db")

    with Recorder(linked) as recorder:
        recorder.track("a")
        recorder.flush()

    assert usage(SQLiteBackend(tmp_path / "usage.db")).totals["events"] == 1
    assert [entry.name for entry in (tmp_path / "release").iterdir()] == ["usage.db"]


def test_a_bound_block_may_be_left_in_another_context() -> None:
    """Frameworks step through generators in copies of the context."""
    recorder = Recorder(MemoryBackend())
    backend: MemoryBackend = recorder.backends[0]

    def steps() -> Iterator[int]:
        with bound(user="ann"):
            recorder.track("inside")
            yield 1

    generator = steps()
    contextvars.copy_context().run(next, generator)
    contextvars.copy_context().run(next, generator, None)

    recorder.flush()
    assert [event.user for event in backend.events] == ["ann"]
    recorder.close()


def test_false_is_nobody() -> None:
    """`user.is_authenticated and user.id` is false for strangers."""
    recorder = Recorder(MemoryBackend())
    backend: MemoryBackend = recorder.backends[0]

    with bound(user=False, org="acme"):
        recorder.track("a")

    recorder.flush()
    event: UsageEvent = backend.events[0]
    assert (event.user, event.org) == ("", "acme")
    recorder.close()


def test_an_async_exclude_is_refused() -> None:
    """It would leave every request out."""
    from usagekit.asgi import UsageMiddleware

    async def exclude(path: str) -> bool:
        return await asyncio.sleep(0, path == "/")

    with pytest.raises(ConfigurationError, match="exclude is async"):
        UsageMiddleware(lambda *_: None, exclude=exclude)  # type: ignore[arg-type]


def test_blocks_that_schedule_their_successors_make_no_chain() -> None:
    """A timer copies its context, so that each block begins within the one before, long over."""
    backend, done = MemoryBackend(), asyncio.Event()
    left = 3000

    def tick(recorder: Recorder) -> None:
        nonlocal left
        left -= 1
        with bound(user="cron"):
            assert recorder.track("tick")
            if left:
                asyncio.get_running_loop().call_soon(tick, recorder)
            else:
                done.set()

    async def main(recorder: Recorder) -> None:
        tick(recorder)
        await done.wait()

    with Recorder(backend) as recorder:
        asyncio.run(main(recorder))

    assert [event.user for event in backend.events] == ["cron"] * 3000


def test_what_is_bound_may_nest_as_deep_as_functions_do() -> None:
    """The innermost value of each wins."""
    backend = MemoryBackend()
    with Recorder(backend) as recorder, ExitStack() as stack:
        stack.enter_context(bound(org="acme", user="u"))
        for number in range(1200):
            stack.enter_context(bound(user=f"u{number}"))
        assert recorder.track("deep")

    assert [(event.user, event.org) for event in backend.events] == [("u1199", "acme")]


def test_a_dimension_that_is_none_is_as_bound() -> None:
    """As it is for user and org."""
    memory = MemoryBackend()
    with Recorder(memory, dimensions=["project"]) as recorder:
        with bound(project="alpha", user="ann"):
            recorder.track("tick", project=None, user=None)
            recorder.record_tokens(model="m", project=None)
        recorder.track("tick", project=None)
        assert recorder.flush()

    assert [dict(event.attributes) for event in memory.events] == [{"project": "alpha"}, {"project": "alpha"}, {}]
    assert [event.user for event in memory.events] == ["ann", "ann", ""]
