"""A proxy on loopback that stands for a bad network: it refuses, stalls, resets connections, and loses answers."""

from __future__ import annotations

import socket
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REFUSED, PASSED, LOST, UNREACHABLE = "answered 503", "passed on", "answer lost", "unreachable"
STALLED, RESET = "stalled", "connection reset"
FATES = (REFUSED, PASSED, LOST, UNREACHABLE, STALLED, RESET)


@dataclass
class FaultProxy:
    """Passes requests on to a port of this machine, and does with each what `choose` says.

    Args:
        port: where to.
        choose: gives `REFUSED` (503, not passed on), `PASSED`, `LOST` (passed on, and its answer thrown away),
            `STALLED` (neither passed on nor answered, until `released`) or `RESET` (not passed on).
        answered: called with each answer's status and body before it is passed back or lost.
    """

    port: int
    choose: Callable[[], str]
    answered: Callable[[int, bytes], None] = lambda _status, _body: None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FATES, 0))
    released: Event = field(default_factory=Event)
    url: str = ""

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Do it to one request."""
        body = handler.rfile.read(int(handler.headers["content-length"]))
        fate = self.choose()
        if fate == REFUSED:
            self.counts[fate] += 1
            _answer(handler, 503, b"upstream is busy", {"retry-after": "0"})
            return
        if fate in {STALLED, RESET}:
            self.counts[fate] += 1
            self._break_off(handler, fate)
            return
        answer = self._passed_on(handler, body)
        if answer is None:
            fate = UNREACHABLE
        else:
            self.answered(*answer)
        self.counts[fate] += 1
        if answer is not None and fate == PASSED:
            _answer(handler, *answer, {})
        else:
            handler.close_connection = True

    def _break_off(self, handler: BaseHTTPRequestHandler, fate: str) -> None:
        if fate == STALLED:
            self.released.wait(30)
        else:
            # Closed without lingering, TCP sends a reset.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.rfile.close()
            handler.connection.close()
        handler.close_connection = True

    def _passed_on(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes] | None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", handler.path, body, dict(handler.headers))
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()


def _answer(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in (headers | {"content-length": str(len(body))}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def faulty(proxy: FaultProxy) -> Iterator[FaultProxy]:
    """Run a proxy during a block; it then has its `url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            proxy.handle(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield proxy
    finally:
        proxy.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
