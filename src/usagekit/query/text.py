"""Values as text: CSV that is safe to open in a spreadsheet, and what JSON has no form for."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import tzinfo

__all__ = ["csv_cell", "csv_lines", "json_value"]

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_lines(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Give CSV (RFC 4180) line by line: a header, and the values of `names` of each row.

    None is an empty cell, money plain decimal notation. A text that a spreadsheet would run as a formula (it starts
    with `=`, `+`, `-`, `@`, a tab or a line break) gets a `'` in front:
    https://owasp.org/www-community/attacks/CSV_Injection.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([csv_cell(name) for name in names])
    yield out.getvalue()
    for row in rows:
        out.seek(0)
        out.truncate()
        writer.writerow([csv_cell(row[name]) for name in names])
        yield out.getvalue()


def csv_cell(value: object) -> str:
    """Give one value as a cell of such CSV."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
    return repr(value) if isinstance(value, float) else str(value)


def json_value(value: object, zone: tzinfo) -> str:
    """Give money as a decimal string without exponent and a time as ISO 8601 in `zone`; raises TypeError for others."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.astimezone(zone).isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
