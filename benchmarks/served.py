"""The apps that uvicorn serves, made in its process."""

from __future__ import annotations

import os
from time import process_time_ns
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from benchmarks.apps import AsgiIdeal, AsgiNoop, user_and_org_of
from usagekit import Recorder, usage
from usagekit.asgi import UsageMiddleware
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request


def noop() -> Starlette:
    """Give the app in a middleware that does nothing."""
    app = _app(int, int)
    app.add_middleware(AsgiNoop)
    return app


def ideal() -> Starlette:
    """Give the app in the least that knows what a request event knows."""
    app = _app(int, int)
    app.add_middleware(AsgiIdeal)
    return app


def recorded() -> Starlette:
    """Give the app with usagekit, in a ledger of this name."""
    recorder = Recorder(SQLiteBackend(os.environ["BENCHMARKS_LEDGER"]))

    def known() -> int:
        assert recorder.flush(60)
        rows = usage(recorder, by=["route", "user", "org"]).rows
        return sum(
            row["events"] for row in rows if row["route"] == "GET /items/{item_id}" and row["user"] and row["org"]
        )

    app = _app(lambda: recorder.flush(60), known)
    app.add_middleware(UsageMiddleware, recorder=recorder, identify=user_and_org_of, exclude=["/cpu", "/recorded"])
    return app


def _app(settle: Callable[[], object], known: Callable[[], int]) -> Starlette:
    async def item(request: Request) -> JSONResponse:
        return JSONResponse({"id": request.path_params["item_id"], "name": "an item", "price": 9.5})

    def spent(_request: Request) -> PlainTextResponse:
        settle()
        return PlainTextResponse(str(process_time_ns()))

    def recorded(_request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(known()))

    return Starlette(routes=[Route("/items/{item_id}", item), Route("/cpu", spent), Route("/recorded", recorded)])
