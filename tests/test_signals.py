"""What receivers are told, and on which thread."""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stores import eventually
from usagekit import Recorder, UsageEvent, signals
from usagekit._store import delivery as deliveries
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Faltering:
    """A sink that fails at first, and says on which threads it was written to."""

    max_batch = 10
    name = "faltering"

    def __init__(self) -> None:
        self.threads: list[int] = []

    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        """Take all but the first attempt."""
        self.threads.append(get_ident())
        if len(self.threads) == 1:
            raise ConnectionError("not yet")

    def close(self) -> None:
        """Do nothing."""


def test_each_signal_has_its_sender_arguments_and_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All come from the recorder: what is recorded on the caller's thread, what is delivered on the sink's."""
    monkeypatch.setattr(deliveries, "FIRST_WAIT", 0.001)
    told: dict[str, tuple[object, dict[str, Any], int]] = {}

    def receiver(name: str) -> Any:
        return lambda sender, **arguments: told.setdefault(name, (sender, arguments, get_ident()))

    sink, receivers = Faltering(), {name: receiver(name) for name in signals.__all__}
    for name, one in receivers.items():
        getattr(signals, name).connect(one)
    with Recorder(SQLiteBackend(path), sink) as recorder:
        recorder.track("export", user="ann")
        assert eventually(lambda: "batch_delivered" in told)
    recorder.track("late")

    assert {sender for sender, _, _ in told.values()} == {recorder}
    event = told["event_recorded"][1].pop("event")
    assert (type(event), event.event, event.user, bool(event.id)) == (UsageEvent, "export", "ann", True)
    error = told["delivery_failed"][1].pop("error")
    assert (type(error), str(error)) == (ConnectionError, "not yet")
    assert {name: arguments for name, (_, arguments, _) in told.items()} == {
        "event_recorded": {},
        "delivery_failed": {"sink": "faltering"},
        "batch_delivered": {"sink": "faltering", "count": 1},
        "event_rejected": {"reason": "closed"},
    }
    here, there = get_ident(), sink.threads[0]
    assert set(sink.threads) == {there} != {here}
    assert {name: thread for name, (_, _, thread) in told.items()} == {
        "event_recorded": here,
        "delivery_failed": there,
        "batch_delivered": there,
        "event_rejected": here,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger lies."""
    return tmp_path / "usage.db"
