"""`usagekit status`: what a ledger holds, and what still waits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from usagekit._store.engine import status_of
from usagekit.cli import DONE
from usagekit.cli.source import check, explained, ledger
from usagekit.cli.table import Column, print_table
from usagekit.cli.wording import counted

if TYPE_CHECKING:
    import argparse

FAR_BEHIND = 100_000  # events beside the rollups, which a question then takes some tenths of a second longer for


def status(arguments: argparse.Namespace) -> int:
    """Tell what the ledger says of itself."""
    path = ledger(arguments.db)
    with explained(path):
        check(path)
        told = {"ledger": path} | status_of(path, ())
    if arguments.format == "json":
        print(json.dumps(told))
    else:
        _show(told)
    return DONE


def _show(told: dict[str, Any]) -> None:
    waiting, sinks = told["waiting"], told["sinks"]
    drain = "; usagekit drain imports them" if waiting["bytes"] else ""
    lines = {
        "ledger": told["ledger"],
        "durable": counted(told["durable"], "event"),
        "waiting": f"{counted(waiting['bytes'], 'byte')} in {counted(waiting['journals'], 'journal')}{drain}",
        "rollups": _rollups(told),
        "purged": _purged(told),
        "repeated": f"{counted(told['repeated'], 'event')} with an event_id that was counted before",
        "corrupt": f"{counted(told['corrupt'], 'record')} that could not be read",
        "dead letters": f"{counted(told['dead_letters'], 'event')} that a sink refused for good",
    }
    for job, at in told["jobs"].items():
        lines[job.replace("_", " ")] = at
    for name, text in lines.items():
        print(f"{name:<12}  {text}")
    if sinks:
        names = ("delivered", "lag", "dead_letters")
        print()
        print_table(
            [
                Column("sink", list(sinks), ""),
                *(Column(name, [f"{sink[name]:,}" for sink in sinks.values()], "", right=True) for name in names),
            ],
        )


def _rollups(told: dict[str, Any]) -> str:
    lag, rebuilding = told["rollups"]["lag"], told["rollups"]["rebuilding"]
    if not lag:
        state = "up to date"
    elif lag < FAR_BEHIND:
        state = f"{counted(lag, 'event')} to come, as is normal; answers have {'it' if lag == 1 else 'them'} already"
    else:
        state = f"{counted(lag, 'event')} behind: answers are exact and slow; usagekit rollup makes them fast"
    return f"being made anew, {state}" if rebuilding else state


def _purged(told: dict[str, Any]) -> str:
    since, rollups_since = told["complete_from"]["raw"], told["complete_from"]["rollups"]
    parts = [counted(told["purged"], "event")]
    if since:
        parts.append(f"all since {since} are there")
    if rollups_since:
        parts.append(f"rollups since {rollups_since}")
    return ", ".join(parts)
