"""pydantic-ai: results of runs, which may stand for several requests, and single model responses."""

from __future__ import annotations

from usagekit.llm.usage import count, fields_of, provider_named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from usagekit.llm.usage import Usage

__all__ = ["extract"]


def extract(response: Any, usage: Usage) -> bool:
    """Read a run's result, a streamed result, or a `ModelResponse`."""
    reported = getattr(response, "usage", None)
    if callable(reported) and not hasattr(reported, "input_tokens"):  # before 2.0 a method; now both, with a warning
        reported = reported()
    if reported is None or not hasattr(reported, "input_tokens"):
        return False
    usage.is_wrapped = True
    answer = response if hasattr(response, "model_name") else getattr(response, "response", None)
    if answer is not None:
        usage.model = getattr(answer, "model_name", None) or ""
        usage.provider = provider_named(getattr(answer, "provider_name", None))
    usage.input_tokens = count(reported.input_tokens)
    usage.output_tokens = count(getattr(reported, "output_tokens", None))
    usage.cache_read_tokens = count(getattr(reported, "cache_read_tokens", None))
    usage.cache_write_tokens = count(getattr(reported, "cache_write_tokens", None))
    usage.reasoning_tokens = count(fields_of(getattr(reported, "details", None)).get("reasoning_tokens"))
    usage.requests = count(getattr(reported, "requests", None)) or 1
    cost = getattr(reported, "cost", None)
    if cost is not None and not callable(cost):
        usage.cost_usd = cost
    return True
