"""What Quart knows about a request and puts nowhere in the ASGI scope: the rule it matched, and the session.

Quart's signals say when it begins and ends a request or websocket, and only in between can it be asked.
"""

from __future__ import annotations

import sys

from usagekit.context import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["listen"]


def listen() -> None:
    """Have Quart's requests seen from now on, in this whole process; nothing happens where Quart was not imported."""
    if "quart" not in sys.modules:
        return
    from quart import signals

    # Connecting again changes nothing.
    signals.request_started.connect(_begun)
    signals.websocket_started.connect(_begun)
    signals.request_finished.connect(_ended)
    signals.websocket_finished.connect(_ended)


async def _begun(_app: object, **_: Any) -> None:
    measurement = current.get()
    if measurement is None:
        return
    try:
        from quart import has_websocket_context
        from quart.globals import request_ctx, websocket_ctx

        context: Any = websocket_ctx if has_websocket_context() else request_ctx
        connection = context.request_websocket
        rule = "" if connection.url_rule is None else connection.url_rule.rule
        is_static = rule.endswith("/<path:filename>") and connection.endpoint.split(".")[-1] == "static"
        told = {"route": None, "path_template": rule, "session": context.session}
        measurement.see(dict(connection.scope) | told, is_static=is_static)
    except Exception as error:  # noqa: BLE001  nothing may reach the host
        _failed(measurement, error)


async def _ended(_app: object, **_: Any) -> None:
    measurement = current.get()
    if measurement is None:
        return
    try:
        measurement.identity()  # asked here, `identify` finds Quart's session, g and current user
    except Exception as error:  # noqa: BLE001  nothing may reach the host
        _failed(measurement, error)


def _failed(measurement: Any, error: Exception) -> None:
    if measurement.recorder is not None:
        measurement.recorder.guard.caught("quart", error)
