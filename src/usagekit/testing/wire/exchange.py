"""One exchange with a provider: the `Call` that came in, the `Answer` a test wants, the `Reply` that goes out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from usagekit.errors import ConfigurationError

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["CREATED", "Answer", "Call", "Part", "Reply", "Tokens", "as_json", "events", "pieces", "plain", "stream"]

CREATED = 1_795_176_000
"""When every answer says it was made, 2026-11-20T12:00:00Z: what two runs answer is the same."""


class Tokens(NamedTuple):
    """What an answer reports as used, in usagekit's meaning: input includes cached, output includes reasoning."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    seconds: float = 0
    cost_usd: float | None = None

    @property
    def total(self) -> int:
        """Input and output."""
        return self.input_tokens + self.output_tokens

    @property
    def uncached(self) -> int:
        """Input that neither came from a cache nor went into one."""
        return self.input_tokens - self.cache_read_tokens - self.cache_write_tokens

    @property
    def visible(self) -> int:
        """Output without reasoning."""
        return self.output_tokens - self.reasoning_tokens


_DEFAULT_USAGE: Mapping[str, float] = {"input_tokens": 100, "output_tokens": 20}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server says to one request, whichever provider is asked; immutable.

    Attributes:
        text: what the model says.
        thinking: the reasoning that is shown, where a provider shows any and `usage` has reasoning tokens.
        usage: the numbers to report, in usagekit's meaning (`input_tokens` includes cached ones, `output_tokens`
            reasoning): `input_tokens`, `output_tokens`, `cache_read_tokens`, `cache_write_tokens`,
            `cache_write_1h_tokens` (those of the writes kept for an hour), `reasoning_tokens`; `seconds` for
            transcriptions that are billed by time, `cost_usd` for gateways that tell it. Each provider's own fields
            follow from them; what a provider can't say is left out. None: nothing is reported.
        model: as the answer names it; `""` = as the request did.
        service_tier: as the answer names it; `""` = the provider's usual one.
        chunks: into how many pieces a stream cuts the text, at least 1.
        tool: a tool to call before anything else is said, its name and arguments; None = none.
        status: HTTP status; 400 and above is answered in the provider's own error format.
        message: what an error says; `""` = the status's own words.
        retry_after: seconds for the header `retry-after`; None = no such header.
        headers: more headers of the answer.
        break_after: the connection breaks after so many pieces of text; 0 = before any answer; None = never.
        fail_after: the stream reports an error after so many pieces of text, in the provider's format, with status
            200; where a provider has none, the connection breaks; None = never.
        hold: a stream waits for this event after its first piece of text, at most for `hold_seconds`, and a plain
            answer before it is sent; None = no waiting.
        hold_seconds: the longest time to wait for `hold`.
        body: JSON to send instead of the provider's usual one, for shapes this server does not know; None = the usual.
    """

    text: str = "Hello from the provider server."
    thinking: str = "Let me think."
    usage: Mapping[str, float] | None = field(default_factory=lambda: _DEFAULT_USAGE)
    model: str = ""
    service_tier: str = ""
    chunks: int = 3
    tool: tuple[str, Mapping[str, Any]] | None = None
    status: int = 200
    message: str = ""
    retry_after: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    break_after: int | None = None
    fail_after: int | None = None
    hold: threading.Event | None = None
    hold_seconds: float = 10.0
    body: Any = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.usage or ()) - set(Tokens._fields))
        if unknown:
            names = ", ".join(Tokens._fields)
            raise ConfigurationError(f"unknown usage {', '.join(map(repr, unknown))}; use some of {names}")
        if self.chunks < 1:
            raise ConfigurationError(f"chunks={self.chunks} leaves no stream; use 1 or more")
        tokens = self.tokens
        if tokens and (tokens.uncached < 0 or tokens.visible < 0):
            raise ConfigurationError("input_tokens includes cached tokens and output_tokens reasoning: raise them")

    @property
    def tokens(self) -> Tokens | None:
        """What is reported as used, whole; None = nothing is."""
        return None if self.usage is None else Tokens(**self.usage)  # type: ignore[arg-type]  # names are checked


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request as a wire format sees it.

    Attributes:
        provider: the first part of the path, `"openai"`.
        method: in capitals.
        path: what comes after the provider, without query, decoded: `"/v1/chat/completions"`.
        query: the last value of each parameter.
        body: parsed JSON, or the fields of a form.
        number: counts the server's requests, from 1; makes ids unique and the same in every run.
        url: the server's own, without a trailing slash.
    """

    provider: str
    method: str
    path: str
    query: Mapping[str, str]
    body: Mapping[str, Any]
    number: int
    url: str = ""

    def model(self, answer: Answer) -> str:
        """Give the name of the model to answer with."""
        return answer.model or str(self.body.get("model") or "")

    def id(self, prefix: str) -> str:
        """Give an id for a part of this answer."""
        return f"{prefix}{self.number:08d}"

    @property
    def wants_stream(self) -> bool:
        """Whether the body asks for a stream, in JSON or in a form."""
        return self.body.get("stream") in {True, "true"}


class Part(NamedTuple):
    """Bytes that are sent at once; `is_text` marks those that carry a piece of the text."""

    data: bytes
    is_text: bool = False


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What goes out; a stream is sent in chunks, part by part, anything else whole.

    `failure` is what `Answer.fail_after` sends; empty where a provider knows no errors within a stream.
    """

    parts: Iterable[Part]
    content_type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    is_stream: bool = False
    failure: bytes = b""


def as_json(value: object) -> bytes:
    """Give JSON as providers write it: no spaces, UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def plain(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Give a whole JSON answer."""
    return Reply(parts=[Part(as_json(value), is_text=True)], status=status, headers=headers or {})


def stream(
    parts: Iterable[Part], content_type: str = "text/event-stream; charset=utf-8", *, failure: bytes = b""
) -> Reply:
    """Give a streamed answer."""
    return Reply(parts=parts, content_type=content_type, is_stream=True, failure=failure)


def events(
    payloads: Iterable[tuple[Mapping[str, Any], bool]], *, named: bool = False, done: bool = False
) -> Iterator[Part]:
    r"""Give server-sent events for payloads and whether they carry text.

    Args:
        payloads: what each event's data is, and whether it is text.
        named: write an `event:` line with the payload's `type`.
        done: end with `data: [DONE]`, as OpenAI does.
    """
    for payload, is_text in payloads:
        name = f"event: {payload['type']}\n".encode() if named else b""
        yield Part(name + b"data: " + as_json(payload) + b"\n\n", is_text)
    if done:
        yield Part(b"data: [DONE]\n\n")


def pieces(text: str, count: int) -> list[str]:
    """Cut a text into `count` pieces of about one length, none of them empty: fewer, if the text is short."""
    count = max(1, min(count, len(text)))
    size, longer = divmod(len(text), count)
    found, start = [], 0
    for index in range(count):
        end = start + size + (index < longer)
        found.append(text[start:end])
        start = end
    return found
