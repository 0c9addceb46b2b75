"""langchain-anthropic: ChatAnthropic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_anthropic import ChatAnthropic

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
        self._chat: Any = ChatAnthropic(
            model=self.model, base_url=server.anthropic, api_key="test-key", max_retries=0, timeout=SECONDS
        )

    def ask(self) -> Any:
        return self._chat.invoke(PROMPT)

    def stream(self) -> Any:
        return self._chat.stream(PROMPT)

    async def ask_async(self) -> Any:
        return await self._chat.ainvoke(PROMPT)

    async def stream_async(self) -> Any:
        return self._chat.astream(PROMPT)

    def text(self, part: Any) -> str:
        return str(part.text)

    def content(self, part: Any) -> object:
        return dumped(part, "id")

    async def close(self) -> None:
        self._chat._client.close()
        await self._chat._async_client.close()
