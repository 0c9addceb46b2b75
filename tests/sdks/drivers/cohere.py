"""cohere: chat of the second version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cohere
import httpx

from tests.sdks.drivers import PROMPT, dumped

if TYPE_CHECKING:
    from usagekit.testing import ProviderServer


class Driver:
    provider = "cohere"
    model = ""  # its answers name none
    untold = frozenset({"cache_write_tokens", "reasoning_tokens"})
    is_async = True
    tries = 3

    def __init__(self, server: ProviderServer) -> None:
        self._http, self._async_http = httpx.Client(), httpx.AsyncClient()
        self._client = cohere.ClientV2("test-key", base_url=server.cohere, httpx_client=self._http)
        self._async_client = cohere.AsyncClientV2("test-key", base_url=server.cohere, httpx_client=self._async_http)
        messages = [{"role": "user", "content": PROMPT}]
        self._request: dict[str, Any] = {"model": "command-a-03-2025", "messages": messages}

    def ask(self) -> Any:
        return self._client.chat(**self._request)

    def stream(self) -> Any:
        return self._client.chat_stream(**self._request)

    async def ask_async(self) -> Any:
        return await self._async_client.chat(**self._request)

    async def stream_async(self) -> Any:
        return self._async_client.chat_stream(**self._request)

    def text(self, part: Any) -> str:
        if hasattr(part, "finish_reason"):
            return "".join(block.text for block in part.message.content)
        return part.delta.message.content.text if part.type == "content-delta" else ""

    def content(self, part: Any) -> object:
        return dumped(part)

    async def close(self) -> None:
        self._http.close()
        await self._async_http.aclose()
