"""A call whose numbers are at hand costs what the same call costs when its response is seen."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.capture import capturing
from usagekit import Recorder, UsageEvent, bound, record_tokens, set_default_recorder, usage
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.llm import Usage, reprice

if TYPE_CHECKING:
    from pathlib import Path

MAY = datetime(2025, 5, 1, 12, tzinfo=UTC)
JULY = datetime(2025, 7, 1, 12, tzinfo=UTC)
MILLION: dict[str, Any] = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}
CACHED: dict[str, Any] = {
    "input_tokens": 12_345,
    "cache_read_tokens": 10_000,
    "cache_write_tokens": 2000,
    "output_tokens": 678,
}
OWN = {
    "acme-1": {"input": 1, "output": "2.5", "cache_read": "0.1", "above": {10_000: {"input": 2}}},
    "acme/mine": "openai/gpt-4o",
    "claude-sonnet-4-5": {"input": 100},
}


@pytest.mark.parametrize(
    ("provider", "model", "tokens"),
    [
        ("openai", "gpt-5-mini", {"input_tokens": 1234, "output_tokens": 567, "reasoning_tokens": 500}),
        ("", "gpt-4o", {"input_tokens": 1234, "cache_read_tokens": 1024, "output_tokens": 5}),
        ("anthropic", "claude-opus-4-8", CACHED),
        ("anthropic", "claude-sonnet-4-5", CACHED),  # by a price of their own
        ("openai", "text-embedding-3-small", {"input_tokens": 8191}),
        ("", "acme-1", CACHED),
        ("acme", "mine", MILLION),
        ("acme", "nobodys", MILLION),
    ],
)
def test_the_price_is_that_of_the_decorator(tmp_path: Path, provider: str, model: str, tokens: dict[str, Any]) -> None:
    """By the same prices, own and public ones, to the nano-dollar."""
    with capturing(tmp_path / "usage.db", prices=OWN) as capture:
        assert capture.recorder.record_tokens(provider=provider, model=model, **tokens)
        capture.recorder.track_tokens(lambda: Usage(provider=provider, model=model, **tokens))()
        given, seen = capture.events()

    assert told(given) == told(seen)
    assert (given.cost_usd is None) == (model == "nobodys")
    assert given.cost_source == ("unpriced" if model == "nobodys" else "priced")


def told(event: UsageEvent) -> dict[str, Any]:
    """Give what an event tells of its call."""
    names = "kind event status provider model cost_usd cost_source input_tokens output_tokens cache_read_tokens"
    return {
        name: getattr(event, name) for name in (*names.split(), "cache_write_tokens", "reasoning_tokens", "quantity")
    }


def test_a_late_call_has_the_prices_of_its_day(tmp_path: Path) -> None:
    """As of `time`; without one, of today."""
    with capturing(tmp_path / "usage.db") as capture:
        for time in (MAY, JULY, None):
            capture.recorder.record_tokens(provider="openai", model="o3", time=time, **MILLION)
        events = capture.events()

    assert [event.cost_usd for event in events] == [Decimal(50), Decimal(10), Decimal(10)]
    assert [event.time for event in events[:2]] == [MAY, JULY]


def test_what_was_reported_wins_also_zero(tmp_path: Path) -> None:
    """What is no amount is not known, and is not made up."""
    with capturing(tmp_path / "usage.db") as capture:
        for cost in ("0.25", 0, 0.1, "much"):
            capture.recorder.record_tokens(model="o3", cost_usd=cost, **MILLION)
        events = capture.events()

    assert [(event.cost_usd, event.cost_source) for event in events] == [
        (Decimal("0.25"), "reported"),
        (Decimal(0), "reported"),
        (Decimal("0.1"), "reported"),
        (None, "unpriced"),
    ]


def test_weights_multiply_what_a_call_costs(tmp_path: Path) -> None:
    """And what is unpriced; a failed call that used nothing has no cost to know."""
    with capturing(tmp_path / "usage.db") as capture:
        record = capture.recorder.record_tokens
        record(provider="openai", model="o3", time=JULY, weight=3, **MILLION)
        record(provider="acme", model="nobodys", input_tokens=7, weight=2)
        record(provider="openai", model="o3")
        record(provider="openai", model="o3", status=429)
        report = usage(capture.recorder, by="model", measures=["events", "input_tokens", "cost_usd", "unpriced"])

    assert report.rows == [
        {"model": "o3", "events": 5, "input_tokens": 3_000_000, "cost_usd": Decimal(30), "unpriced": 1},
        {"model": "nobodys", "events": 2, "input_tokens": 14, "cost_usd": None, "unpriced": 2},
    ]


def test_the_module_level_one_prices_with_the_recorder_it_finds(tmp_path: Path) -> None:
    """And counts for whom it is bound to."""
    with capturing(tmp_path / "usage.db", prices=OWN) as capture:
        set_default_recorder(capture.recorder)
        try:
            with bound(user="ann"):
                assert record_tokens(model="acme-1", input_tokens=1000)
        finally:
            set_default_recorder(None)
        event = capture.event()

    assert (event.user, event.cost_usd, event.cost_source) == ("ann", Decimal("0.001"), "priced")


def test_counts_that_cannot_be_are_brought_to_ones_that_can(tmp_path: Path) -> None:
    """Input holds its cached parts, output its reasoning; no cost is below nothing, now or when it is priced later."""
    odd: Any = {"cache_read_tokens": 1000, "reasoning_tokens": "7", "output_tokens": None, "input_tokens": -5}
    with capturing(tmp_path / "usage.db", prices={"acme-1": {"input": 2, "output": 1, "cache_read": 1}}) as capture:
        assert capture.recorder.record_tokens(model="acme-1", **odd)
        event = capture.event()

    assert (event.input_tokens, event.output_tokens, event.cost_usd) == (1000, 7, Decimal("0.001007"))


def test_whole_events_whose_input_lacks_their_cache_are_repriced_like_others(tmp_path: Path) -> None:
    """What another program recorded may count the cache apart; it costs no less than nothing."""
    path = tmp_path / "usage.db"
    with Recorder(SQLiteBackend(path)) as recorder:
        recorder.record(UsageEvent(kind="llm", model="m", time=JULY, cache_read_tokens=1000, cost_source="unpriced"))

    (outcome,) = reprice(path, since="2025-01-01", prices={"m": {"input": 2, "cache_read": 1}})

    assert (outcome.priced, outcome.cost_usd) == (1, Decimal("0.001"))


def test_price_data_is_loaded_only_for_a_call_that_has_none() -> None:
    """Neither a reported cost, a price of the app's own, nor a call without a token needs it."""
    program = """
import sys
from usagekit import Recorder
from usagekit.backends.memory import MemoryBackend
with Recorder(MemoryBackend(), durability="memory", prices={"m": {"input": 1}}) as recorder:
    for call in (
        {"model": "m", "input_tokens": 5},
        {"model": "o3", "input_tokens": 5, "cost_usd": 1},
        {"model": "o3"},
        {"model": "o3", "input_tokens": 5},
    ):
        print(recorder.record_tokens(**call), "genai_prices" in sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.stdout.splitlines(), done.stderr) == (["True False"] * 3 + ["True True"], "")


def test_without_price_data_tokens_are_kept_unpriced() -> None:
    """As long as the extra is not installed; `reprice` prices them when it is."""
    program = """
import sys
sys.modules["genai_prices"] = None
from usagekit import Recorder, usage
from usagekit.backends.memory import MemoryBackend
with Recorder(MemoryBackend(), durability="memory") as recorder:
    print(recorder.record_tokens(model="gpt-4o", input_tokens=5))
    recorder.flush()
    print(usage(recorder, measures=["input_tokens", "cost_usd", "unpriced"]).totals)
    print(recorder.status()["errors"])
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.stdout.splitlines(), done.stderr) == (
        ["True", "{'input_tokens': 5, 'cost_usd': None, 'unpriced': 1}", "{}"],
        "",
    )
