from __future__ import annotations

import os
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

from usagekit import usage
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.testing import ProviderServer

KEYLESS = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ANTHROPIC_"))}
DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo"


def test_once_shows_who_used_what_and_ends(tmp_path: Path) -> None:
    """Every request of the demo's traffic is in the ledger, and the reports name users, routes and exports."""
    db = tmp_path / "usage.db"

    done = subprocess.run(
        [sys.executable, "-W", "error", str(DEMO), "--once", "--db", str(db)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=KEYLESS,
    )

    assert (done.returncode, done.stderr) == (0, "")
    for shown in ("$ usagekit report", "ann", "(unattributed)", "GET /items/{item_id}", "GET (unmatched)", "llm"):
        assert shown in done.stdout
    report = usage(SQLiteBackend(db), by=["event", "status", "aborted"], measures="events", order="event")
    counted = {(row["event"], row["status"], row["aborted"]): row["events"] for row in report.rows}
    assert counted == {
        ("export", 200, False): 3,
        ("llm", 200, False): 20,
        ("request", 200, False): 127,
        ("request", 200, True): 1,
        ("request", 201, False): 3,
        ("request", 404, False): 4,
        ("request", 422, False): 2,
        ("request", 500, False): 2,
    }
    calls = usage(SQLiteBackend(db), by=["user", "model"], where={"route": "POST /chat", "kind": "llm"})
    assert {
        (row["user"], row["model"]): (row["events"], row["total_tokens"], row["unpriced"]) for row in calls.rows
    } == {
        ("ann", "gpt-5-nano"): (3, 4500, 0),
        ("ann", "claude-haiku-4-5"): (1, 1500, 0),
        ("bob", "gpt-5-nano"): (1, 1500, 0),
        ("carla", "gpt-5-nano"): (1, 1500, 0),
        ("carla", "claude-haiku-4-5"): (2, 3000, 0),
    }
    assert calls.totals["cost_usd"] > 0


def test_a_provider_whose_key_is_set_is_asked_itself(tmp_path: Path) -> None:
    """The app's SDK finds it; the other provider is the one on this machine. A refusal is an event like any other."""
    db = tmp_path / "usage.db"
    with ProviderServer() as real:
        real.next(status=401, times=2)

        done = subprocess.run(
            [sys.executable, "-W", "error", str(DEMO), "--once", "--db", str(db)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=KEYLESS | {"OPENAI_API_KEY": "own", "OPENAI_BASE_URL": real.openai, "NO_PROXY": "127.0.0.1"},
        )

        asked = [(request.provider, request.body["model"]) for request in real.requests]
    assert (done.returncode, done.stderr) == (0, "")
    assert asked == [("openai", "gpt-5-nano")] * 5
    calls = usage(
        SQLiteBackend(db), by=["model", "status"], measures="events", where={"route": "POST /chat", "kind": "llm"}
    )
    assert {(row["model"], row["status"]): row["events"] for row in calls.rows} == {
        ("gpt-5-nano", 200): 3,
        ("gpt-5-nano", 401): 2,
        ("claude-haiku-4-5", 200): 3,
    }


def test_serves_until_interrupted_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """After the reports it answers and counts further requests; Ctrl-C ends it without a word of complaint."""
    environment = {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    demo = subprocess.Popen(
        [sys.executable, "-W", "error", str(DEMO)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if "--by user,route" in line:
            break
    port = int(lines[0].split("http://127.0.0.1:")[1].split(",")[0])
    told = next(line for line in lines if "/admin/usage/" in line)
    token = next(line for line in lines if "the token: " in line).split("the token: ")[1].strip()
    page = HTTPConnection("127.0.0.1", port, timeout=10)
    page.request("GET", "/admin/usage/", headers={"authorization": f"Bearer {token}"})
    shown = page.getresponse()
    assert (shown.status, f"http://127.0.0.1:{port}/admin/usage/" in told) == (200, True)
    assert b"Carla Conti" in shown.read()
    page.close()
    connection = HTTPConnection("127.0.0.1", port, timeout=10)

    connection.request("GET", "/items/1", headers={"x-user-id": "ann"})
    answer = connection.getresponse()

    assert (answer.status, answer.read()) == (200, b'"anvil"')
    connection.close()
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=30)
    assert (demo.returncode, out, err) == (0, "\nDone.\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    """No traceback where somebody else serves already."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        done = subprocess.run(
            [sys.executable, str(DEMO), "--once", "--port", str(port), "--db", str(tmp_path / "usage.db")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr.startswith(f"demo: cannot serve on port {port}: ")
    assert done.stderr.count("\n") == 1
