"""A proxy on loopback that stands for a bad network: it refuses, stalls, resets connections, and loses answers.

`python -m tests.support.faults PORT` runs one before a port in a process of its own, until its stdin ends; the first
line is its own port.
"""

from __future__ import annotations

import random
import socket
import struct
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message

REFUSED, PASSED, LOST, UNREACHABLE = "answered 503", "passed on", "answer lost", "unreachable"
STALLED, RESET = "stalled", "connection reset"
FATES = (REFUSED, PASSED, LOST, UNREACHABLE, STALLED, RESET)


@dataclass
class FaultProxy:
    """Passes requests on to a port of this machine, and does with each what `choose` says.

    Args:
        port: where to.
        choose: gives `REFUSED` (503, not passed on), `PASSED`, `LOST` (passed on, and its answer thrown away),
            `STALLED` (neither passed on nor answered, until the client gives up) or `RESET` (not passed on).
        answered: called with each answer's status and body before it is passed back or lost.
        asked: called with each request's headers and body, whatever becomes of it.

    Requests are passed on one at a time, also those of clients that gave up waiting.
    """

    port: int
    choose: Callable[[], str]
    answered: Callable[[int, bytes], None] = lambda _status, _body: None
    asked: Callable[[Message, bytes], None] = lambda _headers, _body: None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FATES, 0))
    released: Event = field(default_factory=Event)
    url: str = ""
    _turn: Lock = field(default_factory=Lock)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Do it to one request."""
        body = handler.rfile.read(int(handler.headers["content-length"]))
        with self._turn:
            self.asked(handler.headers, body)
            fate, answer = self.choose(), None
            if fate in {PASSED, LOST}:
                answer = self._passed_on(handler, body)
                fate = UNREACHABLE if answer is None else fate
            if answer is not None:
                self.answered(*answer)
            self.counts[fate] += 1
        if fate == REFUSED:
            _answer(handler, 503, b"upstream is busy", {"retry-after": "0"})
        elif answer is not None and fate == PASSED:
            _answer(handler, *answer, {})
        else:
            self._break_off(handler, fate)

    def _break_off(self, handler: BaseHTTPRequestHandler, fate: str) -> None:
        handler.close_connection = True
        if fate == STALLED:
            handler.connection.settimeout(0.05)
            while not self.released.is_set():
                try:
                    if not handler.connection.recv(1):
                        return  # the client gave up
                except TimeoutError:
                    continue
                except OSError:
                    return
        elif fate == RESET:
            # Closed without lingering, TCP sends a reset.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.rfile.close()
            handler.connection.close()

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

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # a client that gave up is what this is for
                super().handle_error(request, client_address)  # type: ignore[arg-type]

    server = Server(("127.0.0.1", 0), Handler)
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


def at_random(seed: int = 11) -> Callable[[], str]:
    """Give a choice of fates in which each of a bad network's comes up, and most requests do not get through."""
    weights = {PASSED: 40, REFUSED: 34, LOST: 15, RESET: 9, STALLED: 2}
    chance = random.Random(seed)
    return lambda: chance.choices(list(weights), list(weights.values()))[0]


if __name__ == "__main__":
    with faulty(FaultProxy(int(sys.argv[1]), at_random())) as proxy:
        print(proxy.url.rpartition(":")[2], flush=True)
        sys.stdin.read()
