"""Run the demo: serve the app, send it traffic, and ask who used it. See README.md."""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import quote

import traffic

from usagekit import StorageError, usage
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.testing import Answer, ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
TOKENS = "events,input_tokens,cache_read_tokens,output_tokens,cost_usd"
PROVIDERS = ("OPENAI", "ANTHROPIC")
SECONDS = 10.0  # for the app to start, and to record what it was sent


def main() -> int:
    """Run the demo; returns the exit code."""
    options = _options()
    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, signal.default_int_handler)
    temporary = TemporaryDirectory(prefix="usagekit-demo-") if options.db is None else nullcontext(None)
    try:
        with temporary as directory:
            db = Path(options.db or f"{directory}/usage.db").absolute()
            token = os.environ.get("USAGEKIT_ADMIN_TOKEN") or secrets.token_urlsafe(32)
            with (
                _providers() as providers,
                _serving(db, options.port, providers | {"USAGEKIT_ADMIN_TOKEN": token}) as (server, port),
            ):
                _show(db, port)
                if not options.once:
                    _tell_what_to_try(db, port, token)
                    server.wait()
    except KeyboardInterrupt:
        print("\nDone.")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="examples/demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the reports, instead of going on serving")
    parser.add_argument("--port", type=int, default=0, help="where to serve on 127.0.0.1 [any free port]")
    parser.add_argument("--db", metavar="PATH", help="keep the ledger here [a directory that is removed at the end]")
    return parser.parse_args()


@contextmanager
def _providers() -> Iterator[dict[str, str]]:
    """Run model providers on this machine for those there is no key of; gives what the app's environment needs."""
    usage = {"input_tokens": 1200, "output_tokens": 300, "cache_read_tokens": 1000, "reasoning_tokens": 200}
    with ProviderServer(Answer(text="Nobody ever has. Try patience, and a larger magnet.", usage=usage)) as server:
        yield {
            name: value
            for name, value in server.environment().items()
            for owner in [name.split("_")[0]]
            if owner.lower() == "no" or (owner in PROVIDERS and not os.environ.get(f"{owner}_API_KEY"))
        }


@contextmanager
def _serving(db: Path, port: int, settings: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Serve the app in a process of its own, as long as the block lasts."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise OSError(f"cannot serve on port {port}: {error.strerror}; leave --port out to have a free one") from error
    listener.listen()  # clients that come before the app is ready wait here
    command = [sys.executable, "-m", "uvicorn", "app:app", "--app-dir", str(HERE), "--fd", str(listener.fileno())]
    # The app fails on purpose, and uvicorn would show each time how.
    command += ["--no-access-log", "--log-level", "critical", "--timeout-graceful-shutdown", "1"]
    environment = os.environ | settings | {"USAGEKIT_BACKEND": f"sqlite:///{quote(str(db))}"}
    server = subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()])
    try:
        with listener:
            port = listener.getsockname()[1]
        yield server, port
    finally:
        server.terminate()
        server.wait()


def _show(db: Path, port: int) -> None:
    print(f"A FastAPI app with usagekit in it serves on http://127.0.0.1:{port}, its ledger is {db}.")
    before = _recorded(db)
    traffic.send_all(port)
    _wait_for(db, before + traffic.EVENTS)
    users, orgs = len(traffic.VISITS) - 1, 3
    print(
        f"{users} users of {orgs} orgs, and somebody unknown, have sent it requests. Who was it, and what did they do?"
    )
    _run_usagekit("report", "--db", str(db), "--by", "org,user")
    _run_usagekit("report", "--db", str(db), "--by", "route,event")
    _run_usagekit("report", "--db", str(db), "--by", "user,model", "--where", "kind=llm", "--measures", TOKENS)
    _run_usagekit("report", "--db", str(db), "--by", "user", "--where", "aborted=true", "--period", "24h")
    _run_usagekit("status", "--db", str(db))


def _recorded(db: Path) -> int:
    try:
        return int(usage(SQLiteBackend(db), measures="events").totals["events"])
    except StorageError:
        return 0  # the app has not made it yet


def _wait_for(db: Path, events: int) -> None:
    deadline = time.monotonic() + SECONDS
    while (recorded := _recorded(db)) < events:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the ledger has {recorded} events after {SECONDS:g} s, and should have {events}")
        time.sleep(0.02)


def _run_usagekit(*arguments: str) -> None:
    print(f"\n$ usagekit {shlex.join(arguments)}\n", flush=True)
    subprocess.run([sys.executable, "-m", "usagekit", *arguments], check=True)


def _tell_what_to_try(db: Path, port: int, token: str) -> None:
    url = f"http://127.0.0.1:{port}"
    print(f"\nThe usage page is at {url}/admin/usage/")
    print(f"Log in with any name, and as the password the token: {token}")
    print(f"\nThe app goes on serving on {url} until you press Ctrl-C. Try:\n")
    print(f"  curl -H 'x-user-id: ann' {url}/items/1")
    print(f'  curl -H \'x-user-id: ann\' {url}/chat --json \'{{"text": "Why?", "stream": true}}\'')
    print(f"  {shlex.join([sys.executable, '-m', 'usagekit'])} report --db {shlex.quote(str(db))} --by user,route")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
