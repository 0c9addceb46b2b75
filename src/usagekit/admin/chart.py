"""A chart of stacked bars as SVG that fits any width: across in per cent, upwards in pixels."""

from __future__ import annotations

from datetime import timedelta
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any, NamedTuple

from usagekit.admin.wording import bucket_name, count, money, short
from usagekit.query.periods import bucket_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, tzinfo

__all__ = ["HEIGHT", "OTHER", "Chart", "Tick", "bucket_for", "buckets_between", "chart"]

HEIGHT = 220
OTHER = "(other)"
_HOURLY = timedelta(hours=49)
_DAILY = timedelta(days=93)
_STEPS = {"hour": timedelta(minutes=30), "day": timedelta(hours=12), "week": timedelta(days=1)}
_TICKS = {True: 8, False: 4}  # across: at most so many, on wide and on narrow screens


class Part(NamedTuple):
    """A part of a bar: which series, and where."""

    series: int
    y: str
    height: str


class Bar(NamedTuple):
    """One bucket."""

    title: str
    left: str
    x: str
    width: str
    parts: list[Part]
    values: list[str]


class Tick(NamedTuple):
    """A label at an axis; a minor one has no room on narrow screens."""

    place: str
    text: str
    is_minor: bool


class Chart(NamedTuple):
    """All a template needs to draw; `slot` is the width of a bucket."""

    series: list[str]
    bars: list[Bar]
    across: list[Tick]
    upwards: list[Tick]
    slot: str
    is_empty: bool


def bucket_for(length: timedelta) -> str:
    """Give the time bucket that suits a range: between 7 and 93 bars."""
    return "hour" if length <= _HOURLY else "day" if length <= _DAILY else "week"


def buckets_between(bucket: str, start: datetime, end: datetime, zone: tzinfo) -> list[str]:
    """Give the values of all buckets of a range, also of those without events, ascending."""
    values: dict[str, None] = {}
    time = start
    while time < end:
        values[bucket_value(bucket, time, zone)] = None
        time += _STEPS[bucket]
    return [*values, *({bucket_value(bucket, end - timedelta(microseconds=1), zone)} - values.keys())]


def chart(
    bucket: str, buckets: Sequence[str], rows: Iterable[dict[str, Any]], measure: str, series: list[str]
) -> Chart:
    """Lay out a chart.

    Args:
        bucket: which time bucket `rows` have.
        buckets: its values, ascending.
        rows: with the bucket, `event`, and `measure`.
        measure: what the bars show.
        series: the event types with a colour of their own, others become one.
    """
    values: dict[str, dict[str, Any]] = {value: {} for value in buckets}
    unknown: set[tuple[str, str]] = set()  # buckets and series with a measure that is not known
    for row in rows:
        name = row["event"] if row["event"] in series else OTHER
        if row[measure] is None:
            unknown.add((row[bucket], name))
        if row[measure]:
            of_bucket = values.setdefault(row[bucket], {})
            of_bucket[name] = of_bucket.get(name, 0) + row[measure]
    has_other = any(OTHER in of_bucket for of_bucket in values.values()) or any(name == OTHER for _, name in unknown)
    names = [*series, *([OTHER] if has_other and OTHER not in series else [])]
    written = {"cost_usd": money, "total_tokens": short}.get(measure, count)
    top, step = _scale(max((float(sum(of_bucket.values())) for of_bucket in values.values()), default=0), measure)
    slot = 100 / max(1, len(values))
    width = slot * (0.6 if len(values) < 15 else 0.74)
    bars = []
    for place, (value, of_bucket) in enumerate(values.items()):
        shown = {name: written(of_bucket.get(name, None if (value, name) in unknown else 0)) for name in names}
        is_unknown = not of_bucket and any((value, name) in unknown for name in names)
        title = (
            f"{bucket_name(bucket, value, is_long=True)}: {written(None if is_unknown else sum(of_bucket.values()))}"
        )
        told = [f"{name} {shown[name]}" for name in names if name in of_bucket or (value, name) in unknown]
        bars.append(
            Bar(
                title="\n".join([title, *told]),
                left=f"{place * slot:.3f}%",
                x=f"{place * slot + (slot - width) / 2:.3f}%",
                width=f"{width:.3f}%",
                parts=_parts([float(of_bucket.get(name, 0)) for name in names], top),
                values=[bucket_name(bucket, value, is_long=True), *shown.values()],
            )
        )
    return Chart(
        series=names,
        bars=bars,
        across=_across(bucket, list(values), slot),
        upwards=[
            Tick(
                f"{HEIGHT - HEIGHT * number * step / top:.1f}", written(_like(measure, number * step)), number % 2 == 1
            )
            for number in range(round(top / step) + 1)
        ],
        slot=f"{slot:.3f}%",
        is_empty=not any(values.values()),
    )


def _parts(amounts: list[float], top: float) -> list[Part]:
    parts = []
    below = float(HEIGHT)
    for series, amount in enumerate(amounts):
        if amount > 0:
            height = max(1.0, amount / top * HEIGHT)
            below -= height
            parts.append(Part(series, f"{max(0.0, below):.1f}", f"{height:.1f}"))
    return parts


def _scale(highest: float, measure: str) -> tuple[float, float]:
    """Give the top of the axis and the step between its labels, round numbers both."""
    if highest <= 0:
        return (4.0, 1.0) if measure != "cost_usd" else (1.0, 0.25)
    size = 10 ** floor(log10(highest / 4))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= highest / 4)
    if measure != "cost_usd":
        step = max(1, ceil(step))
    return step * ceil(highest / step), step


def _like(measure: str, number: float) -> Any:
    return number if measure == "cost_usd" else round(number)


def _across(bucket: str, values: list[str], slot: float) -> list[Tick]:
    every, every_narrow = (ceil(len(values) / _TICKS[is_wide]) for is_wide in (True, False))
    every_narrow = ceil(every_narrow / every) * every
    return [
        Tick(f"{(place + 0.5) * slot:.3f}%", bucket_name(bucket, value), place % every_narrow != 0)
        for place, value in enumerate(values)
        if place % every == 0
    ]
