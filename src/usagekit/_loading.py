"""Loading with the first use what costs start-up time, and no fork in the middle of it.

While a thread imports a module, it holds that module's lock. A child that is born then has the lock and not the thread:
it would wait for ever as soon as it wants the module. So forks wait until nothing is being loaded.
"""

from __future__ import annotations

import os
from _thread import RLock, get_ident  # `threading` costs start-up time itself

__all__ = ["loading"]

FORK_SECONDS = 2.0  # a fork waits no longer than that


class _Loading:
    """A context manager around imports in functions that record; any thread may enter it, also twice."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._waited: dict[int, bool] = {}  # forking threads, and whether they got the lock

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        self._waited[get_ident()] = self._lock.acquire(timeout=FORK_SECONDS)

    def after_in_parent(self) -> None:
        if self._waited.pop(get_ident(), False):
            self._lock.release()

    def after_in_child(self) -> None:
        if self._waited.get(get_ident(), False):
            self._lock.release()
        else:
            self._lock = RLock()  # the old one is for ever that of a thread that is not here
        self._waited.clear()


loading = _Loading()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=loading.before_fork, after_in_parent=loading.after_in_parent, after_in_child=loading.after_in_child
    )
