"""What a refused statement raises."""

from __future__ import annotations

from usagekit.errors import QueryError

__all__ = ["SqlError"]


class SqlError(QueryError):
    """A statement that Analytics Engine refuses, with its HTTP `status` and its text.

    Args:
        text: as the API's answer has it, without the words that say which status it is.
        status: 422 = the statement is at fault, 429 = it took too long or gave too much.
    """

    def __init__(self, text: str, status: int = 422) -> None:
        self.status = status
        super().__init__(f"{_PREFIXES[status]}{text}")


_PREFIXES = {422: "Input was invalid: ", 429: "Resource limit: "}
