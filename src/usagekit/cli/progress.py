"""A progress bar on stderr."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING

from usagekit import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

SHOW_SECONDS = 0.1


class Progress:
    """Shows how far something is, when stderr is a terminal and the work takes a while; a context manager.

    Args:
        doing: what is being done, one word.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._next = monotonic() + cli.PROGRESS_AFTER
        self._shown: Callable[[int, int], None] | None = None
        self._end: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def show(self, done: int, total: int) -> None:
        """Show that `done` of `total` is done; may be called as often as one likes."""
        if monotonic() < self._next or not sys.stderr.isatty():
            return
        self._next = monotonic() + SHOW_SECONDS
        if self._shown is None:
            try:
                self._shown, self._end = _begin_rich(self._doing)
            except ImportError:
                self._shown, self._end = self._plain, lambda: print(file=sys.stderr)
        self._shown(done, total)

    def _plain(self, done: int, total: int) -> None:
        print(f"\r{self._doing}: {done / max(1, total):.0%}", end="", file=sys.stderr, flush=True)


def _begin_rich(doing: str) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn(doing),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = progress.add_task(doing, total=None)
    progress.start()
    return lambda done, total: progress.update(task, completed=done, total=total), progress.stop
