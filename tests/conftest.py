"""What holds for every test."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest

from tests.support import matrix
from tests.support.matrix import pytest_addoption  # noqa: F401  hooks are found by name

if TYPE_CHECKING:
    from collections.abc import Generator

REQUIRE_ALL = os.environ.get("USAGEKIT_REQUIRE_ALL") == "1"
LONGEST = ("tests/worker/", "tests/faults/", "tests/browser/", "tests/servers/")  # with tests of many seconds


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process is left alone with it at the end."""
    matrix.pytest_collection_modifyitems(config, items)
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a skip a failure where nothing may be missing, as in CI; an expected failure stays one."""
    if not (REQUIRE_ALL and report.skipped) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    report.outcome = "failed"
    report.longrepr = f"skipped although USAGEKIT_REQUIRE_ALL=1: {reason.removeprefix('Skipped: ')}"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while modules are loaded, nor later among what they hold: it took a fifth of all the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Refuse a test that skips itself."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Refuse a module that skips itself, as `pytest.importorskip` does."""
    report = yield
    _refuse_skip(report)
    return report
