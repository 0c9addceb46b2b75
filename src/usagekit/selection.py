"""Which requests are counted, for how many each, and under which route names; the same for every middleware."""

from __future__ import annotations

from usagekit._clean import ROUTE_LIMIT, WEIGHT_LIMIT
from usagekit._options import listed, refuse
from usagekit.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable

    from usagekit._guard import Guard

__all__ = ["DEFAULT_EXCLUDED", "DEFAULT_MAX_ROUTES", "Exclusion", "Routes", "Selection", "compiled", "sampler"]

DEFAULT_EXCLUDED = ("/health", "/healthz", "/livez", "/readyz", "/metrics", "/favicon.ico")
"""Paths that say nothing about users. Mounted static files and the usage page itself are left out too."""

DEFAULT_MAX_ROUTES = 1000

Exclusion = "Iterable[str | re.Pattern[str]] | Callable[[str], bool]"
"""Exact paths, shell patterns with `*`, compiled regular expressions that must match the whole path; or a callable
that is given the path and says True to leave the request out."""

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "OTHER")


def compiled(
    exclude: Iterable[str | re.Pattern[str]] | Callable[[str], bool],
) -> tuple[frozenset[str], Callable[[str], bool] | None]:
    """Give the exact paths, and a test for what is not an exact path (None where there is nothing to test).

    Raises:
        ConfigurationError: `exclude` is a single string, or holds something else than strings and patterns.
    """
    if callable(exclude):
        from inspect import iscoroutinefunction

        if iscoroutinefunction(exclude):
            msg = "exclude is async; give a plain function of the path, since it is asked before each request"
            raise ConfigurationError(msg)
        return frozenset(), exclude
    exact: set[str] = set()
    patterns: list[re.Pattern[str]] = []
    for rule in listed("exclude", exclude, "'/health'"):
        if isinstance(rule, str) and rule[:1] not in set("/*?["):
            refuse("exclude=[...]", rule, "is no path, which begins with /", f"one: exclude=[{'/' + rule!r}]")
        elif isinstance(rule, str) and not set(rule) & set("*?["):
            exact.add(rule)
        elif isinstance(rule, str):
            import re
            from fnmatch import translate

            patterns.append(re.compile(translate(rule)))
        elif hasattr(rule, "fullmatch") and isinstance(getattr(rule, "pattern", None), str):
            patterns.append(rule)
        else:
            msg = f"exclude holds {rule!r}; give paths, patterns with *, or compiled regular expressions of text"
            raise ConfigurationError(msg)
    if not patterns:
        return frozenset(exact), None
    return frozenset(exact), lambda path: any(pattern.fullmatch(path) for pattern in patterns)


def sampler(sample: int | Callable[[str], int]) -> Callable[[str], int] | None:
    """Give what draws lots for one request: a function of its path, that says how many requests it stands for.

    The function gives 0 where the request is not to be counted, and raises what the callable raises. None: every
    request is counted, and stands for itself.

    Args:
        sample: N to count one request in N, at random, each with weight N, so that totals stay right on average; or a
            callable that is given the path and returns N. An integer from 1 to 1,000,000,000.

    Raises:
        ConfigurationError: N is not such an integer.
    """
    if not callable(sample) and _checked(sample) == 1:
        return None
    from random import SystemRandom

    # Not the host's own generator, whose sequence it may have seeded; and forked workers must not draw the same.
    draw = SystemRandom().randrange
    if not callable(sample):
        return lambda _path: _drawn(sample, draw)
    return lambda path: _drawn(_checked(sample(path)), draw)


def _checked(one_in: object) -> int:
    if type(one_in) is int and 1 <= one_in <= WEIGHT_LIMIT:
        return one_in
    msg = f"sample={one_in!r} cannot be drawn; sample=10 counts one request in ten, with weight 10"
    raise ConfigurationError(msg)


def _drawn(one_in: int, draw: Callable[[int], int]) -> int:
    return 1 if one_in == 1 else 0 if draw(one_in) else one_in


class Selection:
    """Which requests a middleware counts; lives as long as it.

    Attributes:
        paths: exact paths that are left out.
        is_choosy: there is more to ask than the exact paths.
    """

    __slots__ = ("_excludes", "_sampler", "is_choosy", "paths")

    def __init__(
        self, exclude: Iterable[str | re.Pattern[str]] | Callable[[str], bool], sample: int | Callable[[str], int]
    ) -> None:
        self.paths, self._excludes = compiled(exclude)
        self._sampler = sampler(sample)
        self.is_choosy = self._excludes is not None or self._sampler is not None

    def leaves_out(self, path: str, guard: Guard) -> bool:
        """Say whether a request of `path` is not counted at all; what the app's callable raises is a no."""
        try:
            return path in self.paths or bool(self._excludes is not None and self._excludes(path))
        except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
            guard.caught("exclude", error)
            return False

    def weight(self, path: str, guard: Guard) -> int:
        """Draw how many requests this one stands for, 0 = it lost; 1 where the app's callable raises."""
        try:
            return 1 if self._sampler is None else self._sampler(path)
        except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
            guard.caught("sample", error)
            return 1


class Routes(dict[str, "_RoutesOfMethod"]):
    """The names of an app's routes by method and template: `routes["GET"]["/items/{id}"]` is `"GET /items/{id}"`.

    Lives as long as its middleware. Methods outside the standard's are `OTHER`, an empty template is `(unmatched)`.
    Once `limit` names were given out, a further one is `"GET (other)"`, so that junk in the templates of some
    framework fills neither memory nor reports. Threads that meet at the limit may exceed it by their number.
    """

    __slots__ = ("_limit",)

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        for method in _METHODS:
            self[method] = _RoutesOfMethod(method, self)

    def __missing__(self, method: str) -> _RoutesOfMethod:
        return self["OTHER"]

    def full(self) -> bool:
        """Say whether no further name may be given out."""
        return sum(map(len, self.values())) - len(_METHODS) >= self._limit


class _RoutesOfMethod(dict[str, str]):
    __slots__ = ("_method", "_routes")

    def __init__(self, method: str, routes: Routes) -> None:
        super().__init__({"": f"{method} (unmatched)"})
        self._method = method
        self._routes = routes

    def __missing__(self, template: str) -> str:
        if len(template) > ROUTE_LIMIT or self._routes.full():
            return f"{self._method} (other)"
        name = self[template] = f"{self._method} {template}"
        return name
