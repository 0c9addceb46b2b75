"""Any WSGI app: one event for every request, and nothing changed in what the client receives."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from io import BytesIO
from pathlib import Path
from threading import Barrier, Thread
from time import sleep
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from tests.support.capture import capturing
from tests.support.matrix import matrix
from tests.support.wsgi import Conversation, ask
from usagekit import Identity, Recorder, bind, set_default_recorder, track
from usagekit._store.engine import journals_of
from usagekit.wsgi import UsageMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.support.capture import Capture

OK = "200 OK"
TEXT = [("Content-Type", "text/plain")]


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Greet."""
    start_response(OK, TEXT)
    return [b"hello"]


class Closable:
    """A body that counts how often it is iterated and closed, and may fail at either."""

    def __init__(self, chunks: Iterable[bytes] = (b"a", b"b"), error: Exception | None = None) -> None:
        self.chunks = chunks
        self.error = error
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield from self.chunks
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Count."""
        self.closed += 1


BODIES: dict[str, Callable[[], Any]] = {
    "list": lambda: [b"one"],
    "longer list": lambda: [b"one", b"two"],
    "empty list": list,
    "tuple": lambda: (b"one",),
    "mapping": lambda: {b"one": 1},
    "generator": lambda: (chunk for chunk in [b"one", b"two"]),
    "object": Closable,
}


def answering(body: Any, status: str = OK) -> Callable[..., Any]:
    """Make an app that answers with this body."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response(status, TEXT)
        return body

    return app


# Routes


@matrix("any WSGI app", "route template", 'environ["usagekit.route"]')
def test_an_app_tells_its_own_route(capture: Capture) -> None:
    """`environ["usagekit.route"]` is the template; without it the request is unmatched, and the path is nowhere."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/items/"):
            environ["usagekit.route"] = "/items/{id}"
        return hello(environ, start_response)

    counted = UsageMiddleware(app, recorder=capture.recorder)

    answers = [ask(counted, path).body for path in ("/items/1", "/items/2", "/secret/3")]

    assert answers == [b"hello"] * 3
    assert capture.routes() == ["GET /items/{id}", "GET /items/{id}", "GET (unmatched)"]


@pytest.mark.parametrize(
    ("method", "route"),
    [("HEAD", "HEAD (unmatched)"), ("OPTIONS", "OPTIONS (unmatched)"), ("QUERY", "QUERY (unmatched)")]
    + [(junk, "OTHER (unmatched)") for junk in ("get", "PROPFIND", "A" * 5000, "")],
)
def test_unknown_methods_are_one(capture: Capture, method: str, route: str) -> None:
    """A scanner's methods do not become routes."""
    ask(UsageMiddleware(hello, recorder=capture.recorder), "/", method)

    assert capture.routes() == [route]


def test_the_mount_of_the_server_is_not_in_the_route(capture: Capture) -> None:
    """SCRIPT_NAME says where the app was deployed, or even whose it is, and is never shown."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["usagekit.route"] = "/items"
        environ["SCRIPT_NAME"] += "/tenant-4711"  # what shift_path_info does
        return hello(environ, start_response)

    ask(UsageMiddleware(app, recorder=capture.recorder), "/items", SCRIPT_NAME="/v1")

    assert capture.routes() == ["GET /items"]


# Time and size


def test_a_ready_body_reaches_the_server_as_it_is(capture: Capture) -> None:
    """Servers treat lists in their own ways, so the very list goes on, and the request ends with it."""
    body = [b"one", b"", b"three"]

    conversation = Conversation(UsageMiddleware(answering(body), recorder=capture.recorder))

    assert conversation.body is body
    event = capture.event()
    assert (event.status, event.response_bytes, event.aborted) == (200, 8, False)
    assert event.latency_ms is not None
    assert event.first_token_ms is not None
    assert 0 < event.first_token_ms <= event.latency_ms < 1000


@pytest.mark.parametrize("body", [[], [b""], ()], ids=["no chunk", "an empty one", "a tuple"])
def test_an_empty_body_has_no_first_byte(capture: Capture, body: Any) -> None:
    """Nothing was sent."""
    answer = ask(UsageMiddleware(answering(body), recorder=capture.recorder))

    assert answer.body == b""
    event = capture.event()
    assert (event.response_bytes, event.first_token_ms, event.aborted) == (0, None, False)


@matrix("any WSGI app", "streams are timed to the last byte")
def test_a_stream_is_timed_to_its_last_byte(capture: Capture) -> None:
    """Latency goes to the end, `first_token_ms` to the first byte that is not empty."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response(OK, TEXT)
        yield b""
        sleep(0.03)
        yield b"first"
        sleep(0.05)
        yield b"last"

    answer = ask(UsageMiddleware(app, recorder=capture.recorder))

    assert answer.body == b"firstlast"
    event = capture.event()
    assert event.latency_ms is not None
    assert event.first_token_ms is not None
    assert 30 <= event.first_token_ms <= event.latency_ms - 50
    assert (event.response_bytes, event.aborted) == (9, False)


def test_a_stream_stays_a_stream(capture: Capture) -> None:
    """Each chunk is the server's before the next one is made."""
    made: list[int] = []

    def chunks() -> Iterator[bytes]:
        for n in range(3):
            made.append(n)
            yield b"x"

    conversation = Conversation(UsageMiddleware(answering(chunks()), recorder=capture.recorder))
    iterator = iter(conversation.body)

    assert made == []
    next(iterator)
    assert made == [0]
    assert capture.events() == []


def test_what_is_written_is_counted(capture: Capture) -> None:
    """The `write` of start_response sends bytes too."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        write = start_response(OK, TEXT)
        write(b"written ")
        write(b"and ")
        return iter([b"returned"])

    answer = ask(UsageMiddleware(app, recorder=capture.recorder))

    assert answer.body == b"written and returned"
    assert capture.event().response_bytes == len(answer.body)


def test_a_head_request_sends_no_bytes(capture: Capture) -> None:
    """Whatever the app gives for its body."""
    ask(UsageMiddleware(hello, recorder=capture.recorder), "/", "HEAD")

    assert capture.event().response_bytes == 0


# Bodies, as servers look at them


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_has_a_length_where_it_had_one(capture: Capture, kind: str) -> None:
    """A server makes a Content-Length of the length 1: wsgiref, waitress, which asks whoever has `__len__`."""
    body = BODIES[kind]()

    seen = Conversation(UsageMiddleware(answering(body), recorder=capture.recorder)).body

    assert hasattr(seen, "__len__") == hasattr(body, "__len__")
    assert not hasattr(body, "__len__") or len(seen) == len(body)  # type: ignore[arg-type]
    assert bool(seen) == bool(body)


def test_closing_a_body_closes_the_apps_once(capture: Capture) -> None:
    """After it was read, and after the app failed in it."""
    bodies = [Closable(), Closable(error=RuntimeError("midway"))]

    answers = [ask(UsageMiddleware(answering(body), recorder=capture.recorder)) for body in bodies]

    assert [body.closed for body in bodies] == [1, 1]
    assert [answer.body for answer in answers] == [b"ab", b"ab"]
    assert [(event.status, event.aborted) for event in capture.events()] == [(200, False), (200, True)]


def test_an_error_in_close_reaches_the_server(capture: Capture) -> None:
    """It is the server's business, and the request was what it was."""

    class Failing(Closable):
        def close(self) -> None:
            raise RuntimeError("in close")

    conversation = Conversation(UsageMiddleware(answering(Failing()), recorder=capture.recorder))

    assert list(conversation.body) == [b"a", b"b"]
    with pytest.raises(RuntimeError, match="in close"):
        conversation.close()
    event = capture.event()
    assert (event.status, event.response_bytes, event.aborted) == (200, 2, False)


@matrix("any WSGI app", "client gone: aborted")
def test_a_client_that_goes_away_is_noted(capture: Capture) -> None:
    """The server closes a body that it did not read to its end."""
    body = Closable([b"one", b"two", b"three"])
    conversation = Conversation(UsageMiddleware(answering(body), recorder=capture.recorder))

    next(iter(conversation.body))
    conversation.close()

    event = capture.event()
    assert (event.status, event.response_bytes, event.aborted, body.closed) == (200, 3, True, 1)


def test_a_client_that_goes_away_before_a_status_is_499(capture: Capture) -> None:
    """A generator that was never started had no word to say."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response(OK, TEXT)
        yield b"never"

    conversation = Conversation(UsageMiddleware(app, recorder=capture.recorder))
    conversation.close()

    event = capture.event()
    assert (event.status, event.aborted) == (499, True)


@pytest.mark.parametrize(("method", "status"), [("HEAD", OK), ("GET", "304 Not Modified"), ("GET", "204 No Content")])
def test_a_body_nobody_wants_is_not_aborted(capture: Capture, method: str, status: str) -> None:
    """Some servers close the bodies of such responses without a look at them."""
    body = Closable()
    conversation = Conversation(UsageMiddleware(answering(body, status), recorder=capture.recorder), "/", method)

    conversation.close()

    event = capture.event()
    assert (event.status, event.aborted, body.closed) == (int(status[:3]), False, 1)


def test_a_body_nobody_closes_is_counted(capture: Capture) -> None:
    """Adapters forget it when the client is gone: then the request ends with the body."""
    conversation = Conversation(UsageMiddleware(answering(iter([b"one", b"two"])), recorder=capture.recorder))
    next(iter(conversation.body))

    conversation.body = ()

    event = capture.event()
    assert (event.status, event.response_bytes, event.aborted) == (200, 3, True)


@pytest.mark.parametrize("is_type", [True, False], ids=["as most servers", "as uWSGI"])
def test_a_file_goes_to_the_server_unwrapped(capture: Capture, *, is_type: bool) -> None:
    """A server sends a file by itself when it recognises what its wrapper made; the request ends when it closes it."""
    wrapper: Any = FileWrapper if is_type else lambda file, _size=None: file
    opened = BytesIO(b"0123456789") if is_type else open(__file__, "rb")  # noqa: PTH123, SIM115  the server closes it

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(OK, [("Content-Type", "text/plain"), ("content-length", "10")])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](opened)
        return wrapped

    counted = UsageMiddleware(app, recorder=capture.recorder)
    conversation = Conversation(counted, **{"wsgi.file_wrapper": wrapper})

    assert isinstance(conversation.body, FileWrapper) if is_type else conversation.body is opened
    assert capture.events() == []
    sleep(0.02)
    conversation.close()
    assert opened.closed
    event = capture.event()
    assert (event.status, event.response_bytes, event.aborted) == (200, 10, False)
    assert event.latency_ms is not None
    assert event.latency_ms >= 20


def test_a_file_that_cannot_be_watched_is_counted_at_once(capture: Capture) -> None:
    """An object that takes no attributes ends the request when the app hands it over."""

    class Slotted:
        __slots__ = ()

        def __init__(self, _file: object) -> None:
            pass

        def __iter__(self) -> Iterator[bytes]:
            yield b"x"

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(OK, TEXT)
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](None)
        return wrapped

    Conversation(UsageMiddleware(app, recorder=capture.recorder), **{"wsgi.file_wrapper": Slotted})

    assert capture.event().status == 200


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
def test_both_sides_keep_to_the_specification(capture: Capture, kind: str, method: str) -> None:
    """The validator of wsgiref finds no fault in us, as a server or as an app."""
    app = validator(UsageMiddleware(validator(answering(BODIES[kind]())), recorder=capture.recorder))

    answer = ask(app, "/a/b?c=d", method)

    assert (answer.status, answer.log) == (OK, "")
    assert capture.event().status == 200


# Errors


def test_an_app_that_raises_is_counted_as_500(capture: Capture) -> None:
    """The exception goes on to the server as it is; whatever was announced, the client gets an error page."""

    def before(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        raise LookupError("before")

    def after(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(OK, TEXT)
        raise LookupError("after")

    def in_body(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response(OK, TEXT)
        if environ:
            raise LookupError("in the body")
        yield b"never"

    answers = [ask(UsageMiddleware(app, recorder=capture.recorder)) for app in (before, after, in_body)]

    assert [answer.status for answer in answers] == ["500 Internal Server Error"] * 3
    assert [answer.log for answer in answers] == [
        f"LookupError: {where}" for where in ("before", "after", "in the body")
    ]
    assert [(event.status, event.aborted) for event in capture.events()] == [(500, False)] * 3


def test_an_app_that_raises_midway_keeps_its_status(capture: Capture) -> None:
    """The client has a 200 and half a body."""

    def yielding(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response(OK, TEXT)
        yield b"half"
        raise LookupError

    def writing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(OK, TEXT)(b"half")
        raise LookupError

    answers = [ask(UsageMiddleware(app, recorder=capture.recorder)) for app in (yielding, writing)]

    assert [(answer.status, answer.body) for answer in answers] == [(OK, b"half")] * 2
    events = [(event.status, event.response_bytes, event.aborted) for event in capture.events()]
    assert events == [(200, 4, True)] * 2


def test_an_app_that_is_told_to_exit_is_counted(capture: Capture) -> None:
    """Servers end a worker that takes too long by SystemExit, in the middle of a request."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        sys.exit(1)

    with pytest.raises(SystemExit):
        Conversation(UsageMiddleware(app, recorder=capture.recorder))

    assert capture.event().status == 500


def replaced(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    """Announce a 200 and make a 503 of it; too late where something was sent already."""
    start_response(OK, TEXT)
    if environ["PATH_INFO"] == "/late":
        yield b"sent"
    try:
        environ["no answer"]
    except LookupError:
        start_response("503 Service Unavailable", TEXT, sys.exc_info())
    yield b"sorry"


def test_the_last_status_wins(capture: Capture) -> None:
    """An app may take back what it announced as long as nothing was sent."""
    answer = ask(UsageMiddleware(replaced, recorder=capture.recorder))

    assert (answer.status, answer.body) == ("503 Service Unavailable", b"sorry")
    assert capture.event().status == 503


def test_a_status_that_comes_too_late_is_refused(capture: Capture) -> None:
    """The server raises the app's own error again, and what the client got stays what is counted."""
    answer = ask(UsageMiddleware(replaced, recorder=capture.recorder), "/late")

    assert (answer.status, answer.body, answer.log) == (OK, b"sent", "KeyError: 'no answer'")
    event = capture.event()
    assert (event.status, event.aborted) == (200, True)


@pytest.mark.parametrize("make", [iter, list, tuple])
def test_a_chunk_that_is_no_bytes_is_the_servers_business(capture: Capture, make: Callable[[list[int]], Any]) -> None:
    """Its message is the same as without us."""
    plain = ask(answering(make([17])))

    counted = ask(UsageMiddleware(answering(make([17])), recorder=capture.recorder))

    assert counted == plain
    assert len(capture.events()) == 1


@pytest.mark.parametrize("status", ["Fine", "", b"200 OK", None], ids=repr)
def test_a_status_that_is_none_is_the_servers_business(capture: Capture, status: Any) -> None:
    """Whether it refuses it, as wsgiref does, or takes it."""
    plain = ask(answering([b"x"], status))

    counted = UsageMiddleware(answering([b"x"], status), recorder=capture.recorder)

    assert ask(counted) == plain
    assert Conversation(counted).statuses == [status]
    assert [event.status for event in capture.events()] == [500, 500]


def test_any_number_of_status_lines_is_understood(capture: Capture) -> None:
    """An app may make a new one for every request."""
    for n in range(300):
        ask(UsageMiddleware(answering([b"x"], f"{200 + n} Reason {n}"), recorder=capture.recorder))

    assert [event.status for event in capture.events()] == [200 + n for n in range(300)]


def test_an_app_that_breaks_the_environment_is_served(capture: Capture, isolated: None) -> None:
    """The event is lost, the failure counted, and the client has its answer."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["REQUEST_METHOD"] = ["GET"]
        return hello(environ, start_response)

    answer = ask(UsageMiddleware(app, recorder=capture.recorder))

    assert (answer.status, answer.body) == (OK, b"hello")
    assert (capture.events(), capture.errors()) == ([], {"wsgi": 1})


# Once


def test_a_middleware_installed_twice_counts_once(capture: Capture) -> None:
    """The inner one passes through."""
    app = UsageMiddleware(UsageMiddleware(hello, recorder=capture.recorder), recorder=capture.recorder)

    answer = ask(app)

    assert (answer.status, answer.body) == (OK, b"hello")
    assert len(capture.events()) == 1


def test_each_recorder_counts_once(capture: Capture, tmp_path: Path) -> None:
    """An app that brings its own recorder is counted there too, and both know what it binds."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        bind(user="ann")
        return hello(environ, start_response)

    with capturing(tmp_path / "inner.db") as inner:
        ask(UsageMiddleware(UsageMiddleware(app, recorder=inner.recorder), recorder=capture.recorder))

        assert (inner.users(), capture.users()) == (["ann"], ["ann"])


def test_an_app_that_asks_another_counts_both(capture: Capture) -> None:
    """A request made inside a request is a request."""
    inner = UsageMiddleware(hello, recorder=capture.recorder, event="inner")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(OK, TEXT)
        return [ask(inner).body]

    answer = ask(UsageMiddleware(app, recorder=capture.recorder, event="outer"))

    assert answer.body == b"hello"
    assert [event.event for event in capture.events()] == ["inner", "outer"]


# Who


def test_identify_sees_the_request(capture: Capture) -> None:
    """Method, path, headers, cookies, query, environment, state and user are there, decoded."""
    seen: list[Any] = []

    def identify(request: Any) -> Identity:
        seen.extend([request.method, request.path, request.headers["x-org"], request.cookies, request.query])
        seen.extend([request.environ["REQUEST_METHOD"], request.scope, request.state, request.session])
        return Identity(request.user, request.headers["X-Org"], plan="gold")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["usagekit.state"] = {"a": 1}
        return hello(environ, start_response)

    counted = UsageMiddleware(app, recorder=capture.recorder, identify=identify)
    more = {"REMOTE_USER": "ann", "HTTP_X_ORG": "acme", "HTTP_COOKIE": "k=v", "SCRIPT_NAME": "/v1"}
    ask(counted, "/caf\u00c3\u00a9?q=1", "POST", **more)

    assert seen == ["POST", "/v1/caf\u00e9", "acme", {"k": "v"}, {"q": "1"}, "POST", None, {"a": 1}, {}]
    event = capture.event()
    assert (event.user, event.org, event.attributes) == ("ann", "acme", {"plan": "gold"})


def test_bind_wins_and_reaches_every_later_event(capture: Capture) -> None:
    """From the handler, from the streamed body, from its close, and from a thread with a copy of the context."""

    def body() -> Iterator[bytes]:
        bind(org="acme")
        yield b"x"
        track("exported")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        thread = Thread(target=copy_context().run, args=(bind,), kwargs={"user": "bob"})
        thread.start()
        thread.join()
        start_response(OK, TEXT)
        return body()

    ask(UsageMiddleware(app, recorder=capture.recorder, identify=lambda _: "ann"))

    events = [(event.event, event.user, event.org) for event in capture.events()]
    assert events == [("exported", "bob", "acme"), ("request", "bob", "acme")]


def test_nothing_is_bound_outside_the_request(capture: Capture, isolated: None) -> None:
    """Once a body was handed over, and between its chunks, the server's thread belongs to nobody."""

    def body() -> Iterator[bytes]:
        yield b"x"
        yield b"y"

    conversation = Conversation(UsageMiddleware(answering(body()), recorder=capture.recorder))
    set_default_recorder(capture.recorder)
    bind(user="nobody")
    for _ in conversation.body:
        bind(user="nobody")
    conversation.close()
    track("later")

    assert capture.users() == ["", ""]


def test_requests_at_the_same_time_never_mix(capture: Capture) -> None:
    """Eight threads are in the middle of a request of their own, all at once."""
    barrier = Barrier(8, timeout=30)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response(OK, TEXT)
        who = environ["HTTP_X_USER"]
        barrier.wait()
        bind(user=who)
        barrier.wait()
        yield who.encode()
        barrier.wait()
        track("done", quantity=len(who))

    counted = UsageMiddleware(app, recorder=capture.recorder)
    users = [f"user-{'x' * n}" for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            answers = pool.map(lambda who: ask(counted, HTTP_X_USER=who).body.decode(), users)
            assert list(answers) == users

    events = capture.events()
    assert sorted(event.user for event in events) == sorted(users * 10)
    assert all(len(event.user) == event.quantity for event in events if event.event == "done")
    assert all(len(event.user) == event.response_bytes for event in events if event.event == "request")


def awaited(_request: object) -> object:
    """Answer what only ASGI can wait for."""

    async def later() -> str:
        return "ann"

    return later()


def broken(_request: object) -> object:
    """Fail."""
    raise LookupError


def junk(_request: object) -> object:
    """Answer what is nobody."""
    return ["ann"]


@pytest.mark.parametrize(
    ("identify", "said"),
    [
        (broken, "identify: LookupError ("),
        (awaited, "identify: identify returned an awaitable where an answer is needed"),
        (junk, "identify: identify returned a list; return a user id, an Identity or None"),
    ],
)
def test_a_broken_identify_costs_nothing_but_the_name(
    capture: Capture, isolated: None, caplog: pytest.LogCaptureFixture, identify: Any, said: str
) -> None:
    """The request is counted as unattributed, and the failure where failures are counted and logged."""
    answer = ask(UsageMiddleware(hello, recorder=capture.recorder, identify=identify))

    assert (answer.status, answer.body) == (OK, b"hello")
    assert (capture.event().user, capture.errors()) == ("", {"identify": 1})
    assert caplog.messages[0].startswith(said)


# What, and where to


def test_event_names_the_requests(capture: Capture) -> None:
    """A string, a callable, which may decline, and `bind`, which wins."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/bound":
            bind(event="bound")
        return hello(environ, start_response)

    named = UsageMiddleware(app, recorder=capture.recorder, event="page")
    asked = UsageMiddleware(
        app, recorder=capture.recorder, event=lambda request: "api" if request.path == "/api" else None
    )

    for counted, path in ((named, "/"), (named, "/bound"), (asked, "/api"), (asked, "/other"), (asked, "/bound")):
        ask(counted, path)

    assert [event.event for event in capture.events()] == ["page", "bound", "api", "request", "bound"]


def test_a_broken_event_callable_costs_nothing_but_the_name(capture: Capture, isolated: None) -> None:
    """The request is counted under the default event type."""
    ask(UsageMiddleware(hello, recorder=capture.recorder, event=broken))  # type: ignore[arg-type]

    assert (capture.event().event, capture.errors()) == ("request", {"event": 1})


def test_excluded_paths_are_not_counted(capture: Capture) -> None:
    """By default health checks and the like; `exclude=` replaces the list; paths are those below SCRIPT_NAME."""
    by_default = UsageMiddleware(hello, recorder=capture.recorder)
    by_list = UsageMiddleware(hello, recorder=capture.recorder, exclude=["/a", "/caf\u00e9", "/static/*"])
    by_callable = UsageMiddleware(hello, recorder=capture.recorder, exclude=lambda path: path.endswith(".\u00e9"))

    bodies = [
        ask(by_default, "/health", SCRIPT_NAME="/v1").body,
        ask(by_list, "/static/x/y.css").body,
        ask(by_list, "/a", SCRIPT_NAME="/v1").body,
        ask(by_list, "/caf\u00c3\u00a9").body,
        ask(by_callable, "/b.\u00c3\u00a9").body,
        ask(by_list, "/health").body,
    ]

    assert bodies == [b"hello"] * 6
    assert len(capture.events()) == 1


def test_what_is_tracked_in_an_excluded_request_knows_its_request(capture: Capture) -> None:
    """Only the request's own event is left out."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["usagekit.route"] = "/health"
        bind(user="ann")
        track("checked")
        return hello(environ, start_response)

    ask(UsageMiddleware(app, recorder=capture.recorder), "/health")

    event = capture.event()
    assert (event.event, event.user, event.route) == ("checked", "ann", "GET /health")


def test_a_sample_stands_for_all(capture: Capture) -> None:
    """One request in N is counted with weight N; what others track is recorded as ever."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        track("tracked")
        return hello(environ, start_response)

    counted = UsageMiddleware(app, recorder=capture.recorder, sample=lambda path: 4 if path == "/often" else 1)

    bodies = [ask(counted, path).body for path in ("/often", "/seldom") for _ in range(400)]

    assert bodies == [b"hello"] * 800
    events = capture.events()
    weights = [event.weight for event in events if event.event == "request"]
    assert (weights.count(1), set(weights)) == (400, {1, 4})
    assert 50 <= weights.count(4) <= 150
    assert [event.weight for event in events if event.event == "tracked"] == [1] * 800


def test_a_broken_sample_callable_counts_everything(capture: Capture, isolated: None) -> None:
    """With weight 1, and the failure where failures are counted."""
    ask(UsageMiddleware(hello, recorder=capture.recorder, sample=broken))  # type: ignore[arg-type]

    assert (capture.event().weight, capture.errors()) == (1, {"sample": 1})


def test_templates_that_are_none_fill_nothing(capture: Capture) -> None:
    """Above `max_routes` a route is `(other)`."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["usagekit.route"] = environ["PATH_INFO"]
        return hello(environ, start_response)

    counted = UsageMiddleware(app, recorder=capture.recorder, max_routes=2)
    for path in ("/1", "/2", "/3", "/1"):
        ask(counted, path)

    assert capture.routes() == ["GET /1", "GET /2", "GET (other)", "GET /1"]


def test_a_template_that_cannot_be_read_is_unmatched(capture: Capture, isolated: None) -> None:
    """Whatever an app puts there, the request is counted."""

    class Unreadable:
        def __str__(self) -> str:
            raise LookupError

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["usagekit.route"] = Unreadable()
        return hello(environ, start_response)

    answer = ask(UsageMiddleware(app, recorder=capture.recorder))

    assert answer.body == b"hello"
    assert (capture.routes(), capture.errors()) == (["GET (unmatched)"], {"route": 1})


def test_a_broken_exclude_callable_excludes_nothing(capture: Capture, isolated: None) -> None:
    """The request is counted, and so is the failure."""
    ask(UsageMiddleware(hello, recorder=capture.recorder, exclude=broken))  # type: ignore[arg-type]

    assert (len(capture.events()), capture.errors()) == (1, {"exclude": 1})


def test_the_default_recorder_is_looked_up_at_each_request(capture: Capture) -> None:
    """An app may be wrapped before there is a recorder; until then nothing happens."""
    app = UsageMiddleware(hello)

    ask(app)
    set_default_recorder(capture.recorder)
    ask(app)

    assert len(capture.events()) == 1


def test_a_recorder_that_does_nothing_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without backends, or without any recorder, the app may bind as ever, and nobody asks who it was."""
    monkeypatch.delenv("USAGEKIT_BACKEND", raising=False)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        assert not [name for name in environ if name.startswith("usagekit")]
        start_response(OK, TEXT)
        bind(user="ann")
        yield b"hello"

    for recorder in (Recorder(identify=broken), None):
        counted = UsageMiddleware(UsageMiddleware(app, recorder=recorder), recorder=recorder)

        assert ask(counted).body == b"hello"
        assert Conversation(UsageMiddleware(answering([b"x"]), recorder=recorder)).body == [b"x"]
    assert caplog.text == ""


def test_a_journal_that_fails_costs_the_client_nothing(capture: Capture, isolated: None) -> None:
    """What cannot be recorded is rejected and counted; the app does not notice."""
    directory = Path(journals_of(str(capture.path)))
    directory.touch()

    answer = ask(UsageMiddleware(hello, recorder=capture.recorder))

    directory.unlink()
    assert (answer.status, answer.body) == (OK, b"hello")
    assert capture.recorder.status()["rejected"] == {"journal": 1}
