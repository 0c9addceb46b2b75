"""Which requests are left out of counting altogether."""

from __future__ import annotations

from usagekit.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable

__all__ = ["DEFAULT_EXCLUDED", "Exclusion", "compiled"]

DEFAULT_EXCLUDED = ("/health", "/healthz", "/livez", "/readyz", "/metrics", "/favicon.ico")
"""Paths that say nothing about users. Mounted static files and the usage page itself are left out too."""

Exclusion = "Iterable[str | re.Pattern[str]] | Callable[[str], bool]"
"""Exact paths, shell patterns with `*`, compiled regular expressions that must match the whole path; or a callable
that is given the path and says True to leave the request out."""


def compiled(
    exclude: Iterable[str | re.Pattern[str]] | Callable[[str], bool],
) -> tuple[frozenset[str], Callable[[str], bool] | None]:
    """Give the exact paths, and a test for what is not an exact path (None where there is nothing to test).

    Raises:
        ConfigurationError: `exclude` is a single string, or holds something else than strings and patterns.
    """
    if callable(exclude):
        return frozenset(), exclude
    if isinstance(exclude, str):
        msg = f"exclude={exclude!r} is one string; give a list: exclude=[{exclude!r}]"
        raise ConfigurationError(msg)
    exact: set[str] = set()
    patterns: list[re.Pattern[str]] = []
    for rule in exclude:
        if isinstance(rule, str) and not set(rule) & set("*?["):
            exact.add(rule)
        elif isinstance(rule, str):
            import re
            from fnmatch import translate

            patterns.append(re.compile(translate(rule)))
        elif hasattr(rule, "fullmatch"):
            patterns.append(rule)
        else:
            msg = f"exclude holds {rule!r}; give paths, patterns with *, or compiled regular expressions"
            raise ConfigurationError(msg)
    if not patterns:
        return frozenset(exact), None
    return frozenset(exact), lambda path: any(pattern.fullmatch(path) for pattern in patterns)
