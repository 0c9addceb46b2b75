"""Real servers as processes of their own, on loopback, with a client that sees every byte."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.stores import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 30.0
HEARD_SECONDS = 5.0  # uWSGI now and then misses a SIGTERM, granian one that comes early; with or without us

_WSGIREF = """
import sys
from importlib import import_module
from wsgiref.simple_server import make_server
module, _, name = sys.argv[1].partition(":")
make_server("127.0.0.1", int(sys.argv[2]), getattr(import_module(module), name)).serve_forever()
"""

_ASGI = {
    "uvicorn h11": "uvicorn --port {port} --http h11 --loop asyncio",
    "uvicorn httptools, 2 workers": "uvicorn --port {port} --http httptools --workers 2",
    "uvicorn --lifespan off": "uvicorn --port {port} --lifespan off",
    "hypercorn": "hypercorn --bind 127.0.0.1:{port}",
    "granian ASGI, 2 workers": "granian --port {port} --interface asgi --workers 2",
    "gunicorn uvicorn-worker": "gunicorn --bind 127.0.0.1:{port} -w 2 -k uvicorn_worker.UvicornWorker {quiet}",
}
_WSGI = {
    "gunicorn sync": "gunicorn --bind 127.0.0.1:{port} -w 2 {quiet}",
    "gunicorn sync --preload": "gunicorn --bind 127.0.0.1:{port} -w 2 --preload {quiet}",
    "gunicorn gthread": "gunicorn --bind 127.0.0.1:{port} -w 1 --threads 4 {quiet}",
    "granian WSGI, 2 workers": "granian --port {port} --interface wsgi --workers 2",
    "waitress": "waitress-serve --listen 127.0.0.1:{port}",
    "uWSGI prefork": "uwsgi --http-socket 127.0.0.1:{port} --master --processes 2 --die-on-term --need-app --module",
    "uWSGI prefork --lazy-apps": (
        "uwsgi --http-socket 127.0.0.1:{port} --master --processes 2 --die-on-term --need-app --lazy-apps --module"
    ),
    "wsgiref": "wsgiref",
}
_STARTED = {
    # All workers are up when the log says so this often.
    "granian ASGI, 2 workers": ("Started worker-", 2),
    "granian WSGI, 2 workers": ("Started worker-", 2),
    "uvicorn httptools, 2 workers": ("Application startup complete", 2),
    "gunicorn uvicorn-worker": ("Application startup complete", 2),
    "uWSGI prefork --lazy-apps": ("WSGI app 0", 2),
}
ASGI_SERVERS, WSGI_SERVERS = tuple(_ASGI), tuple(_WSGI)


class Server:
    """A server, its process group, and the port it listens at."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def raw(self, request: bytes, *, limit: int = 2**30) -> bytes:
        """Send bytes, and give what comes back until the server closes the connection, or `limit` bytes of it."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request)
            while len(received) < limit and (part := connection.recv(65536)):
                received += part
        return received

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Send a request on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get_all(self, path: str, users: Iterable[str]) -> list[tuple[int, bytes]]:
        """Send a request for each user, four at a time."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda user: self.get(path, **{"x-user": user}), users))

    def end(self, number: signal.Signals) -> None:
        """Send a signal: SIGTERM to the server, SIGKILL to its whole process group; and wait until all are gone."""
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(HEARD_SECONDS)
            self.process.send_signal(number)
        self.process.wait(STOP_SECONDS)
        assert eventually(lambda: not _is_alive(self.process.pid), STOP_SECONDS), "some process of the server lives on"


def _is_alive(group: int) -> bool:
    """Say whether a process group has a member that is not a zombie."""
    for entry in Path("/proc").glob("[0-9]*/stat") if Path("/proc").exists() else ():
        with suppress(OSError):
            state, _, its_group = entry.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in {"Z", "X"}:
                return True
    return False


def _is_up(port: int, log: Path, said: str, times: int) -> bool:
    if log.read_text().count(said) < times:
        return False
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status < 500
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def serving(name: str, target: str, directory: Path, **environment: str) -> Iterator[Server]:
    """Serve `target`, as `module:variable`, by the server called `name`, until the block ends; then it is killed.

    Args:
        name: of `ASGI_SERVERS` or `WSGI_SERVERS`.
        target: what is served; must answer below 500 at `/health`.
        directory: where the server runs and logs.
        environment: further variables for its processes.
    """
    port = free_port()
    directory.mkdir(exist_ok=True)
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(name, target, port),
            cwd=directory,
            stdout=output,
            stderr=output,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"} | environment,
            start_new_session=True,
        )
    try:
        said, times = _STARTED.get(name, ("", 0))
        is_up = partial(_is_up, port, log, said, times)
        assert eventually(lambda: process.poll() is not None or is_up(), START_SECONDS), log.read_text()
        assert process.poll() is None, log.read_text()
        yield Server(process, port, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Give a port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _command(name: str, target: str, port: int) -> list[str]:
    if name == "wsgiref":
        return [sys.executable, "-c", _WSGIREF, target, str(port)]
    program, *arguments = (_ASGI | _WSGI)[name].format(port=port, quiet="--no-control-socket").split()
    return [sys.executable, str(Path(sys.executable).parent / program), *arguments, target]
