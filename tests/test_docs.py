"""README.md and docs/*.md: every Python block runs, in order, in one namespace per file, and does what it says."""

from __future__ import annotations

import csv
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flask
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from werkzeug.test import Client

import usagekit
from tests.support.otlp import collecting
from tests.support.stores import eventually
from usagekit import Recorder, UsageEvent, usage
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.cli import options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [
    *PAGES,
    *(
        ROOT / name
        for name in (
            "CONTRIBUTING.md",
            "SECURITY.md",
            "CHANGELOG.md",
            "integrations/cloudflare-worker/README.md",
            "integrations/example-backend/README.md",
        )
    ),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
TESTED_ELSEWHERE = {"frameworks", "model-calls", "deploying", "analytics-engine"}  # test_page.py, test_frameworks.py
PUBLIC_MODULES = (
    "admin asgi backends backends.analytics_engine"
    " backends.analytics_engine.backend backends.memory backends.opentelemetry backends.sqlite django flask"
    " processors signals testing wsgi"
).split()

TOKEN = "fQ7-docs-only-2Zk9xVb4LmTr8HsWc1"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

Namespace = dict[str, Any]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in ("USAGEKIT_BACKEND", "USAGEKIT_PATH", "USAGEKIT_DISABLED", "USAGEKIT_REALTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USAGEKIT_ADMIN_TOKEN", TOKEN)
    yield
    usagekit.set_default_recorder(None)


def blocks(page: Path, language: str) -> list[str]:
    """Give the page's fenced blocks of a language, in order."""
    return [text for kind, text in _FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def run(page: Path, around: Callable[[str, Namespace, Callable[[], None]], None] | None = None) -> Namespace:
    """Run the Python blocks of a page; `around` may prepare each one, and must call what it is given."""
    namespace: Namespace = {"__name__": f"docs_{page.stem}"}
    for text in blocks(page, "python"):
        code = compile(text, f"{page.name}: {text.splitlines()[0]}", "exec")

        def execute(code: Any = code) -> None:
            exec(code, namespace)  # noqa: S102  what the page says

        if around is None:
            execute()
        else:
            around(text, namespace, execute)
    return namespace


def counted(source: Any, *by: str, **options: Any) -> dict[Any, int]:
    """Give the events by key."""
    report = usage(source, by=by, measures="events", **options)
    return {tuple(row[name] for name in by): row["events"] for row in report.rows}


def close(namespace: Namespace) -> None:
    """Close the recorders that a page made."""
    for value in list(namespace.values()):
        if isinstance(value, Recorder):
            value.close()


def test_readme() -> None:
    """The app of each framework counts its requests, `bind` attributes them, and the report prints what was tracked."""
    apps: Namespace = {}

    def around(text: str, namespace: Namespace, execute: Callable[[], None]) -> None:
        if text.startswith("# FastAPI"):
            namespace["app"], namespace["os"] = FastAPI(), os
            apps["fastapi"] = namespace["app"]
        elif text.startswith("# Flask"):
            namespace["app"] = apps["flask"] = flask.Flask("docs")
            namespace["is_admin"] = lambda request: request.headers.get("x-role") == "admin"
            apps["flask"].add_url_rule("/pages/<name>", view_func=lambda name: name, endpoint="page")
        if text.startswith(("# who", "# named")):
            path = f"/in-request/{len(apps)}"
            apps[path] = apps["fastapi"].post(path)(execute)
            with TestClient(apps["fastapi"]) as client:
                answer = client.post(path, headers={"x-user-id": "usr_header"})
            assert answer.status_code == 200
        else:
            execute()

    namespace = run(ROOT / "README.md", around)
    page = Client(apps["flask"]).get("/pages/one")
    with TestClient(apps["fastapi"]) as client:
        headers = [{"authorization": f"Bearer {token}"} for token in (TOKEN, "x")]
        pages = [client.get("/admin/usage/", headers=each).status_code for each in headers]
    site = Client(apps["flask"])
    pages += [site.get("/admin/usage/", headers={"x-role": role}).status_code for role in ("admin", "visitor")]

    assert (page.status_code, page.text) == (200, "one")
    assert pages == [200, 401, 200, 403]
    assert counted(namespace["recorder"], "kind", "event", "user", "org", "project", "route") == {
        ("request", "request", "usr_abc", "org_xyz", "proj_1", "POST /in-request/2"): 1,
        ("request", "request", "usr_header", "", "", "POST /in-request/3"): 1,
        ("named", "export", "usr_abc", "org_xyz", "", "POST /in-request/3"): 1,
        ("llm", "llm", "usr_header", "", "", "POST /in-request/3"): 1,
        ("request", "request", "", "", "", "GET /pages/<name>"): 1,
    }
    assert [(row["user"], row["events"]) for row in namespace["report"].rows] == [("usr_abc", 2)]
    close(namespace)


def test_index() -> None:
    """The whole app counts, attributes, and tells about itself."""
    namespace = run(ROOT / "docs/index.md")

    with TestClient(namespace["app"]) as client:
        item = client.get("/items/7", headers={"x-user-id": "ann"})
        export = client.post("/exports", headers={"x-user-id": "ann"})
        told = client.get("/usage")

    assert (item.json(), export.json()) == (7, "done")
    assert told.json() == {"events": 3, "quantity": 252.0}
    assert counted(namespace["recorder"], "event", "user", "org", "route") == {
        ("request", "ann", "acme", "GET /items/{item_id}"): 1,
        ("request", "ann", "globex", "POST /exports"): 1,
        ("export", "ann", "globex", "POST /exports"): 1,
        ("request", "", "", "GET /usage"): 1,
    }
    close(namespace)


def test_capture() -> None:
    """Each app of the page is called, and what the text around it says is in the ledger."""
    namespace = run(ROOT / "docs/capture.md", _call_each_app)
    recorder = namespace["recorder"]

    namespace["site"].before_request(lambda: setattr(flask.g, "user_id", "flask-user"))
    namespace["site"].add_url_rule("/", view_func=lambda: "hello", endpoint="home")
    assert Client(namespace["site"]).get("/").text == "hello"
    assert Client(namespace["wsgi_app"]).get("/", environ_overrides={"REMOTE_USER": "wsgi-user"}).text == "hello"

    assert counted(recorder, "event", "user", "org", "plan", "route", "status") == {
        ("api_export", "ann", "globex", "business", "POST /exports", 200): 1,
        ("export", "ann", "globex", "trial", "POST /exports", 0): 1,
        ("nightly_export", "ann", "acme", "", "", 0): 1,
        ("llm", "ann", "acme", "", "", 200): 1,
        ("payment", "ann", "", "", "", 0): 1,
        ("import", "bob", "", "", "", 0): 1,
        ("request", "", "", "", "GET /{path:path}", 200): 1,
        ("api", "", "", "", "GET (unmatched)", 404): 1,
        ("request", "", "", "", "GET (unmatched)", 404): 1,
        ("request", "", "", "", "GET /live", 101): 1,
        ("websocket_close", "", "", "", "GET /live", 101): 1,
        ("request", "bob", "acme", "free", "POST /render", 200): 1,
        ("render", "bob", "acme", "free", "POST /render", 0): 1,
        ("request", "flask-user", "", "", "GET /", 200): 1,
        ("request", "wsgi-user", "", "", "GET (unmatched)", 200): 1,
    }
    close(namespace)


def _call_each_app(text: str, namespace: Namespace, execute: Callable[[], None]) -> None:
    execute()
    if "app = FastAPI()" not in text:
        return
    with TestClient(namespace["app"]) as client:
        if "/exports" in text:
            answer = client.post("/exports", headers={"x-api-key": "key-1", "x-user-id": "ann"})
            assert answer.json() == "globex"
        elif "DEFAULT_EXCLUDED" in text:
            paths = ("/healthz", "/internal/jobs", "/v2/ping", "/v2/pings")
            assert [client.get(path).json() for path in paths] == [path[1:] for path in paths]
        elif "/api/" in text:
            assert [client.get(path).status_code for path in ("/api/x", "/other")] == [404, 404]
        elif "WebSocket" in text:
            with client.websocket_connect("/live") as socket:
                assert socket.receive_text() == "hello"
        elif "/render" in text:
            assert client.post("/render", headers={"x-user-id": "bob"}).json() == "done"


def test_asking() -> None:
    """What the page asserts holds; the written CSV and the JSON can be read again."""
    namespace = run(ROOT / "docs/asking.md")

    with Path("usage.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["user", "event", "events", "cost_usd"],
            ["ann", "llm", "1", "0.000900000"],
            ["bob", "export", "1", ""],
        ]
    assert json.loads(namespace["text"])["totals"] == {"events": 2, "cost_usd": "0.000900000"}
    assert [(row["org"], row["total_tokens"], row["cost_usd"]) for row in namespace["monthly"].rows] == [
        ("acme", 1500, Decimal("0.0009")),
    ]
    close(namespace)


def test_bills() -> None:
    """What the page asserts holds; the written CSV has the lines."""
    namespace = run(ROOT / "docs/bills.md")

    with Path("acme-2026-10.csv").open(newline="", encoding="utf-8") as file:
        assert [(row["day"], row["cost_usd"]) for row in csv.DictReader(file)] == [("2026-10-05", "0.000900000")]
    close(namespace)


def test_privacy() -> None:
    """What the page asserts holds, under each key and in the files."""
    namespace = run(ROOT / "docs/privacy.md")

    close(namespace)
    for file in Path().glob("usage.db*"):
        assert file.is_dir() or b"u_4711" not in file.read_bytes(), file  # long enough not to be there by chance


def test_admin() -> None:
    """Each mount answers those it should, a customer sees their own, and names are shown."""
    namespace = run(ROOT / "docs/admin.md")
    bearer = {"authorization": f"Bearer {TOKEN}"}

    with TestClient(namespace["app"]) as client:
        assert client.post("/exports").json() == "done"
        statuses = [client.get("/admin/usage/", headers=headers).status_code for headers in (bearer, {})]
        customers = [
            client.get("/usage/api/summary", headers={"x-api-key": key})
            for key in ("key-of-acme", "key-of-globex", "x")
        ]
    with TestClient(namespace["named"]) as client:
        named = client.get("/", headers=bearer)
    wsgi = Client(namespace["wsgi_app"])
    mounted = [wsgi.get(path, headers=bearer).status_code for path in ("/usage/", "/admin/usage/")]

    assert statuses == [200, 401]
    assert [customer.status_code for customer in customers] == [200, 200, 403]
    assert [customer.json()["total_requests"] for customer in customers[:2]] == [1, 0]
    assert "Ada Moreau" in named.text
    assert mounted == [200, 403]
    close(namespace)


def test_delivery() -> None:
    """Files lie where the page says and nobody else may read them; memory-only recorders hold what they accept."""
    namespace = run(ROOT / "docs/delivery.md")

    assert namespace["volatile"].track("export")
    assert namespace["volatile"].flush()
    assert counted(namespace["volatile"], "event") == {("export",): 1}
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (*Path().glob("usage.db*"), *Path().glob("*/*.journal"))
    }
    assert modes.pop("usage.db-journals") == 0o700
    assert len(modes) >= 3
    assert set(modes.values()) == {0o600}
    close(namespace)


def test_extending() -> None:
    """Processors change and drop, receivers see, the sink gets everything but the poison, the reader passes."""
    namespace = run(ROOT / "docs/extending.md")
    recorder, spooled = namespace["recorder"], namespace["spooled"]

    recorder.track("export", user="robot-7")
    assert namespace["seen"][0] == "export"
    hashed = namespace["pseudonyms"].hashed("ann")
    assert hashed.startswith("h1:")
    assert counted(recorder, "user") == {(hashed,): 1}
    assert namespace["sampling"].track("export")
    deadline = time.monotonic() + 20
    while (status := spooled.status())["durable"] < 3 or status["sinks"]["file"]["lag"]:
        assert time.monotonic() < deadline, status
        time.sleep(0.01)
    assert status["sinks"] == {"file": {"delivered": 2, "lag": 0, "dead_letters": 1}}
    assert eventually(lambda: sum(count for sink, count in namespace["settled"] if sink == "file") == 3)
    assert (namespace["refused"], namespace["failures"]) == ([], [])
    assert [user for user, _ in namespace["alerts"]] == ["ann"]
    lines = [json.loads(line) for line in Path("events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["event"], line["user"]) for line in lines] == [("export", "ann"), ("export", "bob")]
    assert namespace["report"].totals["events"] == 1
    suite = namespace["TestFileReader"]()
    tests = [test for name, test in inspect.getmembers(suite, inspect.ismethod) if name.startswith("test_")]
    assert len(tests) > 20
    for test in tests:
        test()
    close(namespace)


def test_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded is in the collector: as a metric by the recorder's backend, as a record by the other."""
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        namespace = run(ROOT / "docs/opentelemetry.md")
        recorder = namespace["recorder"]
        recorder.track("export", user="ann", quantity=3)
        assert recorder.flush()
        assert eventually(lambda: recorder.status()["sinks"]["opentelemetry"]["delivered"] == 1)
        namespace["with_logs"].write([UsageEvent(id="x-1", event="export", user="bob")], batch_id="1")
        close(namespace)
        namespace["meter_provider"].shutdown()
        namespace["logger_provider"].shutdown()

    assert collector.sums("usagekit/usagekit.quantity", "usagekit.event") == {("export",): 4}
    assert [values["user.id"] for _, values in collector.records] == ["bob"]


def test_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder of the environment is the one that `track` uses."""
    monkeypatch.setenv("USAGEKIT_BACKEND", "sqlite:///usage.db")

    namespace = run(ROOT / "docs/configuration.md")

    assert usagekit.track("export", project="alpha")
    assert namespace["recorder"].flush()
    assert counted(SQLiteBackend("usage.db"), "project") == {("alpha",): 1}
    close(namespace)


def test_retention() -> None:
    """What is kept counts; the recorder knows how long."""
    namespace = run(ROOT / "docs/retention.md")

    assert [row["user"] for row in namespace["report"].rows] == ["ann"]
    assert namespace["recorder"].backends[0].retention == (90, 800)
    close(namespace)


def test_cloudflare() -> None:
    """Where nothing is set the backend does nothing, and the ledger beside it has the event."""
    namespace = run(ROOT / "docs/cloudflare.md")

    assert namespace["accepted"]
    assert counted(namespace["recorder"], "event", "project") == {("export", "alpha"): 1}
    assert namespace["recorder"].status()["sinks"] == {}
    assert namespace["to_calls"].dimensions == ("project",)
    close(namespace)


def test_testing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page asserts holds, also what it asserts within a test and a suite of its own."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    namespace = run(ROOT / "docs/testing.md")

    with namespace["ProviderServer"]() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        namespace["test_summaries"](server)
    for suite in (namespace["TestMyBackend"](), namespace["TestShelf"]()):
        tests = [test for name, test in inspect.getmembers(suite, inspect.ismethod) if name.startswith("test_")]
        assert len(tests) >= 7
        for test in tests:
            test()
    close(namespace)


def test_every_page_is_run() -> None:
    """A page with Python blocks has a test of its own here."""
    tested = {name.removeprefix("test_") for name in globals()} | TESTED_ELSEWHERE

    untested = [page.name for page in PAGES if blocks(page, "python") and page.stem.lower() not in tested]

    assert untested == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(page: Path) -> None:
    """Every `usagekit` command of a page ends well in a folder with a ledger."""
    Recorder(SQLiteBackend("usage.db")).close()
    lines = [line for text in blocks(page, "sh") for line in text.splitlines() if line.startswith("usagekit ")]

    for line in lines:
        command = [sys.executable, "-m", *shlex.split(line, comments=True)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), line


# Nothing public is missing, and nothing points nowhere.


def _text(pages: Iterable[Path]) -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def test_every_public_name_is_documented() -> None:
    """What is in an `__all__` that users import from appears in README or docs."""
    text = _text(PAGES)
    names = {name for module in PUBLIC_MODULES for name in importlib.import_module(f"usagekit.{module}").__all__}
    names |= set(usagekit.__all__)

    missing = sorted(name for name in names if not re.search(rf"\b{name}\b", text))

    assert missing == []


def test_every_option_of_every_command_is_documented() -> None:
    """docs/cli.md has a section for each command, with each of its options."""
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in text.split("\n## ")[1:]}
    commands = next(action.choices for action in options.parser()._actions if isinstance(action.choices, dict))

    missing = [
        (name, option)
        for name, parser in commands.items()
        for option in _options(parser)
        if f"`{option}" not in sections[f"usagekit {name}"]
    ]

    names = """report statement export sql serve status drain rollup purge erase reprice analytics-engine backfill
        reconcile backends"""
    assert set(commands) == set(names.split())
    assert missing == []


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings if option not in {"-h", "--help"}]


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/configuration.md"], ids=lambda page: page.name)
def test_the_environment_table_is_that_of_the_source(page: Path) -> None:
    """Neither a variable that is read and not told, nor one that is told and not read."""
    read = {
        name
        for source in (ROOT / "src/usagekit").rglob("*.py")
        for name in re.findall(
            r"(?:environ(?:\.get\(|\[)|\bswitch\()\"(USAGEKIT_\w+)", source.read_text(encoding="utf-8")
        )
    }

    told = set(re.findall(r"^\| `(USAGEKIT_\w+)", page.read_text(encoding="utf-8"), re.MULTILINE))

    assert told == read


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_resolve(page: Path) -> None:
    """Files exist, and the headings that are linked to."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = Path(os.path.normpath(page.parent / path)) if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)

    assert broken == []


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
