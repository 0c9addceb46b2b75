"""A ledger with 90 days of an app's usage: 10,000 users in 500 orgs, 8 event types, 20 models.

    python -m benchmarks.dataset usage.db --events 10000000

Events come through the ledger's own import, so its tables are what an app would have. A few users do most, as Zipf
says; each has one org and, four times in five, one model; nights are quieter than days; 1 in 200 events comes up to
two days late, 200 at a time, as from a process that died. The same for the same seed.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from contextlib import closing
from itertools import accumulate
from typing import TYPE_CHECKING

from usagekit._store.engine import journals_of
from usagekit._store.ledger import Importer
from usagekit._store.record import quoted, shape_of, subject_of
from usagekit._store.schema import connect, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

USERS, ORGS, DAYS = 10_000, 500, 90
END_US = 1_793_500_000_000_000  # 2026-11-01T02:26:40Z
BATCH = 8000
LATE_BATCHES, LATE_RUN = 0.2, 200

_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US

_NAMED = ("search", "export", "upload", "login")
_CALLS = ("chat", "summarise", "embed")
_TYPES = {
    "request": 50,
    "chat": 20,
    "summarise": 8,
    "embed": 7,
    "search": 6,
    "export": 4,
    "upload": 3,
    "login": 2,
}
_ROUTES = tuple(
    f"{method} /{name}{rest}"
    for name in ("items", "chats", "orders", "files", "reports", "users", "prompts", "projects", "invoices", "orgs")
    for method, rest in (("GET", ""), ("GET", "/{id}"), ("POST", ""), ("DELETE", "/{id}"))
)
_MODELS = tuple(
    (provider, f"{provider}-{family}-{size}")
    for provider in ("openai", "anthropic", "google", "mistral")
    for family, size in (("5", "large"), ("5", "medium"), ("5", "small"), ("4", "large"), ("4", "small"))
)
_STATUSES = {200: 90, 201: 3, 204: 2, 304: 1, 400: 1, 401: 0.5, 404: 2, 500: 0.5}


def write_ledger(path: str, events: int, *, seed: int = 1, show: Callable[[int], None] | None = None) -> None:
    """Make a ledger of so many events at `path`, where none may be; `show` is told how many are done."""
    prepare(path)
    with closing(Importer(path, journals_of(path))) as importer:
        done = 0
        for payloads in _batches(events, seed):
            importer.import_payloads("dataset", payloads)
            done += len(payloads)
            if show is not None:
                show(done)
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _batches(count: int, seed: int) -> Iterator[list[bytes]]:
    rng = random.Random(seed)
    people = _people(rng)
    popular = _zipf(USERS)
    shapes: dict[tuple[object, ...], str] = {}
    first_us = END_US - DAYS * _DAY_US
    number = 0
    while number < count:
        size = min(BATCH, count - number)
        chosen = zip(
            rng.choices(people, cum_weights=popular, k=size),
            rng.choices(list(_TYPES), cum_weights=list(accumulate(_TYPES.values())), k=size),
            rng.choices(list(_STATUSES), cum_weights=list(accumulate(_STATUSES.values())), k=size),
            rng.choices(_ROUTES, cum_weights=_zipf(len(_ROUTES)), k=size),
            rng.choices(_MODELS, cum_weights=_zipf(len(_MODELS)), k=size),
            strict=True,
        )
        payloads: list[bytes] = []
        late_run = (
            range(*sorted(rng.sample(range(size + 1), 2)))[:LATE_RUN] if rng.random() < LATE_BATCHES else range(0)
        )
        late_us = int(rng.random() * 2 * _DAY_US)
        for (subject, favourite), event, status, route, model in chosen:
            number += 1
            time_us = first_us + _busy_time(number / count * DAYS) + int(rng.random() * 1_000_000)
            if len(payloads) in late_run:
                time_us = max(first_us, time_us - late_us)
            if event in _CALLS:
                used = favourite if rng.random() < 0.8 else model
                body = _call(rng, shapes, event, 200 if status < 500 else 429, used)
            else:
                body = _other(rng, shapes, event, status, route)
            shape, measures = body
            payloads.append(f"[{number},{time_us},{shape},{subject},{measures}]".encode())
        yield payloads


def _people(rng: random.Random) -> list[tuple[str, tuple[str, str]]]:
    orgs = [f"org_{rng.getrandbits(48):012x}" for _ in range(ORGS)]
    members = rng.choices(orgs, cum_weights=_zipf(ORGS), k=USERS)
    favourites = rng.choices(_MODELS, cum_weights=_zipf(len(_MODELS)), k=USERS)
    return [
        (quoted(subject_of(f"usr_{rng.getrandbits(64):016x}", org)), favourite)
        for org, favourite in zip(members, favourites, strict=True)
    ]


def _busy_time(day: float) -> int:
    """Give the microsecond of the period at which this share of its events has happened: a daily wave."""
    return int(_DAY_US * (day - 0.1 * math.sin(2 * math.pi * day)))


def _call(
    rng: random.Random, shapes: dict[tuple[object, ...], str], event: str, status: int, model: tuple[str, str]
) -> tuple[str, str]:
    key = (event, status, model)
    shape = shapes.get(key)
    if shape is None:
        shape = shapes[key] = quoted(shape_of("llm", event, status, "POST /chats", *model, "priced", aborted=False))
    tokens = 20 + int(math.exp(rng.gauss(6.5, 1.1)))
    output = 1 + int(math.exp(rng.gauss(5, 1)))
    cached = int(tokens * rng.random()) if rng.random() < 0.4 else 0
    reasoning = output >> 1 if rng.random() < 0.3 else 0
    latency = 200_000 + int(output * math.exp(rng.gauss(9.4, 0.3)))
    cost = (tokens - cached) * 1250 + cached * 125 + output * 10_000
    tail = int(latency * rng.random())
    return shape, f"{latency},{tail},{output},{tokens},{cost},{cached},0,{reasoning}"


def _other(
    rng: random.Random, shapes: dict[tuple[object, ...], str], event: str, status: int, route: str
) -> tuple[str, str]:
    named = event in _NAMED
    key = (event, status, "" if named else route)
    shape = shapes.get(key)
    if shape is None:
        kind = "named" if named else "request"
        shape = shapes[key] = quoted(shape_of(kind, event, status, str(key[2]), "", "", "", aborted=False))
    latency = int(math.exp(rng.gauss(10, 1)))
    tail = min(latency, 30 + int(rng.random() * 40))
    return shape, f"{latency},{tail},{0 if named else int(math.exp(rng.gauss(7, 1.3)))}"


def _zipf(count: int) -> list[float]:
    return list(accumulate(1 / rank**1.07 for rank in range(1, count + 1)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a ledger; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dataset", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("path", help="where to write the ledger; no file may be there")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)

    def show(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done / options.events:.0%}", end="", file=sys.stderr, flush=True)

    write_ledger(options.path, options.events, seed=options.seed, show=show)
    return 0


if __name__ == "__main__":
    sys.exit(main())
