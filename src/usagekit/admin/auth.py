"""Who may look: `BearerAuth`, and asking an app's own callable, which has five seconds."""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode
from hashlib import sha256
from inspect import iscoroutinefunction
from threading import BoundedSemaphore, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

from usagekit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["BearerAuth"]

CALLABLE_SECONDS = 5.0  # an app's own callable that takes longer is given up
_SHORTEST = 32  # characters
_FEWEST_DIFFERENT = 8  # characters; of 32 random hex digits fewer differ once in 10 million times
_LONGEST_HEADER = 8192
_TOKEN = re.compile(r"[!-+\--~]*")  # visible ASCII but the comma, which separates tokens
_PLACEHOLDERS = re.compile(
    r"change[-_. ]?(me|this)|placeholder|replace[-_. ]?(me|this)|(your|insert)[-_. ].*(here|token)"
)

_HOW = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


class BearerAuth:
    """Lets in who knows a token: `Authorization: Bearer TOKEN`, or HTTP Basic with the token as the password.

    The token never comes from a URL. All tokens are compared, in constant time. Made once; any thread may call it.

    Args:
        tokens: one or more, for changing them without a gap; each may be several, separated by commas, as
            `USAGEKIT_ADMIN_TOKEN` has them. At least 32 characters of visible ASCII each.

    Raises:
        ConfigurationError: no token, or one that is empty, short, a placeholder or could be guessed.
    """

    challenges = ('Basic realm="usagekit", charset="UTF-8"', 'Bearer realm="usagekit"')

    def __init__(self, *tokens: str) -> None:
        if not tokens:
            raise ConfigurationError(f"BearerAuth() has no token; {_HOW}")
        self._digests = tuple(_digest(part) for token in tokens for part in _split(token))

    def __repr__(self) -> str:
        return f"BearerAuth({len(self._digests)} tokens)"

    def __call__(self, request: Any) -> bool | None:
        """Give True for a request that brings a token, None for any other."""
        given = _given(request)
        if given is None:
            return None
        digest = sha256(given).digest()
        # No generator: it would stop at the first one that fits.
        fits = [hmac.compare_digest(digest, known) for known in self._digests]
        return True if any(fits) else None


def _split(tokens: object) -> list[str]:
    if not isinstance(tokens, str):
        raise ConfigurationError(f"the admin token is a {type(tokens).__name__}; give text; {_HOW}")
    return [token.strip() for token in tokens.split(",")]


def _digest(token: str) -> bytes:
    """Give what a token is compared by; the messages never show it."""
    problem = None
    if not token:
        problem = "is empty"
    elif not _TOKEN.fullmatch(token):
        problem = "holds white space, or characters that no header can carry"
    elif len(token) < _SHORTEST:
        problem = f"has {len(token)} characters, and needs at least {_SHORTEST}"
    elif len(set(token)) < _FEWEST_DIFFERENT or _PLACEHOLDERS.search(token.lower()):
        problem = "is a placeholder, or could be guessed"
    if problem is not None:
        raise ConfigurationError(f"the admin token {problem}; {_HOW}")
    return sha256(token.encode("ascii")).digest()


def _given(request: Any) -> bytes | None:
    """Give the token that a request brings; None where there is none, or more than one."""
    scope = request.scope
    if scope is not None and sum(name == b"authorization" for name, _ in scope["headers"]) > 1:
        return None
    header = request.headers.get("authorization") or ""
    if len(header) > _LONGEST_HEADER:
        return None
    scheme, _, credentials = header.strip().partition(" ")
    value = credentials.strip().encode("utf-8", "surrogatepass")
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() != "basic":
        return None
    try:
        return b64decode(value, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return None


class Unanswered(Exception):  # noqa: N818  not always an error: it may just have been too slow
    """A callable of the app raised, hung, or could not be awaited here; `why` may be logged."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def refuse_async(function: Any, name: str) -> None:
    """Raise `ConfigurationError` for an async callable, where nothing can await it."""
    if is_async(function):
        raise ConfigurationError(f"{name}= is async, and nothing awaits it under WSGI; give a plain function")


def is_async(function: Any) -> bool:
    """Say whether calling `function` surely gives an awaitable."""
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def ask(function: Callable[[Any], object], view: Any, awaiting: Callable[[Awaitable[Any]], object] | None) -> object:
    """Give what an app's callable says of a request; raises `Unanswered`.

    It runs in a thread of its own, with this one's context, since nothing else can be left behind when it hangs.

    Args:
        function: `auth` or `scope`.
        view: of the request.
        awaiting: waits for an awaitable, and raises TimeoutError; None = nothing here can.
    """
    answer = within(CALLABLE_SECONDS, lambda: function(view))
    if not hasattr(answer, "__await__"):
        return answer
    if awaiting is None:
        raise _unawaited(answer)
    try:
        return awaiting(answer)
    except Exception as error:  # the app's own callable may raise anything
        raise Unanswered(type(error).__name__) from error


def ask_here(
    function: Callable[[Any], object], view: Any, _awaiting: Callable[[Awaitable[Any]], object] | None
) -> object:
    """Do as `ask` does, in this very thread, and judge afterwards whether it took too long.

    For frameworks that tie what they have, such as connections to a database, to the thread of the request.
    """
    began = monotonic()
    try:
        answer = function(view)
    except Exception as error:  # the app's own callable may raise anything
        raise Unanswered(type(error).__name__) from error
    if hasattr(answer, "__await__"):
        raise _unawaited(answer)
    if monotonic() - began > CALLABLE_SECONDS:
        raise Unanswered(f"no answer within {CALLABLE_SECONDS:g} s")
    return answer


def _unawaited(answer: Any) -> Unanswered:
    if hasattr(answer, "close"):
        answer.close()  # or Python warns that it was never awaited
    return Unanswered("it returned an awaitable, and nothing awaits it under WSGI")


_AT_ONCE = 32  # callables that hang leave a thread behind each
_free = BoundedSemaphore(_AT_ONCE)


def within(seconds: float, call: Callable[[], object]) -> object:
    """Give what `call` returns, if it does so within `seconds`; raises `Unanswered`."""
    from contextvars import copy_context

    outcome: list[tuple[bool, Any]] = []
    began = monotonic()
    if not _free.acquire(timeout=seconds):
        raise Unanswered(f"{_AT_ONCE} of its calls have not ended")

    def run() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:  # noqa: BLE001  it is looked at by whoever waits
            outcome.append((False, error))
        finally:
            _free.release()

    # A daemon: one that hangs for ever must not keep the process from ending.
    thread = Thread(target=copy_context().run, args=(run,), name="usagekit-admin", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # the system gives no more, or the interpreter ends
        _free.release()
        raise Unanswered("no thread could be started") from error
    thread.join(max(0.0, seconds - (monotonic() - began)))
    if not outcome:
        raise Unanswered(f"no answer within {seconds:g} s")
    done, value = outcome[0]
    if not done:
        raise Unanswered(type(value).__name__) from value
    return value
