"""The large table: a row for each value of one dimension, a column for each event type."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from usagekit.admin.questions import ROWS
from usagekit.admin.reading import Cell, Link, Reading, Row, share
from usagekit.admin.wording import count, counted, measure_name

if TYPE_CHECKING:
    from usagekit.query import UsageReport

__all__ = ["Column", "Table", "table"]

PAGE_ROWS = 20
_EVENT_COLUMNS = 6
_EVENT = "event:"  # before an event type, in `State.order`
_TIMED = frozenset({"route", "provider", "model", "event"})  # where latencies are comparable


class Column(NamedTuple):
    """A column: its title, the link that sorts by it, how it is sorted now (`""`, `ascending`, `descending`)."""

    title: str
    href: str = ""
    sorting: str = ""


class Table(NamedTuple):
    """The table; `about` says which rows of how many these are."""

    head: Column
    columns: list[Column]
    rows: list[Row]
    total: list[Cell]
    about: str
    earlier: str | None
    later: str | None
    csv: list[Link]


def table(reading: Reading) -> Table | None:
    """Give the table of `state.by`; None where there was no time for it."""
    return _Table(reading).build()


class _Table:
    """The table while it is read."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._state = state = reading.state
        self._title = f"the table by {state.by}"
        self._measures = [
            "events",
            *([] if state.by == "user" else ["users"]),
            "success_rate",
            "total_tokens",
            "cost_usd",
            *(["latency_ms_p95"] if state.by in _TIMED else []),
            "last_seen",
        ]
        self._asked = [*self._measures, *(["users"] if state.by == "user" else [])]  # their number is a card
        self._columns = [] if state.by == "event" else reading.events[:_EVENT_COLUMNS]
        self._events: dict[Any, dict[str, int]] = {}  # by row and event type

    def build(self) -> Table | None:
        report = self._ranked()
        if report is None:
            return None
        state = self._state
        first = (state.page - 1) * PAGE_ROWS
        rows = report.rows[first : first + PAGE_ROWS]
        self._read_events([row[state.by] for row in rows])
        names = self._reading.names(state.by, [row[state.by] for row in rows])
        largest = max((row["events"] for row in report.rows), default=0)
        is_last = first + PAGE_ROWS >= min(report.groups, ROWS)
        return Table(
            head=self._column(state.by.replace("_", " ").capitalize(), state.by, is_name=True),
            columns=self._titles(),
            rows=[
                Row(
                    self._reading.head(state.by, row[state.by], names),
                    share(row["events"], largest),
                    self._cells(row, self._events.get(row[state.by], {})),
                )
                for row in rows
            ],
            total=self._cells(report.totals, self._all_events()),
            about=_about(first, len(rows), report.groups),
            earlier=state.link(page=state.page - 1) if state.page > 1 else None,
            later=None if is_last else state.link(page=state.page + 1),
            csv=self._csv(),
        )

    def _ranked(self) -> UsageReport | None:
        """Give the rows up to the present page, in the order that was asked for."""
        read, state, by = self._reading.read, self._state, (self._state.by,)
        limit = min(ROWS, state.page * PAGE_ROWS)
        sign, event = "-" * state.order.startswith("-"), state.order.removeprefix("-").removeprefix(_EVENT)
        if _EVENT not in state.order or event not in self._reading.events:
            order = "-events" if _EVENT in state.order else state.order
            return read(self._title, by, self._asked, order=order, limit=limit)
        ranks = read(self._title, by, ("events",), order=f"{sign}events", limit=limit, where={"event": (event,)})
        keys = [row[state.by] for row in ranks.rows] if ranks else []
        report = read(self._title, by, self._measures, where={state.by: keys})
        whole = read(self._title, (), self._asked)
        if ranks is None or report is None or whole is None:
            return None
        rows = {row[state.by]: row for row in report.rows}
        found = [rows[key] for key in keys if key in rows]
        return replace(report, rows=found, groups=ranks.groups, totals=whole.totals)

    def _read_events(self, keys: list[Any]) -> None:
        """Read how many events of each type the rows have."""
        if not self._columns or not keys:
            return
        by = self._state.by
        report = self._reading.read("the columns of event types", (by, "event"), ("events",), where={by: keys})
        if report is None:
            self._columns = []
            return
        for row in report.rows:
            self._events.setdefault(row[by], {})[row["event"]] = row["events"]

    def _all_events(self) -> dict[str, int]:
        sums: dict[str, int] = {}
        for row in self._reading.by_time.rows if self._reading.by_time else ():
            sums[row["event"]] = sums.get(row["event"], 0) + row["events"]
        return sums

    @property
    def _has_others(self) -> bool:
        return bool(self._columns) and len(self._reading.events) > len(self._columns)

    def _titles(self) -> list[Column]:
        first, *rest = [self._column(measure_name(name), name) for name in self._measures]
        events = [self._column(name or "(none)", _EVENT + name) for name in self._columns]
        return [first, *events, *([Column("Other")] if self._has_others else []), *rest]

    def _cells(self, row: dict[str, Any], events: dict[str, int]) -> list[Cell]:
        first, *rest = [self._reading.cell(name, row[name]) for name in self._measures]
        others = sum(number for name, number in events.items() if name not in self._columns)
        return [
            first,
            *(Cell(count(events.get(name))) for name in self._columns),
            *([Cell(count(others or None))] if self._has_others else []),
            *rest,
        ]

    def _column(self, title: str, name: str, *, is_name: bool = False) -> Column:
        order = self._state.order
        sorting = "" if order.removeprefix("-") != name else "descending" if order.startswith("-") else "ascending"
        usual, other = (name, f"-{name}") if is_name else (f"-{name}", name)
        return Column(title, self._state.link(order=other if order == usual else usual), sorting)

    def _csv(self) -> list[Link]:
        state = self._state
        order = "" if _EVENT in state.order else state.order
        links = [Link("CSV", state.api((state.by,), self._measures, order))]
        if self._columns:
            links.append(Link("CSV by event type", state.api((state.by, "event"), self._measures)))
        return links


def _about(first: int, number: int, groups: int) -> str:
    if number == groups:
        return counted(groups, "row")
    beyond = f"; the first {ROWS:,} can be shown here" if groups > ROWS else ""
    return f"{first + 1:,} to {first + number:,} of {groups:,}{beyond}" if number else f"none of {groups:,}"
