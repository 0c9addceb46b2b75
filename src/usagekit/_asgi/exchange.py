"""What a request and a websocket have in common: who asks, for what, since when; and a request nobody records."""

from __future__ import annotations

from time import perf_counter_ns, time_ns

from usagekit._template import template_of
from usagekit.context import Measurement, told_by
from usagekit.request import AsgiRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
    from typing import Any

    from usagekit.asgi import UsageMiddleware
    from usagekit.recorder import Recorder

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

IDENTIFY_SECONDS = 5.0  # an async identify that takes longer is given up


class Idle(Measurement):
    """A request while nothing is recorded: what the app binds is no mistake then."""

    __slots__ = ("receive", "send")

    def __init__(self, recorder: Recorder | None, receive: Receive, send: Send) -> None:
        super().__init__(recorder)
        self.settled = True
        self.receive = receive
        self.send = send

    def fail(self, error: BaseException) -> None:
        """Do nothing."""

    async def finish(self) -> None:
        """Do nothing."""


class Exchange(Measurement):
    """What a request and a websocket have in common: who asks, for what, since when."""

    __slots__ = (
        "_asking",
        "_began",
        "_disconnected",
        "_ending",
        "_first",
        "_identify_async",
        "_last",
        "_middleware",
        "_receive",
        "_scope",
        "_send",
        "_start",
        "_started",
        "entry_path",
        "entry_root",
        "size",
        "status",
        "weight",
    )

    recorder: Recorder
    _asking: Task[None] | None
    _start: Message | None

    def __init__(
        self, middleware: UsageMiddleware, recorder: Recorder, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._began = time_ns()
        self._started = perf_counter_ns()
        # Measurement's own six, without the call.
        self.recorder = recorder
        self.identify, self._identify_async = middleware.identities or middleware.identities_of(recorder)
        self.parent = self.bound = self.found = self._asking = self._start = None
        # True as soon as nothing is left to be done at the app's return.
        self.settled = False
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self.entry_path = scope["path"]
        self.entry_root = scope.get("root_path") or ""
        self.status = self.size = 0
        self.weight = 1
        # Of HTTP alone, but here, since a second __init__ is a measurable part of a request.
        self._first = self._last = 0  # clock at the first and the last body byte; 0 = not yet
        self._disconnected = False  # the client went away before the end
        self._ending = False  # the end is with the server: what is heard of the client from here on is not "before"

    def request(self) -> AsgiRequest:
        return AsgiRequest(self._scope, self.entry_path)

    def route(self) -> str:
        scope = self._scope
        middleware = self._middleware
        try:
            template = template_of(scope, self.entry_root, self.entry_path, middleware.literal_prefixes)
        except Exception as error:  # noqa: BLE001  frameworks change what they leave in a scope
            self.recorder.guard.caught("route", error)
            template = ""
        return middleware.route_names[scope.get("method", "GET")][template]

    def see(self, scope: Scope, *, is_static: bool = False) -> None:
        self._scope = scope
        self.settled = self.settled or is_static
        super().see(scope, is_static=is_static)

    def bind(self, values: dict[str, object]) -> None:
        super().bind(values)
        if self.parent is not None:
            self.parent.bind(values)  # the same request, counted by another recorder too

    def settle(self) -> None:
        """Record what is due, once; waits for nothing."""
        raise NotImplementedError

    async def ask(self) -> None:
        """Ask an async `identify`, for a limited time."""
        if self._identify_async is None or self.found is not None:
            return
        try:
            answer: Any = self._identify_async(self.request())
            self.found = told_by(await _within(IDENTIFY_SECONDS, answer))
        except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
            self.recorder.guard.caught("identify", error)

    async def ask_and_settle(self) -> None:
        """Record what is due with what an async `identify` says, or without where even that is cancelled."""
        try:
            await self.ask()
        finally:
            self._asking = None  # a task keeps its context, which holds this exchange
            self.settle()

    def settle_soon(self) -> None:
        """Record what is due: at once where nobody is to be asked, else as soon as an async `identify` answered."""
        if self._identify_async is None or self.found is not None:
            self.settle()
        elif not self.settled:
            asking = _task(self.ask_and_settle)  # None: it is asked at the app's return
            self._asking = None if asking is None or asking.done() else asking


def _task(work: Callable[[], Coroutine[Any, Any, None]]) -> Task[None] | None:
    """Run `work` beside the request; None where the loop is not asyncio's."""
    import asyncio

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop.create_task(work())


async def _within(seconds: float, answer: Awaitable[object]) -> object:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return await answer  # another loop than asyncio's: its own time-outs apply
    return await asyncio.wait_for(answer, seconds)
