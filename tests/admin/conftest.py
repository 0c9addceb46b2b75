"""A ledger with known events, and the endpoint over it in each shell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.admin.shells import SHELLS, TOKEN
from usagekit import Recorder, UsageEvent, _guard, set_default_recorder
from usagekit.admin import BearerAuth, questions
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = datetime.now(UTC).replace(microsecond=0)


def events() -> list[UsageEvent]:
    """Give the events: two customers, an unknown visitor, one model call without a price."""
    hour = timedelta(hours=1)
    request: dict[str, Any] = {"kind": "request", "event": "request", "latency_ms": 12.0}
    call: dict[str, Any] = {"kind": "llm", "event": "chat", "status": 200, "provider": "openai", "model": "gpt-5-mini"}
    ann: dict[str, Any] = {"user": "ann", "org": "acme"}
    bob: dict[str, Any] = {"user": "bob", "org": "globex"}
    return [
        *(UsageEvent(time=NOW - hour, status=200, route="GET /items", **request, **ann) for _ in range(3)),
        UsageEvent(time=NOW - 30 * hour, status=404, route="GET /items/{id}", **request, **ann),
        UsageEvent(time=NOW - 2 * hour, status=200, route="GET /items", **request, **bob),
        UsageEvent(time=NOW - hour, status=500, route="GET (unmatched)", **request),
        UsageEvent(
            time=NOW - hour,
            input_tokens=1000,
            output_tokens=200,
            cost_usd=Decimal("0.0015"),
            cost_source="priced",
            attributes={"plan": "pro"},
            **call,
            **ann,
        ),
        UsageEvent(time=NOW - hour, input_tokens=10, output_tokens=5, cost_source="unpriced", **call, **bob),
        UsageEvent(time=NOW - hour, kind="named", event="sync", **bob),
    ]


@pytest.fixture(autouse=True)
def _reraise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Show a mistake of ours at once, give a busy machine time, and leave no default recorder behind."""
    monkeypatch.setattr(_guard, "reraise", True)
    monkeypatch.setattr(questions, "SECONDS", 60.0)
    yield
    set_default_recorder(None)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    """Give a recorder that has recorded the events; tests only read it."""
    path: Path = tmp_path_factory.mktemp("admin") / "usage.db"
    with Recorder(SQLiteBackend(path), dimensions=["plan"]) as recorder:
        for event in events():
            assert recorder.record(event)
        assert recorder.flush()
        yield recorder


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Give each way to mount the endpoint."""
    return SHELLS[request.param]


@pytest.fixture
def app(shell: Callable[..., Any], recorded: Recorder) -> Any:
    """Give the endpoint over the events, in each shell, for who has the token."""
    return shell(recorded, auth=BearerAuth(TOKEN))
