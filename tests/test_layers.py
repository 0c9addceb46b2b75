from __future__ import annotations

import ast
import gc
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).resolve().parent.parent / "src" / "usagekit"

LAYERS = (
    {"__init__"},  # loads what it names when it is first asked for
    {"errors", "_loading", "_speedups"},
    {"_clean", "_environment", "_options"},
    {"_guard"},
    {"event"},
    {"context", "request", "processors", "selection"},
    {"query", "signals"},
    {"_store"},
    {"_intake", "_reading"},
    {"backends", "_backfill"},
    {"recorder"},
    {"_template", "_quart", "llm"},
    {"_asgi", "wsgi"},
    {"asgi"},
    {"admin", "opentelemetry"},
    {"flask", "django"},
    {"cli", "testing"},
    {"__main__"},
)
"""Who may import whom while being imported: each layer those before it. In functions anything may be imported."""


def test_imports_point_one_way() -> None:
    """No module imports one of a later layer, or a neighbour in its own, when it is loaded."""
    gc.collect()  # in CPython 3.11 ast.parse fails where garbage is freed within it whose callbacks raise
    rank = {room: number for number, layer in enumerate(LAYERS) for room in layer}

    wrong = [
        f"{room} imports {imported}"
        for path in SOURCE.rglob("*.py")
        for room in [path.relative_to(SOURCE).with_suffix("").parts[0]]
        for imported in imports_of(path)
        if imported != room and rank[imported] >= rank[room]
    ]

    assert wrong == []


def imports_of(path: Path) -> Iterator[str]:
    """Give the rooms of usagekit that a module imports while it is loaded."""
    for node in loaded(ast.parse(path.read_text()).body):
        if isinstance(node, ast.ImportFrom) and node.module == "usagekit":
            for name in node.names:
                is_module = (SOURCE / name.name).is_dir() or (SOURCE / f"{name.name}.py").is_file()
                yield name.name if is_module else "__init__"
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("usagekit."):
            yield node.module.split(".")[1]


def loaded(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Give the statements that run at import, those for type checkers left out."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from loaded(getattr(node, "body", []))
