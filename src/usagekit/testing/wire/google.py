"""Google's Gemini API: https://ai.google.dev/api/generate-content."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usagekit.testing.wire.exchange import Answer, Call, Part, Reply, Tokens, as_json, pieces, plain, stream

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["failed", "respond"]

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def respond(call: Call, answer: Answer) -> Reply | None:
    """Answer a request; None for a method that is not known."""
    model, _, method = call.path.rpartition("/models/")[2].partition(":")
    model = answer.model or model
    tokens = answer.tokens
    if method == "generateContent":
        return plain(_response(call, model, _parts(answer), _usage(tokens, answer) if tokens else None))
    if method == "streamGenerateContent":
        if call.query.get("alt") == "sse":
            chunks = _chunks(call, answer, model)
            parts = (Part(b"data: %b\r\n\r\n" % as_json(one), is_text) for one, is_text in chunks)
            return stream(parts, "text/event-stream")
        return plain([one for one, _ in _chunks(call, answer, model)])
    if method == "countTokens":
        return plain({"totalTokens": tokens.input_tokens if tokens else 0})
    if method in {"embedContent", "batchEmbedContents"}:
        return _embedded(call, tokens, one_only=method == "embedContent")
    return None


def failed(_: Call, answer: Answer) -> Reply:
    """Refuse a request in Google's format."""
    error: dict[str, Any] = {
        "code": answer.status,
        "message": answer.message,
        "status": _STATUSES.get(answer.status, "UNKNOWN"),
    }
    if answer.retry_after is not None:
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        error["details"] = [{"@type": kind, "retryDelay": f"{answer.retry_after:g}s"}]
    return plain({"error": error}, status=answer.status)


def _usage(tokens: Tokens, answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {
        "promptTokenCount": tokens.input_tokens,
        "candidatesTokenCount": tokens.visible,
        "totalTokenCount": tokens.total,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens.input_tokens}],
    }
    if tokens.cache_read_tokens:
        found["cachedContentTokenCount"] = tokens.cache_read_tokens
        found["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": tokens.cache_read_tokens}]
    if tokens.reasoning_tokens:
        found["thoughtsTokenCount"] = tokens.reasoning_tokens
    if answer.service_tier:
        found["serviceTier"] = answer.service_tier
    return found


def _parts(answer: Answer) -> list[dict[str, Any]]:
    if answer.tool:
        name, arguments = answer.tool
        return [{"functionCall": {"name": name, "args": dict(arguments)}}]
    return [{"text": answer.text}]


def _response(
    call: Call,
    model: str,
    parts: list[dict[str, Any]],
    usage: dict[str, Any] | None,
    *,
    is_last: bool = True,
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}}
    if is_last:
        candidate["finishReason"] = "STOP"
    found: dict[str, Any] = {"candidates": [candidate | {"index": 0}]}
    if usage:
        found["usageMetadata"] = usage
    return found | {"modelVersion": model, "responseId": call.id("resp")}


def _chunks(call: Call, answer: Answer, model: str) -> Iterator[tuple[dict[str, Any], bool]]:
    tokens = answer.tokens
    whole = _usage(tokens, answer) if tokens else None
    contents = [[part] for part in _parts(answer)]
    if not answer.tool:
        contents = [[{"text": piece}] for piece in pieces(answer.text, answer.chunks)]
    for number, parts in enumerate(contents, 1):
        is_last = number == len(contents)
        usage = whole
        if whole and tokens and not is_last:
            running = tokens._replace(output_tokens=tokens.reasoning_tokens + tokens.visible * number // len(contents))
            usage = _usage(running, answer)
        yield _response(call, model, parts, usage, is_last=is_last), True


def _embedded(call: Call, tokens: Tokens | None, *, one_only: bool) -> Reply:
    values = {"values": [0.25, -0.5, 0.125]}
    count = 1 if one_only else len(call.body.get("requests") or ())
    found: dict[str, Any] = {"embedding": values} if one_only else {"embeddings": [values] * count}
    if tokens:
        details = [{"modality": "TEXT", "tokenCount": tokens.input_tokens}]
        found["usageMetadata"] = {"promptTokenCount": tokens.input_tokens, "promptTokensDetails": details}
    return plain(found)
