"""LiteLLM: OpenAI's shape for everybody's models, and what the call cost."""

from __future__ import annotations

from usagekit.llm.shapes import openai
from usagekit.llm.usage import count, fields_of, provider_named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from usagekit.llm.usage import Usage

__all__ = ["extract"]


def extract(response: object, usage: Usage) -> bool:
    """Read a `ModelResponse` or a chunk of its streams; the cost it worked out counts as reported."""
    hidden = fields_of(getattr(response, "_hidden_params", None))
    usage.is_wrapped = True
    if not usage.provider:
        named = hidden.get("custom_llm_provider")
        if not named:
            named = str(hidden.get("litellm_model_name") or "").rpartition("/")[0].partition("/")[0]
        usage.provider = provider_named(named)
    found = openai.extract(response, usage, "")
    reported = fields_of(response).get("usage")
    if reported is None:
        reported = hidden.get("usage")  # in streams it keeps the usage here, unless it was asked for it
        if reported is not None:
            openai.read_usage(fields_of(reported), usage)
    details = fields_of(fields_of(reported).get("prompt_tokens_details"))
    hour = count(fields_of(details.get("cache_creation_token_details")).get("ephemeral_1h_input_tokens"))
    if hour:
        usage.cache_write_1h_tokens = hour
    cost = hidden.get("response_cost")
    if cost is not None:
        usage.cost_usd = cost
    return found
