from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Result, Setting

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = ("request", "calls", "ingest", "size", "imports", "loop", "asking", "sinks", "analytics-engine", "peers", "sql")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for and print it; returns 0, whatever the numbers say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What usagekit costs.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"which to run: {', '.join(NAMES)}; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it runs, not what it costs")
    parser.add_argument("--profile", action="store_true", help="show where the time of one request goes, instead")
    parser.add_argument("--dir", metavar="DIR", help="where ledgers are written: a real disk; default /var/tmp")
    parser.add_argument(
        "--events", type=int, metavar="N", help="asking: size of the largest ledger; default 10,000,000"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    names = ("profile_request",) if options.profile else tuple(options.names or NAMES)
    console = Console(width=120, highlight=False)
    console.print(
        f"{platform.python_implementation()} {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{platform.system()}, {os.cpu_count()} processors{', quick' * options.quick}"
    )
    found = {}
    for name in names:
        found[name] = _run(console, name, options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _run(console: Console, name: str, options: argparse.Namespace) -> dict[str, Any]:
    load = [os.getloadavg()[0]]
    began = perf_counter()
    home = options.dir or ("/var/tmp" if Path("/var/tmp").is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="usagekit-bench-", dir=home) as place:
        module = import_module(f"benchmarks.{name.replace('-', '_')}")
        result: Result = module.run(Setting(place, options.quick, options.events))
    load.append(os.getloadavg()[0])
    console.print(f"\n[bold]{name}[/bold]: {perf_counter() - began:.0f} s, load average {load[0]:.1f} to {load[1]:.1f}")
    _show(console, result)
    return {
        "seconds": perf_counter() - began,
        "load_average": load,
        "values": {key: _plain(value) for key, value in result.values.items()},
        "targets": [asdict(target) | {"verdict": target.verdict} for target in result.targets],
    }


def _show(console: Console, result: Result) -> None:
    for table in result.tables:
        shown = Table(*table.columns, title=table.title, title_justify="left", box=None, title_style="")
        for column in shown.columns[1:]:
            column.justify = "right"
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    if result.targets:
        shown = Table("target", "limit", "measured (95 %)", "verdict", box=None)
        for target in result.targets:
            sign = ">=" if target.at_least else "<="
            shown.add_row(target.name, f"{sign} {target.limit:g}", str(target.estimate), target.verdict)
        console.print(shown)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


if __name__ == "__main__":
    sys.exit(main())
