"""LangChain messages: someone else's usage in LangChain's words; chunks add up."""

from __future__ import annotations

from usagekit.llm.usage import count, fields_of, provider_named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from usagekit.llm.usage import Usage

__all__ = ["extract", "read_usage"]


def extract(response: object, usage: Usage) -> bool:
    """Read an `AIMessage`, one of its chunks, or a dictionary that holds one under `raw`."""
    fields = fields_of(response)
    reported = fields.get("usage_metadata")
    metadata = fields_of(fields.get("response_metadata"))
    usage.is_wrapped = True
    model = metadata.get("model_name") or metadata.get("model") or metadata.get("model_id")
    if type(model) is str:
        usage.model = model.removeprefix("models/")
    if not usage.provider:
        usage.provider = provider_named(metadata.get("model_provider") or metadata.get("ls_provider"))
    if type(metadata.get("service_tier")) is str:
        usage.context = {"service_tier": metadata["service_tier"]}
    is_chunk = type(response).__name__.endswith("Chunk")
    if is_chunk:
        usage.wrote(fields.get("content"))
    elif type(fields.get("id")) is str:
        usage.response_id = fields["id"]
    if reported is not None:
        read_usage(fields_of(reported), usage, add=is_chunk)
    return "content" in fields


def read_usage(fields: Mapping[str, Any], usage: Usage, *, add: bool = False) -> None:
    """Read LangChain's usage metadata, in which input includes cache and output includes reasoning."""
    inputs, outputs = fields_of(fields.get("input_token_details")), fields_of(fields.get("output_token_details"))
    hour = count(inputs.get("ephemeral_1h_input_tokens"))
    written = count(inputs.get("cache_creation"))
    if not written and (hour or inputs.get("ephemeral_5m_input_tokens")):
        written = (hour or 0) + (count(inputs.get("ephemeral_5m_input_tokens")) or 0)
    found = {
        "input_tokens": count(fields.get("input_tokens")),
        "output_tokens": count(fields.get("output_tokens")),
        "cache_read_tokens": count(inputs.get("cache_read")),
        "cache_write_tokens": written,
        "cache_write_1h_tokens": hour,
        "reasoning_tokens": count(outputs.get("reasoning")),
    }
    for name, value in found.items():
        if value is not None:
            setattr(usage, name, value + (getattr(usage, name) or 0) if add else value)
    audio = {
        "input_audio_tokens": count(inputs.get("audio")),
        "output_audio_tokens": count(outputs.get("audio")),
    }
    known = {name: value for name, value in audio.items() if value}
    if known:
        usage.details = known
