"""An image CDN that shows owners how their images are used, and knows nothing of who looked at them: FastAPI."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping  # noqa: TC003  a dataclass that FastAPI looks into
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response

from examples.image_cdn.analytics import Analytics, Span, span_of
from usagekit import Recorder, bind
from usagekit.asgi import UsageMiddleware
from usagekit.backends.analytics_engine.backend import AnalyticsEngineBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.processors import hash_users

if TYPE_CHECKING:
    from pathlib import Path

DATASET = "image_cdn"
RETENTION_DAYS = 90
DIMENSIONS = ("country", "image", "variant")  # by name: `usagekit backfill` finds them in this order
PREFIX = "/i/"

_COUNTRY = re.compile("[A-Z][A-Z0-9]")  # ISO 3166, and Cloudflare's T1 for Tor


@dataclass(frozen=True)
class Image:
    """What an owner uploaded: a file for each variant; one that is private is shown to nobody here."""

    owner: str
    variants: Mapping[str, bytes]
    is_private: bool = False


@dataclass(frozen=True)
class Cdn:
    """What the handlers need.

    Attributes:
        backend: the ledger.
        recorder: of `make_recorder`, over the same ledger.
        images: by id.
        owners: the id of each owner, by the key that they read their analytics with.
        secret: what owners' ids are hashed with.
    """

    backend: SQLiteBackend
    recorder: Recorder
    images: Mapping[str, Image]
    owners: Mapping[str, str]
    secret: str


def make_recorder(backend: SQLiteBackend, secret: str) -> Recorder:
    """Make what counts, under hashed owners: a ledger, and Analytics Engine where the environment says how.

    With `USAGEKIT_REALTIME=0` it records nothing, and can still be asked.
    """
    backends: list[Any] = [backend]
    if "USAGEKIT_INGEST_URL" in os.environ:
        backends.append(AnalyticsEngineBackend(dataset=DATASET))
    return Recorder(*backends, dimensions=DIMENSIONS, processors=[hash_users(secret)])


def make_cdn(path: Path, images: Mapping[str, Image], owners: Mapping[str, str], secret: str) -> Cdn:
    """Put the parts together; the recorder is the caller's to close.

    Requests are kept for `USAGEKIT_RETENTION_DAYS`, or 90; what they add up to is kept for good.
    """
    days = int(os.environ.get("USAGEKIT_RETENTION_DAYS", RETENTION_DAYS))
    backend = SQLiteBackend(path, retention_days=days)
    return Cdn(backend, make_recorder(backend, secret), images, owners, secret)


def cdn_of(request: Request) -> Cdn:
    """Give what `create_app` was given."""
    cdn: Cdn = request.app.state.cdn
    return cdn


Here = Annotated[Cdn, Depends(cdn_of)]


def owner_of(cdn: Here, authorization: Annotated[str, Header()] = "") -> str:
    """Give the owner whose key a request has."""
    for key, owner in cdn.owners.items():
        if secrets.compare_digest(authorization.encode(), f"Bearer {key}".encode()):
            return owner
    raise HTTPException(401, "an owner's key is needed", {"WWW-Authenticate": "Bearer"})


Owner = Annotated[str, Depends(owner_of)]


def analytics_of(cdn: Here, owner: Owner) -> Analytics:
    """Give an owner's own figures: those of direct recording, or, where that is off, of the batch."""
    user = hash_users(cdn.secret).hashed(owner)
    return Analytics(cdn.backend, cdn.recorder, user, "direct" if cdn.recorder.active else "backfill")


Own = Annotated[Analytics, Depends(analytics_of)]
Range = Annotated[Span, Depends(span_of)]

public = APIRouter()
private = APIRouter(prefix="/v1/analytics")


@public.get(PREFIX + "{image_id}/{variant}")
def serve_image(
    image_id: str, variant: str, cdn: Here, country: Annotated[str, Header(alias="cf-ipcountry")] = ""
) -> Response:
    """Give an image; the request counts for its owner. Of who asks, only the country is kept."""
    bind(country=country if _COUNTRY.fullmatch(country) else None)
    image = cdn.images.get(image_id)
    if image is None:
        raise HTTPException(404, "no such image")
    known = variant if variant in image.variants else None
    bind(user=image.owner, image=image_id, variant=known)
    if image.is_private:
        raise HTTPException(403, "this image is private")
    if known is None:
        raise HTTPException(404, f"no such variant; there are {', '.join(image.variants)}")
    return Response(image.variants[variant], media_type="image/webp")


@private.get("/overview")
def read_overview(own: Own, span: Range) -> dict[str, Any]:
    """Give an owner's totals, most used images, countries, statuses and days."""
    return own.overview(span)


@private.get("/images/{image_id}")
def read_image(image_id: str, cdn: Here, owner: Owner, own: Own, span: Range) -> dict[str, Any]:
    """Give the figures of one image by variant, country and day; 404 where it is not the owner's."""
    image = cdn.images.get(image_id)
    if image is None or image.owner != owner:
        raise HTTPException(404, "you have no such image")
    return own.image(image_id, span)


@private.get("/daily")
def read_daily(own: Own, span: Range) -> list[dict[str, Any]]:
    """Give a row for each day, image, variant and country."""
    return own.daily(span)


@private.get("/monthly")
def read_monthly(own: Own) -> list[dict[str, Any]]:
    """Give a row for each month."""
    return own.monthly()


@private.get("/meta")
def read_meta(own: Own) -> list[dict[str, str]]:
    """Tell how far the batch has come."""
    return own.meta()


def create_app(cdn: Cdn) -> FastAPI:
    """Make the app."""
    app = FastAPI(title="Image CDN")
    app.state.cdn = cdn
    app.add_middleware(
        UsageMiddleware, recorder=cdn.recorder, event="image", exclude=lambda path: not path.startswith(PREFIX)
    )
    app.include_router(public)
    app.include_router(private)
    return app
