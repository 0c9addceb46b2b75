"""An option that cannot work is one error that says what was given, why it cannot work, and what to give instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import flask
import pytest

import usagekit.asgi
import usagekit.flask
import usagekit.wsgi
from usagekit import ConfigurationError, Recorder, set_default_recorder, track_tokens
from usagekit.admin import usage_wsgi_app
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.opentelemetry import UsageSpanProcessor
from usagekit.processors import exclude, hash_users, sample
from usagekit.recorder import default_recorder

if TYPE_CHECKING:
    from pathlib import Path

NUMBER: Any = 5
NONE: Any = None
TEXT: Any = "90"
CLASS: Any = SQLiteBackend


async def asgi_app(*_: object) -> None:
    """Serve nothing."""


def wsgi_app(*_: object) -> list[bytes]:
    """Serve nothing."""
    return []


MIDDLEWARES: dict[str, Any] = {
    "asgi": lambda **options: usagekit.asgi.UsageMiddleware(asgi_app, **options),
    "wsgi": lambda **options: usagekit.wsgi.UsageMiddleware(wsgi_app, **options),
    "flask": lambda **options: usagekit.flask.init_app(
        flask.Flask(__name__),
        **{"recorder": Recorder(), **options},
    ),
}


@pytest.mark.parametrize("name", MIDDLEWARES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recorder": "usage.db"}, "recorder='usage.db' is no recorder; give one: usagekit.Recorder("),
        ({"recorder": Recorder}, "recorder=<class 'usagekit.recorder.Recorder'> is no recorder; give one"),
        ({"identify": "ann"}, "identify='ann' cannot be called; give a function of the request"),
        ({"event": NUMBER}, "event=5 is no event type; give a text, or a function of the request"),
        ({"event": None}, "event=None is no event type; give a text, or a function of the request"),
        ({"max_routes": "5"}, "max_routes='5' is no whole number above 0; give how many routes to tell apart"),
        ({"max_routes": 0}, "max_routes=0 is no whole number above 0; give how many routes to tell apart"),
        ({"sample": "0.5"}, "sample='0.5' cannot be drawn; sample=10 counts one request in ten"),
        ({"sample": 0.5}, "sample=0.5 cannot be drawn; sample=10 counts one request in ten"),
        ({"exclude": "/health"}, "exclude='/health' is one string; give a list: exclude=['/health']"),
        ({"exclude": None}, "exclude=None is no list; give one: exclude=['/health']"),
        ({"exclude": [NUMBER]}, "exclude holds 5; give paths, patterns with *, or compiled regular expressions"),
        ({"exclude": ["health"]}, "exclude=[...]='health' is no path, which begins with /; give one: exclude=['/h"),
    ],
)
def test_options_of_the_middlewares(name: str, options: dict[str, Any], message: str) -> None:
    """Set-up raises before anything was changed."""
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}"):
        MIDDLEWARES[name](**options)

    assert default_recorder() is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": "project"}, "dimensions='project' is one string; give a list: dimensions=['project']"),
        ({"dimensions": None}, "dimensions=None is no list; give one: dimensions=['project']"),
        ({"dimensions": [NUMBER]}, "dimensions=[...]=5 is no name; give one of letters, digits and _"),
        ({"dimensions": ["a b"]}, "dimensions=[...]='a b' is no name; give one of letters, digits and _"),
        ({"dimensions": ["user"]}, "dimension 'user' is one of usagekit's own names; choose another"),
        ({"dimensions": ["self"]}, "dimension 'self' is one of usagekit's own names; choose another"),
        ({"identify": "ann"}, "identify='ann' cannot be called; give a function of the request"),
        ({"processors": hash_users("k" * 16)}, "processors=<usagekit.processors._UserHash object at "),
        ({"processors": [NUMBER]}, "processors=[...]=5 cannot be called; give functions of an event"),
        ({"processors": NUMBER}, "processors=5 is no list; give one: processors=[hash_users(key)]"),
        ({"durability": "disk"}, "durability='disk' is unknown; use 'journal' or 'memory'"),
        ({"quota_bytes": "1GB"}, "quota_bytes='1GB' is no whole number above 0; give how many bytes may wait"),
        ({"quota_bytes": 0}, "quota_bytes=0 is no whole number above 0; give how many bytes may wait"),
        ({"prices": ["acme"]}, "prices=['acme'] is no mapping; give prices by model: prices={'my-model': {"),
        ({"path": NUMBER}, "path=5 is no path; give that of the ledger's file: path='usage.db'"),
    ],
)
def test_options_of_recorders(options: dict[str, Any], message: str) -> None:
    """No ledger is made."""
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}"):
        Recorder(MemoryBackend(), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recorder(CLASS), "SQLiteBackend is a class; give one that is made of it: Recorder(SQLiteBackend("),
        (lambda: Recorder(MemoryBackend), "MemoryBackend is a class; give one that is made of it"),
        (lambda: Recorder("usage.db"), "'usage.db' is no backend: it has neither write nor read; give SQLiteBackend("),
        (lambda: SQLiteBackend(NUMBER), "path=5 is no path; give that of the ledger's file: SQLiteBackend('usage.db')"),
        (lambda: SQLiteBackend("u.db", retention_days=TEXT), "retention_days='90' is no whole number above 0; give a"),
        (lambda: SQLiteBackend("u.db", rollup_retention_days=TEXT), "rollup_retention_days='90' is no whole number"),
        (lambda: MemoryBackend(TEXT), "limit='90' is no whole number above 0; give how many events to keep, or None"),
        (lambda: MemoryBackend(dimensions=TEXT), "dimensions='90' is one string; give a list: dimensions=['90']"),
        (lambda: usagekit.asgi.UsageMiddleware(NUMBER), "app=5 cannot be called; give the ASGI app to wrap"),
        (lambda: usagekit.wsgi.UsageMiddleware(NUMBER), "app=5 cannot be called; give the WSGI app to wrap"),
        (
            lambda: usagekit.asgi.UsageMiddleware(asgi_app, websocket_close=TEXT),
            "websocket_close='90' is neither True nor False; give one of them: websocket_close=True",
        ),
        (lambda: usagekit.flask.init_app(NUMBER, Recorder()), "app=5 is no Flask app; give one: init_app(Flask("),
        (lambda: usagekit.flask.init_app(flask.Flask("a"), NONE), "recorder=None records nothing; give a usagekit."),
        (lambda: set_default_recorder(NUMBER), "recorder=5 is no recorder; give one: usagekit.Recorder("),
        (lambda: track_tokens(recorder=TEXT), "recorder='90' is no recorder; give one: usagekit.Recorder("),
        (lambda: track_tokens(stream_usage=TEXT), "stream_usage='90' is neither True nor False; give one of them"),
        (lambda: track_tokens(NUMBER), "function=5 cannot be called; give the one that calls a model, or nothing"),
        (
            lambda: UsageSpanProcessor(CLASS),
            "recorder=<class 'usagekit.backends.sqlite.SQLiteBackend'> is no recorder",
        ),
        (lambda: sample(TEXT), "one_in='90' is no whole number above 0; give N to keep one event in N: sample(10)"),
        (lambda: exclude(TEXT), "condition='90' cannot be called; give a function of an event"),
        (lambda: hash_users(NUMBER), "the key of hash_users is a int; give at least 16 random bytes, or text"),
        (lambda: usage_wsgi_app(MemoryBackend(), auth=TEXT), "auth=a text lets nobody be told from anybody; give"),
        (lambda: usage_wsgi_app(MemoryBackend(), auth=bool, scope=TEXT), "auth is the class bool; give an object"),
        (
            lambda: usage_wsgi_app(MemoryBackend(), auth=callable, names=TEXT),
            "names='90' names nobody; give a function of a list of user ids that returns a mapping of names",
        ),
    ],
)
def test_options_of_everything_else(make: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set-up raises at once, and leaves no file behind."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}"):
        make()

    assert list(tmp_path.iterdir()) == []
    assert default_recorder() is None
