"""The reader, over HTTP, from the local engine on a real ledger."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from usagekit import Recorder
from usagekit.backends.analytics_engine.client import SqlClient
from usagekit.backends.analytics_engine.layout import Layout
from usagekit.backends.analytics_engine.reader import AnalyticsEngineReader
from usagekit.backends.analytics_engine.server import SqlServer
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.testing import ReaderContract

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usagekit import UsageEvent
    from usagekit.query import Reader

LAYOUT = Layout.default(["project", "country"])


@contextmanager
def serving(path: Path, datasets: dict[str, Layout]) -> Iterator[SqlServer]:
    """Run a local engine on the ledger at `path`."""
    with SqlServer(str(path), datasets, token="secret") as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class TestAnalyticsEngineReader(ReaderContract):
    """It answers as every reader does, but for what doubles cannot hold."""

    exact = False

    @pytest.fixture(autouse=True)
    def _servers(self, tmp_path: Path) -> Iterator[None]:
        self._home = tmp_path
        self._running: list[tuple[SqlServer, Thread, SqlClient]] = []
        yield
        for server, thread, client in self._running:
            client.close()
            server.shutdown()
            thread.join()
            server.server_close()

    def make_reader(self, events: list[UsageEvent]) -> Reader:
        path = self._home / f"usage-{len(self._running)}.db"
        with Recorder(SQLiteBackend(path), dimensions=["project", "country"]) as recorder:
            for event in events:
                assert recorder.record(event)
        server = SqlServer(str(path), {"usage-events": LAYOUT}, token="secret")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        client = SqlClient("account", "secret", url=server.url)
        self._running.append((server, thread, client))
        return AnalyticsEngineReader(client.ask, dataset="usage-events", layout=LAYOUT)
