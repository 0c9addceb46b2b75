"""Every documented statement, function and operator of Analytics Engine, beside what ClickHouse answers."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from tests.backends.analytics_engine.corpus import ANSWERS, DIFFERENT, LAYOUT, STATEMENTS, TABLE, ClickHouse, points
from usagekit.backends.analytics_engine.sql import run
from usagekit.backends.analytics_engine.sql.aggregates import AGGREGATES
from usagekit.backends.analytics_engine.sql.functions import FUNCTIONS

if TYPE_CHECKING:
    from pathlib import Path

KNOWN: dict[str, dict[str, Any]] = json.loads(ANSWERS.read_text(encoding="utf-8"))


def same(one: Any, other: Any) -> bool:
    """Compare values, floats but for the order in which they were added up."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if type(one) is not bool and isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-12)
    return type(one) is type(other) and bool(one == other)


def check(ledger: Path, statement: str, types: list[str], rows: list[list[Any]]) -> None:
    """Compare what the local engine answers."""
    answer = run(statement, str(ledger), {TABLE: LAYOUT})

    assert [kind for _, kind in answer.columns] == types
    for mine, theirs in zip(answer.values(), rows, strict=True):
        assert same(mine, theirs), (mine, theirs)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_answers_as_clickhouse(statement: str, ledger: Path) -> None:
    """Types, values, and how they are written in JSON."""
    check(ledger, statement, KNOWN[statement]["types"], KNOWN[statement]["rows"])


@pytest.mark.parametrize("statement", DIFFERENT)
def test_answers_as_analytics_engine_does_and_clickhouse_does_not(statement: str, ledger: Path) -> None:
    """Where the two differ, with what is written down."""
    check(ledger, statement, *DIFFERENT[statement])


def test_every_function_is_in_the_corpus() -> None:
    """None is only claimed."""
    text = "\n".join((*STATEMENTS, *DIFFERENT)).lower()

    assert len(STATEMENTS) >= 60
    assert [name for name in (*FUNCTIONS, *AGGREGATES) if f"{name}(" not in text] == []


def test_a_table_holds_the_points_that_a_worker_would_write(ledger: Path) -> None:
    """Column by column: the ledger's SQL and `Layout.point` say the same."""
    answer = run(f"SELECT * FROM {TABLE} ORDER BY double5", str(ledger), {TABLE: LAYOUT})

    rows = [dict(zip([name for name, _ in answer.columns], row, strict=True)) for row in answer.rows]
    assert rows == points()


if find_spec("chdb") is not None:  # 180 MB, so it is no part of the development environment

    def test_clickhouse_answers_what_is_written_down() -> None:
        """The answers in corpus.json are ClickHouse's own."""
        clickhouse = ClickHouse()

        for statement in STATEMENTS:
            answer = clickhouse.answer(statement)
            assert answer["types"] == KNOWN[statement]["types"], statement
            assert same(answer["rows"], KNOWN[statement]["rows"]), statement
