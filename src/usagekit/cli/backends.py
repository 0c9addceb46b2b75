"""`usagekit backends`: which backends are installed, what each can do, and why one cannot be loaded."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from usagekit.backends import GROUP
from usagekit.cli import DONE
from usagekit.cli.table import Column, print_table

if TYPE_CHECKING:
    import argparse
    from importlib.metadata import EntryPoint

_ABILITIES = {
    "write": ("write", "ledger_path"),  # the ledger is written without a `write` of its own
    "read": ("read",),
    "url": ("from_url",),
}


def backends(arguments: argparse.Namespace) -> int:
    """List them."""
    told = [_told(point) for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))]
    if arguments.format == "json":
        print(json.dumps(told))
        return DONE
    columns = {
        "name": [one["name"] for one in told],
        "distribution": [one["distribution"] for one in told],
        "can": [" ".join(one["can"]) or "-" for one in told],
        "object": [one["object"] for one in told],
    }
    print_table([Column(name, cells, "") for name, cells in columns.items()])
    for one in told:
        if one["error"]:
            print(f"\n{one['name']}:// cannot be loaded: {one['error']}")
    return DONE


def _told(point: EntryPoint) -> dict[str, Any]:
    distribution = "-" if point.dist is None else f"{point.dist.name} {point.dist.version}"
    told = {"name": point.name, "distribution": distribution, "object": point.value}
    try:
        backend = point.load()
    except Exception as error:  # noqa: BLE001  somebody else's module may raise anything when it is loaded
        return told | {"can": [], "error": f"{type(error).__name__}: {error}"}
    # A method may also be declared, and set on those instances alone that can do it.
    declared = getattr(backend, "__annotations__", {})
    can = [
        ability
        for ability, names in _ABILITIES.items()
        if any(hasattr(backend, name) or name in declared for name in names)
    ]
    return told | {"can": can, "error": None}
