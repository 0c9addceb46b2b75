"""Cohere's v2 API: https://docs.cohere.com/reference/chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usagekit.testing.wire.exchange import Answer, Call, Reply, Tokens, as_json, events, pieces, plain, stream

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["failed", "respond"]

_UNBILLED = 64  # Cohere puts a preamble in front of a prompt and does not bill it


def respond(call: Call, answer: Answer) -> Reply | None:
    """Answer a request; None for a path that is not known."""
    tokens = answer.tokens
    if call.path.endswith("/chat"):
        if call.wants_stream:
            return stream(events(_events(call, answer), named=True, done=True))
        message: dict[str, Any] = {"role": "assistant", "content": [{"type": "text", "text": answer.text}]}
        if answer.tool:
            message = {"role": "assistant", "tool_plan": answer.thinking, "tool_calls": [_tool_call(call, answer)]}
        found = {"id": call.id("chat-"), "finish_reason": _finish(answer), "message": message}
        return plain(found | ({"usage": _usage(tokens)} if tokens else {}))
    if call.path.endswith("/embed"):
        texts = call.body.get("texts") or list(call.body.get("inputs") or ())
        found = {
            "id": call.id("embed-"),
            "embeddings": {"float": [[0.25, -0.5, 0.125]] * len(texts)},
            "texts": texts,
            "response_type": "embeddings_by_type",
        }
        return plain(found | {"meta": _meta({"input_tokens": tokens.input_tokens} if tokens else {})})
    if call.path.endswith("/rerank"):
        count = len(call.body.get("documents") or ())
        results = [{"index": at, "relevance_score": round(1 / (at + 1), 6)} for at in range(count)]
        return plain({"id": call.id("rerank-"), "results": results, "meta": _meta({"search_units": 1})})
    return None


def failed(call: Call, answer: Answer) -> Reply:
    """Refuse a request in Cohere's format."""
    return plain({"id": call.id("error-"), "message": answer.message}, status=answer.status)


def _meta(billed: dict[str, Any]) -> dict[str, Any]:
    return {"api_version": {"version": "2"}} | ({"billed_units": billed} if billed else {})


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "billed_units": {"input_tokens": tokens.input_tokens, "output_tokens": tokens.output_tokens},
        "tokens": {"input_tokens": tokens.input_tokens + _UNBILLED, "output_tokens": tokens.output_tokens},
        "cached_tokens": tokens.cache_read_tokens,
    }


def _finish(answer: Answer) -> str:
    return "TOOL_CALL" if answer.tool else "COMPLETE"


def _tool_call(call: Call, answer: Answer) -> dict[str, Any]:
    name, arguments = answer.tool or ("", {})
    function = {"name": name, "arguments": as_json(arguments).decode()}
    return {"id": call.id(f"{name}_"), "type": "function", "function": function}


def _events(call: Call, answer: Answer) -> Iterator[tuple[dict[str, Any], bool]]:
    begun = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    yield {"type": "message-start", "id": call.id("chat-"), "delta": {"message": begun}}, False
    if answer.tool:
        called = {"message": {"tool_calls": _tool_call(call, answer)}}
        yield {"type": "tool-call-start", "index": 0, "delta": called}, True
        yield {"type": "tool-call-end", "index": 0}, False
    else:
        start = {"message": {"content": {"type": "text", "text": ""}}}
        yield {"type": "content-start", "index": 0, "delta": start}, False
        for piece in pieces(answer.text, answer.chunks):
            yield {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": piece}}}}, True
        yield {"type": "content-end", "index": 0}, False
    ended: dict[str, Any] = {"finish_reason": _finish(answer)}
    yield {"type": "message-end", "delta": ended | ({"usage": _usage(answer.tokens)} if answer.tokens else {})}, False
