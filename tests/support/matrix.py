"""Tables of what is tested with which framework, server and SDK: filled by the tests, written to docs.

A test claims a cell with `@matrix("FastAPI", "nested routers")`, or `pytest.param(..., marks=matrix(...))`;
`make matrix` writes the pages. Since the suite is green, what stands in them holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT = Path(__file__).parents[2]

Cells = dict[tuple[str, str], str]


@dataclass(frozen=True)
class Page:
    """One page of docs: its path, what it begins with, and its tables, each with its subjects in order."""

    path: Path
    head: str
    tables: Mapping[str, tuple[str, ...]]

    def holds(self, cells: Cells) -> Cells:
        """Give those of the cells whose subjects are on this page."""
        return {
            key: note for key, note in cells.items() if any(key[0] in subjects for subjects in self.tables.values())
        }


_FRAMEWORKS = {
    "Frameworks": ("FastAPI", "Starlette", "Litestar", "Quart", "any ASGI app"),
    "WSGI frameworks": ("Flask", "Django", "Falcon", "Bottle", "any WSGI app"),
    "Servers": ("uvicorn", "hypercorn", "granian", "gunicorn", "uWSGI", "waitress", "wsgiref"),
}
"""The subjects, in the order of their columns; add one here to have it in the table."""

_FRAMEWORKS_HEAD = """\
# Frameworks and servers

What is tested, each cell by a test with the real thing; `make matrix` writes this page from the tests.
Yes: it works as it is. Other words say what it takes. Empty: no test says anything.
"""

PAGE = ROOT / "docs" / "frameworks.md"
FRAMEWORKS = Page(PAGE, _FRAMEWORKS_HEAD, _FRAMEWORKS)

_SDKS = {
    "SDKs of providers": ("openai", "anthropic", "google-genai", "mistralai", "cohere", "groq", "ollama", "boto3"),
    "SDKs over SDKs": ("litellm", "langchain-openai", "langchain-anthropic", "pydantic-ai-slim"),
}


def _sdks_head() -> str:
    pins: dict[str, dict[str, None]] = {}
    for environment in ("sdks", "litellm"):
        text = (ROOT / f"requirements-{environment}.txt").read_text("utf-8")
        for name, version in re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE):
            pins.setdefault(name, {})[version] = None
    versions = [f"- {name} {' and '.join(pins[name])}" for subjects in _SDKS.values() for name in subjects]
    lines = "\n".join(versions)
    return f"""\
# SDKs

What `@track_tokens` is tested with, each cell by a test of the real SDK against
[`ProviderServer`](testing.md#providerserver); `make matrix` writes this page from the tests.
Yes: exactly one event, with the provider, the model, the status and all token counts the provider tells, and the caller
gets what it gets without usagekit. Other words say what is different. Empty: no test says anything.

Versions:

{lines}
"""


SDKS = Page(ROOT / "docs" / "sdks.md", _sdks_head(), _SDKS)
PAGES = (FRAMEWORKS, SDKS)

_KEY = pytest.StashKey[tuple[Cells, set[Path]]]()


def matrix(subject: str, behaviour: str, note: str = "yes") -> pytest.MarkDecorator:
    """Claim that `subject` shows `behaviour`; `note` says what it takes, where that is not nothing."""
    if not any(one.holds({(subject, behaviour): note}) for one in PAGES):
        raise ValueError(f"matrix: unknown subject {subject!r}; add it to the tables in {__name__}")
    return pytest.mark.matrix(subject, behaviour, note)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer what `make matrix` uses."""
    parser.addoption("--write-matrix", action="store_true", help="write the pages of docs from the tests' cells")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Read the cells before `-k` and `-m` take tests away."""
    cells = collected_cells(items)
    config.stash[_KEY] = cells, {item.path for item in items}
    if config.getoption("--write-matrix"):
        for one in PAGES:
            if one.holds(cells):
                one.path.write_text(page(cells, one), "utf-8")


def collected_cells(items: Iterable[pytest.Item]) -> Cells:
    """Give the cells that the tests claim; two that contradict each other are refused."""
    cells: Cells = {}
    for item in items:
        for mark in item.iter_markers("matrix"):
            subject, behaviour, note = mark.args
            if cells.setdefault((subject, behaviour), note) != note:
                raise pytest.UsageError(f"{item.nodeid}: {subject}, {behaviour} is {note!r} here, and not elsewhere")
    return cells


def page(cells: Cells, which: Page = FRAMEWORKS) -> str:
    """Give the whole text of a page."""
    parts = [which.head]
    for title, subjects in which.tables.items():
        known = [subject for subject in subjects if any(subject == owner for owner, _ in cells)]
        rows = sorted({behaviour for owner, behaviour in cells if owner in known}, key=str.casefold)
        if rows:
            lines = [["behaviour", *known], ["---"] * (len(known) + 1)]
            lines += [[row, *(cells.get((subject, row), "") for subject in known)] for row in rows]
            table = "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines)
            parts.append(f"## {title}\n\n{table}\n")
    return "\n".join(parts)


def collected(config: pytest.Config, which: Page = FRAMEWORKS) -> tuple[Cells, bool]:
    """Give a page's cells of this run, and whether every file that claims any was collected."""
    cells, files = config.stash[_KEY]
    tests = (ROOT / "tests").rglob("test_*.py")
    claiming = {path for path in tests if "tests.support.matrix import" in path.read_text("utf-8")}
    return which.holds(cells), claiming <= files


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
