"""The local server, asked as Cloudflare's API is."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.backends.analytics_engine.corpus import LAYOUT, TABLE
from tests.backends.analytics_engine.test_reader import serving
from usagekit.backends.analytics_engine.server import MAX_BODY_BYTES, SqlServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH = "/client/v4/accounts/0123abc/analytics_engine/sql"
TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def server(ledger: Path) -> Iterator[SqlServer]:
    """A server of the corpus's ledger, with the token `secret`."""
    with serving(ledger, {TABLE: LAYOUT}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: SqlServer) -> Iterator[httpx2.Client]:
    """One connection to it, as Grafana keeps one."""
    with httpx2.Client(base_url=server.url) as running:
        yield running


@pytest.mark.parametrize(
    ("form", "content_type"),
    [
        ("JSON", "application/json"),
        ("JSONEachRow", "application/x-ndjson"),
        ("TabSeparated", "text/tab-separated-values; charset=UTF-8"),
    ],
)
def test_answers_post_and_get_alike(client: httpx2.Client, form: str, content_type: str) -> None:
    """A raw body, curl's form type, and a query parameter; each with an id."""
    sql = f"SELECT blob2 AS org, sum(_sample_interval) AS n FROM {TABLE} GROUP BY org ORDER BY org FORMAT {form}"

    answers = [
        client.post(PATH, content=sql, headers=TOKEN | {"Content-Type": "text/plain"}),
        client.post(PATH, content=sql, headers=TOKEN | {"Content-Type": "application/x-www-form-urlencoded"}),
        client.post(PATH, content=sql, headers=TOKEN),
        client.get(PATH, params={"query": sql}, headers=TOKEN),
    ]

    assert {(answer.status_code, answer.headers["Content-Type"], answer.text) for answer in answers} == {
        (200, content_type, answers[0].text)
    }
    assert "acme" in answers[0].text
    assert len({answer.headers["X-Query-Id"] for answer in answers}) == 4


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}, {"Authorization": "Bearer"}],
)
def test_a_missing_or_wrong_token_is_403(client: httpx2.Client, headers: dict[str, str]) -> None:
    """Whatever else is wrong with the request."""
    answers = [client.post(PATH, content="SELECT 1", headers=headers), client.get(PATH, headers=headers)]

    assert [(answer.status_code, answer.text) for answer in answers] == [(403, "Authorization error")] * 2


def test_errors_are_plain_text_with_their_status(client: httpx2.Client) -> None:
    """And the connection can go on being used."""
    sql = {"Content-Type": "text/plain"} | TOKEN
    answers = [
        client.get(PATH, headers=TOKEN),
        client.post(PATH, content="{}", headers=TOKEN | {"Content-Type": "application/json"}),
        client.post(PATH, content=b"SELECT '\xff'", headers=sql),
        client.post(PATH, content="SELECT COUNT(*) FROM " + TABLE, headers=sql),
        client.post(PATH, content="SELECT 1 FROM nothing", headers=sql),
        client.post("/client/v4/accounts/0123abc/other", content="SELECT 1", headers=sql),
        client.post(PATH, content="x" * (MAX_BODY_BYTES + 1), headers=sql),
        client.post(PATH, content="SELECT 1 AS one FORMAT TabSeparated", headers=sql),
    ]

    assert [(answer.status_code, answer.text) for answer in answers] == [
        (400, "Query string error: missing field `query`"),
        (400, "Content type error"),
        (400, "Content type error"),
        (422, "Input was invalid: COUNT() function must have 0 arguments: 1"),
        (422, "Input was invalid: unknown table: nothing"),
        (404, "Not found"),
        (413, "Content length error"),
        (200, "1\n"),
    ]
    assert {answer.headers["Content-Type"] for answer in answers[:-1]} == {"text/plain;charset=UTF-8"}


def test_one_account_and_any_token(ledger: Path) -> None:
    """As an app in development likes it."""
    with SqlServer(str(ledger), {}, account="mine") as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)
        assert (server.token, server.account) == (None, "mine")


def test_a_long_query_is_429(ledger: Path) -> None:
    """After its time."""
    with serving(ledger, {TABLE: LAYOUT}) as server:
        server.timeout_seconds = 0
        answer = httpx2.post(
            server.url + PATH,
            content=f"SELECT double1, double2, sum(double3) AS s FROM {TABLE} GROUP BY double1, double2",
            headers=TOKEN,
        )

    assert (answer.status_code, answer.text) == (429, "Resource limit: query timed out")


def test_a_ledger_that_is_gone_is_500(tmp_path: Path) -> None:
    """With what happened."""
    with serving(tmp_path / "none.db", {TABLE: LAYOUT}) as server:
        answer = httpx2.post(server.url + PATH, content=f"SELECT blob1 FROM {TABLE}", headers=TOKEN)

    assert answer.status_code == 500
    assert "does not exist" in answer.text


def test_the_command_serves_until_interrupted(ledger: Path, tmp_path: Path) -> None:
    """It says where, takes layouts from files and the token from the environment."""
    (tmp_path / "layout.json").write_text(LAYOUT.to_json(), encoding="utf-8")
    command = [sys.executable, "-m", "usagekit", "analytics-engine", "serve", "--port", "0", "--db", str(ledger)]
    command += ["--dataset", f"{TABLE}={tmp_path / 'layout.json'}"]

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={"CLOUDFLARE_API_TOKEN": "secret"}
    ) as process:
        assert process.stdout is not None
        url, tables = process.stdout.readline().strip(), process.stdout.readline().strip()
        answer = httpx2.post(url, content=f"SELECT count() AS n FROM {TABLE}", headers=TOKEN)
        refused = httpx2.post(url, content="SELECT 1")
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=30)

    assert tables == f"tables: {TABLE}; bearer token: as given"
    assert (answer.json()["data"], refused.status_code, code) == ([{"n": "240"}], 403, 130)


def test_a_port_that_is_taken_is_said(ledger: Path) -> None:
    """In one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "usagekit",
            "analytics-engine",
            "serve",
            "--db",
            str(ledger),
            "--port",
            str(port),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Address already in use" in done.stderr


def _sql(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "usagekit", "sql", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, input=stdin)
    return done.returncode, done.stdout, done.stderr


def test_the_terminal_shows_tables_json_and_csv(ledger: Path, tmp_path: Path) -> None:
    """Numbers to the right, what is not known as -, texts that a spreadsheet would run disarmed."""
    (tmp_path / "layout.json").write_text(LAYOUT.to_json(), encoding="utf-8")
    where = ["--db", str(ledger), "--dataset", f"{TABLE}={tmp_path / 'layout.json'}"]
    sql = (
        f"SELECT '=1+1' AS text, topKWeighted(1)(blob6, 1) AS top, 0 / 0 AS nan, true AS yes, count() AS n FROM {TABLE}"
    )
    sql += " WHERE blob6 = 'team' AND double4 = 500"

    table = _sql(sql, *where)
    held = _sql("-", "--format", "json", *where, stdin=sql)
    lines = _sql(sql, "--format", "csv", *where)

    n = json.loads(held[1])["data"][0]["n"]
    assert (table[0], table[2]) == (0, "")
    assert table[1].splitlines()[0].split() == ["text", "top", "nan", "yes", "n"]
    assert table[1].splitlines()[2].split() == ["=1+1", '["team"]', "-", "true", n]
    assert table[1].splitlines()[-1] == "1 row"
    assert json.loads(held[1])["data"] == [{"text": "=1+1", "top": ["team"], "nan": None, "yes": True, "n": n}]
    assert lines[1] == f'text,top,nan,yes,n\n\'=1+1,"[""team""]",,true,{n}\n'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SELECT COUNT(*) FROM usagekit"], "COUNT() function must have 0 arguments: 1"),
        (["SELECT 1", "--dataset", "usage"], "names no file; give --dataset usage=layout.json"),
        (["SELECT 1", "--dataset", "usage=none.json"], "does not exist"),
        (["SELECT 1", "--dataset", "usage=bad.json"], "--dataset 'usage=bad.json': the layout is not JSON"),
        (["SELECT 1", "--dataset", "usage=undeclared.json"], "names 'pan', which no event has"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    arguments: list[str], message: str, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With exit code 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("nonsense", encoding="utf-8")
    (tmp_path / "undeclared.json").write_text('{"blobs": ["pan"]}', encoding="utf-8")

    code, out, err = _sql(*arguments, "--db", str(ledger))

    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err
