"""Integers of counts and marks: nothing is lost in them, and adding them up is adding what they hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from usagekit._store.lanes import LARGEST, blob_of, counts_in, counts_of, marks_of, number_in

COUNTS = st.dictionaries(st.integers(0, 3000), st.integers(1, 2**40))
PLACES = st.sets(st.integers(0, 2**15 - 1))


@given(COUNTS, COUNTS)
def test_counts_add_up(one: dict[int, int], other: dict[int, int]) -> None:
    """Place by place, as blobs too."""
    together = {place: one.get(place, 0) + other.get(place, 0) for place in sorted(one.keys() | other.keys())}

    number = number_in(blob_of(counts_of(one))) + number_in(blob_of(counts_of(other)))

    assert counts_in(number) == together
    assert number_in(blob_of(number)) == number


def test_the_largest_count_leaves_its_neighbours_alone() -> None:
    """It has a bit to spare."""
    assert counts_in(counts_of({0: 1, 1: LARGEST, 2: 3}) + counts_of({1: 1})) == {0: 1, 1: 2**63, 2: 3}


@given(PLACES, PLACES)
def test_marks_are_or_ed(one: set[int], other: set[int]) -> None:
    """What either marks, both together do."""
    both = number_in(blob_of(marks_of(one, 2**15))) | marks_of(other, 2**15)

    assert {place for place in range(2**15) if both >> place & 1} == one | other
    assert both.bit_count() == len(one | other)
    assert number_in(b"") == 0
