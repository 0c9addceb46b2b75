"""A real Chromium, a real server, and the page over usage with everything in it that somebody might try."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.chromium import MISSING, found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page

TOKEN = "kV3-1rXhQm7yTz0LcB9sJdW2nPfA6uGe"
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE users; --",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
    "x" * 10_000,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give the machine's own Chromium, driven by Playwright.

    Not for the session: as long as Playwright is there, an event loop runs in this thread, which others need.
    """
    path = found()
    if path is None:
        pytest.skip(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root may not use the sandbox.
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


class Watch:
    """A page, and what a careful visitor would notice on it."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", self._close)
        page.on("request", lambda request: self._check(request.url, origin))

    def _hear(self, message: ConsoleMessage) -> None:
        # Chromium says so of every error page, and of nothing else.
        if "the server responded with a status of 400" not in message.text:
            self.complaints.append(f"console: {message.text}")

    def _close(self, dialog: Dialog) -> None:
        self.complaints.append("a dialog opened")
        dialog.dismiss()

    def _check(self, url: str, origin: str) -> None:
        if not url.startswith((origin, "data:")):
            self.complaints.append(f"request to {url}")


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Any]]:
    """Give what opens a page, logged in; nothing may be complained about when the test ends."""
    watches = []

    @contextmanager
    def opened(url: str, *, width: int = 1240, **options: Any) -> Iterator[Page]:
        options.setdefault("http_credentials", {"username": "any", "password": TOKEN})
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        page = context.new_page()
        page.set_default_timeout(20_000)
        watches.append(Watch(page, "/".join(url.split("/")[:3])))
        try:
            page.goto(url)
            yield page
        finally:
            context.close()

    yield opened
    assert [complaint for watch in watches for complaint in watch.complaints] == []


def events(now: datetime) -> Iterator[dict[str, Any]]:
    """Give what is recorded: three ordinary users, thirty more, and the hostile."""
    ordinary = {"kind": "request", "event": "request", "status": 200, "route": "GET /items", "latency_ms": 20.0}
    call = {"kind": "llm", "event": "chat", "status": 200, "provider": "openai", "model": "gpt-5-mini"}
    paid = call | {"time": now - timedelta(hours=2), "input_tokens": 100, "cost_usd": "0.5"}
    unknown = {"user": "", "org": "", "route": "GET (unmatched)", "status": 404}
    for number, (user, org) in enumerate((("ann", "acme"), ("bob", "acme"), ("carla", "globex"))):
        for hour in range(3 - number):
            yield ordinary | {"user": user, "org": org, "time": now - timedelta(hours=hour + 1)}
        yield paid | {"user": user, "org": org}
    yield ordinary | {"user": "ann", "org": "acme", "status": 500, "time": now - timedelta(days=3)}
    yield {"kind": "named", "event": "sync", "user": "bob", "org": "acme", "time": now - timedelta(hours=5)}
    yield ordinary | unknown | {"time": now - timedelta(hours=1)}
    for number in range(30):
        yield ordinary | {"user": f"user-{number:02}", "org": "many", "time": now - timedelta(days=20)}
    for text in HOSTILE:
        named = dict.fromkeys(("user", "org", "model", "provider", "event", "route"), text)
        yield call | named | {"attributes": {"plan": text}, "time": now - timedelta(days=10)}


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of the page in a FastAPI app, served by uvicorn."""
    from fastapi import FastAPI

    from tests.support.asgi import uvicorn_serving
    from usagekit import Recorder, UsageEvent
    from usagekit.admin import BearerAuth, questions, usage_app
    from usagekit.asgi import UsageMiddleware
    from usagekit.backends.sqlite import SQLiteBackend

    with Recorder(SQLiteBackend(tmp_path_factory.mktemp("browser") / "usage.db"), dimensions=["plan"]) as recorder:
        for event in events(datetime.now(UTC)):
            assert recorder.record(UsageEvent(**event))
        assert recorder.flush()
        app = FastAPI()
        app.add_middleware(UsageMiddleware, recorder=recorder)
        named = {"ann": "Ann Abel", HOSTILE[2]: "<b>Bobby</b>"}
        app.mount("/admin/usage", usage_app(recorder, auth=BearerAuth(TOKEN), names=lambda _ids: named))
        with pytest.MonkeyPatch.context() as patched, uvicorn_serving(app) as port:
            patched.setattr(questions, "SECONDS", 60.0)  # a busy machine is not the subject
            yield f"http://127.0.0.1:{port}/admin/usage/"
