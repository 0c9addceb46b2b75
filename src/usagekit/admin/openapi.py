"""The description of the JSON answers, for tools that read OpenAPI 3.1."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any
from zoneinfo import available_timezones

from usagekit.admin.questions import RANGE_DAYS, ROWS, SECONDS, filter_parameter
from usagekit.query import DIMENSIONS, MEASURES
from usagekit.query.algebra import ORIGINS

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["description"]

_STATUS = {"type": "string", "pattern": "^[0-9]{1,3}$"}
_VALUES = {
    "status": _STATUS,
    "status_class": {"type": "string", "pattern": "^([0-9]xx|none)$"},
    "aborted": {"type": "string", "enum": ["true", "false"]},
}
_MONEY = {"type": ["string", "null"], "pattern": r"^-?\d+(\.\d+)?$", "description": "US dollars; null = not known"}
# No date-time: zones had offsets of odd seconds once, which RFC 3339 does not know.
_TIME = {"type": ["string", "null"], "description": "ISO 8601, in the zone that was asked for"}
_COUNT = {"type": "integer"}
_PERIOD = {
    "type": "object",
    "required": ["start", "end", "tz"],
    "properties": {"start": _TIME, "end": _TIME, "tz": {"type": "string"}},
}
_LEFT_OUT = {"type": "array", "items": {"type": "string"}, "description": "what the answer does not cover"}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": _COUNT,
        "detail": {"type": "string", "description": "what was given, why it cannot work, what is allowed"},
    },
}
_REPORT = {
    "type": "object",
    "required": ["rows", "totals", "groups", "exact", "source", "complete_from", "period", "left_out"],
    "properties": {
        "rows": {"type": "array", "items": {"type": "object"}},
        "totals": {"type": "object", "description": "over everything that matched, before `limit`"},
        "groups": {"type": "integer", "description": "how many rows there are without `limit`"},
        "exact": {"type": "boolean"},
        "source": {"type": "string"},
        "complete_from": _TIME,
        "period": _PERIOD,
        "left_out": _LEFT_OUT,
    },
}
_PARTS = {
    "events": _COUNT,
    "succeeded": _COUNT,
    "failed": _COUNT,
    "input_tokens": _COUNT,
    "output_tokens": _COUNT,
    "total_tokens": _COUNT,
    "cost_usd": _MONEY,
    "unpriced": _COUNT,
}
_BREAKDOWN = {"type": "array", "items": {"type": "object", "required": [*_PARTS], "properties": _PARTS}}
_SUMMED = {
    "total_requests": {**_COUNT, "description": "all events of every kind; `kinds` tells them apart"},
    "successful_requests": _COUNT,
    "failed_requests": _COUNT,
    "success_rate": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "active_users": _COUNT,
    "input_tokens": _COUNT,
    "output_tokens": _COUNT,
    "total_tokens": _COUNT,
    "cost_usd": _MONEY,
    "unpriced": _COUNT,
    **dict.fromkeys(("kinds", "events", "providers", "models"), _BREAKDOWN),
    "period": _PERIOD,
    "exact": {"type": "boolean"},
    "source": {"type": "string"},
    "complete_from": _TIME,
    "left_out": _LEFT_OUT,
}
_SUMMARY = {"type": "object", "required": [*_SUMMED], "properties": _SUMMED}


def description(dimensions: Iterable[str], mount: str, *, is_scoped: bool) -> dict[str, Any]:
    """Give the OpenAPI document.

    Args:
        dimensions: the app's own.
        mount: the path of the endpoint, as far as it is known here.
        is_scoped: health is not to be seen here.
    """
    dimensions = tuple(dimensions)
    usage = [*_range(), *_shape(dimensions), *_filters(dimensions)]
    csv = {"text/csv": {"schema": {"type": "string"}}}
    paths = {
        "/api/usage": _get("Who used what, how much, and at which cost", "usage", usage, _REPORT, csv),
        "/api/summary": _get("One sum over everything", "summary", [*_range(), *_filters(dimensions)], _SUMMARY, {}),
        "/api/health": _get("What the recorder says of itself", "health", [], {"type": "object"}, {}),
        "/openapi.json": _get("This document", "openapi", [], {"type": "object"}, {}),
    }
    if is_scoped:
        del paths["/api/health"]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "usagekit",
            "version": "1",
            "description": f"At most {RANGE_DAYS} days, {ROWS} rows and {SECONDS:g} s a request.",
        },
        "servers": [{"url": mount or "/"}, {"url": ".", "description": "behind a proxy that takes a prefix off"}],
        "security": [{"bearer": []}, {"basic": []}],
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic", "description": "the token as the password"},
            }
        },
        "paths": paths,
    }


def _get(
    about: str, name: str, given: list[dict[str, Any]], schema: dict[str, Any], more: dict[str, Any]
) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": _PROBLEM}}
    errors = {
        "400": "a parameter that cannot work",
        "401": "who asks is not known",
        "403": "who asks may not look",
        "422": f"the answer takes longer than {SECONDS:g} s",
        "503": "who may look could not be found out, or the ledger cannot be read",
    }
    answers = {"200": {"description": "the answer", "content": {"application/json": {"schema": schema}, **more}}}
    answers |= {status: {"description": text, "content": problem} for status, text in errors.items()}
    return {"get": {"summary": about, "operationId": name, "parameters": given, "responses": answers}}


def _parameter(name: str, about: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": about, "schema": schema, **more}


def _range() -> list[dict[str, Any]]:
    hours, days = "([1-9][0-9]{0,2}|[1-8][0-9]{3}|9[0-5][0-9]{2})h", "([1-9][0-9]?|[1-3][0-9]{2}|400)d"
    when = {"type": "string", "format": "date"}
    alone = "only one of period, days and start/end"
    return [
        _parameter("period", f"so long, until now; {alone}", {"type": "string", "pattern": f"^({hours}|{days})$"}),
        _parameter("days", f"calendar days of the zone, today included; {alone}", _between(1, RANGE_DAYS)),
        _parameter("start", f"inclusive: a date in the zone, or a time with an offset; {alone}", when),
        _parameter("end", f"exclusive, after start: likewise; {alone}", when),
        _parameter("tz", "IANA name of the zone", {"type": "string", "enum": _zones(), "default": "UTC"}),
        _parameter("origin", "recorded here, or brought in", {"type": "string", "enum": [*ORIGINS]}),
    ]


def _shape(dimensions: tuple[str, ...]) -> list[dict[str, Any]]:
    by = [*DIMENSIONS, "hour", "day", "week", "month", *dimensions]
    ordered = [sign + name for name in MEASURES for sign in ("", "-")]
    return [
        _parameter("by", "what to group by", _several(by), style="form", explode=False),
        _parameter(
            "measures", "what to count; all of them by default", _several([*MEASURES]) | {"minItems": 1}, explode=False
        ),
        _parameter(
            "order",
            "a measure, with - in front for descending; or a dimension of `by`",
            {"type": "string", "enum": ordered},
        ),
        _parameter("limit", "how many rows at most", _between(1, ROWS) | {"default": ROWS}),
        _parameter("format", "how to answer", {"type": "string", "enum": ["json", "csv"], "default": "json"}),
    ]


def _filters(dimensions: tuple[str, ...]) -> list[dict[str, Any]]:
    about = "keep only this value, or these; empty = unknown"
    return [
        _parameter(filter_parameter(name), about, {"type": "array", "items": _VALUES.get(name, {"type": "string"})})
        for name in (*DIMENSIONS, *dimensions)
    ]


def _several(names: list[str]) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string", "enum": names}}


def _between(least: int, most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


@cache
def _zones() -> list[str]:
    return sorted({"UTC", *(name for name in available_timezones() if not name.startswith(("right/", "posix/")))})
