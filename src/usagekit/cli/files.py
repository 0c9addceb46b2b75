"""Files that options name: what is wrong with one is said with the option, and what to do."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from usagekit._store.engine import journals_of
from usagekit.errors import ConfigurationError, UsagekitError

if TYPE_CHECKING:
    from collections.abc import Iterator


def text_of(option: str, file: str) -> str:
    """Give the text of the file that an option names.

    Raises `ConfigurationError` where it cannot be read.
    """
    try:
        return Path(file).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(f"{option} {file!r} does not exist; give a file that does") from error
    except OSError as error:
        raise ConfigurationError(f"{option} {file!r} cannot be read: {error.strerror}; give another file") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{option} {file!r} is no text in UTF-8; give a file of JSON") from error


@contextmanager
def output(file: str | None, *, ledger: str = "") -> Iterator[TextIO]:
    """Open the file that `--output` names, which is replaced at the end of the block, once it is whole; None is stdout.

    Raises `ConfigurationError` where it cannot be written, also while it is, and where it is a file of the ledger.
    """
    if file is None:
        yield sys.stdout
        return
    if _is_of(file, ledger):
        raise ConfigurationError(f"--output {file!r} is a file of the ledger {ledger!r} itself; give another path")
    directory = os.path.dirname(os.path.abspath(file))  # noqa: PTH100, PTH120  paths are text here
    if not os.path.isdir(directory):  # noqa: PTH112  likewise
        raise ConfigurationError(f"--output {file!r}: there is no directory {directory!r}; make it, or give another")
    try:
        with _replacing(os.path.realpath(file)) as opened:
            yield opened
    except UsagekitError:
        raise  # of what is written, not of where
    except OSError as error:
        raise ConfigurationError(
            f"--output {file!r}: it cannot be written: {error.strerror}; give another path"
        ) from error


def _is_of(file: str, ledger: str) -> bool:
    if not ledger:
        return False
    path, base = os.path.realpath(file), os.path.realpath(ledger)
    own = (base, f"{base}-wal", f"{base}-shm", f"{base}-journal")
    return path in own or os.path.dirname(path) == journals_of(base) or _is_same(path, base)  # noqa: PTH120


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121
    except OSError:
        return False


@contextmanager
def _replacing(path: str) -> Iterator[TextIO]:
    """Open a file beside `path`, which takes its place when the block ends well; a device or pipe is written to."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        with open(path, "w", encoding="utf-8", newline="") as opened:  # noqa: PTH123
            yield opened
        return
    directory, name = os.path.split(path)
    handle, beside = tempfile.mkstemp(prefix=f".{name[:100]}.", dir=directory)
    try:
        with open(handle, "w", encoding="utf-8", newline="") as opened:  # noqa: PTH123
            yield opened
        if mode is None:
            os.chmod(beside, 0o666 & ~_umask())  # noqa: PTH101  as any other new file
        else:
            shutil.copymode(path, beside)
        os.replace(beside, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)  # noqa: PTH108
        raise


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
