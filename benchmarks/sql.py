"""From the text of a statement of Analytics Engine to SQLite's, without running it."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from benchmarks.measure import Result, Setting, Stopwatch, Table, Target, Timing, cpu, percentile, ratio, wall
from usagekit.backends.analytics_engine.layout import Layout
from usagekit.backends.analytics_engine.sql.parse import parsed
from usagekit.backends.analytics_engine.sql.translate import translated

if TYPE_CHECKING:
    from sqlglot import exp

TRANSLATION_MS = 2.0

_STATEMENTS = {
    "usage per client": "SELECT blob4 AS client, SUM(_sample_interval * double5) AS tokens_in, SUM(_sample_interval * "
    "double6) AS tokens_out, SUM(_sample_interval * double10) AS cost, COUNT() AS requests FROM usagekit "
    "WHERE timestamp > NOW() - INTERVAL '7' DAY GROUP BY client ORDER BY cost DESC",
    "a customer's days": "SELECT index1 AS customer, toStartOfInterval(timestamp, INTERVAL '1' DAY) AS date, blob6 AS "
    "endpoint, sum(_sample_interval) AS n FROM usagekit WHERE customer = 'x' AND timestamp >= toDateTime('2026-03-01 "
    "00:00:00') AND timestamp < toDateTime('2026-04-01 00:00:00') GROUP BY customer, date, endpoint",
    "a Grafana panel": "SELECT intDiv(toUInt32(timestamp), 60) * 60 AS t, blob8 AS label, SUM(_sample_interval * "
    "double3) / SUM(_sample_interval) AS latency FROM usagekit WHERE timestamp <= NOW() AND timestamp > NOW() - "
    "INTERVAL '1' DAY GROUP BY blob8, t ORDER BY t",
    "percentiles": "SELECT blob6 AS route, quantileExactWeighted(0.5)(double3, _sample_interval) AS p50, "
    "quantileExactWeighted(0.95)(double3, _sample_interval) AS p95 FROM usagekit WHERE blob2 = 'llm' GROUP BY route",
    "a subquery": "SELECT max(n) AS most FROM (SELECT blob4 AS client, count() AS n FROM usagekit GROUP BY client)",
    "one number": "SELECT count() AS n FROM usagekit",
}


def run(setting: Setting) -> Result:
    """Translate each statement again and again, one after the other."""
    datasets = {"usagekit": Layout.default()}
    times: dict[str, list[Timing]] = {name: [] for name in _STATEMENTS}
    for turn in range(setting.scaled(300, 30) + 1):
        for name, sql in _STATEMENTS.items():
            with Stopwatch() as watch:
                select: exp.Select | None = parsed(sql).select
                assert select is not None
                translated(select, datasets)
            if turn:  # the first one warms up
                times[name].append(watch.timing)
    every = [timing for timings in times.values() for timing in timings]
    rows = []
    for name, timings in (*times.items(), ("all of them", every)):
        clock, processor = wall(timings), cpu(timings)
        rows.append(
            (name, *(f"{value / 1000:.2f}" for value in (median(clock), percentile(clock, 95), median(processor))))
        )
    milliseconds = [value / 1000 for value in cpu(every)]
    return Result(
        tables=[Table("translation", ("statement", "ms, median", "95 %", "processor ms, median"), rows)],
        targets=[
            Target("translation, processor ms, median", ratio(milliseconds, [1.0] * len(milliseconds)), TRANSLATION_MS)
        ],
        values={name: {"us": median(wall(timings)), "cpu_us": median(cpu(timings))} for name, timings in times.items()},
    )
