"""Model calls on the SDKs of OpenAI and Anthropic, as you would write them; usagekit needs `@track_tokens` and no more.

The SDKs find address and key in the environment.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

from anthropic import AsyncAnthropic
from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

from usagekit import track_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anthropic.types import MessageParam
    from fastapi import Response

GPT = "gpt-5-nano"
CLAUDE = "claude-haiku-4-5"
LONGEST = 400  # tokens of an answer

openai = cache(AsyncOpenAI)
claude = cache(AsyncAnthropic)
router = APIRouter()


class Question(BaseModel):
    """What `POST /chat` takes."""

    text: str
    provider: Literal["openai", "anthropic"] = "openai"
    stream: bool = False


@router.post("/chat")
async def chat(question: Question) -> Response:
    """Answer at once, or word by word."""
    if question.stream:
        streamed = streamed_by_gpt if question.provider == "openai" else streamed_by_claude
        return StreamingResponse(streamed(question.text), media_type="text/plain")
    answered = answered_by_gpt if question.provider == "openai" else answered_by_claude
    return PlainTextResponse(await answered(question.text))


@track_tokens
async def answered_by_gpt(text: str) -> str:
    """Ask OpenAI; what is returned is only the text."""
    answer = await openai().chat.completions.create(
        model=GPT, messages=[{"role": "user", "content": text}], max_completion_tokens=LONGEST
    )
    return answer.choices[0].message.content or ""


@track_tokens
async def streamed_by_gpt(text: str) -> AsyncIterator[str]:
    """Ask OpenAI for a stream, which tells its usage without being asked to."""
    stream = await openai().chat.completions.create(
        model=GPT, messages=[{"role": "user", "content": text}], max_completion_tokens=LONGEST, stream=True
    )
    async for chunk in stream:
        yield chunk.choices[0].delta.content or ""


@track_tokens
async def answered_by_claude(text: str) -> str:
    """Ask Anthropic."""
    answer = await claude().messages.create(model=CLAUDE, messages=_said(text), max_tokens=LONGEST)
    return "".join(block.text for block in answer.content if block.type == "text")


@track_tokens
async def streamed_by_claude(text: str) -> AsyncIterator[str]:
    """Ask Anthropic for a stream, by the SDK's helper."""
    async with claude().messages.stream(model=CLAUDE, messages=_said(text), max_tokens=LONGEST) as stream:
        async for piece in stream.text_stream:
            yield piece


def _said(text: str) -> list[MessageParam]:
    return [{"role": "user", "content": text}]
