"""Ollama: https://docs.ollama.com/api; a stream is one JSON object a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usagekit.testing.wire.exchange import Answer, Call, Part, Reply, as_json, pieces, plain, stream

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["failed", "respond"]


def respond(call: Call, answer: Answer) -> Reply | None:
    """Answer a request; None for a path that is not known."""
    if call.path.endswith("/embed"):
        given = call.body.get("input")
        count = len(given) if isinstance(given, list) else 1
        found: dict[str, Any] = {"model": call.model(answer), "embeddings": [[0.25, -0.5, 0.125]] * count}
        found |= {"total_duration": 14_000_000, "load_duration": 1_000_000}
        return plain(found | ({"prompt_eval_count": answer.tokens.input_tokens} if answer.tokens else {}))
    if not call.path.endswith(("/chat", "/generate")):
        return None
    if call.body.get("stream", True):  # Ollama streams unless it is told not to
        failure = as_json({"error": "an error was encountered while running the model"}) + b"\n"
        return stream(_lines(call, answer), "application/x-ndjson", failure=failure)
    return plain(_head(call, answer) | _said(call, answer, answer.text) | _end(answer))


def failed(_: Call, answer: Answer) -> Reply:
    """Refuse a request in Ollama's format."""
    return plain({"error": answer.message}, status=answer.status)


def _head(call: Call, answer: Answer) -> dict[str, Any]:
    return {"model": call.model(answer), "created_at": "2026-11-20T12:00:00.000000Z"}


def _said(call: Call, answer: Answer, text: str) -> dict[str, Any]:
    if call.path.endswith("/generate"):
        return {"response": text}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if answer.tool:
        name, arguments = answer.tool
        message = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": name, "arguments": dict(arguments)}}],
        }
    return {"message": message}


def _end(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {
        "done": True,
        "done_reason": "stop",
        "total_duration": 174_560_334,
        "load_duration": 101_397_084,
        "prompt_eval_duration": 13_074_791,
        "eval_duration": 52_479_709,
    }
    if answer.tokens:
        found |= {"prompt_eval_count": answer.tokens.input_tokens, "eval_count": answer.tokens.output_tokens}
    return found


def _lines(call: Call, answer: Answer) -> Iterator[Part]:
    head = _head(call, answer)
    for piece in [""] if answer.tool else pieces(answer.text, answer.chunks):
        yield Part(as_json(head | _said(call, answer, piece) | {"done": False}) + b"\n", is_text=True)
    said = {"response": ""} if call.path.endswith("/generate") else {"message": {"role": "assistant", "content": ""}}
    yield Part(as_json(head | said | _end(answer)) + b"\n")
