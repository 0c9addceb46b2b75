"""Watching streams without changing them: what a tracked function returns that is read later.

The stream objects of SDKs stay the objects they are, wherever Python allows it; see `watching`. Generators are driven
by one of ours.
"""

from __future__ import annotations

from contextlib import suppress
from copy import copy
from inspect import iscoroutinefunction
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING

from usagekit.llm import calls
from usagekit.llm.scopes import active
from usagekit.llm.watching import CALL, Kinds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
    from contextvars import Token
    from typing import Any

    from usagekit.llm.calls import Call
    from usagekit.llm.scopes import Scope

__all__ = ["drive", "drive_async", "let_go", "watch"]


def watch(stream: Any, call: Call) -> Any:
    """Make a stream report to `call`; gives the same object, or a stand-in where that cannot be."""
    call.open()
    if "_iterator" in getattr(stream, "__dict__", ()):
        _break_cycle(stream, type(stream))
    return _kinds.watched(stream, call)


def _break_cycle(stream: Any, kind: type) -> None:
    """Let a stream read from a generator over a copy of itself, as newer SDKs do.

    Where its generator refers to the stream, a dropped stream waits for the garbage collector to be noticed.
    """
    generator = vars(stream).get("_iterator")
    begin = getattr(kind, "__stream__", None)
    if begin is None or not isinstance(generator, (GeneratorType, AsyncGeneratorType)):
        return
    frame = generator.gi_frame if isinstance(generator, GeneratorType) else generator.ag_frame
    if frame is not None and frame.f_lasti <= 0 and frame.f_locals.get("self") is stream:
        copied = copy(stream)
        fresh = begin(copied)
        if type(fresh) is type(generator):
            vars(copied).pop("_iterator", None)
            vars(stream)["_iterator"] = fresh


def _next(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def __next__(self: Any) -> Any:  # noqa: N807
        call: Call | None = self.__dict__.get(CALL)
        if call is None:
            return method(self)
        while True:
            try:
                part = method(self)
            except StopIteration:
                call.ended()
                raise
            except BaseException as error:
                call.broke(error)
                raise
            if not call.saw(part):
                return part

    return __next__


def _anext(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def __anext__(self: Any) -> Any:  # noqa: N807
        call: Call | None = self.__dict__.get(CALL)
        if call is None:
            return await method(self)
        while True:
            try:
                part = await method(self)
            except StopAsyncIteration:
                call.ended()
                raise
            except BaseException as error:
                call.broke(error)
                raise
            if not call.saw(part):
                return part

    return __anext__


def _iter(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def __iter__(self: Any) -> Any:  # noqa: N807
        inner, call = method(self), self.__dict__.get(CALL)
        return inner if inner is self or call is None else _parts(self, inner, call)

    return __iter__


def _parts(_stream: object, inner: Iterator[Any], call: Call) -> Iterator[Any]:
    # It holds the stream, as the stream's own iterator does: dropping the stream while it is read is not leaving it.
    try:
        for part in inner:
            if not call.saw(part):
                yield part
    except GeneratorExit:
        raise  # only this way of reading ends; the stream may be read on
    except BaseException as error:
        call.broke(error)
        raise
    call.ended()


def _aiter(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def __aiter__(self: Any) -> Any:  # noqa: N807
        inner, call = method(self), self.__dict__.get(CALL)
        return inner if inner is self or call is None else _parts_async(self, inner, call)

    return __aiter__


async def _parts_async(_stream: object, inner: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
    try:
        async for part in inner:
            if not call.saw(part):
                yield part
    except GeneratorExit:
        raise
    except BaseException as error:
        call.broke(error)
        raise
    call.ended()


def _leaving(method: Callable[..., Any]) -> Callable[..., Any]:
    if iscoroutinefunction(method):

        async def leave_async(self: Any, *args: Any) -> Any:
            try:
                return await method(self, *args)
            finally:
                _leave(self)

        return leave_async

    def leave(self: Any, *args: Any) -> Any:
        try:
            return method(self, *args)
        finally:
            _leave(self)

    return leave


def _leave(stream: Any) -> None:
    call: Call | None = stream.__dict__.get(CALL)
    if call is not None:
        call.left()


_kinds = Kinds(
    {
        "__next__": _next,
        "__anext__": _anext,
        "__iter__": _iter,
        "__aiter__": _aiter,
        "__exit__": _leaving,
        "__aexit__": _leaving,
        "close": _leaving,
        "aclose": _leaving,
    },
    _leaving,
)


# Generators


def drive(generator: Generator[Any, Any, Any], scope: Scope) -> Generator[Any, Any, Any]:
    """Run a generator with `scope` in force while it runs, and look at what it yields. Not begun, it counts nothing."""
    yields = calls.Yields(scope)
    step: Callable[[Any], Any] = generator.send
    value: Any = None
    yields.begin()
    enter, leave, saw = active.set, active.reset, yields.saw
    while True:
        token = enter(scope)
        try:
            part = step(value)
        except StopIteration as stop:
            yields.finished()
            return stop.value
        except BaseException as error:
            yields.raised(error)
            raise
        finally:
            leave(token)
            value = None  # an exception thrown in refers to this frame
        saw(part)
        try:
            value = yield part
            step = generator.send
        except GeneratorExit:
            token = enter(scope)
            try:
                generator.close()
            finally:
                leave(token)
                yields.dropped()
            raise
        except BaseException as error:  # noqa: BLE001  the generator's business, as it came
            step, value = generator.throw, error


async def drive_async(generator: AsyncGenerator[Any, Any], scope: Scope) -> AsyncGenerator[Any, Any]:
    """Do the same for an asynchronous generator."""
    yields = calls.Yields(scope)
    step: Callable[[Any], Any] = generator.asend
    value: Any = None
    yields.begin()
    enter, leave, saw = active.set, active.reset, yields.saw
    while True:
        token = enter(scope)
        try:
            part = await step(value)
        except StopAsyncIteration:
            yields.finished()
            return
        except BaseException as error:
            yields.raised(error)
            raise
        finally:
            value = None
            try:  # noqa: SIM105  as `let_go` does, which takes longer
                leave(token)
            except ValueError:
                pass
        saw(part)
        try:
            value = yield part
            step = generator.asend
        except GeneratorExit:
            token = enter(scope)
            try:
                await generator.aclose()
            finally:
                let_go(token)
                yields.dropped()
            raise
        except BaseException as error:  # noqa: BLE001  the generator's business, as it came
            step, value = generator.athrow, error


def let_go(token: Token[Scope | None]) -> None:
    """Take a scope out of force that was put in force before something was awaited."""
    with suppress(ValueError):  # a task that is destroyed is closed in another context than it ran in
        active.reset(token)
