"""An agent platform that knows what each client's agents cost: FastAPI, the openai SDK, and SQL on the ledger."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping  # noqa: TC003  a dataclass that FastAPI looks into
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import openai
from fastapi import APIRouter, Body, Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel

from usagekit import QueryError, Recorder, bind, track_tokens, usage
from usagekit.asgi import UsageMiddleware
from usagekit.backends.analytics_engine import Layout
from usagekit.backends.analytics_engine.backend import AnalyticsEngineBackend
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from pathlib import Path

DATASET = "2nth_token_usage"
LAYOUT = Layout(
    index="user",
    blobs=["user", "skill", "agent", "model"],
    doubles=["input_tokens", "output_tokens", "latency_ms", "cost_usd"],
    where={"kind": "llm"},
)
PRICES = {  # US dollars per million tokens
    "gpt-5-mini": {"input": "0.25", "output": "2"},
    "house-model": {"input": 3, "output": 15},
}
BY = {"client": "user", "skill": "skill", "agent": "agent", "model": "model"}
FIELDS = {
    "requests": "events",
    "failed": "failed",
    "tokens_in": "input_tokens",
    "tokens_out": "output_tokens",
    "latency_ms": "latency_ms_avg",
    "cost_usd": "cost_usd",
}


def make_recorder(path: Path) -> Recorder:
    """Make what counts: a ledger, and Cloudflare's Analytics Engine where the environment says how to reach it."""
    backends: list[Any] = [SQLiteBackend(path)]
    if "USAGEKIT_INGEST_URL" in os.environ:
        backends.append(AnalyticsEngineBackend(dataset=DATASET, layout=LAYOUT))
    return Recorder(*backends, dimensions=["skill", "agent"], prices=PRICES)


class Task(BaseModel):
    """What `POST /v1/skills/{skill}` takes."""

    agent: str
    model: str
    input: str


@dataclass(frozen=True)
class Platform:
    """What the handlers need.

    Attributes:
        recorder: of `make_recorder`.
        models: the client that every task is sent with.
        clients: the id of each client, by the key that its agents send.
        operator_key: what the platform's own people send.
    """

    recorder: Recorder
    models: openai.OpenAI
    clients: Mapping[str, str]
    operator_key: str


def platform_of(request: Request) -> Platform:
    """Give what `create_app` was given."""
    platform: Platform = request.app.state.platform
    return platform


Here = Annotated[Platform, Depends(platform_of)]
Bearer = Annotated[str, Header(alias="authorization")]


def client_of(platform: Here, authorization: Bearer = "") -> str:
    """Give the client whose key a request has."""
    for key, client in platform.clients.items():
        if _is_bearer(authorization, key):
            return client
    raise HTTPException(401, "a client's key is needed", {"WWW-Authenticate": "Bearer"})


def check_operator(platform: Here, authorization: Bearer = "") -> None:
    """Let only the platform's own people in."""
    if not _is_bearer(authorization, platform.operator_key):
        raise HTTPException(401, "the operator's key is needed", {"WWW-Authenticate": "Bearer"})


FOR_OPERATORS = [Depends(check_operator)]
router = APIRouter(prefix="/v1")


@router.post("/skills/{skill:path}")
def run_skill(
    skill: str, task: Task, platform: Here, client: Annotated[str, Depends(client_of)]
) -> dict[str, str | None]:
    """Do a task with a model; the call counts for the client, and tells which skill and agent it was for."""
    bind(user=client, skill=skill, agent=task.agent)
    ask = track_tokens(platform.models.chat.completions.create)
    try:
        answer = ask(model=task.model, messages=[{"role": "user", "content": task.input}])
    except openai.APIStatusError as error:
        raise HTTPException(502, f"the model's provider said: {error.message}") from error
    return {"output": answer.choices[0].message.content}


@router.get("/usage", dependencies=FOR_OPERATORS)
def read_usage(platform: Here, by: Literal["client", "skill", "agent", "model"] = "client") -> list[dict[str, Any]]:
    """Tell what the calls of the last seven days came to, the most expensive first."""
    report = usage(
        platform.recorder,
        by=BY[by],
        measures=list(FIELDS.values()),
        period="7d",
        where={"kind": "llm"},
        order="-cost_usd",
    )
    return [{by: row[BY[by]]} | {name: row[measure] for name, measure in FIELDS.items()} for row in report.rows]


@router.post("/sql", dependencies=FOR_OPERATORS)
def ask_in_sql(platform: Here, statement: Annotated[str, Body(media_type="text/plain")]) -> dict[str, Any]:
    """Answer a statement as Analytics Engine would."""
    try:
        return platform.recorder.sql(statement, datasets={DATASET: LAYOUT})
    except QueryError as error:
        raise HTTPException(422, str(error)) from error


def create_app(platform: Platform) -> FastAPI:
    """Make the app."""
    app = FastAPI(title="Agent platform")
    app.state.platform = platform
    app.add_middleware(UsageMiddleware, recorder=platform.recorder)
    app.include_router(router)
    return app


def _is_bearer(authorization: str, key: str) -> bool:
    return secrets.compare_digest(authorization.encode(), f"Bearer {key}".encode())
