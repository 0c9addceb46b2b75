"""Where a ledger may lie: not on file systems where SQLite's shared memory is not shared."""

from __future__ import annotations

import os
import re
import sys

from usagekit.errors import StorageError

_NETWORK = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "smb3",
        "smbfs",
    ],
)


def check_file_system(directory: str, mounts: str = "/proc/self/mountinfo") -> None:
    """Refuse network and FUSE mounts, where SQLite's shared memory is not shared and a ledger gets corrupted."""
    kind = _file_system(directory, mounts)
    if kind in _NETWORK or kind == "fuse" or (kind.startswith("fuse.") and kind != "fuse.fuse-overlayfs"):
        msg = (
            f"{directory!r} lies on a {kind} mount, where SQLite's write-ahead log corrupts databases; "
            "put the ledger on a local disk"
        )
        raise StorageError(msg)


def _file_system(directory: str, mounts: str) -> str:
    """Give the type of the file system that holds `directory`; `""` where the system does not tell."""
    try:
        with open(mounts, encoding=sys.getfilesystemencoding(), errors="surrogateescape", newline="\n") as lines:
            table = [_MOUNT.match(line) for line in lines]
    except OSError:
        return ""
    place = os.path.realpath(directory)
    best, kind = "", ""
    for mount in table:
        if mount is None:
            continue
        point = _OCTAL.sub(lambda escape: chr(int(escape[1], 8)), mount[1])
        inside = point in {"/", place} or place.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, mount[2]
    return kind


# Five fields, options that end with a dash, the type: see proc_pid_mountinfo(5). Some characters are octal numbers.
_MOUNT = re.compile(r"(?:[^ ]+ ){4}([^ ]+) .*? - ([^ ]+) ")
_OCTAL = re.compile(r"\\([0-7]{3})")
