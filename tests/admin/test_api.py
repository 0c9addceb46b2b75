"""The JSON and CSV answers."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.admin.conftest import NOW
from tests.admin.shells import SHELLS, TOKEN, get, of_asgi
from usagekit import Recorder, UsageEvent, usage
from usagekit.admin import BearerAuth, questions
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.admin.shells import Answer

START, END = (NOW - timedelta(days=3)).isoformat(), (NOW + timedelta(days=1)).isoformat()
RANGE = f"start={START.replace('+', '%2B')}&end={END.replace('+', '%2B')}"


def told(answer: Answer) -> Any:
    """Give what a good answer holds."""
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer.text
    return json.loads(answer.body)


def test_usage_is_the_whole_algebra(app: Any, recorded: Recorder) -> None:
    """The same as asking in Python: groups, measures, filters, order, limit, and what the limit cut."""
    path = f"/api/usage?by=user,event&measures=events,cost_usd&order=-events&limit=2&user=ann&user=bob&{RANGE}"
    expected = usage(
        recorded,
        by=["user", "event"],
        measures=["events", "cost_usd"],
        order="-events",
        limit=2,
        where={"user": ["ann", "bob"]},
        start=START,
        end=END,
    )

    answer = told(get(app, path))

    assert answer == json.loads(expected.to_json()) | {"left_out": ["3 of 5 rows, beyond limit=2"]}
    assert answer["rows"] == [
        {"user": "ann", "event": "request", "events": 4, "cost_usd": None},
        {"user": "ann", "event": "chat", "events": 1, "cost_usd": "0.001500000"},
    ]


def test_an_empty_filter_is_the_unknown(app: Any) -> None:
    """`user=` keeps what is unattributed."""
    answer = told(get(app, f"/api/usage?by=route&measures=events&user=&{RANGE}"))

    assert answer["rows"] == [{"route": "GET (unmatched)", "events": 1}]


def test_every_shell_gives_the_same_bytes(recorded: Recorder) -> None:
    """JSON, CSV and errors alike, headers too."""
    for path in (f"/api/usage?by=user&{RANGE}", f"/api/usage?by=user&format=csv&{RANGE}", "/api/usage?by=x", "/none"):
        answers = [get(build(recorded, auth=BearerAuth(TOKEN)), path) for build in SHELLS.values()]
        seen = {
            (answer.status, answer.body, tuple(sorted((name.lower(), value) for name, value in answer.headers.items())))
            for answer in answers
        }
        assert len(seen) == 1, seen


def test_csv_is_a_file_that_is_safe_to_open(shell: Callable[..., Any], tmp_path: Path) -> None:
    """An attachment; what a spreadsheet would run as a formula is text."""
    with Recorder(SQLiteBackend(tmp_path / "usage.db")) as recorder:
        recorder.track("export", user="=cmd|'/c calc'!A0")
        answer = get(shell(recorder, auth=BearerAuth(TOKEN)), "/api/usage?by=user&measures=events&format=csv")

    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["content-disposition"] == 'attachment; filename="usage.csv"'
    assert list(csv.reader(io.StringIO(answer.text))) == [["user", "events"], ["'=cmd|'/c calc'!A0", "1"]]


def test_summary(app: Any) -> None:
    """Totals under their names, and how they divide."""
    answer = told(get(app, "/api/summary?period=7d"))

    assert {name: value for name, value in answer.items() if not isinstance(value, (list, dict))} == {
        "total_requests": 9,
        "successful_requests": 6,
        "failed_requests": 2,
        "success_rate": 0.75,
        "active_users": 2,
        "input_tokens": 1010,
        "output_tokens": 205,
        "total_tokens": 1215,
        "cost_usd": "0.001500000",
        "unpriced": 1,
        "exact": True,
        "source": "sqlite",
        "complete_from": None,
    }
    assert [(entry["kind"], entry["events"], entry["failed"]) for entry in answer["kinds"]] == [
        ("request", 6, 2),
        ("llm", 2, 0),
        ("named", 1, 0),
    ]
    assert [entry["event"] for entry in answer["events"]] == ["request", "chat", "sync"]
    expected = {"events": 2, "succeeded": 2, "failed": 0, "input_tokens": 1010, "output_tokens": 205}
    expected |= {"total_tokens": 1215, "unpriced": 1}
    assert answer["models"] == [{"model": "gpt-5-mini", "cost_usd": "0.001500000", **expected}]
    assert answer["providers"] == [{"provider": "openai", "cost_usd": "0.001500000", **expected}]
    assert answer["period"]["tz"] == "UTC"


def test_summary_of_nothing(shell: Callable[..., Any], tmp_path: Path) -> None:
    """Zeros, None where nothing is known, empty lists."""
    with Recorder(SQLiteBackend(tmp_path / "usage.db")) as recorder:
        answer = told(get(shell(recorder, auth=BearerAuth(TOKEN)), "/api/summary?period=30d&tz=Asia/Kolkata"))

    assert (answer["total_requests"], answer["active_users"], answer["success_rate"], answer["cost_usd"]) == (
        0,
        0,
        None,
        None,
    )
    assert [answer[name] for name in ("kinds", "providers", "models", "events")] == [[], [], [], []]


def test_health_is_the_status(app: Any, recorded: Recorder) -> None:
    """What `recorder.status()` says."""
    assert told(get(app, "/api/health")) == recorded.status()


def test_a_plain_reader_can_be_asked(shell: Callable[..., Any], recorded: Recorder) -> None:
    """A backend without a recorder; health is what the ledger says of itself, or nothing."""
    ledger = shell(SQLiteBackend(recorded.backends[0].ledger_path), auth=BearerAuth(TOKEN))
    memory = shell(MemoryBackend(), auth=BearerAuth(TOKEN))

    assert told(get(ledger, "/api/summary"))["total_requests"] == 9
    assert told(get(ledger, "/api/health"))["durable"] == 9
    assert told(get(memory, "/api/summary"))["total_requests"] == 0
    assert told(get(memory, "/api/health")) == {}


BAD = {
    "/api/usage?by=client": "unknown dimension 'client'; use one of kind, user, org",
    "/api/usage?measures=visits": "unknown measure 'visits'; use one of events,",
    "/api/usage?measures=": "measures is empty; name some",
    "/api/usage?order=": "cannot order by ''",
    "/api/usage?period=7w": "period",
    "/api/usage?period=7d&days=2": "period and days exclude each other",
    "/api/usage?days=many": "bad days 'many'; use a whole number",
    "/api/usage?start=2026-02-01&end=2026-01-01": "is not before end",
    "/api/usage?period=401d": "more than 400 days",
    "/api/usage?start=2020-01-01": "more than 400 days",
    "/api/usage?limit=1001": "bad limit 1001; use 1 to 1000",
    "/api/usage?limit=0": "bad limit 0",
    "/api/usage?limit=x": "bad limit 'x'",
    "/api/usage?tz=Mars/Olympus": "unknown time zone",
    "/api/usage?format=xml": "unknown format 'xml'; use json or csv",
    "/api/usage?order=color": "cannot order by 'color'",
    "/api/usage?origin=moon": "unknown origin 'moon'",
    "/api/usage?usr=ann": "unknown parameter 'usr'; use period, days, start, end, by",
    "/api/usage?status=teapot": "bad status 'teapot'",
    "/api/usage?" + "&".join(["user=x"] * 300): "more than 200 parameters",
    "/api/summary?by=user": "unknown parameter 'by'",
    "/api/health?by=user": "unknown parameter 'by'",
}


@pytest.mark.parametrize(("path", "problem"), BAD.items(), ids=lambda text: text[:40])
def test_errors_say_what_is_allowed(recorded: Recorder, path: str, problem: str) -> None:
    """As problem JSON, RFC 9457."""
    answer = get(of_asgi(recorded, auth=BearerAuth(TOKEN)), path)
    told_problem = json.loads(answer.body)

    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert told_problem.keys() == {"type", "title", "status", "detail"}
    assert (told_problem["status"], told_problem["title"]) == (400, "Bad Request")
    assert problem in told_problem["detail"]


def test_an_open_range_ends_at_400_days(recorded: Recorder) -> None:
    """And says so."""
    answer = told(get(of_asgi(recorded, auth=BearerAuth(TOKEN)), "/api/usage?measures=events"))

    assert answer["rows"] == [{"events": 9}]
    assert answer["left_out"] == [f"what is earlier than {answer['period']['start'][:19]}+00:00"]


@pytest.mark.parametrize("path", ["/api/usage?end=0001-01-02", "/?to=0001-01-01", "/?from=0001-01-01&to=0001-01-01"])
def test_the_first_days_of_the_calendar_are_a_mistake_of_whoever_asks(recorded: Recorder, path: str) -> None:
    """Not one of ours."""
    assert get(of_asgi(recorded, auth=BearerAuth(TOKEN)), path).status in {200, 400}


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/usage/"])
def test_unknown_paths(app: Any, path: str) -> None:
    """There are five, and each has one spelling."""
    assert get(app, path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods(app: Any, method: str) -> None:
    """405 with what is allowed."""
    answer = get(app, "/api/summary", method)

    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_head_is_get_without_a_body(app: Any) -> None:
    """The same length is announced."""
    path = f"/api/usage?by=user&{RANGE}"
    head, whole = get(app, path, "HEAD"), get(app, path)

    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.body))


@pytest.mark.parametrize("path", ["/", "/api/usage", "/api/usage?format=csv", "/nothing", "/api/usage?by=x"])
def test_every_answer_is_kept_safe(app: Any, path: str) -> None:
    """Not stored, not framed, not sniffed, nothing loaded from anywhere."""
    headers = get(app, path).headers

    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "script" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert "access-control-allow-origin" not in headers


def test_what_takes_too_long_is_told(recorded: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API says so; the page shows the parts it has, and names those it has not."""
    monkeypatch.setattr(questions, "SECONDS", 1e-9)
    app = of_asgi(recorded, auth=BearerAuth(TOKEN))

    answer, view = get(app, "/api/usage?by=user"), get(app)

    assert answer.status == 422
    assert "took longer" in json.loads(answer.body)["detail"]
    assert view.status == 200
    assert "Not everything could be read within a second" in view.text
    assert "There was no time left for the chart" in view.text


def test_a_ledger_that_is_gone_is_said(shell: Callable[..., Any], tmp_path: Path) -> None:
    """503, with the path for the operator, and without it for a customer."""
    source = SQLiteBackend(tmp_path / "gone.db")
    operator = get(shell(source, auth=BearerAuth(TOKEN)), "/api/summary")
    customer = get(shell(source, auth=BearerAuth(TOKEN), scope=lambda _: {"org": "acme"}), "/api/summary")

    assert (operator.status, customer.status) == (503, 503)
    assert "gone.db" in operator.text
    assert "gone.db" not in customer.text


def test_a_recorder_that_does_nothing_has_nothing(shell: Callable[..., Any]) -> None:
    """The page works without any backend."""
    app = shell(Recorder(), auth=BearerAuth(TOKEN))

    assert told(get(app, "/api/summary"))["total_requests"] == 0
    assert get(app).status == 200


def test_dimensions_with_names_of_parameters() -> None:
    """A reader's own `page` or `format` is filtered by as `where.page`."""
    source = MemoryBackend(dimensions=["page", "format"])
    attributes: list[dict[str, str]] = [{"page": "home", "format": "pdf"}, {"page": "about"}]
    source.write(
        [UsageEvent(kind="named", event="view", time=NOW, attributes=each) for each in attributes], batch_id="1"
    )
    app = of_asgi(source, auth=BearerAuth(TOKEN))

    answer = told(get(app, "/api/usage?by=page,format&measures=events&where.page=home"))
    shown = get(app, "/?where.page=home&by=format")

    assert answer["rows"] == [{"page": "home", "format": "pdf", "events": 1}]
    assert "?period=7d&amp;where.page=home&amp;where.format=pdf" in shown.text
