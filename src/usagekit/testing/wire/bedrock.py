"""Amazon Bedrock's Converse and ConverseStream, in AWS's binary event stream.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html and, for the framing,
https://smithy.io/2.0/aws/amazon-eventstream.html.
"""

from __future__ import annotations

import struct
from binascii import crc32
from typing import TYPE_CHECKING, Any

from usagekit.testing.wire.exchange import Answer, Call, Part, Reply, Tokens, as_json, pieces, plain, stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["failed", "framed", "respond"]

_ERRORS = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
_STRING = 7  # the type of a header's value


def respond(call: Call, answer: Answer) -> Reply | None:
    """Answer a request; None for an operation that is not known."""
    if call.path.endswith("/converse"):
        message = {"role": "assistant", "content": _content(call, answer)}
        found = {"output": {"message": message}, "stopReason": _stop_reason(answer)} | _metadata(answer)
        return plain(found, headers={"x-amzn-requestid": _request_id(call)})
    if call.path.endswith("/converse-stream"):
        parts = (Part(framed(kind, fields), kind == "contentBlockDelta") for kind, fields in _events(call, answer))
        error = {"message": "The model ended the stream."}
        failure = framed("modelStreamErrorException", error, message_type="exception")
        return stream(parts, "application/vnd.amazon.eventstream", failure=failure)
    return None


def failed(call: Call, answer: Answer) -> Reply:
    """Refuse a request in AWS's format."""
    kind = _ERRORS.get(answer.status, "InternalServerException")
    headers = {"x-amzn-errortype": kind, "x-amzn-requestid": _request_id(call)}
    return plain({"message": answer.message}, status=answer.status, headers=headers)


def framed(kind: str, fields: Mapping[str, Any], *, message_type: str = "event") -> bytes:
    """Give one message of an event stream: lengths, their checksum, headers, JSON, the whole's checksum."""
    names = {
        f":{message_type}-type": kind,
        ":content-type": "application/json",
        ":message-type": message_type,
    }
    headers = b"".join(_header(name, value) for name, value in names.items())
    payload = as_json(fields)
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return message + struct.pack(">I", crc32(message))


def _header(name: str, value: str) -> bytes:
    return struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", _STRING, len(value)) + value.encode()


def _request_id(call: Call) -> str:
    return f"00000000-0000-4000-8000-{call.number:012d}"


def _usage(tokens: Tokens) -> dict[str, Any]:
    found: dict[str, Any] = {
        "inputTokens": tokens.uncached,
        "outputTokens": tokens.output_tokens,
        "totalTokens": tokens.total,
    }
    if tokens.cache_read_tokens or tokens.cache_write_tokens:
        hour = tokens.cache_write_1h_tokens
        kept = {"5m": tokens.cache_write_tokens - hour, "1h": hour}
        found |= {
            "cacheReadInputTokens": tokens.cache_read_tokens,
            "cacheWriteInputTokens": tokens.cache_write_tokens,
            "cacheDetails": [{"ttl": ttl, "inputTokens": count} for ttl, count in kept.items() if count],
        }
    return found


def _metadata(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {"metrics": {"latencyMs": 551}}
    if answer.tokens:
        found["usage"] = _usage(answer.tokens)
    if answer.service_tier:
        found["serviceTier"] = {"type": answer.service_tier}
    return found


def _stop_reason(answer: Answer) -> str:
    return "tool_use" if answer.tool else "end_turn"


def _content(call: Call, answer: Answer) -> list[dict[str, Any]]:
    if answer.tool:
        name, arguments = answer.tool
        return [{"toolUse": {"toolUseId": call.id("tooluse_"), "name": name, "input": dict(arguments)}}]
    return [{"text": answer.text}]


def _events(call: Call, answer: Answer) -> Iterator[tuple[str, dict[str, Any]]]:
    place = {"contentBlockIndex": 0}
    yield "messageStart", {"role": "assistant"}
    if answer.tool:
        name, arguments = answer.tool
        yield "contentBlockStart", {"start": {"toolUse": {"toolUseId": call.id("tooluse_"), "name": name}}, **place}
        for piece in pieces(as_json(arguments).decode(), answer.chunks):
            yield "contentBlockDelta", {"delta": {"toolUse": {"input": piece}}, **place}
    else:
        for piece in pieces(answer.text, answer.chunks):
            yield "contentBlockDelta", {"delta": {"text": piece}, **place}
    yield "contentBlockStop", place
    yield "messageStop", {"stopReason": _stop_reason(answer)}
    yield "metadata", _metadata(answer)
