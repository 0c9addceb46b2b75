"""Where the machine's own Chromium is."""

from __future__ import annotations

import shutil
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "no Chromium here; on Debian or Ubuntu: apt-get install chromium"


def found() -> str | None:
    """Give the path of the browser; None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def executable() -> str:
    """Give the path of the browser; raises FileNotFoundError, which says what to install."""
    path = found()
    if path is None:
        raise FileNotFoundError(MISSING)
    return path


if __name__ == "__main__":
    sys.exit(found() is None)
