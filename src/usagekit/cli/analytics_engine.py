"""`usagekit analytics-engine serve`: a local Analytics Engine on a ledger."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from usagekit.cli import DONE
from usagekit.cli.listening import listen
from usagekit.cli.source import explained, ledger
from usagekit.cli.sql import datasets

if TYPE_CHECKING:
    import argparse


def serve(arguments: argparse.Namespace) -> int:
    """Answer until interrupted; the first line says where."""
    from usagekit.backends.analytics_engine.server import SqlServer

    path = ledger(arguments.db)
    with explained(path):
        tables = datasets(path, arguments.dataset)
    token = arguments.token or os.environ.get("CLOUDFLARE_API_TOKEN") or None
    made = partial(SqlServer, path, tables, token=token, timeout_seconds=arguments.timeout)
    with listen(lambda: made(host=arguments.host, port=arguments.port), arguments) as server:
        print(f"{server.url}/client/v4/accounts/local/analytics_engine/sql", flush=True)
        print(f"tables: {', '.join(sorted(tables))}; bearer token: {'as given' if token else 'any'}", flush=True)
        server.serve_forever()
    return DONE
