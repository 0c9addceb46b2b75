"""pydantic-ai: an agent on OpenAI's chat completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.sdks.drivers import PROMPT, SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from usagekit.testing import ProviderServer


class Driver:
    provider = "openai"
    model = "gpt-5-mini"
    untold: frozenset[str] = frozenset()
    is_async = True
    tries = 1

    def __init__(self, server: ProviderServer) -> None:
        self._client = openai.AsyncOpenAI(base_url=server.openai, api_key="test-key", max_retries=0, timeout=SECONDS)
        self._agent = Agent(OpenAIChatModel(self.model, provider=OpenAIProvider(openai_client=self._client)))

    def ask(self) -> Any:
        return self._agent.run_sync(PROMPT)

    def stream(self) -> Any:
        return self._agent.run_stream_sync(PROMPT).stream_text(delta=True)

    async def ask_async(self) -> Any:
        return await self._agent.run(PROMPT)

    async def stream_async(self) -> Any:
        async def texts() -> AsyncIterator[str]:
            async with self._agent.run_stream(PROMPT) as result:
                async for text in result.stream_text(delta=True, debounce_by=None):
                    yield text

        return texts()

    def text(self, part: Any) -> str:
        return part if isinstance(part, str) else part.output

    def content(self, part: Any) -> object:
        return self.text(part)

    async def close(self) -> None:
        await self._client.close()
