"""Anthropic's messages: https://docs.claude.com/en/api/messages and /en/docs/build-with-claude/streaming."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usagekit.testing.wire.exchange import Answer, Call, Reply, Tokens, as_json, events, pieces, plain, stream

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["failed", "respond"]

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def respond(call: Call, answer: Answer) -> Reply | None:
    """Answer a request; None for a path that is not known."""
    if call.path.endswith("/messages/count_tokens"):
        return plain({"input_tokens": answer.tokens.input_tokens if answer.tokens else 0})
    if not call.path.endswith("/messages"):
        return None
    if call.wants_stream:
        failure = b"event: error\ndata: " + as_json(_error("overloaded_error", "Overloaded")) + b"\n\n"
        return stream(events(_events(call, answer), named=True), failure=failure)
    return plain(_message(call, answer, _content(call, answer)), headers={"request-id": call.id("req_")})


def failed(call: Call, answer: Answer) -> Reply:
    """Refuse a request in Anthropic's format."""
    body = _error(_ERRORS.get(answer.status, "api_error"), answer.message) | {"request_id": call.id("req_")}
    return plain(body, status=answer.status, headers={"request-id": call.id("req_")})


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def _usage(tokens: Tokens, answer: Answer) -> dict[str, Any]:
    hour = tokens.cache_write_1h_tokens
    found: dict[str, Any] = {
        "input_tokens": tokens.uncached,
        "cache_creation_input_tokens": tokens.cache_write_tokens,
        "cache_read_input_tokens": tokens.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_write_tokens - hour,
            "ephemeral_1h_input_tokens": hour,
        },
        "output_tokens": tokens.output_tokens,
        "service_tier": answer.service_tier or "standard",
    }
    if tokens.reasoning_tokens:
        found["output_tokens_details"] = {"thinking_tokens": tokens.reasoning_tokens}
    return found


def _content(call: Call, answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.tokens and answer.tokens.reasoning_tokens:
        blocks.append({"type": "thinking", "thinking": answer.thinking, "signature": "c2lnbmF0dXJl"})
    if answer.tool:
        name, arguments = answer.tool
        blocks.append({"type": "tool_use", "id": call.id("toolu_"), "name": name, "input": dict(arguments)})
    else:
        blocks.append({"type": "text", "text": answer.text})
    return blocks


def _message(call: Call, answer: Answer, content: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Give a message; without content, the one that begins a stream."""
    usage = _usage(answer.tokens, answer) if answer.tokens else {"input_tokens": 0, "output_tokens": 0}
    if content is None:
        usage.pop("output_tokens_details", None)
        usage["output_tokens"] = min(1, usage["output_tokens"])
    return {
        "model": call.model(answer),
        "id": call.id("msg_"),
        "type": "message",
        "role": "assistant",
        "content": content or [],
        "stop_reason": None if content is None else _stop_reason(answer),
        "stop_sequence": None,
        "usage": usage,
    }


def _stop_reason(answer: Answer) -> str:
    return "tool_use" if answer.tool else "end_turn"


_EMPTY: dict[str, dict[str, Any]] = {
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
    "text": {"text": ""},
}


def _events(call: Call, answer: Answer) -> Iterator[tuple[dict[str, Any], bool]]:
    yield {"type": "message_start", "message": _message(call, answer, None)}, False
    for index, block in enumerate(_content(call, answer)):
        place = {"index": index}
        yield {"type": "content_block_start", **place, "content_block": block | _EMPTY[block["type"]]}, False
        if index == 0:
            yield {"type": "ping"}, False
        for delta, is_text in _deltas(block, answer.chunks):
            yield {"type": "content_block_delta", **place, "delta": delta}, is_text
        yield {"type": "content_block_stop", **place}, False
    ended = {"stop_reason": _stop_reason(answer), "stop_sequence": None}
    usage = _usage(answer.tokens, answer) if answer.tokens else {"output_tokens": 0}
    for name in ("cache_creation", "service_tier"):
        usage.pop(name, None)
    yield {"type": "message_delta", "delta": ended, "usage": usage}, False
    yield {"type": "message_stop"}, False


def _deltas(block: dict[str, Any], count: int) -> Iterator[tuple[dict[str, Any], bool]]:
    if block["type"] == "thinking":
        yield {"type": "thinking_delta", "thinking": block["thinking"]}, False
        yield {"type": "signature_delta", "signature": block["signature"]}, False
    elif block["type"] == "tool_use":
        for piece in pieces(as_json(block["input"]).decode(), count):
            yield {"type": "input_json_delta", "partial_json": piece}, True
    else:
        for piece in pieces(block["text"], count):
            yield {"type": "text_delta", "text": piece}, True
