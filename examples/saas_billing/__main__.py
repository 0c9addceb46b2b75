"""Run the API for a moment with a heavy and a tiny customer, and write their bills. See README.md."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx2

from examples.running import run, wsgi_served
from examples.saas_billing.app import create_app
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CUSTOMERS = {"key-of-globex": "globex", "key-of-corner-shop": "corner-shop"}
OPERATOR_KEY = "operator-key-for-this-machine-only"
ROUNDS = 40


@contextmanager
def serving(directory: Path, port: int = 0) -> Iterator[str]:
    """Serve the API, its ledger in `directory`."""
    with Recorder(SQLiteBackend(directory / "usage.db")) as recorder:
        app = create_app(recorder, customers=CUSTOMERS, operator_key=OPERATOR_KEY)
        with wsgi_served(app, port) as url:
            yield url


def bearer(key: str) -> dict[str, str]:
    """Give the header that brings a key."""
    return {"authorization": f"Bearer {key}"}


def visit(url: str) -> str:
    """Use the API as both customers, one much more than the other, and write this month's bills."""
    with httpx2.Client(base_url=url) as client:
        for _ in range(ROUNDS):
            for method, path in (("GET", "/v1/reports"), ("GET", "/v1/reports/1"), ("POST", "/v1/exports")):
                client.request(method, path, headers=bearer("key-of-globex")).raise_for_status()
        client.get("/v1/reports/2", headers=bearer("key-of-corner-shop")).raise_for_status()
        month = f"{datetime.now(UTC):%Y-%m}"
        bills = client.get(f"/billing/bills/{month}", headers=bearer(OPERATOR_KEY)).raise_for_status().json()
    return ", ".join(f"{bill['customer_id']} {bill['usage_count']} requests ${bill['amount_usd']}" for bill in bills)


if __name__ == "__main__":
    run("saas_billing", serving, visit)
