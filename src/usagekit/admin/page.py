"""The page: what its template is given, and the pages that say what went wrong."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from usagekit.admin.api import status_of_source
from usagekit.admin.breakdowns import breakdowns
from usagekit.admin.chart import HEIGHT
from usagekit.admin.overview import cards, chart_of
from usagekit.admin.questions import Questions, parameters
from usagekit.admin.reading import Link, Reading
from usagekit.admin.response import HTML, PHRASES, Response, respond, style
from usagekit.admin.state import MEASURES_SHOWN, PERIODS, State
from usagekit.admin.table import table
from usagekit.admin.wording import counted, value_name
from usagekit.errors import MissingDependencyError, StorageError
from usagekit.query import DIMENSIONS
from usagekit.query.periods import time_zone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jinja2 import Environment

    from usagekit.admin.site import Request, Site

__all__ = ["environment", "error_page", "page"]

_ZONES = (
    "UTC Africa/Cairo Africa/Johannesburg Africa/Lagos America/Chicago America/Denver America/Los_Angeles "
    "America/Mexico_City America/New_York America/Sao_Paulo America/Toronto Asia/Dubai Asia/Jakarta Asia/Kolkata "
    "Asia/Manila Asia/Seoul Asia/Shanghai Asia/Singapore Asia/Tokyo Australia/Sydney Europe/Amsterdam Europe/Berlin "
    "Europe/Istanbul Europe/Kyiv Europe/London Europe/Madrid Europe/Paris Europe/Rome Europe/Stockholm Europe/Warsaw "
    "Pacific/Auckland"
).split()
_REFRESH_SECONDS = "60"


class Health(NamedTuple):
    """How the recorder does, in words."""

    is_well: bool
    parts: list[str]


@cache
def environment() -> Environment:
    """Give Jinja's environment; raises `MissingDependencyError`."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError("the page needs Jinja: pip install 'usagekit[admin]'") from error
    made = Environment(
        loader=PackageLoader("usagekit.admin"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(style=style(), height=HEIGHT, counted=counted)
    return made


def page(site: Site, request: Request, where: Mapping[str, object] | None) -> Response:
    """Answer `GET /`."""
    dimensions = site.dimensions
    state = State.parsed(parameters(request.query), dimensions)
    questions = Questions(
        source=site.source,
        dimensions=dimensions,
        scope=where,
        where=state.where,
        options=state.options,
        tz=state.tz,
    )

    def names_of(dimension: str, ids: Iterable[str]) -> Mapping[str, str]:
        return _names(site, dimension, [value for value in ids if value])

    reading = Reading(questions, state, names_of)
    # In this order: what comes last is the first to have no time left.
    parts: dict[str, Any] = {
        "table": table(reading),
        "breakdowns": breakdowns(reading, dimensions),
        "cards": cards(reading),
        "chart": chart_of(reading),
    }
    text = (
        environment()
        .get_template("page.html")
        .render(
            **parts,
            reading=reading,
            state=state,
            title=_title(state),
            periods=PERIODS,
            zones=_ZONES,
            filters=_filters(state, names_of),
            filterable=[*DIMENSIONS, *dimensions],
            tables=["user", "org", "route", "model", "provider", "event", "status", *dimensions, reading.bucket],
            chart_csv=state.api((reading.bucket, "event"), MEASURES_SHOWN),
            health=None if where is not None else _health(site),
            is_scoped=where is not None,
            now=questions.now.astimezone(time_zone(state.tz)),
            refresh_seconds=_REFRESH_SECONDS,
        )
    )
    return respond(200, HTML, text)


def error_page(status: int, detail: str, *, is_home: bool) -> str:
    """Give a page that says what was wrong; `is_home` where it stands at the page's own address."""
    return (
        environment()
        .get_template("error.html")
        .render(status=status, phrase=PHRASES[status], detail=detail, home="?" if is_home and status == 400 else "")
    )


def _title(state: State) -> str:
    period = state.range.get("period")
    if period is not None:
        return f"last {PERIODS.get(period, period)}"
    if "days" in state.range:
        return f"last {state.range['days']} days"
    first, last = state.days_from_to
    return " to ".join(part for part in (first or "the beginning", last or "now"))


def _filters(state: State, names_of: Any) -> list[tuple[str, Link]]:
    filters = []
    for dimension, values in state.where.items():
        names = names_of(dimension, values)
        text = ", ".join(str(names.get(value) or value_name(dimension, value)) for value in values)
        filters.append((dimension.replace("_", " "), Link(text[:300], state.widened(dimension), ", ".join(values))))
    return filters


def _names(site: Site, dimension: str, ids: list[str]) -> Mapping[str, str]:
    """Give the names that the app has for ids; none where it fails."""
    names = site.names.get(dimension)
    if names is None or not ids:
        return {}
    try:
        return dict(names(ids))
    except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
        site.guard.noted("names", type(error).__name__)
        return {}


def _health(site: Site) -> Health | None:
    try:
        told = status_of_source(site)
    except StorageError:
        return Health(is_well=False, parts=["the ledger cannot be read"])
    if not told:
        return None
    rejected, errors = sum(told.get("rejected", {}).values()), sum(told.get("errors", {}).values())
    waiting, dead = told["waiting"]["bytes"], told["dead_letters"]
    parts = [f"{counted(told['durable'], 'event')} durable"]
    if waiting:
        parts.append(f"{counted(waiting, 'byte')} to be imported")
    parts.append(f"{counted(rejected, 'event')} rejected" if rejected else "none rejected")
    if dead:
        parts.append(counted(dead, "dead letter"))
    if told["corrupt"]:
        parts.append(f"{counted(told['corrupt'], 'record')} unreadable")
    if errors:
        parts.append(f"{counted(errors, 'error')} in this process")
    for name, sink in told["sinks"].items():
        parts.append(f"{name}: {counted(sink['lag'], 'event')} behind" if sink["lag"] else f"{name}: up to date")
    if not told.get("active", True):
        parts.append("recording is switched off")
    return Health(is_well=not (rejected or dead or told["corrupt"] or errors), parts=parts)
