"""Starting programs of the tests as processes of their own, and ending just those."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parents[1] / "faults" / "programs"


def command(program: Path) -> str:
    """Give the shell's words that run a program with the tests' own Python."""
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(program))}"


@contextmanager
def running(name: str, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program of `tests/faults/programs` during a block; what still runs at its end is killed."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAMS / name), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said_by(name: str, *arguments: object, seconds: float = 60.0, **environment: str) -> str:
    """Run a program to its end, which must come within `seconds` and be a good one; returns what it printed."""
    with running(name, *arguments, **environment) as process:
        output, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors
    return output
