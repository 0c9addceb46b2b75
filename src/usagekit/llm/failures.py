"""What an exception tells about the model call that it ended."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["NO_ANSWER", "WENT_AWAY", "chain_of", "is_of_a_framework", "status_of"]

NO_ANSWER = 599
WENT_AWAY = 499


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Give an exception and, as far as they show, those it was made of."""
    cause: BaseException | None = error
    for _ in range(8):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def status_of(error: BaseException) -> int | None:
    """Give the HTTP status that an SDK's exception carries; None = none."""
    response: Any = getattr(error, "response", None)
    held = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}  # botocore
    for status in (
        getattr(error, "status_code", None),
        getattr(response, "status_code", None),
        held.get("HTTPStatusCode"),
        getattr(error, "code", None),  # google-genai
        getattr(error, "status", None),  # aiohttp
    ):
        if type(status) is int and 400 <= status <= 599:
            return status
    return None


_FRAMEWORKS = frozenset(
    {"bottle", "django", "falcon", "fastapi", "flask", "litestar", "ninja", "quart", "starlette", "werkzeug"},
)


def is_of_a_framework(error: BaseException) -> bool:
    """Tell a web framework's own exceptions, which answer a request and say nothing about a model."""
    return any(base.__module__.partition(".")[0] in _FRAMEWORKS for base in type(error).__mro__)
