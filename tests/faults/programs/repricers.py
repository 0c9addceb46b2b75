"""Kills repricers at random moments until one gets to its end: repricers.py LEDGER AT_ONCE; prints how many died."""

from __future__ import annotations

import os
import random
import signal
import sys
from time import monotonic, sleep

from usagekit._store import repricing
from usagekit.llm import reprice

DEADLINE_SECONDS = 60.0


def born(path: str) -> int:
    """Price in a process of its own, in small steps."""
    child = os.fork()
    if child:
        return child
    try:
        repricing.STEP_ROWS = 256
        reprice(path, since="2025-01-01", prices={"acme-1": {"input": 1}})
    except BaseException:  # noqa: BLE001  a child must not come back
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def main(path: str, at_once: int) -> None:
    """Kill the oldest again and again; one that was too fast has done all there was."""
    reprice(path, since="2025-01-01", dry_run=True)  # loads price data, once for all of them
    killed = 0
    deadline = monotonic() + DEADLINE_SECONDS
    children = [born(path) for _ in range(at_once)]
    while True:
        if monotonic() > deadline:
            sys.exit("the repricers do not get there")
        # Long enough for a few steps, too short for all of them; more and more, where the machine is busy.
        sleep(random.expovariate(1 / (0.02 + 0.001 * killed)))
        child = children.pop(0)
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        if code != -signal.SIGKILL:
            sys.exit(f"a repricer failed: {code}")
        killed += 1
        children.append(born(path))
    for child in children:
        os.waitpid(child, 0)
    print(killed)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
