"""The page about frameworks and servers says what the tests say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.matrix import PAGE, cells_of, collected, page

if TYPE_CHECKING:
    import pytest


def test_the_page_says_what_the_tests_claim(request: pytest.FixtureRequest) -> None:
    """docs/frameworks.md holds every cell, and where the whole suite was collected, no other: else `make matrix`."""
    cells, is_whole = collected(request.config)

    text = PAGE.read_text("utf-8")

    assert cells.items() <= cells_of(text).items()
    assert not is_whole or text == page(cells)
