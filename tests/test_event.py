"""Events as plain values, for backends that keep them as they are."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from usagekit import UsageEvent

CALL = UsageEvent(
    id="j-1",
    time=datetime(2026, 11, 20, 12, 30, 0, 1, tzinfo=UTC),
    kind="llm",
    event="summarise",
    user='ünï "\u2028" \U0001f600',
    org="acme",
    status=200,
    latency_ms=840.001,
    provider="acme",
    model="m",
    input_tokens=2**53 - 1,
    first_token_ms=0,
    cost_usd=Decimal("0.000000001"),
    aborted=True,
    quantity=2.5,
    weight=3,
    attributes={"project": "p1"},
)


@pytest.mark.parametrize("event", [CALL, UsageEvent(), UsageEvent(cost_source="unpriced", latency_ms=None)])
def test_an_event_survives_json(event: UsageEvent) -> None:
    """Every field, to the microsecond and the nano-dollar."""
    text = json.dumps(event.to_dict(), allow_nan=False)

    again = UsageEvent.from_dict(json.loads(text))

    assert again == event
    assert again.to_dict() == event.to_dict()


def test_time_and_money_are_texts() -> None:
    """JSON has neither; what is unpriced is null, which is not 0."""
    told = CALL.to_dict()

    assert (told["time"], told["cost_usd"]) == ("2026-11-20T12:30:00.000001+00:00", "0.000000001")
    assert told["attributes"] == {"project": "p1"}
    assert UsageEvent().to_dict()["cost_usd"] is None


@pytest.mark.parametrize(
    "time", ["2026-10-31T22:00:00Z", "2026-11-01T00:00:00+02:00", "2026-10-31 22:00", 1_793_484_000]
)
def test_a_time_may_be_a_text_or_a_number(time: object) -> None:
    """ISO 8601, of UTC where it names no offset; seconds since 1970."""
    assert UsageEvent(time=time).time == datetime(2026, 10, 31, 22, tzinfo=UTC)  # type: ignore[arg-type]


def test_what_another_version_wrote_can_be_read() -> None:
    """A field that is not known is passed over, and one that is missing is unknown."""
    event = UsageEvent.from_dict({"user": "ann", "colour": "red", "time": "2026-11-20T13:00:00+01:00"})

    assert event == UsageEvent(user="ann", time=datetime(2026, 11, 20, 12, tzinfo=UTC))


@pytest.mark.parametrize("time", ["soon", 12, None])
def test_a_time_that_is_none_is_refused(time: object) -> None:
    """Or it would be counted as now."""
    with pytest.raises(ValueError, match=str(time)):
        UsageEvent.from_dict({"user": "ann", "time": time})
