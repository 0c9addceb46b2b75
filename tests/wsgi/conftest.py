"""What the tests of WSGI capture share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.capture import Capture, capturing
from usagekit import _guard, set_default_recorder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _reraise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Show a mistake of ours at once, and leave no default recorder behind."""
    monkeypatch.setattr(_guard, "reraise", True)
    yield
    set_default_recorder(None)


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[Capture]:
    """Give a recorder that knows the dimension `plan`."""
    with capturing(tmp_path / "usage.db", dimensions=["plan"]) as found:
        yield found


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the guard catch, as it does in an app: failures are the subject."""
    monkeypatch.setattr(_guard, "reraise", False)
