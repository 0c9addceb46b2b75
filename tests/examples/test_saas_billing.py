from __future__ import annotations

import os
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from examples.running import wsgi_served
from examples.saas_billing.__main__ import CUSTOMERS, OPERATOR_KEY, bearer, serving, visit
from examples.saas_billing.app import PRICES, create_app
from usagekit import Recorder, UsageEvent
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SEEDS = os.environ.get("USAGEKIT_SEEDS", "")
README = Path(__file__).resolve().parents[2] / "examples/saas_billing/README.md"
REPORTS, REPORT, EXPORTS = PRICES
HEAVY, TINY, OPERATOR = bearer("key-of-globex"), bearer("key-of-corner-shop"), bearer(OPERATOR_KEY)
OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def heavy(start: datetime, customer: str) -> Iterable[UsageEvent]:
    """Give 6,200 requests, 200 on each of 31 days; each hundredth was a sample of ten, each fiftieth failed."""
    for n in range(6200):
        yield UsageEvent(
            kind="request",
            event="request",
            org=customer,
            route=(REPORTS, REPORT, EXPORTS)[n % 3],
            status=500 if n % 50 == 7 else 200,
            time=start + timedelta(days=n // 200, seconds=n % 200),
            weight=10 if n % 100 == 0 else 1,
        )


def tiny(start: datetime, end: datetime, customer: str) -> Iterable[UsageEvent]:
    """Give five requests at the edges of a month: three in it, one just before, one just after."""
    for time in (start - MICROSECOND, start, start + timedelta(days=5), end - MICROSECOND, end):
        yield UsageEvent(kind="request", event="request", org=customer, route=REPORT, status=200, time=time)


class Api:
    """The API while it is served."""

    def __init__(self, url: str, recorder: Recorder) -> None:
        self.recorder = recorder
        self.client = httpx2.Client(base_url=url, timeout=30)

    def get(self, path: str, headers: dict[str, str] = OPERATOR) -> httpx2.Response:
        """Ask for `path`."""
        return self.client.get(path, headers=headers)

    def sql(self, statement: str) -> httpx2.Response:
        """Ask in SQL."""
        return self.client.post("/billing/sql", content=statement, headers=OPERATOR)

    def record(self, events: Iterable[UsageEvent]) -> None:
        """Record requests of another time."""
        for event in events:
            assert self.recorder.record(event)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """Serve the API."""
    with Recorder(SQLiteBackend(tmp_path / "usage.db")) as recorder:
        app = create_app(recorder, customers=CUSTOMERS, operator_key=OPERATOR_KEY)
        with wsgi_served(app) as url:
            made = Api(url, recorder)
            with made.client:
                yield made


def counted(events: Iterable[UsageEvent], start: datetime, end: datetime) -> Counter[tuple[str, str]]:
    """Count by day and endpoint, by hand."""
    found: Counter[tuple[str, str]] = Counter()
    for event in events:
        if start <= event.time < end:
            found[f"{event.time:%Y-%m-%d}", event.route] += event.weight
    return found


def test_the_bills_of_a_month_are_exact(api: Api) -> None:
    """A heavy customer's and a tiny one's: each line, each field, and the sums, beside a hand count."""
    used = list(heavy(OCTOBER, "globex"))
    few = list(tiny(OCTOBER, NOVEMBER, "corner-shop"))
    api.record([*used, *few])

    small, large = api.get("/billing/bills/2026-10").json()

    line = {"request_endpoint": REPORT, "request_count": 1, "amount_usd": "0.0001"}
    assert small == {
        "customer_id": "corner-shop",
        "month": "2026-10",
        "closed": True,
        "usage_count": 3,
        "amount_usd": "0.00",
        "lines": [{"date": date} | line for date in ("2026-10-01", "2026-10-06", "2026-10-31")],
    }
    expected = counted(used, OCTOBER, NOVEMBER)
    charged = counted([event for event in used if event.status < 400], OCTOBER, NOVEMBER)
    assert {
        (line["date"], line["request_endpoint"]): (line["request_count"], Decimal(line["amount_usd"]))
        for line in large["lines"]
    } == {key: (count, PRICES[key[1]] * charged[key]) for key, count in expected.items()}
    assert (large["usage_count"], large["closed"]) == (6200 + 62 * 9, True)
    assert large["amount_usd"] == f"{sum(PRICES[route] * count for (_, route), count in charged.items()):.2f}"


def test_customers_are_listed_by_activity(api: Api) -> None:
    """What they sent over HTTP, with their endpoints; without a key nobody is served, charged or listed."""
    for _ in range(3):
        api.get("/v1/reports", HEAVY)
    api.get("/v1/reports/1", HEAVY)
    api.get("/v1/reports/9", HEAVY)
    api.get("/v1/reports/2", TINY)
    stranger = api.get("/v1/reports", {})
    api.client.post("/v1/exports", headers=HEAVY)

    customers = api.get("/billing/customers").json()
    small, large = api.get(f"/billing/bills/{datetime.now(UTC):%Y-%m}").json()

    assert (stranger.status_code, stranger.headers["www-authenticate"]) == (401, "Bearer")
    assert customers == [
        {"customer_id": "globex", "count": 6, "endpoints": {REPORTS: 3, REPORT: 2, EXPORTS: 1}},
        {"customer_id": "corner-shop", "count": 1, "endpoints": {REPORT: 1}},
    ]
    assert (large["usage_count"], large["amount_usd"], large["closed"]) == (6, "0.01", False)
    assert (small["usage_count"], small["amount_usd"], small["closed"]) == (1, "0.00", False)


def test_the_statements_of_the_readme_give_the_same(api: Api) -> None:
    """Four questions in SQL agree with the hand count."""
    used, few = list(heavy(OCTOBER, "globex")), list(tiny(OCTOBER, NOVEMBER, "corner-shop"))
    api.record([*used, *few])
    text = README.read_text(encoding="utf-8")
    statements = re.findall(r"^```sql\n(.*?)^```", text, re.DOTALL | re.MULTILINE)

    active, endpoints, month, days = (
        [tuple(row.values()) for row in api.sql(statement).json()["data"]] for statement in statements
    )

    routes: Counter[str] = Counter()
    for event in used:
        routes[event.route] += event.weight
    assert active == [("globex", str(routes.total())), ("corner-shop", "5")]
    assert endpoints == [
        ("corner-shop", REPORT, "5"),
        *(("globex", route, str(routes[route])) for route in sorted(routes)),
    ]
    assert month == [("corner-shop", REPORT, "3")]
    assert days == [
        ("corner-shop", f"{day} 00:00:00", REPORT, "1") for day in ("2026-10-01", "2026-10-06", "2026-10-31")
    ]


@pytest.mark.parametrize("month", ["2026-13", "october", "2026-1", "2026"])
def test_a_month_that_is_none_says_how_one_is_written(month: str, api: Api) -> None:
    """400, with an example in the message."""
    answer = api.get(f"/billing/bills/{month}")

    assert answer.status_code == 400
    assert "2026-11" in answer.json()["error"]


def test_what_analytics_engine_refuses_is_refused(api: Api) -> None:
    """400, and why."""
    answer = api.sql("SELECT COUNT(*) FROM usage_indexed_by_customer_id")

    assert answer.status_code == 400
    assert "COUNT" in answer.json()["error"]


@pytest.mark.parametrize("path", ["customers", "bills/2026-10"])
def test_customers_cannot_read_the_billing(path: str, api: Api) -> None:
    """Nor can strangers."""
    assert [api.get(f"/billing/{path}", headers).status_code for headers in (HEAVY, {})] == [401, 401]


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    """The line of figures is what was sent."""
    with serving(tmp_path) as url:
        assert visit(url) == "corner-shop 1 requests $0.00, globex 120 requests $0.41"


# Statements of a public page, unchanged, where they are at hand: USAGEKIT_SEEDS is the folder with such texts.

if SEEDS:

    def test_the_statements_of_the_public_text_run_unchanged(api: Api) -> None:
        """All four, of a heavy customer and a tiny one who have the names that stand in them."""
        text = next(Path(SEEDS).glob("001*")).read_text(encoding="utf-8")
        found = re.findall(r"^\s*(SELECT\n.*?)(?=`)", text, re.DOTALL | re.MULTILINE)
        start, end = datetime(2023, 3, 1, tzinfo=UTC), datetime(2023, 4, 1, tzinfo=UTC)
        used, few = list(heavy(start, "substitute_customer_id_here")), list(tiny(start, end, "x"))
        api.record([*used, *few])

        answers: list[list[dict[str, Any]]] = [api.sql(statement).json()["data"] for statement in found]

        total: Counter[str] = Counter()
        for event in used:
            total[event.route] += event.weight
        name = "substitute_customer_id_here"
        by_endpoint = {(name, route, str(count)) for route, count in total.items()}
        assert [{tuple(row.values()) for row in rows} for rows in answers] == [
            {(name, str(total.total())), ("x", "5")},
            by_endpoint | {("x", REPORT, "5")},
            by_endpoint,
            {("x", f"{day} 00:00:00", REPORT, "1") for day in ("2023-03-01", "2023-03-06", "2023-03-31")},
        ]
