"""anthropic: messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic

from tests.sdks.drivers import PROMPT, SECONDS, dumped

if TYPE_CHECKING:
    from usagekit.testing import ProviderServer


class Driver:
    provider = "anthropic"
    model = "claude-sonnet-4-6"
    untold: frozenset[str] = frozenset()
    is_async = True
    tries = 1

    def __init__(self, server: ProviderServer) -> None:
        self._client = anthropic.Anthropic(
            base_url=server.anthropic, api_key="test-key", max_retries=0, timeout=SECONDS
        )
        self._async_client = anthropic.AsyncAnthropic(
            base_url=server.anthropic, api_key="test-key", max_retries=0, timeout=SECONDS
        )
        messages = [{"role": "user", "content": PROMPT}]
        self._request: dict[str, Any] = {"model": self.model, "messages": messages, "max_tokens": 1000}

    def ask(self) -> Any:
        return self._client.messages.create(**self._request)

    def stream(self) -> Any:
        return self._client.messages.create(**self._request, stream=True)

    async def ask_async(self) -> Any:
        return await self._async_client.messages.create(**self._request)

    async def stream_async(self) -> Any:
        return await self._async_client.messages.create(**self._request, stream=True)

    def text(self, part: Any) -> str:
        if part.type == "message":
            return "".join(block.text for block in part.content if block.type == "text")
        return getattr(getattr(part, "delta", None), "text", "")

    def content(self, part: Any) -> object:
        return dumped(part)

    async def close(self) -> None:
        self._client.close()
        await self._async_client.close()
