"""The endpoint as a WSGI app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usagekit.admin.site import Request, Site
from usagekit.context import leave_out
from usagekit.request import WsgiRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["AdminWsgiApp"]


class AdminWsgiApp:
    """A WSGI app that answers with what its `Site` says."""

    def __init__(self, site: Site, view: Callable[[WSGIEnvironment], WsgiRequest] = WsgiRequest) -> None:
        self._site = site
        self._view = view

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        leave_out()
        raw = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace")
        path = raw or ("" if environ.get("SCRIPT_NAME") else "/")
        answer = self._site.answer(Request(self._view(environ), path, environ.get("QUERY_STRING", "")))
        start_response(answer.line, answer.headers)
        return [answer.body]
