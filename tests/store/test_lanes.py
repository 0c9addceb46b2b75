"""Blobs of counts and marks: nothing is lost in them, and adding them up is adding what they hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from usagekit._store.lanes import counts_in, number_of, with_counts, with_marks

COUNTS = st.dictionaries(st.integers(0, 3000), st.integers(1, 2**40))
PLACES = st.sets(st.integers(0, 2**15 - 1))


@given(COUNTS, COUNTS)
def test_counts_add_up(one: dict[int, int], other: dict[int, int]) -> None:
    """As integers, when they are read, and place by place, when they are kept up to date."""
    together = {place: one.get(place, 0) + other.get(place, 0) for place in sorted(one.keys() | other.keys())}

    assert counts_in(number_of(with_counts(b"", one)) + number_of(with_counts(b"", other))) == together
    assert counts_in(number_of(with_counts(with_counts(b"", one), other))) == together


def test_counts_stop_at_nothing_and_at_63_bits() -> None:
    """A place that went beyond either would change the one next to it."""
    blob = with_counts(with_counts(b"", {3: 5, 4: 2**62, 5: 7}), {3: -9, 4: 2**63})

    assert counts_in(number_of(blob)) == {4: 2**63 - 1, 5: 7}


@given(PLACES, PLACES)
def test_marks_stay(one: set[int], other: set[int]) -> None:
    """Marks of two blobs together are those of one that both were marked in."""
    both = number_of(with_marks(with_marks(b"", one), other))

    assert both == number_of(with_marks(b"", one)) | number_of(with_marks(b"", other))
    assert {place for place in range(2**15) if both >> place & 1} == one | other
    assert number_of(b"") == 0
