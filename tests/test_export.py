"""`usagekit export`: events or the rows of a report, for other programs."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stores import query, stored_events
from usagekit import Recorder, UsageEvent, cli, usage
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.cli.export import EVENT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOON = datetime(2026, 10, 31, 12, tzinfo=UTC)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Call `main` in this process; gives the exit code and what it said."""
    for name in ("USAGEKIT_BACKEND", "USAGEKIT_PATH"):
        monkeypatch.delenv(name, raising=False)

    def run(*argv: str) -> tuple[int, str, str]:
        return cli.main(argv), *capsys.readouterr()

    return run


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger with a request, a model call, and a named event that a spreadsheet would run."""
    path = tmp_path / "usage.db"
    happened = [
        UsageEvent(
            time=NOON,
            kind="request",
            event="request",
            user="ann",
            org="acme",
            status=200,
            latency_ms=12.5,
            route="GET /items/{id}",
            response_bytes=2048,
            aborted=True,
        ),
        UsageEvent(
            time=NOON + timedelta(hours=11, microseconds=1),
            kind="llm",
            event="llm",
            user="ann",
            org="acme",
            status=200,
            provider="openai",
            model="gpt-5-mini",
            input_tokens=1200,
            output_tokens=300,
            cache_read_tokens=3,
            cache_write_tokens=2,
            reasoning_tokens=1,
            first_token_ms=220,
            latency_ms=840,
            cost_usd=Decimal("0.000000001"),
            cost_source="priced",
        ),
        UsageEvent(
            time=NOON + timedelta(days=1),
            event="=HYPERLINK(1)",
            user="@bob",
            quantity=2.5,
            weight=3,
            attributes={"project": "-alpha"},
        ),
    ]
    with Recorder(SQLiteBackend(path), dimensions=["project"]) as recorder:
        assert all(map(recorder.record, happened))
    return path


def test_events_as_csv(ledger: Path, run: Any) -> None:
    """Every column, times in the zone, money as decimals; nothing runs in a spreadsheet."""
    code, out, err = run("export", "--db", str(ledger), "--period", "all", "--tz", "Europe/Berlin")

    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    ids = [event.id for event in stored_events(ledger)]
    assert (code, err) == (0, "")
    assert list(rows[0]) == [*EVENT_COLUMNS, "project"]
    assert [row["event_id"] for row in rows] == ids
    assert rows[1] == {
        "event_id": ids[1],
        "time": "2026-11-01T00:00:00.000001+01:00",
        "kind": "llm",
        "event": "llm",
        "user": "ann",
        "org": "acme",
        "status": "200",
        "latency_ms": "840.0",
        "route": "",
        "provider": "openai",
        "model": "gpt-5-mini",
        "input_tokens": "1200",
        "output_tokens": "300",
        "cache_read_tokens": "3",
        "cache_write_tokens": "2",
        "reasoning_tokens": "1",
        "first_token_ms": "220.0",
        "cost_usd": "0.000000001",
        "cost_source": "priced",
        "response_bytes": "0",
        "aborted": "false",
        "quantity": "1.0",
        "weight": "1",
        "project": "",
    }
    assert [rows[2][name] for name in ("event", "user", "project", "quantity", "weight", "cost_usd")] == [
        "'=HYPERLINK(1)",
        "'@bob",
        "'-alpha",
        "2.5",
        "3",
        "",
    ]


def test_events_as_json_lines(ledger: Path, run: Any) -> None:
    """One object a line with the same names; texts as they are, what is unknown is null."""
    code, out, _ = run("export", "--db", str(ledger), "--period", "all", "--format", "jsonl")

    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [list(row) for row in rows] == [[*EVENT_COLUMNS, "project"]] * 3
    shown = ("time", "event", "status", "latency_ms", "cost_usd", "aborted", "quantity", "project")
    assert [tuple(row[name] for name in shown) for row in rows] == [
        ("2026-10-31T12:00:00.000000+00:00", "request", 200, 12.5, None, True, 1.0, ""),
        ("2026-10-31T23:00:00.000001+00:00", "llm", 200, 840.0, "0.000000001", False, 1.0, ""),
        ("2026-11-01T12:00:00.000000+00:00", "=HYPERLINK(1)", 0, None, None, False, 2.5, "-alpha"),
    ]


def test_events_are_chosen_as_in_a_report(ledger: Path, run: Any) -> None:
    """By range, filters and limit; into a file, which is replaced."""
    out = ledger.parent / "events.csv"
    out.write_text("x" * 10_000)

    options = ("export", "--db", str(ledger), "--output", str(out))
    november = run(*options, "--start", "2026-11-01", "--tz", "Europe/Berlin", "--where", "org=acme")
    chosen = events_in(out)
    limited = run(*options, "--period", "all", "--limit", "1", "--where", "project=")

    assert (november, limited) == ((0, "", ""), (0, "", ""))
    assert [row["event"] for row in chosen] == ["llm"]
    assert [row["event"] for row in events_in(out)] == ["request"]


def events_in(file: Path) -> list[dict[str, str]]:
    """Read an exported file."""
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_a_report_is_exported_with_by(ledger: Path, run: Any) -> None:
    """The same CSV as `usagekit report` writes, or one JSON object a row."""
    options = ("--db", str(ledger), "--period", "all", "--by", "user", "--measures", "events,cost_usd")

    exported, reported = run("export", *options), run("report", *options, "--format", "csv")
    lines = run("export", *options, "--format", "jsonl", "--order", "-cost_usd", "--limit", "1")[1]

    assert exported == reported
    assert lines == '{"user": "ann", "events": 2, "cost_usd": "0.000000001"}\n'


@pytest.mark.parametrize("option", [("--order", "-events"), ("--measures", "events")], ids=lambda option: option[0])
def test_options_of_reports_need_by(ledger: Path, run: Any, option: tuple[str, str]) -> None:
    """Rather than being ignored."""
    code, out, err = run("export", "--db", str(ledger), *option)

    assert (code, out) == (2, "")
    assert err == ("usagekit export: --measures and --order are for reports; give --by, or leave them out for events\n")


class ReportsOnly:
    """A reader that another process can ask, and that has no events to give."""

    dimensions = ()

    def read(self, query: Any, /) -> Any:
        """Answer nothing."""
        raise NotImplementedError


def test_what_holds_no_events_exports_reports_only(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remote readers answer questions, and keep the events."""
    monkeypatch.setattr("usagekit.cli.export.reader", lambda _: ReportsOnly())

    code, _, err = run("export")

    assert code == 2
    assert err.startswith("usagekit export: a ReportsOnly has no events to export; give --by")


def multiplied(path: Path, events: int) -> None:
    """Make one event of a ledger many, faster than recording them."""
    assert query(path, "SELECT count(*) FROM events") == [(1,)]
    numbers = f"WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {events - 1})"
    columns = "offset_us, shape, subject, latency_us, tail_us, output, input, cost_nano, cache_read, cache_write"
    query(path, f"INSERT INTO events {numbers} SELECT seq + x, {columns}, reasoning FROM events, n")
    query(
        path,
        f"INSERT INTO blocks {numbers} SELECT x, base_us, first_us, last_us FROM blocks, n WHERE x <= {events} >> 8",
    )
    query(path, f"UPDATE counters SET value={events + 1} WHERE name='next_seq'")


def test_many_events_take_no_more_memory_than_few(tmp_path: Path) -> None:
    """Fifty thousand of them, in a process of its own."""
    few, many = tmp_path / "few.db", tmp_path / "many.db"
    for path, events in ((few, 5_000), (many, 50_000)):
        with Recorder(SQLiteBackend(path)) as recorder:
            recorder.track("export", user="ann", org="acme", latency_ms=3.5)
        multiplied(path, events)
    assert usage(SQLiteBackend(many), measures="events").totals == {"events": 50_000}

    peaks = [exported(path, tmp_path / f"{path.stem}.csv") for path in (few, many)]

    with (tmp_path / "many.csv").open("rb") as file:
        lines = {line.partition(b",")[0] for line in file}
    assert len(lines) == 50_001
    assert peaks[1] < peaks[0] * 1.2


def exported(path: Path, out: Path) -> int:
    """Export in a process of its own; gives the most memory it had, in the system's unit."""
    command = [sys.executable, "-m", "usagekit", "export", "--db", str(path), "--period", "all", "--output", str(out)]
    pid = os.spawnv(os.P_NOWAIT, sys.executable, command)  # noqa: S606  its usage is its own
    _, status, used = os.wait4(pid, 0)
    assert status == 0
    return used.ru_maxrss


def test_a_file_is_replaced_only_when_there_is_something_to_write(ledger: Path, run: Any, tmp_path: Path) -> None:
    """Neither a question that cannot be asked nor a ledger that cannot be read costs what was exported before."""
    kept = tmp_path / "kept.csv"
    kept.write_text("yesterday's")

    codes = [
        run("export", "--db", str(ledger), "--output", str(kept), *wrong)[0]
        for wrong in (["--by", "nope"], ["--where", "nope=1"], ["--period", "x"], ["--db", str(tmp_path / "none.db")])
    ]

    assert codes == [2, 2, 2, 2]
    assert kept.read_text() == "yesterday's"


@pytest.mark.parametrize("by", [[], ["--by", "user"]], ids=["events", "report"])
@pytest.mark.parametrize("name", ["usage.db", "link.db", "usage.db-wal", "usage.db-journals/x.csv", "hard.db"])
def test_the_ledger_itself_is_not_written_to(ledger: Path, run: Any, name: str, by: list[str]) -> None:
    """By whatever name."""
    (ledger.parent / "link.db").symlink_to(ledger)
    os.link(ledger, ledger.parent / "hard.db")
    file = ledger.parent / name

    code, _, said = run("export", "--db", str(ledger), *by, "--output", str(file))

    assert (code, said) == (
        2,
        f"usagekit export: --output {str(file)!r} is a file of the ledger {str(ledger)!r} itself; give another path\n",
    )
    assert usage(SQLiteBackend(ledger)).totals["events"] == 5


def test_an_export_that_fails_costs_nothing(ledger: Path, run: Any, tmp_path: Path) -> None:
    """What was exported before is replaced by a whole file, or by nothing."""
    kept = tmp_path / "kept.csv"
    kept.write_text("yesterday's")
    kept.chmod(0o640)

    failed = run("export", "--db", str(ledger), "--output", str(kept), "--period", "all", "--timeout", "1e-9")[0]
    before = kept.read_text()
    done = run("export", "--db", str(ledger), "--output", str(kept), "--period", "all")[0]

    assert (failed, before, done) == (2, "yesterday's", 0)
    assert len(kept.read_text().splitlines()) == 4
    assert kept.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir() if "kept" in path.name] == ["kept.csv"]


def test_a_new_file_is_as_open_as_any_other(ledger: Path, run: Any, tmp_path: Path) -> None:
    """Whoever is to read the export decides by the umask."""
    before = os.umask(0o027)
    try:
        assert run("export", "--db", str(ledger), "--output", str(tmp_path / "new.csv"))[0] == 0
    finally:
        os.umask(before)

    assert (tmp_path / "new.csv").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("none/such/x.csv", "there is no directory '{cwd}/none/such'; make it, or give another"),
        ("folder", "it cannot be written: Is a directory; give another path"),
    ],
)
def test_a_file_that_cannot_be_written_is_said(
    ledger: Path, run: Any, monkeypatch: pytest.MonkeyPatch, file: str, why: str
) -> None:
    """In one line, with the option."""
    (ledger.parent / "folder").mkdir()
    monkeypatch.chdir(ledger.parent)

    told = run("export", "--db", str(ledger), "--output", file)

    assert told == (2, "", f"usagekit export: --output {file!r}: {why}\n".replace("{cwd}", str(ledger.parent)))
