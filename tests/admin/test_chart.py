"""What the chart says in words, beside what it draws."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from usagekit.admin.chart import OTHER, chart

HOURS = ["2026-10-25T00:00+02:00", "2026-10-25T01:00+02:00", "2026-10-25T02:00+02:00"]


def row(hour: str, event: str, cost: Decimal | None) -> dict[str, Any]:
    """Give a row of a report."""
    return {"hour": hour, "event": event, "cost_usd": cost}


def test_a_cost_that_is_not_known_is_not_nothing() -> None:
    """Only hours without any call cost nothing for sure."""
    rows = [
        row(HOURS[0], "llm", None),
        row(HOURS[1], "llm", Decimal("1.5")),
        row(HOURS[1], "embed", None),
        row(HOURS[1], "rerank", Decimal(2)),
    ]

    found = chart("hour", HOURS, rows, "cost_usd", ["llm"])

    assert found.series == ["llm", OTHER]
    assert [bar.values[1:] for bar in found.bars] == [["\u2013", "$0.00"], ["$1.50", "$2.00"], ["$0.00", "$0.00"]]
    assert [bar.title.partition(": ")[2] for bar in found.bars] == [
        "\u2013\nllm \u2013",
        "$3.50\nllm $1.50\n(other) $2.00",
        "$0.00",
    ]
