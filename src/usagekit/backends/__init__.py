"""Where events go to and where answers come from: two protocols, and finding who implements them.

A backend is an object that can be written to (a `Sink`), one that can be asked (a `Reader`), or both. There is no base
class. Backends are found by the scheme of their URL through the entry point group `usagekit.backends`; a name there
stands for a class with a `from_url(url)` class method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from usagekit.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.metadata import EntryPoint

    from usagekit.event import UsageEvent
    from usagekit.query import UsageQuery, UsageReport

__all__ = ["Reader", "Sink", "backend_from_url", "installed_backends"]

GROUP = "usagekit.backends"


@runtime_checkable
class Sink(Protocol):
    """A backend that can be written to.

    Called by one background thread of one process at a time, in import order.
    """

    max_batch: int
    """How many events `write` takes at once, 1 or more."""

    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        """Take a batch, or raise. Every retry brings the same events under the same `batch_id`.

        Raises:
            RetryAfter: to be called again after that many seconds.
            Rejected: never to be called with this batch again; it is halved until the events at fault are found.
            Exception: anything else is tried again for ever, at growing intervals.
        """

    def close(self) -> None:
        """Let go of everything; called once, by whoever closes the recorder."""


@runtime_checkable
class Reader(Protocol):
    """A backend that can be asked. `dimensions`, when it has it, names the app's own dimensions it knows."""

    def read(self, query: UsageQuery, /) -> UsageReport:
        """Answer `query`; blocks until done. Raises `QueryError` for what it cannot answer."""


def installed_backends() -> dict[str, EntryPoint]:
    """Give the entry points of all installed backends by URL scheme; nothing is imported."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def backend_from_url(url: str) -> Any:
    """Build the backend that a URL such as `sqlite:///usage.db` or `memory://` names.

    Raises:
        ConfigurationError: the URL has no scheme, or no installed backend has this one.
        MissingDependencyError: the backend is known, and what it needs is not installed.
    """
    scheme, separator, _ = url.partition("://")
    backends = installed_backends()
    if not separator or scheme not in backends:
        known = ", ".join(f"{name}://" for name in sorted(backends))
        msg = f"no backend for {url!r}; installed are {known}"
        raise ConfigurationError(msg)
    point = backends[scheme]
    try:
        backend = point.load()
    except ImportError as error:
        msg = f"the backend of {scheme}:// ({point.value}) cannot be loaded: {error}"
        raise MissingDependencyError(msg) from error
    return backend.from_url(url)
