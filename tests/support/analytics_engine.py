"""A local Analytics Engine: its SQL over HTTP, from a ledger."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from usagekit.backends.analytics_engine.server import SqlServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usagekit.backends.analytics_engine.layout import Layout


@contextmanager
def serving(path: Path, datasets: dict[str, Layout]) -> Iterator[SqlServer]:
    """Run one on the ledger at `path` during a block; its token is "secret"."""
    with SqlServer(str(path), datasets, token="secret") as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
