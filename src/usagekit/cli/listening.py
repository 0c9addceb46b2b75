"""The address at which a command listens, and what is wrong with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from usagekit.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_Server = TypeVar("_Server")


def listen(make: Callable[[], _Server], arguments: argparse.Namespace) -> _Server:
    """Give the server that `make` makes at `--host` and `--port`; `ConfigurationError` where it cannot listen."""
    try:
        return make()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no such address"
        raise ConfigurationError(
            f"cannot listen at {arguments.host}, port {arguments.port}: {why}; "
            "give another --host or --port, 0 for a free one"
        ) from error
