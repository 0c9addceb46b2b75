"""The small tables: what matters most of each dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from usagekit.admin.reading import ADDITIVE, Reading, Row, share
from usagekit.admin.wording import measure_name

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Panel", "breakdowns"]

PANEL_ROWS = 8
_SMALL = ("route", "model", "provider", "status")  # few values: all of their groups are one answer
_SHAPES = ("event", *_SMALL)
_MEASURES = {"route": ("events", "failed"), "status": ("events",)}
_OTHER_MEASURES = ("events", "total_tokens", "cost_usd")


class Panel(NamedTuple):
    """A breakdown by one dimension; `rows` is None where there was no time for it, `more` leads to all rows."""

    title: str
    measures: list[str]
    rows: list[Row] | None
    more: str
    csv: str


def breakdowns(reading: Reading, dimensions: Iterable[str]) -> list[Panel]:
    """Give a panel for org, route, model, provider, status and each of the app's dimensions that has values."""
    shapes = reading.read("the breakdowns by route, model, provider and status", _SHAPES, ADDITIVE)
    panels = []
    for dimension in ("org", *_SMALL, *dimensions):
        if len(reading.state.where.get(dimension, ())) == 1:
            continue  # it would have one row
        if dimension not in _SMALL:
            panels.append(_large_panel(reading, dimension))
        else:
            rows = None if shapes is None else _added_up(shapes.rows, dimension)
            panels.append(_panel(reading, dimension, rows, len(rows or ())))
    return [panel for panel in panels if panel.rows is None or panel.rows]


def _large_panel(reading: Reading, dimension: str) -> Panel:
    """Give the panel of a dimension that may have any number of values."""
    title = f"the breakdown by {dimension}"
    report = reading.read(title, (dimension,), _OTHER_MEASURES, limit=PANEL_ROWS, order="-events")
    if report is None:
        return _panel(reading, dimension, None, 0)
    return _panel(reading, dimension, report.rows, report.groups)


def _panel(reading: Reading, dimension: str, rows: list[dict[str, Any]] | None, number: int) -> Panel:
    measures = _MEASURES.get(dimension, _OTHER_MEASURES)
    state = reading.state
    return Panel(
        title=dimension.replace("_", " ").capitalize(),
        measures=["Failed" if name == "failed" else measure_name(name) for name in measures],
        rows=None if rows is None else _rows(reading, dimension, rows, measures),
        more=state.link(by=dimension, order="-events") + "#table" if number > PANEL_ROWS else "",
        csv=state.api((dimension,), measures, "-events"),
    )


def _rows(reading: Reading, dimension: str, rows: list[dict[str, Any]], measures: Iterable[str]) -> list[Row]:
    if all(row[dimension] == "" for row in rows):
        return []  # nobody uses this dimension
    largest = max(row["events"] for row in rows)
    names = reading.names(dimension, [row[dimension] for row in rows[:PANEL_ROWS]])
    return [
        Row(
            reading.head(dimension, row[dimension], names),
            share(row["events"], largest),
            [reading.cell(name, row[name]) for name in measures],
        )
        for row in rows[:PANEL_ROWS]
    ]


def _added_up(rows: list[dict[str, Any]], dimension: str) -> list[dict[str, Any]]:
    """Give the sums for each value of a dimension, most events first; for models, of model calls alone."""
    sums: dict[Any, dict[str, Any]] = {}
    for row in rows:
        if dimension in {"provider", "model"} and not row["provider"] and not row["model"]:
            continue
        entry = sums.setdefault(row[dimension], {dimension: row[dimension]} | dict.fromkeys(ADDITIVE))
        for name in ADDITIVE:
            if row[name] is not None:
                entry[name] = row[name] + (entry[name] or 0)
    return sorted(sums.values(), key=lambda entry: (-entry["events"], str(entry[dimension])))
