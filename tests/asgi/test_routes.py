"""A route is the template that the framework matched, with everything it is mounted under; never a raw path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fastapi
import litestar
import pytest
import quart
from litestar.middleware import DefineMiddleware
from litestar.params import FromPath  # noqa: TC002  Litestar reads the annotations
from litestar.types import Receive, Scope, Send  # noqa: TC002  Litestar reads the annotations
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.testclient import TestClient

from tests.support.asgi import ask, ask_failing, uvicorn_serving
from tests.support.matrix import matrix
from usagekit.asgi import UsageMiddleware

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.websockets import WebSocket

    from tests.support.asgi import App
    from tests.support.capture import Capture


async def ok(request: Request) -> PlainTextResponse:
    """Answer."""
    return PlainTextResponse("ok")


async def opaque(scope: Any, receive: Any, send: Any) -> None:
    """Answer every path, and tell nobody about routes."""
    await PlainTextResponse("opaque")(scope, receive, send)


async def accept(websocket: WebSocket) -> None:
    """Accept a websocket, and leave."""
    await websocket.accept()
    await websocket.close()


def starlette_app() -> Starlette:
    """Make an app with everything that Starlette can route."""
    leaf = Starlette(routes=[Route("/x/{id:int}", ok), WebSocketRoute("/ws/{room}", accept)])
    tree = [Mount("/k/{b}", routes=[Route("/z/{c}", ok)])]
    return Starlette(
        routes=[
            Route("/items/{id}", ok),
            Route("/files/{path:path}", ok),
            Route("/slash/", ok),
            WebSocketRoute("/ws/{room}", accept),
            Mount("/m", leaf),
            Mount("/t/{tenant}", leaf),
            Mount("/year/{year:int}", leaf),
            Mount("/n/{a}", routes=tree),
            Mount("/o", opaque),
            Mount("/p/{q}", opaque),
            Mount("/h", routes=[Host("testserver", leaf)]),
            Mount("/wrapped/{w}", app=PassOn(leaf)),
            Mount("/counted/{w}", app=UsageMiddleware(leaf)),
            Mount("/fast/{f}", app=fastapi.FastAPI()),
            Host("other", Starlette(routes=[Mount("/v/{v}", leaf)])),
        ]
    )


class PassOn:
    """A middleware like many: it keeps the app in `app`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on."""
        await self.app(scope, receive, send)


@pytest.mark.parametrize(
    ("path", "status", "route"),
    [
        pytest.param("/items/7", 200, "GET /items/{id}", marks=matrix("Starlette", "route template")),
        ("/files/a/b/c.txt", 200, "GET /files/{path:path}"),
        pytest.param("/slash", 307, "GET (unmatched)", marks=matrix("Starlette", "redirect_slashes", "unmatched")),
        ("/slash/", 200, "GET /slash/"),
        pytest.param("/m/x/1", 200, "GET /m/x/{id:int}", marks=matrix("Starlette", "mounted app of the same kind")),
        pytest.param("/m/nothing", 404, "GET /m", marks=matrix("Starlette", "404 inside a mounted app", "the mount")),
        pytest.param(
            "/t/acme/x/1", 200, "GET /t/{tenant}/x/{id:int}", marks=matrix("Starlette", "mount with parameters")
        ),
        ("/t/t/x/1", 200, "GET /t/{tenant}/x/{id:int}"),
        ("/t/x/x/1", 200, "GET /t/{tenant}/x/{id:int}"),
        ("/t/acme/nothing", 404, "GET /t/{tenant}"),
        ("/year/0002026/x/1", 200, "GET /year/{year:int}/x/{id:int}"),
        ("/n/1/k/2/z/3", 200, "GET /n/{a}/k/{b}/z/{c}"),
        ("/n/1/k/1/z/1", 200, "GET /n/{a}/k/{b}/z/{c}"),
        ("/n/1/k/2/nothing", 404, "GET /n/{a}/k/{b}"),
        pytest.param("/o/any/thing", 200, "GET /o", marks=matrix("Starlette", "mounted opaque ASGI app", "the mount")),
        ("/p/secret/thing", 200, "GET /p/{q}"),
        pytest.param("/h/x/3", 200, "GET /h/x/{id:int}", marks=matrix("Starlette", "Host routes")),
        ("/h/nothing", 404, "GET /h"),
        ("/fast/9/docs", 200, "GET /fast/{f}/docs"),
        ("/fast/9/nothing", 404, "GET /fast/{f}"),
        ("/counted/9/x/3", 200, "GET /counted/{w}/x/{id:int}"),
        ("/wrapped/9/x/3", 200, "GET /wrapped/{w}/x/{id:int}"),
        pytest.param("/nothing/here", 404, "GET (unmatched)", marks=matrix("Starlette", "unmatched paths are one")),
        ("/", 404, "GET (unmatched)"),
    ],
)
def test_starlette_tells_its_template(path: str, status: int, route: str, capture: Capture) -> None:
    """Routes, converters, mounts with and without parameters, hosts and misses have one name each."""
    app = UsageMiddleware(starlette_app(), recorder=capture.recorder)

    answer = ask(app, path)

    assert answer.status == status
    assert capture.routes() == [route]


def test_mounts_behind_a_host_have_their_templates(capture: Capture) -> None:
    """A mount with parameters is found behind a Host route too."""
    app = UsageMiddleware(starlette_app(), recorder=capture.recorder)

    answer = ask(app, "/v/9/x/1", headers=[("host", "other")])

    assert answer.body == b"ok"
    assert capture.routes() == ["GET /v/{v}/x/{id:int}"]


def test_a_mount_asked_twice_is_named_the_same(capture: Capture) -> None:
    """What was found out about a prefix without parameters holds for later requests, also for other mounts."""
    app = UsageMiddleware(starlette_app(), recorder=capture.recorder)

    for path in ("/m/x/1", "/t/m/x/1", "/m/x/2", "/t/m/x/2"):
        ask(app, path)

    assert capture.routes() == ["GET /m/x/{id:int}", "GET /t/{tenant}/x/{id:int}"] * 2


@matrix("Starlette", "405")
def test_a_wrong_method_has_the_route(capture: Capture) -> None:
    """405 is told with the template that it is about."""
    app = UsageMiddleware(starlette_app(), recorder=capture.recorder)

    answer = ask(app, "/items/7", "POST")

    assert (answer.status, capture.routes()) == (405, ["POST /items/{id}"])


def test_unknown_methods_are_one(capture: Capture) -> None:
    """Methods that nobody standardised become OTHER."""
    app = UsageMiddleware(starlette_app(), recorder=capture.recorder)

    for method in ("BREW", "get", "PROPFIND", "QUERY"):
        ask(app, "/items/7", method)

    assert capture.routes() == ["OTHER /items/{id}"] * 3 + ["QUERY /items/{id}"]


def test_a_router_alone_tells_its_template(capture: Capture) -> None:
    """Starlette's router without an application around it is an app too."""
    app = UsageMiddleware(Router([Mount("/t/{tenant}", routes=[Route("/x", ok)])]), recorder=capture.recorder)

    answer = ask(app, "/t/acme/x")

    assert (answer.status, capture.routes()) == (200, ["GET /t/{tenant}/x"])


@pytest.mark.parametrize("path", ["/items/7", "/m/x/1", "/t/acme/x/1", "/n/1/k/2/z/3", "/o/any"])
def test_the_server_s_root_path_is_no_part_of_the_route(path: str, capture: Capture) -> None:
    """The same app has the same routes behind any prefix of a server or proxy."""
    app = UsageMiddleware(starlette_app(), recorder=capture.recorder)

    ask(app, path)
    ask(app, "/api/v1" + path, root_path="/api/v1")

    first, second = capture.routes()
    assert first == second


def test_root_path_of_a_real_server_is_no_part_of_the_route(capture: Capture) -> None:
    """The option --root-path of uvicorn puts the prefix before the path too."""
    import httpx2

    app = UsageMiddleware(starlette_app(), recorder=capture.recorder)

    with uvicorn_serving(app, root_path="/api") as port:
        answers = [httpx2.get(f"http://127.0.0.1:{port}{path}") for path in ("/t/acme/x/1", "/health", "/items/1")]

    assert [answer.status_code for answer in answers] == [200, 404, 200]
    assert capture.routes() == ["GET /t/{tenant}/x/{id:int}", "GET /items/{id}"]


def test_a_router_that_names_no_route_is_matched_again(capture: Capture) -> None:
    """Starlette before 1.7 leaves no `route` in the scope, only the endpoint."""

    class Forgetful:
        def __init__(self, app: App) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)
            scope.pop("route", None)

    app = UsageMiddleware(Forgetful(starlette_app()), recorder=capture.recorder)

    for path in ("/items/1", "/files/a", "/nothing"):
        ask(app, path)
    ask(app, "/items/1", "DELETE")

    assert capture.routes() == [
        "GET /items/{id}",
        "GET /files/{path:path}",
        "GET (unmatched)",
        "DELETE /items/{id}",
    ]


def test_a_middleware_that_answers_first_leaves_no_route(capture: Capture) -> None:
    """What is answered before routing matched nothing."""

    class Gate:
        def __init__(self, app: App) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("no", status_code=401)(scope, receive, send)

    inside = Starlette(
        routes=[Route("/items/{id}", ok)],
        middleware=[Middleware(UsageMiddleware, recorder=capture.recorder), Middleware(Gate)],
    )

    answer = ask(inside, "/items/1")

    assert (answer.status, answer.body) == (401, b"no")
    assert [(event.route, event.status) for event in capture.events()] == [("GET (unmatched)", 401)]


def test_a_middleware_in_a_mounted_app_names_the_routes_below_itself(capture: Capture) -> None:
    """Where only the mounted app counts, its routes are named as it knows them."""
    leaf: App = Starlette(routes=[Route("/x/{id}", ok), Mount("/t/{tenant}", routes=[Route("/y", ok)])])
    site = fastapi.FastAPI()
    site.mount("/leaf/{l}", leaf)
    counted = [UsageMiddleware(one, recorder=capture.recorder) for one in (leaf, site)]
    app = Starlette(routes=[Mount("/s/{s}", app=counted[0]), Mount("/f/{f}", app=counted[1])])

    for path in ("/s/a/x/1", "/s/a/t/a/y", "/f/a/docs", "/f/a/leaf/a/t/a/y", "/f/a/leaf/a/nothing"):
        ask(app, path)
        ask(app, "/api" + path, root_path="/api")

    assert capture.routes()[::2] == capture.routes()[1::2]
    assert capture.routes()[::2] == [
        "GET /x/{id}",
        "GET /t/{tenant}/y",
        "GET /docs",
        "GET /leaf/{l}/t/{tenant}/y",
        "GET /leaf/{l}",
    ]


@matrix("Starlette", "websocket routes")
def test_websockets_have_their_template(capture: Capture) -> None:
    """Websocket routes are named as GET, in mounts too."""
    app = UsageMiddleware(starlette_app(), recorder=capture.recorder)

    for path in ("/ws/lobby", "/t/acme/ws/lobby"):
        with TestClient(app).websocket_connect(path):
            pass

    assert capture.routes() == ["GET /ws/{room}", "GET /t/{tenant}/ws/{room}"]


def fastapi_app() -> fastapi.FastAPI:
    """Make an app of nested routers and mounted apps."""
    leaf = fastapi.APIRouter(prefix="/leaf/{a}")
    middle = fastapi.APIRouter(prefix="/middle")
    inner = fastapi.FastAPI()
    innermost = fastapi.APIRouter(prefix="/inc")

    @leaf.get("/item/{b}")
    def item(a: str, b: int) -> str:
        return a

    @leaf.websocket("/ws/{b}")
    async def socket(websocket: fastapi.WebSocket) -> None:
        await accept(websocket)

    @inner.get("/direct/{id}")
    def direct(id: int) -> int:  # noqa: A002
        return id

    @innermost.get("/q/{z}")
    def deep(z: str) -> str:
        return z

    leaf.add_route("/plain/{p}", ok)
    leaf.mount("/mounted", inner)
    inner.include_router(innermost)
    middle.include_router(leaf, prefix="/between")
    app = fastapi.FastAPI()
    app.include_router(middle, prefix="/api/{version}")
    app.mount("/sub", inner)
    app.mount("/tenant/{tenant}", inner)
    app.mount("/starlette", starlette_app())
    app.mount("/opaque", opaque)

    @app.get("/top/{x:path}")
    def top(x: str) -> str:
        return x

    return app


@pytest.mark.parametrize(
    ("path", "status", "route"),
    [
        pytest.param("/top/a/b", 200, "GET /top/{x:path}", marks=matrix("FastAPI", "route template")),
        pytest.param(
            "/api/1/middle/between/leaf/2/item/3",
            200,
            "GET /api/{version}/middle/between/leaf/{a}/item/{b}",
            marks=matrix("FastAPI", "nested routers"),
        ),
        ("/api/1/middle/between/leaf/2/item/x", 422, "GET /api/{version}/middle/between/leaf/{a}/item/{b}"),
        ("/api/1/middle/between/plain/3", 200, "GET /api/{version}/middle/between/plain/{p}"),
        pytest.param(
            "/sub/direct/1", 200, "GET /sub/direct/{id}", marks=matrix("FastAPI", "mounted app of the same kind")
        ),
        ("/sub/inc/q/1", 200, "GET /sub/inc/q/{z}"),
        pytest.param("/sub/nothing", 404, "GET /sub", marks=matrix("FastAPI", "404 inside a mounted app", "the mount")),
        pytest.param(
            "/tenant/9/direct/1",
            200,
            "GET /tenant/{tenant}/direct/{id}",
            marks=matrix("FastAPI", "mount with parameters"),
        ),
        ("/tenant/9/docs", 200, "GET /tenant/{tenant}/docs"),
        ("/tenant/9/inc/q/1", 200, "GET /tenant/{tenant}/inc/q/{z}"),
        ("/tenant/9/nothing", 404, "GET /tenant/{tenant}"),
        ("/starlette/t/acme/x/1", 200, "GET /starlette/t/{tenant}/x/{id:int}"),
        ("/starlette/n/1/k/2/z/3", 200, "GET /starlette/n/{a}/k/{b}/z/{c}"),
        pytest.param(
            "/opaque/any", 200, "GET /opaque", marks=matrix("FastAPI", "mounted opaque ASGI app", "the mount")
        ),
        pytest.param("/nothing", 404, "GET (unmatched)", marks=matrix("FastAPI", "unmatched paths are one")),
        pytest.param("/top/1", 405, "POST /top/{x:path}", marks=matrix("FastAPI", "405")),
        ("/api/1/middle/between/leaf/2/item/3", 405, "POST /api/{version}/middle/between/leaf/{a}/item/{b}"),
        pytest.param("/sub/direct/1/", 307, "GET /sub", marks=matrix("FastAPI", "redirect_slashes", "unmatched")),
        ("/openapi.json", 200, "GET /openapi.json"),
        ("/docs", 200, "GET /docs"),
    ],
)
def test_fastapi_tells_its_template(path: str, status: int, route: str, capture: Capture) -> None:
    """The prefixes of all `include_router` and `mount` calls are in it, parameters by name."""
    app = UsageMiddleware(fastapi_app(), recorder=capture.recorder)

    answer = ask(app, path, route.partition(" ")[0])

    assert answer.status == status
    assert capture.routes() == [route]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/direct/1", "GET /api/{version}/middle/between/mounted/direct/{id}"),
        ("/inc/q/1", "GET /api/{version}/middle/between/mounted/inc/q/{z}"),
        ("/nothing", "GET /api/{version}/middle/between/mounted"),
    ],
)
def test_an_app_mounted_in_an_included_router_is_named_whole(path: str, route: str, capture: Capture) -> None:
    """The prefix of the router that holds the mount is in front, once."""
    app = UsageMiddleware(fastapi_app(), recorder=capture.recorder)

    ask(app, "/api/1/middle/between/mounted" + path)

    assert capture.routes() == [route]


@matrix("FastAPI", "websocket routes")
def test_websockets_of_included_routers_have_their_template(capture: Capture) -> None:
    """FastAPI keeps the template of these elsewhere than that of HTTP routes."""
    app = UsageMiddleware(fastapi_app(), recorder=capture.recorder)

    with TestClient(app).websocket_connect("/api/1/middle/between/leaf/2/ws/3"):
        pass

    assert capture.routes() == ["GET /api/{version}/middle/between/leaf/{a}/ws/{b}"]


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
@pytest.mark.parametrize("path", ["/items/1", "/api/items/1", "/api/sub/items/1"])
def test_root_path_of_fastapi_is_no_part_of_the_route(path: str, capture: Capture) -> None:
    """FastAPI(root_path=) says where a proxy put the app, and sets it only after we saw the request."""
    inner = fastapi.FastAPI()
    app = fastapi.FastAPI(root_path="/api")
    for one in (inner, app):
        one.get("/items/{id}")(lambda id: id)  # noqa: A006
    app.mount("/sub", inner)

    answer = ask(UsageMiddleware(app, recorder=capture.recorder), path)

    assert answer.status == 200
    assert capture.routes() == ["GET /sub/items/{id}" if "sub" in path else "GET /items/{id}"]


@pytest.mark.parametrize("how", ["add_middleware", "wrapped"])
def test_both_ways_of_installing_tell_the_same(how: str, capture: Capture) -> None:
    """add_middleware and wrapping differ in what is counted, not in how it is named."""
    app: Any = fastapi_app()
    if how == "add_middleware":
        app.add_middleware(UsageMiddleware, recorder=capture.recorder)
    else:
        app = UsageMiddleware(app, recorder=capture.recorder)

    for path in ("/api/1/middle/between/leaf/2/item/3", "/tenant/9/inc/q/1", "/nothing"):
        ask(app, path)

    assert capture.routes() == [
        "GET /api/{version}/middle/between/leaf/{a}/item/{b}",
        "GET /tenant/{tenant}/inc/q/{z}",
        "GET (unmatched)",
    ]


def litestar_app(**options: Any) -> litestar.Litestar:
    """Make an app with a controller, path parameters and mounted ASGI apps."""
    leaf = Starlette(routes=[Route("/x/{id}/", ok), Mount("/t/{tenant}", routes=[Route("/y/", ok)])])

    class Items(litestar.Controller):
        path = "/items/{kind:str}"

        @litestar.get("/{number:int}")
        async def one(self, kind: FromPath[str], number: FromPath[int]) -> str:
            return f"{kind}{number}"

    @litestar.get("/")
    async def home() -> str:
        return "home"

    @litestar.asgi("/inner", is_mount=True, copy_scope=False)
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await leaf(scope, receive, send)  # type: ignore[arg-type]

    @litestar.asgi("/copied", is_mount=True, copy_scope=True)
    async def copied(scope: Scope, receive: Receive, send: Send) -> None:
        await opaque(scope, receive, send)

    @litestar.asgi("/one/{name:str}", copy_scope=True)
    async def single(scope: Scope, receive: Receive, send: Send) -> None:
        await opaque(scope, receive, send)

    @litestar.websocket("/ws/{room:str}")
    async def socket(socket: litestar.WebSocket[Any, Any, Any], room: FromPath[str]) -> None:
        await socket.accept()
        await socket.close()

    router = litestar.Router("/api", route_handlers=[Items, inner])
    return litestar.Litestar([router, home, copied, single, socket], openapi_config=None, **options)


@pytest.mark.parametrize(
    ("path", "status", "route"),
    [
        ("/", 200, "GET /"),
        pytest.param(
            "/api/items/a/1", 200, "GET /api/items/{kind}/{number}", marks=matrix("Litestar", "route template")
        ),
        ("/api/items/a/1/", 200, "GET /api/items/{kind}/{number}"),
        ("/api/items/a/nan", 404, "GET (unmatched)"),
        pytest.param(
            "/api/inner/x/5", 200, "GET /api/inner/x/{id}/", marks=matrix("Litestar", "mounted Starlette app")
        ),
        ("/api/inner/t/acme/y", 200, "GET /api/inner/t/{tenant}/y/"),
        pytest.param(
            "/api/inner/nothing",
            404,
            "GET /api/inner",
            marks=matrix("Litestar", "404 inside a mounted app", "the mount"),
        ),
        pytest.param(
            "/copied/any", 200, "GET /copied", marks=matrix("Litestar", "mounted opaque ASGI app", "the mount")
        ),
        pytest.param("/nothing", 404, "GET (unmatched)", marks=matrix("Litestar", "unmatched paths are one")),
        pytest.param("/api/items/a/1", 405, "POST (unmatched)", marks=matrix("Litestar", "405", "unmatched")),
    ],
)
def test_litestar_tells_its_template(path: str, status: int, route: str, capture: Capture) -> None:
    """Controllers, routers and mounts are in it; Litestar does not tell what a 405 was about."""
    app = UsageMiddleware(litestar_app(), recorder=capture.recorder)

    answer = ask_failing(app, path, route.partition(" ")[0])

    assert answer.status == status
    assert capture.routes() == [route]


@matrix("Litestar", "as a middleware of the app", "sees matched requests only")
def test_litestar_takes_it_as_a_middleware(capture: Capture) -> None:
    """Litestar calls its middlewares after routing, so what matched nothing does not come by."""
    installed = DefineMiddleware(UsageMiddleware, recorder=capture.recorder)
    app = litestar_app(middleware=[installed])

    for path in ("/api/items/a/1", "/nothing"):
        ask(app, path)

    assert capture.routes() == ["GET /api/items/{kind}/{number}"]


@matrix("Litestar", "websocket routes")
def test_litestar_websockets_have_their_template(capture: Capture) -> None:
    """Websockets are named as GET."""
    app = UsageMiddleware(litestar_app(), recorder=capture.recorder)

    with TestClient(app).websocket_connect("/ws/lobby"):
        pass

    assert capture.routes() == ["GET /ws/{room}"]


def quart_app() -> quart.Quart:
    """Make an app with blueprints within blueprints."""
    app = quart.Quart("site")
    outer = quart.Blueprint("outer", "outer", url_prefix="/outer/<region>")
    inner = quart.Blueprint("inner", "inner", url_prefix="/inner")

    @app.get("/items/<int:id>")
    async def item(id: int) -> str:  # noqa: A002
        return str(id)

    @inner.get("/leaf/<path:rest>")
    def leaf(region: str, rest: str) -> str:
        return rest

    @app.websocket("/ws/<room>")
    async def socket(room: str) -> None:
        await quart.websocket.accept()

    outer.register_blueprint(inner)
    app.register_blueprint(outer, url_prefix="/api/<region>")
    return app


@pytest.mark.parametrize(
    ("path", "status", "route"),
    [
        pytest.param("/items/1", 200, "GET /items/<int:id>", marks=matrix("Quart", "route template")),
        pytest.param(
            "/api/eu/inner/leaf/a/b",
            200,
            "GET /api/<region>/inner/leaf/<path:rest>",
            marks=matrix("Quart", "blueprints"),
        ),
        ("/items/x", 404, "GET (unmatched)"),
        pytest.param("/nothing", 404, "GET (unmatched)", marks=matrix("Quart", "unmatched paths are one")),
        pytest.param("/items/1", 405, "POST (unmatched)", marks=matrix("Quart", "405", "unmatched")),
    ],
)
def test_quart_tells_its_rule(path: str, status: int, route: str, capture: Capture) -> None:
    """Rules are written as Quart writes them, the prefixes of blueprints included."""
    app = quart_app()
    app.asgi_app = UsageMiddleware(app.asgi_app, recorder=capture.recorder)  # type: ignore[method-assign]

    answer = ask(app, path, route.partition(" ")[0])

    assert answer.status == status
    assert capture.routes() == [route]


@pytest.mark.parametrize("outer", ["Starlette", "FastAPI"])
@pytest.mark.parametrize(
    ("path", "route"),
    [
        pytest.param(
            "/q/a/items/1", "GET /q/{name}/items/<int:id>", marks=matrix("Quart", "mounted in Starlette or FastAPI")
        ),
        ("/q/a/nothing", "GET /q/{name}"),
        pytest.param(
            "/l/a/api/items/b/1",
            "GET /l/{name}/api/items/{kind}/{number}",
            marks=matrix("Litestar", "mounted in Starlette or FastAPI"),
        ),
        ("/l/api/", "GET /l/{name}/"),
        ("/l/a/nothing", "GET /l/{name}"),
    ],
)
def test_another_framework_in_a_mount_is_named_whole(outer: str, path: str, route: str, capture: Capture) -> None:
    """What Quart and Litestar say stands behind the mount's own template."""
    site: Any = Starlette() if outer == "Starlette" else fastapi.FastAPI()
    site.mount("/q/{name}", quart_app())
    site.mount("/l/{name}", litestar_app())

    ask(UsageMiddleware(site, recorder=capture.recorder), path)

    assert capture.routes() == [route]


def test_apps_in_a_litestar_mount_may_mount_and_include(capture: Capture) -> None:
    """FastAPI leaves no route for what is Starlette's; it is found again below Litestar's mount."""
    inner = fastapi_app()

    @litestar.asgi("/in", is_mount=True, copy_scope=False)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        scope["path"] = scope["path"].rstrip("/")
        await inner(scope, receive, send)  # type: ignore[arg-type]

    app = UsageMiddleware(litestar.Litestar([mounted]), recorder=capture.recorder)

    for path in ("/in/docs", "/in/tenant/9/direct/1", "/in/api/1/middle/between/leaf/2/item/3"):
        ask(app, path)

    assert capture.routes() == [
        "GET /in/docs",
        "GET /in/tenant/{tenant}/direct/{id}",
        "GET /in/api/{version}/middle/between/leaf/{a}/item/{b}",
    ]


@matrix("Quart", "websocket routes")
def test_quart_websockets_have_their_rule(capture: Capture) -> None:
    """Websockets are named as GET."""
    app = quart_app()
    app.asgi_app = UsageMiddleware(app.asgi_app, recorder=capture.recorder)  # type: ignore[method-assign]

    ask(app, "/ws/lobby", kind="websocket")

    assert capture.routes() == ["GET /ws/<room>"]


@matrix("any ASGI app", "route template", 'scope["path_template"]')
def test_any_app_may_tell_its_template(capture: Capture) -> None:
    """An app without a framework puts the template into the scope."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["path_template"] = "/things/{thing}"
        await opaque(scope, receive, send)

    ask(UsageMiddleware(app, recorder=capture.recorder), "/things/1")

    assert capture.routes() == ["GET /things/{thing}"]


@matrix("any ASGI app", "unmatched paths are one")
def test_without_a_template_nothing_of_the_path_is_kept(capture: Capture) -> None:
    """A thousand paths of an app that tells no template are one route."""
    app = UsageMiddleware(opaque, recorder=capture.recorder)

    for number in range(20):
        ask(app, f"/secret/{number}")

    assert set(capture.routes()) == {"GET (unmatched)"}


@matrix("any ASGI app", "routes are limited in number", "max_routes, 1000 by default")
def test_routes_are_limited_in_number(capture: Capture) -> None:
    """Above the limit a route that is new is one of the others; those that are known keep their names."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["path_template"] = scope["path"]  # junk
        await opaque(scope, receive, send)

    counted = UsageMiddleware(app, recorder=capture.recorder, max_routes=3)

    for path in ("/a", "/b", "/a", "/c", "/d", "/a", "/" + "e" * 600):
        ask(counted, path)
    ask(counted, "/a", "POST")

    assert capture.routes() == [
        "GET /a",
        "GET /b",
        "GET /a",
        "GET /c",
        "GET (other)",
        "GET /a",
        "GET (other)",
        "POST (other)",
    ]


@pytest.mark.usefixtures("isolated")
def test_a_framework_that_changed_costs_the_template_alone(capture: Capture) -> None:
    """What we cannot read in a scope is counted as an error; the request is counted as unmatched."""

    class Broken:
        @property
        def path(self) -> str:
            raise RuntimeError("new version")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = Broken()
        await opaque(scope, receive, send)

    answer = ask(UsageMiddleware(app, recorder=capture.recorder), "/a")

    assert answer.body == b"opaque"
    assert (capture.routes(), capture.errors()) == (["GET (unmatched)"], {"route": 1})
