"""Watching the body of a streamed answer that its caller reads by hand, as lines or bytes, and does not parse.

The chunk that only tells the usage, and that was asked for by us, is cut out of it; what is before it comes event by
event then. Where nothing is to be cut out, everything is passed on as it comes.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Any

    from usagekit.llm.calls import Call

__all__ = ["watch_body"]

_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")  # https://html.spec.whatwg.org/multipage/server-sent-events.html
_LONGEST = 4 * 1024 * 1024  # bytes; what is longer is no event


def watch_body(http: Any, call: Call) -> Body | None:
    """Make the body of an HTTP response report to `call`; None where it cannot be read on the way."""
    if http.headers.get("content-encoding", "identity") != "identity":
        return None
    body = Body(http, call)
    call.open()
    return body


class Body:
    """Stands in for the byte stream of a response until its caller has it parsed; lives as long as the response."""

    _stream: Any = None
    _call: Call | None = None

    def __init__(self, http: Any, call: Call) -> None:
        self._http = http
        self._stream = http.stream
        self._call = call
        self._cuts = call.hides and "content-length" not in http.headers  # which the caller may have passed on
        self._held = b""
        self._is_done = False
        http.stream = self

    def is_parsed(self) -> None:
        """Step aside: from here on the call is told by whoever reads the parsed stream."""
        self._call = None
        if self._http.stream is self:
            self._http.stream = self._stream

    @property
    def __class__(self) -> type:
        return type(self._stream)  # which httpx looks at

    @__class__.setter
    def __class__(self, kind: type) -> None:
        raise TypeError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[bytes]:
        try:
            for data in self._stream:
                passed = self._passed(data)
                if passed:
                    yield passed
        except GeneratorExit:
            raise
        except BaseException as error:
            self._broke(error)
            raise
        rest = self._rest()
        if rest:
            yield rest
        self._ended()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for data in self._stream:
                passed = self._passed(data)
                if passed:
                    yield passed
        except GeneratorExit:
            raise
        except BaseException as error:
            self._broke(error)
            raise
        rest = self._rest()
        if rest:
            yield rest
        self._ended()

    def close(self) -> None:
        """Close the stream; the answer is left then, unless it was read to its end."""
        try:
            self._stream.close()
        finally:
            self._left()

    async def aclose(self) -> None:
        """Do the same for an asynchronous stream."""
        try:
            await self._stream.aclose()
        finally:
            self._left()

    def __del__(self) -> None:
        self._left()

    def _passed(self, data: bytes) -> bytes:
        """Give what the caller gets of what is here: whole events, but for the one that is not theirs."""
        begin, passed = 0, []
        searched = max(0, len(self._held) - 3)
        held = self._held + data
        for end in _END_OF_EVENT.finditer(held, searched):
            event = held[begin : end.end()]
            begin = end.end()
            if not self._saw(event):
                passed.append(event)
        self._held = held[begin:]
        if len(self._held) > _LONGEST:
            passed.append(self._held)
            self._held = b""
        return b"".join(passed) if self._cuts else data

    def _rest(self) -> bytes:
        """Give what the caller gets of what is after the last whole event."""
        held, self._held = self._held, b""
        return held if not self._saw(held) and self._cuts else b""

    def _saw(self, event: bytes) -> bool:
        """Show an event to the call; True = it is not the caller's."""
        call = self._call
        if call is None:  # parsed meanwhile
            return False
        lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
        data = b"\n".join(lines).strip()
        if data == b"[DONE]":
            self._is_done = True
        if not data.startswith(b"{"):
            return False
        try:
            part = json.loads(data)
        except (RecursionError, ValueError):
            return False
        return call.saw(part)

    def _broke(self, error: BaseException) -> None:
        if self._call is not None:
            self._call.broke(error)

    def _ended(self) -> None:
        if self._call is not None:
            self._call.ended()

    def _left(self) -> None:
        if self._call is not None:
            (self._call.ended if self._is_done else self._call.left)()
