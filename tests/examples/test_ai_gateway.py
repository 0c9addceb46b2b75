from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from examples.ai_gateway.__main__ import KEY, in_front_of, serving, visit
from examples.running import wsgi_served
from usagekit import Recorder, usage
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.testing import ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUESTION = [{"role": "user", "content": "How much?"}]


class Gateway:
    """A gateway that is being served, its providers, and a client that has the key."""

    def __init__(self, url: str, server: ProviderServer, recorder: Recorder) -> None:
        self.server = server
        self.recorder = recorder
        self.client = httpx2.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"})

    def chat(self, project: str, model: str, **body: Any) -> httpx2.Response:
        """Ask a model in OpenAI's format."""
        body = {"model": model, "messages": QUESTION} | body
        return self.client.post("/v1/chat/completions", json=body, headers={"x-project-id": project})

    def messages(self, project: str, **body: Any) -> httpx2.Response:
        """Ask Claude in Anthropic's format."""
        body = {"model": "claude-sonnet-4-6", "max_tokens": 50, "messages": QUESTION} | body
        return self.client.post("/v1/messages", json=body, headers={"x-project-id": project})

    def analytics(self, **parameters: Any) -> Any:
        """Read the figures."""
        response = self.client.get("/v1/analytics", params=parameters)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """Serve a gateway."""
    backend = SQLiteBackend(tmp_path / "usage.db")
    with (
        ProviderServer() as server,
        Recorder(backend, dimensions=["project"]) as recorder,
        in_front_of(server, recorder) as app,
        wsgi_served(app) as url,
    ):
        made = Gateway(url, server, recorder)
        with made.client:
            yield made


def test_the_figures_count_every_call(gateway: Gateway) -> None:
    """Each field, over all projects: plain, streamed and failed calls of two formats."""
    gateway.chat("proj_web", "gpt-5-mini")
    gateway.chat("proj_web", "groq/llama-3.3-70b-versatile", stream=True)
    gateway.messages("proj_bot", stream=True)
    gateway.server.next(status=529)
    gateway.messages("proj_bot")

    figures = gateway.analytics()

    one = {"requests": 1, "successful": 1, "failed": 0}
    half = {"requests": 2, "successful": 1, "failed": 1}
    assert figures == {
        "total_requests": 4,
        "successful_requests": 3,
        "failed_requests": 1,
        "success_rate": 0.75,
        "providers": {"anthropic": half, "groq": one, "openai": one},
        "models": {"claude-sonnet-4-6": half, "gpt-5-mini": one, "llama-3.3-70b-versatile": one},
        "projects": {"proj_bot": half, "proj_web": {"requests": 2, "successful": 2, "failed": 0}},
        "days": {datetime.now(UTC).date().isoformat(): {"requests": 4, "successful": 3, "failed": 1}},
    }


def test_one_project_s_figures_are_its_own(gateway: Gateway) -> None:
    """`project_id` leaves the others out."""
    gateway.chat("proj_web", "gpt-5-mini")
    gateway.chat("proj_bot", "gpt-5-mini")

    figures = gateway.analytics(project_id="proj_bot", days=1)

    assert figures["total_requests"] == 1
    assert list(figures["projects"]) == ["proj_bot"]
    assert gateway.analytics(project_id="proj_none")["success_rate"] is None


def test_the_caller_gets_what_the_provider_said(gateway: Gateway) -> None:
    """An answer, a stream's lines, and a refusal come through as they were."""
    gateway.server.next(text="A lot.", times=2)
    plain = gateway.chat("proj_web", "gpt-5-mini")
    streamed = gateway.chat("proj_web", "gpt-5-mini", stream=True)
    gateway.server.next(status=429, message="Slow down.")
    refused = gateway.chat("proj_web", "gpt-5-mini")

    assert plain.json()["choices"][0]["message"]["content"] == "A lot."
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert (refused.status_code, refused.json()["error"]["message"]) == (429, "Slow down.")


def test_a_provider_that_cannot_be_reached_is_a_failed_call(gateway: Gateway) -> None:
    """The caller gets 502, and the figures one request that did not succeed."""
    gateway.server.next(break_after=0)

    answer = gateway.chat("proj_web", "gpt-5-mini")

    figures = gateway.analytics()
    assert answer.status_code == 502
    assert (figures["total_requests"], figures["failed_requests"]) == (1, 1)


@pytest.mark.parametrize("authorization", [None, "Bearer", "Bearer wrong", f"Basic {KEY}", "Bearer ключ"])
def test_nobody_comes_in_without_the_key(authorization: str | None, gateway: Gateway) -> None:
    """Neither to the models nor to the figures, and nothing is counted as a model call."""
    headers: dict[bytes, bytes] = {} if authorization is None else {b"authorization": authorization.encode()}
    url = str(gateway.client.base_url)

    for answer in (
        httpx2.get(f"{url}/v1/analytics", headers=headers),
        httpx2.post(f"{url}/v1/messages", headers=headers),
    ):
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")

    assert usage(gateway.recorder, where={"kind": "llm"}).totals["events"] == 0


@pytest.mark.parametrize("days", ["0", "366", "-1", "seven", "", "1.5"])
def test_days_that_are_none_say_what_is_possible(days: str, gateway: Gateway) -> None:
    """400, with the range in the message."""
    answer = gateway.client.get("/v1/analytics", params={"days": days})

    assert answer.status_code == 400
    assert "1 to 365" in answer.json()["error"]


def test_an_unknown_provider_says_which_there_are(gateway: Gateway) -> None:
    """400, and no call is made or counted."""
    answer = gateway.chat("proj_web", "nobody/gpt-5-mini")

    assert answer.status_code == 400
    assert "openai, groq" in answer.json()["error"]
    assert gateway.server.requests == []


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    """The line of figures is what was sent."""
    with serving(tmp_path) as url:
        assert visit(url) == "5 requests, success rate 1.0, providers: anthropic 1, groq 1, openai 3"
