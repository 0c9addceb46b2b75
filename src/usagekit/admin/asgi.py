"""The endpoint as an ASGI app; Starlette's tools, for any ASGI server and framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from usagekit.admin.auth import CALLABLE_SECONDS
from usagekit.admin.site import Request, Site
from usagekit.context import leave_out
from usagekit.errors import MissingDependencyError
from usagekit.request import AsgiRequest

try:
    from anyio import CapacityLimiter, fail_after, from_thread, to_thread
    from starlette.responses import Response as StarletteResponse
except ImportError as missing:
    raise MissingDependencyError("usage_app needs Starlette: pip install 'usagekit[admin]'") from missing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

__all__ = ["AdminApp"]

_THREADS = 4  # of our own, so that nobody who looks here takes one from the app


class AdminApp:
    """An ASGI app that answers with what its `Site` says; any event loop may run it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._limiter: CapacityLimiter | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request; websockets are refused."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        leave_out()
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        path, whole = _below(scope), unquote((scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1"))
        # Litestar takes the mount's prefix off without a word, and puts a slash at the end.
        if path.endswith("/") and not whole.endswith("/") and whole.endswith(path[:-1]):
            path = path[:-1]
        view = AsgiRequest(scope, whole if len(whole) > len(scope["path"]) and whole.endswith(path) else None)
        request = Request(view, path, scope.get("query_string", b"").decode("latin-1"))
        if self._limiter is None:
            self._limiter = CapacityLimiter(_THREADS)
        answer = await to_thread.run_sync(self._site.answer, request, _awaited, limiter=self._limiter)
        response = StarletteResponse(answer.body, answer.status)
        response.raw_headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers]
        await response(scope, receive, send)


def _awaited(answer: Awaitable[Any]) -> object:
    """Wait in the event loop, from a thread of ours, for what an async callable of the app returned."""

    async def limited() -> object:
        with fail_after(CALLABLE_SECONDS):
            return await answer

    return from_thread.run(limited)


async def _live(receive: Any, send: Any) -> None:
    """Take part in the lifespan protocol, where this is served on its own."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _below(scope: Mapping[str, Any]) -> str:
    """Give the path below the mount.

    `root_path` ends with the mount's prefix, and `path` has it in front; but a proxy may have taken off what stands in
    `root_path` before it.
    """
    path, root = str(scope["path"]), str(scope.get("root_path") or "")
    while root:
        if path == root or path.startswith(root + "/"):
            return path[len(root) :]
        root = root[root.find("/", 1) :] if "/" in root[1:] else ""
    return path or "/"
