"""Which SDKs are driven: those that `USAGEKIT_SDKS` names, which must be there; else those that are installed."""

from __future__ import annotations

import asyncio
import importlib
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

import pytest

from tests.sdks.drivers import INSTRUMENTATIONS, MODULES
from usagekit import Recorder, _guard
from usagekit.backends.memory import MemoryBackend
from usagekit.testing import ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sdks.drivers import Driver

_TOP_LEVEL = {
    **INSTRUMENTATIONS,
    "google-genai": "google.genai",
    "langchain-anthropic": "langchain_anthropic",
    "langchain-openai": "langchain_openai",
    "pydantic-ai-slim": "pydantic_ai",
}


def _is_installed(name: str) -> bool:
    try:
        return find_spec(_TOP_LEVEL.get(name, name)) is not None
    except ModuleNotFoundError:
        return False


@pytest.hookimpl(trylast=True)  # the table of docs/sdks.md has all of them
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take away the tests of SDKs that are tested in an environment of their own."""
    named = os.environ.get("USAGEKIT_SDKS", "").split()
    wanted = named or [name for name in (*MODULES, *INSTRUMENTATIONS) if _is_installed(name)]
    others = [item for item in items if getattr(item, "callspec", None) and _sdk_of(item) not in {None, *wanted}]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


def _sdk_of(item: pytest.Item) -> str | None:
    params = cast("pytest.Function", item).callspec.params
    return cast("str | None", params.get("instrumentation", params.get("driver")))


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _mistakes_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_guard, "reraise", True)


@pytest.fixture
def server() -> Iterator[ProviderServer]:
    """Model providers on this machine."""
    with ProviderServer() as server:
        yield server


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """The event loop of a test; what an SDK opens in it is closed in it."""
    with asyncio.Runner() as runner:
        runner.run(asyncio.sleep(0))  # from here on it is the thread's own, which blocking SDKs may use too
        yield runner


@pytest.fixture
def driver(request: pytest.FixtureRequest, server: ProviderServer, runner: asyncio.Runner) -> Iterator[Driver]:
    """The client of the SDK that is named."""
    module = importlib.import_module(f"tests.sdks.drivers.{MODULES[request.param]}")
    driver: Driver = module.Driver(server)
    yield driver
    runner.run(driver.close())


@pytest.fixture
def backend() -> MemoryBackend:
    """Where events end."""
    return MemoryBackend()


@pytest.fixture
def recorder(backend: MemoryBackend) -> Iterator[Recorder]:
    """A recorder into memory."""
    with Recorder(backend, durability="memory") as recorder:
        yield recorder
