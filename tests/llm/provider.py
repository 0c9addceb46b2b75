"""A model provider on loopback: OpenAI's and Anthropic's wire formats, as far as the tests need them.

What it does is chosen by the model's name: `"fails-429"` answers with that status, `"refuses-usage"` knows no
`stream_options`, `"breaks"` ends a stream in the middle, `"sliced"` sends one a few bytes at a time with other line
ends, `"slow"` waits between chunks until it is let go. The user `"bad"` is refused whatever the model is.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAT_USAGE = {
    "prompt_tokens": 120,
    "completion_tokens": 30,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 100},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
RESPONSE_USAGE = {
    "input_tokens": 120,
    "output_tokens": 30,
    "total_tokens": 150,
    "input_tokens_details": {"cached_tokens": 100},
    "output_tokens_details": {"reasoning_tokens": 20},
}
MESSAGE_USAGE = {
    "input_tokens": 20,
    "output_tokens": 30,
    "cache_creation_input_tokens": 40,
    "cache_read_input_tokens": 60,
    "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 10},
    "service_tier": "standard",
}
WORDS = ["One", " two", " three", " four"]


class Provider:
    """The server, from entering to leaving; `requests` holds (path, body) of what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.go_on = threading.Event()
        self.background_polls = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                raw = self.rfile.read(length)
                is_json = "json" in (self.headers.get("content-type") or "")
                body = json.loads(raw) if is_json else {"model": "whisper-1"}
                provider.requests.append((self.path, body))
                provider.answer(self, "/" + self.path.partition("?")[0].partition("/v1/")[2], body)

            def do_GET(self) -> None:
                provider.requests.append((self.path, {}))
                provider.retrieve(self, self.path)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: dict[str, Any]) -> None:
        """Answer a request by its path, and by the model it names."""
        model = body.get("model", "")
        if model.startswith("fails-"):
            self._send(handler, int(model[6:]), {"error": {"message": "no", "type": "no"}})
        elif body.get("user") == "bad":
            self._send(handler, 400, {"error": {"message": "Invalid image.", "param": None}})
        elif model == "refuses-usage" and "stream_options" in body:
            self._send(handler, 400, {"error": {"message": "Unrecognized request argument: stream_options"}})
        elif model == "breaks" and body.get("stream"):
            self._stream(handler, [*self._parts(path, body)][:3], model, is_broken=True)
        elif body.get("stream"):
            self._stream(handler, self._parts(path, body), model)
        else:
            self._send(handler, 200, self._whole(path, body))

    def retrieve(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        """Answer a look-up of a response that runs in the background: done at the second."""
        self.background_polls += 1
        is_done = self.background_polls > 1
        answer = self._response({"model": "gpt-5-mini", "background": "background" in path}, path.rpartition("/")[2])
        if not is_done:
            answer |= {"status": "in_progress", "usage": None}
        self._send(handler, 200, answer)

    def _whole(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        model = body.get("model", "")
        if path == "/chat/completions":
            message = {"role": "assistant", "content": "".join(WORDS)}
            choice = {"index": 0, "finish_reason": body.get("user", "stop"), "message": message}
            return {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": model,
                "choices": [choice],
                "service_tier": "default",
                "usage": CHAT_USAGE,
            }
        if path == "/responses":
            answer = self._response(body, "resp_background" if body.get("background") else "resp_1")
            return answer | ({"status": "queued", "usage": None, "output": []} if body.get("background") else {})
        if path == "/embeddings":
            data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
            return {
                "object": "list",
                "model": model,
                "data": data,
                "usage": {"prompt_tokens": 7, "total_tokens": 7},
            }
        if path == "/audio/transcriptions":
            return {"text": "hello", "usage": {"type": "duration", "seconds": 60}}
        if path == "/messages":
            return self._message(body) | {"usage": MESSAGE_USAGE}
        return {"input_tokens": 9}

    def _message(self, body: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body.get("model"),
            "content": [{"type": "text", "text": "".join(WORDS)}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
        }

    def _response(self, body: dict[str, Any], response_id: str) -> dict[str, Any]:
        content = [{"type": "output_text", "text": "".join(WORDS), "annotations": []}]
        output = [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}]
        return {
            "id": response_id,
            "object": "response",
            "created_at": 1_790_000_000,
            "model": body.get("model"),
            "status": "completed",
            "background": body.get("background", False),
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": RESPONSE_USAGE,
        }

    def _parts(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if path == "/chat/completions":
            yield from self._chat_parts(body)
        elif path == "/responses":
            whole = self._response(body, "resp_1")
            yield {
                "type": "response.created",
                "sequence_number": 0,
                "response": whole | {"usage": None, "status": "in_progress", "output": []},
            }
            item = {"type": "message", "id": "m", "role": "assistant", "status": "in_progress", "content": []}
            yield {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": item}
            yield {
                "type": "response.content_part.added",
                "sequence_number": 2,
                "item_id": "m",
                "output_index": 0,
                "content_index": 0,
                "part": {"type": "output_text", "text": "", "annotations": []},
            }
            for number, word in enumerate(WORDS):
                yield {
                    "type": "response.output_text.delta",
                    "sequence_number": number + 3,
                    "delta": word,
                    "item_id": "m",
                    "output_index": 0,
                    "content_index": 0,
                    "logprobs": [],
                }
            yield {"type": "response.completed", "sequence_number": 9, "response": whole}
        else:
            start = {**MESSAGE_USAGE, "output_tokens": 1}
            yield {"type": "message_start", "message": self._message(body) | {"content": [], "usage": start}}
            yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
            for word in WORDS:
                yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
            yield {"type": "content_block_stop", "index": 0}
            yield {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 30},
            }
            yield {"type": "message_stop"}

    def _chat_parts(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        part = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        asked = (body.get("stream_options") or {}).get("include_usage")
        for word in WORDS:
            choice = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
            yield part | {"choices": [choice]} | ({"usage": None} if asked else {})
        yield part | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        if asked:
            yield part | {"choices": [], "usage": CHAT_USAGE}

    def _stream(
        self,
        handler: BaseHTTPRequestHandler,
        parts: Any,
        model: str,
        *,
        is_broken: bool = False,
    ) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        try:
            for number, part in enumerate(parts):
                if model == "slow" and number == 3:
                    self.go_on.wait(10)
                named = f"event: {part['type']}\n" if "type" in part else ""
                text = f"{named}data: {json.dumps(part)}\n\n"
                if model == "sliced":
                    text = text.replace("\n", "\r\n")
                    for begin in range(0, len(text), 7):
                        self._send_chunk(handler, text[begin : begin + 7])
                else:
                    self._send_chunk(handler, text)
            if is_broken:
                handler.wfile.flush()
                handler.connection.close()
                handler.close_connection = True
                return
            if "chat" in handler.path:
                self._send_chunk(handler, "data: [DONE]\n\n")
            self._send_chunk(handler, "")
        except OSError:
            handler.close_connection = True  # the client left

    def _send_chunk(self, handler: BaseHTTPRequestHandler, text: str) -> None:
        data = text.encode()
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        handler.wfile.flush()

    def _send(self, handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)
