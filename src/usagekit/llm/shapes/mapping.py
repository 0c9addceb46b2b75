"""Plain dictionaries, and objects of nobody we know: recognised by what they hold."""

from __future__ import annotations

from usagekit.llm.shapes import anthropic, bedrock, cohere, google, langchain, ollama, openai
from usagekit.llm.usage import count, fields_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from usagekit.llm.usage import Usage

__all__ = ["extract"]

_OWN_NAMES = ("cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens")
_ANTHROPIC_KINDS = ("message", "message_start", "message_delta", "content_block_delta")
_OF_A_MESSAGE = frozenset({"model", "stop_reason", "usage"})
_OF_A_CHOICE = frozenset({"delta", "finish_reason", "message"})
_OF_AN_OLLAMA = frozenset({"created_at", "done_reason", "message", "response"})
_COUNTS = frozenset({"input_tokens", "output_tokens", "prompt_tokens", "completion_tokens"})


def extract(response: object, usage: Usage) -> bool:
    """Read an answer in any shape that is known here, or a bare usage dictionary."""
    fields = fields_of(response)
    if not fields:
        return _read_attribute(response, usage)
    kind = fields.get("type")
    reported = fields.get("usage")
    held = fields_of(reported) if reported is not None else {}
    found: bool | None = None
    if _is_anthropics(kind, fields) or ("cache_creation_input_tokens" in held and "input_tokens" in held):
        found = anthropic.extract(response, usage)
    elif "usageMetadata" in fields or "candidates" in fields or "prompt_token_count" in _metadata(fields):
        found = google.extract(response, usage)
    elif "inputTokens" in held or "contentBlockDelta" in fields or "inputTokens" in _bedrock_usage(fields):
        found = bedrock.extract(response, usage)
    elif "billed_units" in held or "billed_units" in fields_of(fields.get("meta")):
        found = cohere.extract(response, usage)
    elif "prompt_eval_count" in fields or "eval_count" in fields or _is_ollamas(fields):
        found = ollama.extract(response, usage)
    elif "usage_metadata" in fields:
        found = langchain.extract(response, usage)
    elif "raw" in fields and hasattr(fields["raw"], "usage_metadata"):
        found = langchain.extract(fields["raw"], usage)
    elif "usage" in fields or _is_completion(fields) or "x_groq" in fields or _is_openai_event(kind):
        found = _read_openai(response, fields, usage)
    elif not _COUNTS.isdisjoint(fields):
        found = _read_bare(fields, usage)
    return _read_attribute(response, usage) if found is None else found


# Apps have messages, polls with choices and jobs that are done of their own: a name is not enough.


def _is_anthropics(kind: object, fields: Mapping[str, Any]) -> bool:
    return kind in _ANTHROPIC_KINDS and (kind != "message" or not _OF_A_MESSAGE.isdisjoint(fields))


def _is_ollamas(fields: Mapping[str, Any]) -> bool:
    return "done" in fields and "model" in fields and not _OF_AN_OLLAMA.isdisjoint(fields)


def _is_completion(fields: Mapping[str, Any]) -> bool:
    if "choices" not in fields:
        return False
    if "object" in fields or "model" in fields:
        return True
    choices = fields["choices"]
    return isinstance(choices, (list, tuple)) and any(not _OF_A_CHOICE.isdisjoint(fields_of(one)) for one in choices)


def _metadata(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return fields_of(fields.get("usage_metadata"))


def _bedrock_usage(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = fields.get("metadata")
    return fields_of(fields_of(metadata).get("usage")) if isinstance(metadata, dict) else {}


def _is_openai_event(kind: object) -> bool:
    return type(kind) is str and kind.startswith(("response.", "transcript.text.", "image_generation."))


def _read_openai(response: object, fields: Mapping[str, Any], usage: Usage) -> bool:
    known = usage.provider
    found = openai.extract(response, usage)
    reported = fields.get("usage")
    if reported is not None:
        _read_own(fields_of(reported), usage)
    if not known and not (fields.get("object") or "choices" in fields or _is_openai_event(fields.get("type"))):
        provider = fields.get("provider")
        usage.provider = provider if type(provider) is str else ""
    return found


def _read_bare(fields: Mapping[str, Any], usage: Usage) -> bool:
    if "cache_creation_input_tokens" in fields and "input_tokens" in fields:
        anthropic.read_usage(fields, usage)
    else:
        openai.read_usage(fields, usage)
    _read_own(fields, usage)
    for name in ("provider", "model"):
        if type(fields.get(name)) is str:
            setattr(usage, name, fields[name])
    return True


def _read_own(fields: Mapping[str, Any], usage: Usage) -> None:
    for name in _OWN_NAMES:
        value = count(fields.get(name))
        if value is not None:
            setattr(usage, name, value)
    if fields.get("cost_usd") is not None:
        usage.cost_usd = fields["cost_usd"]


def _read_attribute(response: object, usage: Usage) -> bool:
    """Read objects whose usage is a property."""
    reported = getattr(type(response), "usage", None) and getattr(response, "usage", None)
    if reported is None or callable(reported):
        return False
    return extract({"usage": reported, "model": getattr(response, "model", None)}, usage)
