"""ollama: chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ollama

from tests.sdks.drivers import PROMPT, dumped

if TYPE_CHECKING:
    from usagekit.testing import ProviderServer


class Driver:
    provider = "ollama"
    model = "llama3.2"
    untold = frozenset({"cache_read_tokens", "cache_write_tokens", "reasoning_tokens"})
    is_async = True
    tries = 1

    def __init__(self, server: ProviderServer) -> None:
        self._client = ollama.Client(host=server.ollama)
        self._async_client = ollama.AsyncClient(host=server.ollama)
        self._request: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": PROMPT}]}

    def ask(self) -> Any:
        return self._client.chat(**self._request)

    def stream(self) -> Any:
        return self._client.chat(**self._request, stream=True)

    async def ask_async(self) -> Any:
        return await self._async_client.chat(**self._request)

    async def stream_async(self) -> Any:
        return await self._async_client.chat(**self._request, stream=True)

    def text(self, part: Any) -> str:
        return part.message.content or ""

    def content(self, part: Any) -> object:
        return dumped(part)

    async def close(self) -> None:
        self._client._client.close()
        await self._async_client._client.aclose()
