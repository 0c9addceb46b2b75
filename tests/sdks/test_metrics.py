"""What `OpenTelemetryBackend` reports beside real instrumentations that report the GenAI metrics of real SDKs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.sdks.instrumented import EACH, instrumented
from tests.support.stores import eventually
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from tests.support.meters import Meters
    from usagekit.testing import ProviderServer

CALLS = 3
DURATION, TOKENS = "gen_ai.client.operation.duration", "gen_ai.client.token.usage"


@pytest.fixture
def meters() -> Meters:
    """A provider in memory, which the app and the instrumentation share."""
    from tests.support.meters import Meters  # its SDK is not in the environment of LiteLLM

    return Meters()


@pytest.mark.parametrize("instrumentation", EACH)
@pytest.mark.parametrize("gen_ai", ["auto", "shipped"])
def test_calls_that_an_instrumentation_reports_are_not_reported_again(
    instrumentation: str, gen_ai: Any, meters: Meters, server: ProviderServer, runner: asyncio.Runner, tmp_path: Path
) -> None:
    """By default each call is in the GenAI metrics once, and in ours; switched on, both report it."""
    from usagekit.backends.opentelemetry import OpenTelemetryBackend

    backend = OpenTelemetryBackend(meter_provider=meters.provider, gen_ai=gen_ai)
    with (
        instrumented(instrumentation, server, runner, meter_provider=meters.provider) as driver,
        Recorder(SQLiteBackend(tmp_path / "usage.db"), backend) as recorder,
    ):
        ask = recorder.track_tokens(driver.ask)
        for _ in range(CALLS):
            ask()
        assert recorder.flush()
        assert eventually(lambda: recorder.status()["sinks"]["opentelemetry"]["delivered"] == CALLS)

    durations, tokens = meters.counts(DURATION), meters.counts(TOKENS)
    own = (durations.pop("usagekit", 0), tokens.pop("usagekit", 0))
    assert own == ((0, 0) if gen_ai == "auto" else (CALLS, 2 * CALLS))
    assert list(durations.values()) == [CALLS]
    assert set(tokens.values()) <= {2 * CALLS}  # one of them reports no tokens
    assert "usagekit.input_tokens" in meters.names()
