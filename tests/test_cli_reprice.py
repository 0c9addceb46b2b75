"""`usagekit reprice`, on a ledger of its own."""

from __future__ import annotations

import json
import textwrap
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stores import query
from tests.test_cli import in_terminal, orphan, plain
from usagekit import Recorder, UsageEvent, cli, usage
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAY = datetime(2025, 5, 1, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger with calls of May 2025: one of a public model, two of a model of nobody's, one with a cost."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("USAGEKIT_BACKEND", raising=False)
    monkeypatch.setenv("USAGEKIT_PATH", "usage.db")
    with Recorder(SQLiteBackend("usage.db")) as recorder:
        counts: Any = {"kind": "llm", "input_tokens": 1_000_000, "output_tokens": 1_000_000, "time": MAY}
        unpriced: Any = counts | {"cost_source": "unpriced"}  # as where no price is known
        recorder.record(UsageEvent(provider="openai", model="o3", **unpriced))
        recorder.record(UsageEvent(provider="acme", model="acme-1", **unpriced))
        recorder.record(UsageEvent(provider="acme", model="acme-1", **unpriced))
        recorder.record(UsageEvent(provider="openai", model="o3", cost_usd=Decimal(1), **counts))
    (tmp_path / "prices.json").write_text('{"acme-1": {"input": 0.1, "above": {"500000": {"output": 0.2}}}}')
    return tmp_path / "usage.db"


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


def test_it_says_what_was_priced_and_what_was_not(ledger: Path, run: Any) -> None:
    """Per provider and model; a cost that is there stays."""
    first = run("reprice", "--since", "2025-05-01")
    second = run("reprice", "--since", "2025-05-01", "--prices", "prices.json")

    assert first == (
        0,
        textwrap.dedent(
            f"""\
            provider  model   priced  cost_usd  unpriced
            --------  ------  ------  --------  --------
            acme      acme-1       0         -         2
            openai    o3           1    $50.00         0
            --------  ------  ------  --------  --------
            total                  1    $50.00         2

            priced 1 call in {ledger}
            2 calls without a known price; give one with --prices FILE: {{"my-model": {{"input": 1.25, "output": 10}}}}
            """
        ),
        "",
    )
    assert second[1].endswith(f"priced 2 calls in {ledger}\n")
    report = usage(SQLiteBackend(ledger), by="cost_source", measures=["events", "cost_usd", "unpriced"], order="events")
    assert report.rows == [
        {"cost_source": "reported", "events": 1, "cost_usd": Decimal(1), "unpriced": 0},
        {"cost_source": "priced", "events": 3, "cost_usd": Decimal("50.6"), "unpriced": 0},
    ]


def test_a_dry_run_changes_nothing_and_json_is_for_machines(ledger: Path, run: Any) -> None:
    """Costs are decimal strings there."""
    options = ("--since", "2025-05-01", "--until", "2025-05-02", "--tz", "UTC", "--model", "openai/o3")

    dry = run("reprice", *options, "--dry-run", "--format", "json")
    said = run("reprice", *options, "--dry-run")

    o3 = {"provider": "openai", "model": "o3", "priced": 1, "cost_usd": "50.000000000", "unpriced": 0, "held": 0}
    assert json.loads(dry[1]) == {"ledger": str(ledger), "dry_run": True, "models": [o3]}
    assert said[1].endswith(f"would price 1 call in {ledger}; nothing was changed\n")
    assert query(ledger, "SELECT count(cost_nano) FROM events") == [(1,)]


def test_calls_in_a_batch_under_way_are_left_and_said(ledger: Path, run: Any) -> None:
    """Exit code 1; journals that wait are said too."""
    columns = "name, delivered_seq, delivered, batch_id, batch_end, batch_parts"
    halved = """VALUES ('warehouse', 0, 0, 'batch.0', 1, '[["batch.1", 2]]')"""  # which a sink had rejected as a whole
    query(ledger, f"INSERT INTO sinks ({columns}) {halved}")
    orphan(ledger, "recorder.track('export')")

    code, out, err = run("reprice", "--since", "2025-05-01", "--prices", "prices.json")

    assert (code, err) == (1, "")
    held = "2 calls left alone while a sink is being sent them; run this again later\nnot looked at: "
    assert f"priced 1 call in {ledger}\n{held}" in out
    assert query(ledger, "SELECT seq FROM events WHERE cost_nano IS NULL") == [(1,), (2,)]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "usagekit reprice: the following arguments are required: --since; see usagekit reprice --help"),
        (["--since", "soon"], "usagekit reprice: bad since 'soon'; use 'YYYY-MM-DD' or a time with an offset"),
        (
            ["--since", "2025-05-01", "--prices", "none.json"],
            "usagekit reprice: --prices 'none.json' does not exist; give a file that does",
        ),
        (["--since", "2025-05-01", "--prices", "text"], "usagekit reprice: 'text' is no JSON: Expecting value: line 1"),
        (["--since", "2025-05-01", "--prices", "list"], "usagekit reprice: 'list' holds no prices; write an object"),
        (["--since", "2025-05-01", "--prices", "odd"], "usagekit reprice: the price of 'm' has an unknown part 'in';"),
        (["--since", "2025-05-01", "--db", "nope.db"], "usagekit reprice: cannot read the ledger '{cwd}/nope.db': it"),
    ],
)
def test_an_error_is_one_line_that_helps(ledger: Path, run: Any, argv: list[str], message: str) -> None:
    """Exit code 2, and nothing was changed."""
    for name, text in {"text": "x", "list": "[]", "odd": '{"m": {"in": 1}}'}.items():
        (ledger.parent / name).write_text(text)

    code, out, err = run("reprice", *argv)

    assert (code, out) == (2, "")
    assert err.startswith(message.format(cwd=ledger.parent))
    assert err.count("\n") == 1
    assert query(ledger, "SELECT count(cost_nano) FROM events") == [(1,)]


def test_it_shows_its_progress_in_a_terminal(ledger: Path, tmp_path: Path) -> None:
    """Where it takes a while, and only there."""
    script = "import sys; from usagekit import cli; cli.PROGRESS_AFTER = 0\nsys.exit(cli.main(sys.argv[1:]))\n"
    (tmp_path / "usagekit_at_once.py").write_text(script)
    options = ("--since", "2025-05-01", "--db", str(ledger))

    shown = plain(in_terminal(200, "reprice", *options, environment={"PYTHONPATH": "."}, module="usagekit_at_once"))

    assert "pricing" in shown
    assert "100%" in shown
    assert f"priced 1 call in {ledger}" in shown
