"""Google's Gemini: thoughts and tool prompts outside the two main counts, totals repeated on every chunk."""

from __future__ import annotations

from usagekit.llm.usage import count, fields_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from usagekit.llm.usage import Usage

__all__ = ["extract"]

_ANSWERED = frozenset({"content", "finish_reason", "finishReason"})
_MODALITIES = {"AUDIO": "audio", "IMAGE": "image", "VIDEO": "video"}


def extract(response: object, usage: Usage) -> bool:
    """Read a response or chunk of google-genai, or a dictionary of the REST shape (camelCase or snake_case)."""
    fields = fields_of(response)
    if not usage.provider:
        usage.provider = "google"
    model = fields.get("model_version") or fields.get("modelVersion")
    if type(model) is str:
        usage.model = model.removeprefix("models/")
    response_id = fields.get("response_id") or fields.get("responseId")
    if type(response_id) is str:
        usage.response_id = response_id
    candidates = fields.get("candidates")
    is_answered = isinstance(candidates, (list, tuple)) and _read_text(candidates, usage)
    reported = fields.get("usage_metadata") or fields.get("usageMetadata")
    if reported is not None:
        _read_usage(fields_of(reported), usage)
        return True
    embeddings = fields.get("embeddings")
    if embeddings:
        counts = [count(fields_of(fields_of(one).get("statistics")).get("token_count")) for one in embeddings]
        if any(one is not None for one in counts):
            usage.input_tokens, usage.output_tokens = sum(one or 0 for one in counts), 0
    return is_answered or embeddings is not None


def _read_text(candidates: Any, usage: Usage) -> bool:
    """Measure the text of what answers; False = these candidates are none of a model's."""
    is_answered = False
    for candidate in candidates:
        held = fields_of(candidate)
        is_answered = is_answered or not _ANSWERED.isdisjoint(held)
        for part in fields_of(held.get("content")).get("parts") or ():
            usage.wrote(fields_of(part).get("text"))
    return is_answered


def _read_usage(fields: Mapping[str, Any], usage: Usage) -> None:
    def told(snake: str, camel: str) -> int | None:
        value = fields.get(snake)
        return count(fields.get(camel) if value is None else value)

    prompt = told("prompt_token_count", "promptTokenCount")
    tools = told("tool_use_prompt_token_count", "toolUsePromptTokenCount")
    if prompt is not None or tools is not None:
        usage.input_tokens = (prompt or 0) + (tools or 0)
    written = told("candidates_token_count", "candidatesTokenCount")
    if written is None:
        written = told("response_token_count", "responseTokenCount")  # the live API's name
    thoughts = told("thoughts_token_count", "thoughtsTokenCount")
    if written is not None or thoughts is not None:
        usage.output_tokens = (written or 0) + (thoughts or 0)
    elif prompt is not None and usage.output_tokens is None and told("total_token_count", "totalTokenCount") == prompt:
        usage.output_tokens = 0
    if thoughts is not None:
        usage.reasoning_tokens = thoughts
    cached = told("cached_content_token_count", "cachedContentTokenCount")
    if cached is not None:
        usage.cache_read_tokens = cached
    _read_details(fields, usage)


def _read_details(fields: Mapping[str, Any], usage: Usage) -> None:
    details: dict[str, float] = {}
    for direction, snake, camel in (
        ("input", "prompt_tokens_details", "promptTokensDetails"),
        ("output", "candidates_tokens_details", "candidatesTokensDetails"),
    ):
        for one in fields.get(snake) or fields.get(camel) or ():
            held = fields_of(one)
            modality = held.get("modality")
            name = _MODALITIES.get(str(getattr(modality, "value", modality)))
            tokens = count(held.get("token_count") or held.get("tokenCount"))
            if name and tokens:
                details[f"{direction}_{name}_tokens"] = tokens
    if details:
        usage.details = details
    tier = fields.get("service_tier") or fields.get("serviceTier")
    tier = getattr(tier, "value", tier)
    if type(tier) is str:
        usage.context = {"service_tier": tier.lower()}
