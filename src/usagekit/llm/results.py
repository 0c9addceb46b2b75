"""What a tracked function gave is looked at for model calls: at once, or when it is read, awaited or done."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from inspect import iscoroutinefunction
from sys import modules
from threading import RLock
from time import perf_counter_ns
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING

from usagekit.llm import managers, streams
from usagekit.llm.calls import Call, forget
from usagekit.llm.scopes import Scope, active
from usagekit.llm.usage import Usage, is_known, readers
from usagekit.llm.watching import dismiss, is_watched

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "ASYNC_GENERATOR_CODE",
    "AT_ONCE",
    "GENERATOR_CODE",
    "fail",
    "finish",
    "finish_later",
    "finish_parsing",
    "may_be_raw",
    "role_of",
]

_PLAIN, _RESPONSE, _STREAM, _GENERATOR, _ASYNC_GENERATOR, _FUTURE, _COROUTINE, _AWAITABLE, _MANAGER, _RAW = range(10)
_plain: dict[type, int] = dict.fromkeys((str, bytes, int, float, bool, type(None), list, tuple, set, frozenset), _PLAIN)
_roles: dict[type, int] = dict(_plain)
AT_ONCE = frozenset({_PLAIN, _RESPONSE})
"""The roles of results that tell at once what they tell."""

_KINDS = 256  # types made at run time must not be kept for ever; far more than there are kinds of results


def role_of(kind: type) -> int:
    """Tell what to do with results of a type."""
    known = _roles.get(kind)
    return _role_of(kind) if known is None else known


def _role_of(kind: type) -> int:
    role = _RESPONSE
    if issubclass(kind, GeneratorType):
        role = _GENERATOR
    elif issubclass(kind, AsyncGeneratorType):
        role = _ASYNC_GENERATOR
    elif hasattr(kind, "__next__") or hasattr(kind, "__anext__") or (hasattr(kind, "__aiter__") and is_known(kind)):
        role = _STREAM
    elif hasattr(kind, "add_done_callback"):
        role = _FUTURE
    elif hasattr(kind, "__await__"):
        role = _COROUTINE if issubclass(kind, Coroutine) and not hasattr(kind, "__aenter__") else _AWAITABLE
    elif hasattr(kind, "http_response") or (hasattr(kind, "parse") and hasattr(kind, "http_request")):
        role = _RAW
    elif (hasattr(kind, "__enter__") or hasattr(kind, "__aenter__")) and (
        is_known(kind) or kind.__module__ == "contextlib"
    ):
        role = _MANAGER
    if len(_roles) >= _KINDS:
        _roles.clear()
        _roles.update(_plain)
    _roles[kind] = role
    return role


def finish(scope: Scope, result: Any) -> Any:
    """Look at what a tracked function returned, and give what its caller gets: the same, or a stream's stand-in."""
    kind = type(result)
    try:
        read = readers.get(kind)
        if read is not None and scope.outer is None and scope.seen is None and scope.tapped is None:
            plain = read(result)
            if plain is not None:
                scope.record_plain(plain)
                return result
        role = _roles.get(kind)
        if role is None:
            role = _role_of(kind)
        if role == _RESPONSE:
            if not scope.returned(result) and not _watch_inner_stream(result, scope):
                scope.said_nothing()
        elif role == _PLAIN:
            scope.said_nothing()
        else:
            return finish_later(scope, result, role)
    except Exception as error:  # noqa: BLE001  nothing may reach the host
        scope.recorder.guard.caught("llm: extract", error)
    scope.is_over = True  # first, so that threads that still run leave nothing waiting
    if scope.seen is not None or scope.pending or scope.spans is not None:
        scope.end()
    return result


def finish_later(scope: Scope, result: Any, role: int) -> Any:
    """Look at a result that tells its usage when it is read, awaited or entered."""
    if role == _GENERATOR:
        return result if _is_driven(result) else streams.drive(result, scope)
    if role == _ASYNC_GENERATOR:
        return result if _is_driven(result) else streams.drive_async(result, scope)
    if role == _FUTURE:
        return _finish_future(scope, result)
    if role == _COROUTINE:
        return _finish_awaitable(scope, result)
    if role == _RAW:
        if not scope.is_busy and not iscoroutinefunction(type(result).parse):
            finish(scope, result.parse())
        scope.end()
        return result
    if is_watched(result) or (role != _AWAITABLE and scope.tapped is not None and scope.is_busy):
        scope.came_to_light()
        scope.end()
        return result
    if role in {_MANAGER, _AWAITABLE}:
        return managers.watch_manager(result, scope, _finish_awaitable)
    watched = streams.watch(result, Call(scope, scope.begun_ns))
    scope.end()
    return watched


def _is_driven(generator: Any) -> bool:
    """Tell the generators of tracked functions, which look at what they yield themselves."""
    code = getattr(generator, "gi_code", None) or getattr(generator, "ag_code", None)
    return code in _DRIVERS


GENERATOR_CODE = streams.drive.__code__
ASYNC_GENERATOR_CODE = streams.drive_async.__code__
_DRIVERS = {GENERATOR_CODE, ASYNC_GENERATOR_CODE}


async def finish_parsing(scope: Scope, result: Any) -> None:
    """Look at what a raw response is parsed to, where parsing is awaited and no watched client saw it."""
    kind = type(result)
    try:
        if role_of(kind) == _RAW and not scope.is_busy and iscoroutinefunction(kind.parse):
            finish(scope, await result.parse())
    except Exception as error:  # noqa: BLE001  nothing may reach the host
        scope.recorder.guard.caught("llm: extract", error)


def _finish_future(scope: Scope, future: Any) -> Any:
    """Look at what a future gives, when it is done or asked for it, whichever is first."""
    if is_watched(future):
        scope.came_to_light()
        scope.end()
        return future
    if hasattr(type(future), "_asyncio_future_blocking"):
        future.add_done_callback(partial(_finish_task, scope))
        return future
    taking = _Taking(scope)
    if "concurrent.futures" in modules and isinstance(future, modules["concurrent.futures"].Future):
        taking.is_given = managers.watch_future(future, taking.take)
    future.add_done_callback(taking.done)
    return future


class _Taking:
    """What a future gives, looked at once, though it is asked for in several threads."""

    __slots__ = ("_given", "_lock", "_scope", "is_given")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._lock = RLock()
        self._given: Any = _UNKNOWN
        self.is_given = False

    def take(self, result: Any) -> Any:
        """Look at the result, and give what its caller gets."""
        with self._lock:
            if self._given is _UNKNOWN:
                self._given = finish(self._scope, result)
            return self._given

    def done(self, future: Any) -> None:
        """Look at what became of the future."""
        scope = self._scope
        try:
            if future.cancelled():  # before it began: nothing was called
                return
            error = future.exception()
            if error is not None:
                fail(scope, error)
            elif self.is_given:
                future.result()
            else:
                _finish_as_it_is(scope, future.result())
        except Exception as mistake:  # noqa: BLE001  nothing may reach the host
            scope.recorder.guard.caught("llm: extract", mistake)


_UNKNOWN = object()


def _finish_task(scope: Scope, future: Any) -> None:
    """Look at what became of a future of asyncio's, which gives its result as it is."""
    try:
        if future.cancelled():
            from asyncio import CancelledError

            fail(scope, CancelledError())
        # Asking by `exception()` would keep asyncio from reporting one that nobody retrieves.
        elif future._exception is not None:  # noqa: SLF001
            fail(scope, future._exception)  # noqa: SLF001
        else:
            _finish_as_it_is(scope, future.result())
    except Exception as mistake:  # noqa: BLE001  nothing may reach the host
        scope.recorder.guard.caught("llm: extract", mistake)


def _finish_as_it_is(scope: Scope, result: Any) -> None:
    """Look at a result in whose place nothing else can be given."""
    if role_of(type(result)) not in {_GENERATOR, _ASYNC_GENERATOR, _COROUTINE} or _is_driven(result):
        given = finish(scope, result)
        if given is result:
            return
        forget(dismiss(given))
    scope.recorder.guard.counted("llm: unwatched")
    if scope.settings.names_a_model:
        scope.record(Usage(), scope.begun_ns, perf_counter_ns())
    scope.end()


async def _finish_awaitable(scope: Scope, awaitable: Any) -> Any:
    token = active.set(scope)
    try:
        result = await awaitable
        if may_be_raw(type(result)):
            await finish_parsing(scope, result)
    except BaseException as error:
        fail(scope, error)
        raise
    finally:
        streams.let_go(token)
    return finish(scope, result)


def _watch_inner_stream(result: Any, scope: Scope) -> bool:
    """Watch the stream that botocore hands out inside a dictionary."""
    stream = result.get("stream") if type(result) is dict else None
    if stream is None or not hasattr(stream, "__iter__") or not hasattr(stream, "close"):
        return False
    result["stream"] = streams.watch(stream, Call(scope, scope.begun_ns))
    return True


def fail(scope: Scope, error: BaseException) -> None:
    """Look at what a tracked function raised."""
    try:
        scope.failed(error)
    except Exception as mistake:  # noqa: BLE001  nothing may reach the host
        scope.recorder.guard.caught("llm: failed", mistake)
    scope.end()


def may_be_raw(kind: type) -> bool:
    """Tell whether results of a type are raw responses, or not known yet: `finish_parsing` looks."""
    return _roles.get(kind, _RAW) == _RAW
