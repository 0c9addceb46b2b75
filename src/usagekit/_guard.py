"""What stands between our failures and the host app: they are counted and logged, and go no further."""

from __future__ import annotations

from time import monotonic

from usagekit._clean import Tally
from usagekit.errors import RefusedError

LOG_SECONDS = 60.0  # one line per place in this time

reraise = False
"""Set by our own tests, so that a mistake of ours is seen at once; never set it in an app."""


class Guard:
    """Counts what failed, by place, and logs each place at most once a minute. Any thread may call it."""

    __slots__ = ("_counts", "_logged")

    def __init__(self) -> None:
        self._counts: dict[str, Tally] = {}
        self._logged: dict[str, float] = {}

    def caught(self, place: str, error: BaseException) -> None:
        """Note a failure that should not happen: the app's own callables, and our mistakes."""
        # The type alone: the text may hold what the app was working on, such as a user's id.
        self.noted(place, str(error) if isinstance(error, RefusedError) else type(error).__name__)
        if reraise:
            raise error

    def noted(self, place: str, error: BaseException | str) -> None:
        """Note a failure that the world brings along: a sink that is down, a disk that is full."""
        self._counts.setdefault(place, Tally()).add()
        now = monotonic()
        if now - self._logged.get(place, float("-inf")) >= LOG_SECONDS:
            self._logged[place] = now
            try:
                _log(place, error)
            except Exception:  # noqa: BLE001  handlers are the host's, and a message's text is whoever raised it's
                self._counts.setdefault("log", Tally()).add()

    def counted(self, place: str) -> None:
        """Count something that is worth knowing and no failure; nothing is logged."""
        self._counts.setdefault(place, Tally()).add()

    def counts(self) -> dict[str, int]:
        """Give how often each place failed in this process."""
        return {place: tally.value for place, tally in list(self._counts.items())}


def _log(place: str, error: BaseException | str) -> None:
    # Not loaded before it is needed, which may be when no file can be opened.
    from logging import getLogger

    # No traceback: frames hold what must not be logged.
    what = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    getLogger("usagekit").warning("%s: %s (further ones are only counted for a minute)", place, what)
