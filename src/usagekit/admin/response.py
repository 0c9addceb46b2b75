"""What the endpoint answers with, whatever carries it: a status, headers and a body."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PHRASES", "Response", "problem", "respond", "style"]

PHRASES = {
    200: "OK",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    422: "Unprocessable Content",
    503: "Service Unavailable",
}

HTML, JSON, PROBLEM, CSV = "text/html; charset=utf-8", "application/json", "application/problem+json", "text/csv"

METHODS = ("GET", "HEAD")


class Response(NamedTuple):
    """One answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def line(self) -> str:
        """Status and phrase, as WSGI wants them."""
        return f"{self.status} {PHRASES[self.status]}"


def style() -> str:
    """Give the style sheet, which stands in every page: so one request is enough, also for an error."""
    if not _STYLE:
        _STYLE.append((files("usagekit.admin") / "templates" / "style.css").read_text(encoding="utf-8"))
    return _STYLE[0]


_STYLE: list[str] = []


def respond(status: int, kind: str, text: str, more: Iterable[tuple[str, str]] = ()) -> Response:
    """Make an answer with all headers that keep it safe."""
    body = text.encode("utf-8", "replace")
    headers = [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", _policy()),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("X-Robots-Tag", "noindex, nofollow"),
        *more,
    ]
    return Response(status, headers, body)


def problem(status: int, detail: str, more: Iterable[tuple[str, str]] = ()) -> Response:
    """Make an answer that says what was wrong, as RFC 9457 has it."""
    told = {"type": "about:blank", "title": PHRASES[status], "status": status, "detail": detail}
    return respond(status, PROBLEM, json.dumps(told), more)


def _policy() -> str:
    digest = b64encode(sha256(style().encode()).digest()).decode()
    # data: is the empty icon, so that no browser asks for /favicon.ico.
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )
