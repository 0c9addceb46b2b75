"""Run the gateway for a moment in front of providers on this machine. See README.md."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import anthropic
import httpx2
import openai

from examples.ai_gateway.app import create_app
from examples.running import run, wsgi_served
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.testing import ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask

KEY = "gateway-key-for-this-machine-only"


@contextmanager
def serving(directory: Path, port: int = 0) -> Iterator[str]:
    """Serve the gateway, its ledger in `directory`."""
    backend = SQLiteBackend(directory / "usage.db")
    with (
        ProviderServer() as server,
        Recorder(backend, dimensions=["project"]) as recorder,
        in_front_of(server, recorder) as app,
        wsgi_served(app, port) as url,
    ):
        yield url


@contextmanager
def in_front_of(server: ProviderServer, recorder: Recorder) -> Iterator[Flask]:
    """Make a gateway whose providers are all on this machine."""
    with (
        openai.OpenAI(base_url=server.openai, api_key="unused", max_retries=0) as one,
        openai.OpenAI(base_url=server.groq, api_key="unused", max_retries=0) as other,
        anthropic.Anthropic(base_url=server.anthropic, api_key="unused", max_retries=0) as claude,
    ):
        clients = {"openai": one, "groq": other}
        yield create_app(recorder, api_key=KEY, openai_clients=clients, claude=claude)


def visit(url: str) -> str:
    """Ask models as two projects, once for one that is not there, and read the analytics."""
    question = [{"role": "user", "content": "How much?"}]
    with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as client:
        for project, model, stream in (
            ("proj_web", "gpt-5-mini", False),
            ("proj_web", "openai/gpt-5-mini", True),
            ("proj_web", "groq/llama-3.3-70b-versatile", False),
            ("proj_bot", "gpt-5-mini", False),
        ):
            body = {"model": model, "messages": question, "stream": stream}
            client.post("/v1/chat/completions", json=body, headers={"x-project-id": project}).raise_for_status()
        body = {"model": "claude-sonnet-4-6", "max_tokens": 50, "messages": question}
        client.post("/v1/messages", json=body, headers={"x-project-id": "proj_bot"}).raise_for_status()
        figures = client.get("/v1/analytics", params={"days": 7}).raise_for_status().json()
    providers = ", ".join(f"{name} {counts['requests']}" for name, counts in figures["providers"].items())
    return f"{figures['total_requests']} requests, success rate {figures['success_rate']}, providers: {providers}"


if __name__ == "__main__":
    run("ai_gateway", serving, visit)
