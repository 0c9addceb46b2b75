"""What tests of sinks need: `SinkContract`, the suite that every sink passes."""
# ruff: noqa: S101  these are pytest's tests, whose names say what holds

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from usagekit.errors import Rejected
from usagekit.event import UsageEvent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from usagekit.backends import Sink

__all__ = ["SinkContract"]

_NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
_LARGEST = 2**53 - 1
_AWKWARD = (
    UsageEvent(time=_NOON, event="tick"),
    UsageEvent(time=datetime(1970, 1, 1, tzinfo=UTC), kind="request", event="request", route="GET (unmatched)"),
    UsageEvent(time=_NOON, kind="llm", event="llm", model="m", cost_source="unpriced", status=599, aborted=True),
    UsageEvent(
        time=_NOON,
        event="'; DROP TABLE events; --",
        user="ünï\u2028cödé \U0001f600",
        org='"quoted"\n\t\\',
        attributes={"project": "a,b;c"},
    ),
    UsageEvent(
        time=_NOON,
        kind="llm",
        event="llm",
        user="u" * 200,
        model="m" * 200,
        provider="acme",
        status=200,
        latency_ms=0,
        first_token_ms=0,
        input_tokens=_LARGEST,
        output_tokens=_LARGEST,
        cost_usd=Decimal(_LARGEST).scaleb(-9),
        response_bytes=_LARGEST,
        weight=1_000_000_000,
    ),
)


class SinkContract:
    """The tests that every sink passes: subclass it in pytest, and say how a sink is made and what it has.

        class TestMySink(SinkContract):
            def make_sink(self):
                return MySink("events.jsonl")

            def ids(self, sink):
                return [line["id"] for line in lines_of("events.jsonl")]

            def outage(self, sink):
                return unwritable("events.jsonl")

    What these need (a directory, a server) comes from a fixture of the subclass with `autouse=True` that sets an
    attribute. Each test makes one sink, with nothing in it.
    """

    def make_sink(self) -> Sink:
        """Give a sink that holds nothing."""
        raise NotImplementedError("subclasses of SinkContract say how a sink is made")

    def ids(self, sink: Sink) -> Sequence[str]:
        """Give the `id` of every event that is where the sink writes to, as often as it is there."""
        raise NotImplementedError("subclasses of SinkContract say what is where the sink writes to")

    def outage(self, sink: Sink) -> AbstractContextManager[object] | None:
        """Give a block during which nothing can be written; None for a sink that nothing can keep from it."""
        raise NotImplementedError("subclasses of SinkContract say what it is like when nothing can be written")

    def test_says_how_much_it_takes(self) -> None:
        """`max_batch` is a whole number, 1 or more; a `name`, where there is one, is a text that is always the same."""
        one, another = self.make_sink(), self.make_sink()

        assert isinstance(one.max_batch, int)
        assert one.max_batch >= 1
        name = getattr(one, "name", "unnamed")
        assert isinstance(name, str)
        assert name == getattr(another, "name", "unnamed") != ""
        one.close()
        another.close()

    def test_takes_every_event_there_can_be(self) -> None:
        """The unknown, the largest and the strange arrive, each once."""
        sink = self.make_sink()
        events = [replace(event, id=f"contract-{n}") for n, event in enumerate(_AWKWARD)]

        for number, event in enumerate(events):
            sink.write([event], batch_id=f"batch-{number}")

        assert Counter(self.ids(sink)) == Counter(event.id for event in events)
        sink.close()

    def test_takes_as_many_events_as_it_says(self) -> None:
        """A batch of `max_batch` arrives whole."""
        sink = self.make_sink()
        events = _numbered(sink.max_batch)

        sink.write(events, batch_id="full")

        assert Counter(self.ids(sink)) == Counter(event.id for event in events)
        sink.close()

    def test_a_repeated_batch_is_there_once_or_whole_again(self) -> None:
        """After a lost acknowledgement the same batch comes again: no event of it counts more often than another."""
        sink = self.make_sink()
        events = _numbered(min(3, sink.max_batch))

        for _ in range(3):
            sink.write(events, batch_id="again")

        times = Counter(self.ids(sink))
        assert set(times) == {event.id for event in events}
        assert len(set(times.values())) == 1
        assert set(times.values()) <= {1, 2, 3}
        sink.close()

    def test_the_same_events_under_another_id_are_another_batch(self) -> None:
        """Only the batch's id tells a retry: what looks alike is not thrown away."""
        sink = self.make_sink()
        tick = UsageEvent(time=_NOON, event="tick")

        sink.write([replace(tick, id="contract-a")], batch_id="one")
        sink.write([replace(tick, id="contract-b")], batch_id="two")

        assert Counter(self.ids(sink)) == Counter(["contract-a", "contract-b"])
        sink.close()

    def test_an_outage_is_raised_and_no_rejection(self) -> None:
        """Returning means delivered, and `Rejected` is for ever: an outage is neither. Afterwards the batch arrives."""
        sink = self.make_sink()
        events = _numbered(min(2, sink.max_batch))
        outage = self.outage(sink)
        raised: Exception | None = None

        if outage is not None:
            with outage:
                try:
                    sink.write(events, batch_id="late")
                except Exception as error:  # noqa: BLE001  a sink may raise anything
                    raised = error
        sink.write(events, batch_id="late")

        assert outage is None or raised is not None, "write returned although nothing could be written"
        assert not isinstance(raised, Rejected)
        assert set(self.ids(sink)) == {event.id for event in events}
        sink.close()

    def test_closing_twice_is_closing_once(self) -> None:
        """A recorder closes it, and so may whoever made it; a sink that was never written to closes as well."""
        unused, used = self.make_sink(), self.make_sink()
        used.write(_numbered(1), batch_id="only")

        for sink in (unused, used, unused, used):
            sink.close()

        assert Counter(self.ids(used)) == Counter(["contract-0"])


def _numbered(count: int) -> list[UsageEvent]:
    return [UsageEvent(id=f"contract-{n}", time=_NOON, event="tick", user=f"user-{n}") for n in range(count)]
