"""Run the platform for a moment, with models on this machine, and ask what each client's agents cost. See README.md."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx2
import openai

from examples.running import asgi_served, run
from examples.token_billing.app import DATASET, Platform, create_app, make_recorder
from usagekit.testing import ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastapi import FastAPI

    from usagekit import Recorder

CLIENTS = {"key-of-acme": "acme", "key-of-globex": "globex"}
OPERATOR_KEY = "operator-key-for-this-machine-only"
MOST_EXPENSIVE = f"""
SELECT blob1 AS client, SUM(_sample_interval) AS calls, SUM(_sample_interval * double4) AS dollars
FROM {DATASET}
WHERE timestamp > NOW() - INTERVAL '7' DAY
GROUP BY client
ORDER BY dollars DESC
LIMIT 1
"""
TASKS = (
    ("key-of-acme", "legal/contracts/review", "agent-7", "house-model"),
    ("key-of-acme", "mail/answer", "agent-2", "gpt-5-mini"),
    ("key-of-acme", "mail/answer", "agent-2", "gpt-5-mini"),
    ("key-of-globex", "mail/answer", "agent-1", "gpt-5-mini"),
)


@contextmanager
def serving(directory: Path, port: int = 0) -> Iterator[str]:
    """Serve the platform, its ledger in `directory`."""
    with (
        ProviderServer() as server,
        make_recorder(directory / "usage.db") as recorder,
        in_front_of(server, recorder) as app,
        asgi_served(app, port) as url,
    ):
        yield url


@contextmanager
def in_front_of(server: ProviderServer, recorder: Recorder) -> Iterator[FastAPI]:
    """Make a platform whose models are on this machine."""
    with openai.OpenAI(base_url=server.openai, api_key="unused", max_retries=0) as models:
        yield create_app(Platform(recorder, models, CLIENTS, OPERATOR_KEY))


def bearer(key: str) -> dict[str, str]:
    """Give the header that brings a key."""
    return {"authorization": f"Bearer {key}"}


def visit(url: str) -> str:
    """Run skills for two clients, and ask both ways what they cost."""
    with httpx2.Client(base_url=url) as client:
        for key, skill, agent, model in TASKS:
            task = {"agent": agent, "model": model, "input": "Please."}
            client.post(f"/v1/skills/{skill}", json=task, headers=bearer(key)).raise_for_status()
        clients = client.get("/v1/usage", headers=bearer(OPERATOR_KEY)).raise_for_status().json()
        headers = bearer(OPERATOR_KEY) | {"content-type": "text/plain"}
        first = client.post("/v1/sql", content=MOST_EXPENSIVE, headers=headers).raise_for_status().json()["data"][0]
    told = ", ".join(f"{row['client']} {row['requests']} calls ${row['cost_usd']}" for row in clients)
    return f"{told}; SQL says {first['client']} ${first['dollars']:g} is first"


if __name__ == "__main__":
    run("token_billing", serving, visit)
