"""Anthropic's messages: input without cache, cache reads and writes apart, and streams that report in two halves."""

from __future__ import annotations

from usagekit.llm.usage import Usage, count, fields_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["extract", "read_usage"]


def extract(response: object, usage: Usage) -> bool:
    """Read a message, an event of a message stream, or a dictionary of either shape."""
    fields = fields_of(response)
    kind = fields.get("type")
    if not usage.provider:
        usage.provider = "anthropic"
    if kind == "content_block_delta":
        delta = fields_of(fields.get("delta"))
        usage.wrote(delta.get("text") or delta.get("thinking") or delta.get("partial_json"))
        return True
    if kind in {"message_start", "message_stop"}:
        message = fields.get("message")
        return True if message is None else extract(message, usage)
    model = fields.get("model")
    if type(model) is str and model:
        usage.model = model
    if type(fields.get("id")) is str and kind == "message":
        usage.response_id = fields["id"]
    reported = fields.get("usage")
    if reported is not None:
        read_usage(fields_of(reported), usage)
        return True
    return kind in {"message", "message_delta", "content_block_start", "content_block_stop", "ping"}


def read_usage(fields: Mapping[str, Any], usage: Usage) -> None:
    """Read a usage object; in a stream what comes later wins, and what comes as None changes nothing."""
    _read_counts(fields, usage)
    get = fields.get
    thinking = count(fields_of(get("output_tokens_details")).get("thinking_tokens"))
    if thinking is not None:
        usage.reasoning_tokens = thinking
    tools = get("server_tool_use")
    if tools is not None:
        searches = count(fields_of(tools).get("web_search_requests"))
        if searches:
            usage.details = {"web_searches": searches}
    iterations = get("iterations")
    if iterations:
        _read_iterations(iterations, usage)
    context: dict[str, str] = {}
    if get("service_tier") == "batch":
        context["processing"] = "batch"
    speed = get("speed")
    if type(speed) is str:
        context["speed"] = speed
    if context:
        usage.context = context


def _read_counts(fields: Mapping[str, Any], usage: Usage) -> None:
    get = fields.get
    uncached = count(get("input_tokens"))
    if uncached is not None:
        usage.uncached_tokens = uncached
    output = count(get("output_tokens"))
    if output is not None:
        usage.output_tokens = output
    read = count(get("cache_read_input_tokens"))
    if read is not None:
        usage.cache_read_tokens = read
    write = count(get("cache_creation_input_tokens"))
    if write is not None:
        usage.cache_write_tokens = write
    created = get("cache_creation")
    if created is not None:
        kept = fields_of(created)
        hour, minutes = count(kept.get("ephemeral_1h_input_tokens")), count(kept.get("ephemeral_5m_input_tokens"))
        usage.cache_write_1h_tokens = hour
        if usage.cache_write_tokens is None:
            usage.cache_write_tokens = (hour or 0) + (minutes or 0)


def _read_iterations(iterations: Any, usage: Usage) -> None:
    # https://docs.claude.com/en/docs/build-with-claude/compaction: what compacting cost is not in the totals.
    aside, requests = None, 0
    for iteration in iterations:
        fields = fields_of(iteration)
        if fields.get("type") != "compaction":
            requests += 1
            continue
        one = Usage()
        _read_counts(fields, one)
        one.aside = aside
        aside = one
    usage.aside = aside
    usage.requests = max(1, requests)
