"""OpenAI's shapes, which many speak: chat, Responses, embeddings, images, transcriptions, and their streams."""

from __future__ import annotations

from usagekit._clean import COUNT_LIMIT
from usagekit.llm.usage import count, fields_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from usagekit.llm.usage import Plain, Usage

__all__ = [
    "EXTRACTORS",
    "READERS",
    "extract",
    "extract_groq",
    "extract_huggingface",
    "extract_mistral",
    "extract_together",
    "read_usage",
]

_TEXT_EVENTS = frozenset(
    {
        "response.output_text.delta",
        "response.refusal.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
        "response.function_call_arguments.delta",
        "response.custom_tool_call_input.delta",
        "response.mcp_call_arguments.delta",
        "response.code_interpreter_call_code.delta",
        "transcript.text.delta",
    },
)
_UNREAD = frozenset({"background", "x_groq"})
_RUNNING = frozenset({"queued", "in_progress"})


def extract_groq(response: object, usage: Usage) -> bool:
    """Read what the groq client gives: OpenAI's shape, in streams under `x_groq` too."""
    return extract(response, usage, "groq")


def extract_together(response: object, usage: Usage) -> bool:
    """Read what the together client gives: OpenAI's shape."""
    return extract(response, usage, "together")


def extract_huggingface(response: object, usage: Usage) -> bool:
    """Read what huggingface_hub's inference client gives: OpenAI's shape."""
    return extract(response, usage, "huggingface")


def extract_mistral(response: object, usage: Usage) -> bool:
    """Read what the mistralai client gives: OpenAI's shape, in streams under `data`, and pages of its OCR."""
    fields = fields_of(response)
    if "data" in fields and "choices" not in fields and "usage" not in fields:
        response = fields["data"]
        fields = fields_of(response)
    pages = count(fields_of(fields.get("usage_info")).get("pages_processed"))
    if pages is not None:
        usage.quantity = pages
        usage.details = {"input_document_pages": pages}
    return extract(response, usage, "mistral") or pages is not None


def extract(response: object, usage: Usage, provider: str = "openai") -> bool:
    """Read a response of the openai client, a chunk or event of its streams, or a dictionary of that shape."""
    fields = fields_of(response)
    get = fields.get
    choices, reported = get("choices"), get("usage")
    if choices is None and type(get("type")) is str and not _is_answer(fields):
        return _read_event(fields, usage, provider)
    response_id = get("id")
    if usage.response_id and usage.response_id == response_id and choices and reported is None:
        _read_text(choices, usage)  # one more chunk, and nothing but text to know of it
        if "x_groq" not in fields:
            return True
    if not usage.provider:
        usage.provider = provider
    model, tier = get("model"), get("service_tier")
    if type(model) is str and model:
        usage.model = model
    if tier is not None and type(tier) is str:
        usage.context = {"service_tier": tier}
    if choices and get("object") != "chat.completion" and not usage.response_id:
        _read_text(choices, usage)
    if type(response_id) is str:
        usage.response_id = response_id
    if reported is None and "x_groq" in fields:
        reported = fields_of(fields["x_groq"]).get("usage")
    told = reported is not None and read_usage(fields_of(reported), usage)
    if get("background") is True:
        _read_background(fields, usage, told=told)
    if told or choices is not None:
        return True
    kind = get("object")
    return kind == "response" or (kind == "list" and model is not None)  # embeddings name it; models and files do not


def _is_answer(fields: Mapping[str, Any]) -> bool:
    return "usage" in fields and not str(fields["type"]).startswith(("response.", "transcript.", "image_"))


def _read_background(fields: Mapping[str, Any], usage: Usage, *, told: bool) -> None:
    # https://platform.openai.com/docs/guides/background: the tokens are known when it is retrieved, any time later,
    # in any process; and it can be retrieved again and again.
    usage.is_pending = not told and fields.get("status") in _RUNNING
    usage.key = f"{usage.provider}:{fields.get('id')}"
    created = fields.get("created_at")
    if isinstance(created, (int, float)):
        usage.created = created


def _read_event(fields: Mapping[str, Any], usage: Usage, provider: str) -> bool:
    if not usage.provider:
        usage.provider = provider
    kind = fields["type"]
    if kind in _TEXT_EVENTS:
        usage.wrote(fields.get("delta"))
        return True
    inner = fields.get("response") or fields.get("chunk")  # chunk: what the client's chat stream helper gives
    if inner is not None and type(inner) is not str:
        return extract(inner, usage, provider)
    reported = fields.get("usage")
    if reported is not None:
        return read_usage(fields_of(reported), usage)
    return str(kind).startswith(("response.", "transcript.", "image_"))


def _read_text(choices: Any, usage: Usage) -> None:
    for choice in choices:
        held = fields_of(choice)
        delta = held.get("delta")
        if delta is None:
            usage.wrote(held.get("text"))
            continue
        parts = fields_of(delta)
        content = parts.get("content")
        if content:
            usage.wrote(content)
            continue
        usage.wrote(parts.get("reasoning_content") or parts.get("reasoning"))
        for call in parts.get("tool_calls") or ():
            usage.wrote(fields_of(fields_of(call).get("function")).get("arguments"))


def read_usage(fields: Mapping[str, Any], usage: Usage) -> bool:
    """Read a usage object of OpenAI's kind: `prompt_tokens` and `completion_tokens`, or `input_` and `output_tokens`.

    Cached tokens are inside the input and reasoning is inside the output, but for a few who speak this shape and
    count reasoning apart: their own total tells.
    """
    get = fields.get
    input_tokens, output_tokens = get("prompt_tokens"), get("completion_tokens")
    input_tokens = count(get("input_tokens") if input_tokens is None else input_tokens)
    output_tokens = count(get("output_tokens") if output_tokens is None else output_tokens)
    if input_tokens is not None:
        usage.input_tokens = input_tokens
        if output_tokens is None and usage.output_tokens is None:
            usage.output_tokens = 0  # embeddings tell no output because there is none
    details = get("prompt_tokens_details") or get("input_tokens_details") or get("input_token_details")
    if details is not None:
        _read_input_details(fields_of(details), usage)
    details = get("completion_tokens_details") or get("output_tokens_details") or get("output_token_details")
    reasoning = None
    if details is not None:
        reasoning = _read_output_details(fields_of(details), usage)
    is_plain = "prompt_tokens_details" in fields and "completion_tokens_details" in fields and "total_tokens" in fields
    if not is_plain or len(fields) != 5:
        # OpenAI's own usage has its two counts, their details and a total; whoever differs may have more to tell.
        reasoning = _read_others(fields, usage, reasoning)
    if reasoning is not None:
        usage.reasoning_tokens = reasoning
    if output_tokens is not None:
        if reasoning and count(get("total_tokens")) == (input_tokens or 0) + output_tokens + reasoning:
            output_tokens += reasoning
        usage.output_tokens = output_tokens
    if input_tokens is None:
        _read_duration(fields, usage)
    return input_tokens is not None or output_tokens is not None or usage.quantity is not None


def _read_input_details(details: Mapping[str, Any], usage: Usage) -> None:
    get = details.get
    read, write = get("cached_tokens"), get("cache_write_tokens")
    if read is not None:
        usage.cache_read_tokens = count(read)
    if write is None:
        write = get("cache_creation_tokens")
    if write is not None:
        usage.cache_write_tokens = count(write)
    audio, image = get("audio_tokens"), get("image_tokens")
    if audio or image:
        _add_details(usage, input_audio_tokens=audio, input_image_tokens=image)


def _read_output_details(details: Mapping[str, Any], usage: Usage) -> int | None:
    audio, image = details.get("audio_tokens"), details.get("image_tokens")
    if audio or image:
        _add_details(usage, output_audio_tokens=audio, output_image_tokens=image)
    reasoning = details.get("reasoning_tokens")
    return None if reasoning is None else count(reasoning)


def _read_others(fields: Mapping[str, Any], usage: Usage, reasoning: int | None) -> int | None:
    """Read what others than OpenAI add to the shape."""
    for name in ("prompt_cache_hit_tokens", "cache_read_input_tokens", "cached_tokens"):  # DeepSeek, LiteLLM, Moonshot
        if name in fields and not usage.cache_read_tokens:
            usage.cache_read_tokens = count(fields[name])
    if "cache_creation_input_tokens" in fields and not usage.cache_write_tokens:
        usage.cache_write_tokens = count(fields["cache_creation_input_tokens"])
    cost = fields.get("cost")
    if cost is not None:  # OpenRouter: a number of dollars; Perplexity: {"total_cost": …}
        total = cost if isinstance(cost, (int, float, str)) else fields_of(cost).get("total_cost")
        if total is not None:
            usage.cost_usd = total
    _read_duration(fields, usage)
    return count(fields.get("reasoning_tokens")) if reasoning is None else reasoning


def _read_duration(fields: Mapping[str, Any], usage: Usage) -> None:
    seconds = fields.get("seconds")
    if seconds is None:
        seconds = fields.get("prompt_audio_seconds")
    if isinstance(seconds, (int, float)) and seconds >= 0:
        usage.quantity = float(seconds)
        _add_details(usage, audio_seconds=seconds, input_audio_seconds=seconds)


def _add_details(usage: Usage, **values: object) -> None:
    known = {name: value for name, value in values.items() if isinstance(value, (int, float)) and value > 0}
    if known:
        usage.details = {**(usage.details or {}), **known}


# Quicker ways, for the plain responses that most calls give


_contexts: dict[str, Mapping[str, str]] = {}
"""One mapping per service tier."""


def _context_of(tier: Any) -> Mapping[str, str] | None:
    if type(tier) is not str:
        return None
    context = {"service_tier": tier}
    if len(_contexts) < 16:
        _contexts[tier] = context
    return context


def _read_completion(response: Any) -> Plain | None:
    """Read a `ChatCompletion` that holds nothing out of the ordinary; None = `extract` must look at it."""
    try:
        fields, more = response.__dict__, response.__pydantic_extra__
        reported = fields["usage"]
        counts = reported.__dict__
        read = written = reasoning = 0
        input_tokens, output_tokens = counts["prompt_tokens"], counts["completion_tokens"]
        details = counts["prompt_tokens_details"]
        if details is not None:
            apart = details.__dict__
            read, written = apart["cached_tokens"] or 0, apart.get("cache_write_tokens") or 0
            if details.__pydantic_extra__ or apart["audio_tokens"] or apart.get("image_tokens"):
                return None
        details = counts["completion_tokens_details"]
        if details is not None:
            apart = details.__dict__
            reasoning = apart["reasoning_tokens"] or 0
            if details.__pydantic_extra__ or apart["audio_tokens"] or apart.get("image_tokens"):
                return None
        # Who has more fields may count otherwise, and so may who reasons beside the output.
        if (
            (more and not _UNREAD.isdisjoint(more))
            or reported.__pydantic_extra__
            or len(counts) != 5
            or fields["choices"] is None
            or (reasoning and counts["total_tokens"] != input_tokens + output_tokens)
            or not 0 <= read + written <= input_tokens <= COUNT_LIMIT
            or not 0 <= reasoning <= output_tokens <= COUNT_LIMIT
        ):
            return None
        model = fields["model"]
        if type(model) is not str or type(input_tokens + output_tokens + read + written + reasoning) is not int:
            return None
        totals = input_tokens, output_tokens, read, written, reasoning
        tier = fields["service_tier"]
        return "openai", model, None if tier is None else _contexts.get(tier) or _context_of(tier), totals
    except (AttributeError, KeyError, TypeError):
        return None


def _extract_chunk(part: Any, usage: Usage) -> bool:
    """Read one more chunk of a chat stream: nothing but text, most of the time."""
    try:
        fields = part.__dict__
        (choice,) = fields["choices"]
        if fields["usage"] is None and fields["id"] == usage.response_id and not part.__pydantic_extra__:
            text = choice.__dict__["delta"].__dict__["content"]
            if text and type(text) is str:
                usage.written_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
                return True
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    return extract(part, usage)


EXTRACTORS = {"ChatCompletionChunk": _extract_chunk}
READERS = {"ChatCompletion": _read_completion}
