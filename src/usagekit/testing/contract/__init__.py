"""What tests of backends need: `ReaderContract`, the suite that every reader passes, one module for each kind of test.

For messages that show both sides of a failed comparison, call
`pytest.register_assert_rewrite("usagekit.testing")` in `conftest.py` before this module is imported.
"""

from __future__ import annotations

from usagekit.testing.contract.answers import Answers
from usagekit.testing.contract.filters import Filters
from usagekit.testing.contract.grouping import Grouping
from usagekit.testing.contract.measures import Measures
from usagekit.testing.contract.order import Order
from usagekit.testing.contract.times import Times

__all__ = ["ReaderContract"]


class ReaderContract(Grouping, Measures, Times, Order, Filters, Answers):
    """The tests that every reader passes: subclass it in pytest, and say how events get into your reader.

        class TestMyBackend(ReaderContract):
            def make_reader(self, events):
                backend = MyBackend(...)
                backend.write(events, batch_id="1")
                return backend

    The reader must take the declared dimensions `project` and `country`, and be exact. With `exact = False` its
    reports must say so, and sums beyond 2**53 need be right in their first twelve digits only. What `make_reader`
    needs (a directory, a server) comes from a fixture of the subclass with `autouse=True` that sets an
    attribute.
    """
