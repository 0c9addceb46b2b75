from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from examples.running import asgi_served
from examples.token_billing.__main__ import OPERATOR_KEY, bearer, in_front_of, serving, visit
from examples.token_billing.app import DATASET, LAYOUT, make_recorder
from usagekit import UsageEvent, usage
from usagekit.testing import ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usagekit import Recorder

ACME, GLOBEX, OPERATOR = bearer("key-of-acme"), bearer("key-of-globex"), bearer(OPERATOR_KEY)
TEXT = {"content-type": "text/plain"}
README = Path(__file__).resolve().parents[2] / "examples/token_billing/README.md"
SEEDS = os.environ.get("USAGEKIT_SEEDS", "")


class Platform:
    """A platform that is being served, its models, and its recorder."""

    def __init__(self, url: str, server: ProviderServer, recorder: Recorder) -> None:
        self.server = server
        self.recorder = recorder
        self.client = httpx2.Client(base_url=url, timeout=30)

    def run(
        self,
        client: dict[str, str],
        skill: str,
        agent: str = "agent-1",
        model: str = "gpt-5-mini",
        **usage: int,
    ) -> httpx2.Response:
        """Run a skill; `usage` is what the provider reports."""
        if usage:
            self.server.next(usage=usage)
        task = {"agent": agent, "model": model, "input": "Please."}
        return self.client.post(f"/v1/skills/{skill}", headers=client, json=task)

    def usage(self, by: str = "client") -> Any:
        """Read the last seven days."""
        return self.client.get("/v1/usage", params={"by": by}, headers=OPERATOR).raise_for_status().json()

    def sql(self, statement: str) -> httpx2.Response:
        """Ask in SQL."""
        return self.client.post("/v1/sql", content=statement, headers=OPERATOR | TEXT)


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """Serve a platform."""
    monkeypatch.delenv("USAGEKIT_INGEST_URL", raising=False)
    with (
        ProviderServer() as server,
        make_recorder(tmp_path / "usage.db") as recorder,
        in_front_of(server, recorder) as app,
        asgi_served(app) as url,
    ):
        made = Platform(url, server, recorder)
        with made.client:
            yield made


def test_clients_are_listed_by_cost(platform: Platform) -> None:
    """Each field, of whole and failed calls; a few expensive tokens go before many cheap ones."""
    platform.run(ACME, "mail/answer", input_tokens=1_000_000, output_tokens=0)
    platform.run(GLOBEX, "legal/review", model="house-model", input_tokens=1000, output_tokens=100_000)
    platform.server.next(status=429)
    refused = platform.run(ACME, "mail/answer")

    acme, globex = sorted(platform.usage(), key=lambda row: str(row["client"]))
    latencies = acme.pop("latency_ms"), globex.pop("latency_ms")

    assert refused.status_code == 502
    assert acme == {
        "client": "acme",
        "requests": 2,
        "failed": 1,
        "tokens_in": 1_000_000,
        "tokens_out": 0,
        "cost_usd": "0.250000000",
    }
    assert globex == {
        "client": "globex",
        "requests": 1,
        "failed": 0,
        "tokens_in": 1000,
        "tokens_out": 100_000,
        "cost_usd": "1.503000000",
    }
    assert all(0 < latency < 60_000 for latency in latencies)
    assert [row["client"] for row in platform.usage()] == ["globex", "acme"]


def test_a_call_has_client_skill_agent_and_model(platform: Platform) -> None:
    """In the ledger, and in each listing; the client gets the model's answer."""
    answer = platform.run(ACME, "legal/contracts/review", "agent-7", "house-model")
    platform.run(ACME, "mail/answer", "agent-2")

    report = usage(
        platform.recorder,
        by=["user", "skill", "agent", "model", "provider"],
        measures="events",
        where={"kind": "llm"},
        order="skill",
    )

    assert answer.json() == {"output": "Hello from the provider server."}
    assert [tuple(row.values()) for row in report.rows] == [
        ("acme", "legal/contracts/review", "agent-7", "house-model", "openai", 1),
        ("acme", "mail/answer", "agent-2", "gpt-5-mini", "openai", 1),
    ]
    for by, first in (("skill", "legal/contracts/review"), ("agent", "agent-7"), ("model", "house-model")):
        assert platform.usage(by)[0][by] == first


def test_what_is_older_than_seven_days_is_not_listed(platform: Platform) -> None:
    """Nor is a request of the platform itself."""
    now = datetime.now(UTC)
    for days, client in ((8, "old"), (6, "young")):
        platform.recorder.record(UsageEvent(kind="llm", user=client, time=now - timedelta(days=days)))

    assert [row["client"] for row in platform.usage()] == ["young"]


def test_nobody_comes_in_without_a_key(platform: Platform) -> None:
    """Agents cannot read the figures, nor the operator run skills; no model was asked."""
    calls = [
        platform.client.get("/v1/usage", headers=ACME),
        platform.client.post("/v1/sql", headers=GLOBEX | TEXT, content="SHOW TABLES"),
        platform.run(OPERATOR, "mail/answer"),
        platform.run({}, "mail/answer"),
    ]

    assert [(call.status_code, call.headers["www-authenticate"]) for call in calls] == [(401, "Bearer")] * 4
    assert platform.server.requests == []


def test_an_unknown_grouping_says_which_there_are(platform: Platform) -> None:
    """422, with the four in the message."""
    answer = platform.client.get("/v1/usage", params={"by": "country"}, headers=OPERATOR)

    assert answer.status_code == 422
    assert all(name in answer.text for name in ("client", "skill", "agent", "model"))


def test_sql_agrees_with_the_listing(platform: Platform) -> None:
    """The statement of the README; `_sample_interval` is the weight of an event that stands for several."""
    platform.run(ACME, "mail/answer", input_tokens=400, output_tokens=200)
    platform.run(GLOBEX, "mail/answer", model="house-model", input_tokens=10, output_tokens=1)
    one_in_ten = UsageEvent(kind="llm", user="globex", input_tokens=5, weight=10, cost_usd=Decimal("0.01"))
    platform.recorder.record(one_in_ten)
    statement = re.findall(r"^```sql\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[0]

    answer = platform.sql(statement).json()

    assert answer["data"] == [
        {"client": "globex", "tokens_in": 60, "tokens_out": 1, "dollars": pytest.approx(0.100045), "calls": "11"},
        {"client": "acme", "tokens_in": 400, "tokens_out": 200, "dollars": pytest.approx(0.0005), "calls": "1"},
    ]
    rows = platform.usage()
    assert [(row["client"], row["tokens_in"], row["requests"]) for row in rows] == [
        ("globex", 60, 11),
        ("acme", 400, 1),
    ]


def test_a_statement_that_analytics_engine_refuses_is_refused(platform: Platform) -> None:
    """422, and why."""
    answer = platform.sql(f"SELECT COUNT(*) FROM {DATASET} JOIN other")

    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_a_point_has_the_fields_where_the_table_says() -> None:
    """The layout, slot by slot."""
    event = UsageEvent(
        kind="llm",
        user="acme",
        model="gpt-5-mini",
        input_tokens=1200,
        output_tokens=300,
        latency_ms=840.5,
        cost_usd=Decimal("0.0009"),
        attributes={"skill": "mail/answer", "agent": "agent-2"},
    )

    assert LAYOUT.point(event) == {
        "indexes": ["acme"],
        "blobs": ["acme", "mail/answer", "agent-2", "gpt-5-mini"],
        "doubles": [1200, 300, 840.5, 0.0009],
    }
    assert not LAYOUT.takes(UsageEvent(kind="request", user="acme"))


def test_it_runs_as_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of figures is what was sent."""
    monkeypatch.delenv("USAGEKIT_INGEST_URL", raising=False)

    with serving(tmp_path) as url:
        line = visit(url)

    assert line == "acme 3 calls $0.000730000, globex 1 calls $0.000065000; SQL says acme $0.00073 is first"


# A statement of a public page, unchanged, where it is at hand: USAGEKIT_SEEDS is the folder with such texts.

if SEEDS:

    def test_the_statement_of_the_public_text_runs_unchanged(platform: Platform) -> None:
        """It gives what the listing gives, in the same order."""
        text = next(Path(SEEDS).glob("000*")).read_text(encoding="utf-8")
        (statement,) = re.findall(r"^\s*(SELECT\n.*?)(?=`)", text, re.DOTALL | re.MULTILINE)
        platform.run(ACME, "mail/answer", input_tokens=400, output_tokens=200)
        platform.run(GLOBEX, "mail/answer", model="house-model", input_tokens=1000, output_tokens=100)
        platform.run(GLOBEX, "mail/answer", input_tokens=8, output_tokens=0)

        answer = platform.sql(statement).json()

        listed = [
            (row["client"], row["tokens_in"], row["tokens_out"], float(row["cost_usd"]), str(row["requests"]))
            for row in platform.usage()
        ]
        assert [tuple(row.values()) for row in answer["data"]] == listed
        assert [row[0] for row in listed] == ["globex", "acme"]
