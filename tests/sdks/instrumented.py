"""Real instrumentations at work on the SDKs that they are for."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from tests.sdks.drivers import INSTRUMENTATIONS, MODULES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from tests.sdks.drivers import Driver
    from usagekit.testing import ProviderServer

_OWN_WARNINGS = {
    "opentelemetry-instrumentation-openai": [pytest.mark.filterwarnings("ignore:Support for class-based `config`")],
}

EACH = tuple(pytest.param(name, marks=_OWN_WARNINGS.get(name, ())) for name in INSTRUMENTATIONS)
"""Their names, as parameters of tests; what one warns of by itself is let pass."""


@contextmanager
def instrumented(name: str, server: ProviderServer, runner: asyncio.Runner, **providers: Any) -> Iterator[Driver]:
    """Instrument an SDK during a block, and give its client, which is made after that."""
    module = import_module(INSTRUMENTATIONS[name])
    (kind,) = (kind for kind in ("OpenAIInstrumentor", "AnthropicInstrumentor") if hasattr(module, kind))
    instrumentor = getattr(module, kind)()
    instrumentor.instrument(**providers)
    driver: Driver = import_module(f"tests.sdks.drivers.{MODULES[name.rpartition('-')[2]]}").Driver(server)
    try:
        yield driver
    finally:
        runner.run(driver.close())
        instrumentor.uninstrument()
