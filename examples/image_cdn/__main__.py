"""Run the CDN for a moment, look at a few images, and ask as their owner who was interested. See README.md."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx2

from examples.image_cdn.app import Cdn, Image, create_app, make_cdn
from examples.running import asgi_served, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "a secret for this machine only"
OWNERS = {"key-of-ann": "ann@example.org", "key-of-bob": "bob@example.org"}
IMAGES = {
    "harbour": Image("ann@example.org", {"original": bytes(40_000), "w1024": bytes(9000), "thumb": bytes(700)}),
    "sketch": Image("ann@example.org", {"original": bytes(5000)}, is_private=True),
    "poster": Image("bob@example.org", {"original": bytes(12_000), "thumb": bytes(800)}),
}
VISITS = (
    ("harbour/original", "DE"),
    ("harbour/thumb", "DE"),
    ("harbour/thumb", "FR"),
    ("sketch/original", "FR"),
    ("poster/thumb", "US"),
)


@contextmanager
def serving(directory: Path, port: int = 0) -> Iterator[str]:
    """Serve the CDN, its ledger in `directory`."""
    cdn = made(directory / "usage.db")
    with cdn.recorder, asgi_served(create_app(cdn), port) as url:
        yield url


def made(path: Path) -> Cdn:
    """Make a CDN of two owners."""
    return make_cdn(path, IMAGES, OWNERS, SECRET)


def headers_of(name: str) -> dict[str, str]:
    """Give the header that brings an owner's key."""
    return {"authorization": f"Bearer key-of-{name}"}


def visit(url: str) -> str:
    """Look at images from several countries, and read an owner's overview."""
    with httpx2.Client(base_url=url) as client:
        for path, country in VISITS:
            client.get(f"/i/{path}", headers={"cf-ipcountry": country})
        overview = client.get("/v1/analytics/overview", params={"days": 7}, headers=headers_of("ann"))
        figures = overview.raise_for_status().json()
    images = ", ".join(f"{image['image_id']} {image['requests']}" for image in figures["top_images"])
    countries = ", ".join(f"{country['country']} {country['requests']}" for country in figures["countries"])
    return f"{figures['total_requests']} requests, {figures['total_bandwidth_bytes']:,} bytes; {images}; {countries}"


if __name__ == "__main__":
    run("image_cdn", serving, visit)
