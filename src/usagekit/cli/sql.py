"""`usagekit sql`: one statement in the SQL of Analytics Engine, answered from the ledger."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING, Any

from usagekit.backends.analytics_engine.layout import Layout, default_datasets
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.cli import DONE
from usagekit.cli.files import text_of
from usagekit.cli.source import explained, ledger
from usagekit.cli.table import Column, fitting, print_table
from usagekit.cli.wording import counted
from usagekit.errors import ConfigurationError
from usagekit.query.text import csv_cell

if TYPE_CHECKING:
    import argparse

    from usagekit.backends.analytics_engine.sql import Answer


def sql(arguments: argparse.Namespace) -> int:
    """Run the statement and show what it gave; a FORMAT in it changes nothing."""
    path = ledger(arguments.db)
    statement = sys.stdin.read() if arguments.statement == "-" else arguments.statement
    with explained(path):
        tables = datasets(path, arguments.dataset)
        from usagekit.backends.analytics_engine.sql import run

        answer = run(statement, path, tables)
    if arguments.format == "json":
        print(json.dumps(answer.json(), indent=2, ensure_ascii=False))
    elif arguments.format == "csv":
        _write_csv(answer)
    else:
        _show_table(answer)
    return DONE


def datasets(path: str, given: list[str]) -> dict[str, Layout]:
    """Give the tables that options named, or the one there is by default, checked against the ledger at `path`."""
    declared = SQLiteBackend(path).dimensions
    if not given:
        return default_datasets(declared)
    tables = {}
    for option in given:
        name, equals, file = option.partition("=")
        if not name or not equals:
            raise ConfigurationError(f"--dataset {option!r} names no file; give --dataset usage=layout.json")
        text = text_of(f"--dataset {name}:", file)
        try:
            tables[name] = Layout.from_json(text)
        except ConfigurationError as error:
            raise ConfigurationError(f"--dataset {option!r}: {error}") from error
        tables[name].check_dimensions(declared)
    return tables


def _write_csv(answer: Answer) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\r\n")
    writer.writerow([csv_cell(name) for name, _ in answer.columns])
    writer.writerows([csv_cell(_plain(value)) for value in row] for row in answer.values())


def _show_table(answer: Answer) -> None:
    rows = answer.values()
    columns = [
        Column(name, [_cell(row[place]) for row in rows], "", right="Int" in kind or kind == "Float64")
        for place, (name, kind) in enumerate(answer.columns)
    ]
    for block in fitting([], columns):
        print_table(block)
    print(counted(len(rows), "row"))


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(_plain(value))
