"""Two small apps that count their requests in `USAGEKIT_BACKEND`; the user is what the request says it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Flask

from usagekit import Recorder
from usagekit.asgi import UsageMiddleware as AsgiMiddleware
from usagekit.flask import init_app

if TYPE_CHECKING:
    from usagekit.request import AsgiRequest, WsgiRequest


def who(request: AsgiRequest | WsgiRequest) -> str:
    """Give the request's number."""
    return request.headers["x-number"]


recorder = Recorder(identify=who)
recorder.track("loaded")  # with --preload, the importing thread begins here, before the fork

flask_app = Flask(__name__)
init_app(flask_app, recorder)


@flask_app.get("/")
def index() -> str:
    """Answer at once."""
    return "ok"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer at once; take part in the server's start and end."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


asgi_app = AsgiMiddleware(answer, recorder=recorder)
