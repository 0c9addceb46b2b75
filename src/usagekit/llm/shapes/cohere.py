"""Cohere: billed units count, and the response names no model."""

from __future__ import annotations

from usagekit.llm.usage import count, fields_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from usagekit.llm.usage import Usage

__all__ = ["extract"]


def extract(response: object, usage: Usage) -> bool:
    """Read a response of chat, embed or rerank, an event of a chat stream, or a dictionary of that shape."""
    fields = fields_of(response)
    kind = fields.get("type")
    delta = fields.get("delta")
    if not usage.provider:
        usage.provider = "cohere"
    if kind == "content-delta":
        usage.wrote(fields_of(fields_of(fields_of(delta).get("message")).get("content")).get("text"))
        return True
    if type(fields.get("id")) is str:
        usage.response_id = fields["id"]
    reported = fields.get("usage")
    if reported is None:
        reported = fields.get("meta")
    if reported is None and delta is not None:
        reported = fields_of(delta).get("usage")
    if reported is None:
        return kind is not None or fields.get("finish_reason") is not None
    held = fields_of(reported)
    billed = fields_of(held.get("billed_units"))
    counted = fields_of(held.get("tokens"))
    usage.input_tokens = _first(billed, counted, "input_tokens")
    usage.output_tokens = _first(billed, counted, "output_tokens")
    if usage.input_tokens is not None and usage.output_tokens is None:
        usage.output_tokens = 0  # embeddings are billed for what they read
    cached = count(held.get("cached_tokens"))
    if cached is not None:
        usage.cache_read_tokens = min(cached, usage.input_tokens or 0)
    searches = count(billed.get("search_units"))
    if searches:
        usage.quantity = searches
        usage.details = {"rerank_searches": searches}
        if usage.input_tokens is None:
            usage.input_tokens = usage.output_tokens = 0
    return True


def _first(billed: object, counted: object, name: str) -> int | None:
    found = count(fields_of(billed).get(name))
    return count(fields_of(counted).get(name)) if found is None else found
