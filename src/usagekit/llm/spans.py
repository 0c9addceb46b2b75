"""What spans tell of calls, and which of these calls are known already."""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from usagekit.llm.usage import Usage

__all__ = ["Known", "Told", "unknown_among"]

_SLACK_US = 2000  # clocks are read one after the other


class Told(NamedTuple):
    """What one span told of a model call; times are of the wall clock."""

    usage: Usage
    began_us: int
    passed_ns: int
    first_ns: int | None
    status: int
    is_aborted: bool


class Known(NamedTuple):
    """A call that was recorded otherwise in the same tracked function."""

    began_us: int
    passed_us: int
    tokens: tuple[int, int]
    is_sum: bool  # of several calls: any number of spans may be meant

    def is_of_the_time(self, told: Told) -> bool:
        """Tell whether one of the two happened within the other."""
        ended, its_end = self.began_us + self.passed_us, told.began_us + told.passed_ns // 1000
        return (self.began_us >= told.began_us - _SLACK_US and ended <= its_end + _SLACK_US) or (
            told.began_us >= self.began_us - _SLACK_US and its_end <= ended + _SLACK_US
        )


def unknown_among(spans: list[Told], known: list[Known]) -> list[Told]:
    """Give the calls that only spans told of; what is recognised is taken out of `known`.

    Each known call stands for one span: the one with the same tokens, else one of the same time, since a span may count
    otherwise than we do, or not at all.
    """
    rest = []
    for told in spans:
        tokens = told.usage.totals()[:2]
        same = next(
            (one for one in known if one.tokens == tokens and one.is_of_the_time(told) and not one.is_sum), None
        )
        if same is None:
            rest.append(told)
        else:
            known.remove(same)
    unknown = []
    for told in rest:
        same = next((one for one in known if one.is_of_the_time(told)), None)
        if same is None:
            unknown.append(told)
        elif not same.is_sum:
            known.remove(same)
    return unknown
