"""A ledger with the corpus's events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.backends.analytics_engine.corpus import events
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus's events, imported."""
    path = tmp_path_factory.mktemp("corpus") / "usage.db"
    with Recorder(SQLiteBackend(path), dimensions=["plan"]) as recorder:
        for event in events():
            assert recorder.record(event)
    return path
