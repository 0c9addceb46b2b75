"""Make docs/images: the page over made-up usage of a small company's customers, in a real browser.

make screenshots
"""

from __future__ import annotations

import math
import random
import socket
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any

import uvicorn
from playwright.sync_api import sync_playwright
from starlette.applications import Starlette
from starlette.routing import Mount

from examples.running import asgi_served
from examples.team_app.__main__ import headers_of
from examples.team_app.app import COLUMNS, MEMBERS, create_app
from tests.browser.chromium import executable
from usagekit import Recorder, UsageEvent
from usagekit.admin import BearerAuth, questions, usage_app
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
TOKEN = "0Zt7-for-one-run-on-loopback-only-kQ"
DAYS = 62
SHOTS = {  # scheme, width and height, address
    "page-light": ("light", (1240, 1290), "?period=30d&tz=Europe/Berlin"),
    "page-dark": ("dark", (1240, 1060), "?period=30d&tz=Europe/Berlin&org=Northwind&show=cost_usd"),
    "page-narrow": ("light", (390, 1000), "?period=7d&tz=Europe/Berlin"),
}
TEAM_SHOT = ("light", (1240, 864))
ADMIN = "session-of-usr_ada"
PEOPLE = [
    (name, org)
    for org, people in {
        "Northwind": ("Ada Moreau", "Ben Okafor", "Chiara Rossi"),
        "Acme Robotics": ("Dev Patel", "Elif Kaya", "Farid Nasser"),
        "Globex": ("Grace Lindqvist", "Hana Sato"),
        "Initech": ("Ivo Novak", "Joana Silva"),
        "Hooli": ("Kofi Mensah", "Lena Vogel", "Mateo Cruz"),
        "Umbrella Foods": ("Nora Byrne", "Omar Haddad"),
        "Stark Studio": ("Priya Nair",),
    }.items()
    for name in people
]
MODELS = (
    ("openai", "gpt-5-mini", "0.0009"),
    ("anthropic", "claude-sonnet-4-6", "0.0071"),
    ("openai", "gpt-5", "0.0042"),
)
ROUTES = ("GET /documents", "GET /documents/{id}", "PUT /documents/{id}", "POST /documents", "GET /search", "GET /me")
COUNTRIES = ("DE", "FR", "NG", "IN", "TR", "JP")


def names(ids: list[str]) -> dict[str, str]:
    """Give people's names, as an app's own table would."""
    known = {f"usr_{number:04}": name for number, (name, _) in enumerate(PEOPLE)}
    return {user: known[user] for user in ids if user in known}


def events(now: datetime) -> Iterator[UsageEvent]:
    """Give two months of usage: busy days, calm nights and weekends, and slow growth."""
    rng = random.Random(7)
    people = range(len(PEOPLE))
    weights = [1 / (1 + person) ** 0.8 for person in people]
    for hour in range(DAYS * 24, 0, -1):
        time = now - timedelta(hours=hour)
        busy = 1 + math.sin((time.hour - 8) / 24 * 2 * math.pi)
        rate = 14 * busy * (0.35 if time.weekday() > 4 else 1) * (1.5 - hour / DAYS / 24)
        for _ in range(int(rng.gauss(rate, rate / 6 + 0.5))):
            person = rng.choices(people, weights)[0]
            yield from _visit(rng, person, time + timedelta(seconds=rng.uniform(0, 3599)))


def _visit(rng: random.Random, person: int, time: datetime) -> Iterator[UsageEvent]:
    known = rng.random() > 0.03
    who = {"user": f"usr_{person:04}", "org": PEOPLE[person][1]} if known else {"user": "", "org": ""}
    attributes = {"country": COUNTRIES[person % len(COUNTRIES)]} if known else {}
    status = rng.choices((200, 201, 304, 404, 422, 500), (88, 5, 3, 2.5, 1, 0.5))[0]
    route = rng.choices(ROUTES, (9, 14, 6, 2, 7, 4))[0] if known else "GET (unmatched)"
    latency_ms = rng.lognormvariate(3.3, 0.8)
    base: dict[str, Any] = {"time": time, **who, "attributes": attributes}
    yield UsageEvent(
        kind="request", event="request", status=status, route=route, latency_ms=latency_ms, response_bytes=2048, **base
    )
    if known and rng.random() < 0.22:
        provider, model, cost = rng.choices(MODELS, (6, 3, 1))[0]
        tokens = int(rng.lognormvariate(7.2, 0.7))
        is_priced = rng.random() > 0.002
        yield UsageEvent(
            kind="llm",
            event="chat",
            status=200 if rng.random() < 0.99 else 429,
            route="POST /chat",
            provider=provider,
            model=model,
            input_tokens=tokens,
            output_tokens=tokens // 5,
            latency_ms=rng.lognormvariate(7, 0.5),
            cost_usd=Decimal(cost) * tokens / 1000 if is_priced else None,
            cost_source="priced" if is_priced else "unpriced",
            **base,
        )
    for event, share in (("sync", 0.16), ("export", 0.04)):
        if known and rng.random() < share:
            yield UsageEvent(kind="named", event=event, status=200, route="", **base)


@contextmanager
def serving(path: Path, now: datetime) -> Iterator[str]:
    """Serve the page over such usage on this machine during a block; gives its address."""
    recorder = Recorder(SQLiteBackend(path), dimensions=["country"])
    for event in events(now):
        recorder.record(event)
    recorder.flush(60)
    site = usage_app(recorder, auth=BearerAuth(TOKEN), names=names)
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=[Mount("/admin/usage", site)]), log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/admin/usage/"
        finally:
            server.should_exit = True
            thread.join()
            recorder.close()


@contextmanager
def serving_team(path: Path, now: datetime) -> Iterator[str]:
    """Serve the example team_app, whose members were busy for two months, during a block; gives its page's address."""
    rng = random.Random(3)
    members = list(MEMBERS.values())
    with Recorder(SQLiteBackend(path)) as recorder:
        for hour in range(DAYS * 24, 0, -1):
            time = now - timedelta(hours=hour)
            busy = (1 + math.sin((time.hour - 8) / 24 * 2 * math.pi)) * (0.3 if time.weekday() > 4 else 1)
            for _ in range(int(rng.uniform(0, 4) * busy)):
                member = rng.choices(members, (5, 3, 2))[0]
                event = rng.choices(list(COLUMNS), (6, 6, 4, 3, 2))[0]
                status = 0 if event in {"sync", "chat"} else rng.choices((200, 422), (97, 3))[0]
                recorder.track(event, user=member.id, org=member.org, status=status, time=time)
        recorder.flush(60)
        with asgi_served(create_app(recorder)) as url:
            yield f"{url}/admin/usage/"


def shoot(browser: Browser, name: str, address: str, scheme: str, size: tuple[int, int], **context: Any) -> None:
    """Make one image."""
    width, height = size
    page = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": height},
        **context,
    )
    view = page.new_page()
    view.goto(address)
    view.screenshot(path=IMAGES / f"{name}.png")
    print(IMAGES / f"{name}.png")
    page.close()


def main() -> int:
    """Make the images."""
    IMAGES.mkdir(exist_ok=True)
    questions.SECONDS = 30  # a busy machine is not to be seen in the images
    now = datetime.now(UTC)
    with (
        TemporaryDirectory() as directory,
        serving(Path(directory) / "usage.db", now) as url,
        serving_team(Path(directory) / "team.db", now) as team_url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        credentials = {"username": "admin", "password": TOKEN}
        for name, (scheme, size, query) in SHOTS.items():
            shoot(browser, name, url + query, scheme, size, http_credentials=credentials)
        shoot(browser, "team_app", f"{team_url}?period=30d", *TEAM_SHOT, extra_http_headers=headers_of(ADMIN))
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
