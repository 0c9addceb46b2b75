"""Answers as text: JSON, JSONEachRow and TabSeparated."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from usagekit.backends.analytics_engine.sql.scalars import float_text, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["CONTENT_TYPES", "rendered", "value_of", "values"]

Columns = list[tuple[str, str]]
Rows = list[tuple[Any, ...]]

_UNIT = {"\b": "\\b", "\f": "\\f", "\r": "\\r", "\n": "\\n", "\t": "\\t", "\0": "\\0", "'": "\\'", "\\": "\\\\"}
_TAB_ESCAPES = str.maketrans(_UNIT)


def value_of(value: Any, kind: str) -> Any:
    """Give a value of SQLite as JSON holds it: 64-bit integers as strings, NaN and infinities as None."""
    if kind.startswith("Array("):
        return [value_of(one, kind[len("Array(") : -1]) for one in json.loads(value)]
    if kind == "Float64":
        number = math.nan if value is None else float(value)
        if not math.isfinite(number):
            return None
        return int(number) if number.is_integer() and abs(number) < 2**63 else number
    if kind == "Bool":
        return bool(value)
    if kind == "String" or value is None:
        return value
    return text_of(value, kind) if "64" in kind or kind.startswith("Date") else int(value)


def _json(columns: Columns, rows: Rows) -> str:
    names = [name for name, _ in columns]
    answer = {
        "meta": [{"name": name, "type": kind} for name, kind in columns],
        "data": [dict(zip(names, row, strict=True)) for row in values(columns, rows)],
        "rows": len(rows),
    }
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")) + "\n"


def _json_each_row(columns: Columns, rows: Rows) -> str:
    names = [name for name, _ in columns]
    lines = [
        json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, separators=(",", ":"))
        for row in values(columns, rows)
    ]
    return "".join(f"{line}\n" for line in lines)


def values(columns: Columns, rows: Rows) -> list[list[Any]]:
    """Give the rows as JSON holds them."""
    kinds = [kind for _, kind in columns]
    return [[value_of(value, kind) for value, kind in zip(row, kinds, strict=True)] for row in rows]


def _tab_separated(columns: Columns, rows: Rows) -> str:
    kinds = [kind for _, kind in columns]
    return "".join("\t".join(_cell(value, kind) for value, kind in zip(row, kinds, strict=True)) + "\n" for row in rows)


def _cell(value: Any, kind: str) -> str:
    if kind.startswith("Array("):
        inner = kind[len("Array(") : -1]
        return f"[{','.join(_element(one, inner) for one in json.loads(value))}]"
    if kind == "String":
        return str(value).translate(_TAB_ESCAPES)
    return text_of(value, kind)


def _element(value: Any, kind: str) -> str:
    if kind == "Float64":
        return float_text(math.nan if value is None else float(value))
    return f"'{_cell(value, kind)}'" if kind == "String" or kind.startswith("Date") else _cell(value, kind)


_RENDERERS: dict[str, Callable[[Columns, Rows], str]] = {
    "JSON": _json,
    "JSONEachRow": _json_each_row,
    "TabSeparated": _tab_separated,
}
CONTENT_TYPES = {
    "JSON": "application/json",
    "JSONEachRow": "application/x-ndjson",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
}


def rendered(form: str, columns: Columns, rows: Sequence[tuple[Any, ...]]) -> str:
    """Give an answer in one of the three formats."""
    return _RENDERERS[form](columns, list(rows))
