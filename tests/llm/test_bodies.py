"""Bodies that are read by hand, in whatever pieces they come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from usagekit.llm.bodies import watch_body
from usagekit.llm.calls import Call
from usagekit.llm.scopes import Scope, Settings

if TYPE_CHECKING:
    from tests.support.capture import Capture

TEXT = b'data: {"object": "chat.completion.chunk", "choices": [{"delta": {"content": "Hi"}}]}'
USAGE = (
    b'data: {"object": "chat.completion.chunk", "model": "gpt-5-mini", "choices": [],'
    b' "usage": {"prompt_tokens": 7, "completion_tokens": 5}}'
)


def read(capture: Capture, pieces: list[bytes], *, hides: bool, **headers: str) -> list[bytes]:
    """Give what the reader of a body in these pieces gets."""
    http: Any = SimpleNamespace(headers=headers, stream=pieces)
    call = Call(Scope(capture.recorder, None, Settings(model="gpt-5-mini")))
    call.hides = hides
    body = watch_body(http, call)
    assert body is not None
    assert body is http.stream
    return list(body)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b""])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_what_is_ours_is_cut_out(capture: Capture, size: int, end: bytes) -> None:
    """Also where the body ends without the line that ends an event."""
    whole = TEXT + (end or b"\n\n") + USAGE + end
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]

    assert b"".join(read(capture, pieces, hides=True)) == TEXT + (end or b"\n\n")

    assert (capture.event().input_tokens, capture.event().output_tokens) == (7, 5)


@pytest.mark.parametrize("headers", [{}, {"content-length": "300"}], ids=["not ours", "length"])
def test_where_nothing_is_cut_out_nothing_is_held_back(capture: Capture, headers: dict[str, str]) -> None:
    """Piece by piece, as it comes."""
    pieces = [TEXT[:20], TEXT[20:], b"\n\n" + USAGE[:9], USAGE[9:]]

    assert read(capture, pieces, hides=bool(headers), **headers) == pieces

    assert (capture.event().input_tokens, capture.event().output_tokens) == (7, 5)
