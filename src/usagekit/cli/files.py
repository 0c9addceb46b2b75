"""Files that options name: what is wrong with one is said with the option, and what to do."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

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
def output(file: str | None) -> Iterator[TextIO]:
    """Open the file that `--output` names, which is replaced; None is stdout.

    Raises `ConfigurationError` where it cannot be written, also while it is.
    """
    if file is None:
        yield sys.stdout
        return
    directory = os.path.dirname(os.path.abspath(file))  # noqa: PTH100, PTH120  paths are text here
    if not os.path.isdir(directory):  # noqa: PTH112  likewise
        raise ConfigurationError(f"--output {file!r}: there is no directory {directory!r}; make it, or give another")
    try:
        with open(file, "w", encoding="utf-8", newline="") as opened:  # noqa: PTH123  likewise
            yield opened
    except UsagekitError:
        raise  # of what is written, not of where
    except OSError as error:
        raise ConfigurationError(
            f"--output {file!r}: it cannot be written: {error.strerror}; give another path"
        ) from error
