"""The admin endpoint: usage as a page, JSON and CSV, mounted in the app itself, for those whom `auth` lets in.

```python
app.mount("/admin/usage", usage_app(recorder, auth=BearerAuth(os.environ["USAGEKIT_ADMIN_TOKEN"])))
```

Below the mount: `/` the page, `/api/usage` every question `usage` answers, `/api/summary`, `/api/health`, and
`/openapi.json`. Under Flask use `usagekit.flask.usage_blueprint`, under Django `usagekit.django.usage_urls`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usagekit.admin.auth import BearerAuth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed.wsgi import WSGIApplication

    from usagekit.query import Reader

    Names = Callable[[list[str]], Mapping[str, str]]

__all__ = ["BearerAuth", "usage_app", "usage_wsgi_app"]


def usage_app(
    source: Reader,
    *,
    auth: Callable[[Any], object],
    scope: Callable[[Any], object] | None = None,
    names: Callable[[list[str]], Mapping[str, str]]
    | Mapping[str, Callable[[list[str]], Mapping[str, str]]]
    | None = None,
) -> Callable[[Any, Any, Any], Any]:
    """Give the admin endpoint as an ASGI app, to be mounted in FastAPI, Starlette, Litestar or any other.

    What it reads, it reads in threads of its own. Its requests are not counted by the app's `UsageMiddleware`.

    Args:
        source: a recorder, or a backend that can be asked.
        auth: says who may look: `BearerAuth`, or a callable that is given an `AsgiRequest`; sync ones run in a thread,
            async ones in the event loop. Only `True` lets in. None means that nobody is known (401), all else that who
            asks may not look (403). One that raises, or takes longer than 5 s, lets nobody in (503).
        scope: for showing customers their own usage: a callable of the request, sync or async, that returns what they
            are confined to, as `{"org": "org_xyz"}`, whatever they ask for. None, `{}` and values that are unknown
            let nobody in. Asked after `auth`; 5 s.
        names: gives names for user ids: a callable that gets a list of ids and returns a mapping of those it knows;
            called in a thread. A mapping of dimension to such a callable names other ids too.

    Raises:
        ConfigurationError: an option that cannot work.
        MissingDependencyError: Starlette or Jinja is not installed.
    """
    from usagekit.admin.asgi import AdminApp
    from usagekit.admin.site import Site

    return AdminApp(Site(source, auth, scope, names, can_await=True))


def usage_wsgi_app(
    source: Reader,
    *,
    auth: Callable[[Any], object],
    scope: Callable[[Any], object] | None = None,
    names: Callable[[list[str]], Mapping[str, str]]
    | Mapping[str, Callable[[list[str]], Mapping[str, str]]]
    | None = None,
) -> WSGIApplication:
    """Give the admin endpoint as a WSGI app; options as of `usage_app`, but async callables are refused.

    `auth` and `scope` get a `WsgiRequest`, and are called in a thread of their own, with the request's context.

    Raises:
        ConfigurationError: an option that cannot work; also an async callable, which nothing would await.
        MissingDependencyError: Jinja is not installed.
    """
    from usagekit.admin.site import Site
    from usagekit.admin.wsgi import AdminWsgiApp

    return AdminWsgiApp(Site(source, auth, scope, names, can_await=False))
