"""What the tests of the store share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from usagekit import _guard

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _mistakes_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what the guard would only count fail the test."""
    monkeypatch.setattr(_guard, "reraise", True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger of a test lies."""
    return tmp_path / "usage.db"
