"""The aggregate functions of Analytics Engine: what each takes, its type, and the SQLite expression it becomes."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from usagekit.backends.analytics_engine.sql.errors import SqlError
from usagekit.backends.analytics_engine.sql.types import is_integer, needs, width

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usagekit.backends.analytics_engine.sql.types import Typed

__all__ = ["AGGREGATES", "STEPS", "Aggregation"]

Built = tuple[str, str]
"""SQL and type."""

_NUMBERS = ("Integer", "Double", "Boolean")


@dataclass(frozen=True, slots=True)
class Aggregation:
    """How many arguments and parameters an aggregate function takes, and how it is built of them.

    `build` gets the name, the parameters (numbers), the arguments, and whether DISTINCT was said.
    """

    build: Callable[[str, Sequence[float], Sequence[Typed], bool], Built]
    arguments: int
    parameters: tuple[int, ...] = (0,)
    distinct: bool = False

    def __call__(self, name: str, parameters: Sequence[float], arguments: Sequence[Typed], *, distinct: bool) -> Built:
        """Give SQL and type; raises `SqlError` for what it does not take."""
        wanted = 1 if distinct and self.arguments == 0 else self.arguments
        if len(arguments) != wanted:
            raise SqlError(f"{name.upper()}() function must have {wanted} arguments: {len(arguments)}")
        if len(parameters) not in self.parameters:
            raise SqlError(f"{name.upper()}() function must have {self.parameters[-1]} parameters: {len(parameters)}")
        if distinct and not self.distinct:
            raise SqlError(f"{name.upper()}() function does not take DISTINCT")
        return self.build(name, parameters, arguments, distinct)


def _default(kind: str) -> str:
    """Give what an aggregate of nothing is: 0 or empty; a Float64 is NaN or 0 as each function says."""
    return "''" if kind == "String" else "0"


def _count(_: str, __: Sequence[float], arguments: Sequence[Typed], distinct: bool) -> Built:  # noqa: FBT001
    return (f"count(DISTINCT {arguments[0].sql})" if distinct else "count(*)"), "UInt64"


def _sum_type(kind: str) -> str:
    return "Float64" if kind == "Float64" else f"{'' if width(kind)[1] else 'U'}Int64"


def _sum(name: str, _: Sequence[float], arguments: Sequence[Typed], distinct: bool) -> Built:  # noqa: FBT001
    needs(name, 1, arguments[0], *_NUMBERS)
    return f"coalesce(sum({'DISTINCT ' * distinct}{arguments[0].sql}), 0)", _sum_type(arguments[0].type)


def _avg(name: str, _: Sequence[float], arguments: Sequence[Typed], distinct: bool) -> Built:  # noqa: FBT001
    needs(name, 1, arguments[0], *_NUMBERS)
    return f"avg({'DISTINCT ' * distinct}{arguments[0].sql})", "Float64"


def _extreme(name: str, _: Sequence[float], arguments: Sequence[Typed], __: bool) -> Built:  # noqa: FBT001
    kind = arguments[0].type
    return f"coalesce({name.lower()}({arguments[0].sql}), {_default(kind)})", kind


def _when(name: str, value: str, condition: Typed) -> str:
    needs(name, 2, condition, "Integer", "Boolean")
    return f"CASE WHEN {condition.sql} THEN {value} END"


def _count_if(name: str, _: Sequence[float], arguments: Sequence[Typed], __: bool) -> Built:  # noqa: FBT001
    needs(name, 1, arguments[0], "Integer", "Boolean")
    return f"count(CASE WHEN {arguments[0].sql} THEN 1 END)", "UInt64"


def _sum_if(name: str, _: Sequence[float], arguments: Sequence[Typed], __: bool) -> Built:  # noqa: FBT001
    needs(name, 1, arguments[0], *_NUMBERS)
    return f"coalesce(sum({_when(name, arguments[0].sql, arguments[1])}), 0)", _sum_type(arguments[0].type)


def _avg_if(name: str, _: Sequence[float], arguments: Sequence[Typed], __: bool) -> Built:  # noqa: FBT001
    needs(name, 1, arguments[0], *_NUMBERS)
    return f"avg({_when(name, arguments[0].sql, arguments[1])})", "Float64"


def _weights(name: str, weight: Typed) -> None:
    if not is_integer(weight.type) or width(weight.type)[1]:
        raise SqlError(f"the weight of {name.upper()}() must be an unsigned integer but instead had {weight.type}")


def _quantile(name: str, parameters: Sequence[float], arguments: Sequence[Typed], _: bool) -> Built:  # noqa: FBT001
    value, weight = arguments
    needs(name, 1, value, *_NUMBERS, "DateTime", "Date")
    _weights(name, weight)
    level = parameters[0] if parameters else 0.5
    if not 0 <= level <= 1:
        raise SqlError(f"the level of {name.upper()}() must be between 0 and 1: {level}")
    found = f"ae_quantile({value.sql}, {weight.sql}, {level!r})"
    return (found if value.type == "Float64" else f"coalesce({found}, 0)"), value.type


def _arg(name: str, _: Sequence[float], arguments: Sequence[Typed], __: bool) -> Built:  # noqa: FBT001
    kind = arguments[0].type
    return f"coalesce(ae_{name.lower()}({arguments[0].sql}, {arguments[1].sql}), {_default(kind)})", kind


def _end(name: str, _: Sequence[float], arguments: Sequence[Typed], __: bool) -> Built:  # noqa: FBT001
    kind = arguments[0].type
    return f"coalesce(ae_{name.lower()}({arguments[0].sql}), {_default(kind)})", kind


def _top(name: str, parameters: Sequence[float], arguments: Sequence[Typed], _: bool) -> Built:  # noqa: FBT001
    number = parameters[0] if parameters else 10
    if not isinstance(number, int) or not 1 <= number <= 65_536:
        raise SqlError(f"the parameter of {name.upper()}() must be a whole number from 1 to 65536: {number}")
    weight = "1"
    if len(arguments) == 2:
        _weights(name, arguments[1])
        weight = arguments[1].sql
    return f"coalesce(ae_top({arguments[0].sql}, {weight}, {number}), '[]')", f"Array({arguments[0].type})"


AGGREGATES: dict[str, Aggregation] = {
    "count": Aggregation(_count, 0, distinct=True),
    "sum": Aggregation(_sum, 1, distinct=True),
    "avg": Aggregation(_avg, 1, distinct=True),
    "min": Aggregation(_extreme, 1),
    "max": Aggregation(_extreme, 1),
    "countif": Aggregation(_count_if, 1),
    "sumif": Aggregation(_sum_if, 2),
    "avgif": Aggregation(_avg_if, 2),
    "quantileexactweighted": Aggregation(_quantile, 2, (1,)),
    "argmax": Aggregation(_arg, 2),
    "argmin": Aggregation(_arg, 2),
    "first_value": Aggregation(_end, 1),
    "last_value": Aggregation(_end, 1),
    "topk": Aggregation(_top, 1, (0, 1)),
    "topkweighted": Aggregation(_top, 2, (0, 1)),
}
"""By lower-case name. `quantileWeighted(q, x, w)` is `quantileExactWeighted(q)(x, w)`, and turned into it before."""


class _Quantile:
    """The value at a level of all weights together: the first whose weights so far reach it."""

    def __init__(self) -> None:
        self._weights: Counter[float] = Counter()
        self._level = 0.5

    def step(self, value: float | None, weight: int, level: float) -> None:
        self._level = level
        if value is not None:
            self._weights[value] += weight

    def finalize(self) -> float | None:
        reached, wanted = 0, math.ceil(self._weights.total() * self._level)
        found = None
        for found in sorted(self._weights):
            reached += self._weights[found]
            if reached >= wanted:
                break
        return found


class _Arg:
    """The argument at the largest value."""

    def __init__(self) -> None:
        self._found: Any = None
        self._best: Any = None

    def step(self, argument: Any, value: Any) -> None:
        if value is not None and (self._best is None or self._better(value)):
            self._found, self._best = argument, value

    def _better(self, value: Any) -> bool:
        return bool(value > self._best)

    def finalize(self) -> Any:
        return self._found


class _ArgMin(_Arg):
    def _better(self, value: Any) -> bool:
        return bool(value < self._best)


class _Last:
    def __init__(self) -> None:
        self._found: Any = None

    def step(self, value: Any) -> None:
        self._found = value

    def finalize(self) -> Any:
        return self._found


class _First(_Last):
    def __init__(self) -> None:
        super().__init__()
        self._empty = True

    def step(self, value: Any) -> None:
        if self._empty:
            self._found, self._empty = value, False


class _Top:
    """The values of most weight, as a JSON text; ties in order of first sight."""

    def __init__(self) -> None:
        self._weights: Counter[Any] = Counter()
        self._number = 10

    def step(self, value: Any, weight: int, number: int) -> None:
        self._number = number
        self._weights[value] += weight

    def finalize(self) -> str:
        return json.dumps([value for value, _ in self._weights.most_common(self._number)])


STEPS: dict[str, tuple[int, type]] = {
    "ae_quantile": (3, _Quantile),
    "ae_argmax": (2, _Arg),
    "ae_argmin": (2, _ArgMin),
    "ae_first_value": (1, _First),
    "ae_last_value": (1, _Last),
    "ae_top": (3, _Top),
}
"""By the name that SQLite knows them under: number of arguments, and the class that adds up."""
