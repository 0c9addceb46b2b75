"""What the examples share: serve an app on a free port of this machine, visit it, and say what was counted."""

from __future__ import annotations

import argparse
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import uvicorn
from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


def run(name: str, serving: Callable[[Path, int], AbstractContextManager[str]], visit: Callable[[str], str]) -> None:
    """Run an example as a program.

    Args:
        name: of the example.
        serving: given a directory for its ledger and a port, serves the app as long as its block lasts; gives its URL.
        visit: sends the app what its users would, and gives one line of figures.
    """
    parser = argparse.ArgumentParser(prog=f"python -m examples.{name}")
    parser.add_argument("--once", action="store_true", help="end after the figures, instead of going on serving")
    parser.add_argument("--port", type=int, default=0, help="where to serve on 127.0.0.1 [any free port]")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with TemporaryDirectory(prefix=f"usagekit-{name}-") as directory, serving(Path(directory), options.port) as url:
            print(f"{name}: {visit(url)}", flush=True)
            if not options.once:
                print(f"It serves on {url} until you press Ctrl-C.", flush=True)
                threading.Event().wait()
    except KeyboardInterrupt:
        print("\nDone.")


@contextmanager
def asgi_served(app: Any, port: int = 0) -> Iterator[str]:
    """Serve an ASGI app with uvicorn, in a thread, as long as the block lasts; gives its URL."""
    config = uvicorn.Config(app, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    listener.listen()  # from here on clients are let in, though the server may still be starting
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing of each request."""


@contextmanager
def wsgi_served(app: Any, port: int = 0) -> Iterator[str]:
    """Serve a WSGI app with Werkzeug's server, a thread for each request, as long as the block lasts; gives its URL."""
    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
