"""A small FastAPI app with usagekit in it: what you would write yourself."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import chat
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from usagekit import Identity, Recorder, bind, record_tokens, track
from usagekit.admin import BearerAuth, usage_app
from usagekit.asgi import UsageMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usagekit.request import AsgiRequest

ORGS = {"ann": "acme", "bob": "acme", "carla": "globex", "dai": "globex", "erik": "initech"}
NAMES = {"ann": "Ann Abel", "bob": "Bob Brandt", "carla": "Carla Conti", "dai": "Dai Davies", "erik": "Erik Eriksen"}
ITEMS = {1: "anvil", 2: "rocket skates", 3: "giant magnet"}


def identify(request: AsgiRequest) -> Identity | None:
    """Say who asks. A real app looks at its session or its token."""
    user = request.headers.get("x-user-id")
    return Identity(user, ORGS.get(user)) if user else None


recorder = Recorder.from_env(identify=identify, dimensions=["plan"])

app = FastAPI(title="usagekit demo")
app.add_middleware(UsageMiddleware, recorder=recorder)
app.include_router(chat.router)  # model calls: see chat.py
app.mount(
    "/admin/usage", usage_app(recorder, auth=BearerAuth(os.environ["USAGEKIT_ADMIN_TOKEN"]), names=lambda _: NAMES)
)


class Order(BaseModel):
    """What `POST /orders` takes."""

    item: int
    amount: int


@app.get("/items")
def list_items() -> dict[int, str]:
    """A plain answer."""
    return ITEMS


@app.get("/items/{item_id}")
def read_item(item_id: int) -> str:
    """404 for an item that is not there, 422 for an id that is no number."""
    if item_id not in ITEMS:
        raise HTTPException(404, "no such item")
    return ITEMS[item_id]


@app.post("/orders", status_code=201)
async def place_order(order: Order) -> Order:
    """Take an order, and say on which plan it came; the request's event tells it too."""
    bind(plan="business" if order.amount > 10 else "free")
    return order


@app.post("/items/{item_id}/summary")
def summarise(item_id: int) -> str:
    """Record a model call whose numbers are at hand; a real app has them from its provider's answer."""
    tokens = 20 * len(ITEMS[item_id])
    record_tokens(model="gpt-5-mini", provider="openai", input_tokens=1200, output_tokens=tokens, cost_usd="0.00048")
    return f"{ITEMS[item_id]}: handle with care"


@app.post("/orgs/{org_id}/export")
def export(org_id: str) -> dict[str, int]:
    """Record an event of our own; user, org and route are those of the request."""
    rows = 40 * len(org_id)
    track("export", status=200, quantity=rows)
    return {"rows": rows}


@app.get("/feed")
def feed() -> StreamingResponse:
    """Stream lines for a while; some clients will not wait for the last one."""

    def lines() -> Iterator[str]:
        for number in range(30):
            yield f"line {number}\n"
            time.sleep(0.01)

    return StreamingResponse(lines(), media_type="text/plain")


@app.get("/reports/broken")
def broken() -> None:
    """Fail, as apps do."""
    raise RuntimeError("this report has a bug")
