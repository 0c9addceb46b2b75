"""Callables that change an event before it is accepted."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from typing import TYPE_CHECKING

import pytest

from usagekit import ConfigurationError, Recorder, UsageEvent, usage
from usagekit.backends.memory import MemoryBackend
from usagekit.processors import hash_users

if TYPE_CHECKING:
    from usagekit.processors import Processor

KEY = "a secret of at least 16 bytes"


def user_after(processor: Processor, user: str) -> str:
    """Give the user of an event that a processor has seen."""
    event = processor(UsageEvent(user=user, org="acme"))
    assert event is not None
    assert event.org == "acme"
    return event.user


def test_hashed_users_are_an_hmac_that_names_its_key() -> None:
    """HMAC-SHA-256 of the id's UTF-8, its first 128 bits; text and bytes are the same key."""
    expected = hmac.new(KEY.encode(), "zoë".encode(), hashlib.sha256).hexdigest()[:32]

    assert user_after(hash_users(KEY), "zoë") == f"h1:{expected}"
    assert user_after(hash_users(key=KEY.encode(), key_id="2026q4"), "zoë") == f"h2026q4:{expected}"
    assert user_after(hash_users("another " + KEY), "zoë") != f"h1:{expected}"


def test_unknown_users_stay_unknown() -> None:
    """A hash of nothing would make a user of them."""
    assert user_after(hash_users(KEY), "") == ""


def test_ids_are_found_as_they_are_recorded() -> None:
    """Of whatever type."""
    processor = hash_users(KEY)
    for user in (42, uuid.UUID(int=7), "ann\x00"):
        backend = MemoryBackend()
        with Recorder(backend, processors=[processor]) as recorder:
            recorder.track("export", user=user)
        assert [event.user for event in backend.events] == [processor.hashed(user)]
    assert processor.hashed(None) == ""


def test_keys_can_change_and_each_finds_its_own() -> None:
    """`hashed` gives what to look for; a second processor's key leaves the first one's ids alone."""
    backend = MemoryBackend()
    old, new = hash_users(KEY, key_id="1"), hash_users(KEY[::-1], key_id="2")
    for processor in (old, new):
        with Recorder(backend, processors=[processor]) as recorder:
            recorder.track("export", user="ann")
            assert recorder.flush()

    for processor in (old, new):
        ann = processor.hashed("ann")
        assert usage(backend, where={"user": ann}, measures="events").totals == {"events": 1}
    assert usage(backend, where={"user": "ann"}, measures="events").totals == {"events": 0}


@pytest.mark.parametrize(
    ("key", "key_id", "message"),
    [
        ("fifteen bytes !", "1", "has 15 bytes; give at least 16"),
        (KEY, "", "key_id='' cannot be part of an id"),
        (KEY, "1:2", "key_id='1:2' cannot be part of an id"),
    ],
)
def test_keys_that_cannot_work_are_refused(key: str, key_id: str, message: str) -> None:
    """When the processor is made."""
    with pytest.raises(ConfigurationError, match=message):
        hash_users(key, key_id=key_id)
