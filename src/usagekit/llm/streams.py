"""Watching streams without changing them: what a tracked function returns that is read later.

The stream objects of SDKs stay the objects they are. Their class is replaced by a subclass of it that looks at what
comes by, so that attributes, `isinstance`, `with`, `close` and helpers such as `text_stream` work as ever. Generators,
which allow no such thing, are driven by one of ours.
"""

from __future__ import annotations

from copy import copy
from inspect import iscoroutinefunction
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING

from usagekit.llm import calls
from usagekit.llm.scopes import active

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
    from typing import Any

    from usagekit.llm.calls import Call
    from usagekit.llm.scopes import Scope

__all__ = ["drive", "drive_async", "is_watched", "watch", "watch_manager"]

_CALL = "_usagekit_call"
_watched_kinds: dict[type, type] = {}
_watched_managers: dict[type, type] = {}


def is_watched(stream: object) -> bool:
    """Tell whether a stream reports to a call already."""
    return type(stream) in _watched or isinstance(stream, _Watched)


def watch(stream: Any, call: Call) -> Any:
    """Make a stream report to `call`; gives the same object, or a stand-in where that cannot be."""
    call.open()
    try:
        kind = type(stream)
        watched = _watched_kinds.get(kind)
        if watched is None:
            watched = _watched_kinds[kind] = _watched_kind(kind)
            _watched.add(watched)
        _break_cycle(stream, kind)
        vars(stream)[_CALL] = call
        stream.__class__ = watched
    except TypeError:  # slots, or made in C
        return _Watched(stream, call)
    return stream


_watched: set[type] = set()


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


def _subclass(kind: Any, names: dict[str, Any]) -> type:
    def copied(self: Any) -> Any:
        # anthropic's streams read from a copy of themselves: the copy must not report too.
        made = kind.__new__(kind)
        vars(made).update((name, value) for name, value in vars(self).items() if name != _CALL)
        return made

    names |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    if not hasattr(kind, "__copy__"):
        names["__copy__"] = copied
    made: type = type(kind)(kind.__name__, (kind,), names)
    return made


def _watched_kind(kind: Any) -> type:
    """Make the subclass whose objects report what is read from them, when they end and when they are left."""
    names: dict[str, Any] = {}
    for name, make in (
        ("__next__", _next),
        ("__anext__", _anext),
        ("__iter__", _iter),
        ("__aiter__", _aiter),
        ("__exit__", _leaving),
        ("__aexit__", _leaving),
        ("close", _leaving),
        ("aclose", _leaving),
    ):
        method = getattr(kind, name, None)
        if method is not None:
            names[name] = make(method)
    names["__del__"] = _leaving(getattr(kind, "__del__", _nothing))
    return _subclass(kind, names)


def _nothing(_self: object) -> None:
    pass


def _next(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def __next__(self: Any) -> Any:  # noqa: N807
        call: Call = vars(self)[_CALL]
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
        call: Call = vars(self)[_CALL]
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
        inner = method(self)
        return self if inner is self else _parts(self, inner, vars(self)[_CALL])

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
        inner = method(self)
        return self if inner is self else _parts_async(self, inner, vars(self)[_CALL])

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
                vars(self)[_CALL].left()

        return leave_async

    def leave(self: Any, *args: Any) -> Any:
        try:
            return method(self, *args)
        finally:
            vars(self)[_CALL].left()

    return leave


def watch_manager(manager: Any, scope: Scope) -> Any:
    """Make a context manager that begins a model call when it is entered do so within `scope`.

    What it gives on entering is watched where it is a stream, and looked at on leaving where it is not.
    """
    try:
        kind = type(manager)
        watched = _watched_managers.get(kind)
        if watched is None:
            watched = _watched_managers[kind] = _watched_manager(kind)
            _watched.add(watched)
        vars(manager)[_CALL] = _Entering(scope)
        manager.__class__ = watched
    except TypeError:
        scope.recorder.guard.counted("llm: unwatched")
    return manager


class _Entering:
    """What a context manager's entering and leaving have in common."""

    __slots__ = ("entered", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.entered: Any = None

    def got(self, entered: Any) -> None:
        """Take what entering gave."""
        scope = self.scope
        if scope.is_busy or is_watched(entered):
            return
        if hasattr(entered, "__next__") or hasattr(entered, "__anext__"):
            watch(entered, calls.Call(scope))
        else:
            self.entered = entered

    def leave(self, error: BaseException | None) -> None:
        """Look at what was entered, which knows its usage by now."""
        scope, entered, self.entered = self.scope, self.entered, None
        if entered is not None and not scope.is_busy:
            scope.returned_safely(entered)
        if error is not None:
            scope.failed(error)
        scope.end()


def _watched_manager(kind: Any) -> type:
    names: dict[str, Any] = {}
    if hasattr(kind, "__enter__"):
        enter, leave = kind.__enter__, kind.__exit__

        def __enter__(self: Any) -> Any:  # noqa: N807
            entering: _Entering = vars(self)[_CALL]
            token = active.set(entering.scope)
            try:
                entered = enter(self)
            except BaseException as error:
                entering.leave(error)
                raise
            finally:
                active.reset(token)
            entering.got(entered)
            return entered

        def __exit__(self: Any, *error: Any) -> Any:  # noqa: N807
            entering: _Entering = vars(self)[_CALL]
            token = active.set(entering.scope)
            try:
                return leave(self, *error)
            finally:
                active.reset(token)
                entering.leave(error[1])

        names |= {"__enter__": __enter__, "__exit__": __exit__}
    if hasattr(kind, "__aenter__"):
        enter_async, leave_async = kind.__aenter__, kind.__aexit__

        async def __aenter__(self: Any) -> Any:  # noqa: N807
            entering: _Entering = vars(self)[_CALL]
            token = active.set(entering.scope)
            try:
                entered = await enter_async(self)
            except BaseException as error:
                entering.leave(error)
                raise
            finally:
                active.reset(token)
            entering.got(entered)
            return entered

        async def __aexit__(self: Any, *error: Any) -> Any:  # noqa: N807
            entering: _Entering = vars(self)[_CALL]
            token = active.set(entering.scope)
            try:
                return await leave_async(self, *error)
            finally:
                active.reset(token)
                entering.leave(error[1])

        names |= {"__aenter__": __aenter__, "__aexit__": __aexit__}
    return _subclass(kind, names)


class _Watched:
    """Stands in for a stream whose class cannot be replaced; everything but reading is the stream's own."""

    def __init__(self, stream: Any, call: Call) -> None:
        self._stream = stream
        self._usagekit_call = call

    @property
    def __class__(self) -> type:
        return type(self._stream)

    @__class__.setter
    def __class__(self, kind: type) -> None:
        raise TypeError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[Any]:
        return _parts(self, iter(self._stream), self._usagekit_call)

    def __next__(self) -> Any:
        return _next(lambda watched: next(watched._stream))(self)  # noqa: SLF001  its own

    def __aiter__(self) -> AsyncIterator[Any]:
        return _parts_async(self, aiter(self._stream), self._usagekit_call)

    async def __anext__(self) -> Any:
        return await _anext(lambda watched: anext(watched._stream))(self)  # noqa: SLF001  its own

    def __enter__(self) -> Any:
        entered = self._stream.__enter__()
        return self if entered is self._stream else entered

    def __exit__(self, *error: object) -> Any:
        return _leaving(lambda watched, *args: watched._stream.__exit__(*args))(self, *error)  # noqa: SLF001  its own

    def close(self) -> Any:
        """Close the stream; it is left then."""
        return _leaving(lambda watched: watched._stream.close())(self)  # noqa: SLF001  its own

    def __del__(self) -> None:
        self._usagekit_call.left()


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
            leave(token)
        saw(part)
        try:
            value = yield part
            step = generator.asend
        except GeneratorExit:
            token = enter(scope)
            try:
                await generator.aclose()
            finally:
                leave(token)
                yields.dropped()
            raise
        except BaseException as error:  # noqa: BLE001  the generator's business, as it came
            step, value = generator.athrow, error
