from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import textwrap
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import entry_points
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from usagekit import Recorder, UsageEvent, cli, usage
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.query import BUCKETS, DIMENSIONS, MEASURES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONG_USER = "carol-with-a-very-long-identifier-0123456789-0123456789-0123456789"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USAGEKIT_BACKEND", "USAGEKIT_PATH", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger with a few events of known users, all at one time."""
    path = tmp_path / "usage.db"
    noon = datetime(2020, 11, 20, 12, 0, 5, tzinfo=UTC)
    with Recorder(SQLiteBackend(path), dimensions=["project"]) as recorder:
        for n in range(1200):
            status = 500 if n < 12 else 200
            recorder.record(
                UsageEvent(
                    time=noon,
                    kind="request",
                    event="request",
                    user="ann",
                    org="acme",
                    status=status,
                    latency_ms=12.5,
                    route="GET /items/{id}",
                ),
            )
        recorder.record(UsageEvent(time=noon, event="export", attributes={"project": "alpha"}))
        recorder.record_tokens(
            model="gpt-5-mini",
            user=LONG_USER,
            org="globex",
            input_tokens=1_000_000,
            output_tokens=234_567,
            cost_usd=Decimal("1234.5"),
            time=noon,
        )
        recorder.record_tokens(
            model="small", user="日本", org="globex", input_tokens=1, cost_usd="0.00000002", time=noon
        )
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call `main` in this process; gives the exit code and what it said."""

    def run(*argv: str) -> tuple[int, str, str]:
        try:
            code = cli.main(argv)
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return code, *capsys.readouterr()

    return run


def orphan(path: Path, code: str) -> None:
    """Run `code` with a recorder of the ledger in a process that is killed before it imports."""
    script = f"""
import os
from usagekit import Recorder
from usagekit._store import engine
from usagekit.backends.sqlite import SQLiteBackend
engine.IMPORT_SECONDS = 3600
recorder = Recorder(SQLiteBackend({str(path)!r}))
{code}
os.kill(os.getpid(), 9)
"""
    died = subprocess.run([sys.executable, "-c", script], check=False)
    assert died.returncode == -signal.SIGKILL


def in_terminal(columns: int, *argv: str, environment: dict[str, str] | None = None, module: str = "usagekit") -> str:
    """Run the command in a terminal so wide; gives what it shows."""
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        os.execve(  # noqa: S606  a terminal of its own
            sys.executable,
            [sys.executable, "-m", module, *argv],
            os.environ | {"TERM": "xterm"} | (environment or {}),
        )
    shown = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # what Linux says at the end
            break
        if not data:
            break
        shown += data
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return shown.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """Give what a terminal showed without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# report


def test_table_aligns_numbers_and_names_what_is_unknown(ledger: Path, run: Any) -> None:
    """Numbers to the right with separators, money in dollars, None as -, no user as (unattributed), a totals line."""
    measures = "events,success_rate,total_tokens,cost_usd,quantity,latency_ms_p95,last_seen"

    code, out, err = run("report", "--db", str(ledger), "--period", "all", "--by", "org", "--measures", measures)

    assert (code, err) == (0, "")
    assert out == textwrap.dedent(
        """\
                                success      total                       latency_ms
        org             events     rate     tokens   cost_usd  quantity         p95  last_seen
        --------------  ------  -------  ---------  ---------  --------  ----------  -------------------
        acme             1,200    99.0%          0          -     1,200        12.5  2020-11-20 12:00:05
        globex               2   100.0%  1,234,568  $1,234.50         2           -  2020-11-20 12:00:05
        (unattributed)       1        -          0          -         1           -  2020-11-20 12:00:05
        --------------  ------  -------  ---------  ---------  --------  ----------  -------------------
        total            1,203    99.0%  1,234,568  $1,234.50     1,203        12.5  2020-11-20 12:00:05

        all time (UTC), source sqlite, exact
        """
    )


def test_wide_characters_take_two_places(ledger: Path, run: Any) -> None:
    """Columns stay aligned behind an id of ideographs; an amount too small to show is not shown as nothing."""
    _, out, _ = run(
        "report", "--db", str(ledger), "--period", "all", "--measures", "cost_usd", "--where", "model=small"
    )

    assert out.splitlines()[:3] == ["user   cost_usd", "-----  --------", "日本   <$0.0001"]


def test_by_default_it_reports_the_users_of_the_last_seven_days(ledger: Path, run: Any) -> None:
    """JSON holds every measure; what is older than seven days is not in it, unless everything is asked for."""
    with Recorder(SQLiteBackend(ledger)) as recorder:
        recorder.track("export", user="ann")
        recorder.track("export", user="bob", time=datetime(2001, 1, 1, tzinfo=UTC))

    recent = json.loads(run("report", "--db", str(ledger), "--format", "json")[1])
    ever = json.loads(run("report", "--db", str(ledger), "--format", "json", "--period", "all")[1])

    assert [(row["user"], list(row)[1:]) for row in recent["rows"]] == [("ann", list(MEASURES))]
    assert {row["user"] for row in ever["rows"]} == {"ann", "bob", "", LONG_USER, "日本"}


def test_every_option_of_the_algebra_is_passed_on(ledger: Path, run: Any) -> None:
    """Dimensions, measures, range, zone, filters with several values, order, limit and origin reach the reader."""
    options = ["--by", "user, day", "--by", "project", "--measures", "events", "--measures", "cost_usd,users"]
    options += ["--start", "2020-11-20", "--end", "2020-11-21", "--tz", "Asia/Tokyo"]
    options += ["--where", "org=acme", "--where", "org=globex", "--where", "user=ann", "--where", "user=日本"]

    code, out, _ = run("report", "--db", str(ledger), *options, "--order", "-user", "--limit", "1", "--format", "csv")
    _, backfill, _ = run("report", "--db", str(ledger), *options, "--origin", "backfill", "--format", "csv")
    _, days, _ = run("report", "--db", str(ledger), "--by", "", "--days", "36500", "--format", "csv")

    assert code == 0
    assert list(csv.reader(io.StringIO(out))) == [
        ["user", "day", "project", "events", "cost_usd", "users"],
        ["日本", "2020-11-20", "", "1", "0.000000020", "1"],
    ]
    assert backfill == "user,day,project,events,cost_usd,users\r\n"
    assert len(days.splitlines()) == 2


def test_a_descending_order_may_stand_alone(ledger: Path, run: Any) -> None:
    """`--order -cost_usd` is no unknown option."""
    base = ["report", "--db", str(ledger), "--period", "all", "--measures", "cost_usd", "--format", "json"]

    apart = json.loads(run(*base, "--order", "-cost_usd")[1])
    joined = json.loads(run(*base, "--order=-cost_usd")[1])

    assert apart["rows"] == joined["rows"]
    assert [row["user"] for row in apart["rows"]] == [LONG_USER, "日本", "", "ann"]


@pytest.mark.parametrize("columns", [40, 80, 160])
@pytest.mark.parametrize("rich", [True, False], ids=["rich", "plain"])
def test_no_line_of_a_table_is_wider_than_the_terminal(
    ledger: Path,
    tmp_path: Path,
    columns: int,
    rich: bool,  # noqa: FBT001
) -> None:
    """All measures come as several tables, each with the keys in front; long keys are cut, numbers never."""
    environment = {}
    if not rich:
        (tmp_path / "rich.py").write_text("raise ImportError\n")
        environment["PYTHONPATH"] = str(tmp_path)
    options = ["--db", str(ledger), "--period", "all", "--by", "user,route", "--measures", "all"]

    shown = plain(in_terminal(columns, "report", *options, environment=environment))

    *tables, about = shown.strip().split("\n\n")
    assert about == "all time (UTC), source sqlite, exact"
    assert all(len(line) <= columns for table in tables for line in table.splitlines())
    assert all("user" in table and "total" in table for table in tables)
    assert len(tables) > 1
    assert "1,234,568" in shown
    assert ("─" in shown) is rich


def test_a_table_in_a_terminal_shows_what_there_is_room_for(ledger: Path) -> None:
    """Without --measures there is one table, and a wider terminal shows more of it."""
    narrow = plain(in_terminal(80, "report", "--db", str(ledger), "--period", "all"))
    wide = plain(in_terminal(160, "report", "--db", str(ledger), "--period", "all"))

    assert "cost_usd" in narrow
    assert "last_seen" not in narrow
    assert "last_seen" in wide
    assert LONG_USER in wide
    assert "…" in narrow


def test_markup_in_an_id_is_only_text(ledger: Path) -> None:
    """Ids come from clients: in a terminal they are shown as they are."""
    with Recorder(SQLiteBackend(ledger)) as recorder:
        recorder.track("export", user="[red]x[/red] \x1b[31m")

    shown = in_terminal(160, "report", "--db", str(ledger), "--where", "event=export")

    assert "[red]x[/red] \ufffd[31m" in shown


def test_calls_without_a_known_cost_are_said_with_the_table(ledger: Path, run: Any) -> None:
    """Their column may have no room, and a sum of money looks whole."""
    with Recorder(SQLiteBackend(ledger)) as recorder:
        recorder.record_tokens(model="nobody-knows", user="ann", input_tokens=1)

    _, before, _ = run("report", "--db", str(ledger), "--period", "all", "--where", "model=small")
    _, after, _ = run("report", "--db", str(ledger), "--period", "all", "--by", "user")

    assert "known cost" not in before
    assert after.splitlines()[-1].endswith(", exact, 1 call without a known cost")


def test_no_event_is_said_as_such(ledger: Path, run: Any) -> None:
    """An empty answer is a sentence, not an empty table."""
    code, out, _ = run("report", "--db", str(ledger), "--where", "user=nobody", "--period", "all")

    assert (code, out) == (0, "No events matched.\nall time (UTC), source sqlite, exact\n")


def test_a_report_says_what_is_not_in_it_yet(ledger: Path, run: Any) -> None:
    """Where a process died and nobody lives, the report names what waits."""
    orphan(ledger, "recorder.track('export', user='late')")

    _, out, _ = run("report", "--db", str(ledger))

    assert re.search(r"not in it yet: [0-9]+ bytes in 1 journal; usagekit drain imports them\n$", out)


# Which ledger.


def test_the_environment_names_the_ledger(ledger: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first backend that can be asked, else USAGEKIT_PATH; --db wins over both."""
    asked = ("report", "--by", "", "--period", "all", "--measures", "events", "--format", "csv")

    monkeypatch.setenv("USAGEKIT_PATH", str(ledger))
    by_path = run(*asked)
    monkeypatch.setenv("USAGEKIT_PATH", "elsewhere.db")
    monkeypatch.setenv("USAGEKIT_BACKEND", f"memory://, sqlite:///{ledger}")
    by_url = run(*asked)
    status = run("status", "--format", "json")
    monkeypatch.setenv("USAGEKIT_BACKEND", "nonsense")
    by_option = run(*asked, "--db", str(ledger))

    assert by_path == by_url == by_option == (0, "events\r\n1203\r\n", "")
    assert json.loads(status[1])["ledger"] == str(ledger)


# Errors.


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "usagekit: the following arguments are required: COMMAND; see usagekit --help"),
        (["report"], "usagekit report: no ledger was named; give --db PATH, or set USAGEKIT_BACKEND=sqlite:///"),
        (["status"], "usagekit status: no ledger was named; give --db PATH, or set USAGEKIT_BACKEND=sqlite:///"),
        (["report", "--db", "nope.db"], "usagekit report: cannot read the ledger '{cwd}/nope.db': it does not exist;"),
        (["status", "--db", "nope.db"], "usagekit status: cannot read the ledger '{cwd}/nope.db': it does not exist;"),
        (["drain", "--db", "nope.db"], "usagekit drain: cannot read the ledger '{cwd}/nope.db': it does not exist;"),
        (["status", "--db", "other.db"], "usagekit status: '{cwd}/other.db' is a SQLite database of something else"),
        (["report", "--db", "text"], "usagekit report: cannot read the ledger '{cwd}/text': file is not a database"),
        (["report", "--by", "nope", "--db", "usage.db"], "usagekit report: unknown dimension 'nope'; use one of kind,"),
        (
            ["report", "--db", "folder"],
            "usagekit report: cannot read the ledger '{cwd}/folder': it is a directory; give",
        ),
        (["sql", "SHOW TABLES", "--db", "folder"], "usagekit sql: cannot read the ledger '{cwd}/folder': it is a dir"),
        (
            ["report", "--limit", "x"],
            "usagekit report: argument --limit: 'x' is no whole number from 1 on; leave it out",
        ),
        (
            ["report", "--limit", "0"],
            "usagekit report: argument --limit: '0' is no whole number from 1 on; leave it out",
        ),
        (["report", "--days", "0"], "usagekit report: argument --days: '0' is no whole number from 1 on; 1 is today"),
        (["report", "--timeout", "0"], "usagekit report: argument --timeout: '0' is no time limit; use seconds, more"),
        (
            ["drain", "--timeout", "nan"],
            "usagekit drain: argument --timeout: 'nan' is no time limit; use seconds, more",
        ),
        (["erase", "--user", "u", "--timeout", "-1"], "usagekit erase: argument --timeout: '-1' is no time limit; use"),
        (["backfill", "--from", "memory://"], "usagekit backfill: --from 'memory://' holds what its own process"),
        (["reconcile", "--from", "x://", "--tolerance", "-1"], "usagekit reconcile: argument --tolerance: '-1' is no"),
        (["backfill", "--from", "x://", "--days", "0"], "usagekit backfill: argument --days: '0' is no whole number"),
        (["serve", "--port", "99999"], "usagekit serve: argument --port: '99999' is no port; use a number from 1 to"),
        (["serve", "--host", ""], "usagekit serve: argument --host: '' is no address; use 127.0.0.1, or 0.0.0.0 for"),
        (["analytics-engine", "serve", "--port", "-1"], "usagekit analytics-engine: argument --port: '-1' is no port;"),
        (
            ["sql", "SHOW TABLES", "--dataset", "t=nope"],
            "usagekit sql: --dataset t: 'nope' does not exist; give a file",
        ),
        (
            ["sql", "SHOW TABLES", "--dataset", "t=folder"],
            "usagekit sql: --dataset t: 'folder' cannot be read: Is a dir",
        ),
        (["report", "--where", "org", "--db", "usage.db"], "usagekit report: bad --where 'org'; use --where org=org_"),
        (["report", "--days", "1", "--period", "7d", "--db", "usage.db"], "usagekit report: period and days exclude"),
        (["report", "--tz", "Mars", "--db", "usage.db"], "usagekit report: unknown time zone 'Mars'; use an IANA name"),
        (["report", "--form", "csv"], "usagekit: unrecognized arguments: --form csv; see usagekit --help"),
    ],
)
def test_an_error_is_one_line_that_helps(
    ledger: Path, run: Any, monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str
) -> None:
    """Exit code 2, nothing on stdout, no traceback, and no ledger where there was none."""
    monkeypatch.chdir(ledger.parent)
    (ledger.parent / "folder").mkdir()
    if "--db" not in argv and argv[:1] not in (["report"], ["status"], []):
        monkeypatch.setenv("USAGEKIT_PATH", "usage.db")
    (ledger.parent / "text").write_text("this is no database, and long enough to be seen as none" * 10)
    with closing(sqlite3.connect("other.db")) as other:
        other.execute("CREATE TABLE events (x)")

    code, out, err = run(*argv)

    assert (code, out) == (2, "")
    assert err.startswith(message.format(cwd=ledger.parent))
    assert err.count("\n") == 1
    assert not (ledger.parent / "nope.db").exists()


def test_a_backend_only_its_process_can_ask_is_refused(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty report from `memory://` would be a lie."""
    monkeypatch.setenv("USAGEKIT_BACKEND", "memory://")

    code, out, err = run("report")

    assert (code, out) == (2, "")
    assert err.startswith("usagekit report: USAGEKIT_BACKEND='memory://' names nothing that another process can ask;")


def test_a_closed_pipe_is_no_error(ledger: Path) -> None:
    """`usagekit report | head` ends without a word on stderr."""
    command = [sys.executable, "-m", "usagekit", "report", "--db", str(ledger), "--period", "all"]
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)

    assert (done.returncode, done.stderr) == (141, b"")


def test_a_terminal_without_the_characters_still_gets_its_report(ledger: Path) -> None:
    """What the encoding cannot show is escaped."""
    done = subprocess.run(
        [sys.executable, "-m", "usagekit", "report", "--db", str(ledger), "--period", "all"],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u65e5\u672c" in done.stdout


def test_version_and_help_are_there_at_once(run: Any) -> None:
    """Neither loads a database, a framework or rich; every name of the algebra is in the help."""
    check = "import sys; from usagekit.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    check += "print([name for name in ('sqlite3', 'rich', 'blinker', 'json', 'datetime') if name in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    version = run("--version")
    help_text = run("report", "--help")[1]

    assert loaded.endswith("[]\n")
    assert version == (0, "usagekit 0.1.0\n", "")
    assert all(re.search(rf"\b{name}\b", help_text) for name in (*DIMENSIONS, *BUCKETS, *MEASURES))


def test_the_script_is_the_module() -> None:
    """The distribution's `usagekit` calls `main`."""
    (script,) = entry_points(group="console_scripts", name="usagekit")

    assert script.load() is cli.main


# status


def test_status_tells_what_is_durable_and_what_waits(ledger: Path, run: Any) -> None:
    """As text and as JSON: durable, corrupt, repeated, dead letters, what waits in journals, and each sink."""
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("INSERT INTO sinks (name, delivered_seq, delivered) VALUES ('warehouse', 1000, 998)")
        connection.execute(
            "INSERT INTO dead_letters (sink, event_id, event, reason, at) VALUES ('warehouse','','','','')"
        )
    orphan(ledger, "recorder.track('export', user='late')")
    assert run("rollup", "--db", str(ledger)) == (0, f"rollups of {ledger} are up to date\n", "")

    text = run("status", "--db", str(ledger))
    status = json.loads(run("status", "--db", str(ledger), "--format", "json")[1])

    waiting, size, done = status.pop("waiting"), status.pop("bytes"), status["jobs"]["last_rollup"]
    assert size == ledger.stat().st_size
    assert status == {
        "ledger": str(ledger),
        "durable": 1203,
        "corrupt": 0,
        "repeated": 0,
        "dead_letters": 1,
        "sinks": {"warehouse": {"delivered": 998, "lag": 203, "dead_letters": 1}},
        "rollups": {"lag": 0, "rebuilding": False},
        "purged": 0,
        "complete_from": {"raw": None, "rollups": None},
        "jobs": {"last_rollup": done},
    }
    assert waiting["journals"] == 1
    assert text == (
        0,
        textwrap.dedent(
            f"""\
            ledger        {ledger}
            durable       1,203 events
            waiting       {waiting["bytes"]} bytes in 1 journal; usagekit drain imports them
            rollups       up to date
            purged        0 events
            repeated      0 events with an event_id that was counted before
            corrupt       0 records that could not be read
            dead letters  1 event that a sink refused for good
            last rollup   {done}

                                          dead
            sink       delivered  lag  letters
            ---------  ---------  ---  -------
            warehouse        998  203        1

            """
        ),
        "",
    )


def test_status_says_that_rollups_come_later_and_advises_only_where_it_helps(
    ledger: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are exact either way."""
    with Recorder(SQLiteBackend(ledger)) as recorder:
        recorder.flush()
    orphan(ledger, "recorder.track('export')")
    run("drain", "--db", str(ledger), "--timeout", "0.000000001")

    normal = run("status", "--db", str(ledger))[1]
    monkeypatch.setattr("usagekit.cli.status.FAR_BEHIND", 1)
    late = run("status", "--db", str(ledger))[1]

    assert "rollups       1 event to come, as is normal; answers have it already\n" in normal
    assert "rollups       1 event behind: answers are exact and slow; usagekit rollup makes them fast\n" in late


# report: guard rails


def test_report_says_what_the_limit_cut(ledger: Path, run: Any) -> None:
    """And nothing where it cut nothing."""
    cut = run("report", "--db", str(ledger), "--period", "all", "--limit", "2")[1]
    whole = run("report", "--db", str(ledger), "--period", "all", "--limit", "4")[1]

    assert cut.splitlines()[-1].endswith("exact, first 2 of 4 rows")
    assert whole.splitlines()[-1].endswith("exact")


def test_report_gives_up_when_its_time_is_over(ledger: Path, run: Any) -> None:
    """One line says what was asked and what would help."""
    code, out, err = run("report", "--db", str(ledger), "--timeout", "0.000000001")

    assert (code, out) == (2, "")
    assert err.startswith("usagekit report: the answer by user, from ")
    assert err.endswith("ask for a shorter range or fewer dimensions, or give a larger timeout\n")


# statement


def test_statement_shows_a_customers_month(ledger: Path, run: Any) -> None:
    """Lines, totals, and what it is about; nothing that is 0 all over."""
    code, out, err = run(
        "statement",
        "--db",
        str(ledger),
        "--org",
        "globex",
        "--month",
        "2020-11",
        "--by",
        "model",
    )

    assert (code, err) == (0, "")
    assert out == textwrap.dedent(
        """\
                                                       input   output      total
        day         model       events  succeeded     tokens   tokens     tokens         cost_usd  quantity
        ----------  ----------  ------  ---------  ---------  -------  ---------  ---------------  --------
        2020-11-20  gpt-5-mini       1          1  1,000,000  234,567  1,234,567        $1,234.50         1
        2020-11-20  small            1          1          1        0          1      $0.00000002         1
        ----------  ----------  ------  ---------  ---------  -------  ---------  ---------------  --------
        total                        2          2  1,000,001  234,567  1,234,568  $1,234.50000002         2

        org globex, 2020-11: 2020-11-01 00:00:00 +0000 to 2020-12-01 00:00:00 +0000 (UTC), source sqlite, exact, closed
        """
    )


def test_statement_is_exact_as_csv_and_json(ledger: Path, run: Any) -> None:
    """Decimals to the last digit; JSON says that the month is closed."""
    options = ("statement", "--db", str(ledger), "--org", "globex", "--month", "2020-11", "--by", "model")

    rows = list(csv.DictReader(io.StringIO(run(*options, "--format", "csv")[1])))
    told = json.loads(run(*options, "--format", "json")[1])

    assert [(row["model"], row["cost_usd"]) for row in rows] == [
        ("gpt-5-mini", "1234.500000000"),
        ("small", "0.000000020"),
    ]
    assert (told["totals"]["cost_usd"], told["closed"]) == ("1234.500000020", True)


def test_statement_needs_one_customer_and_a_month(ledger: Path, run: Any) -> None:
    """Whatever is missing is said in one line."""
    neither = run("statement", "--db", str(ledger), "--month", "2020-11")
    both = run("statement", "--db", str(ledger), "--month", "2020-11", "--org", "a", "--user", "b")
    odd = run("statement", "--db", str(ledger), "--month", "2020", "--org", "a")
    nobody = run("statement", "--db", str(ledger), "--month", "2020-11", "--org", "nobody")

    assert [code for code, _, _ in (neither, both, odd, nobody)] == [2, 2, 2, 0]
    assert "one of the arguments --org --user is required" in neither[2]
    assert "not allowed with argument" in both[2]
    assert odd[2] == "usagekit statement: bad month '2020'; use year and month: '2026-11'\n"
    assert nobody[1].startswith("No events matched.\norg nobody, 2020-11: 2020-11-01 00:00:00 +0000 to ")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1", "a..b"])
@pytest.mark.parametrize("command", [("serve",), ("analytics-engine", "serve")])
def test_an_address_that_is_not_this_machines_is_said(
    ledger: Path, run: Any, command: tuple[str, ...], host: str
) -> None:
    """In one line, with what to do, for every command that listens."""
    code, out, err = run(*command, "--db", str(ledger), "--host", host, "--port", "0")

    assert (code, out) == (2, "")
    assert err.startswith(f"usagekit {command[0]}: cannot listen at {host}, port 0: ")
    assert err.endswith("; give another --host or --port, 0 for a free one\n")
    assert "Errno" not in err


@pytest.mark.parametrize(
    ("file", "folder", "why"),
    [
        (0o600, 0o000, "this user may not look into its directory"),
        (0o000, 0o755, "this user may not read it"),
        (0o444, 0o555, "SQLite's readers write beside it, and this user may not"),
    ],
)
def test_a_ledger_of_another_user_says_as_whom_to_run(file: int, folder: int, why: str) -> None:
    """SQLite itself only says that it cannot open a file, or even that there is none."""
    program = """
import os, sys
from usagekit import cli
cli.main(sys.argv[4:])  # as long as it may: everything is imported then
os.chmod(sys.argv[1], int(sys.argv[2]))
os.chmod(os.path.dirname(sys.argv[1]), int(sys.argv[3]))
if os.geteuid() == 0:
    os.setuid(65534)
print("---")
sys.exit(cli.main(sys.argv[4:]))
"""
    with TemporaryDirectory() as directory:  # not pytest's, which others may not even reach
        path = os.path.join(os.path.realpath(directory), "usage.db")  # noqa: PTH118
        Recorder(SQLiteBackend(path)).close()
        arguments = [path, str(file), str(folder), "report", "--db", path]
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        os.chmod(directory, 0o700)  # noqa: PTH101

    assert (done.returncode, done.stdout.partition("---\n")[2]) == (2, "")
    assert done.stderr.startswith(f"usagekit report: cannot read the ledger {path!r}: {why}; ")
    assert done.stderr.endswith("run this as the user the app runs as\n")


# rollup and purge


def test_rollup_brings_up_to_date_and_makes_anew(ledger: Path, run: Any) -> None:
    """Twice is as good as once; what could not be done in time is said."""
    done = (0, f"rollups of {ledger} are up to date\n", "")

    with Recorder(SQLiteBackend(ledger)) as recorder:
        recorder.flush()
    orphan(ledger, "recorder.track('export')")
    run("drain", "--db", str(ledger), "--timeout", "0.000000001")
    late = run("rollup", "--db", str(ledger), "--timeout", "0.000000001")
    assert late == (1, f"rollups of {ledger} are behind by 1 event\n", "")
    assert run("rollup", "--db", str(ledger)) == done
    assert run("rollup", "--db", str(ledger)) == done
    assert run("rollup", "--db", str(ledger), "--rebuild") == done
    assert usage(SQLiteBackend(ledger), measures="events").totals == {"events": 1204}


def test_purge_removes_what_is_too_old(ledger: Path, run: Any) -> None:
    """All of these events are; those of the last, unfinished block stay."""
    run("rollup", "--db", str(ledger))

    code, out, err = run("purge", "--db", str(ledger), "--older-than", "90d")

    assert (code, err) == (0, "")
    assert out.startswith(f"removed 1,023 events older than 90 days; {ledger} went from ")
    assert run("purge", "--db", str(ledger), "--older-than", "90")[1].startswith("removed 0 events")
    assert usage(SQLiteBackend(ledger), by="org", measures="events").totals == {"events": 1203}
    status = json.loads(run("status", "--db", str(ledger), "--format", "json")[1])
    assert status["purged"] == 1023
    assert list(status["jobs"]) == ["last_purge", "last_rollup"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no age was given; use --older-than 90d, or set USAGEKIT_RETENTION_DAYS=90"),
        (["--older-than", "soon"], "bad --older-than 'soon'; use a number of days: 90d"),
        (["--older-than", "9d", "--rollups-older-than", "5d"], "rollups outlive events: give --rollups-older-than 9d"),
    ],
)
def test_purge_says_what_it_needs(ledger: Path, run: Any, options: list[str], message: str) -> None:
    """Nothing is removed by guess."""
    code, out, err = run("purge", "--db", str(ledger), *options)

    assert (code, out) == (2, "")
    assert err.startswith(f"usagekit purge: {message}")


# drain


def test_drain_imports_what_the_dead_left(ledger: Path, run: Any) -> None:
    """Accepted events are counted once, the torn record of a death is said, and the journals are gone."""
    orphan(ledger, "for n in range(5000): recorder.track('export', user='late')")
    orphan(ledger, "recorder.track('export', event_id='a'); recorder.track('export', event_id='a')")
    torn = next(path for path in (ledger.parent / "usage.db-journals").iterdir() if path.stat().st_size > 1000)
    with torn.open("ab") as journal:
        journal.write(b"\n12345678[5001,17")

    first = run("drain", "--db", str(ledger))
    second = run("drain", "--db", str(ledger))
    report = usage(SQLiteBackend(ledger), by="user", measures="events", where={"event": "export"})

    assert (first[0], first[2]) == (0, "")
    assert first[1] == (
        f"imported 5,001 events into {ledger}\n"
        "1 event had an event_id that was counted before\n"
        "1 record could not be read: torn by a death or a power cut, or damaged\n"
    )
    assert second == (0, f"imported 0 events into {ledger}\n", "")
    assert report.rows == [{"user": "late", "events": 5000}, {"user": "", "events": 2}]
    assert list((ledger.parent / "usage.db-journals").glob("*.journal")) == []


def test_drain_beside_a_living_recorder_leaves_it_its_journal(ledger: Path, run: Any) -> None:
    """A process that lives keeps its file, and goes on recording into it."""
    with Recorder(SQLiteBackend(ledger)) as recorder:
        recorder.track("export", user="alive")
        code, _, err = run("drain", "--db", str(ledger))
        recorder.track("export", user="alive")

    assert (code, err) == (0, "")
    alive = usage(SQLiteBackend(ledger), measures="events", where={"user": "alive"})
    assert alive.totals == {"events": 2}


def test_drain_says_what_is_left_when_its_time_is_over(ledger: Path, run: Any) -> None:
    """Somebody holds the ledger's write lock: exit code 1, and nothing is lost."""
    orphan(ledger, "recorder.track('export', user='late')")
    with closing(sqlite3.connect(ledger, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        code, out, err = run("drain", "--db", str(ledger), "--timeout", "0.05")

        other.execute("ROLLBACK")
    assert (code, out) == (1, f"imported 0 events into {ledger}\n")
    assert re.fullmatch(r"usagekit drain: [0-9]+ bytes in 1 journal are left after 0.05 s; .* --timeout\n", err)
    assert run("drain", "--db", str(ledger))[1] == f"imported 1 event into {ledger}\n"


def test_drain_makes_a_ledger_for_journals_that_lost_theirs(ledger: Path, run: Any) -> None:
    """Journals are the events: where they lie, the ledger is made anew."""
    orphan(ledger, "recorder.track('export', user='late')")
    for path in ledger.parent.glob("usage.db*"):
        if path.is_file():
            path.unlink()

    code, out, _ = run("drain", "--db", str(ledger))

    assert (code, out) == (0, f"imported 1 event into {ledger}\n")


@pytest.mark.parametrize("rich", [True, False], ids=["rich", "plain"])
def test_drain_shows_its_progress_in_a_terminal(ledger: Path, tmp_path: Path, rich: bool) -> None:  # noqa: FBT001
    """Where it takes a while, and only there."""
    orphan(ledger, "for n in range(9000): recorder.track('export', user='late')")
    script = "import sys; from usagekit import cli; cli.PROGRESS_AFTER = 0\n"
    if not rich:
        script += "sys.modules['rich'] = None\n"
    (tmp_path / "usagekit_at_once.py").write_text(script + "sys.exit(cli.main(sys.argv[1:]))\n")

    shown = in_terminal(
        80,
        "drain",
        "--db",
        str(ledger),
        environment={"PYTHONPATH": str(tmp_path)},
        module="usagekit_at_once",
    )

    assert "importing" in shown
    assert plain(shown).replace("\n", "").endswith(f"imported 9,000 events into {ledger}".replace("\n", ""))


# erase


def test_erase_removes_an_id_and_says_so(ledger: Path, run: Any) -> None:
    """Also what a dead process left; the second time, and for strangers, there is nothing to remove."""
    orphan(ledger, f"recorder.track('export', user={LONG_USER!r})")

    first = run("erase", "--db", str(ledger), "--user", LONG_USER)
    second = run("erase", "--db", str(ledger), "--user", LONG_USER)
    nobody = run("erase", "--db", str(ledger), "--user", "")

    report = usage(SQLiteBackend(ledger), by="user", measures="events", order="user")
    assert first == (0, f"erased the user from {ledger}; their events are nobody's now\n", "")
    nobody_has_it = (
        f"nobody in {ledger} has this id: it was never recorded like that, or was erased before\n"
        "events of this id from before now that still arrive will be nobody's\n"
    )
    assert second == (0, nobody_has_it, "")
    assert nobody == (2, "", "usagekit erase: --user '' names nobody; give the id that events were recorded with\n")
    assert [tuple(row.values()) for row in report.rows] == [("", 3), ("ann", 1200), ("日本", 1)]


def test_erasing_an_id_that_nobody_has_still_covers_what_arrives_late(ledger: Path, run: Any) -> None:
    """As it says; what is recorded of it afterwards counts for it."""
    run("erase", "--db", str(ledger), "--user", "zoe")
    with Recorder(SQLiteBackend(ledger)) as recorder:
        recorder.track("late", user="zoe", time=datetime(2020, 1, 1, tzinfo=UTC))
        recorder.track("new", user="zoe")
        report = usage(recorder, by=["event", "user"], where={"event": ["late", "new"]}, measures="events")

    assert [(row["event"], row["user"]) for row in report.rows] == [("late", ""), ("new", "zoe")]


def test_erase_makes_no_ledger(tmp_path: Path, run: Any) -> None:
    """A wrong path is an error, and not an empty ledger without the user."""
    code, _, err = run("erase", "--db", str(tmp_path / "none.db"), "--user", "ann")

    assert code == 2
    assert "does not exist" in err
    assert list(tmp_path.iterdir()) == []
