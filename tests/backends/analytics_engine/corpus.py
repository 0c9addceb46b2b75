"""Statements over everything Analytics Engine documents, the events they ask about, and ClickHouse to compare with.

`python -m tests.backends.analytics_engine.corpus` writes corpus.json anew, with what embedded ClickHouse answers;
`pip install --no-deps chdb-core` brings it. Where Analytics Engine differs, ClickHouse is asked in other words, or the
statement stands in `DIFFERENT` with what is expected.
"""

from __future__ import annotations

import json
import random
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

from usagekit import UsageEvent
from usagekit.backends.analytics_engine.layout import SLOTS, Layout

ANSWERS = Path(__file__).with_name("corpus.json")

LAYOUT = Layout(
    index="user",
    blobs=["user", "org", "event", "model", "route", "plan"],
    doubles=["input_tokens", "latency_ms", "cost_usd", "status", "time", "output_tokens", "quantity", "aborted"],
)
TABLE = "2nth_token_usage"

_USERS = ("ann", "bob", "Zoë 🦊", "O'Brien", "back\\slash", "tab\there", "")
_START = datetime(2026, 10, 20, 5, 7, 11, 250_000, tzinfo=UTC)


def events() -> list[UsageEvent]:
    """Give 240 events over six weeks, over a change of clocks, the same every time."""
    rng = random.Random(20)
    return [
        UsageEvent(
            time=_START + timedelta(hours=4 * n, minutes=rng.randrange(60), seconds=rng.randrange(60)),
            kind="llm",
            event=rng.choice(["summarise", "Translate", "error: timeout"]),
            user=_USERS[min(rng.randrange(9), 6)],
            org=rng.choice(["acme", "globex", ""]),
            status=rng.choice([200, 200, 200, 429, 500]),
            latency_ms=rng.randrange(1, 5_000_000) / 1000,
            route=rng.choice(["POST /summaries", "GET /items/{id}", ""]),
            model=f"model-{rng.randrange(4) ** 2 % 5}",
            input_tokens=rng.randrange(5000),
            output_tokens=rng.randrange(900),
            cost_usd=Decimal(rng.randrange(100_000)).scaleb(-6),
            quantity=rng.randrange(100) / 4,
            aborted=rng.random() < 0.1,
            weight=rng.choice([1, 1, 1, 2, 10]),
            attributes={"plan": rng.choice(["free", "team", "business"])},
        )
        for n in range(240)
    ]


def _statements() -> list[str]:
    text = re.sub(r"^--.*$", "", STATEMENTS_FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [" ".join(one.split()) for one in text.split(";\n") if one.strip()]


STATEMENTS_FILE = Path(__file__).with_name("corpus.sql")
STATEMENTS = _statements()

DIFFERENT: dict[str, tuple[list[str], list[list[Any]]]] = {
    "SELECT format('nothing') AS x": (["String"], [["nothing"]]),
    "SELECT length('Zoë') AS a, toStartOfWeek(toDateTime('2026-11-22 09:00:00')) AS b": (
        ["UInt64", "Date"],
        [["3", "2026-11-16"]],
    ),
    "SHOW TIMEZONE": (["String"], [["Etc/UTC"]]),
    "SHOW TABLES": (["String", "String"], [[TABLE, "AnalyticsEngine"]]),
}
"""What only Analytics Engine has: types and rows."""

_IN_CLICKHOUSE = (
    (r"\blength\(", "lengthUTF8("),
    (r"\bsubstring\(", "substringUTF8("),
    (r"\bposition\(('[^']*') IN (\w+)\)", r"positionUTF8(\2, \1)"),
    (r"\btoLower\(", "lowerUTF8("),
    (r"\btoUpper\(", "upperUTF8("),
    (r"\btoStartOfWeek\((\w+)\)", r"toStartOfWeek(\1, 1)"),
    (r"(?i)\bquantileWeighted\(([\d.]+), ", r"quantileExactWeighted(\1)("),
    (r"(?i)\bLIMIT ALL OFFSET", "OFFSET"),
    (
        r"'\{\} \{\} \{\}', double2, _sample_interval, timestamp",
        "'{} {} {}', toString(double2), toString(_sample_interval), toString(timestamp)",
    ),
    (r"\bTOSTARTOFHOUR\b", "toStartOfHour"),
)
"""What has another name or default there, or is more general in Analytics Engine."""


def clickhouse_sql(statement: str) -> str:
    """Give the statement as ClickHouse takes it."""
    for pattern, replacement in _IN_CLICKHOUSE:
        statement = re.sub(pattern, replacement, statement)
    return statement


def points() -> list[dict[str, Any]]:
    """Give the rows of the table, made of the points that a Worker would write."""
    rows = []
    for event in events():
        point = LAYOUT.point(event)
        row: dict[str, Any] = {
            "dataset": TABLE,
            "timestamp": int(event.time.timestamp()),
            "_sample_interval": event.weight,
            "index1": point["indexes"][0],
        }
        for kind, values, empty in (("blob", point["blobs"], ""), ("double", point["doubles"], 0)):
            row |= {f"{kind}{n + 1}": values[n] if n < len(values) else empty for n in range(SLOTS)}
        rows.append(row)
    return rows


class ClickHouse:
    """The table in embedded ClickHouse."""

    def __init__(self) -> None:
        self._session: Any = import_module("chdb.session").Session()
        columns = ["dataset String", "timestamp DateTime", "_sample_interval UInt32", "index1 String"]
        columns += [f"blob{n} String" for n in range(1, SLOTS + 1)] + [
            f"double{n} Float64" for n in range(1, SLOTS + 1)
        ]
        self._session.query("CREATE DATABASE IF NOT EXISTS corpus ENGINE = Atomic")
        self._session.query("USE corpus")
        self._session.query(f"DROP TABLE IF EXISTS {TABLE}")
        self._session.query(f"CREATE TABLE {TABLE} ({', '.join(columns)}) ENGINE = Memory")
        lines = "\n".join(json.dumps(row) for row in points())
        self._session.query(f"INSERT INTO {TABLE} FORMAT JSONEachRow {lines}")
        for setting in ("session_timezone = 'UTC'", "output_format_json_quote_64bit_integers = 1"):
            self._session.query(f"SET {setting}")

    def answer(self, statement: str) -> dict[str, Any]:
        """Give types and rows of an answer."""
        held = json.loads(str(self._session.query(clickhouse_sql(statement), "JSONCompact")))
        return {"types": [column["type"] for column in held["meta"]], "rows": held["data"]}


def main() -> None:
    """Write what ClickHouse answers."""
    clickhouse = ClickHouse()
    answers = {statement: clickhouse.answer(statement) for statement in STATEMENTS}
    ANSWERS.write_text(json.dumps(answers, ensure_ascii=False, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(f"{len(answers)} answers written to {ANSWERS.name}")


if __name__ == "__main__":
    main()
