"""What the page reads, within one time budget: what there was no time for is left out, and says so."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from usagekit.admin.chart import bucket_for
from usagekit.admin.wording import ago, count, format_of, value_name
from usagekit.errors import QueryTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from usagekit.admin.questions import Questions
    from usagekit.admin.state import State
    from usagekit.query import UsageReport

    NamesOf = Callable[[str, Iterable[str]], Mapping[str, str]]

__all__ = ["ADDITIVE", "Cell", "Link", "Reading", "Row", "share"]

ADDITIVE = ("events", "succeeded", "failed", "total_tokens", "cost_usd", "unpriced")
"""What adds up over any groups, so that several panels come out of one answer."""


class Link(NamedTuple):
    """A text that leads somewhere; `detail` is the rest of it, such as the id behind a name."""

    text: str
    href: str
    detail: str = ""
    is_unknown: bool = False


class Cell(NamedTuple):
    """A number, and what it is exactly where it is shown in short."""

    text: str
    exact: str = ""


class Row(NamedTuple):
    """A row of a table: its head, its share of the largest in per cent, its cells."""

    head: Link
    share: str
    cells: list[Cell]


class Reading:
    """What is read for one view of the page, and how values of it are shown; lives as long as its request.

    Attributes:
        by_time: events by time bucket and event type, with `ADDITIVE`; None = there was no time.
        events: the event types, most frequent first.
        bucket: the time bucket that suits the range.
        end: of the range, or the present.
        cut: the titles of what there was no time for.
        is_exact: whether every answer so far counted every event.
        complete_from: as of `UsageReport`.
        totals: of the range and the filters, as far as they were asked for.
    """

    def __init__(self, questions: Questions, state: State, names_of: NamesOf) -> None:
        self.questions = questions
        self.state = state
        self.names_of = names_of
        self.cut: list[str] = []
        self.is_exact = True
        self.complete_from: Any = None
        self.totals: dict[str, Any] = {}
        self.end = questions.end or max(questions.now, questions.start)
        self.bucket = bucket_for(self.end - questions.start)
        self.by_time = self.read("the chart", (self.bucket, "event"), ADDITIVE)
        totals: dict[str, int] = {}
        for row in self.by_time.rows if self.by_time else ():
            totals[row["event"]] = totals.get(row["event"], 0) + row["events"]
        self.events = sorted(totals, key=lambda name: (-totals[name], name))

    def read(self, title: str, by: Iterable[str], measures: Iterable[str], **options: Any) -> UsageReport | None:
        """Ask one question, options as of `Questions.ask`; None = there was no time for what is called `title`."""
        try:
            report = self.questions.ask(by, measures, **options)
        except QueryTimeout:
            if title not in self.cut:
                self.cut.append(title)
            return None
        self.is_exact = self.is_exact and report.exact
        self.complete_from = report.complete_from or self.complete_from
        if not options.get("where") and not options.get("before"):
            self.totals |= report.totals
        return report

    @property
    def has_events(self) -> bool:
        """Whether anything matched; also where that is not known."""
        return self.by_time is None or self.by_time.totals["events"] > 0

    def names(self, dimension: str, values: Iterable[Any]) -> Mapping[str, str]:
        """Give the names of ids, as far as the app knows them."""
        return self.names_of(dimension, (value for value in values if isinstance(value, str)))

    def head(self, dimension: str, value: Any, names: Mapping[str, str]) -> Link:
        """Give what stands for a value, and leads to the page of it alone."""
        name = names.get(value) if value != "" else None
        raw = str(value).lower() if isinstance(value, bool) else str(value)
        text = str(name)[:200] if name else value_name(dimension, value)
        return Link(text, self.state.narrowed(dimension, raw), raw, value in {"", None})

    def cell(self, measure: str, value: Any) -> Cell:
        """Give how a value of a measure is shown."""
        text = format_of(measure, self.questions.now)(value)
        if value is None or measure in {"success_rate", "latency_ms_p95"}:
            return Cell(text)
        if measure == "last_seen":
            return Cell(ago(value, self.questions.now), f"{value[:10]} {value[11:19]} {value[-6:]}")
        exact = f"${value:,f}" if isinstance(value, Decimal) else count(value)
        return Cell(text, "" if exact == text else exact)


def share(amount: float, largest: float) -> str:
    """Give a share in per cent, as SVG has it."""
    return f"{100 * amount / largest:.1f}%" if largest else "0%"
