"""Disks without space: the host sees nothing of it, and recording goes on when there is space again."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import PROGRAMS, command

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("when", ["while recording", "while importing"])
def test_a_full_disk_loses_nothing_that_was_accepted(when: str, tmp_path: Path) -> None:
    """A tmpfs of 3 MB fills up and gets space again; every event is accepted or rejected, and counted so."""
    script = f'mount -t tmpfs -o size=3m none "$1" && shift && exec {command(PROGRAMS / "full.py")} "$@"'
    mounted = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(tmp_path)]
    possible = subprocess.run([*mounted[:4], "true"], capture_output=True, check=False).returncode == 0
    if not possible:
        pytest.skip("this system lets no user mount a tmpfs of their own")

    done = subprocess.run([*mounted, str(tmp_path), when], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout[:1]) == (0, "{"), done.stderr
    told = json.loads(done.stdout)
    assert told["rejected_at_first"] == 0
    assert (told["rejected_when_full"] > 0) == (when == "while recording")
    assert told["seconds_to_recover"] < 5.0
    assert told["stored"] == told["accepted"]
    assert told["twice"] == 0
    assert told["counted"] == [told["accepted"], {"journal": told["rejected"]} if told["rejected"] else {}]
    assert told["raised"] == 0
