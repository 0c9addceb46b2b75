"""What `identify`, `auth` and `scope` callables see of a request: the same names under ASGI and WSGI, read-only."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

__all__ = ["AsgiRequest", "Headers", "WsgiRequest"]


# The few names that an app asks for, as ASGI and WSGI spell them.
_ENCODED: dict[str, bytes] = {}
_KEYS: dict[str, str] = {}


def _encoded(name: str) -> bytes:
    if len(_ENCODED) >= 256:
        _ENCODED.clear()
    found = _ENCODED[name] = name.lower().encode("latin-1", "replace")
    return found


def _key(name: str) -> str:
    if len(_KEYS) >= 256:
        _KEYS.clear()
    key = name.upper().replace("-", "_")
    found = _KEYS[name] = key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else "HTTP_" + key
    return found


class Headers:
    """Request headers by case-insensitive name, values as text.

    `get`, `[]`, `in` and iteration work as in a mapping.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._pairs = pairs

    def get(self, name: str, default: str | None = None) -> str | None:
        """Give the value of header `name`, of several the first; else `default`."""
        wanted = _ENCODED.get(name) or _encoded(name)
        for key, value in self._pairs:
            if key == wanted:
                return value.decode("latin-1")
        return default

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.decode("latin-1") for key, _ in self._pairs))

    def items(self) -> list[tuple[str, str]]:
        """Give all names, lower-cased, with their values."""
        return [(name, self[name]) for name in self]

    def __repr__(self) -> str:
        return f"Headers({list(self)})"  # values hold secrets


class AsgiRequest:
    """A view of an HTTP or websocket request under ASGI.

    Lives as long as the request. What is not there (no session middleware, no user) is None or empty, never an error.

    Attributes:
        scope: the ASGI scope itself; do not change it.
    """

    __slots__ = ("_path", "scope")

    def __init__(self, scope: Mapping[str, Any], path: str | None = None) -> None:
        self.scope = scope
        self._path = path  # as it came in: frameworks take prefixes off the scope's

    @property
    def environ(self) -> None:
        """None: there is no WSGI environment under ASGI."""
        return None

    @property
    def method(self) -> str:
        """The HTTP method, `"GET"`; websockets have `"GET"` too."""
        return str(self.scope.get("method", "GET"))

    @property
    def path(self) -> str:
        """The decoded path, the mount's prefix included."""
        return str(self.scope.get("path", "")) if self._path is None else self._path

    @property
    def headers(self) -> Headers:
        """The request headers."""
        return Headers(self.scope["headers"])

    @property
    def cookies(self) -> dict[str, str]:
        """The request's cookies by name."""
        # HTTP/2 clients may send them in several headers.
        headers = [value.decode("latin-1") for name, value in self.scope["headers"] if name == b"cookie"]
        return _cookies("; ".join(headers))

    @property
    def query(self) -> dict[str, str]:
        """The query parameters; of several with one name the last."""
        return _query(self.scope.get("query_string", b"").decode("latin-1"))

    @property
    def state(self) -> Any:
        """What the app put on `request.state`: a mapping; empty where there is none."""
        return _mapping(self.scope.get("state"))

    @property
    def session(self) -> Any:
        """The session mapping of the app's session middleware; empty where there is none."""
        return _mapping(self.scope.get("session"))

    @property
    def user(self) -> Any:
        """The user that the app's authentication middleware found; None where there is none."""
        return self.scope.get("user")


class WsgiRequest:
    """A view of a request under WSGI; see `AsgiRequest`.

    Attributes:
        environ: the WSGI environment itself; do not change it.
    """

    __slots__ = ("environ",)

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self.environ = environ

    @property
    def scope(self) -> None:
        """None: there is no ASGI scope under WSGI."""
        return None

    @property
    def method(self) -> str:
        """The HTTP method, `"GET"`."""
        return str(self.environ.get("REQUEST_METHOD", "GET"))

    @property
    def path(self) -> str:
        """The decoded path, the mount's prefix included."""
        raw = self.environ.get("SCRIPT_NAME", "") + self.environ.get("PATH_INFO", "")
        return str(raw).encode("latin-1", "replace").decode("utf-8", "replace")

    @property
    def headers(self) -> _EnvironHeaders:
        """The request headers."""
        return _EnvironHeaders(self.environ)

    @property
    def cookies(self) -> dict[str, str]:
        """The request's cookies by name."""
        return _cookies(self.environ.get("HTTP_COOKIE", ""))

    @property
    def query(self) -> dict[str, str]:
        """The query parameters; of several with one name the last."""
        return _query(self.environ.get("QUERY_STRING", ""))

    @property
    def state(self) -> Any:
        """What the app put in the environment under `"usagekit.state"`; empty where there is nothing."""
        return self.environ.get("usagekit.state") or {}

    @property
    def session(self) -> Any:
        """The session of the framework, where it puts it in reach (Flask, Django); else empty."""
        request = self._framework_request()
        if request is not None:
            return getattr(request, "session", None) or {}
        return self.environ.get("beaker.session") or {}

    @property
    def user(self) -> Any:
        """The user of the framework (Django's `request.user`), else `REMOTE_USER`; None where there is none."""
        request = self._framework_request()
        user = None if request is None else getattr(request, "user", None)
        return user if user is not None else self.environ.get("REMOTE_USER")

    def _framework_request(self) -> Any:
        return self.environ.get("usagekit.request") or self.environ.get("werkzeug.request")


class _EnvironHeaders(Headers):
    """Headers as a WSGI environment holds them."""

    __slots__ = ("_environ",)

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    def get(self, name: str, default: str | None = None) -> str | None:
        value = self._environ.get(_KEYS.get(name) or _key(name))
        return default if value is None else str(value)

    def __iter__(self) -> Iterator[str]:
        for key in self._environ:
            if key.startswith("HTTP_"):
                yield key[5:].replace("_", "-").lower()
            elif key in {"CONTENT_TYPE", "CONTENT_LENGTH"} and self._environ[key]:
                yield key.replace("_", "-").lower()


def _mapping(value: Any) -> Any:
    # Litestar puts a marker of its own in the place of a session that is empty.
    return value if hasattr(value, "__getitem__") else {}


def _cookies(header: str) -> dict[str, str]:
    # SimpleCookie drops every cookie after one it does not like.
    cookies = {}
    for part in header.split(";"):
        name, separator, value = part.strip().partition("=")
        if separator and name:
            cookies[name] = value[1:-1] if value[:1] == value[-1:] == '"' else value
    return cookies


def _query(text: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=1000))
    except ValueError:
        return {}
