"""The HTTP side of `ProviderServer`: connections that stream, wait, break, and notice when a client leaves."""

from __future__ import annotations

import select
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from usagekit.testing.wire.exchange import Answer, Part, Reply

__all__ = ["Connection", "Listener"]


class _Gone(Exception):  # noqa: N818  not an error: clients may leave
    """The client went away while its answer waited."""


class Listener(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1 and knows its connections, so that none outlives it.

    Args:
        take: called in a connection's thread for each request: gives what to answer, and what to call with the
            outcome, `"whole"`, `"broken"` or `"left"`.
    """

    request_queue_size = 128

    def __init__(self, take: Callable[[Connection], tuple[Answer, Reply, Callable[[str], None]]]) -> None:
        self.take = take
        self._connections: set[socket.socket] = set()
        self._open = threading.Lock()
        self._workers: list[threading.Thread] = []
        super().__init__(("127.0.0.1", 0), Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread that `close_connections` can end."""
        worker = threading.Thread(target=self._serve, args=(request, client_address), name="usagekit-provider")
        with self._open:
            self._connections.add(request)
            self._workers = [one for one in self._workers if one.is_alive()]
            self._workers.append(worker)
        worker.start()

    def _serve(self, connection: Any, client_address: Any) -> None:
        try:
            self.finish_request(connection, client_address)
        except (ConnectionError, TimeoutError):
            pass  # the client's good right; the handler has noted it
        finally:
            with self._open:
                self._connections.discard(connection)
                self.shutdown_request(connection)

    def close_connections(self) -> None:
        """End connections that clients keep alive, and wait for their threads."""
        with self._open:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was faster
            workers = list(self._workers)
        for worker in workers:
            worker.join(5)


class Connection(BaseHTTPRequestHandler):
    """Reads the requests of one connection and sends their answers; lives as long as the connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Stay silent: pytest shows the client's side."""

    def do_GET(self) -> None:
        """Answer whatever is asked."""
        answer, reply, end = self.server.take(self)
        try:
            outcome = self._send(answer, reply)
        except (ConnectionError, _Gone):
            self.close_connection = True
            outcome = "left"
        end(outcome)

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815  names of http.server

    def read_body(self) -> bytes:
        """Read the request's body, also where the client sends it in chunks."""
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _send(self, answer: Answer, reply: Reply) -> str:
        if not reply.is_stream:
            self._hold(answer)
        if answer.break_after == 0:
            self.close_connection = True
            return "broken"
        if reply.is_stream:
            self._head(answer, reply, {"transfer-encoding": "chunked"})
            return self._send_stream(answer, reply)
        body = b"".join(part.data for part in reply.parts)
        self._head(answer, reply, {"content-length": str(len(body))})
        if answer.break_after is not None:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return "broken"
        self.wfile.write(body)
        return "whole"

    def _head(self, answer: Answer, reply: Reply, length: Mapping[str, str]) -> None:
        retry = {} if answer.retry_after is None else {"retry-after": f"{answer.retry_after:g}"}
        self.send_response_only(reply.status)
        headers = {"content-type": reply.content_type, **reply.headers, **retry, **answer.headers, **length}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_stream(self, answer: Answer, reply: Reply) -> str:
        texts = 0
        if answer.fail_after == 0:
            return self._fail(reply)
        for part in self._held(answer, reply.parts):
            self._chunk(part.data)
            texts += part.is_text
            if part.is_text and texts == answer.break_after:
                self.close_connection = True
                return "broken"
            if part.is_text and texts == answer.fail_after:
                return self._fail(reply)
        self.wfile.write(b"0\r\n\r\n")
        return "whole"

    def _fail(self, reply: Reply) -> str:
        if not reply.failure:
            self.close_connection = True
            return "broken"
        self._chunk(reply.failure)
        self.wfile.write(b"0\r\n\r\n")
        return "whole"

    def _held(self, answer: Answer, parts: Iterable[Part]) -> Iterable[Part]:
        """Give the parts, and wait for `hold` before what comes after the first piece of text."""
        has_waited = False
        for part in parts:
            yield part
            if part.is_text and not has_waited:
                has_waited = True
                self._hold(answer)

    def _hold(self, answer: Answer) -> None:
        if answer.hold is None:
            return
        deadline = time.monotonic() + answer.hold_seconds
        while not answer.hold.wait(0.005) and time.monotonic() < deadline:
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                raise _Gone

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
