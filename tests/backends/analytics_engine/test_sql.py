"""What the local engine refuses and with which words, its formats, its limits, and how it is asked from Python."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.backends.analytics_engine.corpus import LAYOUT, TABLE
from usagekit import Recorder, UsageEvent
from usagekit.backends.analytics_engine import Layout
from usagekit.backends.analytics_engine.sql import SqlError, run
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import ConfigurationError, QueryError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable

REFUSED = {
    # Texts that Analytics Engine was seen to answer with.
    f"SELECT COUNT(*) FROM {TABLE}": "COUNT() function must have 0 arguments: 1",
    f"SELECT count(blob1) FROM {TABLE}": "COUNT() function must have 0 arguments: 1",
    f"SELECT SUM(CASE WHEN blob3 = 'x' THEN 1 ELSE 0 END) FROM {TABLE}": (
        "unsupported expression type: CASE WHEN blob3 = 'x' THEN 1 ELSE 0 END"
    ),
    f"SELECT greatest(double1, 2) FROM {TABLE}": "unknown function call: GREATEST",
    f"SELECT multiIf(double1 > 2, 1, 2) FROM {TABLE}": "unknown function call: MULTIIF",
    f"SELECT toString(double1) FROM {TABLE}": "unknown function call: TOSTRING",
    f"SELECT uniq(blob1) FROM {TABLE}": "unknown function call: UNIQ",
    f"SELECT quantile(0.5)(double1) FROM {TABLE}": "unknown function call: QUANTILE",
    "SELECT if(1 = 1, 1.5, 2)": (
        "the 2nd and 3rd arguments to IF() function must have the same type but instead had Double and Integer"
    ),
    f"SELECT `blob1` FROM {TABLE}": "sql parser error: Expected identifier, found: `",
    f"SELECT blob1 AS a FROM {TABLE} ORDER BY blob1": "unable to find type of column: blob1",
    f"SELECT blob1 FROM {TABLE} ORDER BY timestamp": "unable to find type of column: timestamp",
    f"SELECT blob1, sum(double1) FROM {TABLE} GROUP BY blob1 ORDER BY sum(double1)": (
        "unable to find type of column: double1"
    ),
    "SELECT blob1 FROM other": "unknown table: other",
    # What is documented not to be there, and what would be left out without a word.
    f"SELECT * FROM {TABLE} JOIN other ON 1 = 1": "JOIN is not supported",
    f"SELECT blob1 FROM {TABLE}, other": "JOIN is not supported",
    f"SELECT blob1 FROM {TABLE} UNION ALL SELECT blob2 FROM {TABLE}": "UNION is not supported",
    f"WITH x AS (SELECT 1) SELECT * FROM {TABLE}": "WITH is not supported",
    f"SELECT DISTINCT blob1 FROM {TABLE}": "SELECT DISTINCT is not supported",
    f"SELECT sum(double1) OVER () FROM {TABLE}": "unsupported expression type: sum(double1) OVER ()",
    f"SELECT a.blob1 FROM {TABLE} AS a": "table aliases and table options are not supported",
    f"SELECT blob1 FROM {TABLE} FINAL": "unsupported table",
    f"SELECT blob1 FROM {TABLE} SAMPLE 0.1": "table aliases and table options are not supported",
    f"SELECT blob1 FROM system.{TABLE}": "table aliases and table options are not supported",
    f"SELECT blob1 FROM {TABLE} PREWHERE 1": "PREWHERE is not supported",
    f"SELECT blob1 FROM {TABLE} SETTINGS max_threads = 1": "SETTINGS is not supported",
    f"SELECT blob1 FROM {TABLE} LIMIT 1 BY blob1": "LIMIT takes one number",
    f"SELECT blob1 FROM {TABLE} LIMIT blob1": "LIMIT takes a whole number: blob1",
    f"SELECT blob1 FROM {TABLE} LIMIT 1.5": "LIMIT takes a whole number: 1.5",
    f"SELECT blob1, count() FROM {TABLE} GROUP BY blob1 WITH TOTALS": "GROUP BY ... TOTALS is not supported",
    f"SELECT blob1, count() FROM {TABLE} GROUP BY ROLLUP (blob1)": "unsupported expression type: ROLLUP (blob1)",
    f"SELECT blob1 FROM {TABLE} GROUP BY 1": "cannot group by 1; name the column",
    f"SELECT blob1 FROM {TABLE} ORDER BY 1": "cannot order by 1; name the column",
    "SELECT NULL": "unsupported expression type: NULL",
    "SELECT if(1, NULL, 2)": "unsupported expression type: NULL",
    f"SELECT blob1 IS NULL FROM {TABLE}": "unsupported expression type: blob1 IS NULL",
    "SELECT [1, 2]": "unsupported expression type: [1, 2]",
    "SELECT (1, 2)": "unsupported expression type: (1, 2)",
    "SELECT 1 ? 2 : 3": "unsupported expression type",
    "SELECT '1'::UInt8": "unsupported expression type",
    "SELECT CAST('1' AS UInt8)": "unknown function call: CAST",
    "SELECT {x:UInt8}": "unsupported expression type",
    f"SELECT blob1 IN (SELECT blob1 FROM {TABLE})": "unsupported expression type",
    f"SELECT (SELECT count() FROM {TABLE})": "unsupported expression type",
    f"SELECT EXISTS(SELECT blob1 FROM {TABLE})": "unsupported expression type",
    f"SELECT * EXCEPT (blob1) FROM {TABLE}": "* takes no options",
    "SELECT *": "* needs a FROM",
    "INSERT INTO x VALUES (1)": "unsupported statement: INSERT",
    "DELETE FROM x": "unsupported statement: DELETE",
    "DROP TABLE x": "unsupported statement: DROP",
    "SHOW DATABASES": "unsupported statement: SHOW",
    "EXPLAIN SELECT 1": "unsupported statement: EXPLAIN",
    "SELECT 1; SELECT 2": "expected one statement, found 2",
    "": "expected one statement, found 0",
    "SELECT": "sql parser error",
    "SELECT (1": "sql parser error",
    "selec 1": "sql parser error",
    "SELECT 'a": "sql parser error",
    "SELECT 1 FORMAT CSV": "unsupported format: CSV",
    "SHOW TABLES FORMAT Pretty": "unsupported format: Pretty",
    f"SELECT n FROM (SELECT count() AS n FROM {TABLE} FORMAT JSON)": "FORMAT is not supported in a subquery",
    "SELECT\0 1": "the statement is no valid text",
    "SELECT '\ud83d'": "the statement is no valid text",
    "SELECT " + "(" * 200 + "1" + ")" * 200: "more than 100 brackets within each other",
    "SELECT " + " + ".join("1" * 5000): "nested too deeply",
    "SELECT '" + "x" * 100_001 + "'": "longer than 100,000 bytes",
    # Names, types, arguments.
    f"SELECT nothing FROM {TABLE}": "unable to find type of column: nothing",
    "SELECT 1 AS a, a + 1 AS b": "unable to find type of column: a",
    f"SELECT double1, count() FROM {TABLE}": "column double1 is not under aggregate function and not in GROUP BY keys",
    f"SELECT blob1, double1 + 1 FROM {TABLE} GROUP BY blob1": "column double1 is not under aggregate function",
    f"SELECT blob1 FROM {TABLE} GROUP BY blob1 HAVING double1 > 1": "column double1 is not under aggregate function",
    f"SELECT count() AS n FROM {TABLE} WHERE n > 1": "aggregate functions are not allowed in WHERE",
    f"SELECT blob1 FROM {TABLE} GROUP BY sum(double1)": "an aggregate function cannot be grouped by",
    f"SELECT sum(count()) FROM {TABLE}": "an aggregate function cannot be within SUM()",
    f"SELECT sum(blob1) FROM {TABLE}": "argument 1 of SUM() must be Integer or Double or Boolean but instead had",
    f"SELECT min(DISTINCT blob1) FROM {TABLE}": "MIN() function does not take DISTINCT",
    f"SELECT quantileExactWeighted(2)(double1, 1) FROM {TABLE}": "must be between 0 and 1: 2",
    f"SELECT quantileExactWeighted(0.5)(double1, double2) FROM {TABLE}": "must be an unsigned integer",
    f"SELECT quantileExactWeighted(double1, 1) FROM {TABLE}": "must have 1 parameters: 0",
    f"SELECT topK(0)(blob1) FROM {TABLE}": "must be a whole number from 1 to 65536",
    f"SELECT topK(blob2)(blob1) FROM {TABLE}": "a parameter of TOPK() must be a number: blob2",
    "SELECT length('a', 'b')": "LENGTH() function must have 1 arguments: 2",
    "SELECT substring('a')": "SUBSTRING() function must have 2 to 3 arguments: 1",
    "SELECT length(1)": "argument 1 of LENGTH() must be String but instead had Integer",
    "SELECT bitAnd(1.5, 1)": "argument 1 of BITAND() must be Integer or Boolean but instead had Double",
    "SELECT 'a' + 1": "operator + cannot take String and Integer",
    "SELECT 'a' = 1": "cannot compare String and Integer",
    f"SELECT blob1 FROM {TABLE} WHERE timestamp > '2026-01-01 00:00:00'": "use toDateTime()",
    f"SELECT blob1 FROM {TABLE} WHERE blob1": "the condition of WHERE must be Boolean but instead had String",
    "SELECT NOT 'a'": "the condition of NOT must be Boolean",
    "SELECT now() - today()": "operator - cannot take DateTime and Date",
    "SELECT now() + INTERVAL '1' FORTNIGHT": "unsupported interval",
    "SELECT now() + INTERVAL 'x' DAY": "unsupported interval",
    "SELECT toStartOfInterval(now(), INTERVAL '0' DAY)": "must be a positive interval",
    "SELECT INTERVAL '1' DAY AS a": "unsupported expression type: a",
    "SELECT if(1, INTERVAL '1' DAY, INTERVAL '2' DAY)": "unsupported expression type",
    "SELECT INTERVAL '1' DAY = INTERVAL '1' DAY": "cannot compare Interval and Interval",
    f"SELECT max(INTERVAL '1' DAY) FROM {TABLE}": "MAX() cannot take an Interval",
    f"SELECT count() FROM {TABLE} GROUP BY INTERVAL '1' DAY": "unsupported expression type",
    "SELECT 1 +": "sql parser error: Expected an expression",
    "SELECT today() + 10000000 AS a": "beyond what a Date holds",
    "SELECT toDateTime(1e30) AS a": "beyond what a DateTime holds",
    "SELECT toStartOfInterval(now(), 1)": "argument 2 of TOSTARTOFINTERVAL() must be Interval",
    "SELECT toDateTime('2026-01-01 00:00:00', 'Mars/Base')": "unknown timezone: Mars/Base",
    "SELECT toDateTime('yesterday')": "cannot parse DateTime from 'yesterday'",
    "SELECT formatDateTime(now(), '%E')": "formatDateTime does not know %E",
    "SELECT extract(WEEK from now())": "extract does not know WEEK",
    "SELECT format('{} {}', 'a')": "has more placeholders than the 1 values",
    "SELECT format('{', 'a')": "has a { or } that is no placeholder",
    "SELECT intDiv(1, 0)": "division by zero",
    "SELECT 1 % 0": "division by zero",
    "SELECT toUInt8('x')": "cannot parse 'x' as UInt8",
    "SELECT now() AS a HAVING a": "the condition of HAVING must be Boolean",
}


@pytest.mark.parametrize("statement", REFUSED, ids=lambda statement: statement[:60].encode("ascii", "replace").decode())
def test_what_analytics_engine_refuses_is_refused(statement: str, ledger: Path) -> None:
    """With 422 and a text that says what."""
    with pytest.raises(SqlError) as refused:
        run(statement, str(ledger), {TABLE: LAYOUT}).text()

    assert refused.value.status == 422
    assert str(refused.value).startswith("Input was invalid: ")
    assert REFUSED[statement] in str(refused.value)


def test_json_has_meta_data_and_rows(ledger: Path) -> None:
    """64-bit integers are strings, floats numbers, times text; the format is JSON unless another is named."""
    statement = (
        "SELECT 1 AS a, 1.5 AS b, 'x\"\\\\y' AS c, toDateTime(0) AS d, 5000000000 AS e, 0 / 0 AS f, true AS g, 2.0 AS h"
    )

    plain, named = (run(statement + form, str(ledger), {}) for form in ("", " FORMAT JSON"))

    assert plain.text() == named.text()
    assert (
        json.loads(plain.text())
        == plain.json()
        == {
            "meta": [
                {"name": "a", "type": "UInt8"},
                {"name": "b", "type": "Float64"},
                {"name": "c", "type": "String"},
                {"name": "d", "type": "DateTime"},
                {"name": "e", "type": "UInt64"},
                {"name": "f", "type": "Float64"},
                {"name": "g", "type": "Bool"},
                {"name": "h", "type": "Float64"},
            ],
            "data": [
                {
                    "a": 1,
                    "b": 1.5,
                    "c": 'x"\\y',
                    "d": "1970-01-01 00:00:00",
                    "e": "5000000000",
                    "f": None,
                    "g": True,
                    "h": 2,
                }
            ],
            "rows": 1,
        }
    )


def test_those_who_were_erased_are_nobody(tmp_path: Path) -> None:
    """All of them the same one, as in every other answer."""
    path = tmp_path / "usage.db"
    with Recorder(SQLiteBackend(path)) as recorder:
        for user in ("ann", "bob", "bob", "", "zoë"):
            recorder.track("sync", user=user)
        assert recorder.erase(user="ann")
        assert recorder.erase(user="bob")
    layout = Layout(blobs=("user",), doubles=("weight",))

    found = run("SELECT blob1 AS u, sum(double1) AS n FROM t GROUP BY u ORDER BY u", str(path), {"t": layout})
    nobody = run("SELECT sum(double1) AS n FROM t WHERE blob1 = ''", str(path), {"t": layout})

    assert found.values() == [["", 4], ["zoë", 1]]
    assert nobody.values() == [[4]]


def test_json_each_row_is_a_line_for_each_row(ledger: Path) -> None:
    """Without types."""
    statement = f"SELECT blob2 AS org, count() AS n FROM {TABLE} GROUP BY org ORDER BY org FORMAT JSONEachRow"

    lines = run(statement, str(ledger), {TABLE: LAYOUT}).text().splitlines()

    assert [json.loads(line)["org"] for line in lines] == ["", "acme", "globex"]
    assert all(isinstance(json.loads(line)["n"], str) for line in lines)


def test_tab_separated_has_no_header_and_escapes(ledger: Path) -> None:
    """As ClickHouse writes it."""
    statement = (
        "SELECT 'tab\there, line\nbreak, back\\\\slash, ''quote''' AS a, 1.5 AS b, 0 / 0 AS c, -1 / 0 AS d, 1e21 AS e, "
        "1e-7 AS f, true AS g, toDateTime(0) AS h, 5000000000 AS i, 100000000000000000000 AS j FORMAT TabSeparated"
    )

    text = run(statement, str(ledger), {}).text()

    assert text == (
        "tab\\there, line\\nbreak, back\\\\slash, \\'quote\\'\t1.5\tnan\t-inf\t1e21\t1e-7\ttrue\t1970-01-01 00:00:00\t"
        "5000000000\t100000000000000000000\n"
    )
    listed = f"SELECT topKWeighted(1)(blob6, 1) AS a, topK(1)(1.5) AS b FROM {TABLE} WHERE blob6 = 'team'"
    assert run(f"{listed} FORMAT TabSeparated", str(ledger), {TABLE: LAYOUT}).text() == "['team']\t[1.5]\n"


def test_show_timezones_lists_what_can_be_named(ledger: Path) -> None:
    """Each of them is taken."""
    answer = run("show timezones format JSONEachRow;", str(ledger), {})

    zones = [json.loads(line)["timezone"] for line in answer.text().splitlines()]
    assert {"Etc/UTC", "Europe/Berlin", "Asia/Kathmandu"} <= set(zones)
    assert run(f"SELECT toDateTime('2026-07-01 00:00:00', '{zones[7]}') AS t", str(ledger), {}).values() == [
        ["2026-07-01 00:00:00"]
    ]


def test_a_long_statement_runs_into_its_time_budget(ledger: Path) -> None:
    """With 429, as when Analytics Engine has had enough."""
    inner = f"SELECT blob1 AS a, sum(double1) AS n FROM {TABLE} GROUP BY blob1, double1, double2"

    with pytest.raises(SqlError) as refused:
        run(f"SELECT sum(n) AS x FROM ({inner})", str(ledger), {TABLE: LAYOUT}, timeout=0)

    assert (refused.value.status, str(refused.value)) == (429, "Resource limit: query timed out")


def test_a_ledger_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Set-up is the app's matter, not the statement's."""
    with pytest.raises(StorageError, match="it does not exist"):
        run("SELECT blob1 FROM usagekit", str(tmp_path / "none.db"), {"usagekit": Layout.default()})


def test_a_layout_takes_only_its_events(tmp_path: Path) -> None:
    """By every kind of filter; a long index is hashed, and whole in the blob after the last."""
    long = "x" * 100
    with Recorder(SQLiteBackend(tmp_path / "usage.db"), dimensions=["plan"]) as recorder:
        for event in (
            UsageEvent(kind="llm", user=long, status=200, event="a", attributes={"plan": "free"}),
            UsageEvent(kind="llm", user="ann", status=500, event="b", aborted=True),
            UsageEvent(kind="request", user="ann", status=200, event="c", weight=7),
        ):
            recorder.record(event)

        found = {
            name: recorder.sql(
                "SELECT blob1 AS event, index1 AS i, blob2 AS whole, _sample_interval AS n FROM t ORDER BY event",
                datasets={"t": Layout(index="user", blobs=["event"], where=where)},
            )["data"]
            for name, where in (
                ("kind", {"kind": "llm"}),
                ("status", {"status": [500, 404]}),
                ("class", {"status_class": "2xx"}),
                ("aborted", {"aborted": True}),
                ("user", {"user": "ann"}),
                ("plan", {"plan": ["free"]}),
                ("nothing", {"org": []}),
            )
        }

    assert {name: "".join(row["event"] for row in rows) for name, rows in found.items()} == {
        "kind": "ab",
        "status": "b",
        "class": "ac",
        "aborted": "b",
        "user": "bc",
        "plan": "a",
        "nothing": "",
    }
    assert [(len(row["i"]), row["whole"], row["n"]) for row in found["class"]] == [(96, long, 1), (3, "", 7)]


def test_a_layout_that_holds_the_weight_has_an_interval_of_one(tmp_path: Path) -> None:
    """As in production, where Analytics Engine knows nothing of weights: a product counts it once, not twice."""
    with Recorder(SQLiteBackend(tmp_path / "usage.db")) as recorder:
        recorder.track("export", weight=5)

        held = recorder.sql("SELECT sum(_sample_interval * double2) AS n FROM usagekit")["data"]
        bare = recorder.sql("SELECT sum(_sample_interval) AS n FROM t", datasets={"t": Layout()})["data"]

    assert (held, bare) == ([{"n": 5}], [{"n": "5"}])


def test_a_recorder_answers_what_it_accepted_before() -> None:
    """And says what it cannot: without a ledger, or with a dimension that nobody declared."""
    recorder = Recorder(MemoryBackend())

    with pytest.raises(QueryError, match=r"add SQLiteBackend\('usage.db'\)"):
        recorder.sql("SELECT 1")


def test_undeclared_dimensions_of_a_layout_are_refused(tmp_path: Path) -> None:
    """Rather than being empty for ever."""
    with (
        Recorder(SQLiteBackend(tmp_path / "usage.db"), dimensions=["plan"]) as recorder,
        pytest.raises(ConfigurationError, match="names 'pan', which no event has"),
    ):
        recorder.sql("SELECT 1", datasets={"t": Layout(blobs=["pan"])})


def test_a_missing_extra_names_the_command() -> None:
    """The layout needs nothing; the engine says what to install."""
    program = """
import sys
sys.modules["sqlglot"] = None
from usagekit.backends.analytics_engine import Layout
from usagekit.errors import MissingDependencyError
try:
    import usagekit.backends.analytics_engine.sql
except MissingDependencyError as error:
    print(error)
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "pip install 'usagekit[analytics-engine]'" in done.stdout


# Statements of public pages, unchanged, where they are at hand: USAGEKIT_SEEDS is the folder with their texts.

SEEDS = os.environ.get("USAGEKIT_SEEDS", "")
_NOW = datetime.now(UTC).replace(microsecond=0)


def _seed_events() -> Iterable[UsageEvent]:
    users = ("ann", "x", "substitute_customer_id_here", "bob")
    for n in range(120):
        time = _NOW - timedelta(hours=3 * n) if n % 2 else datetime(2023, 2, 25, tzinfo=UTC) + timedelta(hours=7 * n)
        yield UsageEvent(
            time=time,
            kind="llm",
            user=users[n % 4],
            route=f"GET /{n % 3}",
            model="claude-sonnet-4-6",
            input_tokens=n * 10,
            output_tokens=n,
            latency_ms=n * 1.5,
            cost_usd=Decimal(n) / 1000,
            weight=1 + n % 3,
            attributes={"skill": "s", "agent": "a"},
        )


def _seed_statements() -> list[str]:
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path(SEEDS).glob("00[01]*"))]
    return [found for text in texts for found in re.findall(r"^\s*(SELECT\n.*?)(?=`)", text, re.DOTALL | re.MULTILINE)]


def _expected(statement: str) -> Counter[tuple[str, ...]]:
    """Give the weight of each group, worked out by hand."""
    found: Counter[tuple[str, ...]] = Counter()
    customer = re.search(r"customer_id = '(\w+)'", statement)
    for event in _seed_events():
        if "toDateTime" in statement and (event.time.year, event.time.month) != (2023, 3):
            continue
        if customer is None or event.user == customer[1]:
            keys = [event.user]
            keys += [f"{event.time:%Y-%m-%d} 00:00:00"] if "toStartOfInterval" in statement else []
            keys += [event.route] if "blob1" in statement else []
            found[tuple(keys)] += event.weight
    return found


if SEEDS:

    def test_statements_of_public_pages_run_unchanged(tmp_path: Path) -> None:
        """With their dataset and layout, and the right numbers."""
        layouts = {
            "2nth_token_usage": Layout(
                index="user",
                blobs=["user", "skill", "agent", "model"],
                doubles=["input_tokens", "output_tokens", "latency_ms", "cost_usd"],
            ),
            "usage_indexed_by_customer_id": Layout(index="user", blobs=["route"]),
        }
        statements = _seed_statements()
        with Recorder(SQLiteBackend(tmp_path / "usage.db"), dimensions=["skill", "agent"]) as recorder:
            for event in _seed_events():
                assert recorder.record(event)
            answers = {statement: recorder.sql(statement, datasets=layouts) for statement in statements}

        assert len(statements) == 5
        for statement, answer in answers.items():
            if "2nth_token_usage" in statement:
                _check_tokens(answer["data"])
                continue
            groups = {tuple(list(row.values())[:-1]): int(list(row.values())[-1]) for row in answer["data"]}
            assert groups == _expected(statement), statement

    def _check_tokens(rows: list[dict[str, Any]]) -> None:
        recent = [event for event in _seed_events() if event.time > _NOW - timedelta(days=7)]
        totals = {}
        for user in {event.user for event in recent}:
            own = [event for event in recent if event.user == user]
            totals[user] = (
                sum(event.input_tokens * event.weight for event in own),
                sum(event.output_tokens * event.weight for event in own),
                pytest.approx(float(sum(event.cost_usd * event.weight for event in own if event.cost_usd is not None))),
                str(len(own)),
            )
        assert {row["client_id"]: tuple(list(row.values())[1:]) for row in rows} == totals
        costs = [row["total_cost_usd"] for row in rows]
        assert costs == sorted(costs, reverse=True)
