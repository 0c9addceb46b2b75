"""The page as people use it, in a real browser."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import HOSTILE, TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.xdist_group("browser")  # one browser is enough


def users(page: Page) -> list[str]:
    """Give the names in the large table, in order."""
    return page.locator("#table tbody th bdi").all_inner_texts()


def card(page: Page, title: str) -> str:
    """Give the number of a card."""
    return page.locator(".cards li", has_text=title).locator(".value").inner_text()


def test_log_in_look_around_and_take_it_away(visit: Callable[..., Any], address: str, tmp_path: Any) -> None:
    """Log in, switch periods, sort, filter, drill down, come back, and download what is shown."""
    with visit(address) as page:
        assert page.title() == "Usage, last 7 days"
        assert [card(page, name) for name in ("Events", "Active users", "Tokens", "Cost")] == [
            "12",
            "3",
            "300",
            "$1.50",
        ]
        assert users(page) == ["Ann Abel", "bob", "carla", "(unattributed)"]

        page.get_by_role("link", name="30 days").click()
        assert card(page, "Events") == "49"
        page.get_by_role("link", name="24 hours").click()
        assert (card(page, "Events"), card(page, "Success rate")) == ("11", "90.0\N{NO-BREAK SPACE}%")

        page.get_by_role("link", name="sync", exact=True).click()
        assert users(page) == ["bob"]
        page.get_by_role("link", name="Cost", exact=True).last.click()
        assert page.locator("th[aria-sort=descending]").inner_text().startswith("Cost")
        page.locator("#table th a", has_text="User").click()
        assert users(page) == ["(unattributed)", "Ann Abel", "bob", "carla"]

        page.get_by_role("link", name="Ann Abel").click()
        assert page.locator(".chips li").inner_text().split("\n")[:2] == ["user", "Ann Abel"]
        assert "period=24h" in page.url
        assert card(page, "Events") == "4"
        page.get_by_role("link", name="7 days").click()
        assert card(page, "Events") == "5"
        page.get_by_role("link", name="gpt-5-mini").click()
        assert card(page, "Events") == "1"
        page.get_by_role("link", name="Remove the filter on model").click()

        with page.expect_download() as started:
            page.locator(".pager .csv").first.click()
        started.value.save_as(tmp_path / "usage.csv")
        with (tmp_path / "usage.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [(row["route"], row["events"]) for row in rows] == [("GET /items", "4"), ("", "1")]
        page.get_by_role("link", name="Remove the filter on user").click()
        assert card(page, "Events") == "12"


def test_forms_filter_and_choose_dates_and_zone(visit: Callable[..., Any], address: str) -> None:
    """Each keeps what the other chose; no script is needed for it."""
    with visit(address, java_script_enabled=False) as page:
        page.get_by_text("Filter", exact=True).first.click()
        page.get_by_label("Only").select_option("org")
        page.get_by_label("is", exact=True).fill("acme")
        page.get_by_role("button", name="Filter").click()
        assert card(page, "Events") == "9"

        page.get_by_text("Other dates").click()
        page.get_by_label("Time zone").fill("Asia/Tokyo")
        page.get_by_role("button", name="Show").click()
        assert "Asia/Tokyo" in page.locator("footer").inner_text()
        assert card(page, "Events") == "9"

        page.locator(".menu summary").first.click()
        page.get_by_label("From").fill("2020-01-01")
        page.get_by_label("To, inclusive").fill("2020-01-31")
        page.get_by_role("button", name="Show").click()
        assert page.get_by_role("heading", name="Nothing here yet").is_visible()
        assert page.title() == "Usage, 2020-01-01 to 2020-01-31"
        assert "org=acme" in page.url
        page.get_by_role("link", name="Remove it").click()
        page.get_by_role("link", name="30 days").first.click()
        assert card(page, "Events") == "49"
        assert "Asia/Tokyo" in page.locator("footer").inner_text()


def test_pages_follow_each_other(visit: Callable[..., Any], address: str) -> None:
    """Twenty rows each, and every user on exactly one of them."""
    with visit(address + "?period=30d") as page:
        seen = users(page)
        assert page.locator(".pager p").first.inner_text() == "1 to 20 of 41"
        page.get_by_role("link", name="Next").click()
        seen += users(page)
        page.get_by_role("link", name="Next").click()
        seen += users(page)
        assert page.get_by_role("link", name="Next").count() == 0
        page.get_by_role("link", name="Previous").click()

        assert page.locator(".pager p").first.inner_text() == "21 to 40 of 41"
        assert len(seen) == len(set(seen)) == 41


def test_hostile_texts_are_texts(visit: Callable[..., Any], address: str) -> None:
    """Ids, routes, models, event types and names show as they are, and do nothing."""
    with visit(address + "?period=30d&by=model") as page:
        shown = page.locator("body").inner_text()
        for text in HOSTILE[:-1]:
            assert text.strip("\N{RIGHT-TO-LEFT OVERRIDE}") in shown
        assert page.locator("script, img, b, [onerror]").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("#table tbody").get_by_role("link", name=HOSTILE[0]).click()
        assert page.locator(".chips").inner_text().count(HOSTILE[0]) == 1
        assert card(page, "Events") == "1"

    with visit(address + "?period=30d&by=user&order=user") as page:
        assert "<b>Bobby</b>" in page.locator("body").inner_text()
        page.goto(address + "?period=30d&by=user&order=-user")
        page.locator("#table tbody").get_by_role("link", name=re.compile("^x{60}")).click()
        assert card(page, "Events") == "1"


@pytest.mark.parametrize(
    ("scheme", "width", "query"),
    [
        ("light", 360, ""),
        ("light", 360, "?user=nobody"),
        ("light", 360, "?tz=Mars"),
        ("light", 1600, "?period=30d&show=cost_usd&by=model"),
        ("dark", 360, "?tz=Mars"),
        ("dark", 1600, "?period=30d&org=acme"),
    ],
)
def test_anybody_can_use_it(visit: Callable[..., Any], address: str, scheme: str, width: int, query: str) -> None:
    """No serious finding of axe, menus open, and nothing to scroll sideways but tables."""
    from axe_playwright_python.sync_playwright import Axe

    with visit(address + query, width=width, color_scheme=scheme, bypass_csp=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
        found = Axe().run(page).response["violations"]

    assert [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in SERIOUS] == []


SERIOUS = ("serious", "critical")


def test_the_keyboard_reaches_the_content(visit: Callable[..., Any], address: str) -> None:
    """The first stop skips what comes before it, and every stop can be seen."""
    with visit(address) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to content"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_it_refreshes_itself_when_told_to(visit: Callable[..., Any], address: str) -> None:
    """By the browser alone."""
    with visit(address) as page:
        page.get_by_role("link", name="Refresh every minute").click()
        assert page.locator("meta[http-equiv=refresh]").get_attribute("content") == "60"
        page.get_by_role("link", name="Stop refreshing every 60 s").click()
        assert page.locator("meta[http-equiv=refresh]").count() == 0


def test_who_cannot_log_in_sees_nothing(browser: Browser, address: str) -> None:
    """The browser is asked for a password, and a wrong one shows a page that says so."""
    context = browser.new_context(http_credentials={"username": "any", "password": TOKEN[::-1]})
    page = context.new_page()

    answer = page.goto(address)

    assert answer is not None
    assert answer.status == 401
    assert page.get_by_role("heading").inner_text() == "Unauthorized"
    assert "ann" not in page.locator("body").inner_text()
    context.close()
