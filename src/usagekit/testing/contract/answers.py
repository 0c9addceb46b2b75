"""What every reader does alike: where an answer comes from, and what cannot be asked."""
# ruff: noqa: S101  these are pytest's tests, whose names say what holds

from __future__ import annotations

from usagekit.query import UsageQuery, usage
from usagekit.testing.contract.story import DECLARED, NOTHING, Contract, ask, refusal, story

__all__ = ["Answers"]


class Answers(Contract):
    """Tests of where an answer comes from, and what cannot be asked."""

    def test_backfilled_events_are_never_mixed_in(self) -> None:
        """Events this app recorded are not in an answer about others."""
        reader = self._reader(story())

        report = ask(reader, by="event", origin="backfill")

        assert (report.rows, report.totals) == ([], NOTHING)

    def test_a_report_says_what_it_is(self) -> None:
        """Exact or not, complete, with the name of its source and the question."""
        reader = self._reader(story())
        query = UsageQuery.build(by="project", dimensions=DECLARED, limit=1)

        report = reader.read(query)

        assert (report.exact, report.complete_from, report.query) == (self.exact, None, query)
        assert report.source

    def test_answers_usage(self) -> None:
        """The one function everybody asks with."""
        reader = self._reader(story())

        report = usage(reader, by="kind", measures="events", tz="Asia/Tokyo", start="2026-11-20", order="kind", limit=2)

        assert report.rows == [{"kind": "llm", "events": 1}, {"kind": "named", "events": 3}]
        assert report.totals == {"events": 5}

    def test_unknown_names_are_refused(self) -> None:
        """With what is allowed instead."""
        reader = self._reader([])

        for options in (
            {"by": "client"},
            {"measures": "clicks"},
            {"where": {"client": "x"}},
            {"order": "-user"},
        ):
            assert "use " in refusal(reader, options), options
