"""What is in flight: whom the present request or block counts for.

One mutable `Measurement` stands in a context variable. Threads and tasks that copy the context share the object, so
`bind` in a sync endpoint, a dependency or a streamed body reaches the middleware's own event. Tasks,
`asyncio.to_thread` and the thread pools of the frameworks copy it by themselves. Your own threads and executors do not:

```python
context = contextvars.copy_context()  # one per thread: a context can only be entered once at a time
threading.Thread(target=context.run, args=(work, item)).start()
executor.submit(contextvars.copy_context().run, work, item)
```
"""

from __future__ import annotations

from contextvars import ContextVar

from usagekit._guard import Guard
from usagekit.errors import RefusedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping
    from contextlib import AbstractContextManager
    from typing import Any

    from blinker import Signal

    from usagekit.recorder import Recorder

__all__ = ["Identity", "Measurement", "bind", "bound"]

receivers_of: dict[str, Signal] | None = None
"""Set by `usagekit.signals` when it is imported."""

_guard = Guard()  # for what happens outside any recorder


class Identity:
    """Whom a request counts for, as `identify` may return it.

    Args:
        user: the user's id; None = unknown.
        org: the organisation's id; None = unknown.
        dimensions: the app's own dimensions, declared on the recorder.
    """

    __slots__ = ("dimensions", "org", "user")

    def __init__(self, user: object = None, org: object = None, **dimensions: object) -> None:
        self.user = user
        self.org = org
        self.dimensions = dimensions

    def __repr__(self) -> str:
        # Ids are personal data, and reprs end up in logs.
        return "Identity(...)"


class Measurement:
    """Whom and what the present request, or `bound` block, counts for; values are as the app gave them.

    Lives as long as its request, and longer where a task or thread still refers to it.

    Attributes:
        recorder: which records it.
        identify: says who asks where nothing was bound; None = nobody to ask.
        parent: what surrounds it; None = nothing.
        bound: what `bind` was told: `user`, `org`, `event` and own dimensions; None = nothing.
        found: user, org and own dimensions as `identify` said; None = nothing so far.
        settled: nothing is left to record here, or it is not to be recorded at all.
    """

    __slots__ = ("bound", "found", "identify", "parent", "recorder", "settled")

    def __init__(
        self,
        recorder: Recorder | None,
        identify: Callable[[Any], object] | None = None,
        parent: Measurement | None = None,
    ) -> None:
        self.recorder = recorder
        self.identify = identify
        self.parent = parent
        self.bound: dict[str, object] | None = None
        self.found: tuple[object, object, dict[str, object] | None] | None = None
        self.settled = False

    def request(self) -> Any:
        """Give the read-only view of the request that `identify` gets; overridden by the middlewares."""
        return None

    def route(self) -> str:
        """Give the route of the request in flight, as far as it is known; `""` outside one."""
        return "" if self.parent is None else self.parent.route()

    def identity(self) -> tuple[object, object, dict[str, object] | None]:
        """Give user, org and own dimensions: what was bound, else what `identify` says, else what surrounds it.

        `identify` is asked at most once successfully; while it says None it is asked again at the next occasion.
        """
        bound, found = self.bound, self.found
        if found is None and self.identify is not None and (bound is None or not bound.keys() >= _WHOSE):
            try:
                self.found = found = told_by(self.identify(self.request()))
            except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
                (_guard if self.recorder is None else self.recorder.guard).caught("identify", error)
        if bound is None and self.parent is None:
            return found or _NOBODY
        user = org = attributes = None
        if bound is not None:
            user, org = bound.get("user"), bound.get("org")
            attributes = {name: value for name, value in bound.items() if name not in _NOT_DIMENSIONS}
        if found is not None:
            found_user, found_org, found_attributes = found
            if user is None:
                user = found_user
            if org is None:
                org = found_org
            if found_attributes:
                attributes = found_attributes | (attributes or {})
        if self.parent is not None:
            outer_user, outer_org, outer_attributes = self.parent.identity()
            user = outer_user if user is None else user
            org = outer_org if org is None else org
            if outer_attributes:
                attributes = outer_attributes | (attributes or {})
        return user, org, attributes

    def event_type(self, event: object) -> object:
        """Give the event type of a request: what was bound, else what the callable `event` says, else `event`."""
        if self.bound is not None and "event" in self.bound:
            return self.bound["event"]
        if not callable(event):
            return event
        try:
            answer = event(self.request())
            _refuse_awaitable(answer, "event")
        except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
            (_guard if self.recorder is None else self.recorder.guard).caught("event", error)
            return "request"
        return answer or "request"

    def see(self, scope: MutableMapping[str, Any], *, is_static: bool = False) -> None:
        """Take what a framework told of the request inside the app; only ASGI requests do anything with it."""
        if self.parent is not None:
            self.parent.see(scope, is_static=is_static)

    def leave_out(self) -> None:
        """Take note that this request is not to be counted, by whoever measures it."""
        self.settled = True
        if self.parent is not None:
            self.parent.leave_out()

    def bind(self, values: dict[str, object]) -> None:
        """Take what is now known; None values change nothing."""
        # False is nobody: `user.is_authenticated and user.id`.
        known = {name: value for name, value in values.items() if value is not None and value is not False}
        self.bound = known if self.bound is None else self.bound | known


_NOBODY: tuple[None, None, None] = (None, None, None)
_WHOSE = frozenset({"user", "org"})
_NOT_DIMENSIONS = frozenset({"user", "org", "event"})


def told_by(answer: object) -> tuple[object, object, dict[str, object] | None] | None:
    """Read what an `identify` returned: a user id, an `Identity` or None; raises `RefusedError` for anything else."""
    if type(answer) is str and answer:
        return answer, None, None
    if type(answer) is Identity:
        return answer.user, answer.org, answer.dimensions
    if answer is None or answer is False or answer == "":  # False: `user.is_authenticated and user.id`
        return None
    if answer is not True and (isinstance(answer, (str, int)) or hasattr(answer, "hex")):  # uuid.UUID, not imported
        return answer, None, None
    _refuse_awaitable(answer, "identify")
    msg = f"identify returned a {type(answer).__name__}; return a user id, an Identity or None"
    raise RefusedError(msg)


def _refuse_awaitable(answer: object, name: str) -> None:
    if not hasattr(answer, "__await__"):
        return
    if hasattr(answer, "close"):
        answer.close()  # or Python warns that it was never awaited
    can = "; only the ASGI middleware takes an async one, written with `async def`" if name == "identify" else ""
    msg = f"{name} returned an awaitable where an answer is needed{can}"
    raise RefusedError(msg)


current: ContextVar[Measurement | None] = ContextVar("usagekit", default=None)


def leave_out() -> None:
    """Have no middleware count the request in flight: it is one to usagekit's own page."""
    measurement = current.get()
    if measurement is not None:
        measurement.leave_out()


def bind(*, user: object = None, org: object = None, event: object = None, **dimensions: object) -> None:
    """Say whom the request in flight counts for, and every event in it from here on.

    Call it anywhere in the request, as soon as you know; what is bound wins over `identify`. Only what is given
    changes. Outside a request it changes nothing, says so once, and never raises: use `bound` there.

    Args:
        user: the user's id.
        org: the organisation's id.
        event: event type of the request's own event, instead of the middleware's.
        dimensions: values of the app's own dimensions, declared on the recorder.
    """
    measurement = current.get()
    if measurement is None:
        _guard.noted("bind", "called outside a request, where it does nothing; use `with usagekit.bound(...):`")
        return
    measurement.bind({"user": user, "org": org, "event": event} | dimensions)


def bound(*, user: object = None, org: object = None, **dimensions: object) -> AbstractContextManager[None]:
    """Say whom the events in a `with` block count for: in jobs, scripts, workers, anywhere outside a request.

    Blocks nest, and a block inside a request adds to what the request knows. Takes what `bind` takes but `event`. In a
    generator that a framework steps through in a thread pool, each step has a context of its own: use `bind` there.
    """
    from contextlib import contextmanager, suppress

    @contextmanager
    def block() -> Iterator[None]:
        outer = current.get()
        measurement = Measurement(None if outer is None else outer.recorder, parent=outer)
        if type(outer) is Measurement:
            # Another block: what it knows is taken over, so that jobs that schedule their successors make no chain.
            measurement.parent, measurement.bound = outer.parent, outer.bound
        measurement.bind({"user": user, "org": org} | dimensions)
        token = current.set(measurement)
        try:
            yield
        finally:
            # Generators may be left in another context than they were entered in.
            with suppress(ValueError):
                current.reset(token)

    return block()
