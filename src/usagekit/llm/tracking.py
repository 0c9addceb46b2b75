"""`track_tokens`, for functions of every kind, and `model_call`, for blocks."""

from __future__ import annotations

from functools import partial, update_wrapper, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from sys import modules
from types import MethodType
from typing import TYPE_CHECKING, TypeVar, overload

from usagekit import context
from usagekit import recorder as recorders
from usagekit._options import check_callable, check_recorder, check_switch
from usagekit.llm import clients, streams
from usagekit.llm.calls import Call
from usagekit.llm.results import (
    ASYNC_GENERATOR_CODE,
    AT_ONCE,
    GENERATOR_CODE,
    fail,
    finish,
    finish_later,
    finish_parsing,
    may_be_raw,
    role_of,
)
from usagekit.llm.scopes import Scope, Settings, active
from usagekit.llm.usage import Usage, extractor_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, TracebackType
    from typing import Any, Self

    from usagekit.recorder import Recorder

    Function = TypeVar("Function", bound=Callable[..., Any])
else:
    Function = TypeVar("Function")

__all__ = ["ModelCall", "track_tokens"]


class _Tracker:
    """One decoration: whose recorder, and what the options say."""

    __slots__ = ("recorder", "settings")

    def __init__(self, recorder: Recorder | None, settings: Settings) -> None:
        self.recorder = recorder
        self.settings = settings

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Scope | None:
        """Open a scope for a call of the function; None = nothing is recorded."""
        measurement = context.current.get()
        recorder = self.recorder
        if recorder is None:
            recorder = recorders.recorder_for("track_tokens")
        if recorder is None or not recorder.active:
            return None
        if len(modules) != clients.loaded:
            clients.watch_clients()
        settings = self.settings
        if settings.is_dynamic:
            settings = settings.resolved(recorder, args, kwargs)
        return Scope(recorder, measurement, settings)


def _tracked(function: Any, tracker: _Tracker) -> Any:
    if isinstance(function, (classmethod, staticmethod)):
        return type(function)(_tracked(function.__func__, tracker))
    check_callable("function", function, "the one that calls a model, or nothing: @track_tokens(model='acme-1')")
    called = function if hasattr(function, "__code__") or isinstance(function, partial) else type(function).__call__
    if isasyncgenfunction(function) or isasyncgenfunction(called):
        return _GeneratorFunction(function, ASYNC_GENERATOR_CODE, streams.drive_async, tracker)
    if isgeneratorfunction(function) or isgeneratorfunction(called):
        return _GeneratorFunction(function, GENERATOR_CODE, streams.drive, tracker)
    if iscoroutinefunction(function) or iscoroutinefunction(called):
        return _tracked_coroutine(function, tracker)
    return _tracked_function(function, tracker)


def _tracked_function(function: Any, tracker: _Tracker) -> Any:
    begin, enter, leave = tracker.begin, active.set, active.reset

    @wraps(function)
    def tracked(*args: Any, **kwargs: Any) -> Any:
        scope = begin(args, kwargs)
        if scope is None:
            return function(*args, **kwargs)
        token = enter(scope)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            fail(scope, error)
            raise
        finally:
            leave(token)
        return finish(scope, result)

    return tracked


def _tracked_coroutine(function: Any, tracker: _Tracker) -> Any:
    begin = tracker.begin

    @wraps(function)
    async def tracked(*args: Any, **kwargs: Any) -> Any:
        scope = begin(args, kwargs)
        if scope is None:
            return await function(*args, **kwargs)
        token = active.set(scope)
        try:
            result = await function(*args, **kwargs)
            if may_be_raw(type(result)):
                await finish_parsing(scope, result)
        except BaseException as error:
            fail(scope, error)
            raise
        finally:
            try:  # noqa: SIM105  as `let_go` does, which takes longer
                active.reset(token)
            except ValueError:
                pass
        return finish(scope, result)

    return tracked


class _GeneratorFunction:
    """A tracked generator function: still one for `inspect`, though whom it counts for is taken when it is called.

    A generator's body runs when it is first read, which may be in another thread or after the request's own context.
    """

    def __init__(self, function: Any, code: CodeType, drive: Callable[[Any, Scope], Any], tracker: _Tracker) -> None:
        update_wrapper(self, function)
        self.__code__ = code
        self.__defaults__ = getattr(function, "__defaults__", None)
        self.__kwdefaults__ = getattr(function, "__kwdefaults__", None)
        self._function = function
        self._drive = drive
        self._tracker = tracker

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        generator = self._function(*args, **kwargs)
        scope = self._tracker.begin(args, kwargs)
        return generator if scope is None else self._drive(generator, scope)

    def __reduce__(self) -> str:
        return str(getattr(self, "__qualname__", ""))  # pickled by its name, as a function is

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)


# What users call


@overload
def track_tokens(function: Function, /) -> Function: ...


@overload
def track_tokens(
    *,
    event: object = None,
    provider: object = None,
    model: object = None,
    user: object = None,
    org: object = None,
    stream_usage: bool = True,
    recorder: Recorder | None = None,
    **dimensions: object,
) -> Callable[[Function], Function]: ...


def track_tokens(
    function: Any = None,
    /,
    *,
    event: object = None,
    provider: object = None,
    model: object = None,
    user: object = None,
    org: object = None,
    stream_usage: bool = True,
    recorder: Recorder | None = None,
    **dimensions: object,
) -> Any:
    """Record the model calls of a function: its tokens, cost, latency and whom they count for.

    Takes functions, methods, coroutine functions, generators and asynchronous generators, bare or with options. The
    function does what it did, gives what it gave and raises what it raised. Each model call is one event:

    - requests of the clients of openai, anthropic, groq and together while the function runs, whatever it returns;
    - else the response it returns, or the stream: recorded when that was read, closed or dropped.

    A response that several tracked functions hand on counts once, in the innermost. A function that returns something
    else and calls no watched client records nothing, unless `model` or `provider` is given; such calls are counted in
    `status()["errors"]["llm: no usage"]`.

    Args:
        function: what to track.
        event: the event type; None = `"llm"`.
        provider: instead of what the response tells; also where it tells none.
        model: likewise.
        user: whom it counts for; None = as bound, or as the request in flight says.
        org: the organisation; None likewise.
        stream_usage: whether chat streams of the official openai client are asked for their usage.
        recorder: which records; None = the request's, else the default one. Without any the function runs undisturbed.
        dimensions: values of the recorder's own dimensions.

    Options other than `stream_usage` and `recorder` may be callables, a dimension's value too; they are called with the
    function's own arguments when it is.
    """
    check_recorder("recorder", recorder)
    check_switch("stream_usage", stream_usage)
    tracker = _Tracker(
        recorder,
        Settings(
            event=event,
            provider=provider,
            model=model,
            user=user,
            org=org,
            stream_usage=stream_usage,
            dimensions=dimensions,
        ),
    )
    if function is None:
        return partial(_tracked, tracker=tracker)
    return _tracked(function, tracker)


class ModelCall:
    """One model call as a block, `with` or `async with`; made by `Recorder.model_call`.

    Records one event when the block ends, of what it was shown by `see`. Requests of watched clients in the block are
    seen without. Not to be used twice.
    """

    __slots__ = ("_call", "_parts", "_scope", "_token", "_tracker")

    def __init__(self, recorder: Recorder | None, settings: Settings) -> None:
        self._tracker = _Tracker(recorder, settings)
        self._scope: Scope | None = None
        self._call: Call | None = None
        self._parts = 0

    def see(self, response: Any) -> Any:
        """Look at a response, a chunk of one, a `Usage` or a stream; gives it back, a generator as a stand-in.

        A stream counts when it was read, not when the block ends. Responses with different ids are different calls.
        """
        scope = self._scope
        if scope is None:
            return response
        try:
            role = role_of(type(response))
            if role in AT_ONCE:
                if not scope.knows(response):
                    self._look(scope, response)
                return response
            return finish_later(scope, response, role)
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            scope.recorder.guard.caught("llm: extract", error)
            return response

    def _look(self, scope: Scope, response: object) -> None:
        call = self._call
        if call is not None and call.usage.response_id:
            usage = Usage()
            extractor_of(type(response))(response, usage)
            if usage.response_id and usage.response_id != call.usage.response_id:
                self._record()
                call = None
        if call is None:
            call = self._call = Call(scope, scope.begun_ns)
        self._parts += 1
        call.saw(response)

    def _record(self) -> None:
        scope, call, self._call = self._scope, self._call, None
        if scope is None or call is None or not call.is_known:
            return
        if not (scope.tapped and scope.is_tapped(call.usage)):
            call.record_seen(is_streamed=self._parts > 1)
        self._parts = 0

    def __enter__(self) -> Self:
        self._scope = scope = self._tracker.begin((), {})
        if scope is not None:
            self._token = active.set(scope)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        scope = self._scope
        if scope is None:
            return
        streams.let_go(self._token)
        try:
            self._record()
            if error is None:
                scope.said_nothing()
        except Exception as mistake:  # noqa: BLE001  nothing may reach the host
            scope.recorder.guard.caught("llm: extract", mistake)
        if error is not None:
            fail(scope, error)
        else:
            scope.end()
        self._scope = None

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)
