"""Making an object report what becomes of it, and nothing else of it different.

Its class is replaced by a subclass of it, so that attributes, `isinstance` and helpers work as ever. What was made in C
or has slots gets a stand-in, which passes on everything else.
"""

from __future__ import annotations

import copyreg
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Methods = Mapping[str, Callable[[Callable[..., Any]], Callable[..., Any]]]

__all__ = ["CALL", "Kinds", "dismiss", "is_watched"]

CALL = "_usagekit_call"
"""In the `__dict__` of what is watched: what it reports to. What has none is as any other object of its class."""

_REMEMBERED = 64  # types made at run time must not be kept for ever; far more than there are kinds of anything


def is_watched(thing: object) -> bool:
    """Tell whether an object reports to something already."""
    return isinstance(thing, _StandIn) or CALL in getattr(thing, "__dict__", ())


def dismiss(stand_in: object) -> Any:
    """Let a stand-in that nobody will get report nothing; gives what it would have reported to."""
    return vars(stand_in).pop(CALL)


class Kinds:
    """The subclasses, and classes of stand-ins, that were made for one purpose. One for each, as long as the process.

    Args:
        methods: makes the methods that report of those that a class has, by name.
        leaving: makes the method that is called when an object is dropped; None = that says nothing.
    """

    def __init__(
        self, methods: Methods, leaving: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
    ) -> None:
        self._methods = methods
        self._leaving = leaving
        self._made: dict[type, type] = {}

    def watched(self, thing: Any, call: object) -> Any:
        """Make an object report to `call`; gives it, or its stand-in."""
        if self.replace(thing, call):
            return thing
        kind = type(thing)
        stand_in = self._made.get(kind)
        if stand_in is None or not issubclass(stand_in, _StandIn):
            stand_in = self._made[kind] = self._stand_in_for(kind)
        return stand_in(thing, call)

    def replace(self, thing: Any, call: object) -> bool:
        """Make an object itself report to `call`; False where that cannot be."""
        kind, made = type(thing), self._made
        watched = made.get(kind)
        try:
            if watched is None:
                if len(made) >= _REMEMBERED:
                    made.clear()
                watched = made[kind] = kind if kind in made.values() else self._subclass(kind)
            if issubclass(watched, _StandIn):
                return False
            thing.__class__ = watched
            vars(thing)[CALL] = call
        except Exception:  # noqa: BLE001  slots, made in C, or a class that refuses subclasses in a way of its own
            return False
        return True

    def _subclass(self, kind: Any) -> type:
        names = _named_as(kind)
        for name, make in self._methods.items():
            method = getattr(kind, name, None)
            if method is not None:
                names[name] = make(method)
        if self._leaving is not None:
            names["__del__"] = self._leaving(getattr(kind, "__del__", _nothing))
        for name in ("__reduce_ex__", "__copy__", "__deepcopy__"):
            if hasattr(kind, name):
                names[name] = _copying(kind, name)
        made: type = type(kind)(kind.__name__, (kind,), names)
        return made

    def _stand_in_for(self, kind: Any) -> type[_StandIn]:
        """Make the class of stand-ins: it has the special methods that the class has, and no others.

        Frameworks tell an asynchronous stream from others by its having `__aiter__`.
        """
        names = _named_as(kind)
        for base in kind.__mro__[:-1]:
            for name, method in vars(base).items():
                if name[:2] == name[-2:] == "__" and callable(method) and name not in _NOT_PASSED_ON:
                    names[name] = _passing_on(name, getattr(kind, name))
        for name, make in self._methods.items():
            method = getattr(kind, name, None)
            if method is not None:
                names[name] = make(_passing_on(name, method))
        if self._leaving is not None:
            names["__del__"] = self._leaving(_nothing)
        return type(kind.__name__, (_StandIn,), names)


def _named_as(kind: Any) -> dict[str, Any]:
    return {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}


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
        call = vars(self).pop(CALL, None)
        self.__class__ = kind
        try:
            return _apart(method(self, *args), vars(self))
        finally:
            self.__class__ = watched
            if call is not None:
                vars(self)[CALL] = call

    return copying


def _apart(made: Any, fields: dict[str, Any]) -> Any:
    """Give what `__reduce_ex__` made without what is of the object itself, which goes on reporting."""
    if made is fields:
        return dict(fields)
    if made is copyreg.__newobj__ or made is copyreg.__newobj_ex__:  # type: ignore[attr-defined]
        return partial(made)  # by their names, `pickle` insists on the object's class
    return tuple(_apart(part, fields) for part in made) if type(made) is tuple else made


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
        vars(self).update({"_usagekit_stream": stream, CALL: call})

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
