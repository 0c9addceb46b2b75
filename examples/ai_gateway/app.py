"""A gateway in front of several model providers that knows who used it how much: Flask, two providers' SDKs."""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING, Any

import anthropic
import openai
from flask import Flask, Response, jsonify, request

import usagekit.flask
from usagekit import QueryError, bind, track_tokens, usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from usagekit import Recorder

MOST_DAYS = 365
COUNTS = {"requests": "events", "successful": "succeeded"}


def create_app(
    recorder: Recorder, *, api_key: str, openai_clients: Mapping[str, openai.OpenAI], claude: anthropic.Anthropic
) -> Flask:
    """Make the gateway.

    Args:
        recorder: where every call is counted; it declares the dimension `project`.
        api_key: what callers of the gateway send as their bearer token.
        openai_clients: by provider's name, clients of those that speak OpenAI's format. A model `"groq/llama-3.3-70b"`
            goes to `"groq"`, one without a slash to `"openai"`.
        claude: the client for Anthropic's format.
    """
    app = Flask(__name__)
    usagekit.flask.init_app(app, recorder)

    @app.before_request
    def authorise() -> tuple[Response, int, dict[str, str]] | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), api_key.encode()):
            bind(project=request.headers.get("x-project-id"), user=request.headers.get("x-user-id"))
            return None
        return jsonify(error="a valid gateway key is needed"), 401, {"WWW-Authenticate": "Bearer"}

    @app.post("/v1/chat/completions")
    def chat() -> Response:
        body = request.get_json()
        provider, _, model = body.get("model", "").rpartition("/")
        client = openai_clients.get(provider or "openai")
        if client is None:
            known = ", ".join(openai_clients)
            return _refused(f"no provider {provider!r}; use <provider>/<model> with one of {known}")
        call = track_tokens(provider=provider or "openai", model=model)(client.chat.completions.create)
        return _relayed(lambda: call(**body | {"model": model}), _openai_lines)

    @app.post("/v1/messages")
    def messages() -> Response:
        body = request.get_json()
        call = track_tokens(provider="anthropic", model=body.get("model"))(claude.messages.create)
        return _relayed(lambda: call(**body), _anthropic_lines)

    @app.get("/v1/analytics")
    def analytics() -> Response:
        days = request.args.get("days")
        if days is not None and not (re.fullmatch("[0-9]{1,3}", days) and 1 <= int(days) <= MOST_DAYS):
            return _refused(
                f"days={days!r} is not possible; give a whole number from 1 to {MOST_DAYS}, or leave it out"
            )
        where: dict[str, Any] = {"kind": "llm"}
        if "project_id" in request.args:
            where["project"] = request.args["project_id"]
        try:
            return jsonify(_figures(recorder, where, None if days is None else int(days)))
        except QueryError as error:
            return _refused(str(error))

    return app


def _figures(recorder: Recorder, where: dict[str, Any], days: int | None) -> dict[str, Any]:
    def ask(*by: str) -> Any:
        return usage(recorder, by=by, measures=["events", "succeeded"], where=where, days=days)

    def by(dimension: str) -> dict[str, dict[str, int]]:
        # What failed is the rest: a provider that could not be reached gave no status to count.
        return {
            row[dimension]: {name: row[measure] for name, measure in COUNTS.items()}
            | {"failed": row["events"] - row["succeeded"]}
            for row in ask(dimension).rows
        }

    totals = ask().totals
    total, successful = totals["events"], totals["succeeded"]
    return {
        "total_requests": total,
        "successful_requests": successful,
        "failed_requests": total - successful,
        "success_rate": successful / total if total else None,
        "providers": by("provider"),
        "models": by("model"),
        "projects": by("project"),
        "days": by("day"),
    }


def _relayed(call: Callable[[], Any], lines: Callable[[Any], Iterator[str]]) -> Response:
    """Give the provider's answer, or its refusal, to the gateway's caller."""
    try:
        answer = call()
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        return Response(error.response.content, error.status_code, content_type="application/json")
    except (openai.APIConnectionError, anthropic.APIConnectionError):
        return _refused("the provider cannot be reached", 502)
    except TypeError as error:
        return _refused(f"the provider's SDK does not take this body: {error}")
    if hasattr(answer, "model_dump_json"):
        return Response(answer.model_dump_json(), content_type="application/json")
    return Response(lines(answer), content_type="text/event-stream")


def _openai_lines(stream: Any) -> Iterator[str]:
    with stream:
        for chunk in stream:
            yield f"data: {chunk.model_dump_json()}\n\n"
    yield "data: [DONE]\n\n"


def _anthropic_lines(stream: Any) -> Iterator[str]:
    with stream:
        for event in stream:
            yield f"event: {event.type}\ndata: {event.model_dump_json()}\n\n"


def _refused(reason: str, status: int = 400) -> Response:
    response = jsonify(error=reason)
    response.status_code = status
    return response
