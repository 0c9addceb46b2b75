"""A recorder with a ledger, a provider on loopback, and the official clients that talk to it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from tests.llm.provider import Provider
from tests.support.capture import Capture, capturing
from usagekit import set_default_recorder
from usagekit.llm import clients

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Talk to loopback directly, and remember nothing of another test's server."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    clients.refusing.clear()
    clients.taking.clear()
    monkeypatch.setattr("usagekit._guard.reraise", True)


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[Capture]:
    """Record into a ledger by the default recorder, with the dimension `project`."""
    with capturing(tmp_path / "usage.db", dimensions=["project"]) as capture:
        set_default_recorder(capture.recorder)
        yield capture
    set_default_recorder(None)


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Run a provider on loopback."""
    with Provider() as provider:
        yield provider


@pytest.fixture
def client(provider: Provider) -> Iterator[openai.OpenAI]:
    """Make OpenAI's client."""
    with openai.OpenAI(api_key="sk-secret", base_url=f"{provider.url}/v1", max_retries=1) as client:
        yield client


@pytest.fixture
def claude(provider: Provider) -> Iterator[anthropic.Anthropic]:
    """Make Anthropic's client."""
    with anthropic.Anthropic(api_key="sk-secret", base_url=provider.url, max_retries=0) as client:
        yield client


def openai_async(provider: Provider) -> openai.AsyncOpenAI:
    """Make OpenAI's asynchronous client, in the loop that is to use it."""
    return openai.AsyncOpenAI(api_key="sk-secret", base_url=f"{provider.url}/v1", max_retries=0)


def anthropic_async(provider: Provider) -> anthropic.AsyncAnthropic:
    """Make Anthropic's asynchronous client."""
    return anthropic.AsyncAnthropic(api_key="sk-secret", base_url=provider.url, max_retries=0)


FIELDS = (
    "status",
    "provider",
    "model",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_source",
    "aborted",
)


def told(event: Any) -> dict[str, Any]:
    """Give what an event tells of a call, without what is 0, empty or false."""
    return {name: value for name in FIELDS if (value := getattr(event, name)) not in {0, ""}}
