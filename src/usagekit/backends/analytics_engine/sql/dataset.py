"""A dataset: the ledger's events as the columns of a table of Analytics Engine, through a `Layout`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from usagekit._store.schema import BLOCK_SHIFT
from usagekit.backends.analytics_engine.layout import INDEX_BYTES, LAYOUT_VERSION, SLOTS
from usagekit.backends.analytics_engine.sql.functions import quoted

if TYPE_CHECKING:
    from collections.abc import Collection

    from usagekit.backends.analytics_engine.layout import Layout

__all__ = ["COLUMNS", "source"]

COLUMNS = {
    "dataset": "String",
    "timestamp": "DateTime",
    "_sample_interval": "UInt32",
    "index1": "String",
    **{f"blob{n}": "String" for n in range(1, SLOTS + 1)},
    **{f"double{n}": "Float64" for n in range(1, SLOTS + 1)},
}
"""The columns of every table and their types."""

_FROM = f"""
FROM events e
JOIN blocks b ON b.block = e.seq >> {BLOCK_SHIFT}
JOIN shapes s ON s.id = e.shape
JOIN subjects p ON p.id = e.subject
JOIN extras x ON x.id = p.extra
"""

_TIME_US = "(b.base_us + e.offset_us)"
_STATUS_CLASS = "CASE WHEN s.status = 0 THEN 'none' ELSE (s.status / 100) || 'xx' END"
_OUTPUT = "CASE WHEN s.kind = 'llm' THEN e.output ELSE x.other_output END"

_ID = """(SELECT j.name || '-' || (r.first_number + e.seq - r.first_seq) FROM runs r JOIN journals j ON j.id = r.journal
WHERE r.first_seq = (SELECT max(first_seq) FROM runs WHERE first_seq <= e.seq))"""

_TEXTS = {
    "id": _ID,
    "kind": "s.kind",
    "event": "s.event",
    # Names that begin with a NUL are of those who were erased, and so of nobody.
    "user": "(SELECT iif(instr(CAST(name AS BLOB), x'00') = 1, '', name) FROM users WHERE id = p.user)",
    "org": "(SELECT name FROM orgs WHERE id = p.org)",
    "route": "s.route",
    "provider": "s.provider",
    "model": "s.model",
    "cost_source": "s.cost_source",
    "status": "CAST(s.status AS TEXT)",
    "status_class": _STATUS_CLASS,
    "aborted": "CASE WHEN s.aborted THEN 'true' ELSE 'false' END",
    "time": f"strftime('%Y-%m-%d %H:%M:%S', {_TIME_US} / 1000000, 'unixepoch')",
}
"""The texts of a layout, as the ledger has them."""

_NUMBERS = {
    "time": f"{_TIME_US} / 1e6",
    "weight": "x.weight",
    "latency_ms": "coalesce(e.latency_us, 0) / 1e3",
    "first_token_ms": "coalesce(max(coalesce(e.latency_us, 0) - e.tail_us, 0), 0) / 1e3",
    "input_tokens": "e.input",
    "output_tokens": _OUTPUT,
    "total_tokens": f"e.input + {_OUTPUT}",
    "cache_read_tokens": "e.cache_read",
    "cache_write_tokens": "e.cache_write",
    "reasoning_tokens": "e.reasoning",
    "cost_usd": "coalesce(e.cost_nano, 0) / 1e9",
    "response_bytes": "CASE WHEN s.kind = 'llm' THEN x.other_output ELSE e.output END",
    "quantity": "x.quantity / 1e6",
    "status": "s.status",
    "aborted": "s.aborted",
    "latency_known": "e.latency_us IS NOT NULL",
    "first_token_known": "e.tail_us IS NOT NULL",
    "version": str(LAYOUT_VERSION),
}
"""The numbers of a layout, as the ledger has them."""

_FILTERS = {"status": "s.status", "aborted": "s.aborted"}


def source(name: str, layout: Layout, used: Collection[str], values: dict[str, Any]) -> str:
    """Give the SELECT of a dataset's used columns; what it binds is put into `values`."""
    columns = [f'{_expression(column, name, layout)} AS "{column}"' for column in COLUMNS if column in used]
    conditions = [_filter(field, allowed, values) for field, allowed in (layout.where or {}).items()]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {', '.join(columns) or '1'}{_FROM}{where}"


def _expression(column: str, dataset: str, layout: Layout) -> str:
    if column == "dataset":
        return quoted(dataset)
    if column == "timestamp":
        return f"{_TIME_US} / 1000000"
    if column == "_sample_interval":
        return "1" if layout.double("weight") else "x.weight"
    field = layout.columns.get(column)
    if column.startswith("double"):
        return "0.0" if field is None else f"CAST({_NUMBERS[field]} AS REAL)"
    if column == layout.spill and layout.index is not None:
        return _long(layout.index, _text(layout.index), "''")
    if field is None:
        return "''"
    return _long(field, f"index_of({_text(field)})", _text(field)) if column == "index1" else _text(field)


def _long(field: str, then: str, otherwise: str) -> str:
    return f"CASE WHEN length(CAST({_text(field)} AS BLOB)) > {INDEX_BYTES} THEN {then} ELSE {otherwise} END"


def _text(field: str) -> str:
    return _TEXTS.get(field) or f"""coalesce(json_extract(x.attributes, '$."{field}"'), '')"""


def _filter(field: str, allowed: Any, values: dict[str, Any]) -> str:
    name = f"where{len(values)}"
    values[name] = json.dumps(list(allowed))
    return f"{_FILTERS.get(field) or _text(field)} IN (SELECT value FROM json_each(:{name}))"
