"""Kills processes that roll up, at random moments, until one is done: rollers.py LEDGER AT_ONCE."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
from contextlib import closing
from time import monotonic, sleep

from usagekit._store.rollups import Rollups
from usagekit._store.schema import connect, is_busy

DEADLINE_SECONDS = 60.0
STEP = 40


def run(path: str) -> None:
    """Roll up until nothing is left."""
    with closing(connect(path)) as connection:
        rollups = Rollups(connection, at_once=0)
        while True:
            try:
                if not rollups.step(STEP):
                    return
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                sleep(0.001)


def born(path: str) -> int:
    """Start one in a process of its own."""
    child = os.fork()
    if child:
        return child
    try:
        run(path)
    except BaseException:  # noqa: BLE001  whatever it is must not run the parent's code
        os._exit(1)
    os._exit(0)


def main(path: str, at_once: int) -> None:
    """Kill and start, until one process says that all is done."""
    deadline = monotonic() + DEADLINE_SECONDS
    killed = 0
    children = [born(path) for _ in range(at_once)]
    while monotonic() < deadline:
        sleep(random.uniform(0.0, 0.15))
        victim = random.choice(children)
        done, status = os.waitpid(victim, os.WNOHANG)
        if done and status == 0:
            break
        if not done:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            killed += 1
        children[children.index(victim)] = born(path)
        children.append(children.pop(0))
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            continue
    print(f"{killed} killed")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
