"""mistralai: chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
from mistralai.client import Mistral

from tests.sdks.drivers import PROMPT, SECONDS, dumped

if TYPE_CHECKING:
    from usagekit.testing import ProviderServer


class Driver:
    provider = "mistral"
    model = "mistral-small-latest"
    untold = frozenset({"cache_write_tokens", "reasoning_tokens"})
    is_async = True
    tries = 1

    def __init__(self, server: ProviderServer) -> None:
        # The SDK closes clients of its own making from the garbage collector, with an `asyncio.run` that takes the
        # current loop away from whichever test is running then.
        self._http = httpx2.Client(timeout=SECONDS)
        self._async_http = httpx2.AsyncClient(timeout=SECONDS)
        self._client = Mistral(
            api_key="test-key", server_url=server.mistral, client=self._http, async_client=self._async_http
        )
        self._request: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": PROMPT}]}

    def ask(self) -> Any:
        return self._client.chat.complete(**self._request)

    def stream(self) -> Any:
        return self._client.chat.stream(**self._request)

    async def ask_async(self) -> Any:
        return await self._client.chat.complete_async(**self._request)

    async def stream_async(self) -> Any:
        return await self._client.chat.stream_async(**self._request)

    def text(self, part: Any) -> str:
        (choice,) = getattr(part, "data", part).choices
        return (choice.message if hasattr(choice, "message") else choice.delta).content or ""

    def content(self, part: Any) -> object:
        return dumped(part)

    async def close(self) -> None:
        self._http.close()
        await self._async_http.aclose()
