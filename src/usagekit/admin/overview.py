"""The upper part of the page: the numbers on top, and the chart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from usagekit.admin.chart import Chart, buckets_between, chart
from usagekit.admin.reading import ADDITIVE, Link, Reading
from usagekit.admin.state import PERIODS
from usagekit.admin.wording import UNKNOWN, count, milliseconds, money, percent, short
from usagekit.query.periods import time_zone

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Card", "cards", "chart_of"]

_SERIES = 7  # event types with a colour of their own
_RATES = ("users", "success_rate", "latency_ms_p95")
_COMPARED = ("events", "users", "total_tokens", "cost_usd", "latency_ms_p95")


class Card(NamedTuple):
    """One number, and what is to be said about it; None as `href` leads nowhere."""

    title: str
    value: str
    exact: str
    notes: list[Link]
    href: str | None = None
    is_shown: bool = False


def chart_of(reading: Reading) -> Chart | None:
    """Give the chart; None where there was no time for it."""
    if reading.by_time is None:
        return None
    state, rows = reading.state, reading.by_time.rows
    buckets = buckets_between(reading.bucket, reading.questions.start, reading.end, time_zone(state.tz))
    first = [row[reading.bucket] for row in rows[:1]]
    if state.range.keys() <= {"end"} and first and first[0] in buckets:
        buckets = buckets[buckets.index(first[0]) :]  # an open beginning is not to be empty
    shown = [name for name in reading.events if any(row["event"] == name and row[state.show] for row in rows)]
    series = shown if len(shown) <= _SERIES + 1 else shown[:_SERIES]
    return chart(reading.bucket, buckets, rows, state.show, series)


def cards(reading: Reading) -> list[Card]:
    """Give the cards; to be called last, since what they compare with is worth the least."""
    state = reading.state
    sums: Mapping[str, Any] = reading.by_time.totals if reading.by_time else dict.fromkeys(ADDITIVE)
    missing = [name for name in _RATES if name not in reading.totals]
    if missing:
        reading.read("active users, success rate and latency", (), missing)
    rates = dict.fromkeys(_RATES) | reading.totals
    before = _before(reading)
    changes = {name: _change((sums if name in sums else rates)[name], before.get(name)) for name in _COMPARED}
    notes = {name: [Link(change, "")] if change else [] for name, change in changes.items()}
    failed = [Link(f"{count(sums['failed'])} failed", "")] if sums["failed"] else []
    if sums["unpriced"]:
        notes["cost_usd"].append(Link(f"{count(sums['unpriced'])} unpriced", state.narrowed("cost_source", "unpriced")))
    rate, p95 = percent(rates["success_rate"]), milliseconds(rates["latency_ms_p95"])
    return [
        _charted(reading, "Events", "events", sums, notes),
        Card("Active users", short(rates["users"]), count(rates["users"]), notes["users"]),
        Card("Success rate", rate, rate, failed),
        _charted(reading, "Tokens", "total_tokens", sums, notes),
        _charted(reading, "Cost", "cost_usd", sums, notes),
        Card("p95 latency", p95, p95, notes["latency_ms_p95"]),
    ]


def _charted(
    reading: Reading, title: str, measure: str, sums: Mapping[str, Any], notes: Mapping[str, list[Link]]
) -> Card:
    """Give a card that the chart can show over time."""
    value, state = sums[measure], reading.state
    if measure == "cost_usd":
        text, exact = money(value), UNKNOWN if value is None else f"${value:,f}"
    else:
        text, exact = short(value), count(value)
    return Card(title, text, exact, notes[measure], state.link(show=measure), state.show == measure)


def _before(reading: Reading) -> Mapping[str, Any]:
    """Give the totals of the time before the range, where that makes a comparison; else nothing."""
    period = reading.state.range.get("period")
    if period is None or not reading.has_events:
        return {}
    title = f"the comparison with the previous {PERIODS.get(period, period)}"
    report = reading.read(title, (), _COMPARED, before=True)
    return report.totals if report and report.totals["events"] else {}


def _change(now: Any, before: Any) -> str:
    """Say by how much a number changed; `""` where there is nothing to compare."""
    if now is None or not before:
        return ""
    ratio = float(now) / float(before)
    if abs(ratio - 1) < 0.005:
        return "unchanged"
    arrow = "\N{UPWARDS ARROW}" if ratio > 1 else "\N{DOWNWARDS ARROW}"
    return f"{arrow}\N{NO-BREAK SPACE}{100 * abs(ratio - 1):,.0f}\N{NO-BREAK SPACE}%"
