"""`usagekit erase`: remove a user's id; their events stay, as nobody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usagekit import _clean
from usagekit._store.erasing import erase_user
from usagekit.cli import DONE
from usagekit.cli.source import check, explained, ledger
from usagekit.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse


def erase(arguments: argparse.Namespace) -> int:
    """Erase the user, and say whether there was something to erase."""
    user = _clean.text(arguments.user)
    if not user:
        raise ConfigurationError("--user '' names nobody; give the id that events were recorded with")
    path = ledger(arguments.db)
    with explained(path):
        check(path)
        found = erase_user(path, user, arguments.timeout)
    if found:
        print(f"erased the user from {path}; their events are nobody's now")
    else:
        print(f"nobody in {path} has this id: it was never recorded like that, or was erased before")
        print("events of this id from before now that still arrive will be nobody's")
    return DONE
