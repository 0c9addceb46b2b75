"""litellm: chat completions of OpenAI."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read when it is imported: no prices from the network

import litellm

from tests.sdks.drivers import PROMPT, dumped

if TYPE_CHECKING:
    from usagekit.testing import ProviderServer

litellm.suppress_debug_info = True


class Driver:
    provider = "openai"
    model = "gpt-5-mini"
    untold: frozenset[str] = frozenset()
    is_async = True
    tries = 1

    def __init__(self, server: ProviderServer) -> None:
        self._request: dict[str, Any] = {
            "model": f"openai/{self.model}",
            "messages": [{"role": "user", "content": PROMPT}],
            "api_base": server.openai,
            "api_key": "test-key",
            "num_retries": 0,
            "max_retries": 0,
        }

    def ask(self) -> Any:
        return litellm.completion(**self._request)

    def stream(self) -> Any:
        return litellm.completion(**self._request, stream=True)

    async def ask_async(self) -> Any:
        return await litellm.acompletion(**self._request)

    async def stream_async(self) -> Any:
        return await litellm.acompletion(**self._request, stream=True)

    def text(self, part: Any) -> str:
        (choice,) = part.choices
        return (choice.message if hasattr(choice, "message") else choice.delta).content or ""

    def content(self, part: Any) -> object:
        return dumped(part, "created", "id")

    async def close(self) -> None:
        cache = litellm.in_memory_llm_clients_cache
        for client in list(cache.cache_dict.values()):
            closing = getattr(client, "close", lambda: None)()
            if inspect.isawaitable(closing):
                await closing
        cache.flush_cache()
