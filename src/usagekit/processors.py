"""Callables that change an event, or drop it, before it is accepted.

A processor takes a `UsageEvent` and returns one, the same or another (`dataclasses.replace`), or None to drop it. It
runs on the thread that records: be quick. One that raises is counted, logged and passed over for that event.
"""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from usagekit import _clean
from usagekit._options import check_callable, check_whole
from usagekit.errors import ConfigurationError
from usagekit.event import UsageEvent

__all__ = ["Processor", "exclude", "hash_users", "sample"]

Processor = Callable[[UsageEvent], UsageEvent | None]
"""What a processor is."""

_SHORTEST_KEY = 16  # bytes


def exclude(condition: Callable[[UsageEvent], bool]) -> Processor:
    """Drop the events for which `condition` is true; they are not counted as rejected."""
    check_callable("condition", condition, "a function of an event: exclude(lambda event: event.user == 'probe')")

    def excluding(event: UsageEvent) -> UsageEvent | None:
        return None if condition(event) else event

    return excluding


def sample(one_in: int, *, kind: str = "request") -> Processor:
    """Keep one in `one_in` events of a kind, at random, with the weight that keeps totals right on average.

    Raises:
        ConfigurationError: `one_in` is below 1.
    """
    check_whole("one_in", one_in, "N to keep one event in N: sample(10)")

    def sampling(event: UsageEvent) -> UsageEvent | None:
        if event.kind != kind or one_in == 1:
            return event
        if random.randrange(one_in):  # noqa: S311  statistics, no secret
            return None
        return replace(event, weight=event.weight * one_in)

    return sampling


class _UserHash:
    """What `hash_users` gives: a processor that can also say what an id becomes."""

    def __init__(self, secret: bytes, key_id: str) -> None:
        self._secret = secret
        self._key_id = key_id

    def __call__(self, event: UsageEvent) -> UsageEvent | None:
        return replace(event, user=self.hashed(event.user))

    def hashed(self, user: object) -> str:
        """Give what a user's id is recorded as, of any type that `track` takes; that of nobody is `""`."""
        user = _clean.text(user)
        if not user:
            return ""
        return f"h{self._key_id}:{hmac.new(self._secret, user.encode(), hashlib.sha256).hexdigest()[:32]}"


def hash_users(key: str | bytes, *, key_id: str = "1") -> _UserHash:
    """Replace user ids by a keyed hash (HMAC-SHA-256), the same for the same id as long as the key is the same.

    A plain hash of an e-mail address can be guessed; this one cannot without the key. To find a user again, hash the
    id with the same key: the processor's `hashed` method does it.

    Args:
        key: the secret, at least 16 bytes.
        key_id: names the key in every hashed id, `"h1:..."`, so that keys can be changed.

    Raises:
        ConfigurationError: the key is too short, or its id is no name.
    """
    secret: Any = key.encode() if isinstance(key, str) else key
    if not isinstance(secret, bytes):
        msg = f"the key of hash_users is a {type(key).__name__}; give at least {_SHORTEST_KEY} random bytes, or text"
        raise ConfigurationError(msg)
    if len(secret) < _SHORTEST_KEY:
        msg = f"the key of hash_users has {len(secret)} bytes; give at least {_SHORTEST_KEY} random ones"
        raise ConfigurationError(msg)
    if not key_id.isalnum():
        msg = f"key_id={key_id!r} cannot be part of an id; use letters and digits"
        raise ConfigurationError(msg)
    return _UserHash(secret, key_id)
