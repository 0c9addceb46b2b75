"""Flask: templates, contexts, Flask-Login and streams, with `init_app` or the bare middleware."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from threading import Barrier, Thread
from time import sleep
from typing import TYPE_CHECKING, Any

import flask
import pytest
from flask import Blueprint, Flask, Response, after_this_request, g, redirect, session, stream_with_context
from flask_login import LoginManager, UserMixin, current_user, login_user
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.routing import Rule

from tests.support.capture import capturing
from tests.support.matrix import matrix
from tests.support.wsgi import Conversation, ask
from usagekit import Recorder, bind, track
from usagekit.flask import FlaskRequest, init_app
from usagekit.recorder import default_recorder
from usagekit.wsgi import UsageMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.capture import Capture


HERE = Path(__file__).parent


def make_app(name: str = "site") -> Flask:
    """Make an app with routes of every kind."""
    app = Flask(name, root_path=str(HERE), static_folder=HERE, static_url_path="/static")
    app.secret_key = "of one test"
    outer = Blueprint("outer", __name__, url_prefix="/api", static_folder=HERE, static_url_path="/files")
    inner = Blueprint("inner", __name__, url_prefix="/v1")

    @app.get("/")
    def index() -> str:
        return "index"

    @inner.get("/items/<int:item_id>")
    def item(item_id: int) -> str:
        return f"item {item_id}"

    @app.get("/files/<path:name>/")
    def files(name: str) -> str:
        return name

    @app.get("/gone/<name>")
    def gone(name: str) -> str:
        flask.abort(404)

    @app.get("/away/<name>")
    def away(name: str) -> Any:
        return redirect("/")

    @app.get("/broken/<name>")
    def broken(name: str) -> str:
        raise LookupError(name)

    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    return app


ROUTES = [
    ("/", "GET", 200, "GET /"),
    ("/api/v1/items/17", "GET", 200, "GET /api/v1/items/<int:item_id>"),
    ("/api/v1/items/17", "HEAD", 200, "HEAD /api/v1/items/<int:item_id>"),
    ("/api/v1/items/17", "OPTIONS", 200, "OPTIONS /api/v1/items/<int:item_id>"),
    ("/api/v1/items/17", "POST", 405, "POST (unmatched)"),
    ("/api/v1/items/x", "GET", 404, "GET (unmatched)"),
    ("/secret", "GET", 404, "GET (unmatched)"),
    ("/files/a/b/", "GET", 200, "GET /files/<path:name>/"),
    ("/files/a/b", "GET", 308, "GET (unmatched)"),
    ("/gone/x", "GET", 404, "GET /gone/<name>"),
    ("/away/x", "GET", 302, "GET /away/<name>"),
    ("/broken/x", "GET", 500, "GET /broken/<name>"),
]


def wrap(app: Flask, recorder: Recorder) -> None:
    """Put the bare middleware around a Flask app."""
    app.wsgi_app = UsageMiddleware(app.wsgi_app, recorder=recorder)  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "install",
    [
        pytest.param(init_app, marks=matrix("Flask", "route template"), id="init_app"),
        pytest.param(wrap, id="bare middleware"),
    ],
)
def test_routes_are_templates(capture: Capture, install: Callable[[Flask, Recorder], None]) -> None:
    """Blueprints, nested ones, converters, redirects and errors; the client's view is that of the bare app."""
    bare, app = make_app(), make_app()
    install(app, capture.recorder)

    answers = [ask(app, path, method) for path, method, _, _ in ROUTES]

    assert [answer[:3] for answer in answers] == [ask(bare, path, method)[:3] for path, method, _, _ in ROUTES]
    assert [int(answer.status[:3]) for answer in answers] == [status for _, _, status, _ in ROUTES]
    events = [(event.status, event.route) for event in capture.events()]
    assert events == [(status, route) for _, _, status, route in ROUTES]


def test_a_rule_without_an_endpoint_is_a_route(capture: Capture) -> None:
    """Flask allows what it has no decorator for."""
    app = make_app()
    app.url_map.add(Rule("/bare/<name>"))
    app.view_functions[None] = lambda name: name  # type: ignore[index]
    init_app(app, capture.recorder)

    assert ask(app, "/bare/x").status == "200 OK"

    assert [event.route for event in capture.events()] == ["GET /bare/<name>"]


@matrix("Flask", "static files are left out")
def test_static_files_are_left_out(capture: Capture) -> None:
    """The app's and those of a blueprint, found or not; a route that only looks like one is counted."""
    app = make_app()
    init_app(app, capture.recorder)

    @app.get("/a/<name>", endpoint="some.static")
    def looks_static(name: str) -> str:
        return name

    paths = ("/static/test_flask.py", "/api/files/test_flask.py", "/static/none.css", "/a/b")
    answers = [ask(app, path).status[:3] for path in paths]

    assert answers == ["200", "200", "404", "200"]
    assert capture.routes() == ["GET /a/<name>"]


@matrix("Flask", "exceptions that are propagated")
def test_an_exception_that_is_propagated_has_its_route(capture: Capture) -> None:
    """With PROPAGATE_EXCEPTIONS, as in tests and under debuggers, there is no response to look at."""
    app = make_app()
    app.config["PROPAGATE_EXCEPTIONS"] = True
    init_app(app, capture.recorder, identify=lambda _: g.get("user", "someone"))

    with pytest.raises(LookupError, match="x"):
        app.test_client().get("/broken/x")

    event = capture.event()
    assert (event.status, event.route, event.user) == (500, "GET /broken/<name>", "someone")


@matrix("Flask", "mounted by DispatcherMiddleware")
def test_mounted_apps_show_the_prefix_of_the_mount(capture: Capture) -> None:
    """With the middleware around the dispatcher; a mounted app with its own middleware knows nothing of its prefix."""
    mounts = DispatcherMiddleware(make_app(), {"/shop": make_app(), "/deep/shop": make_app()})
    app = UsageMiddleware(mounts, recorder=capture.recorder)
    mounted = make_app()
    init_app(mounted, capture.recorder)

    paths = ["/gone/x", "/shop/gone/x", "/deep/shop/gone/x", "/shop/secret", "/deep/gone/x"]
    answers = [ask(app, path, SCRIPT_NAME="/deployed").status for path in paths]
    ask(DispatcherMiddleware(make_app(), {"/own": mounted}), "/own/gone/x")

    assert answers == ["404 NOT FOUND"] * 5
    assert capture.routes() == [
        "GET /gone/<name>",
        "GET /shop/gone/<name>",
        "GET /deep/shop/gone/<name>",
        "GET /shop",
        "GET (unmatched)",
        "GET /gone/<name>",
    ]


# Who


@matrix("Flask", "session, g and current_user")
def test_identify_runs_while_flask_is_there(capture: Capture) -> None:
    """The session, `flask.g`, Flask-Login and the view of the request; and the client gets what it would get."""
    seen: list[Any] = []

    def identify(request: FlaskRequest) -> object:
        seen.append((session.get("user"), request.session.get("user"), g.get("user"), request.user.get_id()))
        return request.user.get_id()

    bare, app = with_login(), with_login()
    init_app(app, capture.recorder, identify=identify)
    answers = []
    for one in (bare, app):
        cookie = ask(one, "/login").headers["Set-Cookie"].partition(";")[0]
        answers.append([ask(one, "/plain", HTTP_COOKIE=cookie)[:3], ask(one, "/plain")[:3]])

    assert answers[0] == answers[1]
    assert seen == [("ann", "ann", None, "ann"), ("ann", "ann", "g", "ann"), (None, None, "g", None)]
    assert capture.users() == ["ann", "ann", ""]


class User(UserMixin):  # type: ignore[misc] # flask_login has no types
    def __init__(self, name: str) -> None:
        self.id = name


def with_login() -> Flask:
    """Make an app whose users log in."""
    app = Flask("login")
    app.secret_key = "of one test"
    manager = LoginManager(app)
    manager.user_loader(User)

    @app.get("/login")
    def login() -> str:
        login_user(User("ann"))
        session["user"] = "ann"
        return "welcome"

    @app.get("/plain")
    def plain() -> str:
        g.user = "g"
        return "plain"

    return app


def test_reading_the_session_in_identify_adds_no_header(capture: Capture) -> None:
    """Flask adds `Vary: Cookie` to a response whose session was read before it was saved."""
    app = make_app()
    init_app(app, capture.recorder, identify=lambda _: session.get("user"))

    answer = ask(app)

    assert answer.body == b"index"
    assert "Vary" not in answer.headers
    assert capture.errors() == {}


def test_the_view_knows_who_is_there_without_flask_login(capture: Capture) -> None:
    """An app without a login manager has the server's user, or nobody."""
    app = make_app()
    init_app(app, capture.recorder, identify=lambda request: request.user)

    ask(app)
    ask(app, REMOTE_USER="ann")

    assert capture.users() == ["", "ann"]


def test_identify_is_asked_no_more_when_flask_is_gone(capture: Capture) -> None:
    """Once for an anonymous request, and never outside Flask's context."""
    asked: list[bool] = []
    app = make_app()
    init_app(app, capture.recorder, identify=lambda _: asked.append(flask.has_request_context()))

    for path in ("/", "/secret", "/files/a", "/gone/x"):
        ask(app, path)

    assert asked == [True] * 4
    assert capture.errors() == {}


@matrix("Flask", "bind anywhere in the request")
@pytest.mark.parametrize("where", ["before_request", "view", "thread", "after_this_request", "stream", "teardown"])
def test_bind_reaches_the_requests_event(capture: Capture, where: str) -> None:
    """Wherever an app knows who asks, as late as in the streamed body; what is bound wins over `identify`."""
    app = Flask("binds")
    init_app(app, capture.recorder, identify=lambda _: "from identify")

    def say(place: str) -> None:
        if place == where:
            bind(user=place)

    app.before_request(lambda: say("before_request"))
    app.teardown_request(lambda _: say("teardown"))

    @app.get("/")
    def view() -> Response:
        @after_this_request
        def after(response: Response) -> Response:
            say("after_this_request")
            return response

        say("view")
        thread = Thread(target=copy_context().run, args=(say, "thread"))
        thread.start()
        thread.join()

        def body() -> Iterator[str]:
            say("stream")
            yield flask.request.path

        return Response(stream_with_context(body()))

    answer = ask(app)

    assert (answer.status, answer.body) == ("200 OK", b"/")
    assert capture.users() == [where]


@matrix("Flask", "streams are timed to the last byte")
def test_streams_are_timed_to_the_last_byte(capture: Capture) -> None:
    """`stream_with_context`, with events of the app in it, read to the end and left in the middle."""
    app = Flask("streams")
    init_app(app, capture.recorder, identify=lambda _: flask.request.args["user"])

    @app.get("/stream/<name>")
    def stream(name: str) -> Response:
        def body() -> Iterator[bytes]:
            yield b"one"
            sleep(0.03)
            track("half")
            yield b"two"

        return Response(stream_with_context(body()))

    answer = ask(app, "/stream/x?user=ann")
    conversation = Conversation(app, "/stream/x?user=bob")
    next(iter(conversation.body))
    conversation.close()

    assert answer.body == b"onetwo"
    half, whole, left = capture.events()
    assert (half.event, half.user, half.route) == ("half", "ann", "GET /stream/<name>")
    assert (whole.user, whole.status, whole.response_bytes, whole.aborted) == ("ann", 200, 6, False)
    assert (left.user, left.status, left.response_bytes, left.aborted) == ("bob", 200, 3, True)
    assert whole.latency_ms is not None
    assert whole.first_token_ms is not None
    assert whole.first_token_ms + 30 <= whole.latency_ms


def test_requests_at_the_same_time_never_mix(capture: Capture) -> None:
    """Eight threads in one view, each with a session of its own."""
    app = make_app()
    init_app(app, capture.recorder, identify=lambda _: session["user"])
    barrier = Barrier(8, timeout=30)

    @app.get("/who/<name>")
    def who(name: str) -> str:
        session["user"] = name
        barrier.wait()
        track("asked", route=name)
        barrier.wait()
        return name

    names = [f"user{n}" for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: ask(app, f"/who/{name}").body.decode(), names * 3))

    events = capture.events()
    assert answers == names * 3
    assert sorted(event.user for event in events) == sorted(names * 6)
    assert all(event.user == event.route for event in events if event.event == "asked")


def test_a_broken_identify_costs_nothing_but_the_name(capture: Capture, isolated: None) -> None:
    """The client gets its answer, the request is counted as unattributed."""
    app = make_app()
    init_app(app, capture.recorder, identify=lambda _: session["nobody"])

    answer = ask(app)

    assert (answer.status, answer.body) == ("200 OK", b"index")
    assert capture.users() == [""]
    assert capture.errors() == {"identify": 1}


# Where to


def test_init_app_called_twice_counts_once(capture: Capture, tmp_path: Path) -> None:
    """The second call replaces the first, recorder and all."""
    app = make_app()
    with capturing(tmp_path / "first.db") as first:
        init_app(app, first.recorder)
        init_app(app, capture.recorder, event="page")

        answer = ask(app)

        assert answer.body == b"index"
        assert (first.events(), capture.event().event) == ([], "page")
        assert app.extensions["usagekit"] is capture.recorder


@matrix("Flask", "several apps, each with its recorder")
def test_each_app_has_its_recorder(capture: Capture, tmp_path: Path) -> None:
    """What a factory makes goes to its own recorder; the default one is the last."""
    with capturing(tmp_path / "other.db") as other:
        first, second = make_app(), make_app()
        init_app(first, other.recorder, identify=lambda _: "first")
        init_app(second, capture.recorder, identify=lambda _: "second")

        @first.get("/ask")
        def ask_the_other() -> bytes:
            track("asking")
            return ask(second).body

        answers = [ask(first, "/ask").body, ask(second).body]

        assert answers == [b"index", b"index"]
        assert [(event.event, event.user) for event in other.events()] == [("asking", "first"), ("request", "first")]
        assert capture.users() == ["second", "second"]
        assert default_recorder() is capture.recorder


def test_options_are_those_of_the_middleware(capture: Capture) -> None:
    """`exclude=` and `event=`, and `bind` over it."""
    app = make_app()
    init_app(app, capture.recorder, exclude=["/"], event=lambda request: request.path.split("/")[1])

    @app.get("/bound")
    def bound() -> str:
        bind(event="mine")
        return ""

    for path in ("/", "/gone/x", "/bound"):
        ask(app, path)

    assert [event.event for event in capture.events()] == ["gone", "mine"]


def test_an_app_that_has_served_refuses(capture: Capture) -> None:
    """Flask says so itself: it is too late then."""
    app = make_app()
    ask(app)

    with pytest.raises(AssertionError, match="has already handled its first request"):
        init_app(app, capture.recorder)


def test_someone_anonymous_is_nobody(capture: Capture) -> None:
    """Flask-Login's anonymous user has no id."""
    app = with_login()
    init_app(app, capture.recorder, identify=lambda _: current_user.get_id())

    ask(app, "/plain")

    assert capture.users() == [""]
