"""Real servers that are told to end while they serve: what the clients were answered is in the ledger, once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from itertools import count
from threading import Event, Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import PROGRAMS
from tests.support.stores import eventually, journal_files, query
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from pathlib import Path

LOAD_SECONDS = 1.0
CLIENTS = 4
UVICORN = ["uvicorn", "--port", "{port}", "--log-level", "warning"]
GUNICORN = ["gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:{port}", "--no-control-socket"]
SERVERS = {
    "uvicorn --workers 2": [*UVICORN, "--workers", "2", "app:asgi_app"],
    "uvicorn --lifespan off": [*UVICORN, "--lifespan", "off", "app:asgi_app"],
    "gunicorn --preload, sync": [*GUNICORN, "app:flask_app"],
    "gunicorn --preload, gthread": [*GUNICORN, "--worker-class", "gthread", "--threads", "4", "app:flask_app"],
}


def free_port() -> int:
    """Give a port that nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return listener.getsockname()[1]  # type: ignore[no-any-return]


class Client:
    """Asks as fast as it is answered, until it is told to stop; each request has a number of its own."""

    def __init__(self, port: int, first: int, stop: Event) -> None:
        self.port = port
        self.stop = stop
        self.answered: list[int] = []
        self.thread = Thread(target=self._ask, args=(first,))

    def _ask(self, first: int) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10.0)
        for number in count(first):
            if self.stop.is_set():
                break
            try:
                connection.request("GET", "/", headers={"x-number": str(number)})
                response = connection.getresponse()
                body = response.read()
            except (OSError, HTTPException):
                connection.close()
                sleep(0.002)  # the server is going, or a worker of it
                continue
            if (response.status, body) == (200, b"ok"):
                self.answered.append(number)
        connection.close()


def listens(port: int) -> bool:
    """Tell whether a server is up."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_is_terminated_under_load_loses_no_answered_request(server: str, tmp_path: Path) -> None:
    """Whatever the server runs, or does not run, at its end."""
    path, port, stop = tmp_path / "usage.db", free_port(), Event()
    words = [word.format(port=port) for word in SERVERS[server]]
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=PROGRAMS,
        env=os.environ | {"USAGEKIT_BACKEND": f"sqlite:///{path}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    clients = [Client(port, n * 1_000_000, stop) for n in range(1, CLIENTS + 1)]
    try:
        assert eventually(lambda: listens(port), 20.0)
        for client in clients:
            client.thread.start()
        assert eventually(lambda: all(client.answered for client in clients), 20.0)
        sleep(LOAD_SECONDS)
        process.send_signal(signal.SIGTERM)
        began = monotonic()
        process.wait(15.0)
        seconds = monotonic() - began
    finally:
        stop.set()
        process.kill()
        output, _ = process.communicate()
        for client in clients:
            if client.thread.ident is not None:
                client.thread.join()

    assert seconds < 5.0, output
    with Recorder(SQLiteBackend(path)) as fresh:
        assert fresh.flush()
    users = "SELECT u.name FROM events e JOIN subjects p ON p.id=e.subject JOIN users u ON u.id=p.user WHERE p.user"
    stored = Counter(int(user) for (user,) in query(path, users))
    answered = [number for client in clients for number in client.answered]
    assert len(answered) > 100, output
    assert [number for number in answered if number not in stored] == []
    assert set(stored.values()) == {1}
    assert journal_files(path) == []
