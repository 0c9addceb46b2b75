"""The SELECT that groups by ids, and then names the groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from usagekit._reading.sources import Dictionary


def named_by(dictionary: Dictionary, column: str) -> str:
    """Give the join that looks up what a column of the groups `g` stands for; `""` where its ids are shown."""
    table, alias, _ = dictionary
    return f" CROSS JOIN {table} {alias} ON {alias}.id = g.{column}" if table else ""


def grouped(  # noqa: PLR0917
    rows: str,
    ids: Mapping[str, str],
    columns: Sequence[str],
    names: Sequence[str],
    joins: str,
    conditions: Sequence[str] = (),
    *,
    apart: bool = False,
) -> str:
    """Give the SELECT that groups by ids, expressions with their names, and then names the groups."""
    different = {column: f"c{number}" for number, column in enumerate(dict.fromkeys(columns))}
    inner = [f"{expression} AS {name}" for expression, name in {**ids, **different}.items()]
    group = f" GROUP BY {', '.join(map(str, range(1, len(ids) + 1)))}" if ids and columns and not apart else ""
    distinct = "" if columns or apart else "DISTINCT "  # several times faster than groups of nothing
    wanted = [f"g.{different[column]}" for column in columns]
    for number, condition in enumerate(conditions):
        if condition:
            wanted[number] = f"iif({condition}, {wanted[number]}, 0)"
    return f"SELECT {', '.join([*names, *wanted])} FROM (SELECT {distinct}{', '.join(inner)} {rows}{group}) g{joins}"
