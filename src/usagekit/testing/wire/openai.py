"""OpenAI's formats, and those of the providers that speak them with words of their own.

https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

from usagekit.testing.wire.exchange import CREATED, Answer, Call, Reply, Tokens, as_json, events, pieces, plain, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["PROVIDERS", "failed", "respond"]


def respond(call: Call, answer: Answer) -> Reply | None:
    """Answer a request; None for a path that is not known."""
    for ending, reply in _ENDPOINTS.items():
        if call.path.endswith(ending):
            return reply(call, answer)
    if call.method == "GET" and "/responses/" in call.path:
        return plain(_response(call, answer, call.path.rpartition("/")[2]))
    return None


def failed(call: Call, answer: Answer) -> Reply:
    """Refuse a request in OpenAI's format."""
    return plain(_error(answer.status, answer.message), status=answer.status, headers={"x-request-id": call.id("req_")})


_ERRORS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


def _error(status: int, message: str) -> dict[str, Any]:
    kind, code = _ERRORS.get(status, ("server_error", None))
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _stream(payloads: Iterator[tuple[dict[str, Any], bool]], *, named: bool = False, done: bool = False) -> Reply:
    error = _error(500, "The server had an error while processing your request.")
    if named:
        error = {"type": "error", **error["error"], "sequence_number": 99}
        return stream(events(payloads, named=True), failure=b"event: error\ndata: " + as_json(error) + b"\n\n")
    return stream(events(payloads, done=done), failure=b"data: " + as_json(error) + b"\n\n")


# Usage, by provider.


def _counts(tokens: Tokens) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens.input_tokens,
        "completion_tokens": tokens.output_tokens,
        "total_tokens": tokens.total,
    }


def _openai(tokens: Tokens) -> dict[str, Any]:
    written = {"cache_write_tokens": tokens.cache_write_tokens} if tokens.cache_write_tokens else {}
    return {
        **_counts(tokens),
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read_tokens, "audio_tokens": 0, **written},
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _groq(tokens: Tokens) -> dict[str, Any]:
    found = {
        "queue_time": 0.012,
        **_counts(tokens),
        "prompt_time": 0.001,
        "completion_time": 0.02,
        "total_time": 0.021,
    }
    if tokens.cache_read_tokens:
        found["prompt_tokens_details"] = {"cached_tokens": tokens.cache_read_tokens}
    if tokens.reasoning_tokens:
        found["completion_tokens_details"] = {"reasoning_tokens": tokens.reasoning_tokens}
    return found


def _openrouter(tokens: Tokens) -> dict[str, Any]:
    return {
        **_counts(tokens),
        "cost": 0.0005 if tokens.cost_usd is None else tokens.cost_usd,
        "is_byok": False,
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read_tokens, "audio_tokens": 0},
        "cost_details": {"upstream_inference_cost": None},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
    }


def _deepseek(tokens: Tokens) -> dict[str, Any]:
    return {
        **_counts(tokens),
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read_tokens},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
        "prompt_cache_hit_tokens": tokens.cache_read_tokens,
        "prompt_cache_miss_tokens": tokens.input_tokens - tokens.cache_read_tokens,
    }


def _xai(tokens: Tokens) -> dict[str, Any]:
    # https://docs.x.ai/docs/guides/reasoning: completion_tokens leaves reasoning out, total_tokens has it.
    return {**_openai(tokens), "completion_tokens": tokens.visible, "num_sources_used": 0}


PROVIDERS: Mapping[str, Callable[[Tokens], dict[str, Any]]] = {
    "openai": _openai,
    "azure": _openai,
    "deepseek": _deepseek,
    "groq": _groq,
    "huggingface": _counts,
    "openrouter": _openrouter,
    "together": _counts,
    "xai": _xai,
}
"""Who speaks OpenAI's chat format, and how each reports usage."""

_WITH_TIERS = {"openai", "azure", "groq"}


# Chat completions.


def _chat(call: Call, answer: Answer) -> Reply:
    if call.wants_stream:
        return _stream(_chat_chunks(call, answer), done=True)
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    if answer.tool:
        message |= {"content": None, "tool_calls": [_tool_call(call, answer)]}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer)}
    found = _chat_head(call, answer, "chat.completion") | {"choices": [choice]}
    if answer.tokens:
        found["usage"] = PROVIDERS[call.provider](answer.tokens)
    if call.provider == "groq":
        found["x_groq"] = {"id": call.id("req_")}
    return plain(found)


def _finish(answer: Answer) -> str:
    return "tool_calls" if answer.tool else "stop"


def _tool_call(call: Call, answer: Answer) -> dict[str, Any]:
    name, arguments = answer.tool or ("", {})
    function = {"name": name, "arguments": as_json(arguments).decode()}
    return {"id": call.id("call_"), "type": "function", "function": function}


def _chat_head(call: Call, answer: Answer, kind: str) -> dict[str, Any]:
    head: dict[str, Any] = {
        "id": call.id("chatcmpl-"),
        "object": kind,
        "created": CREATED,
        "model": call.model(answer),
        "system_fingerprint": "fp_44709d6fcb",
    }
    if call.provider in _WITH_TIERS:
        head["service_tier"] = answer.service_tier or "default"
    return head


def _chat_chunks(call: Call, answer: Answer) -> Iterator[tuple[dict[str, Any], bool]]:
    head = _chat_head(call, answer, "chat.completion.chunk")
    is_groq = call.provider == "groq"
    options = call.body.get("stream_options") or {}
    wants_usage = is_groq or bool(options.get("include_usage"))
    usage = PROVIDERS[call.provider](answer.tokens) if answer.tokens and wants_usage else None
    if wants_usage and not is_groq:
        head["usage"] = None

    def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
        return head | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    first = chunk(role="assistant", content="", refusal=None)
    if is_groq:
        first["x_groq"] = {"id": call.id("req_")}
    yield first, False
    if answer.tool:
        called = _tool_call(call, answer)
        arguments = called["function"].pop("arguments")
        yield chunk(tool_calls=[{"index": 0, **called, "function": {**called["function"], "arguments": ""}}]), False
        for piece in pieces(arguments, answer.chunks):
            yield chunk(tool_calls=[{"index": 0, "function": {"arguments": piece}}]), True
    else:
        for piece in pieces(answer.text, answer.chunks):
            yield chunk(content=piece), True
    last = chunk(_finish(answer))
    if is_groq and usage:
        last["x_groq"] = {"id": call.id("req_"), "usage": usage}
        last["usage"] = usage
    yield last, False
    if usage and not is_groq:
        yield head | {"choices": [], "usage": usage}, False


# Responses.


def _response_usage(tokens: Tokens) -> dict[str, Any]:
    written = {"cache_write_tokens": tokens.cache_write_tokens} if tokens.cache_write_tokens else {}
    return {
        "input_tokens": tokens.input_tokens,
        "input_tokens_details": {"cached_tokens": tokens.cache_read_tokens, **written},
        "output_tokens": tokens.output_tokens,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
        "total_tokens": tokens.total,
    }


def _response_items(call: Call, answer: Answer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.tokens and answer.tokens.reasoning_tokens:
        items.append({"id": call.id("rs_"), "type": "reasoning", "summary": []})
    if answer.tool:
        function = _tool_call(call, answer)["function"]
        items.append(
            {"id": call.id("fc_"), "type": "function_call", "status": "completed", "call_id": call.id("call_")}
            | function
        )
    else:
        content = {"type": "output_text", "annotations": [], "logprobs": [], "text": answer.text}
        message = {"id": call.id("msg_"), "type": "message", "status": "completed", "role": "assistant"}
        items.append(message | {"content": [content]})
    return items


def _response(call: Call, answer: Answer, response_id: str = "", status: str = "completed") -> dict[str, Any]:
    is_done = status == "completed"
    return {
        "id": response_id or call.id("resp_"),
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": bool(call.body.get("background") or response_id),  # only those are retrieved here
        "error": None,
        "incomplete_details": None,
        "instructions": call.body.get("instructions"),
        "max_output_tokens": None,
        "model": call.model(answer) or "gpt-5-mini",
        "output": _response_items(call, answer) if is_done else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": (answer.service_tier or "default") if is_done else "auto",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": call.body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _response_usage(answer.tokens) if is_done and answer.tokens else None,
        "user": None,
        "metadata": {},
    }


def _responses(call: Call, answer: Answer) -> Reply:
    if call.wants_stream:
        return _stream(_response_events(call, answer), named=True)
    return plain(_response(call, answer, status="queued" if call.body.get("background") else "completed"))


def _response_events(call: Call, answer: Answer) -> Iterator[tuple[dict[str, Any], bool]]:
    for number, (kind, fields) in enumerate(_response_steps(call, answer)):
        yield {"type": kind, **fields, "sequence_number": number}, kind.endswith(".delta")


def _response_steps(call: Call, answer: Answer) -> Iterator[tuple[str, dict[str, Any]]]:
    begun = _response(call, answer, status="in_progress")
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    for index, item in enumerate(_response_items(call, answer)):
        place = {"item_id": item["id"], "output_index": index}
        started = {**item, "status": "in_progress"} if "status" in item else item
        if item["type"] == "message":
            (content,) = item["content"]
            inside = {**place, "content_index": 0}
            yield "response.output_item.added", {"output_index": index, "item": {**started, "content": []}}
            yield "response.content_part.added", {**inside, "part": {**content, "text": ""}}
            for piece in pieces(answer.text, answer.chunks):
                yield "response.output_text.delta", {**inside, "delta": piece, "logprobs": []}
            yield "response.output_text.done", {**inside, "text": answer.text, "logprobs": []}
            yield "response.content_part.done", {**inside, "part": content}
        elif item["type"] == "function_call":
            yield "response.output_item.added", {"output_index": index, "item": {**started, "arguments": ""}}
            for piece in pieces(item["arguments"], answer.chunks):
                yield "response.function_call_arguments.delta", {**place, "delta": piece}
            called = {"name": item["name"], "arguments": item["arguments"]}
            yield "response.function_call_arguments.done", {**place, **called}
        else:
            yield "response.output_item.added", {"output_index": index, "item": started}
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield "response.completed", {"response": _response(call, answer)}


# Embeddings, images, transcriptions.


def _embeddings(call: Call, answer: Answer) -> Reply:
    given = call.body.get("input")
    texts = given if isinstance(given, list) and given and isinstance(given[0], (str, list)) else [given]
    vector = [0.25, -0.5, 0.125]
    packed = base64.b64encode(struct.pack("<3f", *vector)).decode()
    held = packed if call.body.get("encoding_format") == "base64" else vector
    found: dict[str, Any] = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": held} for index in range(len(texts))],
        "model": call.model(answer),
    }
    if answer.tokens:
        found["usage"] = {"prompt_tokens": answer.tokens.input_tokens, "total_tokens": answer.tokens.input_tokens}
    return plain(found)


_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="  # one, as PNG
)


def _images(call: Call, answer: Answer) -> Reply:
    tokens = answer.tokens
    usage = tokens and {
        "total_tokens": tokens.total,
        "input_tokens": tokens.input_tokens,
        "output_tokens": tokens.output_tokens,
        "input_tokens_details": {"text_tokens": tokens.input_tokens, "image_tokens": 0},
        "output_tokens_details": {"text_tokens": 0, "image_tokens": tokens.output_tokens},
    }
    kept = {"background": "opaque", "output_format": "png", "quality": "low", "size": "1024x1024"}
    reported = {"usage": usage} if usage else {}
    if call.wants_stream:
        head = {"b64_json": _PIXEL, "created_at": CREATED, **kept}
        partial = head | {"type": "image_generation.partial_image", "partial_image_index": 0}
        completed = head | {"type": "image_generation.completed"} | reported
        return _stream(iter([(partial, True), (completed, False)]), named=True)
    return plain({"created": CREATED, "data": [{"b64_json": _PIXEL}], **kept, **reported})


def _transcription(call: Call, answer: Answer) -> Reply:
    tokens = answer.tokens
    usage: dict[str, Any] | None = None
    if tokens and tokens.seconds:
        usage = {"type": "duration", "seconds": tokens.seconds}
    elif tokens:
        usage = {
            "type": "tokens",
            "total_tokens": tokens.total,
            "input_tokens": tokens.input_tokens,
            "input_token_details": {"text_tokens": 0, "audio_tokens": tokens.input_tokens},
            "output_tokens": tokens.output_tokens,
        }
    reported = {"usage": usage} if usage else {}
    if call.wants_stream:
        cut = pieces(answer.text, answer.chunks)
        deltas: list[tuple[dict[str, Any], bool]] = [
            ({"type": "transcript.text.delta", "delta": one}, True) for one in cut
        ]
        done = {"type": "transcript.text.done", "text": answer.text, **reported}
        return _stream(iter([*deltas, (done, False)]), named=True)
    return plain({"text": answer.text, **reported})


_ENDPOINTS: Mapping[str, Callable[[Call, Answer], Reply]] = {
    "/chat/completions": _chat,
    "/responses": _responses,
    "/embeddings": _embeddings,
    "/images/generations": _images,
    "/audio/transcriptions": _transcription,
    "/audio/translations": _transcription,
}
