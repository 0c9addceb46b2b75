"""Who uses my app, how much, and what do the tokens cost?

The names below are loaded when they are first used, so that importing usagekit costs an app nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from usagekit.context import Identity, bind, bound
    from usagekit.errors import (
        ConfigurationError,
        MissingDependencyError,
        QueryError,
        QueryTimeout,
        Rejected,
        RetryAfter,
        StorageError,
        UnavailableError,
        UsagekitError,
    )
    from usagekit.event import UsageEvent
    from usagekit.llm import track_tokens
    from usagekit.query import Statement, UsageQuery, UsageReport, statement, usage
    from usagekit.recorder import Recorder, record_tokens, set_default_recorder, track

__all__ = [
    "ConfigurationError",
    "Identity",
    "MissingDependencyError",
    "QueryError",
    "QueryTimeout",
    "Recorder",
    "Rejected",
    "RetryAfter",
    "Statement",
    "StorageError",
    "UnavailableError",
    "UsageEvent",
    "UsageQuery",
    "UsageReport",
    "UsagekitError",
    "bind",
    "bound",
    "record_tokens",
    "set_default_recorder",
    "statement",
    "track",
    "track_tokens",
    "usage",
]

__version__ = "0.1.0"

_MODULES = {
    "Identity": "context",
    "Recorder": "recorder",
    "Statement": "query",
    "UsageEvent": "event",
    "UsageQuery": "query",
    "UsageReport": "query",
    "bind": "context",
    "bound": "context",
    "record_tokens": "recorder",
    "set_default_recorder": "recorder",
    "statement": "query",
    "track": "recorder",
    "track_tokens": "llm",
    "usage": "query",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        msg = f"module 'usagekit' has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    value = getattr(import_module(f"usagekit.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
