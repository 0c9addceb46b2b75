"""Amazon Bedrock's Converse: dictionaries without the model's name, cache reads and writes apart from the input."""

from __future__ import annotations

from usagekit.llm.usage import count, fields_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from usagekit.llm.usage import Usage

__all__ = ["extract"]


def extract(response: object, usage: Usage) -> bool:
    """Read an answer of `converse`, or an event of `converse_stream`."""
    fields = fields_of(response)
    if not usage.provider:
        usage.provider = "aws"
    if "contentBlockDelta" in fields:
        delta = fields_of(fields_of(fields["contentBlockDelta"]).get("delta"))
        reasoning = fields_of(delta.get("reasoningContent")).get("text")
        usage.wrote(delta.get("text") or reasoning or fields_of(delta.get("toolUse")).get("input"))
        return True
    if "metadata" in fields:
        fields = fields_of(fields["metadata"])
    tier = fields_of(fields.get("serviceTier")).get("type")
    if type(tier) is str:
        usage.context = {"service_tier": tier}
    reported = fields.get("usage")
    if reported is None:
        return "output" in fields or "messageStart" in fields
    held = fields_of(reported)
    usage.uncached_tokens = count(held.get("inputTokens"))
    usage.output_tokens = count(held.get("outputTokens"))
    usage.cache_read_tokens = count(held.get("cacheReadInputTokens"))
    usage.cache_write_tokens = count(held.get("cacheWriteInputTokens"))
    kept = [fields_of(one) for one in held.get("cacheDetails") or ()]
    hour = sum(count(one.get("inputTokens")) or 0 for one in kept if one.get("ttl") == "1h")
    if hour:
        usage.cache_write_1h_tokens = hour
    return True
