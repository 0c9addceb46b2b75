"""The backend passes the suites that usagekit has for every reader and every sink."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from usagekit_jsonl import JsonLinesBackend

from usagekit import Recorder, usage
from usagekit.testing import ReaderContract, SinkContract

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usagekit import UsageEvent


class TestReading(ReaderContract):
    @pytest.fixture(autouse=True)
    def _in_directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path
        self.made = 0

    def make_reader(self, events: list[UsageEvent]) -> JsonLinesBackend:
        self.made += 1
        backend = JsonLinesBackend(self.directory / f"{self.made}.jsonl")
        backend.declare(["project", "country"])
        backend.write(events, batch_id="1")
        return backend


class TestWriting(SinkContract):
    @pytest.fixture(autouse=True)
    def _in_directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path
        self.made = 0

    def make_sink(self) -> JsonLinesBackend:
        self.made += 1
        return JsonLinesBackend(self.directory / f"{self.made}.jsonl")

    def ids(self, sink: JsonLinesBackend) -> list[str]:  # type: ignore[override]
        return [event.id for event in sink.events()]

    @contextmanager
    def outage(self, sink: JsonLinesBackend) -> Iterator[None]:  # type: ignore[override]
        path, sink.path = sink.path, self.directory / "missing" / "events.jsonl"
        yield
        sink.path = path


def test_a_line_that_was_cut_short_was_not_written(tmp_path: Path) -> None:
    """The delivery sends that batch again; what came before and after stands."""
    path = tmp_path / "events.jsonl"
    path.write_text('{"batch": "torn", "events": [{"id": "x", "ti', encoding="utf-8")
    ledger = tmp_path / "spool.db"
    with Recorder(JsonLinesBackend(path), path=ledger) as recorder:
        assert recorder.track("export", user="ann")
        assert recorder.flush()
        while recorder.status()["sinks"]["jsonl"]["lag"]:
            assert recorder.flush()

        assert usage(recorder, by="user", measures="events").rows == [{"user": "ann", "events": 1}]
