"""What is read out of responses, shape by shape, as dictionaries; the SDKs' own objects have tests of their own."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from openai.pagination import SyncPage
from openai.types import Model

from usagekit.llm import Usage
from usagekit.llm.shapes import (
    anthropic,
    bedrock,
    cohere,
    google,
    langchain,
    litellm,
    mapping,
    ollama,
    openai,
    pydantic_ai,
)
from usagekit.llm.usage import extractor_of, fields_of, installed_extractors

if TYPE_CHECKING:
    from collections.abc import Callable


def read(*parts: Any, by: Callable[[Any, Usage], bool] = mapping.extract) -> Usage:
    """Read parts of one call, in order."""
    usage = Usage()
    for part in parts:
        assert by(part, usage)
    return usage


def totals(*parts: Any, by: Callable[[Any, Usage], bool] = mapping.extract) -> tuple[int, int, int, int, int]:
    """Give input, output, cache read, cache write and reasoning tokens."""
    return read(*parts, by=by).totals()


def chat(usage: Any, **others: Any) -> dict[str, Any]:
    """Make a chat completion."""
    return {"object": "chat.completion", "model": "m", "choices": [], "usage": usage} | others


CHAT: dict[str, tuple[dict[str, Any], tuple[int, int, int, int, int]]] = {
    "plain": ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, (10, 5, 0, 0, 0)),
    "cached and reasoned": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
        (10, 5, 4, 3, 2),
    ),
    "Responses": (
        {
            "input_tokens": 10,
            "output_tokens": 5,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens_details": {"reasoning_tokens": 2},
        },
        (10, 5, 4, 0, 2),
    ),
    "embeddings": ({"prompt_tokens": 7, "total_tokens": 7}, (7, 0, 0, 0, 0)),
    "reasoning apart": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 35,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        (10, 25, 0, 0, 20),
    ),
    "DeepSeek": (
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6},
        (10, 5, 4, 0, 0),
    ),
    "Moonshot": ({"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 4}, (10, 5, 4, 0, 0)),
    "cache beyond the input": (
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 40}},
        (40, 5, 40, 0, 0),
    ),
    "floats": ({"prompt_tokens": 10.0, "completion_tokens": 5.0}, (10, 5, 0, 0, 0)),
    "negative": ({"prompt_tokens": -10, "completion_tokens": 5}, (0, 5, 0, 0, 0)),
    "huge": ({"prompt_tokens": 10**30, "completion_tokens": 5}, (2**53 - 1, 5, 0, 0, 0)),
    "no numbers": ({"prompt_tokens": object(), "completion_tokens": "x"}, (0, 0, 0, 0, 0)),
}


@pytest.mark.parametrize("case", CHAT)
def test_openais_shape_and_its_dialects(case: str) -> None:
    """Input includes cache, output includes reasoning, whoever speaks it."""
    usage, expected = CHAT[case]

    assert totals(chat(usage)) == expected


def test_costs_that_gateways_report_are_read() -> None:
    """OpenRouter gives a number, Perplexity a breakdown."""
    assert read(chat({"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.25})).cost_usd == 0.25
    assert read(chat({"prompt_tokens": 1, "completion_tokens": 1, "cost": {"total_cost": 0}})).cost_usd == 0
    assert read(chat({"prompt_tokens": 1, "completion_tokens": 1})).cost_usd is None


def test_tiers_and_modalities_are_read() -> None:
    """What chooses a price, and what is priced apart."""
    usage = read(
        chat(
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"audio_tokens": 4, "image_tokens": 3},
                "completion_tokens_details": {"audio_tokens": 2},
            },
            service_tier="flex",
        )
    )

    assert usage.context == {"service_tier": "flex"}
    assert usage.details == {"input_audio_tokens": 4, "input_image_tokens": 3, "output_audio_tokens": 2}


def test_transcriptions_by_the_second() -> None:
    """A duration is a quantity."""
    usage = read({"text": "hi", "usage": {"type": "duration", "seconds": 12.5}})

    assert (usage.quantity, usage.is_reported) == (12.5, False)


def test_chat_streams_measure_their_text() -> None:
    """Content, reasoning and arguments of tools; bytes, as estimates go by them."""
    delta = [
        {"content": "abc"},
        {"reasoning_content": "défg"},
        {"tool_calls": [{"function": {"arguments": "{}"}}]},
        {"role": "assistant"},
    ]
    parts = [chat(None, id="c", object="chat.completion.chunk", choices=[{"delta": one}]) for one in delta]

    usage = read(*parts, chat({"prompt_tokens": 1, "completion_tokens": 9}, id="c"))

    assert usage.written_bytes == 3 + 5 + 2
    assert usage.totals()[:2] == (1, 9)


def test_responses_streams_end_with_the_whole_response() -> None:
    """Created without usage, completed with it."""
    whole = {"object": "response", "id": "r", "model": "gpt-5-mini", "usage": {"input_tokens": 3, "output_tokens": 4}}

    usage = read(
        {"type": "response.created", "response": whole | {"usage": None}},
        {"type": "response.output_text.delta", "delta": "abc"},
        {"type": "response.completed", "response": whole},
    )

    assert (usage.model, usage.written_bytes, usage.totals()[:2]) == ("gpt-5-mini", 3, (3, 4))


def test_background_responses_wait_and_have_a_key() -> None:
    """Without usage they are pending; with it they count under their own id."""
    queued = {"object": "response", "id": "r", "background": True, "status": "queued", "created_at": 5, "usage": None}

    waiting = read(queued)
    done = read(queued | {"status": "completed", "usage": {"input_tokens": 3, "output_tokens": 4}})

    assert (waiting.is_pending, done.is_pending, done.key, done.created) == (True, False, "openai:r", 5)


START = {
    "type": "message_start",
    "message": {
        "type": "message",
        "id": "msg",
        "model": "claude",
        "usage": {
            "input_tokens": 20,
            "output_tokens": 1,
            "cache_read_input_tokens": 60,
            "cache_creation_input_tokens": 40,
            "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 10},
        },
    },
}


@pytest.mark.parametrize(
    "delta",
    [
        {"output_tokens": 30},
        {"output_tokens": 30, "input_tokens": None, "cache_read_input_tokens": None},
        {"output_tokens": 30, "input_tokens": 20, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 40},
    ],
)
def test_anthropics_two_halves_are_merged(delta: dict[str, Any]) -> None:
    """What comes as None, or not at all, changes nothing; what is repeated is not added."""
    usage = read(START, {"type": "message_delta", "usage": delta})

    assert usage.totals() == (120, 30, 60, 40, 0)
    assert usage.cache_write_1h_tokens == 10


def test_anthropics_thinking_searches_and_speed() -> None:
    """Thinking is inside the output; searches and fast mode have prices of their own."""
    usage = read(
        {
            "type": "message",
            "model": "claude",
            "usage": {
                "input_tokens": 5,
                "output_tokens": 9,
                "output_tokens_details": {"thinking_tokens": 7},
                "server_tool_use": {"web_search_requests": 2},
                "service_tier": "batch",
                "speed": "fast",
            },
        }
    )

    assert usage.totals() == (5, 9, 0, 0, 7)
    assert usage.details == {"web_searches": 2}
    assert usage.context == {"processing": "batch", "speed": "fast"}


def test_compaction_is_added_to_anthropics_totals() -> None:
    """Its tokens are billed, and outside the totals; repeating them adds nothing."""
    iterations = [
        {"type": "message", "input_tokens": 5, "output_tokens": 9},
        {"type": "compaction", "input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 7},
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 200},
    ]
    message = {"type": "message", "usage": {"input_tokens": 5, "output_tokens": 9, "iterations": iterations}}

    assert totals(message, message) == (5 + 107 + 1000, 229, 7, 0, 0)
    assert read(message).requests == 1
    several = {"input_tokens": 10, "output_tokens": 9, "iterations": [*iterations, iterations[0]]}
    assert read({"type": "message", "usage": several}).requests == 2


GEMINI: dict[str, tuple[dict[str, Any], tuple[int, int, int, int, int]]] = {
    "snake": (
        {
            "prompt_token_count": 100,
            "candidates_token_count": 20,
            "thoughts_token_count": 30,
            "tool_use_prompt_token_count": 5,
            "cached_content_token_count": 40,
        },
        (105, 50, 40, 0, 30),
    ),
    "camel": ({"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}, (100, 20, 0, 0, 0)),
    "live": ({"prompt_token_count": 100, "response_token_count": 20}, (100, 20, 0, 0, 0)),
    "embeddings": ({"prompt_token_count": 100, "total_token_count": 100}, (100, 0, 0, 0, 0)),
}


@pytest.mark.parametrize("case", GEMINI)
def test_googles_shape(case: str) -> None:
    """Thoughts are outside the candidates, tool prompts outside the prompt."""
    usage, expected = GEMINI[case]
    name = "usageMetadata" if case == "camel" else "usage_metadata"

    assert totals({name: usage, "model_version": "models/gemini"}, by=google.extract) == expected
    assert totals({name: usage}) == expected


def test_googles_chunks_repeat_the_total() -> None:
    """The last one is the whole."""
    parts = [
        {"usage_metadata": {"prompt_token_count": 9, "candidates_token_count": count}, "candidates": []}
        for count in (1, 5, 8)
    ]

    assert totals(*parts) == (9, 8, 0, 0, 0)


def test_googles_modalities_and_embeddings() -> None:
    """Audio is priced apart; embeddings tell their tokens one by one."""
    usage = read(
        {
            "usage_metadata": {
                "prompt_token_count": 9,
                "candidates_token_count": 1,
                "prompt_tokens_details": [
                    {"modality": "TEXT", "token_count": 4},
                    {"modality": SimpleNamespace(value="AUDIO"), "token_count": 5},
                ],
            }
        },
        by=google.extract,
    )

    assert usage.details == {"input_audio_tokens": 5}
    embeddings = {"embeddings": [{"statistics": {"token_count": 3.0}}, {"statistics": {"token_count": 4.0}}]}
    assert totals(embeddings, by=google.extract) == (7, 0, 0, 0, 0)


def test_cohere_counts_what_is_billed() -> None:
    """Billed units, else tokens; searches are a quantity."""
    answer = {
        "id": "c",
        "finish_reason": "COMPLETE",
        "usage": {
            "billed_units": {"input_tokens": 5.0, "output_tokens": 6.0},
            "tokens": {"input_tokens": 70.0, "output_tokens": 6.0},
            "cached_tokens": 64.0,
        },
    }
    end = {"type": "message-end", "delta": {"usage": answer["usage"]}}
    text = {"type": "content-delta", "delta": {"message": {"content": {"text": "abc"}}}}

    assert totals(answer) == (5, 6, 5, 0, 0)
    streamed = read(text, end, by=cohere.extract)
    assert (streamed.written_bytes, streamed.totals()) == (3, (5, 6, 5, 0, 0))
    assert totals({"meta": {"billed_units": {"input_tokens": 8}}}) == (8, 0, 0, 0, 0)
    searches = read({"meta": {"billed_units": {"search_units": 2}}})
    assert (searches.quantity, searches.details, searches.totals()[:2]) == (2, {"rerank_searches": 2}, (0, 0))


def test_bedrock_adds_its_caches() -> None:
    """Input is what no cache had."""
    usage = {
        "inputTokens": 3,
        "outputTokens": 4,
        "cacheReadInputTokens": 10,
        "cacheWriteInputTokens": 7,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 5}, {"ttl": "5m", "inputTokens": 2}],
    }

    whole = read({"output": {}, "usage": usage, "serviceTier": {"type": "flex"}})
    streamed = read({"contentBlockDelta": {"delta": {"text": "abc"}}}, {"metadata": {"usage": usage}})

    assert whole.totals() == streamed.totals() == (20, 4, 10, 7, 0)
    assert (whole.cache_write_1h_tokens, whole.context) == (5, {"service_tier": "flex"})
    assert bedrock.extract({"messageStart": {}}, Usage())


def test_ollama_counts_when_it_is_done() -> None:
    """A prompt that was cached is left out of it, and is 0 then."""
    parts = [{"model": "llama3", "message": {"content": "abc"}, "done": False}, {"model": "llama3", "done": True}]

    usage = read(parts[0], parts[1] | {"eval_count": 4})

    assert (usage.provider, usage.written_bytes, usage.totals()[:2]) == ("ollama", 3, (0, 4))
    assert totals(parts[1] | {"prompt_eval_count": 3}, by=ollama.extract)[:2] == (3, 0)


class AIMessage:
    """As LangChain's."""

    def __init__(self, usage: Any, **metadata: Any) -> None:
        self.content = "abc"
        self.id = "run-1"
        self.usage_metadata = usage
        self.response_metadata = metadata


class AIMessageChunk(AIMessage):
    """As LangChain's."""


def test_langchain_messages_are_wrapped_and_chunks_add_up() -> None:
    """The call itself was some SDK's."""
    usage = {
        "input_tokens": 100,
        "output_tokens": 20,
        "input_token_details": {"cache_read": 50, "ephemeral_5m_input_tokens": 6, "ephemeral_1h_input_tokens": 4},
        "output_token_details": {"reasoning": 5},
    }
    whole = read(AIMessage(usage, model_name="m", model_provider="google_genai"), by=langchain.extract)
    parts = [AIMessageChunk({"input_tokens": 7, "output_tokens": 0}), AIMessageChunk({"output_tokens": 3})]
    streamed = read(*parts, by=langchain.extract)

    assert whole.totals() == (100, 20, 50, 10, 5)
    assert (whole.is_wrapped, whole.model, whole.provider, whole.cache_write_1h_tokens) == (True, "m", "google", 4)
    assert (streamed.totals()[:2], streamed.written_bytes) == ((7, 3), 6)
    assert totals({"raw": AIMessage(usage), "parsed": 1})[0] == 100


def test_litellm_tells_cost_and_provider() -> None:
    """Also where the usage is kept in a hidden place, in streams."""
    answer = SimpleNamespace(
        **chat({"prompt_tokens": 10, "completion_tokens": 5}),
        _hidden_params={"response_cost": 0.5, "custom_llm_provider": "vertex_ai"},
    )
    chunk = SimpleNamespace(
        **chat(None),
        _hidden_params={"usage": {"prompt_tokens": 3, "completion_tokens": 4}, "litellm_model_name": "gemini/x"},
    )

    whole, streamed = read(answer, by=litellm.extract), read(chunk, by=litellm.extract)

    assert (whole.cost_usd, whole.provider, whole.is_wrapped) == (0.5, "google", True)
    assert (streamed.totals()[:2], streamed.provider) == ((3, 4), "google")


def test_pydantic_ais_results_tell_their_run() -> None:
    """Usage is a method in older releases."""
    run = SimpleNamespace(
        input_tokens=10, output_tokens=5, cache_read_tokens=4, details={"reasoning_tokens": 2}, cost=1, requests=3
    )
    answer = SimpleNamespace(model_name="m", provider_name="google-gla")

    usage = read(SimpleNamespace(usage=lambda: run, response=answer), by=pydantic_ai.extract)

    assert (usage.totals(), usage.requests) == ((10, 5, 4, 0, 2), 3)
    assert (usage.model, usage.provider, usage.cost_usd, usage.is_wrapped) == ("m", "google", 1, True)
    assert not pydantic_ai.extract(object(), Usage())


def test_mistrals_events_and_pages() -> None:
    """Streams hold their chunks under `data`; values may be some object that stands for nothing."""
    unset = type("Unset", (), {})()
    event = SimpleNamespace(
        data=SimpleNamespace(**chat(SimpleNamespace(prompt_tokens=3, completion_tokens=4, prompt_audio_seconds=unset)))
    )
    pages = SimpleNamespace(pages=[], model="mistral-ocr", usage_info=SimpleNamespace(pages_processed=7))

    streamed, read_pages = read(event, by=openai.extract_mistral), read(pages, by=openai.extract_mistral)

    assert (streamed.provider, streamed.totals()[:2]) == ("mistral", (3, 4))
    assert (read_pages.quantity, read_pages.details) == (7, {"input_document_pages": 7})


def test_groqs_streams_keep_usage_apart() -> None:
    """Under `x_groq` on the last chunk."""
    chunk = chat(None, x_groq={"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, id="g", choices=[{"delta": {}}])

    usage = read(chat(None, id="g", choices=[{"delta": {"content": "x"}}]), chunk, by=openai.extract_groq)

    assert (usage.provider, usage.totals()[:2]) == ("groq", (3, 4))


def test_bare_usage_is_read_in_anybodys_words() -> None:
    """OpenAI's, Anthropic's, ours."""
    assert totals({"prompt_tokens": 3, "completion_tokens": 4})[:2] == (3, 4)
    assert totals({"input_tokens": 3, "output_tokens": 4, "cache_creation_input_tokens": 5})[:2] == (8, 4)
    ours = {"input_tokens": 9, "output_tokens": 8, "cache_read_tokens": 7, "reasoning_tokens": 6, "model": "m"}
    assert totals(ours) == (9, 8, 7, 0, 6)
    assert read(ours).model == "m"


@pytest.mark.parametrize(
    "thing",
    [
        {},
        {"text": "hello"},
        {"model": "m"},
        object(),
        SimpleNamespace(a=1),
        5j,
        {"candidates": [{"name": "Bob"}]},
        {"candidates": 7},
        {"choices": [{"label": "A"}], "question": "?"},
        {"choices": 5},
        {"type": "message", "text": "hi"},
        {"model": "my-car", "done": False, "task": "x"},
        {"object": "list", "data": [{"id": "gpt-5", "object": "model"}], "has_more": False},
        SyncPage(data=[Model(id="m", created=1, object="model", owned_by="x")], object="list"),
    ],
)
def test_what_is_no_response_is_none(thing: object) -> None:
    """Nothing is made up."""
    assert not extractor_of(type(thing))(thing, Usage())


@pytest.mark.parametrize(
    "thing",
    [
        {"candidates": [{"finishReason": "SAFETY"}]},
        {"choices": [{"delta": {"content": "a"}}]},
        {"choices": [], "object": "chat.completion.chunk"},
        {"type": "message", "role": "assistant", "model": "m", "content": []},
        {"model": "m", "done": False, "response": "a"},
    ],
    ids=str,
)
def test_answers_without_usage_are_answers(thing: object) -> None:
    """A part of a stream, or of a server that tells no usage."""
    assert extractor_of(type(thing))(thing, Usage())


def test_embeddings_are_lists_of_a_model() -> None:
    """The one list that is an answer, also where its usage is missing."""
    assert openai.extract({"object": "list", "model": "m", "data": [{"object": "embedding"}]}, Usage())
    assert not openai.extract({"object": "list", "data": [{"object": "file"}]}, Usage())


def test_objects_are_read_without_asking_them() -> None:
    """Attributes, extras of pydantic models, slots; no property is touched."""

    class Slotted:
        __slots__ = ("usage",)

        def __init__(self) -> None:
            self.usage = {"prompt_tokens": 3, "completion_tokens": 4}

    class Shy:
        def __init__(self) -> None:
            self.a = 1

        @property
        def b(self) -> int:
            raise AssertionError

    assert totals(Slotted())[:2] == (3, 4)
    assert fields_of(Shy()) == {"a": 1}
    assert fields_of(None) == {}


def test_objects_with_a_usage_property_are_read_too() -> None:
    """The last resort."""

    class Answer:
        @property
        def usage(self) -> Any:
            return {"prompt_tokens": 3, "completion_tokens": 4}

    assert totals(Answer())[:2] == (3, 4)


def test_ours_come_by_the_same_door_as_anybodys() -> None:
    """Every extractor here is an entry point, named for the module whose objects it reads."""
    assert set(installed_extractors()) >= {
        "anthropic",
        "builtins",
        "cohere",
        "google",
        "groq",
        "huggingface_hub",
        "langchain_core",
        "litellm",
        "mistralai",
        "ollama",
        "openai",
        "pydantic_ai",
        "together",
    }
    for point in installed_extractors().values():
        assert callable(point.load())
    assert extractor_of(dict) is mapping.extract
    assert extractor_of(sys.modules["anthropic"].types.Message) is anthropic.extract


def test_a_usage_knows_its_own_names() -> None:
    """A misspelt one is refused; its repr tells counts and nothing else."""
    with pytest.raises(TypeError, match="no 'input'"):
        Usage(input=3)
    assert repr(Usage(provider="p", model="m", input_tokens=3)) == "Usage(p/m: 3 in, 0 out)"
