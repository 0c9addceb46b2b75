"""What usagekit raises, and when.

Set-up and reading raise early and say what to do; capturing never raises into the host app.

    UsagekitError
    ├── ConfigurationError   (ValueError)    an option or an environment variable that cannot work
    ├── MissingDependencyError (ImportError) an extra that is not installed
    ├── QueryError           (ValueError)    a question that cannot be asked
    │   └── QueryTimeout     (TimeoutError)  one that could not be answered within its time budget
    ├── StorageError         (OSError)       a ledger or a journal that cannot be used
    ├── UnavailableError     (OSError)       a remote service that cannot answer now
    ├── RetryAfter                           raised by a sink: try the same batch again later
    └── Rejected                             raised by a sink: this batch will never be taken
"""

from __future__ import annotations

from math import isnan

__all__ = [
    "ConfigurationError",
    "MissingDependencyError",
    "QueryError",
    "QueryTimeout",
    "Rejected",
    "RetryAfter",
    "StorageError",
    "UnavailableError",
    "UsagekitError",
]


class UsagekitError(Exception):
    """The root of everything usagekit raises."""


class RefusedError(TypeError):
    """What a callable of the app returned cannot be. Its text names types alone, and so may be logged."""


class ConfigurationError(UsagekitError, ValueError):
    """An option or an environment variable that cannot work; raised when the object is built."""


class MissingDependencyError(UsagekitError, ImportError):
    """A feature whose extra is not installed; the message names the pip command."""


class QueryError(UsagekitError, ValueError):
    """A question that cannot be asked: an unknown name, a bad range or zone; says what is allowed."""


class QueryTimeout(QueryError, TimeoutError):  # noqa: N818  named after the option
    """A question that could not be answered within its `timeout`; nothing is known of the answer."""


class StorageError(UsagekitError, OSError):
    """A ledger or journal directory that cannot be used; says why and what to do."""


class UnavailableError(UsagekitError, OSError):
    """A remote service that cannot answer a question now; the same question may be answered later.

    Args:
        message: what happened.
        retry_after: seconds after which the service wants to be asked again; None = it did not say.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class RetryAfter(UsagekitError):  # noqa: N818  it is an instruction to the delivery, named after the header
    """Raised by `Sink.write`: the sink asks for the same batch again after `seconds`.

    Args:
        seconds: how long to wait before the next try; 0 or more, capped at one hour; NaN is a minute.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = 60.0 if isnan(seconds) else max(0.0, seconds)  # what is no number is no reason to hurry
        super().__init__(f"try again in {self.seconds:g} s")


class Rejected(UsagekitError):  # noqa: N818  the sink's verdict, not a fault
    """Raised by `Sink.write`: the batch as it is will never be taken.

    A batch of several events is then halved until the events at fault stand alone; those go to the
    dead letters with this message, the others are delivered.
    """
