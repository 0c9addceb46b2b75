"""The table of what is tested with which framework and server: filled by the tests, written to docs/frameworks.md.

A test claims a cell with `@matrix("FastAPI", "nested routers")`, or
`pytest.param(..., marks=matrix(...))`.
`make matrix` writes the table. Since the suite is green, what stands in it holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "frameworks.md"

TABLES = {
    "Frameworks": ("FastAPI", "Starlette", "Litestar", "Quart", "any ASGI app"),
    "WSGI frameworks": ("Flask", "Django", "Falcon", "Bottle", "any WSGI app"),
    "Servers": ("uvicorn", "hypercorn", "granian", "gunicorn", "uWSGI", "waitress", "wsgiref"),
}
"""The subjects, in the order of their columns; add one here to have it in the table."""

HEAD = """\
# Frameworks and servers

What is tested, each cell by a test with the real thing; `make matrix` writes this page from the tests.
Yes: it works as it is. Other words say what it takes. Empty: no test says anything.
"""

Cells = dict[tuple[str, str], str]
_KEY = pytest.StashKey[tuple[Cells, set[Path]]]()


def matrix(subject: str, behaviour: str, note: str = "yes") -> pytest.MarkDecorator:
    """Claim that `subject` shows `behaviour`; `note` says what it takes, where that is not nothing."""
    if not any(subject in subjects for subjects in TABLES.values()):
        raise ValueError(f"matrix: unknown subject {subject!r}; add it to TABLES in {__name__}")
    return pytest.mark.matrix(subject, behaviour, note)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer what `make matrix` uses."""
    parser.addoption("--write-matrix", action="store_true", help="write docs/frameworks.md from the tests' cells")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Read the cells before `-k` and `-m` take tests away."""
    cells = collected_cells(items)
    config.stash[_KEY] = cells, {item.path for item in items}
    if config.getoption("--write-matrix"):
        PAGE.write_text(page(cells), "utf-8")


def collected_cells(items: Iterable[pytest.Item]) -> Cells:
    """Give the cells that the tests claim; two that contradict each other are refused."""
    cells: Cells = {}
    for item in items:
        for mark in item.iter_markers("matrix"):
            subject, behaviour, note = mark.args
            if cells.setdefault((subject, behaviour), note) != note:
                raise pytest.UsageError(f"{item.nodeid}: {subject}, {behaviour} is {note!r} here, and not elsewhere")
    return cells


def page(cells: Cells) -> str:
    """Give the whole page."""
    parts = [HEAD]
    for title, subjects in TABLES.items():
        known = [subject for subject in subjects if any(subject == owner for owner, _ in cells)]
        rows = sorted({behaviour for owner, behaviour in cells if owner in known}, key=str.casefold)
        if rows:
            lines = [["behaviour", *known], ["---"] * (len(known) + 1)]
            lines += [[row, *(cells.get((subject, row), "") for subject in known)] for row in rows]
            table = "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines)
            parts.append(f"## {title}\n\n{table}\n")
    return "\n".join(parts)


def collected(config: pytest.Config) -> tuple[Cells, bool]:
    """Give the cells of this run, and whether every file that claims any was collected."""
    cells, files = config.stash[_KEY]
    tests = (ROOT / "tests").rglob("test_*.py")
    claiming = {path for path in tests if "tests.support.matrix import" in path.read_text("utf-8")}
    return cells, claiming <= files


def cells_of(text: str) -> Cells:
    """Read the cells of a page back."""
    cells: Cells = {}
    subjects: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|") or line.startswith("| ---"):
            continue
        first, *others = [part.strip() for part in line.strip("|").split("|")]
        if first == "behaviour":
            subjects = others
        else:
            cells |= {(subject, first): note for subject, note in zip(subjects, others, strict=True) if note}
    return cells
