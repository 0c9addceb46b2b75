"""The app that every server of these tests loads: `wsgi` and `asgi`, counted when USAGE_DB is set.

Each request's user is its `x-user` header; `bare_wsgi` and `bare_asgi` are the same apps uncounted.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from usagekit import Recorder
from usagekit.asgi import UsageMiddleware as AsgiUsage
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.wsgi import UsageMiddleware as WsgiUsage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def text() -> list[tuple[str, str]]:
    """Give headers, anew, since servers add to them."""
    return [("Content-Type", "text/plain")]


class Closable:
    """A stream that is neither list nor generator."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"one "
        yield b"two"

    def close(self) -> None:
        """Do nothing."""


def bare_wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with every kind of body."""
    path = environ["PATH_INFO"]
    environ["usagekit.route"] = path if path in BODIES else ""
    if path == "/raise":
        raise LookupError("on purpose")
    if path == "/late":
        return late(start_response)
    if path == "/endless":
        start_response("200 OK", text())
        return (b"x" * 65536 for _ in range(100_000))
    status = {"/304": "304 Not Modified", "/204": "204 No Content"}.get(path, "200 OK")
    if path == "/write":
        start_response(status, [*text(), ("Content-Length", "7")])(b"one ")
        return [b"two"]
    if path == "/sized":
        start_response(status, [*text(), ("Content-Length", "7")])
        return iter([b"one ", b"two"])
    start_response(status, text())
    if path == "/file":
        # A large one, so that its framing shows who sent it.
        opened = open(argparse.__file__, "rb")  # noqa: PTH123, SIM115  the server closes it
        wrapped: Iterable[bytes] = environ.get("wsgi.file_wrapper", iter)(opened)
        return wrapped
    body: Iterable[bytes] = BODIES.get(path, lambda: [b"hello"])()
    return body


def late(start_response: Callable[..., Any]) -> Iterator[bytes]:
    """Raise when half of the body is sent."""
    start_response("200 OK", text())
    yield b"half"
    raise LookupError("on purpose")


BODIES: dict[str, Callable[[], Any]] = {
    "/list": lambda: [b"hello"],
    "/list2": lambda: [b"one ", b"two"],
    "/tuple": lambda: (b"hello",),
    "/empty": list,
    "/generator": lambda: (part for part in (b"one ", b"two")),
    "/one": lambda: iter([b"hello"]),
    "/object": Closable,
    "/file": list,
    "/304": list,
    "/204": list,
    "/write": list,
    "/sized": list,
    "/raise": list,
}


async def bare_asgi(scope: Any, receive: Any, send: Any) -> None:
    """Answer in one part or in two."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    if scope["path"] == "/generator":
        await send({"type": "http.response.body", "body": b"one ", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})
    else:
        await send({"type": "http.response.body", "body": b"hello"})


def who(request: Any) -> str | None:
    """Say who asks."""
    return request.headers.get("x-user")  # type: ignore[no-any-return]


wsgi: Any = bare_wsgi
asgi: Any = bare_asgi
if "USAGE_DB" in os.environ:
    recorder = Recorder(SQLiteBackend(os.environ["USAGE_DB"]), identify=who)
    wsgi = WsgiUsage(bare_wsgi, recorder=recorder)
    asgi = AsgiUsage(bare_asgi, recorder=recorder)
