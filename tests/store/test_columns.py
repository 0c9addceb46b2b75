"""Cells as large integers: what they add up to, however large, negative or missing the numbers are."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usagekit._store.columns import Layout, grouped
from usagekit._store.tiers import WIDE

SMALL = st.integers(-(2**40), 2**40)
ANY = st.integers(-(2**63), 2**63 - 1)


@given(data=st.data(), numbers=st.sampled_from([st.integers(0, 2**40), SMALL, ANY]), rows=st.integers(1, 30))
def test_cells_hold_the_sums_of_their_rows(data: st.DataObject, numbers: st.SearchStrategy[int], rows: int) -> None:
    """By any key of up to three columns, and of coarser keys after that."""

    def column(values: st.SearchStrategy[int]) -> list[int]:
        return data.draw(st.lists(values, min_size=rows, max_size=rows))

    names = ["events", *data.draw(st.sets(st.sampled_from(WIDE[1:])))]
    columns = {name: column(numbers) for name in names}
    factors = data.draw(st.one_of(st.none(), st.just(column(st.integers(-(2**20), 2**20)))))
    keys = [column(st.integers(0, 2**40) | st.integers(0, 3)) for _ in range(data.draw(st.integers(1, 3)))]
    weights = factors or [1] * rows
    largest = sum(
        abs(value * weight) for values in columns.values() for value, weight in zip(values, weights, strict=True)
    )
    layout = Layout.of(names, largest)

    cells = grouped(keys, layout.packed(columns, factors), {"most": columns["events"]})
    coarse = cells.by(cells.keys[0])

    for found, parts in ((cells, keys), (coarse, keys[:1])):
        expected: dict[tuple[int, ...], dict[str, int]] = defaultdict(lambda: dict.fromkeys(names, 0))
        most: dict[tuple[int, ...], int] = {}
        for row, key in enumerate(zip(*parts, strict=True)):
            for name in names:
                expected[key][name] += columns[name][row] * weights[row]
            most[key] = max(most.get(key, -(2**63)), columns["events"][row])
        shown = list(zip(*found.keys, strict=True))
        sums = layout.sums(found.numbers)
        assert shown == sorted(expected)
        assert list(found.largest["most"]) == [most[key] for key in shown]
        for name in names:
            wanted = [expected[key][name] for key in shown]
            assert sums.get(name, [0] * len(shown)) == wanted
            assert (name in sums) == any(wanted)


def test_a_largest_value_is_none_where_nothing_is_known() -> None:
    """Of a cell whose rows have none."""
    cells = grouped([[5, 7, 5, 7]], [1, 1, 1, 1], {"latency_max": [None, None, 3, None]})

    assert cells.keys == [[5, 7]]
    assert cells.largest == {"latency_max": [3, None]}


def test_lanes_are_as_wide_as_the_sums_need() -> None:
    """64 bits as a rule, which is several times faster."""
    narrow, wide = Layout.of(["events", "input"], 2**62 - 1), Layout.of(["events", "input"], 2**62)

    assert narrow.bits == 64 < wide.bits
    for layout, value in ((narrow, 2**61), (wide, 2**63 - 1)):
        numbers = layout.packed({"events": [1, 1], "input": [value, -value]}, [2**53, 1] if layout is wide else None)
        factor = 2**53 if layout is wide else 1
        assert layout.sums(numbers) == {"events": [factor, 1], "input": [value * factor, -value]}


def test_a_column_that_is_missing_is_one_of_zeros() -> None:
    """In what is packed, and in what comes out."""
    layout = Layout.of(["events", "input", "cost"], 10)

    assert layout.sums(layout.packed({"events": [1, 2]}, None)) == {"events": [1, 2]}


@pytest.mark.parametrize("names", [["cost", "events"], ["events", "cost"]])
def test_lanes_do_not_depend_on_the_order_of_names(names: list[str]) -> None:
    """What nearly every event has comes first."""
    assert Layout.of(names, 1).names == ("events", "cost")
