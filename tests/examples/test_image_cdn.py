from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from examples.image_cdn.__main__ import SECRET, headers_of, made, serving, visit
from examples.image_cdn.app import DATASET, DIMENSIONS, create_app
from examples.running import asgi_served
from tests.support.analytics_engine import serving as serving_sql
from usagekit import UsageEvent, cli, usage
from usagekit.backends.analytics_engine import Layout
from usagekit.processors import hash_users

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usagekit import Recorder

ANN, BOB = headers_of("ann"), headers_of("bob")
ANN_HASHED = hash_users(SECRET).hashed("ann@example.org")
TODAY = datetime.now(UTC).date()


class Site:
    """The CDN while it is served, and its recorder."""

    def __init__(self, url: str, recorder: Recorder) -> None:
        self.recorder = recorder
        self.client = httpx2.Client(base_url=url)

    def look(self, path: str, country: str = "") -> httpx2.Response:
        """Ask for an image, as a browser would that tells much of who it is for."""
        headers = {
            "cf-ipcountry": country,
            "cf-connecting-ip": "203.0.113.77",
            "x-forwarded-for": "203.0.113.78",
            "user-agent": "Telltale/7.1",
            "referer": "https://diary.example/about-me",
        }
        return self.client.get(f"/i/{path}", headers=headers)

    def ask(self, path: str, owner: dict[str, str] = ANN, **parameters: Any) -> httpx2.Response:
        """Ask for an owner's figures."""
        return self.client.get(f"/v1/analytics/{path}", headers=owner, params=parameters)

    def read(self, path: str, owner: dict[str, str] = ANN, **parameters: Any) -> Any:
        """Read an owner's figures."""
        answer = self.ask(path, owner, **parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def served(path: Path) -> Iterator[Site]:
    """Serve the CDN over a ledger."""
    cdn = made(path)
    with cdn.recorder, asgi_served(create_app(cdn)) as url:
        site = Site(url, cdn.recorder)
        with site.client:
            yield site


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USAGEKIT_REALTIME", "USAGEKIT_BATCH", "USAGEKIT_INGEST_URL", "USAGEKIT_RETENTION_DAYS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Serve the CDN."""
    with served(tmp_path / "usage.db") as made_site:
        yield made_site


def look_around(site: Site) -> int:
    """Look at Ann's images, and at one of Bob's; gives the bytes of a refusal."""
    assert site.look("harbour/original", "DE").status_code == 200
    assert site.look("harbour/thumb", "DE").status_code == 200
    assert site.look("harbour/thumb", "FR").status_code == 200
    assert site.look("harbour/huge").status_code == 404
    refused = site.look("sketch/original", "FR")
    assert refused.status_code == 403
    assert site.look("poster/thumb", "US").status_code == 200
    assert site.look("nothing/thumb", "US").status_code == 404
    return len(refused.content)


def counts(requests: int, size: int, **names: Any) -> dict[str, Any]:
    """Give a row as it is told."""
    return names | {"requests": requests, "bandwidth_bytes": size}


def test_the_overview_has_totals_images_countries_statuses_and_days(site: Site) -> None:
    """Each field, of the owner's images only."""
    refusal = look_around(site)
    missing = len(site.look("harbour/huge").content)

    overview = site.read("overview", days=7)

    total = 41_400 + refusal + 2 * missing
    assert overview == {
        "start": (TODAY - timedelta(days=6)).isoformat(),
        "end": TODAY.isoformat(),
        "origin": "direct",
        "total_requests": 6,
        "total_bandwidth_bytes": total,
        "top_images": [counts(5, total - refusal, image_id="harbour"), counts(1, refusal, image_id="sketch")],
        "countries": [
            counts(2, 2 * missing, country=""),
            counts(2, 40_700, country="DE"),
            counts(2, 700 + refusal, country="FR"),
        ],
        "statuses": [
            counts(3, 41_400, status=200),
            counts(2, 2 * missing, status=404),
            counts(1, refusal, status=403),
        ],
        "days": [counts(6, total, date=TODAY.isoformat())],
    }
    assert site.read("overview", BOB)["total_requests"] == 1


def test_an_image_has_variants_countries_and_days(site: Site) -> None:
    """Each field; the variant that does not exist is unknown."""
    look_around(site)
    missing = len(site.look("harbour/huge").content)

    image = site.read("images/harbour", days=1)

    total = 41_400 + 2 * missing
    assert image == {
        "image_id": "harbour",
        "start": TODAY.isoformat(),
        "end": TODAY.isoformat(),
        "origin": "direct",
        "total_requests": 5,
        "total_bandwidth_bytes": total,
        "variants": [
            counts(2, 2 * missing, variant=""),
            counts(2, 1400, variant="thumb"),
            counts(1, 40_000, variant="original"),
        ],
        "countries": [
            counts(2, 2 * missing, country=""),
            counts(2, 40_700, country="DE"),
            counts(1, 700, country="FR"),
        ],
        "days": [counts(5, total, date=TODAY.isoformat())],
    }


def shown_once(site: Site, day: datetime) -> None:
    """Have one image shown at some time."""
    event = UsageEvent(
        kind="request",
        event="image",
        user="ann@example.org",
        status=200,
        time=day,
        response_bytes=700,
        attributes={"image": "harbour", "variant": "thumb", "country": "DE"},
    )
    assert site.recorder.record(event)


def test_tables_of_days_and_months_hold_what_was_shown(site: Site) -> None:
    """Rows as a table of each would have them; months know no range."""
    shown_once(site, datetime(2026, 9, 30, 23, 59, 59, tzinfo=UTC))
    shown_once(site, datetime(2026, 10, 1, tzinfo=UTC))
    shown_once(site, datetime(2026, 10, 1, 7, tzinfo=UTC))

    days = site.read("daily", start="2026-10-01", end="2026-10-02")
    months = site.read("monthly")

    assert days == [
        {
            "owner": ANN_HASHED,
            "date": "2026-10-01",
            "image_id": "harbour",
            "variant": "thumb",
            "country": "DE",
            "requests": 2,
            "bandwidth_bytes": 1400,
        }
    ]
    assert months == [
        {"owner": ANN_HASHED, "year_month": "2026-09", "requests": 1, "bandwidth_bytes": 700},
        {"owner": ANN_HASHED, "year_month": "2026-10", "requests": 2, "bandwidth_bytes": 1400},
    ]
    assert site.read("monthly", BOB) == []
    assert site.read("meta") == []


def test_ranges_include_both_ends(site: Site) -> None:
    """`days` counts today; without anything it is thirty days, and the longest is ninety."""
    now = datetime.now(UTC)
    for ago in (0, 29, 30, 89, 90):
        shown_once(site, now - timedelta(days=ago))

    def total(**parameters: Any) -> int:
        found: int = site.read("overview", **parameters)["total_requests"]
        return found

    thirty = TODAY - timedelta(days=30)
    assert [total(), total(days=1), total(days=31), total(days=90)] == [2, 1, 3, 4]
    assert total(start=thirty, end=thirty) == 1
    assert total(start=thirty) == 3
    assert total(end=thirty) == 1


@pytest.mark.parametrize(
    ("parameters", "allowed"),
    [
        ({"days": 0}, "greater than or equal to 1"),
        ({"days": 91}, "less than or equal to 90"),
        ({"days": "many"}, "valid integer"),
        ({"start": "20-11-2026"}, "valid date"),
        ({"start": "2026-02-01", "end": "2026-01-01"}, "1 to 90 days"),
        ({"start": "2026-01-01", "end": "2026-04-01"}, "1 to 90 days"),
        ({"end": "0001-01-01"}, "2000-01-01 to 2099-12-31"),
        ({"days": 7, "end": "2026-01-01"}, "either days, or start and end"),
    ],
)
def test_a_range_that_cannot_be_says_what_is_allowed(
    parameters: dict[str, Any], allowed: str, shared_site: Site
) -> None:
    """422, on each endpoint that takes one."""
    for path in ("overview", "images/harbour", "daily"):
        answer = shared_site.ask(path, **parameters)
        assert (answer.status_code, allowed in answer.text) == (422, True), answer.text


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve one CDN for questions that change nothing."""
    with served(tmp_path_factory.mktemp("cdn") / "usage.db") as made_site:
        yield made_site


@pytest.mark.parametrize("path", ["overview", "images/harbour", "daily", "monthly", "meta"])
def test_owners_see_only_what_is_theirs(path: str, shared_site: Site) -> None:
    """401 without a key, 404 for another owner's image and for one that does not exist."""
    answers = [shared_site.ask(path, headers) for headers in ({}, headers_of("eve"))]

    assert [(answer.status_code, answer.headers["www-authenticate"]) for answer in answers] == [(401, "Bearer")] * 2
    for image in ("harbour", "nothing"):
        assert shared_site.ask(f"images/{image}", BOB).status_code == 404


def test_nothing_is_kept_of_who_looked(tmp_path: Path) -> None:
    """No address, user agent or referrer in any file, nor the owner's own id; what is no country is unknown."""
    with served(tmp_path / "usage.db") as site:
        look_around(site)
        site.look("harbour/thumb", "Atlantis")
        waiting = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        assert site.recorder.flush()
        held = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        countries = {row["country"] for row in usage(site.recorder, by="country", measures="events").rows}

    assert ANN_HASHED.encode() in held
    for secret in (b"203.0.113", b"127.0.0.1", b"Telltale", b"diary.example", b"ann@example.org", b"Atlantis"):
        assert secret not in held + waiting
    assert countries == {"DE", "FR", "US", ""}


@contextmanager
def analytics_engine(edge: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve what was recorded at the edge as Cloudflare would; gives the arguments of a job that brings it in."""
    with serving_sql(edge, {DATASET: Layout.default(DIMENSIONS)}) as server:
        monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", "local")
        monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "secret")
        yield ["backfill", "--from", f"analytics-engine://{DATASET}?api_url={server.url}", "--day", "today"]


@pytest.mark.parametrize("realtime", [True, False])
@pytest.mark.parametrize("batch", [True, False])
def test_recording_and_batch_are_each_on_or_off(
    realtime: bool,  # noqa: FBT001
    batch: bool,  # noqa: FBT001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Images are served in any case; figures come from recording, else from the batch, or there are none."""
    edge, here = tmp_path / "edge.db", tmp_path / "usage.db"
    with served(edge) as site:
        look_around(site)
        told = site.read("overview")
        daily = site.read("daily")
    monkeypatch.setenv("USAGEKIT_REALTIME", str(int(realtime)))
    monkeypatch.setenv("USAGEKIT_BATCH", str(int(batch)))

    with served(here) as site, analytics_engine(edge, monkeypatch) as job:
        site.look("harbour/thumb", "DE")
        assert [cli.main([*job, "--db", str(here), "--per", "user"]) for _ in range(2)] == [0, 0]
        overview = site.read("overview")
        days = site.read("daily")
        meta = site.read("meta")

    assert ("USAGEKIT_BATCH=0" in capsys.readouterr().out) is not batch
    assert overview["origin"] == ("direct" if realtime else "backfill")
    assert overview["total_requests"] == (1 if realtime else told["total_requests"] if batch else 0)
    if batch and not realtime:
        assert overview == told | {"origin": "backfill"}
        assert days == daily
    assert [(row["key"], row["value"]) for row in meta] == (
        [("last_aggregation_date", TODAY.isoformat())] if batch else []
    )
    for row in meta:
        assert abs(datetime.fromisoformat(row["updated_at"]) - datetime.now(UTC)) < timedelta(minutes=2)


def test_requests_are_kept_for_ninety_days(site: Site, tmp_path: Path) -> None:
    """The nightly job removes older ones; the rows of their months stay, and so does what is younger."""
    old = datetime.now(UTC) - timedelta(days=120)
    for _ in range(300):
        shown_once(site, old)
    shown_once(site, datetime.now(UTC))
    assert site.recorder.flush()
    months = site.read("monthly")

    assert cli.main(["purge", "--db", str(tmp_path / "usage.db"), "--older-than", "90d"]) == 0

    assert site.recorder.backends[0].retention == (90, None)
    assert 200 < site.recorder.status()["purged"] <= 300  # whole blocks of the ledger
    assert [row["requests"] for row in months] == [300, 1]
    assert site.read("monthly") == months
    assert site.read("overview")["total_requests"] == 1


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    """The line of figures is what was sent."""
    with serving(tmp_path) as url:
        assert visit(url) == "4 requests, 41,434 bytes; harbour 3, sketch 1; DE 2, FR 2"
