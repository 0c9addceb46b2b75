"""What calls cost, compared with genai-prices itself where it knows the price."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

import genai_prices
import pytest

from tests.support.capture import capturing
from usagekit import ConfigurationError
from usagekit.llm import Usage
from usagekit.llm.prices import Prices

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def dollars(prices: Prices, usage: Usage, model: str, provider: str = "openai", when: datetime = NOW) -> Decimal | None:
    """Give what a call costs, as dollars."""
    nano = prices.nano_dollars(usage, provider, model, int(when.timestamp()) * 1_000_000, usage.totals())
    return None if nano is None else Decimal(nano).scaleb(-9)


SIZES: list[dict[str, int]] = [
    {"input_tokens": 0, "output_tokens": 0},
    {"input_tokens": 1, "output_tokens": 1},
    {"input_tokens": 1234, "output_tokens": 567, "cache_read_tokens": 321},
    {"input_tokens": 200_000, "output_tokens": 1},
    {"input_tokens": 200_001, "output_tokens": 99_999, "cache_read_tokens": 100_000},
    {"input_tokens": 900_000, "output_tokens": 9000, "cache_read_tokens": 5, "cache_write_tokens": 7},
    {"input_tokens": 9000, "output_tokens": 9, "cache_write_tokens": 5000, "cache_write_1h_tokens": 4000},
]
MODELS = [
    ("openai", "gpt-5-mini"),
    ("openai", "gpt-4o"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-opus-4-1"),
    ("google", "gemini-2.5-pro"),
    ("google", "gemini-2.5-flash"),
    ("mistral", "mistral-large-latest"),
    ("deepseek", "deepseek-chat"),
    ("perplexity", "sonar"),
    ("aws", "amazon.nova-lite-v1:0"),
    ("groq", "llama-3.3-70b-versatile"),
    ("", "gpt-4o"),
]


@pytest.mark.parametrize(("provider", "model"), MODELS)
@pytest.mark.parametrize("size", range(len(SIZES)))
def test_costs_are_those_of_genai_prices_to_the_nano_dollar(provider: str, model: str, size: int) -> None:
    """Integer arithmetic on prices looked up once gives what asking each time gives."""
    values = SIZES[size]
    asked = genai_prices.calc_price(
        genai_prices.Usage(**values), model, provider_id=provider or None, genai_request_timestamp=NOW
    )

    cost = dollars(Prices(), Usage(**values), model, provider)

    assert cost == asked.total_price.quantize(Decimal("1E-9"))


def test_prices_follow_the_date_of_the_call() -> None:
    """A model that became cheaper costs what it cost then."""
    prices, usage = Prices(), Usage(input_tokens=1_000_000, output_tokens=1_000_000)

    assert dollars(prices, usage, "o3", when=datetime(2025, 5, 1, tzinfo=UTC)) == 50
    assert dollars(prices, usage, "o3") == 10


def test_prices_follow_the_time_of_day() -> None:
    """Some are cheaper at night."""
    prices, usage = Prices(), Usage(input_tokens=1_000_000, output_tokens=0)
    times = [datetime(2025, 6, 1, hour, 29, tzinfo=UTC) for hour in (0, 1, 16, 17)]

    costs = [dollars(prices, usage, "deepseek-chat", "deepseek", when) for when in times]

    assert costs == [Decimal("0.135"), Decimal("0.27"), Decimal("0.27"), Decimal("0.135")]


@pytest.mark.parametrize(
    ("context", "cost"),
    [
        (None, "5.5"),
        ({"service_tier": "flex"}, "2.75"),
        ({"service_tier": "priority"}, "10"),
        ({"processing": "batch"}, "2.75"),
        ({"service_tier": "nonsense"}, "5.5"),
    ],
)
def test_prices_follow_the_tier_that_served_the_call(context: Any, cost: str) -> None:
    """What the response tells of its tier chooses the price."""
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000, context=context)

    assert dollars(Prices(), usage, "o4-mini") == Decimal(cost)


def test_what_is_priced_apart_is_asked_for() -> None:
    """Audio by the token and by the second, searches, pages."""
    audio = Usage(
        input_tokens=1000, output_tokens=1000, details={"input_audio_tokens": 500, "output_audio_tokens": 300}
    )
    asked = genai_prices.calc_price(
        genai_prices.Usage(input_tokens=1000, output_tokens=1000, input_audio_tokens=500, output_audio_tokens=300),
        "gpt-4o-audio-preview",
        provider_id="openai",
        genai_request_timestamp=NOW,
    )

    assert dollars(Prices(), audio, "gpt-4o-audio-preview") == asked.total_price
    seconds = Usage(quantity=60.0, details={"audio_seconds": 60.0, "input_audio_seconds": 60.0})
    assert dollars(Prices(), seconds, "whisper-1") == Decimal("0.006")
    assert dollars(Prices(), Usage(input_tokens=5, output_tokens=5), "whisper-1") is None
    searches = Usage(input_tokens=0, output_tokens=0, details={"web_searches": 10})
    assert dollars(Prices(), searches, "claude-sonnet-4-5", "anthropic") == Decimal("0.1")


def test_an_unknown_model_is_unpriced_and_a_free_one_costs_nothing() -> None:
    """None is not 0."""
    usage = Usage(input_tokens=10, output_tokens=10)

    assert dollars(Prices(), usage, "nonesuch") is None
    assert dollars(Prices(), usage, "gpt-4o", "nonesuch") is None
    assert dollars(Prices(), usage, "", "") is None
    assert dollars(Prices({"mine": {"input": 0, "output": 0}}), usage, "mine") == 0


def test_own_prices_win() -> None:
    """By model, by provider and model, without its date, whatever the case."""
    prices = Prices(
        {
            "GPT-5-mini": {"input": 1, "output": "2.5"},
            "azure/dep": {"input": 0.5},
            "alias": "openai/gpt-4o",
            "short": "gpt-5-mini",
        },
    )
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)

    assert dollars(prices, usage, "gpt-5-mini") == Decimal("3.5")
    assert dollars(prices, usage, "gpt-5-mini-2025-08-07") == Decimal("3.5")
    assert dollars(prices, usage, "dep", "azure") == Decimal("0.5")
    assert dollars(prices, usage, "dep") is None
    assert dollars(prices, usage, "alias", "azure") == Decimal("12.5")
    assert dollars(prices, usage, "short") == Decimal("3.5")


@pytest.mark.parametrize(
    ("provider", "model"),
    [("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"), ("openrouter", "anthropic/claude-sonnet-4")],
)
def test_an_alias_may_stand_for_a_model_whose_name_has_slashes(provider: str, model: str) -> None:
    """With its provider before it, or as the call's own provider names it."""
    usage = Usage(input_tokens=1_000_000)
    prices = Prices({"full": f"{provider}/{model}", "short": model, "own": "acme/a/b", "a/b": {"input": 3}})

    direct = dollars(Prices(), usage, model, provider)

    assert direct
    assert dollars(prices, usage, "full", "azure") == direct
    assert dollars(prices, usage, "short", provider) == direct
    assert dollars(prices, usage, "own") == 3


def test_own_prices_have_caches_sizes_tiers_and_units() -> None:
    """Caches cost what input costs, unless said otherwise."""
    own = {
        "input": 2,
        "output": 10,
        "cache_read": 0.2,
        "cache_write": 2.5,
        "cache_write_1h": 4,
        "reasoning": 20,
        "request": "0.01",
        "unit": "0.5",
        "above": {1000: {"input": 4}},
        "tiers": {"flex": {"input": 1}},
    }
    prices = Prices({"m": own})

    def cost(**values: Any) -> Decimal | None:
        return dollars(prices, Usage(**values), "m")

    assert cost(input_tokens=1000) == Decimal("0.012")
    assert cost(input_tokens=1001) == Decimal("0.014004")
    assert cost(input_tokens=1000, context={"service_tier": "flex"}) == Decimal("0.011")
    assert cost(output_tokens=100, reasoning_tokens=40) == Decimal("0.0114")
    assert cost(input_tokens=100, cache_read_tokens=60, cache_write_tokens=40, cache_write_1h_tokens=10) == (
        Decimal("0.01") + Decimal("0.000012") + Decimal("0.000075") + Decimal("0.00004")
    )
    assert cost(quantity=3.0) == Decimal("1.51")
    assert dollars(Prices({"m": {"input": 2}}), Usage(input_tokens=10, cache_read_tokens=10), "m") == Decimal("0.00002")


LONG: dict[str, Any] = {"input": 1, "output": 10, "request": 1, "above": {200_000: {"input": 2}}}


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(input_tokens=100_000, aside=Usage(input_tokens=150_000)), "1.25"),
        (Usage(input_tokens=100_000, aside=Usage(input_tokens=250_000)), "1.6"),
        (Usage(input_tokens=250_000, aside=Usage(input_tokens=9, aside=Usage(output_tokens=10_000))), "1.600009"),
        (Usage(input_tokens=1, aside=Usage(input_tokens=150_000, aside=Usage(input_tokens=150_000))), "1.300001"),
        (Usage(input_tokens=300_000, requests=3), "1.3"),
        (Usage(input_tokens=300_000, requests=1), "1.6"),
    ],
)
def test_prices_for_long_prompts_are_for_each_by_itself(usage: Usage, cost: str) -> None:
    """What is done on the side has its own size; where sizes are not known apart, it is rather too little."""
    assert dollars(Prices({"m": LONG}), usage, "m") == Decimal(cost)


def test_what_is_done_on_the_side_costs_what_it_costs_alone() -> None:
    """By public prices, also where the call has searches, which are priced apart, and for an estimate's totals."""
    aside = Usage(uncached_tokens=150_000, output_tokens=10)
    usage = Usage(uncached_tokens=100_000, output_tokens=0, details={"web_searches": 1}, aside=aside)
    alone = Usage(uncached_tokens=100_000, output_tokens=0, details={"web_searches": 1})

    def cost(one: Usage) -> Decimal:
        return dollars(Prices(), one, "claude-sonnet-4-5", "anthropic") or Decimal(0)

    assert cost(usage) == cost(alone) + cost(aside) > cost(alone)
    model, totals = "claude-sonnet-4-5", (250_000, 110, 0, 0, 0)
    estimated = Prices().nano_dollars(Usage(aside=aside), "anthropic", model, int(NOW.timestamp()) * 1_000_000, totals)
    assert Decimal(estimated or 0).scaleb(-9) == cost(Usage(input_tokens=100_000, output_tokens=100)) + cost(aside)
    assert dollars(Prices(), usage, "nonesuch") is None


HALF = {"batch": {"input": 0.5}}
DOUBLE = {"above": {1000: {"input": 1}}}


@pytest.mark.parametrize(
    ("price", "short", "long"),
    [
        ({"above": {1000: {"input": 2}}, "tiers": {"batch": {"input": 0.5}}}, "0.5", "0.5"),
        ({"above": {1000: {"input": 2}}, "tiers": {"batch": {"input": 0.5, **DOUBLE}}}, "0.5", "1"),
        ({"above": {1000: {"input": 2, "tiers": {"batch": {"input": 1}}}}, "tiers": HALF}, "0.5", "1"),
        ({"above": {1000: {"input": 2, "tiers": {"batch": {"input": 1}}}}}, "1", "1"),
        ({"above": {9: {"input": 3}}, "tiers": {"batch": {"above": {1000: {"input": 4}}}}}, "3", "4"),
        ({"above": {9: {"output": 3}, 1000: {"input": 4}}, "tiers": {"batch": {"output": 1}}}, "1", "4"),
    ],
)
def test_a_tiers_price_wins_over_a_sizes(price: dict[str, Any], short: str, long: str) -> None:
    """What differs for both stands in the one inside the other."""
    prices = Prices({"m": {"input": 1, **price}})

    def cost(tokens: int, tier: str) -> Decimal:
        return (dollars(prices, Usage(input_tokens=tokens, context={"service_tier": tier}), "m") or 0) * Decimal(10**6)

    assert (cost(1000, "batch"), cost(1001, "batch")) == (1000 * Decimal(short), 1001 * Decimal(long))
    assert cost(9, "flex") == 9


@pytest.mark.parametrize(
    ("prices", "cost"),
    [
        ({"m": {"request": "0.01"}}, "0.01"),
        ({"m": {"request": "0.01", "input": 0}}, "0.01"),
        ({"m": {"request": "0.01", "input": 1}}, None),
        ({"m": {"request": "0.01", "unit": 1}}, None),
        ({"m": {"unit": 1}}, None),
        ({"m": {"input": 1}}, None),
        ({"other": {"request": "0.01"}}, None),
    ],
)
def test_a_price_by_the_call_needs_no_usage(tmp_path: Path, prices: dict[str, Any], cost: str | None) -> None:
    """Where something else has a price too, its part is missing, and the call is unpriced; one that failed is free."""
    with capturing(tmp_path / "usage.db", prices=prices) as capture:
        with capture.recorder.model_call(provider="acme", model="m"):
            pass
        capture.recorder.record_tokens(model="m", status=500)

        answered, failed = capture.events()

    assert answered.cost_usd == (None if cost is None else Decimal(cost))
    assert answered.cost_source == ("unpriced" if cost is None else "priced")
    assert (failed.cost_usd, failed.cost_source) == (None, "")


def test_sizes_may_be_text_as_in_json() -> None:
    """And in any order."""
    prices = Prices({"m": {"input": 1, "above": {"100000": {"input": 3}, "9000": {"input": 2}}}})

    costs = [dollars(prices, Usage(input_tokens=tokens), "m") for tokens in (9000, 9001, 100_001)]

    assert costs == [Decimal("0.009"), Decimal("0.018002"), Decimal("0.300003")]


def test_costs_are_rounded_half_to_even() -> None:
    """Nano-dollars are whole."""
    prices = Prices({"m": {"input": "0.0005"}})

    costs = [dollars(prices, Usage(input_tokens=tokens), "m") for tokens in (1, 2, 3, 5, 7)]

    assert costs == [Decimal(nano).scaleb(-9) for nano in (0, 1, 2, 2, 4)]


@pytest.mark.parametrize(
    "prices", [{"a": "b", "b": "a"}, {"a": "b", "b": "gpt-5-mini"}, {"A": "x/b", "x/B": "openai/x"}]
)
def test_an_alias_of_an_alias_is_refused(prices: dict[str, str]) -> None:
    """Nobody would find the model at the end of it."""
    with pytest.raises(ConfigurationError, match=r"is an alias of .*, which is an alias too; name the model itself"):
        Prices(prices)


def test_an_alias_may_have_the_name_of_what_it_means() -> None:
    """A deployment is often named as its model is."""
    Prices({"gpt-5-mini": "openai/gpt-5-mini", "azure/x": "azure/x"})


@pytest.mark.parametrize(
    "price",
    [
        5,
        {"inputs": 1},
        {"input": -1},
        {"input": "x"},
        {"input": float("nan")},
        {"above": {5: {"in": 1}}},
        {"above": {"many": {"input": 1}}},
        {"above": 5},
        {"tiers": ["flex"]},
        {"tiers": {"flex": "gpt-5-mini"}},
        {"above": {5: {"above": {9: {"input": 1}}}}},
        {"tiers": {"flex": {"above": {5: {"tiers": {"flex": {"input": 1}}}}}}},
        {"above": {5: {"unit": 1}}},
    ],
)
def test_a_price_that_cannot_be_one_is_refused(price: Any) -> None:
    """At once, with what to write instead."""
    with pytest.raises(ConfigurationError, match="price of 'm'"):
        Prices({"m": price})


def test_the_hosts_decimal_context_does_not_matter() -> None:
    """Costs are exact whatever the app set."""
    usage = Usage(input_tokens=123_457, output_tokens=1)
    with localcontext() as context:
        context.prec = 3
        nano = Prices().nano_dollars(usage, "openai", "gpt-4o", 1_790_000_000_000_000, usage.totals())

    assert nano == 308_652_500


def test_a_model_is_looked_up_once_and_again_when_prices_are_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced price data is noticed within a minute."""
    from genai_prices import data_snapshot

    prices, usage = Prices(), Usage(input_tokens=1_000_000)
    assert dollars(prices, usage, "gpt-4o") == Decimal("2.5")
    bundled = data_snapshot.get_snapshot()
    monkeypatch.setattr(data_snapshot, "_custom_snapshot", data_snapshot.DataSnapshot(bundled.providers[:1], True))  # noqa: FBT003

    assert dollars(prices, usage, "gpt-4o") == Decimal("2.5")
    assert dollars(prices, usage, "gpt-4o", when=NOW.replace(minute=2)) is None


def test_a_call_of_the_future_keeps_nobody_from_new_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether prices were replaced is looked at by the clock."""
    from genai_prices import data_snapshot

    prices, usage = Prices(), Usage(input_tokens=1_000_000)
    assert dollars(prices, usage, "gpt-4o", when=NOW.replace(year=2099)) == Decimal("2.5")
    bundled = data_snapshot.get_snapshot()
    monkeypatch.setattr(data_snapshot, "_custom_snapshot", data_snapshot.DataSnapshot(bundled.providers[:1], True))  # noqa: FBT003

    assert dollars(prices, usage, "gpt-4o", when=datetime.now(UTC) + timedelta(minutes=2)) is None


def test_nothing_is_fetched_and_no_thread_started() -> None:
    """Prices are those that are installed."""
    threads = threading.active_count()

    dollars(Prices(), Usage(input_tokens=1), "gpt-4o")

    assert threading.active_count() == threads


def test_price_data_is_loaded_for_the_first_call_that_needs_it() -> None:
    """Neither own prices nor reported costs do."""
    program = """
import sys
from usagekit import Recorder
from usagekit.backends.memory import MemoryBackend
recorder = Recorder(MemoryBackend(), durability="memory", prices={"m": {"input": 1}})
counts = {"prompt_tokens": 5, "completion_tokens": 5}
for model, cost in (("m", None), ("o3", 1), ("o3", None)):
    recorder.track_tokens(lambda: {"model": model, "usage": counts | {"cost": cost}})()
    print("genai_prices" in sys.modules)
recorder.close()
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.stdout.split(), done.stderr) == (["False", "False", "True"], "")


def test_a_reported_cost_wins(tmp_path: Path) -> None:
    """The provider knows best; 0 is a price."""
    with capturing(tmp_path / "usage.db", prices={"m": {"input": 1, "output": 1}}) as capture:
        track = capture.recorder.track_tokens
        for cost in (0.5, 0, None):
            track(
                lambda cost=cost: {"model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 5, "cost": cost}}
            )()
        events = capture.events()

    assert [(event.cost_usd, event.cost_source) for event in events] == [
        (Decimal("0.5"), "reported"),
        (Decimal(0), "reported"),
        (Decimal("0.00001"), "priced"),
    ]


def test_a_price_that_fails_does_not_cost_the_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens and cost fail apart."""
    monkeypatch.setattr("usagekit._guard.reraise", False)
    monkeypatch.setattr(Prices, "nano_dollars", lambda *_: 1 / 0)
    with capturing(tmp_path / "usage.db") as capture:
        capture.recorder.track_tokens(lambda: {"model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 6}})()
        event = capture.event()

    assert (event.input_tokens, event.output_tokens, event.cost_usd, event.cost_source) == (5, 6, None, "unpriced")
    assert capture.errors() == {"llm: price": 1}
