"""The path template that an ASGI framework matched, read from the scope it left behind; never a raw path.

What frameworks leave: Starlette and FastAPI the matched `route`, and in `root_path` the raw path of what they mounted
around it; FastAPI the whole template of an included router's route under `fastapi`; Litestar `path_template` and
`route_handler`. Any other app may put its template into `path_template`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, MutableMapping
    from typing import Any

    Scope = MutableMapping[str, Any]

__all__ = ["is_static", "template_of"]

_AROUND = frozenset({"Mount", "Host"})  # Starlette's routes that have others behind them
_FULL = 2  # of Starlette's Match
_LITERAL_PREFIXES = 1000  # known per app; above it they are found out anew


def template_of(scope: Scope, entry_root: str, entry_path: str, literals: set[str]) -> str:
    """Give the template; `""` where nothing matched.

    Args:
        scope: as the framework left it.
        entry_root: `root_path` when the request came in: where the server or an outer app put this one.
        entry_path: `path` when the request came in.
        literals: mounted prefixes without parameters; found ones are added.
    """
    root: str = scope.get("root_path") or ""
    route = scope.get("route")
    is_matched = route is not None and type(route).__name__ not in _AROUND
    if is_matched and root == entry_root and "fastapi" not in scope and "route_handler" not in scope:
        return str(getattr(route, "path", ""))
    if not is_matched and "endpoint" in scope and "router" in scope:
        # Starlette before 1.7 does not say which route it matched, FastAPI not for mounts and routes of Starlette's.
        prefix = _Walk(scope, entry_root, entry_path).template()
    else:
        prefix = "" if root == entry_root else _prefix(scope, entry_root, entry_path, literals)
    if "route_handler" in scope:
        prefix = _litestar_mount(scope, entry_path.removeprefix(entry_root)) + prefix
    if not is_matched:
        # What was mounted may be no Starlette, and say its template itself.
        told = scope.get("path_template")
        return prefix + str(told) if told else prefix
    context = (scope.get("fastapi") or {}).get("effective_route_context")
    # That of an outer app is still there when a mounted one matched a route of its own.
    if context is not None and getattr(context, "original_route", None) is route:
        route = context
    return prefix + str(getattr(route, "path", ""))


def is_static(scope: Scope) -> bool:
    """Say whether a framework's own app for static files had the request."""
    if "endpoint" in scope:
        return any(kind.__name__ == "StaticFiles" for kind in type(scope["endpoint"]).__mro__)
    if "route_handler" in scope:
        handler = scope["route_handler"]
        module = str(getattr(getattr(handler, "fn", None), "__module__", ""))
        return module.startswith("litestar.static_files") or bool(getattr(handler, "is_static", False))
    return "fastapi" in scope and "frontend_path" in scope["fastapi"]


def _prefix(scope: Scope, entry_root: str, entry_path: str, literals: set[str]) -> str:
    """Give the template of what was mounted around the matched route."""
    walk = _Walk(scope, entry_root, entry_path)
    raw: str = scope["root_path"][len(max(walk.base, walk.entry, key=len)) :]
    if not raw or raw in literals:
        return raw
    template = walk.prefix()
    if template is None:
        template = _substituted(raw, scope.get("path_params") or {})
    if template == raw and len(literals) < _LITERAL_PREFIXES:
        literals.add(raw)
    return template


class _Walk:
    """The way of a request from Starlette's outermost router, gone once more.

    Attributes:
        base: `root_path` before that router.
        entry: `root_path` where we saw the request, which may be in a mounted app; `""` where that is not on the way.
    """

    def __init__(self, scope: Scope, entry_root: str, entry_path: str) -> None:
        root: str = scope.get("root_path") or ""
        self.entry = entry_root if root.startswith(entry_root) else ""
        self.base = self.entry
        before_mounts = scope.get("app_root_path")  # Starlette's, kept at its first mount
        if before_mounts is None and getattr(scope.get("app"), "root_path", None) == root:
            self.base = root  # FastAPI(root_path=...) tells where a proxy put it
        elif before_mounts is not None and root.startswith(before_mounts):
            self.base = before_mounts
        self._root = root
        self._routes = getattr(scope.get("router"), "routes", ())
        known = {name: scope[name] for name in ("type", "method", "headers") if name in scope}
        # Litestar takes the prefix off the path before what it mounted, and not before what it is mounted in.
        self._starts = [
            known | {"path": path, "root_path": self.base, "path_params": {}}
            for path in dict.fromkeys((entry_path, scope["path"]))
        ]

    def template(self) -> str:
        """Give the template of mounts and route; `""` where nothing matches."""
        for start in self._starts:
            found = _matched_again(self._routes, start)
            if found:
                return found.removeprefix(self._outside(start))
        return ""

    def prefix(self) -> str | None:
        """Give the template of the mounts alone; None where no way leads there."""
        for start in self._starts:
            found = _mounted(self._routes, start, self._root)
            if found is not None:
                return found.removeprefix(self._outside(start))
        return None

    def _outside(self, start: dict[str, Any]) -> str:
        if len(self.entry) <= len(self.base):
            return ""
        return _mounted(self._routes, start, self.entry) or ""


def _mounted(routes: Iterable[Any], scope: dict[str, Any], root: str) -> str | None:
    """Give the template of the mounts that led to `root`; None where no way leads there."""
    for route in _single(routes):
        inner = _routes_in(route)
        if inner is None:
            continue
        match, child = route.matches(scope)
        if match.value != _FULL:
            continue
        reached = child.get("root_path", scope["root_path"])
        path = str(getattr(route, "path", ""))  # a Host has none
        if reached == root:
            return path
        deeper = _mounted(inner, scope | child, root) if root.startswith(reached) else None
        if deeper is not None:
            return path + deeper
    return None


def _matched_again(routes: Iterable[Any], scope: dict[str, Any]) -> str:
    """Give the path of the route that Starlette's rules choose: the first full match, else the first partial one."""
    partial = ""
    for route in _single(routes):
        match, child = route.matches(scope)
        path = str(getattr(route, "path", ""))
        if match.value == _FULL:
            inner = _routes_in(route)
            return path if inner is None else path + _matched_again(inner, scope | child)
        partial = partial or (path if match.value else "")
    return partial


def _single(routes: Iterable[Any]) -> Iterator[Any]:
    """Give the routes with those of FastAPI's included routers in their place, which have their whole path then."""
    for route in routes:
        if hasattr(route, "effective_route_contexts"):
            for context in route.effective_route_contexts():
                yield context.starlette_route or context
        elif hasattr(route, "matches"):  # those of another framework have not
            yield route


def _routes_in(route: Any) -> list[Any] | None:
    """Give the routes behind a Mount or Host, also where a middleware is wrapped around them; None for others."""
    if type(route).__name__ not in _AROUND:
        return None
    app = route.app
    while not hasattr(app, "routes") and hasattr(app, "app"):
        app = app.app
    return list(getattr(app, "routes", ()))


def _substituted(raw: str, parameters: Mapping[str, object]) -> str:
    """Put the parameters' names in the place of their values, where the mounts themselves are out of reach."""
    names = {str(value): f"{{{name}}}" for name, value in parameters.items()}
    return "/".join(names.get(segment, segment) for segment in raw.split("/"))


def _litestar_mount(scope: Scope, path: str) -> str:
    """Give the path under which Litestar mounted an ASGI app: it takes it off the scope's path without a word."""
    handler = scope["route_handler"]
    for route in scope["litestar_app"].routes if getattr(handler, "is_mount", False) else ():
        if getattr(route, "route_handler", None) is handler and path.startswith(route.path):
            return str(route.path)
    return ""
