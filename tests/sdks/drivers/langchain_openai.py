"""langchain-openai: ChatOpenAI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_openai import ChatOpenAI

from tests.sdks.drivers import PROMPT, SECONDS, dumped

if TYPE_CHECKING:
    from usagekit.testing import ProviderServer


class Driver:
    provider = "openai"
    model = "gpt-5-mini"
    untold: frozenset[str] = frozenset()
    is_async = True
    tries = 1

    def __init__(self, server: ProviderServer) -> None:
        self._chat: Any = ChatOpenAI(
            model=self.model, base_url=server.openai, api_key="test-key", max_retries=0, timeout=SECONDS
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
        self._chat.root_client.close()
        await self._chat.root_async_client.close()
