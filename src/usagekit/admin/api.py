"""The JSON and CSV answers: the whole algebra, a summary, the recorder's health, and their description."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from usagekit.admin.questions import API, RANGE, ROWS, Questions, filters_of, parameters
from usagekit.admin.response import CSV, JSON, Response, problem, respond
from usagekit.errors import QueryError
from usagekit.query.periods import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usagekit.admin.site import Request, Site

__all__ = ["health", "openapi", "status_of_source", "summary", "usage_report"]

_SUMMARY = (*RANGE, "tz", "origin")
_COUNTED = ("events", "succeeded", "failed", "input_tokens", "output_tokens", "total_tokens", "cost_usd", "unpriced")
_BREAKDOWNS = {"kinds": "kind", "events": "event", "providers": "provider", "models": "model"}


def usage_report(site: Site, request: Request, where: Mapping[str, object] | None) -> Response:
    """Answer `GET api/usage`."""
    questions, options = _questions(site, request, where, API)
    kind = options.get("format", "json")
    if kind not in {"json", "csv"}:
        raise QueryError(f"unknown format {shown(kind)}; use json or csv")
    measures = _names(options, "measures")
    if measures == []:
        raise QueryError("measures is empty; name some, or leave it out for all of them")
    report = questions.ask(
        _names(options, "by") or (),
        measures,
        order=options.get("order"),
        limit=_limit(options.get("limit", str(ROWS))),
    )
    beyond = report.groups - len(report.rows)
    if beyond:
        questions.left_out.append(f"{beyond} of {report.groups} rows, beyond limit={report.query.limit}")
    left_out = [("Usagekit-Left-Out", "; ".join(questions.left_out))] if questions.left_out else []
    if kind == "csv":
        name = [("Content-Disposition", 'attachment; filename="usage.csv"')]
        return respond(200, f"{CSV}; charset=utf-8; header=present", report.to_csv(), name + left_out)
    return respond(200, JSON, json.dumps(json.loads(report.to_json()) | {"left_out": questions.left_out}), left_out)


def summary(site: Site, request: Request, where: Mapping[str, object] | None) -> Response:
    """Answer `GET api/summary`: one sum over everything, and how it divides."""
    questions, _ = _questions(site, request, where, _SUMMARY)
    report = questions.ask(_BREAKDOWNS.values(), _COUNTED)
    users = questions.ask((), ["users", "success_rate"])
    totals = report.totals
    told = {
        "period": {"start": questions.start, "end": questions.end or questions.now, "tz": questions.tz},
        "total_requests": totals["events"],
        "successful_requests": totals["succeeded"],
        "failed_requests": totals["failed"],
        "success_rate": users.totals["success_rate"],
        "active_users": users.totals["users"],
        **{name: totals[name] for name in _COUNTED[3:]},
        **{title: _divided(report.rows, name) for title, name in _BREAKDOWNS.items()},
        "exact": report.exact and users.exact,
        "source": report.source,
        "complete_from": report.complete_from,
        "left_out": questions.left_out,
    }
    zone = report.query.zone

    def shown_as(value: Any) -> str:
        return format(value, "f") if isinstance(value, Decimal) else str(value.astimezone(zone).isoformat())

    return respond(200, JSON, json.dumps(told, default=shown_as))


def health(site: Site, request: Request, where: Mapping[str, object] | None) -> Response:
    """Answer `GET api/health`: the recorder's status; nothing for who may see only a part."""
    if where is not None:
        return problem(403, "you may not look at this")
    for name, _ in parameters(request.query):
        raise QueryError(f"unknown parameter {name[:80]!r}; there are none here")
    return respond(200, JSON, json.dumps(status_of_source(site)))


def status_of_source(site: Site) -> dict[str, Any]:
    """Give the recorder's status, or what the ledger of a plain reader says of itself; empty where nobody knows."""
    source = site.source
    if hasattr(source, "status"):
        told: dict[str, Any] = source.status()
        return told
    if hasattr(source, "ledger_path"):
        from usagekit._store.engine import status_of

        return status_of(source.ledger_path, ())
    return {}


def openapi(site: Site, request: Request, _where: Mapping[str, object] | None) -> Response:
    """Answer `GET openapi.json`."""
    from usagekit.admin.openapi import description

    mount = request.view.path.removesuffix(request.path)
    return respond(200, JSON, json.dumps(description(site.dimensions, mount, is_scoped=site.is_scoped)))


def _questions(
    site: Site, request: Request, where: Mapping[str, object] | None, reserved: tuple[str, ...]
) -> tuple[Questions, dict[str, str]]:
    dimensions = site.dimensions
    options, filters = filters_of(parameters(request.query), reserved, dimensions)
    questions = Questions(
        source=site.source,
        dimensions=dimensions,
        scope=where,
        where=filters,
        options=range_of(options),
        tz=options.get("tz", "UTC"),
        origin=options.get("origin", "direct"),
    )
    return questions, options


def range_of(options: Mapping[str, str]) -> dict[str, Any]:
    """Give the options of a range as `UsageQuery.build` takes them; raises `QueryError`."""
    given: dict[str, Any] = {name: options[name] for name in RANGE if name in options}
    if "days" in given:
        given["days"] = _whole("days", given["days"])
    return given


def _limit(text: str) -> int:
    limit = _whole("limit", text)
    if not 1 <= limit <= ROWS:
        raise QueryError(f"bad limit {limit}; use 1 to {ROWS}")
    return limit


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise QueryError(f"bad {name} {shown(text)}; use a whole number")
    return int(text)


def _names(options: Mapping[str, str], name: str) -> list[str] | None:
    given = options.get(name)
    return None if given is None else [part for part in (part.strip() for part in given.split(",")) if part]


def _divided(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Give the sums for each value of a dimension, most events first; what no model call has is left away."""
    sums: dict[str, dict[str, Any]] = {}
    for row in rows:
        if name in {"provider", "model"} and not row[name] and row["kind"] != "llm":
            continue
        entry = sums.setdefault(row[name], {name: row[name]} | dict.fromkeys(_COUNTED))
        for measure in _COUNTED:
            if row[measure] is not None:
                entry[measure] = row[measure] + (entry[measure] or 0)
    return sorted(sums.values(), key=lambda entry: (-entry["events"], entry[name]))
