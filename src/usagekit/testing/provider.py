"""`ProviderServer`: model providers on this machine, so that code which pays for tokens can be tested without any."""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from email.parser import BytesParser
from email.policy import HTTP
from http.client import responses
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from usagekit.errors import ConfigurationError
from usagekit.testing.listener import Listener
from usagekit.testing.wire import anthropic, bedrock, cohere, google, mistral, ollama, openai
from usagekit.testing.wire.exchange import Answer, Call, Reply, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from usagekit.testing.listener import Connection

__all__ = ["ProviderServer", "ReceivedRequest"]


class _Wire(Protocol):
    """What each module of `usagekit.testing.wire` offers."""

    def respond(self, call: Call, answer: Answer, /) -> Reply | None: ...
    def failed(self, call: Call, answer: Answer, /) -> Reply: ...


_FORMATS: Mapping[str, _Wire] = {
    **dict.fromkeys(openai.PROVIDERS, openai),
    "anthropic": anthropic,
    "bedrock": bedrock,
    "cohere": cohere,
    "google": google,
    "mistral": mistral,
    "ollama": ollama,
}
_SECRET_HEADERS = {
    "api-key",
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-amz-security-token",
    "x-api-key",
    "x-goog-api-key",
}
_HIDDEN = "(hidden)"


@dataclass(kw_only=True)
class ReceivedRequest:
    """A request as the server received it; kept until the server is closed.

    Attributes:
        number: counts from 1, in order of arrival.
        provider: whose API was asked: `"openai"`, `"bedrock"`, …
        method: in capitals.
        path: without the provider's part, decoded: `"/v1/chat/completions"`.
        query: parameters, without keys.
        headers: names in lower case; keys and tokens read `"(hidden)"`.
        body: parsed JSON, the fields of a form (files left out), or `{}`.
        outcome: `"whole"` when all of the answer was sent, `"broken"` where `break_after` ended it, `"left"` when the
            client went away before; `""` while it goes on.
    """

    number: int
    provider: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    outcome: str = ""
    _ended: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def wait(self, timeout: float = 5.0) -> str:
        """Wait until the answer has ended, at most `timeout` seconds; gives the outcome."""
        self._ended.wait(timeout)
        return self.outcome


class _BaseUrl:
    """Where one provider's SDK is pointed; only while the server runs."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __get__(self, server: ProviderServer, owner: type) -> str:
        return server.url + self._path


class ProviderServer:
    """Model providers on a free port of 127.0.0.1, in the exact formats their own SDKs read, plain and streamed.

    Give an SDK the provider's base URL and any key, and say what the next answers are; without a word, every request
    gets `server.default`. The server runs in threads of its own from `with` to its end; all methods may be called from
    any thread. It needs nothing but the standard library.

        with ProviderServer() as server:
            client = openai.OpenAI(base_url=server.openai, api_key="any")
            server.next(text="Bonjour", usage={"input_tokens": 1200, "output_tokens": 30, "cache_read_tokens": 1000})

    Attributes:
        default: the `Answer` of requests that no `next` was said for.
        refuses: top-level fields of request bodies that are refused with status 400, as old servers refuse
            `"stream_options"`; a refused request uses up no answer.
    """

    anthropic = _BaseUrl("/anthropic")
    azure = _BaseUrl("/azure")
    bedrock = _BaseUrl("/bedrock")
    cohere = _BaseUrl("/cohere")
    deepseek = _BaseUrl("/deepseek/v1")
    google = _BaseUrl("/google")
    groq = _BaseUrl("/groq")
    huggingface = _BaseUrl("/huggingface/v1")
    mistral = _BaseUrl("/mistral")
    ollama = _BaseUrl("/ollama")
    openai = _BaseUrl("/openai/v1")
    openrouter = _BaseUrl("/openrouter/api/v1")
    together = _BaseUrl("/together/v1")
    xai = _BaseUrl("/xai/v1")

    def __init__(self, default: Answer | None = None) -> None:
        self.default = default or Answer()
        self.refuses: set[str] = set()
        self._answers: deque[Answer] = deque()
        self._requests: list[ReceivedRequest] = []
        self._lock = threading.Lock()
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._listener = Listener(self._take)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), name="usagekit-provider")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._listener and self._thread:
            self._listener.shutdown()
            self._thread.join()
            self._listener.close_connections()
            self._listener.server_close()
        self._listener = self._thread = None

    @property
    def url(self) -> str:
        """The server's own address, `"http://127.0.0.1:49152"`; each provider lives below it."""
        if self._listener is None:
            raise ConfigurationError("the provider server does not run; use it as `with ProviderServer() as server:`")
        return f"http://127.0.0.1:{self._listener.server_port}"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """What was received so far, in order of arrival."""
        with self._lock:
            return list(self._requests)

    def next(self, *, times: int = 1, **options: Any) -> Answer:
        """Say what the next request is answered with, after those already said; gives that `Answer`.

        Args:
            times: how many requests get it: an SDK that tries three times asks three times.
            options: attributes of `Answer`; the others are those of `default`.

        Raises:
            TypeError: for an option that `Answer` does not have.
            ConfigurationError: for a value that cannot work.
        """
        answer = replace(self.default, **options)
        with self._lock:
            self._answers.extend([answer] * times)
        return answer

    def reset(self) -> None:
        """Forget what was received, what is left of `next`, and what is refused."""
        with self._lock:
            self._requests.clear()
            self._answers.clear()
            self.refuses.clear()

    def environment(self) -> dict[str, str]:
        """Give environment variables that point the SDKs here, with made-up keys, past any proxy.

        Read by the official clients of OpenAI, Azure OpenAI, Anthropic, Google, Cohere, Groq, Ollama, Together and AWS
        when they are given no address; Mistral's has no variable for it: use `server_url=server.mistral`.
        """
        addresses = {
            "ANTHROPIC_BASE_URL": self.anthropic,
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": self.bedrock,
            "AZURE_OPENAI_ENDPOINT": self.azure,
            "CO_API_URL": self.cohere,
            "GOOGLE_GEMINI_BASE_URL": self.google,
            "GROQ_BASE_URL": self.groq,
            "OLLAMA_HOST": self.ollama,
            "OPENAI_BASE_URL": self.openai,
            "TOGETHER_BASE_URL": self.together,
        }
        keys = "ANTHROPIC AZURE_OPENAI CO GEMINI GROQ MISTRAL OPENAI TOGETHER".split()
        return {
            **addresses,
            **{f"{name}_API_KEY": "test-key" for name in keys},
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-key",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def _take(self, handler: Connection) -> tuple[Answer, Reply, Callable[[str], None]]:
        """Write a request down and choose its answer; called in its connection's thread, which tells how it ended."""
        ended = threading.Event()
        call, request = self._receive(handler, ended)

        def end(outcome: str) -> None:
            request.outcome = outcome
            ended.set()

        return *self._answer(call), end

    def _receive(self, handler: Connection, ended: threading.Event) -> tuple[Call, ReceivedRequest]:
        address = urlsplit(handler.path)
        provider, _, rest = address.path.lstrip("/").partition("/")
        query = dict(parse_qsl(address.query))
        query.pop("key", None)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        body = _parsed(handler.read_body(), headers.get("content-type", ""))
        with self._lock:
            request = ReceivedRequest(
                number=len(self._requests) + 1,
                provider=provider,
                method=handler.command,
                path="/" + unquote(rest),
                query=query,
                headers={name: _HIDDEN if name in _SECRET_HEADERS else value for name, value in headers.items()},
                body=body,
                _ended=ended,
            )
            self._requests.append(request)
        call = Call(
            provider=provider,
            method=request.method,
            path=request.path,
            query=query,
            body=request.body,
            number=request.number,
        )
        return call, request

    def _answer(self, call: Call) -> tuple[Answer, Reply]:
        """Choose what a request is answered with, and put it in the provider's words."""
        wire = _FORMATS.get(call.provider)
        if wire is None:
            known = ", ".join(sorted(_FORMATS))
            message = f"unknown provider {call.provider!r}; this server has {known}"
            return Answer(), plain({"error": {"message": message}}, status=404)
        with self._lock:
            refused = sorted(self.refuses & set(call.body))
            is_queued = bool(self._answers) and not refused
            answer = self._answers.popleft() if is_queued else self.default
        if refused:
            answer = Answer(status=400, message=f"Unrecognized request argument supplied: {refused[0]}")
        if answer.body is not None:
            return answer, plain(answer.body, status=answer.status)
        if answer.status < 400:
            reply = wire.respond(call, answer)
            if reply is not None:
                return answer, reply
            with self._lock:
                if is_queued:
                    self._answers.appendleft(answer)
            answer = Answer(status=404, message=f"the provider server knows no {call.method} {call.path}")
        answer = replace(answer, message=answer.message or responses.get(answer.status, "Overloaded"))
        return answer, wire.failed(call, answer)


def _parsed(body: bytes, content_type: str) -> dict[str, Any]:
    """Give JSON, or the fields of a form that are no files."""
    if content_type.startswith("multipart/form-data"):
        message = BytesParser(policy=HTTP).parsebytes(f"content-type: {content_type}\r\n\r\n".encode() + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
        return {str(name): str(part.get_payload()) for name, part in parts.items() if not part.get_filename()}
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {"": found}
