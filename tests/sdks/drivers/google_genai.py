"""google-genai: the Gemini API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google import genai

from tests.sdks.drivers import PROMPT, dumped

if TYPE_CHECKING:
    from usagekit.testing import ProviderServer


class Driver:
    provider = "google"
    model = "gemini-2.5-flash"
    untold = frozenset({"cache_write_tokens"})
    is_async = True
    tries = 1

    def __init__(self, server: ProviderServer) -> None:
        self._client = genai.Client(api_key="test-key", http_options={"base_url": server.google})
        self._request: dict[str, Any] = {"model": self.model, "contents": PROMPT}

    def ask(self) -> Any:
        return self._client.models.generate_content(**self._request)

    def stream(self) -> Any:
        return self._client.models.generate_content_stream(**self._request)

    async def ask_async(self) -> Any:
        return await self._client.aio.models.generate_content(**self._request)

    async def stream_async(self) -> Any:
        return await self._client.aio.models.generate_content_stream(**self._request)

    def text(self, part: Any) -> str:
        return part.text or ""

    def content(self, part: Any) -> object:
        return dumped(part)

    async def close(self) -> None:
        self._client.close()
        await self._client.aio.aclose()
