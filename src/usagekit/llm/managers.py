"""Watching what begins a model call when it is entered, awaited or asked for: context managers, awaitables, futures."""

from __future__ import annotations

from collections.abc import Coroutine
from types import coroutine
from typing import TYPE_CHECKING

from usagekit import context
from usagekit.llm import calls, streams
from usagekit.llm.scopes import Scope, active
from usagekit.llm.streams import let_go
from usagekit.llm.watching import CALL, Kinds, is_watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator
    from typing import Any

    Awaited = Callable[[Scope, Awaitable[Any]], Coroutine[Any, Any, Any]]

__all__ = ["watch_future", "watch_manager"]


def watch_manager(manager: Any, scope: Scope, awaited: Awaited) -> Any:
    """Make what begins a model call when it is entered or awaited do so within `scope`; it, or a stand-in.

    What it gives on entering is watched where it is a stream, and looked at on leaving where it is not. `awaited` makes
    the coroutine that is awaited in its place; an object that can be awaited several times counts the first time.
    """
    return _managers.watched(manager, _Entering(scope, awaited))


class _Entering:
    """What a context manager's entering and leaving, or an object's awaiting, have in common."""

    __slots__ = ("_awaited", "entered", "is_begun", "running", "scope")

    def __init__(self, scope: Scope, awaited: Awaited) -> None:
        self.scope = scope
        self.entered: Any = None
        self.is_begun = False  # it is awaited, or was, or is being entered, which may await it
        self.running: Any = None  # what takes the place of an object that is a coroutine itself
        self._awaited = awaited

    def run(self, steps: Iterator[Any]) -> Any:
        """Give the steps of the coroutine that awaits the object, which makes these."""
        self.is_begun = True
        return self._awaited(self.scope, _steps(steps)).__await__()

    def again(self, manager: Any) -> Any:
        """Watch the manager that `contextlib` makes for each call of a function it decorates."""
        recorder = self.scope.recorder
        if not recorder.active:
            return manager
        return watch_manager(manager, Scope(recorder, context.current.get(), self.scope.settings), self._awaited)

    def got(self, entered: Any) -> None:
        """Take what entering gave."""
        scope = self.scope
        try:
            if scope.is_busy or is_watched(entered):
                return
            if hasattr(entered, "__next__") or hasattr(entered, "__anext__"):
                streams.watch(entered, calls.Call(scope))
            else:
                self.entered = entered
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            scope.recorder.guard.caught("llm: extract", error)

    def leave(self, error: BaseException | None) -> None:
        """Look at what was entered, which knows its usage by now."""
        scope, entered, self.entered = self.scope, self.entered, None
        if entered is not None and not scope.is_busy:
            scope.returned_safely(entered)
        try:
            if error is not None:
                scope.failed(error)
        except Exception as mistake:  # noqa: BLE001  nothing may reach the host
            scope.recorder.guard.caught("llm: failed", mistake)
        scope.end()


@coroutine
def _steps(steps: Iterator[Any]) -> Generator[Any, Any, Any]:
    return (yield from steps)


def _entering(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def __enter__(self: Any) -> Any:  # noqa: N807
        entering: _Entering | None = self.__dict__.get(CALL)
        if entering is None:
            return method(self)
        token = active.set(entering.scope)
        try:
            entered = method(self)
        except BaseException as error:
            entering.leave(error)
            raise
        finally:
            let_go(token)
        entering.got(entered)
        return entered

    return __enter__


def _exiting(method: Callable[..., Any]) -> Callable[..., Any]:
    def __exit__(self: Any, *error: Any) -> Any:  # noqa: N807
        entering: _Entering | None = self.__dict__.get(CALL)
        if entering is None:
            return method(self, *error)
        token = active.set(entering.scope)
        try:
            return method(self, *error)
        finally:
            let_go(token)
            entering.leave(error[1])

    return __exit__


def _entering_async(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def __aenter__(self: Any) -> Any:  # noqa: N807
        entering: _Entering | None = self.__dict__.get(CALL)
        if entering is None:
            return await method(self)
        token = active.set(entering.scope)
        was_begun, entering.is_begun = entering.is_begun, True
        try:
            entered = await method(self)
        except BaseException as error:
            entering.leave(error)
            raise
        finally:
            entering.is_begun = was_begun
            let_go(token)
        entering.got(entered)
        return entered

    return __aenter__


def _exiting_async(method: Callable[..., Any]) -> Callable[..., Any]:
    async def __aexit__(self: Any, *error: Any) -> Any:  # noqa: N807
        entering: _Entering | None = self.__dict__.get(CALL)
        if entering is None:
            return await method(self, *error)
        token = active.set(entering.scope)
        try:
            return await method(self, *error)
        finally:
            let_go(token)
            entering.leave(error[1])

    return __aexit__


def _recreating(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def _recreate_cm(self: Any) -> Any:
        manager = method(self)
        entering: _Entering | None = self.__dict__.get(CALL)
        return manager if entering is None or manager is self else entering.again(manager)

    return _recreate_cm


def _awaiting(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def __await__(self: Any) -> Any:  # noqa: N807
        steps = method(self)
        entering: _Entering | None = self.__dict__.get(CALL)
        return steps if entering is None or entering.is_begun else entering.run(steps)

    return __await__


def _sending(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the method by which a task runs what is a coroutine itself, as the requests of aiohttp are."""

    def sending(method: Callable[..., Any]) -> Callable[..., Any]:
        def send(self: Any, *args: Any) -> Any:
            entering: _Entering | None = self.__dict__.get(CALL)
            if entering is None or not isinstance(self, Coroutine):
                return method(self, *args)
            if not entering.is_begun:
                entering.running = self.__await__()
            return method(self, *args) if entering.running is None else getattr(entering.running, name)(*args)

        return send

    return sending


_managers = Kinds(
    {
        "__enter__": _entering,
        "__exit__": _exiting,
        "__aenter__": _entering_async,
        "__aexit__": _exiting_async,
        "__await__": _awaiting,
        "send": _sending("send"),
        "throw": _sending("throw"),
        "_recreate_cm": _recreating,
    }
)


def watch_future(future: Any, take: Callable[[Any], Any]) -> bool:
    """Make a future give what `take` makes of its result; False where its class cannot be replaced."""
    return _futures.replace(future, take)


def _taking(method: Callable[..., Any]) -> Callable[..., Any]:
    def result(self: Any, *args: Any, **kwargs: Any) -> Any:
        given, take = method(self, *args, **kwargs), self.__dict__.get(CALL)
        return given if take is None else take(given)

    return result


_futures = Kinds({"result": _taking})
