"""Timing variants side by side, and saying what the numbers are worth."""

from __future__ import annotations

import gc
import random
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter, perf_counter_ns, process_time, thread_time_ns
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESAMPLES = 1000

Verdict = Literal["met", "not met", "within noise"]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long something took, in microseconds: by the clock, and of this thread's processor time."""

    wall_us: float
    cpu_us: float

    def per(self, count: int) -> Timing:
        return Timing(self.wall_us / count, self.cpu_us / count)


class Stopwatch:
    """A context manager that leaves what passed in `timing`."""

    __slots__ = ("_cpu", "_wall", "timing")

    timing: Timing

    def __enter__(self) -> Self:
        self._wall = perf_counter_ns()
        self._cpu = thread_time_ns()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = perf_counter_ns() - self._wall, thread_time_ns() - self._cpu
        self.timing = Timing(wall / 1000, cpu / 1000)


def interleaved(variants: dict[str, Callable[[], Timing]], rounds: int, seed: int = 1) -> dict[str, list[Timing]]:
    """Run every variant once per round, in random order; a first round is thrown away."""
    order = list(variants)
    shuffle = random.Random(seed).shuffle
    timings: dict[str, list[Timing]] = {name: [] for name in variants}
    gc.collect()
    gc.freeze()
    try:
        for turn in range(rounds + 1):
            shuffle(order)
            for name in order:
                gc.collect()
                timing = variants[name]()
                if turn:
                    timings[name].append(timing)
    finally:
        gc.unfreeze()
    return timings


def wall(timings: Sequence[Timing]) -> list[float]:
    """Give each round's time by the clock."""
    return [timing.wall_us for timing in timings]


def cpu(timings: Sequence[Timing]) -> list[float]:
    """Give each round's processor time."""
    return [timing.cpu_us for timing in timings]


def differences(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Give how much each round's value exceeds the same round's base."""
    return [value - other for value, other in zip(values, base, strict=True)]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, and the interval in which 95 % of resampled runs lie."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


def ratio(values: Sequence[float], base: Sequence[float]) -> Estimate:
    """Give median by median; rounds are resampled in pairs."""
    rng = random.Random(1)
    pairs = list(zip(values, base, strict=True))
    found = sorted(_ratio(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return Estimate(_ratio(pairs), found[RESAMPLES // 40], found[-RESAMPLES // 40])


def ratio_of_each(values: Sequence[float], base: Sequence[float]) -> Estimate:
    """Give the median of each round's own ratio, for few and long rounds."""
    each = [value / other for value, other in zip(values, base, strict=True)]
    return ratio(each, [1.0] * len(each))


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    below = median(pair[1] for pair in pairs)
    return median(pair[0] for pair in pairs) / below if below > 0 else float("inf")


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the nearest rank."""
    return sorted(values)[max(0, round(len(values) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Target:
    """What a number should be: at most `limit`, or at least where `at_least`."""

    name: str
    estimate: Estimate
    limit: float
    at_least: bool = False

    @property
    def verdict(self) -> Verdict:
        low, high = self.estimate.low, self.estimate.high
        if (low >= self.limit) if self.at_least else (high <= self.limit):
            return "met"
        if (high < self.limit) if self.at_least else (low > self.limit):
            return "not met"
        return "within noise"


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(slots=True)
class Result:
    """What one benchmark found."""

    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    """Numbers by variant, for JSON."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How a run was asked for."""

    directory: str
    quick: bool
    events: int | None = None

    def scaled(self, full: int, quick: int) -> int:
        return quick if self.quick else full


def timed(ask: Callable[[], object], rounds: int) -> list[Timing]:
    """Time each round; a first one, which warms the cache, is left out. Processor time is that of all threads."""
    found = []
    for _ in range(rounds + 1):
        began, processor = perf_counter(), process_time()
        ask()
        found.append(Timing((perf_counter() - began) * 1e6, (process_time() - processor) * 1e6))
    return found[1:]
