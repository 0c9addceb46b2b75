"""The `usagekit` command: reports, SQL, the page, the state of a ledger, and what keeps it in order.

Here stands only the way in; what a command needs is imported when it runs, so that `--help` is there at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

__all__ = ["main"]

DONE, LEFT, FAILED, NO_READER = 0, 1, 2, 141  # 141 is what a shell says of a program that SIGPIPE ended
PROGRESS_AFTER = 0.5  # seconds; shorter work needs no progress bar


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default the process's, and return the exit code.

    0 = done, 1 = `drain`, `rollup` or `reprice` left something or `reconcile` found drift, 2 = an error, said in one
    line on stderr. Leaves by `SystemExit` where argparse does: after `--help` and `--version`, and for options it does
    not understand.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # an id may hold what the terminal's encoding has not
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output, `head` for one, has had enough. What is still buffered must go somewhere at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except KeyboardInterrupt:
        return 130


def _run(argv: Sequence[str]) -> int:
    from usagekit.cli.options import parser
    from usagekit.errors import UsagekitError

    arguments = parser().parse_args(_descending_order_joined(argv))
    module, _, name = arguments.command.partition(":")
    try:
        command: Callable[[argparse.Namespace], int] = getattr(import_module(f"usagekit.cli.{module}"), name)
        return command(arguments)
    except BrokenPipeError:
        raise
    except (UsagekitError, OSError, ImportError) as error:
        print(f"usagekit {arguments.name}: {_without_number(error)}", file=sys.stderr)
        return FAILED


def _without_number(error: Exception) -> str:
    """Give what an error says; of one of the system's what it means, and not its number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename!r}: {error.strerror}"


def _descending_order_joined(argv: Sequence[str]) -> list[str]:
    """Make `--order -cost_usd` one word: argparse would take the second for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--order" and word.startswith("-") and not word.startswith("--"):
            joined[-1] = f"--order={word}"
        else:
            joined.append(word)
    return joined
