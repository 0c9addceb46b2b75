"""`usagekit serve`: the usage page without an app around it."""

from __future__ import annotations

import os
import secrets
import socket
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from usagekit.admin import BearerAuth, usage_wsgi_app
from usagekit.cli import DONE
from usagekit.cli.listening import listen
from usagekit.cli.source import check, explained, reader

if TYPE_CHECKING:
    import argparse

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Server(ThreadingMixIn, WSGIServer):
    """The standard library's server, with a thread for each connection."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Bind, without asking the network for this machine's name."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    """Serves one connection and writes no log."""

    timeout = 30  # seconds that a client may take for its request

    def log_message(self, *_: Any) -> None:
        """Say nothing: paths hold ids."""


def serve(arguments: argparse.Namespace) -> int:
    """Serve the page until somebody ends it."""
    given = os.environ.get("USAGEKIT_ADMIN_TOKEN")
    token = secrets.token_urlsafe(32) if given is None else given
    auth = BearerAuth(token)
    source = reader(arguments.db)
    if hasattr(source, "ledger_path"):
        with explained(source.ledger_path):
            check(source.ledger_path)
    app = usage_wsgi_app(source, auth=auth)
    kind = _Server6 if ":" in arguments.host else _Server
    with listen(lambda: kind((arguments.host, arguments.port), _Handler), arguments) as server:
        server.set_app(app)
        shown_host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        print(f"The usage page is at http://{shown_host}:{server.server_port}/")
        whose = token if given is None else "the one in USAGEKIT_ADMIN_TOKEN"
        print(f"Log in with any name, and as the password the token: {whose}")
        if arguments.host not in _LOOPBACK:
            print("Others can reach this address: put a proxy with TLS before it, or whoever listens learns the token.")
        print("Ctrl-C ends it.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return DONE
