"""What stands in the place of the compiled `Pen` where that was not built: it numbers records, and writes none."""

from __future__ import annotations

from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pen"]


class Pen:
    """Numbers the records of one journal file; see `_speedups.c`."""

    __slots__ = ("fd", "lending", "pid", "take")

    def __init__(self, fd: int, pid: int, look_every: int, accept: Callable[[], object], /) -> None:
        self.fd = fd
        self.pid = pid
        self.lending = False
        self.take: Callable[[], int] = count(1).__next__
