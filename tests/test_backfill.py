"""Bringing days of another backend into a ledger: once, apart from what was recorded, and compared with it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.analytics_engine import serving
from tests.support.stores import query
from usagekit import Recorder, UsageEvent, cli, usage
from usagekit._backfill import Brought, backfill_day
from usagekit.backends.analytics_engine.layout import Layout
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

DAY = date(2026, 11, 20)
MORNING = datetime(2026, 11, 20, 8, 15, tzinfo=UTC)
SUMS = "events succeeded failed input_tokens output_tokens cost_usd unpriced response_bytes quantity".split()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USAGEKIT_BACKEND", "USAGEKIT_PATH", "USAGEKIT_BATCH", "USAGEKIT_REALTIME", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The ledger that days are brought into."""
    return tmp_path / "usage.db"


def events() -> list[UsageEvent]:
    """A day of two customers, with one event before and one after it."""
    call = {"kind": "llm", "event": "llm", "status": 200, "provider": "acme", "model": "m", "cost_source": "priced"}
    found = [
        UsageEvent(
            time=MORNING + timedelta(minutes=20 * n),
            user=f"u{n % 3}",
            org=("globex", "acme")[n % 2],
            input_tokens=10 * n,
            output_tokens=n,
            cost_usd=Decimal("0.000000001") * n,
            latency_ms=100 + n,
            attributes={"project": f"p{n % 2}"},
            **call,  # type: ignore[arg-type]
        )
        for n in range(1, 31)
    ]
    found.append(UsageEvent(time=MORNING, event="export", org="acme", status=500, quantity=2.5, response_bytes=7))
    outside = [UsageEvent(time=MORNING + timedelta(days=days), event="export") for days in (-1, 1)]
    return [*found, *outside]


def ledger_of(path: Path, recorded: Iterable[UsageEvent]) -> SQLiteBackend:
    """Make a ledger of events."""
    with Recorder(SQLiteBackend(path), dimensions=["project"]) as recorder:
        for event in recorded:
            assert recorder.record(event)
    return SQLiteBackend(path)


def asked(source: Any, *by: str, **options: Any) -> list[dict[str, Any]]:
    """Give the rows of a question about the day."""
    return usage(source, by=by, measures=SUMS, start=DAY, end=DAY + timedelta(days=1), **options).rows


@pytest.mark.parametrize("per", [None, "org", "user"])
def test_a_day_is_brought_in_whole(path: Path, tmp_path: Path, per: str | None) -> None:
    """The same questions have the same answers as at the source, and again after it was brought in twice."""
    source = ledger_of(tmp_path / "source.db", events())

    brought = [backfill_day(str(path), source, DAY, per=per) for _ in range(2)]

    ledger = SQLiteBackend(path)
    assert brought == [Brought(31, 31, exact=True, kept=False)] * 2
    for by in ((), ("org",), ("user", "model"), ("hour", "project"), ("day", "cost_source", "status_class"), ("kind",)):
        assert asked(ledger, *by, origin="backfill") == asked(source, *by)
    assert asked(ledger, "user", where={"org": "acme", "project": "p1"}, origin="backfill") == asked(
        source, "user", where={"org": "acme", "project": "p1"}
    )
    whole = usage(ledger, origin="backfill").totals
    assert whole | {"latency_ms_p50": None, "latency_ms_p95": None, "latency_ms_p99": None} == whole
    assert (whole["events"], whole["users"]) == (31, 3)
    assert whole["latency_ms_max"] == 130
    assert whole["last_seen"] == "2026-11-20T18:15:00.000000+00:00"


def test_a_ledger_tells_which_days_were_brought_in(path: Path, tmp_path: Path) -> None:
    """By source and day, each once, with the time it was brought in last."""
    source = ledger_of(tmp_path / "source.db", events())
    before = datetime.now(UTC)
    for day in (DAY, DAY - timedelta(days=1), DAY):
        backfill_day(str(path), source, day)

    told = SQLiteBackend(path).backfilled()

    assert [day[:-1] for day in told] == [
        ("SQLiteBackend", DAY - timedelta(days=1), 1, 1, True),
        ("SQLiteBackend", DAY, 31, 31, True),
    ]
    assert before <= told[0].at <= told[1].at <= datetime.now(UTC)
    assert SQLiteBackend(tmp_path / "source.db").backfilled() == []


def test_a_day_is_brought_in_from_analytics_engine(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its SQL, over HTTP; twice, and no row is there twice. Then both say the same of that day."""
    source = ledger_of(tmp_path / "source.db", events())
    ledger_of(path, events())
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", "account")
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "secret")
    with serving(tmp_path / "source.db", {"usagekit": Layout.default(["project"])}) as server:
        url = f"analytics-engine://usagekit?api_url={server.url}"
        options = ["--from", url, "--db", str(path), "--day", "2026-11-20"]

        codes = [cli.main(["backfill", *options, "--per", "org"]) for _ in range(2)]
        drift = cli.main(["reconcile", *options, "--by", "user,project"])

    said = capsys.readouterr().out.splitlines()
    assert (codes, drift) == ([0, 0], 0)
    assert said[0] == "2026-11-20: 31 events in 31 rows from analytics-engine:usagekit, sampled"
    assert said[-1] == "7 of 7 rows within 0 % of analytics-engine:usagekit"
    for by in ((), ("user", "model"), ("hour", "project"), ("cost_source", "status")):
        assert asked(SQLiteBackend(path), *by, origin="backfill") == asked(source, *by)
    assert not usage(SQLiteBackend(path), origin="backfill").exact


def test_a_dataset_has_a_layout_of_its_own(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file says what lies where; what its `where` leaves out is neither brought in nor missed."""
    source = ledger_of(tmp_path / "source.db", events())
    with Recorder(SQLiteBackend(path)):
        pass  # a ledger that knows no dimension yet
    layout = Layout(
        index="org",
        blobs=["user", "org", "provider", "model", "cost_source", "project"],
        doubles=["status", *(name for name in Layout.default().doubles if name not in {None, "status", "version"})],
        where={"kind": "llm"},
    )
    (tmp_path / "calls.json").write_text(layout.to_json(), encoding="utf-8")
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", "account")
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "secret")
    with serving(tmp_path / "source.db", {"calls": layout}) as server:
        options = ["--from", f"analytics-engine://calls?api_url={server.url}", "--day", "2026-11-20"]
        options += ["--layout", str(tmp_path / "calls.json")]

        brought = cli.main(["backfill", *options, "--db", str(path), "--by", "user,org,project,cost_source,status"])
        drift = cli.main(["reconcile", *options, "--db", str(tmp_path / "source.db"), "--by", "user,project"])

    said = capsys.readouterr().out.splitlines()
    assert (brought, drift) == (0, 0)
    assert said[0] == "2026-11-20: 30 events in 30 rows from analytics-engine:calls, sampled"
    assert said[-1] == "6 of 6 rows within 0 % of analytics-engine:calls"
    calls = asked(source, "user", "project", where={"kind": "llm"})
    assert asked(SQLiteBackend(path), "user", "project", origin="backfill") == calls


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("analytics-engine://", "the layout cannot be read: "),
        ("sqlite:///other.db", "--layout 'none.json' is for analytics-engine://, not for --from 'sqlite:///other.db'"),
    ],
)
def test_a_layout_that_cannot_be_used(path: Path, capsys: pytest.CaptureFixture[str], source: str, error: str) -> None:
    """A file that is not there, and a backend that has none."""
    ledger_of(path, [])

    code = cli.main(["reconcile", "--from", source, "--db", str(path), "--layout", "none.json"])

    assert (code, capsys.readouterr().err.startswith(f"usagekit reconcile: {error}")) == (2, True)


def test_who_was_erased_stays_nobody_however_often_a_day_is_brought_in(path: Path, tmp_path: Path) -> None:
    """The source may still know the id; no file of this ledger does."""
    source = ledger_of(tmp_path / "source.db", events())
    backfill_day(str(path), source, DAY)
    with Recorder(SQLiteBackend(path)) as recorder:
        recorder.erase(user="u1")
        before = asked(recorder, "user", origin="backfill")

        backfill_day(str(path), source, DAY)

        after = asked(recorder, "user", origin="backfill")
    assert [(row["user"], row["events"]) for row in before] == [("", 11), ("u0", 10), ("u2", 10)]
    assert after == before
    assert not any(b"u1" in name.encode() for (name,) in query(path, "SELECT name FROM users"))


def test_the_two_origins_are_never_summed(path: Path, tmp_path: Path) -> None:
    """What was recorded does not change, and is not in what was brought in."""
    ledger = ledger_of(path, events()[:10])

    backfill_day(str(path), ledger_of(tmp_path / "source.db", events()), DAY)

    assert usage(ledger, measures="events").totals == {"events": 10}
    assert usage(ledger, measures="events", origin="backfill").totals == {"events": 31}
    told = query(path, "SELECT key, value FROM meta WHERE key LIKE 'backfill:%'")
    assert told == [("backfill:SQLiteBackend:2026-11-20", '{"rows": 31, "events": 31, "exact": true}')]


def test_a_day_that_changed_is_replaced_and_one_that_is_gone_is_kept(path: Path) -> None:
    """The source forgets, that is why its days are brought in."""
    source = MemoryBackend()
    source.declare(["project"])
    source.write(events(), batch_id="1")
    backfill_day(str(path), source, DAY)
    source.write([UsageEvent(time=MORNING, event="late")], batch_id="2")

    grown = backfill_day(str(path), source, DAY)
    source.clear()
    gone = backfill_day(str(path), source, DAY)

    assert grown == Brought(32, 32, exact=True, kept=False)
    assert gone == Brought(0, 0, exact=True, kept=True)
    assert usage(SQLiteBackend(path), measures="events", origin="backfill").totals == {"events": 32}


def test_what_is_not_kept_is_summed_up(path: Path) -> None:
    """Fewer dimensions, fewer rows."""
    source = MemoryBackend()
    source.write(events(), batch_id="1")

    brought = backfill_day(str(path), source, DAY, by=["org"])

    assert (brought.events, brought.rows) == (31, 21)
    rows = asked(SQLiteBackend(path), "org", "user", "status", origin="backfill")
    assert rows == [dict(row, user="", status=0) | row for row in asked(source, "org")]


def test_hours_that_a_question_cuts_make_it_inexact(path: Path) -> None:
    """An hour counts where it begins."""
    source = MemoryBackend()
    source.write([UsageEvent(time=MORNING, event="export")], batch_id="1")
    backfill_day(str(path), source, DAY)
    ledger = SQLiteBackend(path)
    whole, cut = MORNING.replace(minute=0), MORNING.replace(minute=10)

    reports = [usage(ledger, measures="events", start=start, origin="backfill") for start in (whole, cut)]

    assert [(report.totals["events"], report.exact) for report in reports] == [(1, True), (0, False)]


def test_the_command_brings_in_days_and_reconciles(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switched off, it does nothing; switched on, it says what it did, and the drift is that of what is missing."""
    ledger_of(path, events()[:-3])
    source = tmp_path / "source.db"
    ledger_of(source, events())
    options = ["--from", f"sqlite:///{source}", "--db", str(path), "--day", "2026-11-20"]
    monkeypatch.setenv("USAGEKIT_BATCH", "0")
    off = cli.main(["backfill", *options]), capsys.readouterr().out
    monkeypatch.setenv("USAGEKIT_BATCH", "1")
    monkeypatch.setenv("USAGEKIT_REALTIME", "0")

    on = cli.main(["backfill", *options, "--per", "org"]), capsys.readouterr().out
    drift = cli.main(["reconcile", *options, "--by", "org,kind", "--format", "json"]), capsys.readouterr().out
    shown = cli.main(["reconcile", *options, "--by", "kind"]), capsys.readouterr().out
    tolerated = cli.main(["reconcile", *options, "--tolerance", "10"]), capsys.readouterr().out

    assert off == (0, "USAGEKIT_BATCH=0: nothing is brought in\n")
    assert on == (0, "2026-11-20: 31 events in 31 rows from SQLiteBackend\n")
    assert drift[0] == 1
    rows = {(row["org"], row["kind"]): row for row in json.loads(drift[1])}
    assert [rows["acme", kind]["drift_percent"] for kind in ("named", "llm")] == [None, 0]
    assert rows["acme", "named"]["source"] == {"events": 1, "input_tokens": 0, "output_tokens": 0, "cost_usd": None}
    assert shown[0] == 1
    assert "1 of 2 rows within 0 % of SQLiteBackend" in shown[1]
    assert "named" in shown[1]
    assert tolerated == (0, "1 of 1 row within 10 % of SQLiteBackend\n")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--day", "soon"], "bad --day 'soon'; use yesterday, today or a date like 2026-11-20"),
        (["--day", "today", "--days", "2"], "--day and --days exclude each other"),
        (["--per", "planet"], "unknown dimension 'planet'"),
    ],
)
def test_options_that_cannot_work(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    """One line, and exit code 2."""
    for name in ("usage.db", "source.db"):
        ledger_of(tmp_path / name, [])

    code = cli.main(["backfill", "--from", f"sqlite:///{tmp_path / 'source.db'}", "--db", str(path), *arguments])

    assert (code, capsys.readouterr().err.startswith(f"usagekit backfill: {error}")) == (2, True)


def test_a_source_that_cannot_be_asked(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ledger itself, or a backend whose credentials are not set."""
    ledger_of(path, [])

    codes = [
        cli.main(["backfill", "--from", url, "--db", str(path)]) for url in (f"sqlite:///{path}", "analytics-engine://")
    ]

    said = capsys.readouterr().err.splitlines()
    assert codes == [2, 2]
    assert "is the ledger itself; give another backend" in said[0]
    assert "cannot be asked here; set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN" in said[-1]
