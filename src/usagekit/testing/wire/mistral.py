"""Mistral's chat and embeddings: https://docs.mistral.ai/api."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usagekit.testing.wire.exchange import CREATED, Answer, Call, Reply, Tokens, as_json, events, pieces, plain, stream

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["failed", "respond"]


def respond(call: Call, answer: Answer) -> Reply | None:
    """Answer a request; None for a path that is not known."""
    if call.path.endswith("/chat/completions"):
        if call.wants_stream:
            return stream(events(_chunks(call, answer), done=True))
        message: dict[str, Any] = {"role": "assistant", "tool_calls": None, "content": answer.text}
        if answer.tool:
            message |= {"content": "", "tool_calls": [_tool_call(call, answer)]}
        choice = {"index": 0, "finish_reason": _finish(answer), "message": message}
        found = _head(call, answer, "chat.completion") | {"choices": [choice]}
        return plain(found | ({"usage": _usage(answer.tokens)} if answer.tokens else {}))
    if call.path.endswith("/embeddings"):
        given = call.body.get("input")
        texts = given if isinstance(given, list) else [given]
        data = [{"object": "embedding", "embedding": [0.25, -0.5, 0.125], "index": at} for at in range(len(texts))]
        found = {"id": call.id("embd-"), "object": "list", "data": data, "model": call.model(answer)}
        tokens = answer.tokens._replace(output_tokens=0, reasoning_tokens=0) if answer.tokens else None
        return plain(found | ({"usage": _usage(tokens)} if tokens else {}))
    return None


def failed(_: Call, answer: Answer) -> Reply:
    """Refuse a request in Mistral's format."""
    if answer.status == 422:
        return plain(
            {"detail": [{"type": "value_error", "loc": ["body"], "msg": answer.message, "input": {}}]}, status=422
        )
    kind = {401: "unauthorized", 429: "rate_limited", 400: "invalid_request_error"}.get(answer.status, "internal_error")
    body = {"object": "error", "message": answer.message, "type": kind, "param": None, "code": str(answer.status)}
    return plain(body, status=answer.status)


def _usage(tokens: Tokens) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompt_tokens": tokens.input_tokens,
        "total_tokens": tokens.total,
        "completion_tokens": tokens.output_tokens,
    }
    if tokens.cache_read_tokens:
        found["prompt_tokens_details"] = {"cached_tokens": tokens.cache_read_tokens}
        found["num_cached_tokens"] = tokens.cache_read_tokens
    return found


def _head(call: Call, answer: Answer, kind: str) -> dict[str, Any]:
    return {"id": call.id("cmpl-"), "object": kind, "created": CREATED, "model": call.model(answer)}


def _finish(answer: Answer) -> str:
    return "tool_calls" if answer.tool else "stop"


def _tool_call(call: Call, answer: Answer) -> dict[str, Any]:
    name, arguments = answer.tool or ("", {})
    function = {"name": name, "arguments": as_json(arguments).decode()}
    return {"id": f"call{call.number:05d}", "function": function, "index": 0}


def _chunks(call: Call, answer: Answer) -> Iterator[tuple[dict[str, Any], bool]]:
    head = _head(call, answer, "chat.completion.chunk")

    def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
        return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    yield chunk(role="assistant", content=""), False
    last: dict[str, Any] = {"content": ""}
    if answer.tool:
        last |= {"tool_calls": [_tool_call(call, answer)]}
    else:
        for piece in pieces(answer.text, answer.chunks):
            yield chunk(content=piece), True
    ended = chunk(_finish(answer), **last)
    yield ended | ({"usage": _usage(answer.tokens)} if answer.tokens else {}), False
