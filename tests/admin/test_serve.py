"""`usagekit serve`: the page on its own, as a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from base64 import b64encode
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest

from tests.admin.shells import TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usagekit import Recorder

SECONDS = 30.0


def environment(**more: str) -> dict[str, str]:
    """Give the environment of a process, without what this one may have of ours."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("USAGEKIT_")}
    return plain | {"PYTHONUNBUFFERED": "1"} | more


def serving(*arguments: str, **more: str) -> subprocess.Popen[str]:
    """Start it."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "usagekit", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
    )


@pytest.fixture
def ledger(recorded: Recorder) -> str:
    """Give the path of the ledger with known events."""
    return str(recorded.backends[0].ledger_path)


@pytest.fixture
def served(ledger: str) -> Iterator[subprocess.Popen[str]]:
    """Give the process, which makes up a token."""
    process = serving("--db", ledger, "--port", "0")
    yield process
    process.kill()
    process.communicate()


def status(port: int, authorization: str) -> tuple[int, bytes]:
    """Ask for the page."""
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/", headers={"authorization": authorization})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_it_prints_where_and_with_which_token(served: subprocess.Popen[str]) -> None:
    """A browser gets in with the token as the password; Ctrl-C ends it well."""
    assert served.stdout is not None
    lines = [served.stdout.readline() for _ in range(3)]
    address = re.fullmatch(r"The usage page is at http://127\.0\.0\.1:(\d+)/\n", lines[0])
    told = re.fullmatch(r"Log in with any name, and as the password the token: (\S{43})\n", lines[1])
    assert address is not None
    assert told is not None

    password = b64encode(f"me:{told[1]}".encode()).decode()
    page, nobody = (status(int(address[1]), each) for each in (f"Basic {password}", "Basic eDp5"))
    served.send_signal(signal.SIGINT)
    out, err = served.communicate(timeout=SECONDS)

    assert page[0] == 200
    assert b"By user" in page[1]
    assert nobody[0] == 401
    assert (served.returncode, out, err) == (0, "\n", "")


def test_the_environments_token_is_not_printed(ledger: str) -> None:
    """It is in who knows which logs already."""
    process = serving("--db", ledger, "--port", "0", USAGEKIT_ADMIN_TOKEN=TOKEN)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    port = int(lines[0].rsplit(":", 1)[1].strip("/\n"))

    answered = status(port, f"Bearer {TOKEN}")[0]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)

    assert answered == 200
    assert TOKEN not in "".join(lines)
    assert "USAGEKIT_ADMIN_TOKEN" in lines[1]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"USAGEKIT_ADMIN_TOKEN": ""}, "the admin token is empty"),
        ({"USAGEKIT_ADMIN_TOKEN": "secret"}, "has 6 characters"),
        ({"db": "missing.db"}, "it does not exist"),
        ({"port": "99999"}, "'99999' is no port; use a number from 1 to 65535"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(ledger: str, tmp_path: Path, more: dict[str, str], problem: str) -> None:
    """Exit code 2, and nothing is served."""
    options = {"db": ledger, "port": "0"} | {name: value for name, value in more.items() if name.islower()}
    variables = {name: value for name, value in more.items() if name.isupper()}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]

    done = subprocess.run(
        [sys.executable, "-m", "usagekit", "serve", *arguments],
        capture_output=True,
        text=True,
        env=environment(**variables),
        cwd=tmp_path,
        timeout=SECONDS,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usagekit serve: ")
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
