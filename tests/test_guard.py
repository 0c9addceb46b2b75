"""The guard itself never fails."""

from __future__ import annotations

import logging

from usagekit._guard import Guard


class Unspeakable(Exception):  # noqa: N818  it is what it is
    """An exception without words."""

    def __str__(self) -> str:
        raise RuntimeError


class Broken(logging.Filter):
    """A host's filter that raises."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise OSError("no space left on device")


def test_what_cannot_be_logged_is_counted() -> None:
    """Whether the text or the host's logging is to blame."""
    guard = Guard()
    logger, broken = logging.getLogger("usagekit"), Broken()

    guard.noted("text", Unspeakable())
    logger.addFilter(broken)
    try:
        guard.noted("filter", "a message")
    finally:
        logger.removeFilter(broken)

    assert guard.counts() == {"text": 1, "filter": 1, "log": 2}
