"""Who gets in, and that nobody else learns anything."""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest

from tests.admin.shells import SHELLS, TOKEN, get, of_asgi, of_flask, of_wsgi
from tests.support.asgi import Connection, ask
from usagekit import ConfigurationError, _guard
from usagekit.admin import BearerAuth, asgi, auth, usage_app, usage_wsgi_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from usagekit import Recorder

PATHS = (
    "/",
    "/api/usage?by=user",
    "/api/summary",
    "/api/health",
    "/openapi.json",
    "/nothing",
    "/api/usage?by=nonsense",
)
SECRETS = (b"ann", b"acme", b"gpt-5", b"plan", b"durable", b"api/usage")


def basic(password: str, user: str = "any") -> str:
    """Give the header that a browser sends."""
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        ((), "has no token"),
        (("",), "is empty"),
        (("   ",), "is empty"),
        ((f"{TOKEN},",), "is empty"),
        ((TOKEN[:31],), "has 31 characters, and needs at least 32"),
        ((TOKEN + " " + TOKEN,), "holds white space"),
        ((TOKEN + "\N{LATIN SMALL LETTER E WITH ACUTE}",), "holds white space, or characters that no header"),
        (("x" * 40,), "could be guessed"),
        (("changeme-changeme-changeme-1234567",), "is a placeholder"),
        (("your-token-here-your-token-here-0123",), "is a placeholder"),
        (("put-the-PLACEHOLDER-away-0123456789",), "is a placeholder"),
        ((None,), "is a NoneType"),
    ],
)
def test_bad_tokens_are_refused_when_it_is_built(tokens: tuple[Any, ...], problem: str) -> None:
    """Each message says what is wrong and how to make a good one, and never the token."""
    with pytest.raises(ConfigurationError, match=problem) as raised:
        BearerAuth(*tokens)

    assert "secrets.token_urlsafe" in str(raised.value)
    assert not any(token and token.strip() and token in str(raised.value) for token in tokens)


@pytest.mark.parametrize("build", [usage_app, usage_wsgi_app, *SHELLS.values()])
def test_there_is_no_endpoint_without_auth(build: Callable[..., Any], recorded: Recorder) -> None:
    """No default, None is no auth, and a class is not an object."""
    with pytest.raises(TypeError):
        build(recorded)
    for given in (None, True, "token", BearerAuth):
        with pytest.raises(ConfigurationError, match="auth"):
            build(recorded, auth=given)


def test_the_token_lets_in_as_bearer_and_as_password(app: Any) -> None:
    """Schemes in any case, as RFC 9110 has it; any user name."""
    for header in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic(TOKEN), basic(TOKEN, "").replace("Basic", "BASIC")):
        assert get(app, "/api/summary", token=None, headers={"authorization": header}).status == 200, header


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE"])
@pytest.mark.parametrize("path", PATHS)
def test_nobody_else_learns_anything(app: Any, path: str, method: str) -> None:
    """Without a token every path and method has the same answer, which says nothing."""
    answer = get(app, path, method, token=None)
    expected = get(app, "/", token=None)

    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="usagekit", charset="UTF-8", Bearer realm="usagekit"'
    assert answer.headers.items() == expected.headers.items()
    assert answer.body == (b"" if method == "HEAD" else expected.body)
    assert not any(secret in answer.body for secret in SECRETS)


ODD_HEADERS = (
    "",
    "Bearer",
    "Bearer ",
    f"Bearer {TOKEN[:-1]}",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN},{TOKEN}",
    f"Bearer {TOKEN}, Bearer {TOKEN}",
    f"Token {TOKEN}",
    TOKEN,
    "Bearer \xff\xfe\xe9",
    "Basic",
    "Basic ====",
    "Basic \xe9",
    basic(""),
    basic("x:" + TOKEN),
    "Basic " + b64encode(TOKEN.encode()).decode(),
    "Bearer " + "a" * 1_000_000,
    "Basic " + "A" * 1_000_000,
)


def test_odd_headers_are_just_wrong(recorded: Recorder) -> None:
    """Non-ASCII, a megabyte, half a header: 401, and no exception."""
    apps = [build(recorded, auth=BearerAuth(TOKEN)) for build in (of_wsgi, of_flask)]
    asgi_app = usage_app(recorded, auth=BearerAuth(TOKEN))

    for header in ODD_HEADERS:
        statuses = [get(app, token=None, headers={"authorization": header}).status for app in apps]
        statuses.append(_asgi_status(asgi_app, [(b"authorization", header.encode("latin-1"))]))
        assert statuses == [401, 401, 401], header[:60]


def test_two_headers_are_one_too_many(recorded: Recorder) -> None:
    """What reads only one of them, a proxy or we, could be fooled."""
    app = usage_app(recorded, auth=BearerAuth(TOKEN))
    good = (b"authorization", f"Bearer {TOKEN}".encode())

    assert [_asgi_status(app, [good]), _asgi_status(app, [good, good])] == [200, 401]
    assert _asgi_status(app, [(b"authorization", b"Bearer x"), good]) == 401


def _asgi_status(app: Any, headers: list[tuple[bytes, bytes]]) -> int:
    async def served() -> int:
        connection = Connection("/api/summary")
        connection.scope["headers"] = headers
        return (await connection.run(app)).status

    return asyncio.run(served())


def test_several_tokens_for_rotation(shell: Callable[..., Any], recorded: Recorder) -> None:
    """Both let in; one variable may hold several."""
    other = TOKEN[::-1]
    app = shell(recorded, auth=BearerAuth(f"{TOKEN}, {other}"))

    assert [get(app, token=token).status for token in (TOKEN, other, TOKEN[1:] + "x")] == [200, 200, 401]


@pytest.mark.parametrize(
    ("verdict", "status"), [(True, 200), (1, 403), ("yes", 403), (False, 403), (object(), 403), (None, 401)]
)
def test_only_true_lets_in(shell: Callable[..., Any], recorded: Recorder, verdict: object, status: int) -> None:
    """Truthy is not enough; None is nobody, all else is somebody who may not."""
    answer = get(shell(recorded, auth=lambda _request: verdict), "/api/summary")

    assert answer.status == status
    assert ("www-authenticate" in answer.headers) == (status == 401)


def test_the_callable_sees_the_request(shell: Callable[..., Any], recorded: Recorder) -> None:
    """Method, whole path, headers, cookies and query, as `identify` sees them."""
    seen = []

    def look(request: Any) -> bool:
        seen.append((request.method, request.path, request.headers.get("X-Me"), request.cookies, request.query))
        return True

    get(shell(recorded, auth=look), "/api/summary?period=24h", headers={"x-me": "boss", "cookie": "a=b"})

    assert seen == [("GET", "/admin/usage/api/summary", "boss", {"a": "b"}, {"period": "24h"})]


@pytest.mark.usefixtures("quick")
def test_what_raises_or_hangs_gives_503_without_data(shell: Callable[..., Any], recorded: Recorder) -> None:
    """Also where it hangs for ever."""
    never = threading.Event()

    def raises(_request: Any) -> bool:
        raise LookupError("secret detail")

    try:
        for function in (raises, lambda _request: never.wait(60)):
            answer = get(shell(recorded, auth=function), "/api/usage?by=user")
            assert answer.status == 503
            assert not any(secret in answer.body for secret in (*SECRETS, b"secret detail", b"LookupError"))
    finally:
        never.set()


def test_callables_that_hang_leave_few_threads_behind(recorded: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask."""
    monkeypatch.setattr(auth, "CALLABLE_SECONDS", 0.01)
    monkeypatch.setattr(auth, "_free", threading.BoundedSemaphore(3))
    never = threading.Event()
    app = of_wsgi(recorded, auth=lambda _request: never.wait(60))

    try:
        answers = [get(app, "/api/usage?by=user").status for _ in range(12)]
        hanging = [thread for thread in threading.enumerate() if thread.name == "usagekit-admin"]
    finally:
        never.set()

    assert answers == [503] * 12
    assert len(hanging) == 3
    for thread in hanging:
        thread.join()
    assert get(of_wsgi(recorded, auth=lambda _request: True)).status == 200


def test_a_token_check_of_the_apps_own_may_raise(recorded: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any callable may."""

    class Broken(BearerAuth):
        def __call__(self, request: Any) -> bool | None:
            raise LookupError

    monkeypatch.setattr(_guard, "reraise", False)

    assert get(of_wsgi(recorded, auth=Broken(TOKEN))).status == 503


@pytest.mark.usefixtures("quick")
def test_async_callables_are_awaited_under_asgi(recorded: Recorder) -> None:
    """One that lets in, one that does not, one that raises, one that hangs; also objects with an async `__call__`."""

    class Staff:
        async def __call__(self, request: Any) -> bool:
            await asyncio.sleep(0)
            return bool(request.headers.get("x-me") == "boss")

    async def raises(_request: Any) -> bool:
        raise LookupError

    async def hangs(_request: Any) -> bool:
        await asyncio.Event().wait()
        return True

    staff = of_asgi(recorded, auth=Staff())

    assert [get(staff, headers={"x-me": name}).status for name in ("boss", "ann")] == [200, 403]
    assert [get(of_asgi(recorded, auth=function)).status for function in (raises, hangs)] == [503, 503]


def test_async_callables_are_refused_under_wsgi(recorded: Recorder) -> None:
    """When it is built, where that can be seen; else nobody gets in."""

    async def letting_in(_request: Any) -> bool:
        return True

    for build in (usage_wsgi_app, of_flask):
        for options in ({"auth": letting_in}, {"auth": BearerAuth(TOKEN), "scope": letting_in}):
            with pytest.raises(ConfigurationError, match="async"):
                build(recorded, **options)
        if build is of_flask:
            hidden = get(build(recorded, auth=lambda request: [letting_in(request)][0]))
            assert hidden.status == 503


def test_websockets_are_refused(recorded: Recorder) -> None:
    """Nothing is served over them, whoever asks."""
    served = ask(usage_app(recorded, auth=lambda _request: True), kind="websocket")

    assert [message["type"] for message in served.sent] == ["websocket.close"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up early, and let the guard catch."""
    monkeypatch.setattr(auth, "CALLABLE_SECONDS", 0.2)
    monkeypatch.setattr(asgi, "CALLABLE_SECONDS", 0.2)
    monkeypatch.setattr(_guard, "reraise", False)
