"""What a call's event says of its cost, from the response to the report, and what it never says."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing, suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest

from tests.support.capture import capturing
from usagekit import usage
from usagekit.llm import Usage
from usagekit.testing import ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usagekit import UsageEvent

MILLION = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}
CLAUDES = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}


@pytest.mark.parametrize(
    ("response", "cost"),
    [
        ({"model": "o4-mini", "usage": MILLION}, "5.5"),
        ({"model": "o4-mini", "usage": MILLION, "service_tier": "default"}, "5.5"),
        ({"model": "o4-mini", "usage": MILLION, "service_tier": "flex"}, "2.75"),
        ({"model": "o4-mini", "usage": MILLION, "service_tier": "priority"}, "10"),
        ({"type": "message", "model": "claude-opus-4-8", "usage": CLAUDES}, "30"),
        ({"type": "message", "model": "claude-opus-4-8", "usage": CLAUDES | {"service_tier": "batch"}}, "15"),
        ({"type": "message", "model": "claude-opus-4-8", "usage": CLAUDES | {"speed": "fast"}}, "60"),
    ],
)
def test_the_tier_that_served_a_call_is_what_it_costs(tmp_path: Path, response: Any, cost: str) -> None:
    """Where the response tells it, by public prices."""
    with capturing(tmp_path / "usage.db") as capture:
        capture.recorder.track_tokens(lambda: response)()
        event = capture.event()

    assert (event.cost_usd, event.cost_source) == (Decimal(cost), "priced")


@pytest.mark.parametrize(
    ("told", "cost"),
    [({}, 1), ({"service_tier": "batch"}, Decimal("0.5")), ({"speed": "fast"}, 6)],
)
def test_own_prices_know_batch_and_fast_mode(tmp_path: Path, told: dict[str, str], cost: Decimal) -> None:
    """As tiers, by the names the response has for them."""
    prices = {"claude-x": {"input": 1, "tiers": {"batch": {"input": "0.5"}, "fast": {"input": 6}}}}
    counts = {"input_tokens": 1_000_000, "output_tokens": 0}
    with capturing(tmp_path / "usage.db", prices=prices) as capture:
        capture.recorder.track_tokens(lambda: {"type": "message", "model": "claude-x", "usage": counts | told})()

        assert capture.event().cost_usd == cost


def test_an_unknown_model_keeps_its_tokens_and_is_counted_as_unpriced(tmp_path: Path) -> None:
    """None is not 0, and one that is free is no unpriced one."""
    with capturing(tmp_path / "usage.db", prices={"free": {"input": 0}}) as capture:
        for model in ("nobodys", "nobodys", "free"):
            capture.recorder.track_tokens(lambda model=model: {"model": model, "usage": MILLION})()
        measures = ["events", "total_tokens", "cost_usd", "unpriced"]
        report = usage(capture.recorder, by="model", measures=measures)

    assert report.rows == [
        {"model": "nobodys", "events": 2, "total_tokens": 4_000_000, "cost_usd": None, "unpriced": 2},
        {"model": "free", "events": 1, "total_tokens": 2_000_000, "cost_usd": Decimal(0), "unpriced": 0},
    ]


def test_what_is_metered_by_the_unit_has_a_cost(tmp_path: Path) -> None:
    """Without a single token."""
    with capturing(tmp_path / "usage.db", prices={"acme-voice": {"unit": "0.0001"}}) as capture:
        with capture.recorder.model_call(provider="acme", model="acme-voice") as call:
            call.see(Usage(quantity=90.0))
        event = capture.event()

    assert (event.quantity, event.cost_usd, event.cost_source) == (90.0, Decimal("0.009"), "priced")


def test_what_is_only_metered_is_not_free(tmp_path: Path) -> None:
    """By prices of tokens that nobody told, it would be."""
    with capturing(tmp_path / "usage.db", prices={"acme-2": {"input": 1}}) as capture:
        for model in ("acme-2", "gpt-4o"):
            with capture.recorder.model_call(provider="openai", model=model) as call:
                call.see(Usage(quantity=90.0))
        events = capture.events()

    assert [(event.quantity, event.cost_usd, event.cost_source) for event in events] == [(90.0, None, "unpriced")] * 2


PROMPT, ANSWER, KEY, REFUSAL = SECRETS = "prompt-of-ours", "answer-of-theirs", "key-for-the-door", "refused-because"


@pytest.fixture
def server() -> Iterator[ProviderServer]:
    """Providers on this machine."""
    with ProviderServer() as server:
        yield server


def ask_gpt(server: ProviderServer, *, stream: bool) -> Any:
    """Ask, and read what comes."""
    with openai.OpenAI(base_url=server.openai, api_key=KEY, max_retries=0) as client:
        messages: Any = [{"role": "user", "content": PROMPT}]
        answer = client.chat.completions.create(model="gpt-5-mini", messages=messages, stream=stream)
        return list(answer) if stream else answer


def ask_claude(server: ProviderServer, *, stream: bool) -> Any:
    """Likewise."""
    with anthropic.Anthropic(base_url=server.anthropic, api_key=KEY, max_retries=0) as client:
        messages: Any = [{"role": "user", "content": PROMPT}]
        answer = client.messages.create(model="claude-opus-4-8", max_tokens=9, messages=messages, stream=stream)
        return list(answer) if stream else answer


@pytest.mark.parametrize("ask", [ask_gpt, ask_claude])
@pytest.mark.parametrize("answer", [{}, {"status": 400, "message": REFUSAL}, {"break_after": 1}], ids=["", "no", "cut"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_no_prompt_answer_or_key_is_in_an_event_a_log_or_a_repr(
    server: ProviderServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    ask: Any,
    answer: dict[str, Any],
    stream: bool,  # noqa: FBT001
) -> None:
    """Of calls that went well, were refused or broke off, also where something of the app fails over the event."""
    monkeypatch.setattr("usagekit._guard.reraise", False)
    caplog.set_level(logging.DEBUG, "usagekit")
    server.next(text=f"{ANSWER} and more", **answer)
    seen: list[object] = []

    def fails(event: UsageEvent) -> UsageEvent:
        seen.append(repr(event))
        raise ValueError

    with capturing(tmp_path / "usage.db") as capture, capturing(tmp_path / "other.db", processors=[fails]) as failing:
        for recorder in (capture.recorder, failing.recorder):
            with (
                suppress(openai.APIError, anthropic.APIError, httpx2.HTTPError),
                recorder.model_call(user="ann") as call,
            ):
                seen.append(call.see(ask(server, stream=stream)) and repr(call))
            server.next(text=f"{ANSWER} and more", **answer)
            seen.append(repr((recorder, recorder.status(), call, call.see)))
        event = capture.event()
    with closing(sqlite3.connect(tmp_path / "usage.db")) as ledger:
        kept = "\n".join([*ledger.iterdump(), repr(event), *map(str, seen), caplog.text])

    assert event.user == "ann"
    assert failing.errors()["processor"] >= 1
    assert [secret for secret in SECRETS if secret in kept] == []
    assert PROMPT in str(server.requests)
    assert KEY not in repr(server.requests)
