"""Ollama: counts at the top level, in streams only on the part that is done."""

from __future__ import annotations

from usagekit.llm.usage import count, fields_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from usagekit.llm.usage import Usage

__all__ = ["extract"]


def extract(response: object, usage: Usage) -> bool:
    """Read an answer of chat, generate or embed, a part of a stream, or a dictionary of that shape."""
    fields = fields_of(response)
    if not usage.provider:
        usage.provider = "ollama"
    model = fields.get("model")
    if type(model) is str and model:
        usage.model = model
    usage.wrote(fields.get("response") or fields_of(fields.get("message")).get("content"))
    read, written = count(fields.get("prompt_eval_count")), count(fields.get("eval_count"))
    if read is not None:
        usage.input_tokens = read
        if written is None and usage.output_tokens is None:
            usage.output_tokens = 0
    if written is not None:
        usage.output_tokens = written
        if read is None and usage.input_tokens is None:
            usage.input_tokens = 0  # it leaves the prompt out when all of it was cached
    return type(model) is str
