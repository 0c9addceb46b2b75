"""boto3: Bedrock's Converse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from tests.sdks.drivers import PROMPT

if TYPE_CHECKING:
    from usagekit.testing import ProviderServer


class Driver:
    provider = "aws"
    model = ""  # its answers name none
    untold = frozenset({"reasoning_tokens"})
    is_async = False
    tries = 1

    def __init__(self, server: ProviderServer) -> None:
        self._client = boto3.client(
            "bedrock-runtime",
            endpoint_url=server.bedrock,
            region_name="us-east-1",
            aws_access_key_id="test-key",
            aws_secret_access_key="test-key",
            config=Config(retries={"total_max_attempts": 1}),
        )
        messages = [{"role": "user", "content": [{"text": PROMPT}]}]
        self._request: dict[str, Any] = {"modelId": "anthropic.claude-sonnet-4-6-v1:0", "messages": messages}

    def ask(self) -> Any:
        return self._client.converse(**self._request)

    def stream(self) -> Any:
        return self._client.converse_stream(**self._request)

    async def ask_async(self) -> Any:
        raise NotImplementedError

    async def stream_async(self) -> Any:
        raise NotImplementedError

    def text(self, part: Any) -> str:
        if "output" in part:
            return "".join(block["text"] for block in part["output"]["message"]["content"])
        return str(part.get("contentBlockDelta", {}).get("delta", {}).get("text", ""))

    def content(self, part: Any) -> object:
        return {name: value for name, value in part.items() if name != "ResponseMetadata"}

    async def close(self) -> None:
        self._client.close()
