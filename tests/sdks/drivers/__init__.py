"""One module per SDK: its real client, pointed at a `ProviderServer`, behind one interface.

Modules are imported when their SDK is wanted; an SDK that is not installed costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from usagekit.testing import ProviderServer

MODULES = {
    "anthropic": "anthropic",
    "boto3": "bedrock",
    "cohere": "cohere",
    "google-genai": "google_genai",
    "groq": "groq",
    "langchain-anthropic": "langchain_anthropic",
    "langchain-openai": "langchain_openai",
    "litellm": "litellm",
    "mistralai": "mistral",
    "ollama": "ollama",
    "openai": "openai_chat",
    "pydantic-ai-slim": "pydantic_ai",
}
"""The module of each distribution."""

INSTRUMENTATIONS = {
    "opentelemetry-instrumentation-anthropic": "opentelemetry.instrumentation.anthropic",
    "opentelemetry-instrumentation-genai-anthropic": "opentelemetry.instrumentation.genai.anthropic",
    "opentelemetry-instrumentation-genai-openai": "opentelemetry.instrumentation.genai.openai",
    "opentelemetry-instrumentation-openai": "opentelemetry.instrumentation.openai",
}
"""The module of each distribution that traces an SDK: OpenTelemetry's own ones and OpenLLMetry's."""

PROMPT = "Say something."
SECONDS = 60.0  # some SDKs give up connecting after 5, which a busy machine may take


class Driver(Protocol):
    """A client of one SDK, which asks the same thing every time.

    Attributes:
        provider: whom events name.
        model: the model that is asked for, and that events name.
        untold: the token counts that this provider, or this SDK, does not tell.
        is_async: whether the SDK can be awaited.
        tries: how often the SDK asks before it gives up on status 429.
    """

    provider: str
    model: str
    untold: frozenset[str]
    is_async: bool
    tries: int

    def __init__(self, server: ProviderServer) -> None: ...

    def ask(self) -> Any:
        """Ask, and give the SDK's response."""

    def stream(self) -> Any:
        """Ask for a stream, and give the SDK's object to iterate over."""

    async def ask_async(self) -> Any:
        """Ask, awaiting."""

    async def stream_async(self) -> Any:
        """Ask for a stream, awaiting, and give the SDK's object to iterate over with `async for`."""

    def text(self, part: Any) -> str:
        """Give the text of a response or of a part of a stream."""

    def content(self, part: Any) -> object:
        """Give all of a response, or of a part of a stream, that is the same in two runs."""

    async def close(self) -> None:
        """Close the clients."""


def dumped(part: Any, *volatile: str) -> object:
    """Give the class and the fields of a pydantic object, without those that differ from run to run."""
    return type(part), part.model_dump(exclude=set(volatile))
