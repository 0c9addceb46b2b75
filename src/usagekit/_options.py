"""What the options of public objects may be: one that cannot work is refused when the object is made.

Each check raises `ConfigurationError`, which says what was given, why it cannot work, and what to give instead.
"""

from __future__ import annotations

from usagekit.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = [
    "check_callable",
    "check_dimensions",
    "check_identify",
    "check_middleware",
    "check_processors",
    "check_recorder",
    "check_switch",
    "check_whole",
    "listed",
    "refuse",
]


def refuse(option: str, value: object, why: str, instead: str) -> NoReturn:
    """Raise the error that says why `value` cannot be that option, and what to give instead."""
    msg = f"{option}={value!r} {why}; give {instead}"
    raise ConfigurationError(msg)


def listed(option: str, values: Any, example: str) -> tuple[Any, ...]:
    """Give what an option lists, which is anything that can be iterated over but a single string."""
    if isinstance(values, (str, bytes)):
        refuse(option, values, "is one string", f"a list: {option}=[{values!r}]")
    try:
        return tuple(values)
    except TypeError:
        refuse(option, values, "is no list", f"one: {option}=[{example}]")


def check_callable(option: str, value: object, instead: str) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        refuse(option, value, "cannot be called", instead)


def check_whole(option: str, value: object, instead: str) -> None:
    """Refuse what is no whole number above 0."""
    if type(value) is not int or value < 1:
        refuse(option, value, "is no whole number above 0", instead)


def check_switch(option: str, value: object) -> None:
    """Refuse what is neither True nor False: a text such as `"no"` would count as True."""
    if not isinstance(value, bool):
        refuse(option, value, "is neither True nor False", f"one of them: {option}=True")


def check_recorder(option: str, value: object) -> None:
    """Refuse what does not record; None is for each to say what it means."""
    if value is not None and (isinstance(value, type) or not hasattr(value, "record_request")):
        refuse(option, value, "is no recorder", "one: usagekit.Recorder(SQLiteBackend('usage.db'))")


def check_middleware(recorder: object, identify: object, event: object, max_routes: object) -> None:
    """Refuse what cannot be an option of a middleware."""
    check_recorder("recorder", recorder)
    check_identify(identify)
    if not isinstance(event, str) and not callable(event):
        refuse("event", event, "is no event type", "a text, or a function of the request: event='request'")
    check_whole("max_routes", max_routes, "how many routes to tell apart: max_routes=1000")


def check_identify(value: object) -> None:
    """Refuse what cannot say who asks."""
    if value is not None:
        check_callable("identify", value, "a function of the request that returns a user's id, or None")


def check_processors(values: Any) -> tuple[Any, ...]:
    """Give processors as a tuple; refuses what is none, and one that is in no list."""
    if callable(values):
        refuse("processors", values, "is one processor", "a list: processors=[...]")
    processors = listed("processors", values, "hash_users(key)")
    for processor in processors:
        check_callable(
            "processors=[...]", processor, "functions of an event that return it, another, or None to drop it"
        )
    return processors


_TAKEN = frozenset(
    "id time latency_ms attributes weight event_id period start end days tz by order limit measures origin timeout"
    " format sort page self recorder first_token_ms stream_usage".split()
)
"""Names of options, beside which a dimension of the same name could not be given."""


def check_dimensions(names: object) -> tuple[str, ...]:
    """Give the declared dimensions, each once; refuses what is no name, or one of ours."""
    given = listed("dimensions", names, "'project'")
    for name in given:
        if not isinstance(name, str) or not name.isidentifier():
            refuse("dimensions=[...]", name, "is no name", "one of letters, digits and _: dimensions=['project']")
    checked = tuple(dict.fromkeys(map(str, given)))
    if not checked:
        return ()
    from usagekit.query import BUCKETS, DIMENSIONS, MEASURES

    taken = {*DIMENSIONS, *BUCKETS, *MEASURES, *_TAKEN}
    for name in checked:
        if name in taken or name.endswith("_tokens"):
            msg = f"dimension {name!r} is one of usagekit's own names; choose another"
            raise ConfigurationError(msg)
    return checked
