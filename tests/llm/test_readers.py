"""Quicker ways to read plain responses find what the extractors find, or nothing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from usagekit.llm import Usage
from usagekit.llm.prices import Prices
from usagekit.llm.shapes import openai
from usagekit.llm.usage import extractor_of, readers

_COUNTS = st.one_of(
    st.integers(0, 5000), st.none(), st.sampled_from([True, -3, 7.0, "12", [], 2**60, Decimal(3), {"n": 1}])
)


def reader(kind: type) -> Any:
    """Give the reader of a type, which is found with its extractor."""
    extractor_of(kind)
    return readers[kind]


def _sometimes(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


_INPUT = _sometimes(
    cached_tokens=_COUNTS, audio_tokens=_COUNTS, cache_write_tokens=_COUNTS, cache_creation_tokens=_COUNTS
)
_OUTPUT = _sometimes(reasoning_tokens=_COUNTS, audio_tokens=_COUNTS, image_tokens=_COUNTS)
_USAGES = st.fixed_dictionaries(
    {"prompt_tokens": _COUNTS, "completion_tokens": _COUNTS, "total_tokens": _COUNTS},
    optional={
        "prompt_tokens_details": st.one_of(st.none(), _INPUT),
        "completion_tokens_details": st.one_of(st.none(), _OUTPUT),
        "cost": st.just(0.25),
        "prompt_cache_hit_tokens": _COUNTS,
    },
)
_RESPONSES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"id": st.just("chatcmpl-1"), "object": st.just("chat.completion"), "choices": st.sampled_from([[], None])},
    optional={
        "model": st.sampled_from(["gpt-5-mini", "", None, 5]),
        "service_tier": st.sampled_from(["default", "flex", None, 3]),
        "usage": st.one_of(st.none(), _USAGES),
        "background": st.booleans(),
        "provider": st.just("somebody"),
    },
)


@given(_RESPONSES)
def test_a_plain_chat_response_is_read_as_by_its_extractor(fields: dict[str, Any]) -> None:
    """Whatever servers answer: the reader gives the same, or leaves it to the extractor."""
    response = ChatCompletion.construct(**fields)

    plain = reader(ChatCompletion)(response)

    if plain is not None:
        usage = Usage()
        assert openai.extract(response, usage)
        assert plain == (usage.provider, usage.model, usage.context, usage.totals())
        assert all(isinstance(total, int) for total in plain[3])
        assert usage.is_reported
        told = vars(usage).keys() - {"provider", "model", "context", "response_id"}
        assert told <= {
            "input_tokens",
            "output_tokens",
            "cache_read_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
        }


def test_an_ordinary_chat_response_is_read_the_quick_way() -> None:
    """What OpenAI answers, and most who speak its shape, needs no extractor."""
    response = ChatCompletion.construct(
        model="gpt-5-mini",
        choices=[],
        service_tier="default",
        system_fingerprint="fp_1",
        usage={
            "prompt_tokens": 12,
            "completion_tokens": 9,
            "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 0},
        },
    )

    plain = reader(ChatCompletion)(response)

    assert plain == ("openai", "gpt-5-mini", {"service_tier": "default"}, (12, 9, 4, 0, 5))
    extractor_of(dict)
    assert dict not in readers


_DELTAS = _sometimes(
    content=st.sampled_from(["", "text", "größer", None, 5]),
    reasoning_content=st.just("hm"),
    tool_calls=st.just([{"index": 0, "function": {"arguments": "{}"}}]),
)
_CHUNKS = st.fixed_dictionaries(
    {"id": st.sampled_from(["chatcmpl-1", "chatcmpl-2", None])},
    optional={
        "choices": st.lists(
            st.fixed_dictionaries({"index": st.just(0)}, optional={"delta": st.one_of(st.none(), _DELTAS)}), max_size=2
        ),
        "model": st.just("gpt-5-mini"),
        "usage": st.one_of(st.none(), _USAGES),
        "x_groq": st.just({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}),
    },
)


@given(st.lists(_CHUNKS, max_size=4))
def test_chunks_of_a_chat_are_read_as_by_the_extractor(parts: list[dict[str, Any]]) -> None:
    """The quicker extractor of chunks leaves the same behind, chunk for chunk."""
    quick, thorough = Usage(), Usage()
    extract = extractor_of(ChatCompletionChunk)

    for part in parts:
        chunk = ChatCompletionChunk.construct(**part)
        assert extract(chunk, quick) is openai.extract(chunk, thorough)

    assert vars(quick) == vars(thorough)


@given(
    st.sampled_from(["gpt-5-mini", "o3", "nobody-knows-it", "gpt-4o-audio-preview", "gemini-2.5-pro"]),
    st.sampled_from([None, {"service_tier": "flex"}, {"service_tier": "default"}]),
    st.lists(st.integers(0, 300_000), min_size=3, max_size=3),
)
def test_plain_usage_costs_what_any_usage_costs(model: str, context: dict[str, str] | None, counts: list[int]) -> None:
    """Both ways to a price agree, for known and unknown models, and across sizes of prompts."""
    prices = Prices()
    read, output, rest = counts
    totals = (read + rest, output, read, rest // 2, output // 3)

    for _ in range(2):
        plain = prices.plain_nano_dollars("", model, context, 1_790_000_000_000_000, totals)
        reported = Usage(context=context, input_tokens=totals[0], output_tokens=output)
        assert plain == prices.nano_dollars(reported, "", model, 1_790_000_000_000_000, totals)
