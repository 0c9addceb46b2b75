"""`AnalyticsEngineBackend`: what it needs, what it sends, and what it makes of every answer."""

from __future__ import annotations

import hashlib
import hmac
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stores import eventually, query, stored_events
from usagekit import Recorder, UsageEvent, usage
from usagekit._store import delivery as deliveries
from usagekit.backends import backend_from_url
from usagekit.backends.analytics_engine.backend import AnalyticsEngineBackend
from usagekit.backends.analytics_engine.layout import Layout
from usagekit.backends.analytics_engine.sink import IngestError, IngestSink
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import ConfigurationError, Rejected, RetryAfter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "k" * 32
VARIABLES = (
    "USAGEKIT_BACKEND",
    "USAGEKIT_DATASET",
    "USAGEKIT_INGEST_URL",
    "USAGEKIT_INGEST_KEY",
    "CLOUDFLARE_ACCOUNT_ID",
    "CLOUDFLARE_API_TOKEN",
)
TAKEN: tuple[int, Any, dict[str, str]] = (200, {"points": 1, "written": 1, "refused": 0, "replay": False}, {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a ledger may lie."""
    return tmp_path / "usage.db"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@dataclass
class Endpoint:
    """Answers posts as it is told, the last answer for ever, and keeps what it was sent."""

    answers: list[tuple[int, Any, dict[str, str]]]
    url: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def next(self) -> tuple[int, bytes, dict[str, str]]:
        """Give status, body and headers of the next answer."""
        status, body, headers = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        return status, body if isinstance(body, bytes) else json.dumps(body).encode(), headers


@contextmanager
def answering(*answers: tuple[int, Any, dict[str, str]]) -> Iterator[Endpoint]:
    """Serve such an endpoint on loopback during a block."""
    endpoint = Endpoint(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            endpoint.requests.append((self.path, dict(self.headers.items()), body))
            status, answer, headers = endpoint.next()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sink_to(endpoint: Endpoint, layout: Layout | None = None) -> IngestSink:
    """Make a sink; by default of a layout with a user and a number."""
    small = layout or Layout(index="user", blobs=["user"], doubles=["input_tokens"])
    return IngestSink(endpoint.url + "/usage/", KEY, "usagekit", lambda: small)


def test_a_batch_is_signed_and_every_retry_has_the_same_body() -> None:
    """Only time and signature are of the attempt."""
    events = [UsageEvent(user="añn", input_tokens=5), UsageEvent(user="bob")]
    busy = (503, b"", {"retry-after": "7"})
    with answering(busy, (200, {"points": 2, "written": 2, "refused": 0, "replay": True}, {})) as endpoint:
        sink = sink_to(endpoint)
        with pytest.raises(RetryAfter) as asked:
            sink.write(events, batch_id="batch-1")

        sink.write(events, batch_id="batch-1")

        sink.close()
    assert asked.value.seconds == 7
    assert [path for path, _, _ in endpoint.requests] == ["/usage/v1/batches"] * 2
    assert endpoint.requests[0][2] == endpoint.requests[1][2]
    for _, headers, body in endpoint.requests:
        assert json.loads(body) == {
            "dataset": "usagekit",
            "points": [
                {"indexes": ["añn"], "blobs": ["añn"], "doubles": [5]},
                {"indexes": ["bob"], "blobs": ["bob"], "doubles": [0]},
            ],
        }
        now = headers["usagekit-time"]
        message = f"{now}.batch-1.{hashlib.sha256(body).hexdigest()}"
        assert headers["usagekit-signature"] == hmac.new(KEY.encode(), message.encode(), "sha256").hexdigest()
        assert abs(datetime.now(UTC).timestamp() - int(now)) < 60


def test_only_events_that_the_layout_takes_are_sent() -> None:
    """A batch without any is settled without a word."""
    layout = Layout(index="user", doubles=["input_tokens"], where={"kind": "llm"})
    with answering(TAKEN) as endpoint:
        sink = sink_to(endpoint, layout)

        sink.write([UsageEvent(kind="named", user="ann")], batch_id="none")
        sink.write([UsageEvent(kind="named", user="ann"), UsageEvent(kind="llm", user="bob")], batch_id="one")

        sink.close()
    assert [json.loads(body)["points"] for _, _, body in endpoint.requests] == [
        [{"indexes": ["bob"], "blobs": [], "doubles": [0]}]
    ]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((413, {"error": "a batch has at most 5 bytes"}, {}), Rejected, "a batch has at most 5 bytes"),
        ((422, {"error": "point 0: no"}, {}), Rejected, "point 0: no"),
        ((413, b"<html>", {}), IngestError, "the ingest Worker answered 413"),
        ((422, {}, {}), IngestError, "the ingest Worker answered 422"),
        (
            (401, {"error": "no"}, {}),
            IngestError,
            "answered 401: no; check USAGEKIT_INGEST_KEY and this machine's clock",
        ),
        ((404, b"", {}), IngestError, "answered 404; check USAGEKIT_INGEST_URL and the dataset"),
        ((302, b"", {"location": "/elsewhere"}), IngestError, "answered 302"),
        ((500, b"\xff", {}), IngestError, "answered 500"),
        ((503, b"", {"retry-after": "soon"}), IngestError, "answered 503"),
        ((429, b"", {"retry-after": "90"}), RetryAfter, "try again in 90 s"),
        ((200, {"points": 1, "written": 0, "refused": 0}, {}), RetryAfter, "try again in 0 s"),
        ((200, b'{"points": 1, "wri', {}), IngestError, "answered 200 and not as the ingest Worker does"),
        ((200, [], {}), IngestError, "answered 200 and not as the ingest Worker does"),
        ((200, {"written": "1", "refused": 0}, {}), IngestError, "answered 200 and not as the ingest Worker does"),
    ],
)
def test_every_other_answer_says_whether_to_try_again(
    answer: tuple[int, Any, dict[str, str]], error: type[Exception], message: str
) -> None:
    """Only the Worker's own word is a rejection; whatever else is wrong may be put right."""
    with answering(answer) as endpoint:
        sink = sink_to(endpoint)

        with pytest.raises(error, match=message):
            sink.write([UsageEvent()], batch_id="batch")

        sink.close()


def test_retry_after_may_be_a_date() -> None:
    """RFC 9110 allows either; one that has passed is now."""
    dates = [format_datetime(datetime.now(UTC) + timedelta(seconds=n), usegmt=True) for n in (120, -120)]
    with answering(*((503, b"", {"retry-after": date}) for date in dates)) as endpoint:
        sink = sink_to(endpoint)
        asked = []
        for _ in dates:
            with pytest.raises(RetryAfter) as caught:
                sink.write([UsageEvent()], batch_id="batch")
            asked.append(caught.value.seconds)
        sink.close()

    assert 110 < asked[0] <= 120
    assert asked[1] == 0


def test_points_that_were_refused_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """The batch is settled: to send it again would change nothing."""
    with answering((200, {"points": 1, "written": 0, "refused": 1}, {})) as endpoint:
        sink = sink_to(endpoint)
        for n in range(3):
            sink.write([UsageEvent()], batch_id=f"batch-{n}")
        sink.close()

    said = [record.getMessage() for record in caplog.records if record.name == "usagekit"]
    assert len(said) == 1
    assert said[0].startswith("analytics-engine: the Worker's runtime refused 1 of 1 points; see its log")


def test_a_batch_that_is_too_large_is_sent_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """250 events with long texts; what no point can hold is a dead letter, and nothing else is."""
    monkeypatch.setattr(deliveries, "FIRST_WAIT", 0.001)
    layout = Layout(index="user", blobs=["user", "note", "more"], doubles=["response_bytes"])
    with answering((200, {"points": 250, "written": 250, "refused": 0}, {})) as endpoint:
        backend = AnalyticsEngineBackend(ingest_url=endpoint.url, ingest_key=KEY, layout=layout)
        with Recorder(backend, path=path, dimensions=["note", "more"]) as recorder:
            for n in range(250):
                recorder.track("tick", user=f"u{n}", response_bytes=n, note="n" * 200, more="\x01m" * 100)
            recorder.flush()
            assert eventually(lambda: recorder.status()["sinks"][backend.name]["lag"] == 0)
            status = recorder.status()

    sent = [point["doubles"][0] for _, _, body in endpoint.requests for point in json.loads(body)["points"]]
    assert sent == list(range(250))
    assert max(len(body) for _, _, body in endpoint.requests) <= 1_000_000
    assert status["sinks"][backend.name] == {"delivered": 250, "lag": 0, "dead_letters": 0}


def test_without_credentials_it_does_nothing_and_says_so_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Alone it makes a recorder that does nothing; beside another backend it is as if it was not there."""
    alone = Recorder(AnalyticsEngineBackend())
    with Recorder(AnalyticsEngineBackend(), SQLiteBackend(path)) as recorder:
        recorder.track("tick", user="ann")
        totals = usage(recorder, measures="events").totals
        status = recorder.status()

    assert (alone.track("tick"), alone.active, usage(alone, measures="events").totals) == (False, False, {"events": 0})
    assert (totals, status["sinks"]) == ({"events": 1}, {})
    said = [record.getMessage() for record in caplog.records if record.name == "usagekit"]
    assert len(said) == 2  # one for each
    assert said[0].startswith("Analytics Engine is not set up; set USAGEKIT_INGEST_URL and USAGEKIT_INGEST_KEY")


def test_an_app_that_cannot_do_without_is_told() -> None:
    """In code, or in the URL."""
    with pytest.raises(ConfigurationError, match="Analytics Engine is not set up; set USAGEKIT_INGEST_URL"):
        AnalyticsEngineBackend(unset="raise")
    with pytest.raises(ConfigurationError, match="Analytics Engine is not set up"):
        backend_from_url("analytics-engine://usage?unset=raise")


def test_the_environment_says_where_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code wins over it; a dataset may be what a function gives."""
    monkeypatch.setenv("USAGEKIT_INGEST_URL", "https://ingest.example.com")
    monkeypatch.setenv("USAGEKIT_INGEST_KEY", KEY)

    plain = AnalyticsEngineBackend()
    monkeypatch.setenv("USAGEKIT_DATASET", "usagekit_staging")
    made = (
        AnalyticsEngineBackend(),
        AnalyticsEngineBackend(dataset="own"),
        AnalyticsEngineBackend(dataset=lambda: "by_function"),
        backend_from_url("analytics-engine://"),
        backend_from_url("analytics-engine://from-url"),
    )

    assert plain.dataset == "usagekit"
    assert [backend.dataset for backend in made] == [
        "usagekit_staging",
        "own",
        "by_function",
        "usagekit_staging",
        "from-url",
    ]
    assert made[1].name == "analytics-engine:own"
    assert KEY not in repr(plain) + repr(vars(plain))
    assert all(hasattr(backend, "write") for backend in made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ingest_url": "https://ingest.example.com"}, "USAGEKIT_INGEST_URL is set and USAGEKIT_INGEST_KEY is not"),
        ({"ingest_key": KEY}, "USAGEKIT_INGEST_KEY is set and USAGEKIT_INGEST_URL is not"),
        ({"account_id": "abc"}, "CLOUDFLARE_ACCOUNT_ID is set and CLOUDFLARE_API_TOKEN is not"),
        ({"ingest_url": "http://ingest.example.com", "ingest_key": KEY}, "is not https"),
        ({"ingest_url": "ingest.example.com", "ingest_key": KEY}, "is not https"),
        ({"ingest_url": "https://me:pw@ingest.example.com", "ingest_key": KEY}, "must be a plain one"),
        ({"ingest_url": "https://ingest.example.com", "ingest_key": "short"}, "the ingest key has 5 characters"),
        ({"ingest_url": "https://ingest.example.com", "ingest_key": " " * 40}, "the ingest key has 0 characters"),
        ({"dataset": "drop table"}, "dataset='drop table' is no dataset's name"),
        ({"dataset": lambda: None}, "dataset=None is no dataset's name"),
        ({"unset": "ignore"}, "unset='ignore' is unknown"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_made(options: dict[str, Any], message: str) -> None:
    """And the message does not hold the key."""
    with pytest.raises(ConfigurationError, match=message) as refused:
        AnalyticsEngineBackend(**options)

    assert KEY not in str(refused.value)


@pytest.mark.parametrize("url", ["analytics-engine://a/b", "analytics-engine://a?colour=b"])
def test_urls_that_say_too_much(url: str) -> None:
    """A mistake in an environment variable is not passed over."""
    with pytest.raises(ConfigurationError, match="cannot use"):
        backend_from_url(url)


def test_a_url_names_the_file_of_a_layout(tmp_path: Path) -> None:
    """What `to_json` gave; a file that is none says what is wrong with it."""
    layout = Layout(index="org", blobs=["org", "model"], doubles=["time", "weight"], where={"kind": "llm"})
    (tmp_path / "layout.json").write_text(layout.to_json(), encoding="utf-8")

    backend = backend_from_url(f"analytics-engine://calls?layout={tmp_path}/layout.json")

    assert (backend.dataset, backend.layout) == ("calls", layout)
    with pytest.raises(ConfigurationError, match=r"the layout cannot be read: .*No such file"):
        backend_from_url(f"analytics-engine://calls?layout={tmp_path}/none.json")
    (tmp_path / "layout.json").write_bytes(b'{"index": "\xff"}')
    with pytest.raises(ConfigurationError, match=r"the layout cannot be read: .*give a file with JSON in UTF-8"):
        Layout.from_file(tmp_path / "layout.json")


def test_a_layout_names_declared_dimensions_only(path: Path) -> None:
    """The default one has them all."""
    credentials = {"ingest_url": "https://ingest.example.com", "ingest_key": KEY}
    own = AnalyticsEngineBackend(dataset="own", layout=Layout(blobs=["project"]), **credentials)  # type: ignore[arg-type]
    default = AnalyticsEngineBackend(**credentials)  # type: ignore[arg-type]

    with Recorder(default, path=path, dimensions=["project", "country"]):
        assert default.dimensions == ("project", "country")
    with pytest.raises(ConfigurationError, match="the layout names 'project', which no event has"):
        Recorder(own, path=path)
    assert stored_events(path) == []
    assert query(path, "SELECT name FROM sinks") == [("analytics-engine:usagekit",)]
