"""Routes of every kind, and what answers them."""

from __future__ import annotations

from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import FileResponse, Http404, HttpResponse, StreamingHttpResponse
from django.template.backends.django import DjangoTemplates
from django.template.response import TemplateResponse
from django.urls import include, path, re_path
from django.views import View
from django.views.static import serve

from tests.django.project.usage import recorder
from usagekit import bind, track
from usagekit.django import usage_urls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from django.http import HttpRequest

HERE = Path(__file__).parent
ENGINE = DjangoTemplates({"NAME": "here", "DIRS": [], "APP_DIRS": False, "OPTIONS": {}})


def hello(request: HttpRequest, **_: object) -> HttpResponse:
    """Greet."""
    return HttpResponse(b"hello")


async def hello_async(request: HttpRequest, **_: object) -> HttpResponse:
    """Greet, in an event loop."""
    return HttpResponse(b"hello")


class Item(View):  # type: ignore[misc] # Django has no types of its own
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        return HttpResponse(b"item")

    def delete(self, request: HttpRequest, pk: int) -> HttpResponse:
        raise PermissionDenied


def missing(request: HttpRequest, name: str) -> HttpResponse:
    """Find nothing."""
    raise Http404


def broken(request: HttpRequest, name: str) -> HttpResponse:
    """Fail."""
    raise LookupError(name)


def enter(request: HttpRequest, name: str) -> HttpResponse:
    """Log somebody in."""
    user, _ = User.objects.get_or_create(username=name)
    login(request, user)
    return HttpResponse(b"welcome")


def bound(request: HttpRequest) -> HttpResponse:
    """Say who it was, and what."""
    bind(user="bound", event="mine")
    track("tracked")
    return HttpResponse(b"bound")


async def bound_async(request: HttpRequest) -> HttpResponse:
    """Say it from the event loop and from a thread."""
    bind(user="bound", event="mine")
    await sync_to_async(track)("tracked")
    return HttpResponse(b"bound")


def stream(request: HttpRequest, name: str) -> StreamingHttpResponse:
    """Stream, and know late for whom."""

    def parts() -> Iterator[bytes]:
        yield b"one"
        sleep(0.03)
        bind(user="streamed")
        track("half")
        if name == "broken":
            raise LookupError
        yield b"two"

    return StreamingHttpResponse(parts())


async def stream_async(request: HttpRequest, name: str) -> StreamingHttpResponse:
    """Stream from the event loop."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        await sync_to_async(sleep)(0.03)
        bind(user="streamed")
        track("half")
        if name == "broken":
            raise LookupError
        yield b"two"

    return StreamingHttpResponse(parts())


async def used_async(request: HttpRequest) -> HttpResponse:
    """Track in the event loop, for whom only the database knows."""
    track("used")
    return HttpResponse(b"used")


async def numbers() -> AsyncIterator[bytes]:
    """Give parts, and track one."""
    yield b"one"
    track("used")
    yield b"two"


def stream_numbers(request: HttpRequest) -> StreamingHttpResponse:
    """Stream from an event loop, whatever the server."""
    return StreamingHttpResponse(numbers())


def file_of_odd_length(request: HttpRequest) -> FileResponse:
    """Send a file with a length that is no number."""
    response = FileResponse((HERE / "settings.py").open("rb"))
    response["Content-Length"] = "about 1,000"
    return response


def template(request: HttpRequest) -> TemplateResponse:
    """Leave the rendering to Django."""
    return TemplateResponse(request, ENGINE.from_string("rendered"))


def file(request: HttpRequest) -> FileResponse:
    """Send a file."""
    return FileResponse((HERE / "settings.py").open("rb"))


def may_look(request: Any) -> bool | None:
    """Let staff in, whom the database knows."""
    return bool(request.user.is_staff) if request.user.is_authenticated else None


included: list[Any] = [
    path("items/<int:pk>/", Item.as_view()),
    re_path(r"^v(?P<version>[0-9]+)/items/$", hello),
    re_path(r"^plain/([a-z^$]+)/$", lambda request, _name: hello(request)),
]

urlpatterns: list[Any] = [
    path("", hello),
    path("async/<slug:name>/", hello_async),
    path("api/", include((included, "api"))),
    re_path(r"^old/", include((included, "old"), namespace="old")),
    path("missing/<name>/", missing),
    path("broken/<name>/", broken),
    path("enter/<name>/", enter),
    path("bound/", bound),
    path("bound-async/", bound_async),
    path("stream/<name>/", stream),
    path("stream-async/<name>/", stream_async),
    path("used-async/", used_async),
    path("stream-numbers/", stream_numbers),
    path("file-of-odd-length/", file_of_odd_length),
    path("template/", template),
    path("file/", file),
    path("files/<path:path>", serve, {"document_root": HERE}),
    path("health", hello),
    path("admin/usage/", include(usage_urls(recorder, auth=may_look))),
]
