"""Processor time of a real server: uvicorn on one processor, its clients on another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from statistics import median
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Self

from benchmarks.measure import Stopwatch, Table, Target, Timing, cpu, differences, interleaved, ratio_of_each, wall
from benchmarks.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.measure import Result, Setting

TIMES_NOOP = 1.25

_APPS = {"noop": "noop", "noop2": "noop", "ideal": "ideal", "usagekit": "recorded"}
_CONNECTIONS = 16
_START_SECONDS = 60.0
_ROOT = Path(__file__).parents[1]


def measure(result: Result, setting: Setting) -> None:
    """Add what uvicorn spends on a request, with everything that follows from it: importing is waited for."""
    count = setting.scaled(4000, 1000)
    with ExitStack() as stack:
        stack.enter_context(_on_another_processor())
        servers = {name: stack.enter_context(_Uvicorn(app, name, setting)) for name, app in _APPS.items()}
        slices: dict[str, Callable[[], Timing]] = {name: partial(each.slice, count) for name, each in servers.items()}
        timings = interleaved(slices, setting.scaled(30, 6))
        recorded = servers["usagekit"].get("/recorded")
        assert recorded == servers["usagekit"].served, (recorded, servers["usagekit"].served)
    base = cpu(timings["noop"])
    rows = []
    for name, each in timings.items():
        times = ratio_of_each(cpu(each), base)
        added = median(differences(cpu(each), base))
        rows.append((name, f"{median(cpu(each)):.1f}", f"{added:.1f}", str(times), f"{median(wall(each)):.1f}"))
        result.values[f"uvicorn {name}"] = {"cpu_us": median(cpu(each)), "added_cpu_us": added, "times_noop": times}
        if name == "usagekit":
            result.targets.append(Target("uvicorn: processor time of a request, x noop", times, TIMES_NOOP))
    title = f"uvicorn, Starlette, one route, {_CONNECTIONS} connections: the server's processor time for a request"
    columns = ("", "processor us", "added", "x noop (95 %)", "us by the clock")
    result.tables.append(Table(title, columns, rows))


@contextmanager
def _on_another_processor() -> Iterator[None]:
    """Leave the first processor to the servers, where a process may choose."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before - {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Uvicorn:
    """One server, and the connections to it, for the time of a `with` block."""

    def __init__(self, app: str, name: str, setting: Setting) -> None:
        self.served = 0
        self._log = Path(setting.directory, f"uvicorn-{name}.log").open("w+b")  # noqa: SIM115  closed with the server
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address: tuple[str, int] = free.getsockname()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", f"benchmarks.served:{app}", "--factory", "--port"),
                *(str(self._address[1]), "--timeout-keep-alive", "3600", "--no-access-log", "--log-level", "warning"),
            ],
            stdout=self._log,
            stderr=self._log,
            cwd=_ROOT,
            env=os.environ | {"BENCHMARKS_LEDGER": f"{setting.directory}/uvicorn.db"},
        )
        self._connections: list[socket.socket] = []
        # So do the users of a slice, in as many requests.
        self._requests = [
            (
                f"GET /items/42 HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\nuser-agent: bench/1.0\r\n"
                f"x-user-id: {user}\r\nx-org-id: {org}\r\n\r\n"
            ).encode()
            for user, org in Traffic().who(1000)
        ]

    def __enter__(self) -> Self:
        deadline = monotonic() + _START_SECONDS
        while True:
            try:
                self.get("/cpu")
            except ConnectionRefusedError:
                if self._process.poll() is not None or monotonic() > deadline:
                    self._log.seek(0)
                    msg = f"uvicorn did not start:\n{self._log.read().decode(errors='replace')[-4000:]}"
                    self.__exit__()
                    raise RuntimeError(msg) from None
                sleep(0.05)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()
        self._process.terminate()
        self._process.wait(60)
        self._log.close()

    def get(self, path: str) -> int:
        """Ask the server for a number."""
        connection = HTTPConnection(*self._address, timeout=_START_SECONDS)
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200, response.status
        number = int(response.read())
        connection.close()
        return number

    def slice(self, count: int) -> Timing:
        """Send so many requests; give the clock's time and the server's processor time of one."""
        if not self._connections:
            self._connections = [socket.create_connection(self._address, timeout=60) for _ in range(_CONNECTIONS)]
        before = self.get("/cpu")
        with Stopwatch() as watch:
            self._load(count)
        # What is left of it is done by then: this waits until all is in the ledger.
        spent = self.get("/cpu") - before
        self.served += count
        return Timing(watch.timing.wall_us, spent / 1000).per(count)

    def _load(self, count: int) -> None:
        sent = 0
        answered = 0
        parts = dict.fromkeys(self._connections, b"")
        with DefaultSelector() as selector:
            for connection in self._connections:
                selector.register(connection, EVENT_READ)
                connection.sendall(self._requests[sent % len(self._requests)])
                sent += 1
            while answered < count:
                for key, _ in selector.select():
                    ready: Any = key.fileobj
                    answer = parts[ready] + ready.recv(65536)
                    if not answer.endswith(b"}"):  # uvicorn sends head and body apart
                        assert answer, "uvicorn hung up"
                        parts[ready] = answer
                        continue
                    assert answer.startswith(b"HTTP/1.1 200 "), answer
                    parts[ready] = b""
                    answered += 1
                    if sent < count:
                        ready.sendall(self._requests[sent % len(self._requests)])
                        sent += 1
