"""A customer sees their own usage, whatever they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.admin.shells import TOKEN, get, of_asgi
from tests.admin.test_api import RANGE, told
from usagekit import _guard
from usagekit.admin import BearerAuth

if TYPE_CHECKING:
    from collections.abc import Callable

    from usagekit import Recorder


@pytest.fixture
def customer(shell: Callable[..., Any], recorded: Recorder) -> Any:
    """Give the endpoint as it is for customers of acme."""
    return shell(recorded, auth=lambda _request: True, scope=lambda _request: {"org": "acme"})


@pytest.mark.parametrize(
    "tried",
    ["", "&org=globex", "&org=acme&org=globex", "&org=", "&user=bob", "&user=", "&where.org=globex", "&origin=direct"],
)
@pytest.mark.parametrize("path", ["/api/usage?by=org,user,event,model", "/api/summary?", "/?by=user", "/?by=org"])
def test_nothing_of_others_is_seen(customer: Any, path: str, tried: str) -> None:
    """Neither their names nor their numbers; an answer or an error, but never theirs."""
    answer = get(customer, f"{path}&{RANGE}{tried}")

    said = answer.text.replace("globex", "", answer.text.count("globex") if "globex" in tried else 0)
    said = said.replace("bob", "") if "user=bob" in tried else said
    assert answer.status in {200, 400}
    assert "bob" not in said
    assert "globex" not in said
    assert "(unmatched)" not in said
    assert "sync" not in said


def test_numbers_are_their_own(customer: Any) -> None:
    """The page, the API and its filters show the same part."""
    whole = told(get(customer, "/api/summary?period=7d"))
    other = told(get(customer, f"/api/usage?measures=events&org=globex&{RANGE}"))

    assert (whole["total_requests"], whole["active_users"], whole["cost_usd"]) == (5, 1, "0.001500000")
    assert other["rows"] == [{"events": 0}]


def test_health_is_closed_to_customers(customer: Any) -> None:
    """Neither the answer, nor the line on the page, nor its description."""
    assert get(customer, "/api/health").status == 403
    assert "durable" not in get(customer).text
    assert "/api/health" not in told(get(customer, "/openapi.json"))["paths"]


@pytest.mark.parametrize(
    "scope", [None, {}, {"org": ""}, {"org": None}, {"org": []}, {"org": ["acme", ""]}, {"org": "acme", "user": ""}]
)
def test_an_unknown_scope_denies(shell: Callable[..., Any], recorded: Recorder, scope: Any) -> None:
    """What is unknown is nobody's own: it must not show the unattributed."""
    app = shell(recorded, auth=lambda _request: True, scope=lambda _request: scope)

    assert [get(app, path).status for path in ("/", "/api/summary", "/nothing")] == [403, 403, 403]


class Silent:
    """An id that cannot be read."""

    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(
    "make",
    [
        lambda: (org for org in [""]),
        lambda: iter(()),
        {"": 1}.keys,
        {1: ""}.values,
        bytes,
        Silent,
    ],
    ids=range(6),
)
def test_an_id_that_turns_out_to_be_none_denies(
    shell: Callable[..., Any], recorded: Recorder, make: Callable[[], object]
) -> None:
    """Whatever the collection, and whatever the id."""
    app = shell(recorded, auth=lambda _request: True, scope=lambda _request: {"org": make()})

    assert [get(app, path).status for path in ("/", "/api/usage?by=user")] == [403, 403]


def test_a_scope_may_be_an_iterator(shell: Callable[..., Any], recorded: Recorder) -> None:
    """It is read once."""
    app = shell(recorded, auth=lambda _request: True, scope=lambda _request: {"org": iter(["acme"])})

    assert told(get(app, f"/api/usage?by=org&measures=events&{RANGE}"))["rows"] == [{"org": "acme", "events": 5}]


@pytest.mark.parametrize("scope", [["org", "acme"], "acme", {"day": "2026-11-20"}, {"tenant": "acme"}, {"status": "x"}])
def test_a_scope_that_cannot_be_shows_nothing(recorded: Recorder, scope: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the app's mistake, and no data is shown for it."""
    monkeypatch.setattr(_guard, "reraise", False)
    answer = get(of_asgi(recorded, auth=lambda _request: True, scope=lambda _request: scope), "/api/usage?by=user")

    assert answer.status in {400, 503}
    assert "rows" not in answer.text


def test_auth_comes_first(shell: Callable[..., Any], recorded: Recorder) -> None:
    """Who has no token is never asked for a scope."""
    asked = []

    def scope(request: Any) -> dict[str, str]:
        asked.append(request)
        return {"org": "acme"}

    app = shell(recorded, auth=BearerAuth(TOKEN), scope=scope)

    assert get(app, token=None).status == 401
    assert asked == []
    assert get(app).status == 200
    assert len(asked) == 1


def test_an_async_scope_under_asgi(recorded: Recorder) -> None:
    """It may ask a database."""

    async def scope(request: Any) -> dict[str, list[str]]:
        return {"org": [request.headers.get("x-org")]}

    app = of_asgi(recorded, auth=lambda _request: True, scope=scope)

    totals = [told(get(app, "/api/summary", headers={"x-org": org}))["total_requests"] for org in ("acme", "globex")]
    assert totals == [5, 3]
