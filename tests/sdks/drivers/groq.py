"""groq: chat completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import groq

from tests.sdks.drivers import PROMPT, SECONDS, dumped

if TYPE_CHECKING:
    from usagekit.testing import ProviderServer


class Driver:
    provider = "groq"
    model = "llama-3.3-70b-versatile"
    untold = frozenset({"cache_write_tokens"})
    is_async = True
    tries = 1

    def __init__(self, server: ProviderServer) -> None:
        self._client = groq.Groq(base_url=server.groq, api_key="test-key", max_retries=0, timeout=SECONDS)
        self._async_client = groq.AsyncGroq(base_url=server.groq, api_key="test-key", max_retries=0, timeout=SECONDS)
        self._request: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": PROMPT}]}

    def ask(self) -> Any:
        return self._client.chat.completions.create(**self._request)

    def stream(self) -> Any:
        return self._client.chat.completions.create(**self._request, stream=True)

    async def ask_async(self) -> Any:
        return await self._async_client.chat.completions.create(**self._request)

    async def stream_async(self) -> Any:
        return await self._async_client.chat.completions.create(**self._request, stream=True)

    def text(self, part: Any) -> str:
        (choice,) = part.choices
        return (choice.message if hasattr(choice, "message") else choice.delta).content or ""

    def content(self, part: Any) -> object:
        return dumped(part)

    async def close(self) -> None:
        self._client.close()
        await self._async_client.close()
