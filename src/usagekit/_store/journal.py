"""The accept point: append-only files, one set per process, that survive the process.

Every event is one `write` to a file that only this process appends to. Nothing here takes a lock, starts a thread
or waits. Whoever imports (see `ledger`) may read any journal of the directory at any time; the owner's POSIX lock
says only whether somebody may still append, and so guards deletion.
"""

from __future__ import annotations

import errno
import os
from os import getpid, write
from time import monotonic, time
from weakref import WeakValueDictionary
from zlib import crc32

from usagekit._clean import Tally

try:
    from usagekit._speedups import Pen
except ImportError:  # docs/deploying.md says where it is not built
    from usagekit._store.plain_pen import Pen  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self

SUFFIX = ".journal"
SEGMENT_RECORDS = (
    8192  # a longer file is left to the importer, and a new one begun: about 1 MiB; looked at with the quota
)
DEFAULT_QUOTA = 1024**3

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNBORN = ".new"
_UNBORN_SECONDS = 60.0  # nobody needs that long between creating a file and naming it
_BLANK_BYTES = 64 * 1024
_AHEAD_BYTES = 1024**2
_LOOK_RECORDS = 64  # between looks at the quota
_MEASURE_SECONDS = 0.05  # between looks at the whole directory, at the least
_IS_COMPILED = hasattr(Pen, "write")

_live: WeakValueDictionary[str, Segment] = WeakValueDictionary()
"""Journals that this process may still append to, by name.

POSIX locks do not hold against the process that has them, and closing any descriptor of a file drops its locks:
this process must neither lock nor open its own living journals a second time.
"""


def nothing() -> None:
    """Do nothing: what stands where nobody was told what to do."""


def ignored(error: OSError) -> None:
    """Do nothing about it."""


class _Descriptor:
    """Closes a file descriptor with its last reference.

    An object of its own: one with `__del__` can be brought back by a weak reference while it is being finalised.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.number)


class Segment(Pen):
    """One journal file while this process may append to it.

    Lives as long as anyone refers to it, a thread in the middle of a write included: only then is the descriptor
    closed, so its number can never come to mean another file under a writer's hands.
    """

    __slots__ = ("__weakref__", "_blanking", "_descriptor", "name", "path")

    def __init__(self, directory: str, pid: int, accept: Callable[[], object]) -> None:
        import fcntl

        self.name = os.urandom(12).hex()
        self.path = os.path.join(directory, self.name + SUFFIX)
        # Unborn files are nobody's to import or delete; the name appears together with the lock.
        unborn = self.path + _UNBORN
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = _Descriptor(os.open(unborn, flags, 0o600))
        super().__init__(self._descriptor.number, pid, _LOOK_RECORDS, accept)
        self._blanking: _Descriptor | None = None
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _live[self.name] = self
            os.rename(unborn, self.path)
        except BaseException:
            os.unlink(unborn)
            raise

    def blanking(self) -> int:
        """Give a descriptor that writes where it is told to, which one for appending does not.

        Kept as long as the other one: closing it drops the lock of both.
        """
        if self._blanking is None:
            self._blanking = _Descriptor(os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        return self._blanking.number


class Offered:
    """What became of the events that one process was offered; any thread may count."""

    __slots__ = ("_rejected", "accepted")

    def __init__(self) -> None:
        self.accepted = Tally()
        self._rejected: dict[str, Tally] = {}

    def reject(self, reason: str) -> str:
        """Count one rejected event; gives the reason back."""
        self._rejected.setdefault(reason, Tally()).add()
        return reason

    def counts(self) -> tuple[int, dict[str, int]]:
        """Give how many were accepted, and rejected by reason."""
        return self.accepted.value, {reason: tally.value for reason, tally in list(self._rejected.items())}


class Journal:
    """Appends events for one recorder in whatever process it finds itself in.

    Lives as long as its recorder and survives forks: each process writes files of its own.

    Args:
        directory: where the journals of one ledger lie; made when missing, for its owner only.
        quota_bytes: above this much waiting in all journals of the directory, new events are rejected.
        compiled: use the compiled `Pen` where there is one.

    Attributes:
        pen: the current file, where it can be written to without a look at anything first, as `append` takes; None = it
            cannot: there is no file yet, the quota is used up, or nothing is compiled. Each look decides it anew.
    """

    __slots__ = (
        "_accept",
        "_directory",
        "_full",
        "_imported",
        "_is_compiled",
        "_is_lending",
        "_measured",
        "_offered",
        "_offered_in",
        "_pid",
        "_quota",
        "_room",
        "_segment",
        "_size",
        "on_begin",
        "on_error",
        "pen",
    )

    def __init__(self, directory: str, quota_bytes: int = DEFAULT_QUOTA, *, compiled: bool = True) -> None:
        # Not with the first event, in any thread: a child that is born in the middle of an import would wait for ever.
        import fcntl  # noqa: F401

        self._directory = directory
        self._quota = quota_bytes
        self._is_compiled = compiled and _IS_COMPILED
        self.on_begin: Callable[[], None] = nothing  # called when a file was begun, which each process does
        self.on_error: Callable[[OSError], None] = ignored  # told why an event was rejected as "journal"
        self._imported: Mapping[str, int] = {}
        self._offered_in: dict[int, Offered] = {}
        self._begin_counting()

    def _begin_counting(self) -> None:
        pid = getpid()
        self._segment: Segment | None = None
        self._is_lending = False
        self.pen: Segment | None = None
        # Threads that race here after a fork are given the same counts.
        self._offered = self._offered_in.setdefault(pid, Offered())
        self._accept = self._offered.accepted.add
        self._full = False
        self._room = self._quota  # bytes left when last measured
        self._size = 0  # of the current file, then
        self._measured = float("-inf")
        self._pid = pid  # last, so that none goes on with the parent's

    @property
    def directory(self) -> str:
        """Where the files lie."""
        return self._directory

    def append(self, body: str) -> tuple[str, int] | str:
        """Accept one event: `body` is a record's payload after its number.

        Returns the journal's name and the record's number, which together are the event's id; where the event was
        rejected, and counted, the reason.
        """
        segment = self._segment
        if segment is None or segment.pid != getpid():
            segment = self._begin()
            if segment is None:
                return "journal"
        number = segment.take()
        if (self._full or not number % _LOOK_RECORDS) and self._is_full(segment):
            return self._offered.reject("quota")
        payload = f"[{number},{body}]".encode()
        record = b"\n%08x%b\n" % (crc32(payload), payload)
        try:
            written = write(segment.fd, record)
        except OSError as error:
            self.on_error(error)
            if error.errno in _FULL:
                # Nothing was written, and another file would have no space either.
                return self._offered.reject("journal")
            written = 0
        if written < len(record) - 1:
            # A torn record ends this file; its CRC keeps it from ever being read. Without its last newline alone it is
            # whole: what comes next begins with one.
            self.release()
            return self._offered.reject("journal")
        self._accept()
        if number >= SEGMENT_RECORDS:
            self.release()
        return segment.name, number

    def reject(self, reason: str) -> None:
        """Count an event that was rejected before it came here."""
        self._offered.reject(reason)

    def _begin(self) -> Segment | None:
        """Begin a new file for this process. Two threads may both do so: either file will be imported."""
        if self._pid != getpid():
            self._begin_counting()  # a fork: what the parent counted is the parent's
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            self._segment = segment = Segment(self._directory, self._pid, self._accept)
            self._size = 0
            segment.lending = self._is_lending
            self.measure(self._imported)
        except OSError as error:
            self.release()
            self.on_error(error)
            self._offered.reject("journal")
            return None
        self.on_begin()
        return segment

    def _is_full(self, segment: Segment) -> bool:
        if monotonic() - self._measured >= _MEASURE_SECONDS:
            self.measure(self._imported)
        self._note_full(os.fstat(segment.fd).st_size - self._size > self._room)
        return self._full

    def _note_full(self, full: bool) -> None:  # noqa: FBT001
        self._full = full
        self.pen = self._segment if self._is_compiled and not full else None

    def lend(self, *, is_lending: bool) -> None:
        """Say whether who writes lets the importing thread have a turn every 1.5 milliseconds, and not every five.

        An app that never waits would otherwise give it fewer turns than it takes to keep up.
        """
        self._is_lending = is_lending
        segment = self._segment
        if segment is not None:
            segment.lending = is_lending

    def measure(self, imported: Mapping[str, int]) -> None:
        """Look how much of the quota is left; the importing thread calls this as it goes.

        Args:
            imported: how many bytes of each journal, by name, wait no longer.
        """
        self._measured = monotonic()
        self._imported = imported
        segment = self._segment
        waiting = 0
        try:
            for name, _, size in files(self._directory):
                waiting += max(0, size - imported.get(name, 0))
                if segment is not None and name == segment.name:
                    self._size = size
        except OSError:
            # Too many open files, say: no reason to reject what can still be written, until the next look.
            waiting = 0
        self._room = self._quota - waiting
        self._note_full(self._room < 0)
        if segment is not None and os.fstat(segment.fd).st_nlink == 0:
            # Whoever removed it, what is written there from here on nobody would find.
            self.release()
            self.on_error(FileNotFoundError(f"{segment.path} was removed while events were written to it"))

    def counts(self) -> tuple[int, dict[str, int]]:
        """Give how many events this process had accepted, and rejected by reason."""
        if self._pid != getpid():
            self._begin_counting()
        return self._offered.counts()

    def release(self) -> None:
        """Leave the current file to whoever imports it; the next event begins a new one."""
        self._segment = self.pen = None


def files(directory: str) -> Iterator[tuple[str, str, int]]:
    """Give name, path and size in bytes of every journal in `directory`."""
    try:
        entries = os.scandir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            # What is not printable is no name of ours, and may be none that SQLite's text can hold.
            if entry.name.endswith(SUFFIX) and entry.name.isprintable() and entry.is_file(follow_symlinks=False):
                try:
                    size = entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue  # imported and deleted by another process meanwhile
                yield entry.name[: -len(SUFFIX)], entry.path, size


class Reading:
    """One journal opened for import; a context manager.

    `owned` is true while someone, this process or another, may still append to the file. Only then is it certain
    that the end of the file is not the end of the story.
    """

    __slots__ = ("_ahead", "_ahead_from", "_segment", "fd", "owned", "path")

    def __init__(self, name: str, path: str) -> None:
        self.path = path
        self._ahead = b""
        self._ahead_from = 0
        segment = _live.get(name)
        if segment is not None and segment.pid == getpid():
            self._segment: Segment | None = segment
            self.fd = segment.fd
            self.owned = True
            return
        import fcntl

        self._segment = None
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.owned = False
        except OSError:
            self.owned = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._segment is None:
            os.close(self.fd)
        self._segment = None

    def read(self, offset: int, size: int) -> bytes:
        """Give up to `size` bytes from `offset` on."""
        begin = offset - self._ahead_from
        if not 0 <= begin <= len(self._ahead) - size:
            # As much as there is likely to be: each read hands the interpreter's lock over, as `steps` explains.
            self._ahead, self._ahead_from, begin = os.pread(self.fd, max(size, _AHEAD_BYTES), offset), offset, 0
        return self._ahead[begin : begin + size]

    def length(self) -> int:
        """Give the file's present size; final when it is not `owned`."""
        return os.fstat(self.fd).st_size

    def blank(self, start: int, end: int) -> None:
        """Overwrite what was imported with newlines, which are no records; safe while its owner appends."""
        fd = self.fd if self._segment is None else self._segment.blanking()
        while start < end:
            start += os.pwrite(fd, b"\n" * min(end - start, _BLANK_BYTES), start)
        os.fsync(fd)

    def delete(self) -> None:
        """Remove the file; only for a journal that is not `owned` and was imported to its end."""
        os.unlink(self.path)


def sweep_unborn(directory: str) -> None:
    """Remove files whose makers died between creating and naming them; they never held an event."""
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            try:
                if entry.name.endswith(_UNBORN) and time() - entry.stat().st_mtime > _UNBORN_SECONDS:
                    os.unlink(entry.path)
            except FileNotFoundError:
                continue  # another process sweeps as well
