"""Watching streams without changing them: what a tracked function returns that is read later.

The stream objects of SDKs stay the objects they are, wherever Python allows it. Their class is replaced by a subclass
of it that looks at what comes by, so that attributes, `isinstance`, `with`, `close` and helpers such as `text_stream`
work as ever. What was made in C or has slots gets a stand-in, which looks at what is read through it and passes on
everything else. Generators are driven by one of ours.
"""

from __future__ import annotations

import copyreg
from collections.abc import Coroutine
from contextlib import suppress
from copy import copy
from functools import partial
from inspect import iscoroutinefunction
from types import AsyncGeneratorType, GeneratorType, coroutine
from typing import TYPE_CHECKING

from usagekit import context
from usagekit.llm import calls
from usagekit.llm.scopes import Scope, active

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
    from contextvars import Token
    from typing import Any

    from usagekit.llm.calls import Call

    Methods = Mapping[str, Callable[[Callable[..., Any]], Callable[..., Any]]]
    Awaited = Callable[[Scope, Awaitable[Any]], Coroutine[Any, Any, Any]]

__all__ = ["dismiss", "drive", "drive_async", "is_watched", "let_go", "watch", "watch_future", "watch_manager"]

_CALL = "_usagekit_call"
_KINDS = 64  # types made at run time must not be kept for ever; far more than there are kinds of streams
_stream_kinds: dict[type, type] = {}
_manager_kinds: dict[type, type] = {}
_future_kinds: dict[type, type] = {}


def is_watched(stream: object) -> bool:
    """Tell whether a stream reports to a call already."""
    return isinstance(stream, _StandIn) or _CALL in getattr(stream, "__dict__", ())


def watch(stream: Any, call: Call) -> Any:
    """Make a stream report to `call`; gives the same object, or a stand-in where that cannot be."""
    call.open()
    if "_iterator" in getattr(stream, "__dict__", ()):
        _break_cycle(stream, type(stream))
    return _watched(stream, call, _stream_kinds, _STREAM_METHODS)


def dismiss(stand_in: object) -> None:
    """Let a stand-in that nobody will get report nothing."""
    calls.forget(vars(stand_in).pop(_CALL))


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


# Kinds: subclasses whose objects report, and stand-ins


def _watched(thing: Any, call: object, kinds: dict[type, type], methods: Methods) -> Any:
    """Make an object report to `call` by these methods; gives it, or its stand-in."""
    if _replace_kind(thing, call, kinds, methods):
        return thing
    kind = type(thing)
    stand_in = kinds.get(kind)
    if stand_in is None or not issubclass(stand_in, _StandIn):
        stand_in = kinds[kind] = _stand_in_for(kind, methods)
    return stand_in(thing, call)


def _replace_kind(thing: Any, call: object, kinds: dict[type, type], methods: Methods) -> bool:
    kind = type(thing)
    watched = kinds.get(kind)
    try:
        if watched is None:
            if len(kinds) >= _KINDS:
                kinds.clear()
            watched = kinds[kind] = kind if kind in kinds.values() else _subclass(kind, methods)
        if issubclass(watched, _StandIn):
            return False
        thing.__class__ = watched
        vars(thing)[_CALL] = call
    except Exception:  # noqa: BLE001  slots, made in C, or a class that refuses subclasses in a way of its own
        return False
    return True


def _subclass(kind: Any, methods: Methods) -> type:
    """Make the subclass whose objects report. One that was given no call is as any other object of the class."""
    names: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    for name, make in methods.items():
        method = getattr(kind, name, None)
        if method is not None:
            names[name] = make(method)
    if methods is _STREAM_METHODS:
        names["__del__"] = _leaving(getattr(kind, "__del__", _nothing))
    for name in ("__reduce_ex__", "__copy__", "__deepcopy__"):
        if hasattr(kind, name):
            names[name] = _copying(kind, name)
    made: type = type(kind)(kind.__name__, (kind,), names)
    return made


def _nothing(_self: object) -> None:
    pass


def _copying(kind: type, name: str) -> Callable[..., Any]:
    """Make a method that copies or pickles: what it makes is of the original class, and reports nothing.

    anthropic's streams read from a copy of themselves, which must not report too.
    """
    method = getattr(kind, name)

    def copying(self: Any, *args: Any) -> Any:
        watched = type(self)
        if vars(watched).get(name) is not copying:
            return method(self, *args)  # a further subclass, of the app's own
        call = vars(self).pop(_CALL, None)
        self.__class__ = kind
        try:
            return _apart(method(self, *args), vars(self))
        finally:
            self.__class__ = watched
            if call is not None:
                vars(self)[_CALL] = call

    return copying


def _apart(made: Any, fields: dict[str, Any]) -> Any:
    """Give what `__reduce_ex__` made without what is of the object itself, which goes on reporting."""
    if made is fields:
        return dict(fields)
    if made is copyreg.__newobj__ or made is copyreg.__newobj_ex__:  # type: ignore[attr-defined]
        return partial(made)  # by their names, `pickle` insists on the object's class
    return tuple(_apart(part, fields) for part in made) if type(made) is tuple else made


def _stand_in_for(kind: Any, methods: Methods) -> type[_StandIn]:
    """Make the class of stand-ins: it has the special methods that the class has, and no others.

    Frameworks tell an asynchronous stream from others by its having `__aiter__`.
    """
    names: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    for base in kind.__mro__[:-1]:
        for name, method in vars(base).items():
            if name[:2] == name[-2:] == "__" and callable(method) and name not in _NOT_PASSED_ON:
                names[name] = _passing_on(name, getattr(kind, name))
    for name, make in methods.items():
        method = getattr(kind, name, None)
        if method is not None:
            names[name] = make(_passing_on(name, method))
    if methods is _STREAM_METHODS:
        names["__del__"] = _leaving(_nothing)
    return type(kind.__name__, (_StandIn,), names)


def _passing_on(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a stand-in's method: what gives the object itself gives the stand-in."""
    if name in {"__iter__", "__aiter__"}:
        return lambda self: method(self._usagekit_stream)  # read by a generator: no method of ours for each part
    if name == "__aenter__":

        async def enter(self: Any) -> Any:
            entered = await method(self._usagekit_stream)
            return self if entered is self._usagekit_stream else entered

        return enter

    def passing_on(self: Any, *args: Any, **kwargs: Any) -> Any:
        stream = self._usagekit_stream
        given = method(stream, *args, **kwargs)
        return self if given is stream else given

    return passing_on


class _StandIn:
    """Stands in for an object whose class cannot be replaced; what is not watched is the object's own."""

    _usagekit_stream: Any

    def __init__(self, stream: Any, call: object) -> None:
        vars(self).update({"_usagekit_stream": stream, _CALL: call})

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._usagekit_stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._usagekit_stream, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._usagekit_stream, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._usagekit_stream, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._usagekit_stream.__reduce_ex__(protocol)


_NOT_PASSED_ON = {*vars(_StandIn), "__new__", "__del__", "__getattribute__"}


# Streams


def _next(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def __next__(self: Any) -> Any:  # noqa: N807
        call: Call | None = self.__dict__.get(_CALL)
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
        call: Call | None = self.__dict__.get(_CALL)
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
        inner, call = method(self), self.__dict__.get(_CALL)
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
        inner, call = method(self), self.__dict__.get(_CALL)
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
    call: Call | None = stream.__dict__.get(_CALL)
    if call is not None:
        call.left()


_STREAM_METHODS: Methods = {
    "__next__": _next,
    "__anext__": _anext,
    "__iter__": _iter,
    "__aiter__": _aiter,
    "__exit__": _leaving,
    "__aexit__": _leaving,
    "close": _leaving,
    "aclose": _leaving,
}


# Context managers, and what is awaited


def watch_manager(manager: Any, scope: Scope, awaited: Awaited) -> Any:
    """Make what begins a model call when it is entered or awaited do so within `scope`; it, or a stand-in.

    What it gives on entering is watched where it is a stream, and looked at on leaving where it is not. `awaited` makes
    the coroutine that is awaited in its place; an object that can be awaited several times counts the first time.
    """
    return _watched(manager, _Entering(scope, awaited), _manager_kinds, _MANAGER_METHODS)


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
                watch(entered, calls.Call(scope))
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


def let_go(token: Token[Scope | None]) -> None:
    """Take a scope out of force that was put in force before something was awaited."""
    with suppress(ValueError):  # a task that is destroyed is closed in another context than it ran in
        active.reset(token)


def _entering(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def __enter__(self: Any) -> Any:  # noqa: N807
        entering: _Entering | None = self.__dict__.get(_CALL)
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
        entering: _Entering | None = self.__dict__.get(_CALL)
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
        entering: _Entering | None = self.__dict__.get(_CALL)
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
        entering: _Entering | None = self.__dict__.get(_CALL)
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
        entering: _Entering | None = self.__dict__.get(_CALL)
        return manager if entering is None or manager is self else entering.again(manager)

    return _recreate_cm


def _awaiting(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def __await__(self: Any) -> Any:  # noqa: N807
        steps = method(self)
        entering: _Entering | None = self.__dict__.get(_CALL)
        return steps if entering is None or entering.is_begun else entering.run(steps)

    return __await__


def _sending(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the method by which a task runs what is a coroutine itself, as the requests of aiohttp are."""

    def sending(method: Callable[..., Any]) -> Callable[..., Any]:
        def send(self: Any, *args: Any) -> Any:
            entering: _Entering | None = self.__dict__.get(_CALL)
            if entering is None or not isinstance(self, Coroutine):
                return method(self, *args)
            if not entering.is_begun:
                entering.running = self.__await__()
            return method(self, *args) if entering.running is None else getattr(entering.running, name)(*args)

        return send

    return sending


_MANAGER_METHODS: Methods = {
    "__enter__": _entering,
    "__exit__": _exiting,
    "__aenter__": _entering_async,
    "__aexit__": _exiting_async,
    "__await__": _awaiting,
    "send": _sending("send"),
    "throw": _sending("throw"),
    "_recreate_cm": _recreating,
}


# Futures


def watch_future(future: Any, take: Callable[[Any], Any]) -> bool:
    """Make a future give what `take` makes of its result; False where its class cannot be replaced."""
    return _replace_kind(future, take, _future_kinds, {"result": _taking})


def _taking(method: Callable[..., Any]) -> Callable[..., Any]:
    def result(self: Any, *args: Any, **kwargs: Any) -> Any:
        given, take = method(self, *args, **kwargs), self.__dict__.get(_CALL)
        return given if take is None else take(given)

    return result


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
