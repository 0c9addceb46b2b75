"""Loading with the first use what costs start-up time, and no fork in the middle of it.

While a thread imports a module, it holds that module's lock. A child that is born then has the lock and not the thread:
it would wait for ever as soon as it wants the module. So forks wait until no other thread is loading.
"""

from __future__ import annotations

import os
from _thread import get_ident  # `threading` costs start-up time itself
from time import monotonic, sleep

__all__ = ["loading"]

FORK_SECONDS = 30.0  # a fork waits no longer than that: the first import on a busy machine takes seconds
_LOOK_SECONDS = 0.001


class _Loading:
    """A context manager around imports in functions that record; any thread may enter it, also twice.

    No thread waits for another one here, which may be waiting for the lock of a module that it holds itself.
    """

    def __init__(self) -> None:
        self._inside: dict[int, int] = {}  # how often, by thread
        self._is_minded = False

    def __enter__(self) -> None:
        if not self._is_minded:
            self._mind_forks()
        thread = get_ident()
        self._inside[thread] = self._inside.get(thread, 0) + 1

    def __exit__(self, *_: object) -> None:
        thread = get_ident()
        times = self._inside[thread] - 1
        if times:
            self._inside[thread] = times
        else:
            del self._inside[thread]

    def _mind_forks(self) -> None:
        self._is_minded = True
        # Hooks run last come, first served. The one of `logging` takes its lock, which who loads may need: after ours.
        import logging  # noqa: F401

        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before_fork, after_in_child=self._after_in_child)

    def _before_fork(self) -> None:
        deadline = monotonic() + FORK_SECONDS
        while set(self._inside) - {get_ident()} and monotonic() < deadline:
            sleep(_LOOK_SECONDS)

    def _after_in_child(self) -> None:
        times = self._inside.get(get_ident())
        self._inside = {} if times is None else {get_ident(): times}


loading = _Loading()
